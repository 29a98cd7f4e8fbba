//! One `[[upstream]]` of the configuration.

use std::{sync::Arc, time::Duration};

use url::Url;

/// One `[[upstream]]`. Every duration and bound stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What `ns=` and the path prefix say, such as `docker.io`.
    pub name: Arc<str>,
    /// Where it is, such as `https://registry-1.docker.io`; may have a path, below which `/v2/` is.
    pub url: Url,
    /// Serves names without a registry.
    pub default: bool,
    /// As whom it may be asked besides anonymously.
    pub accounts: Vec<Account>,
    /// Hosts, with or without port, whose token realms are trusted besides those of the upstream's own domain.
    pub token_hosts: Vec<String>,
    /// Never speaks IPv6 to it: Hub's abuse limit groups IPv6 by /64, so neighbours count.
    pub ipv4_only: bool,
    /// TCP and TLS together (5 s).
    pub connect_timeout: Duration,
    /// Until the response headers (15 s; containerd waits 30 for ours).
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body (15 s). There is no whole-body timeout.
    pub idle_timeout: Duration,
    /// Requests under way at once to one host (32) …
    pub concurrency: usize,
    /// … and waiting for their turn (1024), past which they fail as unavailable.
    pub queue: usize,
    /// More root certificates (PEM) for a private registry; the system's are always trusted.
    pub ca_file: Option<std::path::PathBuf>,
}

/// A user of a registry.
#[derive(Clone, Debug)]
pub struct Account {
    /// Sent to the registry, and shown in the ledger.
    pub username: Arc<str>,
    /// Sent to the registry or its token service, and shown nowhere.
    pub password: Secret,
}

/// A secret that does not print.
#[derive(Clone)]
pub struct Secret(pub Arc<str>);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}
