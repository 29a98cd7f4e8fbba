//! `[[listener]]`: more addresses to serve registry clients on, with a login or without.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Mistake, tls::Tls};

/// One more listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether `GET /v2/` challenges, so that `docker login` works. A listener that a dockerd uses as its mirror must
    /// not: dockerd would answer with the user's Docker Hub password.
    #[serde(default)]
    pub login: bool,
    /// Serve TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

pub(super) fn check(listeners: &[Listener], mistakes: &mut Vec<Mistake>) {
    for (number, listener) in listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls
            && let Err(mistake) = tls.load(&format!("listener[{number}].tls"))
        {
            mistakes.push(mistake);
        }
        if listeners[..number].iter().any(|other| other.address == listener.address) {
            mistakes.push(Mistake::new(
                format!("listener[{number}].address"),
                listener.address,
                "another listener has this address; give each its own",
            ));
        }
    }
}
