//! Whom a ban or an allowlist entry means.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::address::{addresses_of, key_address};
use crate::{client::ClientKey, setting::as_string};

/// The clients that a ban or an allowlist entry means. Written as an address, a CIDR, or the name of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every client at these addresses.
    Network(IpNet),
    /// An account, wherever it asks from.
    Principal(String),
}

impl Target {
    /// This client alone.
    pub fn of(client: &ClientKey) -> Target {
        match client {
            ClientKey::Principal(name) => Target::Principal(name.to_string()),
            ClientKey::Address(address) => Target::Network(addresses_of(client).unwrap_or_else(|| (*address).into())),
        }
    }

    /// The same, no narrower than what is counted as one client: a /64 of IPv6.
    pub fn as_client(self) -> Target {
        match self {
            Target::Network(IpNet::V6(network)) if network.prefix_len() > 64 => {
                let client = ClientKey::Address(key_address(network.addr().into()));
                Target::of(&client)
            }
            other => other,
        }
    }

    /// Whether so many are meant that a person must insist: wider than a /24, or a /48 of IPv6.
    pub fn is_wide(&self) -> bool {
        match self {
            Target::Network(IpNet::V4(network)) => network.prefix_len() < 24,
            Target::Network(IpNet::V6(network)) => network.prefix_len() < 48,
            Target::Principal(_) => false,
        }
    }

    /// Whether it is written as an address and is none, such as `10.1.2.300`.
    pub fn looks_like_address(&self) -> bool {
        let Target::Principal(name) = self else { return false };
        name.contains('.') && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(|it| it.to_canonical().into()));
        if let Ok(network) = network {
            return Ok(Target::Network(network.trunc()));
        }
        let is_name =
            !text.is_empty() && text.len() <= 255 && !text.contains([':', '/']) && !text.contains(char::is_control);
        is_name.then(|| Target::Principal(text.to_owned())).ok_or_else(|| {
            "not a client; write an address, a CIDR such as 10.0.0.0/24, or the name of an account".to_owned()
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Target::Network(network) => network.fmt(f),
            Target::Principal(name) => f.write_str(name),
        }
    }
}

as_string!(Target);
