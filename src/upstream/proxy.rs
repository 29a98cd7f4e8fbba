//! The way out: directly, through the proxy of a setting, or through the proxies that the environment names. Pure.
//!
//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` mean what they mean to Go's programs, docker among them: in either case
//! of letters, a URL without a scheme is of http, and this machine is never reached through a proxy that only the environment names.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

/// Which proxy a URL is reached through.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    /// Of a setting: for every URL.
    all: Option<Url>,
    /// Of the environment.
    http: Option<Url>,
    https: Option<Url>,
    bypassed: Vec<String>,
}

/// The values of `proxy` that say: none, whatever the environment says.
const NONE: [&str; 2] = ["none", "off"];

impl Proxies {
    /// From the setting `proxy`, or the environment when that is empty.
    ///
    /// # Errors
    /// What is wrong with the setting, without its value, which may hold a password.
    pub(super) fn new(setting: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Proxies, &'static str> {
        let variable = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        let named = |name: &str| variable(name).and_then(|text| parse(&text));
        let bypassed = variable("NO_PROXY").unwrap_or_default();
        let bypassed =
            bypassed.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).map(str::to_ascii_lowercase).collect();
        match setting {
            none if NONE.contains(&none) => Ok(Proxies::default()),
            "" => {
                let all = named("ALL_PROXY");
                let (http, https) = (named("HTTP_PROXY").or(all.clone()), named("HTTPS_PROXY").or(all));
                Ok(Proxies { all: None, http, https, bypassed })
            }
            setting => {
                let fix = r#"write "http://host:port", "socks5h://host:port", or "none""#;
                Ok(Proxies { all: Some(parse(setting).ok_or(fix)?), bypassed, ..Proxies::default() })
            }
        }
    }

    /// The proxy for a URL; `None` is the direct way.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match (&self.all, url.scheme()) {
            (Some(all), _) => all,
            (None, "https") => self.https.as_ref()?,
            (None, _) => self.http.as_ref()?,
        };
        let own = self.all.is_none() && is_loopback(url);
        (!own && !self.bypassed.iter().any(|entry| covers(entry, url))).then_some(proxy)
    }

    /// Whether a name is that of a proxy, whose address is the operator's choice.
    pub(super) fn is_proxy(&self, host: &str) -> bool {
        let mut proxies = [&self.all, &self.http, &self.https].into_iter().flatten();
        proxies.any(|proxy| proxy.host_str().is_some_and(|name| name.eq_ignore_ascii_case(host)))
    }
}

/// A proxy as it may be shown: without its user and password.
pub(super) fn shown(proxy: &Url) -> String {
    let port = proxy.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", proxy.scheme(), proxy.host_str().unwrap_or_default())
}

fn parse(text: &str) -> Option<Url> {
    let text = text.trim();
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) }.ok()?;
    let known = matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    (known && url.host_str().is_some_and(|host| !host.is_empty())).then_some(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether an entry of `NO_PROXY` covers a URL: `*`, a domain with what is below it, an address or a range of them, each
/// perhaps with a port. A domain that begins with a dot is what is below it alone.
fn covers(entry: &str, url: &Url) -> bool {
    let address: Option<IpAddr> = match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        _ => None,
    };
    if let Some(address) = address
        && let Ok(network) =
            entry.parse::<IpNet>().or_else(|_| entry.trim_matches(['[', ']']).parse::<IpAddr>().map(IpNet::from))
    {
        return network.contains(&address);
    }
    let (entry, port) = match entry.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') || host_is_bracketed(entry) => {
            (host, port.parse().ok())
        }
        _ => (entry, None),
    };
    if port.is_some_and(|port: u16| Some(port) != url.port_or_known_default()) {
        return false;
    }
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let name = entry.trim_start_matches('*').trim_end_matches('.');
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    match name.strip_prefix('.') {
        Some(domain) => below(domain),
        None => name.is_empty() || host == name || below(name),
    }
}

fn host_is_bracketed(entry: &str) -> bool {
    entry.starts_with('[') && entry.contains("]:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(setting: &str, variables: &[(&str, &str)]) -> Result<Proxies, &'static str> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Proxies::new(setting, move |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    fn way(proxies: &Proxies, url: &str) -> String {
        proxies.of(&Url::parse(url).unwrap()).map(shown).unwrap_or_default()
    }

    #[test]
    fn the_way_out_is_the_settings_or_the_environments() {
        let (http, https) = (("HTTP_PROXY", "http://a:1"), ("https_proxy", "u:p@b:2"));
        for (setting, variables, url, expected) in [
            ("", &[][..], "https://r.example", ""),
            ("", &[http, https], "https://r.example", "http://b:2"),
            ("", &[http, https], "http://r.example", "http://a:1"),
            ("", &[("all_proxy", "socks5h://c:3")], "http://r.example", "socks5h://c:3"),
            ("", &[("ALL_PROXY", "socks5://c:3"), https], "https://r.example", "http://b:2"),
            ("", &[https], "http://r.example", ""),
            ("", &[http], "http://127.0.0.1:5000", ""),
            ("", &[http], "http://localhost:5000", ""),
            ("", &[("HTTPS_PROXY", "ftp://x")], "https://r.example", ""),
            ("none", &[http, https], "https://r.example", ""),
            ("off", &[http, https], "https://r.example", ""),
            ("http://me:secret@d:4", &[http, https], "https://r.example", "http://d:4"),
            ("http://d:4", &[], "http://127.0.0.1:5000", "http://d:4"),
            ("http://d:4", &[("NO_PROXY", "r.example")], "https://r.example", ""),
        ] {
            let proxies = with(setting, variables).unwrap();
            assert_eq!(way(&proxies, url), expected, "{setting:?} {variables:?} {url}");
        }
        for bad in ["ftp://x", "http://", "://", "none "] {
            assert!(with(bad, &[]).is_err() || bad == "none ", "{bad}");
        }
    }

    #[test]
    fn no_proxy_covers_names_addresses_ranges_and_ports() {
        for (entries, url, covered) in [
            ("*", "https://r.example", true),
            ("r.example", "https://r.example", true),
            ("example", "https://r.example", true),
            (".example", "https://r.example", true),
            ("*.example", "https://r.example", true),
            (".r.example", "https://r.example", false),
            ("ample", "https://r.example", false),
            ("other, R.Example", "https://r.example", true),
            ("r.example:443", "https://r.example", true),
            ("r.example:5000", "https://r.example", false),
            ("10.0.0.0/8", "https://10.1.2.3", true),
            ("10.1.2.3", "https://10.1.2.3:5000", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("fd00::/8", "https://[fd00::1]", true),
            ("::1", "https://[::1]:5000", true),
            ("10.1.2.3:5000", "https://10.1.2.3:5000", true),
            ("10.1.2.3:5000", "https://10.1.2.3", false),
            ("[fd00::1]:5000", "https://[fd00::1]:5000", true),
            ("[fd00::1]", "https://[fd00::1]:5000", true),
            ("r.example.", "https://r.example", true),
            (" , ,r.example\t", "https://r.example", true),
            ("", "https://r.example", false),
        ] {
            let proxies = with("http://p:1", &[("NO_PROXY", entries)]).unwrap();
            assert_eq!(way(&proxies, url).is_empty(), covered, "{entries:?} {url}");
        }
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let proxies = with("http://me:secret@d:4", &[]).unwrap();
        assert!(!way(&proxies, "https://r.example").contains("secret"));
        assert!(proxies.is_proxy("D") && !proxies.is_proxy("me"));
    }
}
