//! The four bodies a response can have.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_http::{
    Response, StatusCode,
    body::{BodySize, MessageBody},
    header::{CONTENT_LENGTH, HeaderValue},
};
use bytes::Bytes;

use super::scope::RequestScope;
use crate::http::wire::Transfer;

/// A response's body, and the request that ends with it.
pub(crate) struct Body {
    content: Content,
    scope: RequestScope,
}

enum Content {
    /// Nothing, and nothing promised: 304.
    None,
    /// The answer to a HEAD: a length without the bytes. actix writes the length of the body it is given, so the body says the
    /// entity's length and has nothing to send.
    Promised(u64),
    /// Few bytes, in memory.
    Bytes(Bytes),
    /// Sent by the connection itself.
    Transfer(Option<Transfer>),
}

impl Body {
    /// A response of bytes in memory; to a HEAD, of their length.
    pub(crate) fn bytes(mut scope: RequestScope, status: StatusCode, bytes: Bytes) -> Response<Body> {
        let length = bytes.len() as u64;
        if scope.is_head() {
            return Body::promised(scope, status, length);
        }
        scope.answered(status, length, true);
        Response::with_body(status, Body { content: Content::Bytes(bytes), scope })
    }

    /// The answer to a HEAD whose entity has this length.
    pub(crate) fn promised(mut scope: RequestScope, status: StatusCode, length: u64) -> Response<Body> {
        scope.answered(status, 0, true);
        Response::with_body(status, Body { content: Content::Promised(length), scope })
    }

    /// No body and no length.
    pub(crate) fn none(mut scope: RequestScope, status: StatusCode) -> Response<Body> {
        scope.answered(status, 0, true);
        Response::with_body(status, Body { content: Content::None, scope })
    }

    /// A response whose bytes the connection fetches and sends. `length` must not be zero.
    pub(crate) fn transfer(
        mut scope: RequestScope,
        status: StatusCode,
        length: u64,
        transfer: Transfer,
    ) -> Response<Body> {
        scope.answered(status, length, false);
        let mut response = Response::with_body(status, Body { content: Content::Transfer(Some(transfer)), scope });
        // A body of unknown size with a length of our own: actix then neither counts the bytes, which it will not see, nor
        // closes the connection after them.
        response.head_mut().no_chunking(true);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

impl MessageBody for Body {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        match &self.content {
            Content::None => BodySize::None,
            Content::Promised(length) => BodySize::Sized(*length),
            Content::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Content::Transfer(_) => BodySize::Stream,
        }
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = &mut *self;
        match &mut this.content {
            Content::None | Content::Promised(_) => Poll::Ready(None),
            Content::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Content::Transfer(transfer) => {
                if let Some(transfer) = transfer.take() {
                    this.scope.connection().send(transfer);
                }
                // No waker: the dispatcher flushes next, and whatever happens there wakes it.
                if this.scope.connection().is_sending() { Poll::Pending } else { Poll::Ready(None) }
            }
        }
    }
}
