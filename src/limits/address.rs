//! From what address a request comes, and as which client that address is counted. Pure.
//!
//! `X-Forwarded-For` and `Forwarded` are text that any client can write, so they are believed only as far as an unbroken chain of
//! configured proxies reaches back from the socket: both are read from the right, where the nearest proxy appends, and the first
//! address that is no trusted proxy is the client. What stands further left is the client's own invention.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::client::ClientKey;

/// Hops that are looked at, at most. More are a loop or an attack, and the last good address counts.
const MOST_HOPS: usize = 32;

/// The address by which clients are distinguished: IPv4 as it is, IPv6 by its /64, IPv4-mapped IPv6 as IPv4.
///
/// A /64 is what one household or one machine is given and what Docker Hub counts by, too.
pub fn key_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The address that asks, given the socket's peer, the trusted proxies, and the values of the two forwarding headers in the
/// order they were received.
///
/// When both headers are there and disagree, a proxy rewrote one and passed on the other: neither is believed and the peer counts,
/// for guessing wrong would let a client choose whom to be. Costs nothing when the peer is no proxy.
pub fn client_address<'a>(
    peer: IpAddr,
    trusted: &[IpNet],
    x_forwarded_for: impl DoubleEndedIterator<Item = &'a str> + Clone,
    forwarded: impl DoubleEndedIterator<Item = &'a str> + Clone,
) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(trusted, peer) {
        return peer;
    }
    let old = x_forwarded_for.flat_map(|line| line.split(',')).map(|entry| Some(entry.trim()));
    let new = forwarded.flat_map(|line| line.split(',')).map(forwarded_for);
    match (old.clone().next().is_some(), new.clone().next().is_some()) {
        (false, false) => peer,
        (true, false) => walk(peer, trusted, old),
        (false, true) => walk(peer, trusted, new),
        (true, true) => {
            let (old, new) = (walk(peer, trusted, old), walk(peer, trusted, new));
            if old == new { old } else { peer }
        }
    }
}

fn walk<'a>(peer: IpAddr, trusted: &[IpNet], entries: impl DoubleEndedIterator<Item = Option<&'a str>>) -> IpAddr {
    let mut believed = peer;
    for entry in entries.rev().take(MOST_HOPS) {
        // What is no address (`unknown`, `_hidden`, garbage) ends the chain: the proxy that wrote it is the last known hop.
        let Some(address) = entry.and_then(address) else { return believed };
        believed = address;
        if !is_trusted(trusted, believed) {
            return believed;
        }
    }
    believed
}

/// The `for` of one element of RFC 7239.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address with or without brackets and port, as both headers hold them.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|with_port: SocketAddr| with_port.ip())).ok();
    address.map(|address: IpAddr| address.to_canonical())
}

/// Whether this address is a trusted proxy.
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The network that an address is one of many in: its /24, or its /48 for IPv6. Who may hop within one shares its ceiling.
pub(crate) fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 24).into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), 48).into()
        }
    }
}

/// The addresses that a client key stands for; `None` for a principal, who may come from anywhere.
pub(crate) fn addresses_of(key: &ClientKey) -> Option<IpNet> {
    match key {
        ClientKey::Principal(_) => None,
        ClientKey::Address(IpAddr::V4(address)) => Some(IpNet::from(IpAddr::V4(*address))),
        ClientKey::Address(IpAddr::V6(address)) => Some(Ipv6Net::new_assert(*address, 64).trunc().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(peer: &str, x_forwarded_for: &[&str], forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), &trusted, x_forwarded_for.iter().copied(), forwarded.iter().copied())
            .to_string()
    }

    #[test]
    fn no_client_chooses_its_own_address() {
        // An untrusted peer says whatever it likes.
        assert_eq!(who("192.0.2.1", &["1.2.3.4"], &["for=9.9.9.9"]), "192.0.2.1");
        assert_eq!(who("::ffff:192.0.2.1", &["1.2.3.4"], &[]), "192.0.2.1");
        // Without headers a trusted proxy speaks for itself.
        assert_eq!(who("10.0.0.1", &[], &[]), "10.0.0.1");
        // The client's own invention stands left of what the proxy appended.
        assert_eq!(who("10.0.0.1", &["1.2.3.4, 192.0.2.7"], &[]), "192.0.2.7");
        assert_eq!(who("10.0.0.1", &["1.2.3.4", "192.0.2.7"], &[]), "192.0.2.7");
        // Two proxies of ours; the client pretends to be one of them, which only makes it the proxy.
        assert_eq!(who("10.0.0.1", &["192.0.2.7, 10.0.0.2"], &[]), "192.0.2.7");
        assert_eq!(who("10.0.0.1", &["10.0.0.9, 10.0.0.2"], &[]), "10.0.0.9");
        assert_eq!(who("::ffff:10.0.0.1", &["::ffff:192.0.2.7"], &[]), "192.0.2.7");
        // Ports, brackets, IPv6.
        assert_eq!(who("10.0.0.1", &["192.0.2.7:4711"], &[]), "192.0.2.7");
        assert_eq!(who("fd00::1", &["[2001:db8::1]:443"], &[]), "2001:db8::1");
        assert_eq!(who("fd00::1", &[], &["For=\"[2001:db8::1]:443\";proto=https"]), "2001:db8::1");
        assert_eq!(who("10.0.0.1", &[], &["for=1.1.1.1, for=192.0.2.7;by=10.0.0.1"]), "192.0.2.7");
        // What is no address ends the chain.
        assert_eq!(who("10.0.0.1", &["192.0.2.7, unknown"], &[]), "10.0.0.1");
        assert_eq!(who("10.0.0.1", &["192.0.2.7, \u{1b}[2J, 10.0.0.3"], &[]), "10.0.0.3");
        assert_eq!(who("10.0.0.1", &[""], &[]), "10.0.0.1");
        // Both headers: they must agree.
        assert_eq!(who("10.0.0.1", &["192.0.2.7"], &["for=192.0.2.7"]), "192.0.2.7");
        assert_eq!(who("10.0.0.1", &["192.0.2.7"], &["for=9.9.9.9"]), "10.0.0.1");
        assert_eq!(who("10.0.0.1", &["192.0.2.7"], &["proto=https"]), "10.0.0.1");
    }

    #[test]
    fn an_endless_chain_is_cut() {
        let chain = vec!["10.0.0.9"; 10_000].join(",");
        assert_eq!(who("10.0.0.1", &[&format!("192.0.2.1,{chain}")], &[]), "10.0.0.9");
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_64() {
        let folded = |text: &str| key_address(text.parse().unwrap()).to_string();
        assert_eq!(folded("192.0.2.1"), "192.0.2.1");
        assert_eq!(folded("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(folded("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(folded("2001:db8:1:2::"), folded("2001:db8:1:2:ffff::1"));
        assert_ne!(folded("2001:db8:1:2::"), folded("2001:db8:1:3::"));
    }
}
