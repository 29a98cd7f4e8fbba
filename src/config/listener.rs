//! `[[listener]]`: more addresses to serve registry clients on, with a login or without.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{ConfigError, tls::Tls};

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

pub(super) fn check(listeners: &[Listener], errors: &mut Vec<ConfigError>) {
    for (number, listener) in listeners.iter().enumerate() {
        if let Some(tls) = &listener.tls
            && let Err(error) = tls.load(&format!("listener[{number}].tls"))
        {
            errors.push(error);
        }
    }
}

/// Of addresses that cannot be listened on at once, of which the system would name one alone.
pub(super) fn check_apart(all: &[(String, SocketAddr)], errors: &mut Vec<ConfigError>) {
    for (number, (key, address)) in all.iter().enumerate() {
        if let Some((other, taken)) = all[..number].iter().find(|(_, taken)| overlap(*address, *taken)) {
            errors.push(ConfigError::new(
                key,
                address.to_string(),
                format!("{other} = \"{taken}\" takes this address; give each its own address or port"),
            ));
        }
    }
}

/// Whether one socket keeps the other from listening. Port 0 is any that is free, `0.0.0.0` all of IPv4, and `[::]` all there is.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, address: IpAddr| match all {
        IpAddr::V4(all) => all.is_unspecified() && address.is_ipv4(),
        IpAddr::V6(all) => all.is_unspecified(),
    };
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_addresses_takes_the_port_from_each() {
        for (one, other, overlaps) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "127.0.0.1:5001", false),
            ("127.0.0.1:5000", "127.0.0.2:5000", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:5000", "127.0.0.1:5000", true),
            ("[::]:5000", "127.0.0.1:5000", true),
            ("[::]:5000", "0.0.0.0:5000", true),
            ("[::1]:5000", "0.0.0.0:5000", false),
            ("[::1]:5000", "127.0.0.1:5000", false),
            ("[::ffff:127.0.0.1]:5000", "127.0.0.1:5000", true),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (overlaps, overlaps), "{one} and {other}");
        }
    }
}
