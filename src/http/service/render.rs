//! From what a handler gave back to a response: errors, headers, counts and what the limits count, once for all of them.

use std::time::SystemTime;

use actix_http::{
    Method, Response, StatusCode,
    header::{HeaderMap, HeaderValue},
};

use super::{
    body::Body,
    request_id::X_REQUEST_ID,
    scope::{Line, RequestScope},
};
use crate::http::{
    api::{self, ApiError, Content, Reply, Repository, Request, Resource, Subject},
    printable::printable,
    wire::Transfer,
};

/// The response to a request; `request` is `None` when the client was not identified.
pub(crate) fn render(
    mut scope: RequestScope,
    request: Option<&Request>,
    user_agent: Option<&HeaderValue>,
    result: Result<Reply, ApiError>,
) -> Response<Body> {
    let hosted = request.is_some_and(|request| matches!(request.repository, Some(Repository::Hosted(_))));
    let pushes = hosted && matches!(*scope.method(), Method::POST | Method::PATCH | Method::PUT);
    let (mut reply, reason) = match result {
        Ok(reply) => {
            if pushes && reply.status == StatusCode::CREATED {
                scope.pushed(None);
            }
            (reply, None)
        }
        Err(error) => {
            let subject = Subject {
                repository: request.and_then(|request| request.repository.as_ref()).map(Repository::display_name),
                resource: request.and_then(|request| request.resource.as_ref().ok()),
                login: request.and_then(Request::login_address),
            };
            let reply = error.reply(&subject, user_agent);
            if let (Some((permit, limits)), Some(request)) = (scope.admission(), request) {
                let status = reply.status.as_u16();
                request.describe(|info| limits.record_outcome(permit, info, status, SystemTime::now()));
            }
            // The upload goes on, and is counted when it ends.
            if pushes && !(*scope.method() == Method::PATCH && error.is_interruption()) {
                scope.pushed(Some(error.code()));
            }
            if let Some(rule) = error.ban() {
                scope.banned(rule);
            }
            if error.is_over_budget() {
                scope.over_budget();
            }
            // A push without the right to it has no rule: it is a mistake of the pusher, and no denial.
            if reply.status == StatusCode::FORBIDDEN && error.rule().is_some() {
                scope.forbidden();
            }
            let line = scope.line();
            line.code = Some(error.code());
            line.rule = error.rule().map(str::to_owned);
            (reply, error.reason())
        }
    };
    if let Some(facts) = &reply.cache {
        scope.came_from(facts.status);
    }
    if let Some(Repository::Mirrored { lookup, .. }) = request.and_then(|request| request.repository.as_ref()) {
        scope.is_of(lookup.upstream.clone());
    }
    if let Some(request) = request.filter(|_| scope.is_described()) {
        describe(scope.line(), request, &reply.headers);
    }
    add_headers(&scope, request, &mut reply);
    let mut response = send(scope, reply.status, reply.content);
    response.head_mut().reason = reason;
    extend(&mut response, reply.headers);
    response
}

/// What the request was about, for its line in the access log.
fn describe(line: &mut Line, request: &Request, headers: &HeaderMap) {
    let resource = request.resource.as_ref().ok();
    line.repository = match &request.repository {
        Some(Repository::Mirrored { lookup, .. }) => Some(lookup.repository.to_string()),
        Some(Repository::Hosted(name)) => Some(name.to_string()),
        None => resource.and_then(Resource::name).map(|name| printable(name.name.as_str())),
    };
    // Both are of the grammar of references, which is printable.
    line.reference = resource.map(Resource::reference).filter(|reference| !reference.is_empty());
    let digest = headers.get(api::DOCKER_CONTENT_DIGEST).and_then(|digest| digest.to_str().ok()).map(str::to_owned);
    line.digest = digest.or_else(|| line.reference.clone().filter(|reference| reference.contains(':')));
}

/// The headers that every response has.
fn add_headers(scope: &RequestScope, request: Option<&Request>, reply: &mut Reply) {
    let headers = &mut reply.headers;
    api::add_common(headers);
    if let Some(Repository::Mirrored { namespace: Some(namespace), .. }) =
        request.and_then(|request| request.repository.as_ref())
    {
        headers.insert(api::OCI_NAMESPACE, namespace.clone());
    }
    if let Some(facts) = &reply.cache {
        api::add_cache_facts(headers, facts);
    }
    headers.insert(X_REQUEST_ID, scope.id().clone());
    if let Some(allowed) = scope.allowed() {
        allowed.add(headers);
    }
    if let Some((permit, _)) = scope.admission()
        && !permit.is_quiet()
    {
        api::add_quota(headers, permit);
        permit.warnings().for_each(|text| api::add_warning(headers, &text));
    }
}

fn send(scope: RequestScope, status: StatusCode, content: Content) -> Response<Body> {
    match content {
        Content::Empty => Body::none(scope, status),
        Content::Promised(length) => Body::promised(scope, status, length),
        Content::Bytes(bytes) => Body::bytes(scope, status, bytes),
        Content::Blob(_, range) if scope.is_head() => Body::promised(scope, status, range.end - range.start),
        Content::Blob(mut reader, range) => {
            let source =
                Box::new(move |cx: &mut std::task::Context<'_>, offset, end| reader.poll_extent(cx, offset, end));
            let transfer = Transfer::new(source, range.start, range.end);
            Body::transfer(scope, status, range.end - range.start, transfer)
        }
    }
}

/// Puts these headers into the response, beside the length that it may have.
fn extend(response: &mut Response<Body>, headers: HeaderMap) {
    if response.headers().is_empty() {
        *response.headers_mut() = headers;
    } else {
        for (name, value) in headers {
            response.headers_mut().append(name, value);
        }
    }
}
