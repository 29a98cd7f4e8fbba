//! Who asks: the client key that accounts are kept by, the verified principal if there is one, and the class.
//!
//! The types are complete; who is who is decided in `http/admit.rs` (address, credentials) and `limits/client.rs` (folding).

use std::{fmt, net::IpAddr, sync::Arc};

/// By what a client is told from another: a verified principal, else the address it asks from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// An IPv4 address, or the first address of an IPv6 /64. IPv4-mapped IPv6 is folded to IPv4 before it gets here.
    Address(IpAddr),
    /// The name of an `[[account]]` whose password was verified.
    Principal(Arc<str>),
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

/// How much somebody's pulls matter when the budget is short. The order is that of precedence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Scanners and other walkers of everything.
    Bulk,
    /// Everybody who is nothing else.
    #[default]
    Standard,
    /// Production.
    Critical,
    /// Never held back by us.
    Exempt,
}

/// A client as the rest of the program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// By what it is told from others.
    pub key: ClientKey,
    /// Repository patterns that its verified principal may pull where anonymous may not; empty for anonymous.
    pub pull: Arc<[String]>,
    /// Hosted names that its verified principal may push to.
    pub push: Arc<[String]>,
    /// Hosted names that its verified principal may delete from.
    pub delete: Arc<[String]>,
    /// How much its pulls matter.
    pub class: Class,
}
