//! The four bodies a response can have.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_http::{
    Response, StatusCode,
    body::{BodySize, MessageBody},
    header::{CONTENT_LENGTH, HeaderMap, HeaderValue},
};
use bytes::Bytes;

use super::{request_scope::RequestScope, sendfile::Transfer};

/// A response's body, and the turn that ends with it.
pub(crate) struct Body {
    content: Content,
    turn: RequestScope,
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
    pub(crate) fn bytes(mut turn: RequestScope, status: StatusCode, bytes: Bytes) -> Response<Body> {
        let length = bytes.len() as u64;
        if turn.is_head() {
            return Body::promised(turn, status, length);
        }
        turn.answered(status, length, true);
        Response::with_body(status, Body { content: Content::Bytes(bytes), turn })
    }

    /// The answer to a HEAD whose entity has this length.
    pub(crate) fn promised(mut turn: RequestScope, status: StatusCode, length: u64) -> Response<Body> {
        turn.answered(status, 0, true);
        Response::with_body(status, Body { content: Content::Promised(length), turn })
    }

    /// No body and no length.
    pub(crate) fn none(mut turn: RequestScope, status: StatusCode) -> Response<Body> {
        turn.answered(status, 0, true);
        Response::with_body(status, Body { content: Content::None, turn })
    }

    /// A response whose bytes the connection fetches and sends. `length` must not be zero.
    pub(crate) fn transfer(
        mut turn: RequestScope,
        status: StatusCode,
        length: u64,
        transfer: Transfer,
    ) -> Response<Body> {
        turn.answered(status, length, false);
        let mut response = Response::with_body(status, Body { content: Content::Transfer(Some(transfer)), turn });
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
                    this.turn.shared().send(transfer);
                }
                // No waker: the dispatcher flushes next, and whatever happens there wakes it.
                if this.turn.shared().is_sending() { Poll::Pending } else { Poll::Ready(None) }
            }
        }
    }
}

/// Puts these headers into the response, over those of the same name.
pub(crate) fn with_headers(mut response: Response<Body>, headers: HeaderMap) -> Response<Body> {
    if response.headers().is_empty() {
        *response.headers_mut() = headers;
    } else {
        for (name, value) in headers {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
