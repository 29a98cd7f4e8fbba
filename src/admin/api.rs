//! The JSON API: from a path's endpoints to the answer.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use serde_json::json;

use super::{
    archives,
    authorize::{self, Authorized},
    bans, budget, cache,
    endpoint::{Endpoint, OPENAPI, ROUTES},
    findings, image_report,
    json::{refuse, reply},
    metrics,
    state::State,
    status, throttles, verify, warm, what_if,
};
use crate::mirror::Check;

/// Makes every path of the table known to the router.
pub(super) fn register(config: &mut web::ServiceConfig) {
    let mut paths: Vec<&str> = ROUTES.iter().map(|(_, path, _)| *path).collect();
    paths.dedup();
    for path in paths {
        let handler = move |request: HttpRequest, payload: web::Payload, state: web::Data<State>| async move {
            answer(&state, &request, path, payload).await
        };
        config.service(web::resource(path).to(handler));
    }
}

async fn answer(state: &State, request: &HttpRequest, path: &str, payload: web::Payload) -> HttpResponse {
    let method = if *request.method() == Method::HEAD { "GET" } else { request.method().as_str() };
    let here = || ROUTES.iter().filter(|(_, route, _)| *route == path);
    let Some((method, _, endpoint)) = here().find(|(allowed, ..)| *allowed == method) else {
        let mut response = refuse(405, "UNSUPPORTED", "this endpoint does not take this method");
        let methods: Vec<_> = here().map(|(allowed, ..)| *allowed).collect();
        if let Ok(allow) = header::HeaderValue::from_str(&methods.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return response;
    };
    let authorized = match authorize::authorize(state, request, *endpoint, endpoint.access(method)).await {
        Ok(authorized) => authorized,
        Err(refusal) => return refusal,
    };
    let mut response = dispatch(state, request, payload, *endpoint, &authorized).await;
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
    let id = request.match_info().get("id").unwrap_or_default();
    match endpoint {
        Endpoint::Health => reply(200, &json!({"status": "ok"})),
        Endpoint::Ready => ready(state, query).await,
        Endpoint::Metrics => metrics::metrics(state, request).await,
        Endpoint::Status => status::show(state).await,
        Endpoint::History => status::history(state, query),
        Endpoint::Budget => reply(200, &budget::budget(state)),
        Endpoint::WhatIf => what_if::show(state, query),
        Endpoint::Spends => budget::spends(state, query),
        Endpoint::Explain => budget::explain(state, query).await,
        Endpoint::CachedImages => cache::list(state, query),
        Endpoint::CachedImage => cache::show(state, query),
        Endpoint::CachedRegistries => cache::registries(state, query),
        Endpoint::CachedRepositories => cache::repositories(state, query),
        Endpoint::Purge => cache::purge(state, authorized, query).await,
        Endpoint::Refresh => cache::refresh(state, authorized, payload).await,
        Endpoint::Pins => cache::pins(state),
        Endpoint::Pin => cache::pin(state, authorized, payload).await,
        Endpoint::Unpin => cache::unpin(state, authorized, query).await,
        Endpoint::ExportImages => archives::export(state, authorized, query).await,
        Endpoint::ImportImages => archives::import(state, authorized, query, payload).await,
        Endpoint::RepositoryRules => cache::rules(state),
        Endpoint::ImageReport => image_report::show(state, request, query).await,
        Endpoint::Policies => image_report::policies(state),
        Endpoint::Findings => findings::list(state, request, query).await,
        Endpoint::KeepScan => image_report::keep_scan(state, authorized, payload).await,
        Endpoint::Warms => warm::list(state),
        Endpoint::Warm => warm::start(state, authorized, payload).await,
        Endpoint::OneWarm => warm::one(state, id, query),
        Endpoint::CancelWarm => warm::cancel(state, authorized, id, query).await,
        Endpoint::Verify => verify::start(state, query),
        Endpoint::Verification => verify::status(state),
        Endpoint::Clients => throttles::clients(state, query),
        Endpoint::Throttles => throttles::list(state),
        Endpoint::Switch => throttles::switch(state, authorized, payload).await,
        Endpoint::Bans => bans::list(state, query),
        Endpoint::Ban => bans::add(state, authorized, payload).await,
        Endpoint::Export => bans::export(state),
        Endpoint::Import => bans::import(state, authorized, query, payload).await,
        Endpoint::OneBan => bans::one(state, id),
        Endpoint::Lift => bans::lift(state, authorized, id, payload).await,
        Endpoint::Audit => throttles::audit(state, query),
        Endpoint::OpenApi => HttpResponse::Ok().content_type("application/json").body(OPENAPI),
    }
}

/// Whether to send this process requests. An upstream that is down or a disk that takes no writes is no reason against it, since
/// what is cached goes on being served; `?verbose` says what is wrong.
async fn ready(state: &State, query: &str) -> HttpResponse {
    let reasons: &[&str] = if state.draining.has_begun() { &["draining"] } else { &[] };
    let status = if reasons.is_empty() { 200 } else { 503 };
    let mut json = json!({"ready": reasons.is_empty(), "reasons": reasons});
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "verbose") {
        let check =
            |check: &Check| json!({"name": check.name, "ok": check.problem.is_none(), "problem": check.problem});
        json["checks"] = state.mirror.health().await.iter().map(check).collect();
    }
    reply(status, &json)
}
