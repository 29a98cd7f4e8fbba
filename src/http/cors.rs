//! Pages of other origins that may use the registry from a browser: `server.cors` (Fetch standard, "CORS protocol"). Pure.

use std::{fmt, str::FromStr};

use actix_http::{
    Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
    },
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::api::Reply;

/// What a page may do; a method that a resource does not have is refused like any other.
const METHODS: &str = "GET, HEAD, POST, PATCH, PUT, DELETE";
/// What a page may send.
const SENT: &str =
    "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range, X-Request-Id";
/// What a page may read besides Content-Type, Content-Length and Cache-Control.
const READ: &str = "Age, Content-Range, Docker-Content-Digest, Docker-Upload-UUID, ETag, Link, Location, \
     OCI-Chunk-Min-Length, OCI-Filters-Applied, OCI-Subject, OCI-Tag, Range, RateLimit, RateLimit-Limit, RateLimit-Policy, \
     RateLimit-Remaining, Retry-After, Warning, WWW-Authenticate, X-Cache, X-Request-Id";
/// How long a browser may keep the answer to a preflight, in seconds.
const MAX_AGE: &str = "3600";

/// An origin as browsers write it, such as `https://ui.example:8443`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        let is_origin = |url: Url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.origin().ascii_serialization() == text
        };
        let value = HeaderValue::from_str(text).ok().filter(|_| text == "*" || Url::parse(text).is_ok_and(is_origin));
        value.map(Origin).ok_or_else(|| {
            r#"not an origin; write one as browsers send it, such as "https://ui.example:8443", without a path, or "*""#
                .to_owned()
        })
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Origin, String> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// What the page of a request is allowed.
#[derive(Clone, Debug)]
pub(crate) enum Allowed {
    /// Nothing, and another page might be.
    Nothing,
    /// To read what anyone may read: any origin is allowed, and none may send a credential.
    Public,
    /// To read and write as the user whose credentials the browser sends.
    Page(HeaderValue),
}

/// What is allowed to the page that sent these headers; `None` when `server.cors` names no origin.
pub(crate) fn allowed(origins: &[Origin], headers: &HeaderMap) -> Option<Allowed> {
    if origins.is_empty() {
        return None;
    }
    let page = headers.get(ORIGIN).filter(|page| *page != "*");
    let is_listed = |page: &&HeaderValue| origins.iter().any(|origin| origin.0 == **page);
    Some(match page.filter(is_listed) {
        Some(page) => Allowed::Page(page.clone()),
        None if page.is_some() && origins.iter().any(|origin| origin.0 == "*") => Allowed::Public,
        None => Allowed::Nothing,
    })
}

impl Allowed {
    /// The answer to a preflight; `None` for any other request, and for a page that is allowed nothing.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Reply> {
        let asks = *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || matches!(self, Allowed::Nothing) {
            return None;
        }
        let mut reply = Reply::new(StatusCode::NO_CONTENT);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, SENT),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            reply.headers.insert(name, HeaderValue::from_static(value));
        }
        Some(reply)
    }

    /// Adds what every answer says. A cache between must not give one page's answer to another.
    pub(crate) fn add(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let page = match self {
            Allowed::Nothing => return,
            Allowed::Public => HeaderValue::from_static("*"),
            Allowed::Page(page) => {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                page.clone()
            }
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
    }
}
