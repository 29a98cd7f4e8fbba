//! May this request be answered at all? Decided from its head alone; pure.
//!
//! A browser that visits a hostile page can be made to send requests here, and its address is that of an operator.
//! Three things stop it, without a token: a page on another site cannot choose the `Host` (a name that was rebound to our
//! address is not one of ours), cannot leave out its `Origin` on anything but a plain GET, and cannot send a body as
//! `application/json` without authorized first, which is never granted.

use std::net::{IpAddr, SocketAddr};

use actix_web::{
    HttpRequest,
    http::{Method, header},
};

/// Host names under which the listener is asked.
#[derive(Clone, Debug)]
pub struct AllowedHosts {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The host of `admin.public_url`, with its port when that is not the scheme's own.
    pub public: Option<String>,
    /// Whether that URL is https.
    pub public_is_https: bool,
    /// `admin.hosts`: more names, without a port.
    pub others: Vec<String>,
    /// Whether the listener itself speaks TLS.
    pub is_tls: bool,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    pub(super) fetch_site: Option<&'a str>,
    /// Its method is another than GET and HEAD.
    pub(super) changes: bool,
    pub(super) has_body: bool,
    pub(super) content_type: Option<&'a str>,
    /// A form is wanted, as pages send it, and not JSON.
    pub(super) takes_form: bool,
    /// An archive is wanted. No form of a browser can send this type, as it cannot send JSON.
    pub(super) takes_tar: bool,
}

impl<'a> Head<'a> {
    pub(super) fn of(request: &'a HttpRequest) -> Head<'a> {
        // What is there and not readable is not the same as what is not there.
        let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
        let length = text("content-length").map(|length| length != "0");
        Head {
            // A request target in absolute form overrides `Host` (RFC 9112 §3.2.2); no client has reason to send us one.
            host: if request.uri().authority().is_some() { Some("?") } else { text("host") },
            origin: text("origin"),
            fetch_site: text("sec-fetch-site"),
            changes: !matches!(*request.method(), Method::GET | Method::HEAD),
            has_body: length.unwrap_or(request.headers().contains_key(header::TRANSFER_ENCODING)),
            content_type: text("content-type"),
            takes_form: false,
            takes_tar: false,
        }
    }
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "this is not the host of the admin listener; ask for it by its address, or write its name into admin.hosts"
    )]
    Host,
    #[error("requests from pages of another origin are not answered")]
    Origin,
    #[error(
        "a body must be application/json, application/x-www-form-urlencoded where a page sends it, or application/x-tar where an archive is \
         imported"
    )]
    ContentType,
}

impl Refusal {
    pub(super) fn status(self) -> u16 {
        match self {
            Refusal::Host => 421,
            Refusal::Origin => 403,
            Refusal::ContentType => 415,
        }
    }
}

/// The decision.
pub(super) fn judge(hosts: &AllowedHosts, head: &Head<'_>) -> Result<(), Refusal> {
    let host = head.host.filter(|host| hosts.know(host)).ok_or(Refusal::Host)?;
    if let Some(origin) = head.origin {
        let own = origin.split_once("://").is_some_and(|(scheme, origin)| {
            matches!(scheme, "http" | "https") && (origin.eq_ignore_ascii_case(host) || hosts.is_public(origin))
        });
        if !own {
            return Err(Refusal::Origin);
        }
    }
    // A link from elsewhere to a page is fine; what a page elsewhere sends is not, whatever else it says.
    let is_foreign = matches!(head.fetch_site, Some("cross-site" | "same-site"));
    if is_foreign && (head.changes || head.has_body || head.origin.is_some()) {
        return Err(Refusal::Origin);
    }
    let essence = head.content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    let wanted = match head {
        Head { takes_form: true, .. } => "application/x-www-form-urlencoded",
        Head { takes_tar: true, .. } => "application/x-tar",
        _ => "application/json",
    };
    if head.has_body && !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(wanted)) {
        return Err(Refusal::ContentType);
    }
    Ok(())
}

impl AllowedHosts {
    /// Whether this is the name that the message of a ban has.
    pub(super) fn is_public(&self, host: &str) -> bool {
        self.public.as_deref().is_some_and(|public| public.eq_ignore_ascii_case(host))
    }

    /// Whether what is asked for by this name reaches the browser unread by others: over TLS, or within one machine. These are the
    /// cases in which a browser takes a cookie that is `Secure`.
    pub(super) fn is_private(&self, host: &str) -> bool {
        self.is_tls || (self.is_public(host) && self.public_is_https) || is_loopback(host)
    }

    /// Whether the configuration names this host: the public one with its port, others whatever their port is.
    pub(super) fn is_configured(&self, host: &str) -> bool {
        self.is_public(host) || self.others.iter().any(|other| other.eq_ignore_ascii_case(name(host)))
    }

    /// Whether `host` is a name of ours. The port is not looked at: a forwarded port is still us, and a rebound name is
    /// still not.
    fn know(&self, host: &str) -> bool {
        if self.is_configured(host) {
            return true;
        }
        match name(host).parse::<IpAddr>() {
            // An address cannot be rebound. What listens on all of them may be asked by any.
            Ok(address) => {
                let listen = self.listen.ip();
                address.is_loopback() || listen.is_unspecified() || address.to_canonical() == listen.to_canonical()
            }
            Err(_) => is_loopback(host),
        }
    }
}

/// Whether this is a name of the machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = name(host);
    name.parse::<IpAddr>().map_or(name.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

/// Without port and brackets.
fn name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => name,
        _ => host,
    };
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> AllowedHosts {
        let public = Some("weir.example.com".to_owned());
        let others = vec!["weir-admin.weir.svc".to_owned(), "fd00::7".to_owned()];
        AllowedHosts { listen: "127.0.0.1:5001".parse().unwrap(), public, public_is_https: true, others, is_tls: false }
    }

    #[test]
    fn only_names_of_ours_are_answered() {
        for good in [
            "127.0.0.1:5001",
            "127.0.0.1",
            "localhost:8001",
            "[::1]:5001",
            "Weir.Example.com",
            "weir-admin.weir.svc:5001",
            "WEIR-ADMIN.weir.svc",
            "[fd00::7]:5001",
        ] {
            assert_eq!(judge(&loopback(), &Head { host: Some(good), ..Head::default() }), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:5001",
            "10.0.0.7",
            "localhost.evil.example",
            "",
            "?",
            "weir.example.com:1",
            "weir.svc",
        ] {
            assert_eq!(judge(&loopback(), &Head { host: Some(bad), ..Head::default() }), Err(Refusal::Host), "{bad}");
        }
        assert_eq!(judge(&loopback(), &Head::default()), Err(Refusal::Host));
        let everywhere = AllowedHosts { listen: "0.0.0.0:5001".parse().unwrap(), ..loopback() };
        assert!(
            everywhere.know("10.0.0.7:5001") && everywhere.know("[fd00::8]:5001") && !everywhere.know("evil.example")
        );
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let ask = |origin| {
            judge(&loopback(), &Head { host: Some("localhost:5001"), origin: Some(origin), ..Head::default() })
        };
        assert_eq!(ask("http://localhost:5001"), Ok(()));
        assert_eq!(ask("https://weir.example.com"), Ok(()));
        for foreign in ["http://evil.example", "null", "http://localhost:5002", "file://", "?", "http://127.0.0.1:5001"]
        {
            assert_eq!(ask(foreign), Err(Refusal::Origin), "{foreign}");
        }
    }

    #[test]
    fn a_page_of_another_site_changes_nothing_even_without_an_origin() {
        let ask = |site, changes| {
            let head = Head { host: Some("localhost:5001"), fetch_site: Some(site), changes, ..Head::default() };
            judge(&loopback(), &head)
        };
        assert_eq!(ask("cross-site", true), Err(Refusal::Origin));
        assert_eq!(ask("same-site", true), Err(Refusal::Origin));
        assert_eq!(ask("cross-site", false), Ok(()), "a link");
        assert_eq!((ask("same-origin", true), ask("none", true)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_secure_cookie_is_given_where_browsers_keep_it() {
        for private in ["localhost:5001", "127.0.0.1", "[::1]:5001", "weir.example.com", "LOCALHOST"] {
            assert!(loopback().is_private(private), "{private}");
        }
        for in_clear in ["10.0.0.7:5001", "weir.example.com:81", "localhost.evil.example", "?", ""] {
            assert!(!loopback().is_private(in_clear), "{in_clear}");
        }
        assert!(AllowedHosts { is_tls: true, ..loopback() }.is_private("10.0.0.7:5001"));
        assert!(!AllowedHosts { public_is_https: false, ..loopback() }.is_private("weir.example.com"));
    }

    #[test]
    fn a_body_is_json() {
        let ask = |content_type| {
            judge(&loopback(), &Head { host: Some("localhost"), has_body: true, content_type, ..Head::default() })
        };
        assert_eq!(ask(Some("application/json; charset=utf-8")), Ok(()));
        for bad in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")] {
            assert_eq!(ask(bad), Err(Refusal::ContentType), "{bad:?}");
        }
        let form = |content_type| {
            let head = Head { host: Some("localhost"), has_body: true, content_type, ..Head::default() };
            judge(&loopback(), &Head { takes_form: true, ..head })
        };
        assert_eq!(form(Some("application/x-www-form-urlencoded")), Ok(()));
        for bad in [None, Some("text/plain"), Some("application/json"), Some("multipart/form-data")] {
            assert_eq!(form(bad), Err(Refusal::ContentType), "{bad:?}");
        }
    }
}
