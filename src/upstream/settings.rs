//! One `[[upstream]]` of the configuration: read, given its defaults and validated here, and used as it is.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{identity::Identity, proxy::Proxies};
use crate::setting::Size;

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
    /// As whom it may be asked besides anonymously.
    #[serde(default)]
    pub accounts: Vec<Account>,
    /// Hosts, with or without port, whose token realms are trusted besides those of the upstream's own domain.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Never uses IPv6: Docker Hub's abuse limit groups IPv6 by /64, so neighbours count.
    #[serde(default)]
    pub ipv4_only: bool,
    /// The way out: a proxy's URL (http, https, socks5, socks5h; with `user:password@`), `none`, or as the environment says when empty.
    #[serde(default)]
    pub proxy: String,
    /// TCP and TLS together.
    #[serde(default = "connect_timeout", with = "duration")]
    pub connect_timeout: Duration,
    /// From the request to the response headers.
    #[serde(default = "answer_timeout", with = "duration")]
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body. There is no timeout for the whole body.
    #[serde(default = "answer_timeout", with = "duration")]
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
}

/// A user of a registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Sent to the registry, and shown in the ledger.
    pub username: Arc<str>,
    /// A file that holds the password or access token. Ends of lines at its end are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The password itself, for callers that have it; the configuration names a file.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// A secret that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A setting that no upstream can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Within the upstream's table, such as `accounts[0].username`.
    pub key: String,
    /// As it stands there; `None` when it must not be printed.
    pub value: Option<String>,
    /// What is wrong, and what to write instead.
    pub fix: String,
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
            accounts: Vec::new(),
            token_hosts: Vec::new(),
            ipv4_only: false,
            proxy: String::new(),
            connect_timeout: connect_timeout(),
            first_byte_timeout: answer_timeout(),
            idle_timeout: answer_timeout(),
            least_rate: least_rate(),
            concurrency: concurrency(),
            queue: queue(),
            ca_file: None,
        }
    }

    /// Everything that the types cannot say. Reads no file.
    pub fn check(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        let mut wrong = |key: &str, value: &dyn fmt::Debug, fix: &str| invalid.push(Invalid::new(key, value, fix));
        if !is_registry(&self.name) {
            let fix = r#"write a registry as it stands in image names, in lower case, with a dot or a port, such as "ghcr.io""#;
            wrong("name", &self.name, fix);
        }
        for host in &self.token_hosts {
            let url = Url::parse(&format!("https://{host}/"));
            if url.map_or(true, |url| url.path() != "/" || !url.username().is_empty()) {
                wrong("token_hosts", host, r#"write host names, such as "auth.docker.io""#);
            }
        }
        if let Err(fix) = Proxies::new(&self.proxy, |_| None) {
            // It may hold a password.
            invalid.push(Invalid { key: "proxy".to_owned(), value: None, fix: fix.to_owned() });
        }
        let mut wrong = |key: &str, value: &dyn fmt::Debug, fix: &str| invalid.push(Invalid::new(key, value, fix));
        for (number, account) in self.accounts.iter().enumerate() {
            let key = |name: &str| format!("accounts[{number}].{name}");
            if account.username.is_empty() || account.username.contains(':') {
                wrong(&key("username"), &account.username, "write a user name without a colon");
            }
            if &*account.username == Identity::ANONYMOUS {
                wrong(&key("username"), &account.username, "this name means no account; write another one");
            }
            if self.accounts[..number].iter().any(|other| other.username == account.username) {
                wrong(&key("username"), &account.username, "another account has this name; write each once");
            }
            if account.password_file.is_none() && account.password.is_none() {
                wrong(&key("password_file"), &"", "it is missing; name the file that holds the password");
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
            wrong("concurrency", &0, "nothing would ever be asked; write 1 or more");
        }
        invalid
    }

    /// Whether every file that is named can be read. Blocks for the read of a few small files.
    pub fn check_files(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        if let Some(file) = &self.ca_file
            && let Err(error) = certificate_in(file)
        {
            invalid.push(Invalid::new("ca_file", file, &format!("{error}; name a readable PEM file")));
        }
        for (number, account) in self.accounts.iter().enumerate() {
            if let (Some(file), Err(fix)) = (&account.password_file, account.read_password()) {
                invalid.push(Invalid::new(&format!("accounts[{number}].password_file"), file, &fix));
            }
        }
        invalid
    }
}

/// Whether a file holds a certificate.
fn certificate_in(file: &Path) -> Result<(), String> {
    match CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?.next() {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it holds no certificate".to_owned()),
    }
}

impl Invalid {
    fn new(key: &str, value: &dyn fmt::Debug, fix: &str) -> Invalid {
        Invalid { key: key.to_owned(), value: Some(format!("{value:?}")), fix: fix.to_owned() }
    }
}

impl Account {
    /// An account whose password is known, as tests have it.
    pub fn with_password(username: &str, password: &str) -> Account {
        Account { username: username.into(), password_file: None, password: Some(Secret(password.into())) }
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

/// A duration with its unit, such as `"15s"`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fix = r#"not a span of time; write a number and a unit, such as "30s" or "5m""#;
        humantime::parse_duration(&text).map_err(|_| D::Error::custom(fix))
    }
}
