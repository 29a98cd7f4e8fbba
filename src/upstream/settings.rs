//! `[[upstream]]` of the configuration: read, given its defaults and validated here, and used as it is.

use std::{
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{identity::Identity, proxy::Proxies, tls::Certificates};
use crate::{
    oci::{Name, matches},
    setting::{ConfigError, Size, as_span},
};

/// One registry that is mirrored. Every duration and bound stands in deploy.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What `ns=` and the path prefix say, such as `docker.io`.
    pub name: Arc<str>,
    /// Where it is, such as `https://registry-1.docker.io`; may have a path, below which `/v2/` is.
    #[serde(with = "address")]
    pub url: Url,
    /// The same registry at other URLs, tried in order when the one before cannot be reached or answers 5xx.
    #[serde(default, with = "addresses")]
    pub urls: Vec<Url>,
    /// Serves names without a registry. At most one upstream does.
    #[serde(default)]
    pub default: bool,
    /// Patterns of the repositories that are mirrored, as upstream names them; nothing is asked of it for any other.
    #[serde(default = "all")]
    pub allow: Vec<String>,
    /// Patterns of those among them that are not mirrored all the same.
    #[serde(default)]
    pub deny: Vec<String>,
    /// As whom it may be asked besides anonymously.
    #[serde(default)]
    pub accounts: Vec<Account>,
    /// Hosts, with or without port, whose token realms are trusted besides those of the upstream's own domain.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Never uses IPv6: Docker Hub's abuse limit groups IPv6 by /64, so neighbours count.
    #[serde(default)]
    pub ipv4_only: bool,
    /// Speaks HTTP/2 with an upstream that offers it by ALPN.
    #[serde(default)]
    pub http2: bool,
    /// The way out: a proxy's URL (http, https, socks5, socks5h; with `user:password@`), `none`, or, when empty, as `mirror.proxy`
    /// says, and the environment when that is empty, too.
    #[serde(default)]
    pub proxy: String,
    /// TCP and TLS together.
    #[serde(default = "connect_timeout", with = "as_span")]
    pub connect_timeout: Duration,
    /// From the request to the response headers.
    #[serde(default = "answer_timeout", with = "as_span")]
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body. There is no timeout for the whole body.
    #[serde(default = "answer_timeout", with = "as_span")]
    pub idle_timeout: Duration,
    /// Bytes a second, below which over `idle_timeout` a blob's body is given up and resumed elsewhere.
    #[serde(default = "least_rate")]
    pub least_rate: Size,
    /// Requests in flight at once to one host.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Requests that may wait for their turn, past which they fail as unavailable.
    #[serde(default = "queue")]
    pub queue: usize,
    /// More root certificates (PEM) for a private registry; the system's are always trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate chain (PEM) that Weir shows to a registry that asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// The key of `client_cert` (PEM), unless it stands in the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

/// A user of a registry. One of `password_file`, `command` and `provider` says where its credential is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Sent to the registry, unless a command or a provider names another user; shown in the ledger.
    pub username: Arc<str>,
    /// A file that holds the password or access token. Ends of lines at its end are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A program that speaks Docker's credential helper protocol, and its arguments: `["docker-credential-ecr-login", "get"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The cloud that this process runs in, which gives credentials to its machines and workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// What the file or the command gives is an identity token: tokens are asked with `grant_type=refresh_token` (distribution,
    /// spec/auth/oauth.md).
    #[serde(default)]
    pub identity_token: bool,
    /// Patterns of the repositories for which the account is used, as upstream names them.
    #[serde(default = "all")]
    pub repositories: Vec<String>,
    /// Patterns of the repositories whose content every client gets, though only this account may read it.
    #[serde(default)]
    pub shared: Vec<String>,
    /// The password itself, for callers that have it; the configuration names a file.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// A cloud whose registry takes what its metadata service gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Google Artifact Registry and Container Registry: the access token of the metadata server.
    Google,
    /// Azure Container Registry: workload identity or the instance metadata service, and the registry's `oauth2/exchange`.
    Azure,
    /// Amazon ECR: `GetAuthorizationToken`.
    Ecr,
    /// Amazon ECR Public: the same, which is only in us-east-1.
    EcrPublic,
}

/// What is known of an account's credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialState {
    /// Not used since the start, or since it changed.
    #[default]
    Unused,
    /// The registry or its token service accepted it.
    Accepted,
    /// It was refused.
    Refused,
    /// The file, the command or the cloud gave none.
    Unreadable,
}

impl CredentialState {
    /// All there are.
    pub const ALL: [CredentialState; 4] =
        [CredentialState::Unused, CredentialState::Accepted, CredentialState::Refused, CredentialState::Unreadable];

    /// As metrics and JSON name it.
    pub fn word(self) -> &'static str {
        match self {
            CredentialState::Unused => "unused",
            CredentialState::Accepted => "accepted",
            CredentialState::Refused => "refused",
            CredentialState::Unreadable => "unreadable",
        }
    }
}

/// A secret that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Weir has no tables of Unicode: DNS, TLS and the grammar of references have host names in ASCII alone.
const ASCII: &str = r#"write a host with letters beyond ASCII as DNS has it, beginning with xn--, such as "xn--bcher-kva.example" for "bücher.example""#;

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Account {
    /// An account whose password is known, as tests have it.
    pub fn with_password(username: &str, password: &str) -> Account {
        Account {
            username: username.into(),
            password_file: None,
            command: Vec::new(),
            provider: None,
            identity_token: false,
            repositories: all(),
            shared: Vec::new(),
            password: Some(Secret(password.into())),
        }
    }

    /// Whether the account is used for a repository.
    pub fn is_for(&self, repository: &Name) -> bool {
        is_among(&self.repositories, repository)
    }

    /// Whether every client gets what this account may read of a repository.
    pub fn is_shared(&self, repository: &Name) -> bool {
        is_among(&self.shared, repository)
    }

    /// Everything that the types cannot say, by key. `registry` is the name of its upstream.
    pub(super) fn check(&self, registry: &str, mut wrong: impl FnMut(&str, &dyn fmt::Debug, &str)) {
        if self.username.is_empty() || self.username.contains(':') {
            wrong("username", &self.username, "write a user name without a colon");
        }
        let file = self.password_file.is_some() || self.password.is_some();
        match [file, !self.command.is_empty(), self.provider.is_some()].into_iter().filter(|given| *given).count() {
            1 => {}
            0 => wrong(
                "password_file",
                &"",
                "it is missing; name the file that holds the password, or a command or a provider that gives it",
            ),
            _ => wrong(
                "password_file",
                &self.password_file,
                "write one of password_file, command and provider, not several",
            ),
        }
        if self.identity_token && self.provider.is_some() {
            wrong("identity_token", &true, "leave it out: a provider knows what it gives");
        }
        if self.repositories.is_empty() {
            wrong(
                "repositories",
                &self.repositories,
                r#"the account would never be used; write ["*"] or leave it out"#,
            );
        }
        for (key, patterns) in [("repositories", &self.repositories), ("shared", &self.shared)] {
            check_patterns(patterns, registry, |pattern, fix| wrong(key, pattern, fix));
        }
    }

    /// Whether what the account names can be used now. Blocks for the read of a small file.
    pub(super) fn check_files(&self, mut wrong: impl FnMut(&str, &dyn fmt::Debug, &str)) {
        if let (Some(file), Err(fix)) = (&self.password_file, self.read_password()) {
            wrong("password_file", file, &fix);
        }
        if let Some(program) = self.command.first().filter(|program| !may_run(program)) {
            wrong("command", program, "no such program may be executed; name one by its path, or one that is in PATH");
        }
    }

    /// The password, as it stands in its file now. Blocks for the read of a small file.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub(super) fn read_password(&self) -> Result<Secret, String> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let file = self.password_file.as_ref().ok_or("no password_file is named")?;
        let text = std::fs::read_to_string(file).map_err(|error| format!("{error}; name a readable file"))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err("the file is empty; write the password to it".to_owned()),
            password => Ok(Secret(password.into())),
        }
    }

    /// What an operator can do when the credential was refused.
    pub(super) fn remedy(&self) -> &'static str {
        match (&self.password_file, self.provider) {
            (_, Some(_)) => "give the role or identity of this machine or workload the right to pull",
            (None, None) if !self.command.is_empty() => "make its command give a credential that is good",
            _ => "put the right password into its password_file; it is tried at once",
        }
    }
}

/// What is wrong with patterns of repositories of this registry.
fn check_patterns(patterns: &[String], registry: &str, mut wrong: impl FnMut(&dyn fmt::Debug, &str)) {
    for pattern in patterns {
        if pattern.is_empty() || pattern.contains(char::is_whitespace) || pattern.starts_with('/') {
            wrong(pattern, r#"write a pattern of repositories, such as "acme/*""#);
        } else if pattern.strip_prefix(registry).is_some_and(|rest| rest.starts_with('/')) {
            wrong(pattern, "leave out the registry: write the name as the registry itself knows it");
        }
    }
}

fn is_among(patterns: &[String], repository: &Name) -> bool {
    patterns.iter().any(|pattern| matches(pattern, repository.as_str()))
}

/// Whether a program is a file that may be executed, by its path or in `PATH`.
fn may_run(program: &str) -> bool {
    let is_executable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| is_executable(&directory.join(program)))
}

fn connect_timeout() -> Duration {
    Duration::from_secs(5)
}

/// Less than the 30 s after which containerd gives up.
fn answer_timeout() -> Duration {
    Duration::from_secs(15)
}

/// Far below what any pull can use: less is a broken path, or a source that means harm.
fn least_rate() -> Size {
    Size(16 << 10)
}

fn concurrency() -> usize {
    32
}

fn queue() -> usize {
    1024
}

impl Settings {
    /// An upstream with the defaults of deploy.toml, which is not the default upstream.
    pub fn new(name: &str, url: Url) -> Settings {
        Settings {
            name: name.into(),
            url,
            urls: Vec::new(),
            default: false,
            allow: all(),
            deny: Vec::new(),
            accounts: Vec::new(),
            token_hosts: Vec::new(),
            ipv4_only: false,
            http2: false,
            proxy: String::new(),
            connect_timeout: connect_timeout(),
            first_byte_timeout: answer_timeout(),
            idle_timeout: answer_timeout(),
            least_rate: least_rate(),
            concurrency: concurrency(),
            queue: queue(),
            ca_file: None,
            client_cert: None,
            client_key: None,
        }
    }

    /// What is mirrored when nothing is configured: Docker Hub.
    pub fn defaults() -> Vec<Settings> {
        let url = Url::parse("https://registry-1.docker.io").ok();
        let hub = |url| Settings {
            default: true,
            token_hosts: vec!["auth.docker.io".to_owned()],
            ..Settings::new("docker.io", url)
        };
        url.map(hub).into_iter().collect()
    }

    /// Everything that the types cannot say, of all upstreams together. The keys begin with `upstream[N]`. Reads no file.
    pub fn validate(upstreams: &[Settings]) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, upstream) in upstreams.iter().enumerate() {
            upstream.check(&format!("upstream[{number}]"), &upstreams[..number], &mut errors);
        }
        errors
    }

    /// What is wrong with this one, which stands at `table` behind `others`.
    fn check(&self, table: &str, others: &[Settings], errors: &mut Vec<ConfigError>) {
        let mut wrong = |key: &str, value: &dyn fmt::Debug, fix: &str| {
            errors.push(ConfigError::new(format!("{table}.{key}"), value, fix));
        };
        if others.iter().any(|other| other.name == self.name) {
            wrong("name", &self.name, "another upstream has this name; one name, one upstream");
        }
        if self.default && others.iter().any(|other| other.default) {
            let fix = "another upstream is the default already; only one serves names without a registry";
            wrong("default", &true, fix);
        }
        if !self.name.is_ascii() {
            wrong("name", &self.name, ASCII);
        } else if !is_registry(&self.name) {
            let fix = r#"write a registry as it stands in image names, in lower case, with a dot or a port, such as "ghcr.io""#;
            wrong("name", &self.name, fix);
        }
        for host in &self.token_hosts {
            let url = Url::parse(&format!("https://{host}/"));
            if !host.is_ascii() {
                wrong("token_hosts", host, ASCII);
            } else if url.map_or(true, |url| url.path() != "/" || !url.username().is_empty()) {
                wrong("token_hosts", host, r#"write host names, such as "auth.docker.io""#);
            }
        }
        for (key, patterns) in [("allow", &self.allow), ("deny", &self.deny)] {
            check_patterns(patterns, &self.name, |pattern, fix| wrong(key, pattern, fix));
        }
        if self.allow.is_empty() {
            wrong("allow", &self.allow, r#"nothing would be mirrored; write ["*"] or leave it out"#);
        }
        for (number, account) in self.accounts.iter().enumerate() {
            let key = |name: &str| format!("accounts[{number}].{name}");
            account.check(&self.name, |name, value, fix| wrong(&key(name), value, fix));
            if &*account.username == Identity::ANONYMOUS {
                wrong(&key("username"), &account.username, "this name means no account; write another one");
            }
            if self.accounts[..number].iter().any(|other| other.username == account.username) {
                wrong(&key("username"), &account.username, "another account has this name; write each once");
            }
        }
        for (key, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if timeout.is_zero() {
                wrong(key, &"0s", r#"nothing would ever succeed; write "1s" or more"#);
            }
        }
        if self.concurrency == 0 {
            wrong("concurrency", &0, "no request would ever be sent; write 1 or more");
        }
        if let Some(key) = self.client_key.as_ref().filter(|_| self.client_cert.is_none()) {
            wrong("client_key", key, "name client_cert as well: the certificate that it is the key of");
        }
        if let Err(fix) = check_proxy(&self.proxy) {
            // It may hold a password.
            errors.push(ConfigError::without_value(format!("{table}.proxy"), fix));
        }
    }

    /// What the files of its certificates hold now. Blocks for the read of a few small files.
    ///
    /// # Errors
    /// The first of them that cannot be used, with its key in `table`.
    pub(super) fn certificates(&self, table: &str) -> Result<Certificates, ConfigError> {
        let keys = ["ca_file", "client_cert", "client_key"];
        let files = [&self.ca_file, &self.client_cert, &self.client_key].map(Option::as_deref);
        let wrong = |(number, error): (usize, String)| {
            let file = files[number].unwrap_or(Path::new(""));
            ConfigError::new(format!("{table}.{}", keys[number]), file, format!("{error}; name a readable PEM file"))
        };
        let mut text = [const { None }; 3];
        for (number, file) in files.iter().enumerate() {
            if let Some(file) = file {
                text[number] = Some(std::fs::read(file).map_err(|error| wrong((number, error.to_string())))?);
            }
        }
        Certificates::new(text).map_err(wrong)
    }

    /// What is wrong with the files that the upstreams name. Blocks for the read of a few small files.
    pub fn check_files(upstreams: &[Settings]) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, upstream) in upstreams.iter().enumerate() {
            let key = |name: &str| format!("upstream[{number}].{name}");
            errors.extend(upstream.certificates(&format!("upstream[{number}]")).err());
            for (account, user) in upstream.accounts.iter().enumerate() {
                user.check_files(|name, value, fix| {
                    errors.push(ConfigError::new(key(&format!("accounts[{account}].{name}")), value, fix));
                });
            }
        }
        errors
    }
}

/// Whether a text can be the value of `proxy`.
///
/// # Errors
/// What to write instead; holds no part of the text, which may hold a password.
pub fn check_proxy(proxy: &str) -> Result<(), &'static str> {
    Proxies::new(proxy, |_| None).map(|_| ())
}

/// Whether a name's first component would be taken for a registry: it holds `.` or `:`, or is `localhost`.
fn is_registry(name: &str) -> bool {
    let host = name.rsplit_once(':').map_or(name, |(host, port)| if port.parse::<u16>().is_ok() { host } else { "" });
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let looks = name.contains(['.', ':']) || name == "localhost";
    looks && !host.is_empty() && host.chars().all(plain) && !host.starts_with(['.', '-'])
}

/// A URL of http or https with a host and nothing secret in it.
mod address {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use url::Url;

    pub(super) fn serialize<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(url.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
        let text = String::deserialize(deserializer)?;
        let url = Url::parse(&text).ok().filter(|url| {
            let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.fragment().is_none()
        });
        let fix = r#"write http or https and a host, such as "https://ghcr.io"; credentials go into accounts"#;
        let fix = if Url::parse(&text).is_err() && !text.is_ascii() { super::ASCII } else { fix };
        url.ok_or_else(|| D::Error::custom(fix))
    }
}

/// A list of what [`address`] reads.
mod addresses {
    use serde::{Deserialize, Deserializer, Serializer};
    use url::Url;

    #[derive(Deserialize)]
    struct One(#[serde(with = "super::address")] Url);

    pub(super) fn serialize<S: Serializer>(urls: &[Url], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(urls.iter().map(Url::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Url>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(url)| url).collect())
    }
}

/// A small file that the environment names, such as a token that Kubernetes renews.
///
/// # Errors
/// Which file, and why it cannot be read.
pub(super) async fn text_of(path: &str) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}
