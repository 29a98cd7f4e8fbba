//! `[admin]`: the second listener, for health, metrics, the JSON API and pages for people.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{ConfigError, account::Account, tls::Tls};
use crate::limits::Role;

/// Where the admin listener is, and as what the world knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where it listens. Anywhere but on loopback an account with role admin is required.
    pub listen: SocketAddr,
    /// The URL at which people reach it, which a banned client reads; its host is a known `Host`.
    pub public_url: String,
    /// More names and addresses that are accepted as `Host`, such as that of a Kubernetes Service.
    pub hosts: Vec<String>,
    /// Serve TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// A unix socket for `weir ban` and `weir throttle` on this machine; in storage.root when empty.
    pub socket: PathBuf,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            listen: SocketAddr::from(([127, 0, 0, 1], 5001)),
            public_url: String::new(),
            hosts: Vec::new(),
            tls: None,
            socket: PathBuf::new(),
        }
    }
}

impl Admin {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if !self.public_url.is_empty() && self.public_host().is_none() {
            errors.push(ConfigError::new(
                "admin.public_url",
                &self.public_url,
                r#"write an absolute URL without a path, such as "https://weir.example.com""#,
            ));
        }
        if let Some(tls) = &self.tls
            && let Err(error) = tls.load("admin.tls")
        {
            errors.push(error);
        }
        let plain = |host: &str| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            host.parse::<IpAddr>().is_ok() || !host.is_empty() && host.chars().all(is_name)
        };
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| !plain(host)) {
            let fix = r#"write a name without a scheme, a port and a path, such as "weir-admin.weir.svc""#;
            errors.push(ConfigError::new(format!("admin.hosts[{number}]"), host, fix));
        }
    }

    /// Off loopback there must be an account to log in with.
    pub(super) fn check_login(&self, accounts: &[Account], errors: &mut Vec<ConfigError>) {
        if !self.listen.ip().is_loopback() && !accounts.iter().any(|account| account.role == Role::Admin) {
            errors.push(ConfigError::new(
                "admin.listen",
                self.listen.to_string(),
                "any client that reaches this address could act as operator: listen on loopback, or add an [[account]] with \
                 role = \"admin\"",
            ));
        }
    }

    /// The host of `public_url`, as it stands in a `Host` header (with its port, when that is not the scheme's own).
    pub(super) fn public_host(&self) -> Option<String> {
        // The pages link to each other from the root.
        let is_one = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.path() == "/";
        let url = url::Url::parse(&self.public_url).ok().filter(is_one)?;
        let host = url.host_str()?;
        Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    }
}
