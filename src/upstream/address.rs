//! Where upstream may lead us: which addresses are never spoken to, and the resolver that enforces it.
//!
//! # What it guarantees
//!
//! A registry answers with addresses to go to (redirects, token realms, next pages), so the owner of a registry could make a
//! mirror ask hosts that only the mirror can reach. Addresses are judged after resolution, in the resolver that the connection itself uses: a
//! name that resolves to a public address first and to a private one later (DNS rebinding) meets the same check each
//! time. Literal addresses never reach a resolver, so [`Policy::admits`] is asked about every URL besides.
//!
//! Only the host that the configuration names is trusted, and it decides what is near: a loopback upstream may lead to loopback only, a
//! private one to private and public addresses, a public one to public addresses. Link-local addresses (cloud metadata),
//! unspecified, multicast and reserved ones are refused for all, and so are IPv4 addresses in IPv6 clothes, but for
//! NAT64 of public ones, which is how an IPv6-only network reaches the IPv4 internet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use super::proxy::Proxies;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// How far away an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressClass {
    /// Anywhere.
    Public,
    /// The operator's own networks.
    Private,
    /// This machine.
    Loopback,
    /// Never spoken to.
    Forbidden,
}

/// Judges one address.
pub(crate) fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        [127, ..] => AddressClass::Loopback,
        // 100.64/10 is shared address space (RFC 6598), 198.18/15 is for benchmarks (RFC 2544).
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
            AddressClass::Private
        }
        [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [224..=255, ..] => AddressClass::Forbidden,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        // Unspecified, IPv4-compatible, IPv4-mapped, IPv4-translated: no host's real address, and a way around every list above.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => AddressClass::Forbidden,
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // NAT64 by local agreement, whose embedding is anyone's guess, and Teredo.
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] => AddressClass::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 => AddressClass::Private,
        // Link-local, the former site-local, and multicast.
        [first, ..] if first & 0xff80 == 0xfe80 || first & 0xff00 == 0xff00 => AddressClass::Forbidden,
        _ => AddressClass::Public,
    }
}

fn embedded(high: u16, low: u16) -> AddressClass {
    match classify_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))) {
        AddressClass::Public => AddressClass::Public,
        _ => AddressClass::Forbidden,
    }
}

/// What one upstream may lead to. Cloning shares what is learned of the upstream's own address.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// The configured host, as a URL writes it.
    own: Arc<str>,
    /// How far the configured host was when it was last resolved, as an index into [`CLASSES`].
    near: Arc<AtomicU8>,
    ipv4_only: bool,
    proxies: Arc<Proxies>,
}

const CLASSES: [AddressClass; 3] = [AddressClass::Public, AddressClass::Private, AddressClass::Loopback];

impl Policy {
    pub(super) fn new(url: &Url, ipv4_only: bool, proxies: Arc<Proxies>) -> Policy {
        let policy = Policy {
            own: Arc::from(url.host_str().unwrap_or_default().to_ascii_lowercase()),
            near: Arc::new(AtomicU8::new(0)),
            ipv4_only,
            proxies,
        };
        if let Some(address) = literal(url) {
            policy.learn([address]);
        }
        policy
    }

    /// Whether a URL may be asked, as far as its host can be judged without resolving it.
    pub(crate) fn admits(&self, url: &Url) -> bool {
        match literal(url) {
            Some(address) => self.admits_address(address, url.host_str().is_some_and(|host| self.is_own(host))),
            None => url.has_host(),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        host.eq_ignore_ascii_case(&self.own)
    }

    fn admits_address(&self, address: IpAddr, own: bool) -> bool {
        if self.ipv4_only && address.is_ipv6() {
            return false;
        }
        let near = CLASSES[usize::from(self.near.load(Ordering::Relaxed)).min(2)];
        match (near, classify(address)) {
            (_, AddressClass::Forbidden) => false,
            _ if own => true,
            (AddressClass::Loopback, reach) => reach == AddressClass::Loopback,
            (AddressClass::Private, reach) => reach != AddressClass::Loopback,
            (_, reach) => reach == AddressClass::Public,
        }
    }

    /// The configured host was resolved to these.
    fn learn(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let reaches: Vec<_> = addresses.into_iter().map(classify).collect();
        let near = if !reaches.is_empty() && reaches.iter().all(|reach| *reach == AddressClass::Loopback) {
            2
        } else {
            u8::from(reaches.contains(&AddressClass::Private))
        };
        self.near.store(near, Ordering::Relaxed);
    }

    /// Of the addresses that a name has, those that may be spoken to.
    fn filter(&self, host: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let own = self.is_own(host);
        if own {
            self.learn(addresses.iter().map(SocketAddr::ip));
        }
        addresses.into_iter().filter(|address| self.admits_address(address.ip(), own)).collect()
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    }
}

/// A name has addresses, but none that may be spoken to.
#[derive(Debug, thiserror::Error)]
#[error("every address of the host is refused")]
pub(crate) struct Refused;

impl Resolve for Policy {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // The operator named the proxy, wherever it is. What is behind it is resolved there.
            if policy.proxies.is_proxy(name.as_str()) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let some = !found.is_empty();
            let admitted = policy.filter(name.as_str(), found);
            if some && admitted.is_empty() {
                return Err(Refused.into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_has_its_reach() {
        for (text, expected) in [
            ("1.1.1.1", AddressClass::Public),
            ("2606:4700::1111", AddressClass::Public),
            ("10.0.0.1", AddressClass::Private),
            ("172.31.0.1", AddressClass::Private),
            ("172.32.0.1", AddressClass::Public),
            ("192.168.1.1", AddressClass::Private),
            ("100.64.0.1", AddressClass::Private),
            ("fd00::1", AddressClass::Private),
            ("127.0.0.1", AddressClass::Loopback),
            ("127.9.9.9", AddressClass::Loopback),
            ("::1", AddressClass::Loopback),
            ("0.0.0.0", AddressClass::Forbidden),
            ("169.254.169.254", AddressClass::Forbidden),
            ("224.0.0.1", AddressClass::Forbidden),
            ("255.255.255.255", AddressClass::Forbidden),
            ("::", AddressClass::Forbidden),
            ("fe80::1", AddressClass::Forbidden),
            ("fec0::1", AddressClass::Forbidden),
            ("ff02::1", AddressClass::Forbidden),
            ("::ffff:127.0.0.1", AddressClass::Forbidden),
            ("::ffff:1.1.1.1", AddressClass::Forbidden),
            ("::127.0.0.1", AddressClass::Forbidden),
            ("64:ff9b::1.1.1.1", AddressClass::Public),
            ("64:ff9b::169.254.169.254", AddressClass::Forbidden),
            ("64:ff9b::10.0.0.1", AddressClass::Forbidden),
            ("64:ff9b:1::1", AddressClass::Forbidden),
            ("2002:7f00:1::", AddressClass::Forbidden),
            ("fd00:ec2::254", AddressClass::Private),
        ] {
            assert_eq!(classify(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn an_upstream_leads_no_nearer_than_it_is() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (own, target, expected) in [
            ("https://registry-1.docker.io", "https://1.1.1.1/x", true),
            ("https://registry-1.docker.io", "https://10.0.0.1/x", false),
            ("https://registry-1.docker.io", "https://127.0.0.1/x", false),
            ("https://registry-1.docker.io", "https://0x7f.1/x", false),
            ("https://registry-1.docker.io", "https://2130706433/x", false),
            ("https://registry-1.docker.io", "https://[::ffff:127.0.0.1]/x", false),
            ("https://registry-1.docker.io", "https://169.254.169.254/x", false),
            ("http://10.0.0.5:5000", "http://10.0.0.5:5000/x", true),
            ("http://10.0.0.5:5000", "http://10.0.0.6/x", true),
            ("http://10.0.0.5:5000", "https://1.1.1.1/x", true),
            ("http://10.0.0.5:5000", "http://127.0.0.1/x", false),
            ("http://10.0.0.5:5000", "http://169.254.169.254/x", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:1/x", true),
            ("http://127.0.0.1:5000", "http://127.0.0.2/x", true),
            ("http://127.0.0.1:5000", "http://10.0.0.1/x", false),
            ("http://127.0.0.1:5000", "http://1.1.1.1/x", false),
            ("http://127.0.0.1:5000", "http://169.254.169.254/x", false),
            ("http://169.254.1.1", "http://169.254.1.1/x", false),
        ] {
            assert_eq!(
                Policy::new(&url(own), false, Arc::default()).admits(&url(target)),
                expected,
                "{own} → {target}"
            );
        }
    }

    #[test]
    fn a_name_that_turns_private_is_refused_after_resolution() {
        let policy = Policy::new(&Url::parse("https://registry.example").unwrap(), false, Arc::default());
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        assert_eq!(policy.filter("registry.example", vec![at("1.1.1.1")]).len(), 1);
        assert_eq!(policy.filter("cdn.example", vec![at("1.1.1.1"), at("10.0.0.1")]), [at("1.1.1.1")]);
        assert_eq!(policy.filter("cdn.example", vec![at("127.0.0.1")]), []);
        // The configured host itself may be anywhere but at a metadata address, and then leads to its neighbours.
        assert_eq!(policy.filter("registry.example", vec![at("10.0.0.1"), at("169.254.0.1")]), [at("10.0.0.1")]);
        assert_eq!(policy.filter("cdn.example", vec![at("10.0.0.2")]).len(), 1);
    }

    #[test]
    fn ipv4_only_leaves_ipv6_out() {
        let policy = Policy::new(&Url::parse("https://registry.example").unwrap(), true, Arc::default());
        let addresses = ["2606:4700::1111", "1.1.1.1"].map(|text| SocketAddr::new(text.parse().unwrap(), 0));
        assert_eq!(policy.filter("registry.example", addresses.to_vec()), addresses[1..]);
        assert!(!policy.admits(&Url::parse("https://[2606:4700::1111]/").unwrap()));
    }
}
