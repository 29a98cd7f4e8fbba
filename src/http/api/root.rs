//! `GET /`, for people and load balancers, and `GET /v2/` (end-1).

use actix_http::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use bytes::Bytes;

use super::{
    context::Context,
    error::ApiError,
    outcome::{Handled, now},
    reply::{Content, Reply},
    request::Request,
};

/// What it is, in a line.
pub(crate) fn get() -> Handled {
    let mut reply = Reply::new(StatusCode::OK);
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply.content = Content::Bytes(Bytes::from_static(b"Weir, a mirror of container registries; its API is at /v2/\n"));
    now(reply)
}

/// It always answers, also a client that is banned, because clients give up on a registry whose ping fails.
pub(crate) fn ping(cx: &Context, request: &Request, registry: Option<&str>) -> Handled {
    if let Some(registry) = registry.filter(|registry| cx.routes.load().upstream(registry).is_none()) {
        return Err(ApiError::UnknownRegistry(registry.into()));
    }
    if request.login && request.is_anonymous() {
        return Err(ApiError::Login);
    }
    let mut reply = Reply::new(StatusCode::OK);
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.content = Content::Bytes(Bytes::from_static(b"{}"));
    now(reply)
}
