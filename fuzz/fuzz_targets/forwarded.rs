//! `X-Forwarded-For` and `Forwarded` of a request, a line each: an untrusted peer is always believed to be itself.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use weir::limits::address::client_address;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (old, new) = text.split_once('\n').unwrap_or((text, ""));
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let (old, new) = ([old].into_iter(), [new].into_iter());
    let _ = client_address(peer, &trusted, old.clone(), std::iter::empty());
    let _ = client_address(peer, &trusted, std::iter::empty(), new.clone());
    let _ = client_address(peer, &trusted, old.clone(), new.clone());
    assert_eq!(client_address(peer, &[], old, new), peer);
});
