//! From what a handler gave back to a response: errors, headers, counts and what the limits count, once for all of them.

use std::time::SystemTime;

use actix_http::{
    Method, Response, StatusCode,
    header::{HeaderMap, HeaderValue},
};

use super::{body::Body, request_id::X_REQUEST_ID, scope::RequestScope};
use crate::http::{
    api::{self, ApiError, Content, Reply, Repository, Request, Subject},
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
            if let Some(rule) = error.rule() {
                scope.refused_by(rule);
            }
            (reply, error.reason())
        }
    };
    if let Some(facts) = &reply.cache {
        scope.came_from(facts.status);
    }
    add_headers(&scope, request, &mut reply);
    let mut response = send(scope, reply.status, reply.content);
    response.head_mut().reason = reason;
    extend(&mut response, reply.headers);
    response
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
