//! The second listener: health, metrics, the JSON API, and pages for people; and the API once more on a local socket, where no
//! throttle and no login stands between an operator and the way out of what they configured.
//!
//! One table, `ROUTES`, says what there is for programs; the OpenAPI document is held to it by a test. `pages` has its
//! own. Whatever is asked passes `origin` first, which decides from the request's head alone: health is everybody's, and everything else is for the
//! host names, origins and people that were configured.

mod authorize;
mod bans;
mod budget;
mod cache;
mod connections;
mod metrics;
mod origin;
mod pages;
mod server;
mod throttles;
mod verify;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix_web::{HttpRequest, HttpResponse, http::Method, web};
use serde_json::{Value, json};

use self::authorize::Authorized;
pub use self::{
    origin::AllowedHosts,
    server::{Dependencies, Serving, serve},
};
use crate::{
    identity::Authenticator,
    limits::{Limits, permit::RequestKind},
    mirror::Mirror,
    route::Routes,
};

/// How the admin listener behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host names under which it is asked.
    pub hosts: AllowedHosts,
    /// Whether an account is required in any case: unless the listener is on loopback.
    pub login: bool,
    /// For names without a registry, or with one.
    pub routes: Routes,
}

/// Whether this process wants to be asked: false from the first moment of a drain. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on `/readyz` says 503.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What every request may need.
struct State {
    settings: Settings,
    mirror: Mirror,
    limits: Limits,
    metrics: prometheus_client::registry::Registry,
    draining: Draining,
    authenticator: Authenticator,
    pages: pages::Pages,
    settle: Settle,
}

/// Resolves when what was decided so far is on disk, or with the reason why it is not. `main` gives it.
pub type Settle = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>>>> + Send + Sync>;

impl State {
    /// The answer to a change, once the change is on disk: a client that was told of it finds it after a crash.
    async fn settled(&self, answer: HttpResponse) -> HttpResponse {
        match (self.settle)().await {
            Err(error) if answer.status().is_success() || answer.status().is_redirection() => {
                let message = format!("this is in force, but cannot be written, so a restart forgets it: {error}");
                refuse(507, "UNKNOWN", &message)
            }
            _ => answer,
        }
    }
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Ready,
    Metrics,
    Budget,
    Spends,
    Explain,
    Purge,
    Verify,
    Verification,
    Clients,
    Throttles,
    Switch,
    Bans,
    Ban,
    Export,
    Import,
    OneBan,
    Lift,
    Audit,
    OpenApi,
}

/// A component in braces stands for any; the first that matches is meant.
const ROUTES: [(&str, &str, Endpoint); 20] = [
    ("GET", "/healthz", Endpoint::Health),
    ("GET", "/readyz", Endpoint::Ready),
    ("GET", "/metrics", Endpoint::Metrics),
    ("GET", "/api/v1/budget", Endpoint::Budget),
    ("GET", "/api/v1/spends", Endpoint::Spends),
    ("GET", "/api/v1/explain", Endpoint::Explain),
    ("DELETE", "/api/v1/cache", Endpoint::Purge),
    ("POST", "/api/v1/verify", Endpoint::Verify),
    ("GET", "/api/v1/verify", Endpoint::Verification),
    ("GET", "/api/v1/clients", Endpoint::Clients),
    ("GET", "/api/v1/throttles", Endpoint::Throttles),
    ("POST", "/api/v1/throttles", Endpoint::Switch),
    ("GET", "/api/v1/bans", Endpoint::Bans),
    ("POST", "/api/v1/bans", Endpoint::Ban),
    ("GET", "/api/v1/bans/export", Endpoint::Export),
    ("POST", "/api/v1/bans/import", Endpoint::Import),
    ("GET", "/api/v1/bans/{id}", Endpoint::OneBan),
    ("POST", "/api/v1/bans/{id}/lift", Endpoint::Lift),
    ("GET", "/api/v1/audit", Endpoint::Audit),
    ("GET", "/api/v1/openapi.json", Endpoint::OpenApi),
];

/// Every endpoint, as a program reads it.
const OPENAPI: &str = include_str!("openapi.json");

impl Endpoint {
    /// Whether it answers anybody at any address: probes know no password and no name.
    fn is_health(self) -> bool {
        matches!(self, Endpoint::Health | Endpoint::Ready)
    }

    /// What it counts for. Probes and scrapers count for nothing.
    fn kind(self) -> RequestKind {
        match self {
            Endpoint::Health | Endpoint::Ready | Endpoint::Metrics => RequestKind::Ping,
            _ => RequestKind::AdminApi,
        }
    }
}

/// The endpoint, or the methods that there are at that path (none: there is no such path).
fn find(method: &Method, path: &str) -> Result<Endpoint, Vec<&'static str>> {
    let asked = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let first = ROUTES.iter().find(|(_, route, _)| matches(route, path)).map_or("", |(_, route, _)| route);
    let at: Vec<_> = ROUTES.iter().filter(|(_, route, _)| *route == first).collect();
    match at.iter().find(|(allowed, ..)| *allowed == asked) {
        Some((.., endpoint)) => Ok(*endpoint),
        None => Err(at.iter().map(|(allowed, ..)| *allowed).collect()),
    }
}

fn matches(route: &str, path: &str) -> bool {
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted == given || wanted.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

/// A component of the path.
fn component(path: &str, number: usize) -> &str {
    path.split('/').nth(number).unwrap_or_default()
}

async fn answer(state: &State, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    if let Some(page) = pages::Page::find(request.path()) {
        return pages::answer(state, request, page, payload).await;
    }
    let endpoint = match find(request.method(), request.path()) {
        Ok(endpoint) => endpoint,
        Err(methods) if methods.is_empty() => return refuse(404, "NOT_FOUND", "there is no such endpoint"),
        Err(methods) => {
            let mut response = refuse(405, "UNSUPPORTED", "this endpoint does not take this method");
            let allow = actix_web::http::header::HeaderValue::from_str(&methods.join(", "));
            if let Ok(allow) = allow {
                response.headers_mut().insert(actix_web::http::header::ALLOW, allow);
            }
            return response;
        }
    };
    let authorized = match authorize::authorize(state, request, endpoint).await {
        Ok(authorized) => authorized,
        Err(refusal) => return refusal,
    };
    let mut response = dispatch(state, request, payload, endpoint, &authorized).await;
    authorized.tell(response.headers_mut());
    response
}

async fn dispatch(
    state: &State,
    request: &HttpRequest,
    payload: web::Payload,
    endpoint: Endpoint,
    authorized: &Authorized,
) -> HttpResponse {
    let query = request.query_string();
    match endpoint {
        Endpoint::Health => reply(200, &json!({"status": "ok"})),
        Endpoint::Ready => ready(state),
        Endpoint::Metrics => metrics::metrics(state),
        Endpoint::Budget => reply(200, &budget::budget(state)),
        Endpoint::Spends => budget::spends(state, query),
        Endpoint::Explain => budget::explain(state, query),
        Endpoint::Purge => cache::purge(state, query).await,
        Endpoint::Verify => verify::start(state, query),
        Endpoint::Verification => verify::status(state),
        Endpoint::Clients => throttles::clients(state, query),
        Endpoint::Throttles => throttles::list(state),
        Endpoint::Switch => throttles::switch(state, authorized, payload).await,
        Endpoint::Bans => bans::list(state, query),
        Endpoint::Ban => bans::add(state, authorized, payload).await,
        Endpoint::Export => bans::export(state),
        Endpoint::Import => bans::import(state, authorized, query, payload).await,
        Endpoint::OneBan => bans::one(state, component(request.path(), 4)),
        Endpoint::Lift => bans::lift(state, authorized, component(request.path(), 4), payload).await,
        Endpoint::Audit => throttles::audit(state, query),
        Endpoint::OpenApi => HttpResponse::Ok().content_type("application/json").body(OPENAPI),
    }
}

/// Whether to send this process requests. What makes upstream unreachable is no reason: what is cached goes on.
fn ready(state: &State) -> HttpResponse {
    let reasons: &[&str] = if state.draining.has_begun() { &["draining"] } else { &[] };
    let status = if reasons.is_empty() { 200 } else { 503 };
    reply(status, &json!({"ready": reasons.is_empty(), "reasons": reasons}))
}

fn reply(status: u16, body: &Value) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
    HttpResponse::build(status)
        .content_type("application/json")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(body.to_string())
}

/// An error in the shape that registry clients have, too.
fn refuse(status: u16, code: &str, message: &str) -> HttpResponse {
    reply(status, &json!({"errors": [{"code": code, "message": message}]}))
}

/// The value of `key` in a query; the last one, when it is there twice.
fn parameter(query: &str, key: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, value)| name == key && !value.is_empty())
        .last()
        .map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_in_the_openapi_document_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let responses = &operation["responses"];
                assert!(
                    ["200", "201", "202"].iter().any(|status| responses[status].is_object()),
                    "{method} {path} says what it answers"
                );
                described.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut routed: Vec<_> =
            ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn references_in_the_openapi_document_lead_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    map.values().for_each(|value| walk(value, document));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        walk(&document, &document);
    }

    #[test]
    fn a_path_is_found_by_its_method() {
        assert_eq!(find(&Method::GET, "/readyz"), Ok(Endpoint::Ready));
        assert_eq!(find(&Method::HEAD, "/healthz"), Ok(Endpoint::Health));
        assert_eq!(find(&Method::DELETE, "/api/v1/cache"), Ok(Endpoint::Purge));
        assert_eq!(find(&Method::GET, "/api/v1/cache"), Err(vec!["DELETE"]));
        assert_eq!(find(&Method::GET, "/api/v1/nothing"), Err(vec![]));
        assert_eq!(find(&Method::GET, "/api/v1/bans/export"), Ok(Endpoint::Export));
        assert_eq!(find(&Method::GET, "/api/v1/bans/3f2a"), Ok(Endpoint::OneBan));
        assert_eq!(find(&Method::POST, "/api/v1/bans/3f2a/lift"), Ok(Endpoint::Lift));
        assert_eq!(find(&Method::POST, "/api/v1/bans//lift"), Err(vec![]));
    }

    #[test]
    fn a_drain_is_seen_by_everybody_who_shares_it() {
        let draining = Draining::default();
        let other = draining.clone();
        assert!(!other.has_begun());
        draining.begin();
        assert!(other.has_begun());
    }
}
