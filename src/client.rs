//! Who asks: the client key that accounts are kept by, the verified principal if there is one, and the class.
//!
//! The types are complete; who is who is decided in `http/admit.rs` (address, credentials) and `limits/client.rs` (folding).

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

/// By what clients are distinguished: a verified principal, else the address it asks from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// An IPv4 address, or the first address of an IPv6 /64. IPv4-mapped IPv6 is folded to IPv4 before it gets here.
    Address(IpAddr),
    /// The name of an `[[account]]` whose password was verified.
    Principal(Arc<str>),
}

/// How the key of a warm begins. A user name holds no colon (RFC 7617 section 2), and this begins no address.
const WARM: &str = "warm:";

/// The key of what policies look up, a principal likewise.
const POLICY: &str = "policy:signatures";

impl ClientKey {
    /// The key of what policies look up upstream, which stands in the ledger in a client's place.
    pub fn policy() -> ClientKey {
        ClientKey::Principal(POLICY.into())
    }

    /// The key of what an operator or a schedule warms, which stands in the ledger in a client's place.
    pub fn warm(by: &str) -> ClientKey {
        ClientKey::Principal(format!("{WARM}{by}").into())
    }

    /// Whether it is that of a warm, and so of no client.
    pub fn is_warm(&self) -> bool {
        matches!(self, ClientKey::Principal(name) if name.starts_with(WARM))
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientKey::Address(IpAddr::V6(address)) => write!(f, "{address}/64"),
            ClientKey::Address(address) => write!(f, "{address}"),
            ClientKey::Principal(name) => f.write_str(name),
        }
    }
}

impl FromStr for ClientKey {
    type Err = std::convert::Infallible;

    /// What [`ClientKey`] prints; whatever is no address is a principal.
    fn from_str(text: &str) -> Result<ClientKey, Self::Err> {
        let address = text.strip_suffix("/64").unwrap_or(text).parse();
        Ok(address.map_or_else(|_| ClientKey::Principal(text.into()), ClientKey::Address))
    }
}

/// How much a client's pulls matter when the budget is short. The order is that of precedence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Scanners and other walkers of everything.
    Bulk,
    /// Every client that is nothing else.
    #[default]
    Standard,
    /// Production.
    Critical,
    /// Never held back by us.
    Exempt,
}

impl Class {
    /// All there are.
    pub const ALL: [Class; 4] = [Class::Bulk, Class::Standard, Class::Critical, Class::Exempt];

    /// As the configuration writes it.
    pub fn word(self) -> &'static str {
        match self {
            Class::Bulk => "bulk",
            Class::Standard => "standard",
            Class::Critical => "critical",
            Class::Exempt => "exempt",
        }
    }
}

/// How far a request goes when there is no budget for its class: fresh → stale → queue → 429.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// The stale answer, else 429.
    Stale,
    /// The stale answer, else a wait, else 429.
    #[default]
    Queue,
    /// 429 at once.
    Deny,
}

/// A client as the rest of the program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// By what it is distinguished.
    pub key: ClientKey,
    /// Repository patterns that its verified principal may pull where anonymous may not; empty for anonymous.
    pub pull: Arc<[String]>,
    /// Hosted names that its verified principal may push to.
    pub push: Arc<[String]>,
    /// Hosted names that its verified principal may delete from.
    pub delete: Arc<[String]>,
    /// How much its pulls matter.
    pub class: Class,
    /// From where it asks, before folding. A principal may ask from anywhere.
    pub address: IpAddr,
    /// How far its requests go when there is no budget for its class.
    pub on_exceed: OnExceed,
    /// It may pass floors and shares of the budget (the right `budget_override`).
    pub overrides: bool,
}

impl Client {
    /// An anonymous client at this address, standard. `key` is the address by which clients are distinguished.
    pub fn anonymous(key: IpAddr, address: IpAddr) -> Client {
        Client {
            key: ClientKey::Address(key),
            pull: Arc::from([]),
            push: Arc::from([]),
            delete: Arc::from([]),
            class: Class::Standard,
            address,
            on_exceed: OnExceed::default(),
            overrides: false,
        }
    }

    /// A warm of the cache that `by` asked for: bulk, and it spends only what no client is expected to need. It may read what accounts
    /// of ours may.
    pub fn warm(by: &str) -> Client {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        Client {
            key: ClientKey::warm(by),
            class: Class::Bulk,
            on_exceed: OnExceed::Deny,
            pull: Arc::from(["*".to_owned()]),
            ..Client::anonymous(loopback, loopback)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_warm_is_read_as_it_is_written_and_is_no_clients() {
        let warm = ClientKey::warm("operator");
        assert_eq!(warm.to_string(), "warm:operator");
        assert_eq!(warm.to_string().parse(), Ok(warm.clone()));
        assert!(warm.is_warm() && Client::warm("operator").key == warm);
        for client in ["operator", "192.0.2.1", "2001:db8::/64", "warm"] {
            assert!(!client.parse::<ClientKey>().unwrap().is_warm(), "{client}");
        }
    }
}
