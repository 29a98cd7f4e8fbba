//! Where a redirect may lead, and whose token realm may be asked. Pure.
//!
//! A credential is only ever sent to the configured origin and to a realm that [`realm`] let through; both rules
//! live here so that they can be read side by side (CVE-2026-33540, CVE-2026-48978, GHSA-vh4v-2xq2-g5cg).

use std::sync::Arc;

use reqwest::header::{HeaderMap, LOCATION};
use url::{Host, Url};

/// Hops after which a chain of redirects is a loop.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// Where a redirect says that it leads. Bytes beyond ASCII are not allowed there and are sent: they are escaped as they came.
pub(crate) fn location(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(LOCATION)?.as_bytes();
    let escaped = value.iter().map(|byte| match byte {
        byte if byte.is_ascii() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    Some(escaped.collect())
}

/// The target of a redirect from `current`. Whether its address may be spoken to is for [`super::address::Policy`] to say.
///
/// # Errors
/// In words, when the target is no http URL, gives up TLS, or carries a user.
pub(crate) fn target(current: &Url, location: &str) -> Result<Url, &'static str> {
    let mut url = current.join(location).map_err(|_| "a redirect to no address")?;
    match (current.scheme(), url.scheme()) {
        ("https", "http") => return Err("a redirect from https to http"),
        (_, "https" | "http") => {}
        _ => return Err("a redirect to another scheme"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a redirect to an address with a user");
    }
    url.set_fragment(None);
    Ok(url)
}

/// Whether two URLs are of one origin: scheme, host and port.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// The realm that a challenge of `registry` names, if a credential or a token request may go there.
///
/// That is the registry's own host or one of the same registrable domain (public suffix list), on the registry's port or the
/// scheme's own, or one of `token_hosts`, a host with or without port. Another port of a host is another service, which may be
/// another user's; on loopback alone any port will do. https, unless the registry is asked without TLS itself.
///
/// # Errors
/// In words, when it may not.
pub(crate) fn realm(registry: &Url, realm: &str, token_hosts: &[String]) -> Result<Url, Arc<str>> {
    let url = Url::parse(realm).map_err(|_| Arc::from("a token realm that is no address"))?;
    match (registry.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => {}
        _ => return Err("a token realm without TLS".into()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a token realm with a user".into());
    }
    let listed = |allowed: &String| {
        let port = url.port_or_known_default();
        match (allowed.rsplit_once(':'), url.host_str()) {
            (_, Some(host)) if allowed.eq_ignore_ascii_case(host) => true,
            (Some((name, number)), Some(host)) => name.eq_ignore_ascii_case(host) && number.parse().ok() == port,
            _ => false,
        }
    };
    if token_hosts.iter().any(listed) || related(registry, &url) {
        Ok(url)
    } else {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", url.host_str().unwrap_or_default());
        Err(format!("its token service is at {host}; list {host} in token_hosts to trust it").into())
    }
}

fn related(one: &Url, other: &Url) -> bool {
    let loopback = match one.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let same_port = one.port_or_known_default() == other.port_or_known_default();
    if !(same_port || other.port().is_none() || loopback) {
        return false;
    }
    match (one.host(), other.host()) {
        (Some(Host::Domain(one)), Some(Host::Domain(other))) => {
            one == other || registrable(one).is_some_and(|domain| registrable(other) == Some(domain))
        }
        // An address belongs to no domain, so it is related to itself only.
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// `auth.docker.io` → `docker.io`; `None` for public suffixes and for what never leaves this machine.
fn registrable(host: &str) -> Option<&str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    psl::domain_str(host).filter(|domain| *domain != "localhost" && !domain.ends_with(".localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_at_home_or_listed() {
        let hosts = ["tokens.example".to_owned(), "other.example:8443".to_owned()];
        for (registry, asked, expected) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            ("https://r.example:5000", "https://r.example:5000/auth", true),
            ("https://r.example:5000", "https://r.example/auth", true),
            ("https://r.example:5000", "https://auth.r.example/auth", true),
            ("https://r.example:5000", "https://r.example:5001/auth", false),
            ("https://r.example", "https://r.example:8443/auth", false),
            ("https://10.0.0.1:5000", "https://10.0.0.1:5001/auth", false),
            ("https://r.example", "https://tokens.example/t", true),
            ("https://r.example", "https://TOKENS.example:99/t", true),
            ("https://r.example", "https://other.example:8443/t", true),
            ("https://r.example", "https://other.example/t", false),
            ("https://r.co.uk", "https://evil.co.uk/t", false),
            ("https://a.github.io", "https://b.github.io/t", false),
            ("https://registry.example.com", "https://registry.example.com.evil.net/", false),
            ("https://registry.example.com", "https://registry.example.com@evil.net/", false),
            ("https://registry.example.com", "https://user@registry.example.com/", false),
            ("https://registry.example.com", "https://evilexample.com/", false),
            ("https://registry.example.com", "http://registry.example.com/", false),
            ("https://registry.example.com", "https://169.254.169.254/", false),
            ("https://registry.example.com", "https://[::1]/", false),
            ("https://registry.example.com", "ftp://registry.example.com/", false),
            ("https://registry.example.com", "//registry.example.com/", false),
            ("https://registry.example.com", "", false),
            ("https://a.localhost", "https://b.a.localhost/", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", true),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5001/token", false),
            ("http://127.0.0.1:5000", "http://localhost:5001/token", false),
            ("https://127.0.0.1:5000", "http://127.0.0.1:5001/token", false),
            ("https://10.0.0.1", "https://10.0.0.2/", false),
        ] {
            let vetted = realm(&Url::parse(registry).unwrap(), asked, &hosts);
            assert_eq!(vetted.is_ok(), expected, "{registry} → {asked}: {vetted:?}");
        }
    }

    #[test]
    fn a_location_is_read_whatever_bytes_it_has() {
        for (sent, read) in [
            (&b"/cdn/a?x=%2F"[..], "/cdn/a?x=%2F"),
            ("/cdn/naïve".as_bytes(), "/cdn/na%C3%AFve"),
            (b"/cdn/na\xefve", "/cdn/na%EFve"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, sent.try_into().unwrap());
            assert_eq!(location(&headers).as_deref(), Some(read));
        }
        assert_eq!(location(&HeaderMap::new()), None);
    }

    #[test]
    fn a_redirect_keeps_tls_and_names_no_user() {
        let https = Url::parse("https://r.example/v2/a/blobs/x").unwrap();
        let http = Url::parse("http://127.0.0.1:5000/v2/").unwrap();
        for (current, location, expected) in [
            (&https, "https://cdn.example/x?sig=1#top", Some("https://cdn.example/x?sig=1")),
            (&https, "/elsewhere", Some("https://r.example/elsewhere")),
            (&https, "//cdn.example/x", Some("https://cdn.example/x")),
            (&https, "http://r.example/x", None),
            (&https, "https://user@cdn.example/x", None),
            (&https, "file:///etc/passwd", None),
            (&https, "https://", None),
            (&http, "http://127.0.0.1:1/x", Some("http://127.0.0.1:1/x")),
            (&http, "https://cdn.example/x", Some("https://cdn.example/x")),
        ] {
            let read = target(current, location).ok();
            assert_eq!(read.as_ref().map(Url::as_str), expected, "{location}");
        }
        assert!(!same_origin(&https, &Url::parse("https://r.example:8443/").unwrap()));
        assert!(!same_origin(&https, &Url::parse("http://r.example/").unwrap()));
        assert!(same_origin(&https, &Url::parse("https://r.example:443/x").unwrap()));
    }
}
