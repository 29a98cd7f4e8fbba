//! Pages of a list: `n` and `last` of a request, and the `Link` to the next page.

use actix_http::header::HeaderValue;

use super::{
    query::{self, QueryError},
    request::Request,
};
use crate::oci::Page;

/// Entries of a page when the client names a larger number, and of a catalog when it names none. A list of tags without `n`
/// comes whole, as the spec asks.
pub(super) const MAX_ENTRIES: usize = 1000;

/// `n` and `last` of a request (end-8b).
pub(super) struct Paging {
    pub(super) n: Option<usize>,
    pub(super) last: Option<String>,
}

impl Paging {
    pub(super) fn of(request: &Request) -> Result<Paging, QueryError> {
        Ok(Paging {
            n: query::count(request.query())?.map(|n| n.min(MAX_ENTRIES)),
            last: query::value(request.query(), "last")?.map(|last| last.into_owned()),
        })
    }
}

/// The next page (RFC 8288), as a path: what host and scheme the client used is nothing a request can be believed about.
pub(super) fn link<T: AsRef<str>>(request: &Request, page: &Page<'_, T>) -> Option<HeaderValue> {
    let last = page.entries.last().filter(|_| page.more)?;
    let ns = query::value(request.query(), "ns").ok().flatten();
    let ns = ns.map_or(String::new(), |ns| format!("&ns={}", query::encode(&ns)));
    let (path, last) = (request.path(), query::encode(last.as_ref()));
    HeaderValue::try_from(format!("<{path}?n={}&last={last}{ns}>; rel=\"next\"", page.entries.len())).ok()
}
