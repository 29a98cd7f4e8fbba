//! Lists of names: the tags of a repository (end-8) and what the mirror has cached (`_catalog`).

use actix_http::{
    Response,
    header::{HeaderValue, LINK},
};

use crate::http::{
    Registry,
    body::Body,
    error::ApiError,
    query,
    request_context::{RequestContext, ResponseFuture, TargetRepository},
};
use crate::{
    client::Client,
    mirror::TagsAnswer,
    oci::{Page, page},
};

/// Entries of a page when the client names a larger number, and of a catalog when it names none. A list of tags without `n`
/// comes whole, as the spec asks.
const MAX_ENTRIES: usize = 1000;

/// `n` and `last`, understood.
struct Paging {
    n: Option<usize>,
    last: Option<String>,
}

impl Paging {
    fn of(exchange: &RequestContext) -> Result<Paging, ApiError> {
        let query = exchange.query();
        Ok(Paging {
            n: query::count(query).map_err(ApiError::Query)?.map(|n| n.min(MAX_ENTRIES)),
            last: query::value(query, "last").map_err(ApiError::Query)?.map(|last| last.into_owned()),
        })
    }
}

pub(crate) fn tags(registry: &Registry, exchange: RequestContext, place: TargetRepository) -> ResponseFuture {
    let paging = match Paging::of(&exchange) {
        Ok(paging) => paging,
        Err(failure) => return ResponseFuture::now(exchange.fail(&failure, Some(&place), None)),
    };
    if let Err(failure) = exchange.may_miss(&place, "") {
        return ResponseFuture::now(exchange.fail(&failure, Some(&place), None));
    }
    let mirror = registry.mirror.clone();
    ResponseFuture::later(async move {
        match mirror.listings.tags(&place.ask).await {
            Ok(found) => tag_page(exchange, &place, &found, &paging),
            Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), None),
        }
    })
}

/// The tags of a repository that lives here.
pub(crate) fn hosted(registry: &Registry, exchange: RequestContext, place: TargetRepository) -> ResponseFuture {
    if !crate::http::reads(&exchange) {
        return ResponseFuture::now(exchange.fail(&ApiError::NotAllowed(crate::http::READ), Some(&place), None));
    }
    let paging = match Paging::of(&exchange) {
        Ok(paging) => paging,
        Err(failure) => return ResponseFuture::now(exchange.fail(&failure, Some(&place), None)),
    };
    let hosted = registry.hosted.clone();
    ResponseFuture::later(async move {
        match hosted.tags(&place.ask.client, &place.ask.repository).await {
            Ok(found) => tag_page(exchange, &place, &found, &paging),
            Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
        }
    })
}

fn tag_page(exchange: RequestContext, place: &TargetRepository, found: &TagsAnswer, paging: &Paging) -> Response<Body> {
    let names: Vec<&str> = found.tags.iter().map(|tag| tag.as_str()).collect();
    let page = page(&names, paging.last.as_deref(), paging.n);
    let name = exchange.request.uri().path().split_once("/v2/").and_then(|(_, rest)| rest.strip_suffix("/tags/list"));
    let body = serde_json::json!({"name": name.unwrap_or(place.ask.repository.as_str()), "tags": page.entries});
    let link = link(&exchange, &page);
    let mut response = exchange.json("application/json", Some(place), Some(&found.facts), &body);
    if let Some(link) = link {
        response.headers_mut().insert(LINK, link);
    }
    response
}

pub(crate) fn catalog(
    registry: &Registry,
    exchange: RequestContext,
    only: Option<&str>,
    client: std::sync::Arc<Client>,
) -> ResponseFuture {
    let paging = match Paging::of(&exchange) {
        Ok(paging) => paging,
        Err(failure) => return ResponseFuture::now(exchange.fail(&failure, None, None)),
    };
    let only = match only {
        None => None,
        Some(written) => match registry.routes.upstream(written) {
            Some(upstream) => Some(upstream.clone()),
            None => {
                return ResponseFuture::now(exchange.fail(&ApiError::UnknownRegistry(written.into()), None, None));
            }
        },
    };
    let (mirror, routes) = (registry.mirror.clone(), registry.routes.clone());
    let here = if only.is_none() { registry.hosted.catalog(&client) } else { Vec::new() };
    ResponseFuture::later(async move {
        let mut names = match mirror.listings.catalog(&client).await {
            Ok(names) => names,
            Err(error) => return exchange.fail(&ApiError::Mirror(error), None, None),
        };
        if let Some(only) = only {
            // Below `/<registry>/v2/` names stand without their registry.
            let is_default = routes.default_upstream() == Some(&only);
            names = names
                .into_iter()
                .filter_map(|name| match name.split_once('/') {
                    Some((first, rest)) if first == &*only => Some(rest.to_owned()),
                    Some((first, _)) if routes.upstream(first).is_some() => None,
                    _ => is_default.then_some(name),
                })
                .collect();
        }
        if !here.is_empty() {
            names.extend(here);
            names.sort_unstable();
            names.dedup();
        }
        let page = page(&names, paging.last.as_deref(), Some(paging.n.unwrap_or(MAX_ENTRIES)));
        let body = serde_json::json!({"repositories": page.entries});
        let link = link(&exchange, &page);
        let mut response = exchange.json("application/json", None, None, &body);
        if let Some(link) = link {
            response.headers_mut().insert(LINK, link);
        }
        response
    })
}

/// The next page (RFC 8288), as a path: what host and scheme the client used is nothing a request can be believed about.
fn link<T: AsRef<str>>(exchange: &RequestContext, page: &Page<'_, T>) -> Option<HeaderValue> {
    let last = page.entries.last().filter(|_| page.more)?;
    let ns = query::value(exchange.query(), "ns").ok().flatten();
    let ns = ns.map_or(String::new(), |ns| format!("&ns={}", query::encode(&ns)));
    let path = exchange.request.uri().path();
    let link = format!("<{path}?n={}&last={}{ns}>; rel=\"next\"", page.entries.len(), query::encode(last.as_ref()));
    HeaderValue::try_from(link).ok()
}
