//! One request, and what was read from it: its kind, and the repository and reference that it is about.

use std::net::SocketAddr;

use super::fault::Asked;
use super::log::Kind;
use super::settings::Settings;
use super::tokens;
use super::wire::Request;

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Registry,
    Cdn,
}

/// A request and what was read from it.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) request: Request,
    pub(super) from: SocketAddr,
    pub(super) kind: Kind,
    pub(super) repository: String,
    pub(super) reference: String,
    /// The registry as the client named it, for the realm; and the CDN on the same host.
    pub(super) authority: String,
    pub(super) cdn_authority: String,
}

impl Exchange {
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            kind: self.kind,
            repository: &self.repository,
            reference: &self.reference,
            method: &self.request.method,
        }
    }

    pub(super) fn new(request: Request, from: SocketAddr, port: Port, settings: &Settings) -> Exchange {
        let (kind, repository, reference) = match port {
            Port::Registry => classify(&request, &settings.token_path),
            Port::Cdn => at_the_cdn(&request),
        };
        let named = request.header("host").filter(|host| plain(host));
        let host = named.and_then(host_of).map_or_else(|| settings.registry.ip().to_string(), str::to_owned);
        Exchange {
            authority: format!("{host}:{}", settings.registry.port()),
            cdn_authority: format!("{host}:{}", settings.cdn.port()),
            from,
            kind,
            repository,
            reference,
            request,
        }
    }
}

/// What a request at the registry's port is for. Paths are read from the right, since names may hold anything.
fn classify(request: &Request, token_path: &str) -> (Kind, String, String) {
    let other = || (Kind::Other, String::new(), String::new());
    let path = request.path();
    let (get, head) = (request.method == "GET", request.method == "HEAD");
    if path == token_path {
        let scopes = request.query().into_iter().filter(|(key, _)| key == "scope").map(|(_, scope)| scope);
        let form = url::form_urlencoded::parse(&request.body).into_owned();
        let scopes = scopes.chain(form.filter(|(key, _)| key == "scope").map(|(_, scope)| scope));
        let repository = scopes.into_iter().find_map(|scope| tokens::pulled(&scope).map(str::to_owned));
        return (Kind::Token, repository.unwrap_or_default(), String::new());
    }
    if !(get || head) {
        return other();
    }
    if path == "/v2/" || path == "/v2" {
        return (Kind::Ping, String::new(), String::new());
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return other() };
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return (Kind::Tags, name.to_owned(), String::new());
    }
    for (part, on_get, on_head) in [
        ("/manifests/", Kind::ManifestGet, Kind::ManifestHead),
        ("/blobs/", Kind::BlobGet, Kind::BlobHead),
        ("/referrers/", Kind::Referrers, Kind::Other),
    ] {
        if let Some((name, reference)) = rest.rsplit_once(part) {
            return (if get { on_get } else { on_head }, name.to_owned(), reference.to_owned());
        }
    }
    other()
}

/// The digest and, from the signed query, the repository of a request at the CDN.
fn at_the_cdn(request: &Request) -> (Kind, String, String) {
    let kind = match request.method.as_str() {
        "GET" => Kind::CdnGet,
        "HEAD" => Kind::CdnHead,
        _ => Kind::Other,
    };
    let hex = request.path().strip_suffix("/data").and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    (kind, request.asks("repository").unwrap_or_default(), format!("sha256:{hex}"))
}

/// Whether a `Host` may be put into a header.
fn plain(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

fn host_of(authority: &str) -> Option<&str> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    Some(host).filter(|host| !host.is_empty())
}
