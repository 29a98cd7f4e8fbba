//! `[[upstream]]`: the registries that are mirrored, and as whom they are asked.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Mistake, values::Span};
use crate::upstream::{self, Secret};

/// One registry. What is not listed here is not found here, and opens no socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// What `ns=` and the path prefix say.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether it serves names without a registry. At most one does.
    #[serde(default)]
    pub default: bool,
    /// As whom it may be asked besides anonymously.
    #[serde(default)]
    pub accounts: Vec<UpstreamAccount>,
    /// Hosts that may be asked for a token besides the registry's own registrable domain.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// Whether to ask over IPv4 alone.
    #[serde(default)]
    pub ipv4_only: bool,
    /// TCP and TLS together.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Span,
    /// Until the response headers.
    #[serde(default = "first_byte_timeout")]
    pub first_byte_timeout: Span,
    /// Between two pieces of a body.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Span,
    /// Requests under way at once to one host.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// Requests that may wait for their turn.
    #[serde(default = "queue")]
    pub queue: usize,
    /// More root certificates, in a PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// An account of ours at an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamAccount {
    /// The user name.
    pub username: String,
    /// A file that holds the password or access token; read once, at start.
    pub password_file: PathBuf,
}

fn connect_timeout() -> Span {
    Span::seconds(5)
}
fn first_byte_timeout() -> Span {
    Span::seconds(15)
}
fn idle_timeout() -> Span {
    Span::seconds(15)
}
fn concurrency() -> usize {
    32
}
fn queue() -> usize {
    1024
}

impl Upstream {
    /// What is mirrored when no upstream is configured.
    pub fn docker_hub() -> Upstream {
        Upstream {
            name: "docker.io".to_owned(),
            url: "https://registry-1.docker.io".to_owned(),
            default: true,
            accounts: Vec::new(),
            token_hosts: vec!["auth.docker.io".to_owned()],
            ipv4_only: false,
            connect_timeout: connect_timeout(),
            first_byte_timeout: first_byte_timeout(),
            idle_timeout: idle_timeout(),
            concurrency: concurrency(),
            queue: queue(),
            ca_file: None,
        }
    }

    fn parsed_url(&self) -> Option<Url> {
        let url = Url::parse(&self.url).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let right = matches!(url.scheme(), "http" | "https") && url.has_host();
        (plain && right && url.fragment().is_none()).then_some(url)
    }

    /// The room's settings. Reads the password files.
    pub(super) fn settings(&self, number: usize, mistakes: &mut Vec<Mistake>) -> Option<upstream::Settings> {
        let before = mistakes.len();
        let accounts = self.accounts.iter().enumerate().filter_map(|(account, entry)| {
            let key = format!("upstream[{number}].accounts[{account}].password_file");
            match std::fs::read_to_string(&entry.password_file) {
                Ok(text) if !text.trim_end().is_empty() => Some(upstream::Account {
                    username: entry.username.as_str().into(),
                    password: Secret(text.trim_end_matches(['\r', '\n']).into()),
                }),
                Ok(_) => {
                    mistakes.push(Mistake::new(
                        key,
                        &entry.password_file,
                        "the file is empty; write the password to it",
                    ));
                    None
                }
                Err(error) => {
                    mistakes.push(Mistake::new(key, &entry.password_file, format!("{error}; name a readable file")));
                    None
                }
            }
        });
        let accounts = accounts.collect();
        let url = self.parsed_url()?;
        (mistakes.len() == before).then(|| upstream::Settings {
            name: self.name.as_str().into(),
            url,
            default: self.default,
            accounts,
            token_hosts: self.token_hosts.clone(),
            ipv4_only: self.ipv4_only,
            connect_timeout: self.connect_timeout.0,
            first_byte_timeout: self.first_byte_timeout.0,
            idle_timeout: self.idle_timeout.0,
            concurrency: self.concurrency,
            queue: self.queue,
            ca_file: self.ca_file.clone(),
        })
    }
}

/// Whether a name's first component would be taken for a registry: it holds `.` or `:`, or is `localhost`.
fn is_registry(name: &str) -> bool {
    let host = name.rsplit_once(':').map_or(name, |(host, port)| if port.parse::<u16>().is_ok() { host } else { "" });
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let looks = name.contains(['.', ':']) || name == "localhost";
    looks && !host.is_empty() && host.chars().all(plain) && !host.starts_with(['.', '-'])
}

pub(super) fn check(upstreams: &[Upstream], mistakes: &mut Vec<Mistake>) {
    for (number, upstream) in upstreams.iter().enumerate() {
        let key = |name: &str| format!("upstream[{number}].{name}");
        if !is_registry(&upstream.name) {
            mistakes.push(Mistake::new(
                key("name"),
                &upstream.name,
                r#"write a registry as it stands in image names, in lower case, with a dot or a port, such as "ghcr.io""#,
            ));
        }
        if upstreams[..number].iter().any(|other| other.name == upstream.name) {
            mistakes.push(Mistake::new(
                key("name"),
                &upstream.name,
                "another upstream has this name; one name, one upstream",
            ));
        }
        if upstream.default && upstreams[..number].iter().any(|other| other.default) {
            mistakes.push(Mistake::new(
                key("default"),
                true,
                "another upstream is the default already; only one serves names without a registry",
            ));
        }
        if upstream.parsed_url().is_none() {
            // A URL with a password in it is among the mistakes, so the value is not printed when it holds an `@`.
            let fix = r#"write http or https and a host, such as "https://ghcr.io"; credentials go into accounts"#;
            mistakes.push(match upstream.url.contains('@') {
                true => Mistake::unseen(key("url"), fix),
                false => Mistake::new(key("url"), &upstream.url, fix),
            });
        }
        if let Some(file) = &upstream.ca_file
            && let Err(error) = std::fs::File::open(file)
        {
            mistakes.push(Mistake::new(key("ca_file"), file.display(), format!("{error}; name a readable PEM file")));
        }
        for host in &upstream.token_hosts {
            if Url::parse(&format!("https://{host}/"))
                .map_or(true, |url| url.path() != "/" || !url.username().is_empty())
            {
                mistakes.push(Mistake::new(key("token_hosts"), host, r#"write host names, such as "auth.docker.io""#));
            }
        }
        for (account, entry) in upstream.accounts.iter().enumerate() {
            if entry.username.is_empty() || entry.username.contains(':') {
                mistakes.push(Mistake::new(
                    key(&format!("accounts[{account}].username")),
                    &entry.username,
                    "write a user name without a colon",
                ));
            }
        }
        for (name, span) in [
            ("connect_timeout", upstream.connect_timeout),
            ("first_byte_timeout", upstream.first_byte_timeout),
            ("idle_timeout", upstream.idle_timeout),
        ] {
            if span.0.is_zero() {
                mistakes.push(Mistake::new(
                    key(name),
                    span.to_string(),
                    r#"nothing would ever succeed; write "1s" or more"#,
                ));
            }
        }
        if upstream.concurrency == 0 {
            mistakes.push(Mistake::new(key("concurrency"), 0, "nothing would ever be asked; write 1 or more"));
        }
    }
}
