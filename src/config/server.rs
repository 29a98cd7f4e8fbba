//! `[server]`: where the registry listens and how it stops.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Mistake,
    values::{Network, OneOrMany, Span},
};

/// The registry's listener, and the bounds on whoever connects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: OneOrMany<SocketAddr>,
    /// Proxies whose forwarded headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// How long bodies under way may take after SIGTERM.
    pub drain: Span,
    /// Serve TLS on `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: OneOrMany(vec![SocketAddr::from(([127, 0, 0, 1], 5000))]),
            trusted_proxies: Vec::new(),
            drain: Span::seconds(30),
            tls: None,
        }
    }
}

impl Server {
    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
        if self.listen.0.is_empty() {
            mistakes.push(Mistake::unseen("server.listen", r#"name at least one address, such as "127.0.0.1:5000""#));
        }
        if let Some(tls) = &self.tls {
            tls.check("server.tls", mistakes);
        }
    }
}

impl Tls {
    pub(super) fn check(&self, key: &str, mistakes: &mut Vec<Mistake>) {
        for (name, path) in [("cert", &self.cert), ("key", &self.key)] {
            if let Err(error) = std::fs::File::open(path) {
                mistakes.push(Mistake::new(
                    format!("{key}.{name}"),
                    path,
                    format!("{error}; name a readable PEM file"),
                ));
            }
        }
    }
}
