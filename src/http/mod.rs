//! What a registry client sees: the route table, and nothing else in this file.
//!
//! One actix-http service answers the whole of `/v2/`; there is no `App` and no router above it, because the path is the
//! only thing to route by and `path.rs` reads it better from the right. A request goes `path` → [`route`](crate::route) →
//! `admit` → the file that is named after its resource → [`Mirror`]. What is warm is answered
//! without an await or an allocation for the future; everything else is one boxed future.
//!
//! Below the service lies `connection.rs`, which is where slow and dishonest clients are dealt with, and above it nothing.

mod admit;
mod api;
mod body;
mod metrics;
#[cfg(test)]
mod raw;
mod request_body;
mod request_context;
mod request_scope;
mod wire;

use std::{
    convert::Infallible,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{Method, Request, StatusCode, header::HeaderValue};
use actix_service::Service;
use bytes::Bytes;
use tokio::sync::Semaphore;

pub use metrics::Metrics;
pub use wire::{
    server::{Listener, Serving, Settings, serve},
    tls::Certificate,
};

use self::{
    admit::{Gate, LoginError},
    api::{
        blobs,
        error::{self, ApiError},
        headers, listings, manifests,
        path::{self, Resource},
        query, range, referrers, uploads,
    },
    metrics::Kind,
    request_context::{HERE, RequestContext, ResponseFuture, TargetRepository},
    request_scope::RequestScope,
    wire::{
        body_length,
        connection::{self, ConnectionState},
        connection_limit, head_end, protocol_error, sendfile, stream,
    },
};
use crate::{
    client::Client,
    hosted::Hosted,
    limits::permit::{Denied, RequestInfo, RequestKind},
    mirror::{Lookup, Mirror},
    route::{RequestedName, Route, Routes},
};

/// The methods of what is mirrored, and of every list.
const READ: &str = "GET, HEAD";

/// Headers of a request, in bytes, names and values together. Enough for any client seen; a token of a kilobyte fits well.
const MOST_HEADER_BYTES: usize = 32 << 10;

/// Headers that actix-http takes, and refuses more by itself.
const MOST_HEADERS: usize = 96;

/// Everything a request may need. One for all workers.
pub(crate) struct Registry {
    pub(crate) mirror: Mirror,
    pub(crate) routes: Routes,
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    pub(crate) hosted: Hosted,
    pub(crate) body_stall: Duration,
    /// One for each manifest that is being pushed.
    pub(crate) documents: Arc<Semaphore>,
}

/// The service of one worker.
#[derive(Clone)]
pub(crate) struct Endpoint(pub(crate) Arc<Registry>);

impl Service<Request> for Endpoint {
    type Response = actix_http::Response<body::Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, request: Request) -> ResponseFuture {
        let shared = request
            .conn_data::<Rc<ConnectionState>>()
            .cloned()
            .unwrap_or_else(|| ConnectionState::new(request.peer_addr(), false));
        let turn = RequestScope::begin(shared, self.0.metrics.clone(), request.head());
        let exchange = RequestContext { request, turn };
        let client = self.0.gate.at_once(exchange.turn.shared(), exchange.head());
        match client {
            Some(client) => dispatch(&self.0, exchange, client),
            None => {
                let registry = self.0.clone();
                ResponseFuture::later(async move {
                    let client = registry.gate.identify(exchange.turn.shared(), exchange.head()).await;
                    match client {
                        Ok(client) => match dispatch(&registry, exchange, client).await {
                            Ok(response) => response,
                            Err(never) => match never {},
                        },
                        Err(LoginError::Wrong) => exchange.fail(&ApiError::Login, None, None),
                        Err(LoginError::Unverified(error)) => exchange.fail(&ApiError::Unverified(error), None, None),
                    }
                })
            }
        }
    }
}

/// The route table.
fn dispatch(registry: &Registry, mut exchange: RequestContext, client: Arc<Client>) -> ResponseFuture {
    let resource = path::parse(exchange.request.uri().path());
    if let Err(denied) = admit(registry, &mut exchange, client.clone(), resource.as_ref().ok()) {
        return ResponseFuture::now(exchange.fail(&ApiError::Denied(Arc::from(denied)), None, None));
    }
    let resource = match resource {
        Ok(resource) => resource,
        Err(bad) => return ResponseFuture::now(exchange.fail(&ApiError::Path(bad), None, None)),
    };
    let header_bytes: usize =
        exchange.head().headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > MOST_HEADER_BYTES {
        return ResponseFuture::now(exchange.fail(&ApiError::HeadTooLarge, None, None));
    }
    if exchange.query().is_some_and(|query| query.len() > query::LONGEST_QUERY) {
        return ResponseFuture::now(exchange.fail(&ApiError::Query(query::QueryError::TooLong), None, None));
    }
    exchange.turn.is_for(kind(&resource));
    match resource {
        Resource::Ping(asked) => ResponseFuture::now(ping(registry, exchange, asked.as_deref(), &client)),
        Resource::Catalog(_) if !reads(&exchange) => {
            ResponseFuture::now(exchange.fail(&ApiError::Method(READ), None, None))
        }
        Resource::Catalog(only) => listings::catalog(registry, exchange, only.as_deref(), client),
        Resource::Manifest(asked, reference) => match place(registry, &exchange, client, &asked) {
            Ok(At::Mirrored(place)) => {
                reading(exchange, place, |exchange, place| manifests::answer(registry, exchange, place, reference))
            }
            Ok(At::Hosted(place)) => manifests::hosted(registry, exchange, place, reference),
            Err(failure) => ResponseFuture::now(exchange.fail(&failure, None, None)),
        },
        Resource::Blob(asked, digest) => match place(registry, &exchange, client, &asked) {
            Ok(At::Mirrored(place)) => {
                reading(exchange, place, |exchange, place| blobs::answer(registry, exchange, place, digest))
            }
            Ok(At::Hosted(place)) => blobs::hosted(registry, exchange, place, digest),
            Err(failure) => ResponseFuture::now(exchange.fail(&failure, None, None)),
        },
        Resource::Tags(asked) => match place(registry, &exchange, client, &asked) {
            Ok(At::Mirrored(place)) => {
                reading(exchange, place, |exchange, place| listings::tags(registry, exchange, place))
            }
            Ok(At::Hosted(place)) => listings::hosted(registry, exchange, place),
            Err(failure) => ResponseFuture::now(exchange.fail(&failure, None, None)),
        },
        Resource::Referrers(asked, digest) => match place(registry, &exchange, client, &asked) {
            Ok(At::Mirrored(place)) => {
                reading(exchange, place, |exchange, place| referrers::answer(registry, exchange, place, digest))
            }
            Ok(At::Hosted(place)) => referrers::hosted(registry, exchange, place, digest),
            Err(failure) => ResponseFuture::now(exchange.fail(&failure, None, None)),
        },
        // No method at all is allowed on the upload of what cannot be uploaded; RFC 9110 writes that as an empty `Allow`.
        Resource::Upload(asked, id) => match place(registry, &exchange, client, &asked) {
            Ok(At::Hosted(place)) => uploads::answer(registry, exchange, place, id),
            Ok(At::Mirrored(place)) => ResponseFuture::now(exchange.fail(&ApiError::Method(""), Some(&place), None)),
            Err(failure) => ResponseFuture::now(exchange.fail(&failure, None, None)),
        },
    }
}

/// Identity → ban → throttle. A GET of a manifest is a pull; a HEAD shows no message when it is refused, and is free. What names nothing
/// counts like anything else.
fn admit(
    registry: &Registry,
    exchange: &mut RequestContext,
    client: Arc<Client>,
    resource: Option<&Resource>,
) -> Result<(), Box<Denied>> {
    let (repository, reference, kind) = match resource {
        Some(Resource::Ping(_)) => (None, None, RequestKind::Ping),
        Some(Resource::Manifest(asked, reference)) => {
            let kind = if exchange.turn.is_head() { RequestKind::Registry } else { RequestKind::Pull };
            (Some(asked), Some(reference.to_string()), kind)
        }
        Some(Resource::Blob(asked, digest) | Resource::Referrers(asked, digest)) => {
            (Some(asked), Some(digest.to_string()), RequestKind::Registry)
        }
        Some(Resource::Tags(asked) | Resource::Upload(asked, _)) => (Some(asked), None, RequestKind::Registry),
        Some(Resource::Catalog(_)) | None => (None, None, RequestKind::Registry),
    };
    let repository = repository.map(|asked| asked.name.as_str()).unwrap_or_default();
    let reference = reference.unwrap_or_default();
    let about = RequestInfo { method: exchange.turn.method().as_str(), repository, reference: &reference };
    let permit = registry.gate.admit(client, exchange.turn.shared(), exchange.head(), kind, about)?;
    exchange.turn.admitted(permit, registry.gate.limits.clone());
    Ok(())
}

/// Where a name leads. What is mirrored is read-only by being another variant than what is hosted.
enum At {
    Mirrored(TargetRepository),
    Hosted(TargetRepository),
}

/// Refuses what is no reading of what is mirrored, whoever asks.
fn reading(
    exchange: RequestContext,
    place: TargetRepository,
    read: impl FnOnce(RequestContext, TargetRepository) -> ResponseFuture,
) -> ResponseFuture {
    match reads(&exchange) {
        true => read(exchange, place),
        false => ResponseFuture::now(exchange.fail(&ApiError::Method(READ), Some(&place), None)),
    }
}

fn place(
    registry: &Registry,
    exchange: &RequestContext,
    client: Arc<Client>,
    asked: &RequestedName,
) -> Result<At, ApiError> {
    let ns = match exchange.query() {
        Some(query) => query::value(Some(query), "ns").map_err(ApiError::Query)?,
        None => None,
    };
    let misses = exchange.turn.admission().and_then(|(permit, _)| permit.misses.as_deref());
    let cached_only = misses.map(|denied| Arc::new(denied.clone()));
    match registry.routes.find(asked, ns.as_deref()) {
        Some(Route::Mirrored(found)) => {
            let namespace = ns.filter(|_| found.by_namespace).and_then(|ns| HeaderValue::from_str(&ns).ok());
            let ask = Lookup { upstream: found.upstream, repository: found.repository, client, cached_only };
            Ok(At::Mirrored(TargetRepository { ask, namespace }))
        }
        Some(Route::Hosted(repository)) => {
            // As its name says, and whether it exists or not, so that nothing is told by it.
            let challenged = exchange.turn.shared().login
                && matches!(client.key, crate::client::ClientKey::Address(_))
                && registry.hosted.is_private(&repository);
            if challenged {
                return Err(ApiError::Login);
            }
            thread_local!(static HERE_NAME: Arc<str> = Arc::from(HERE));
            let ask = Lookup { upstream: HERE_NAME.with(Arc::clone), repository, client, cached_only };
            Ok(At::Hosted(TargetRepository { ask, namespace: None }))
        }
        None => {
            let written = asked.registry.as_deref().or(ns.as_deref()).unwrap_or_default();
            Err(ApiError::UnknownRegistry(written.into()))
        }
    }
}

/// `GET /v2/` (end-1): it always answers, also who is banned, because clients give up on a registry whose ping fails.
fn ping(
    registry: &Registry,
    mut exchange: RequestContext,
    asked: Option<&str>,
    client: &Client,
) -> actix_http::Response<body::Body> {
    if !reads(&exchange) {
        return exchange.fail(&ApiError::Method(READ), None, None);
    }
    if let Some(asked) = asked.filter(|asked| registry.routes.upstream(asked).is_none()) {
        return exchange.fail(&ApiError::UnknownRegistry(asked.into()), None, None);
    }
    if exchange.turn.shared().login && matches!(client.key, crate::client::ClientKey::Address(_)) {
        return exchange.fail(&ApiError::Login, None, None);
    }
    let mut all = exchange.headers(None, None);
    all.insert(actix_http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    exchange.bytes(StatusCode::OK, all, Bytes::from_static(b"{}"))
}

fn reads(exchange: &RequestContext) -> bool {
    matches!(*exchange.request.method(), Method::GET | Method::HEAD)
}

fn kind(resource: &Resource) -> Kind {
    match resource {
        Resource::Ping(_) => Kind::Ping,
        Resource::Catalog(_) => Kind::Catalog,
        Resource::Manifest(..) => Kind::Manifest,
        Resource::Blob(..) => Kind::Blob,
        Resource::Upload(..) => Kind::Upload,
        Resource::Tags(_) => Kind::Tags,
        Resource::Referrers(..) => Kind::Referrers,
    }
}

#[cfg(test)]
mod tests;
