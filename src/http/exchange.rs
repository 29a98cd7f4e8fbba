//! One request and its way to an answer, as the handlers see it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use actix_http::{
    Request, RequestHead, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use bytes::Bytes;

use super::{
    body::{Body, with_headers},
    error::{About, Failure},
    headers,
    turn::Turn,
};
use crate::mirror::{Ask, Facts};

/// A request that was understood so far, and the turn it is part of.
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) turn: Turn,
}

/// A repository, mirrored or hosted, and what of the request bears on how it is answered.
pub(crate) struct Place {
    pub(crate) ask: Ask,
    /// The `ns` that decided, to be echoed.
    pub(crate) namespace: Option<HeaderValue>,
}

/// The upstream of what has none. No upstream has this name, so that a hosted place leads the mirror nowhere.
pub(crate) const HERE: &str = "";

impl Place {
    /// For the sentences of errors.
    pub(crate) fn about(&self, reference: Option<String>) -> About {
        let repository = match &*self.ask.upstream {
            HERE => self.ask.repository.to_string(),
            upstream => format!("{upstream}/{}", self.ask.repository),
        };
        About { repository, reference }
    }
}

impl Exchange {
    pub(crate) fn head(&self) -> &RequestHead {
        self.request.head()
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.request.uri().query()
    }

    /// Answers with these bytes, or to a HEAD with their length.
    pub(crate) fn bytes(self, status: StatusCode, headers: HeaderMap, bytes: Bytes) -> Response<Body> {
        with_headers(Body::bytes(self.turn, status, bytes), headers)
    }

    /// Answers a HEAD with the length of what a GET would bring.
    pub(crate) fn promised(self, headers: HeaderMap, length: u64) -> Response<Body> {
        with_headers(Body::promised(self.turn, StatusCode::OK, length), headers)
    }

    /// Answers that the client has it already.
    pub(crate) fn not_modified(self, headers: HeaderMap) -> Response<Body> {
        with_headers(Body::none(self.turn, StatusCode::NOT_MODIFIED), headers)
    }

    /// Answers without a body.
    pub(crate) fn empty(mut self, place: &Place, status: StatusCode) -> Response<Body> {
        let all = self.headers(Some(place), None);
        match status {
            StatusCode::NO_CONTENT => with_headers(Body::none(self.turn, status), all),
            _ => self.bytes(status, all, Bytes::new()),
        }
    }

    /// Answers with JSON of this media type.
    pub(crate) fn json(
        mut self,
        media_type: &'static str,
        place: Option<&Place>,
        facts: Option<&Facts>,
        body: &serde_json::Value,
    ) -> Response<Body> {
        let mut all = self.headers(place, facts);
        all.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.bytes(StatusCode::OK, all, Bytes::from(body.to_string()))
    }

    /// The headers that every answer of a place has.
    pub(crate) fn headers(&mut self, place: Option<&Place>, facts: Option<&Facts>) -> HeaderMap {
        let mut all = HeaderMap::with_capacity(12);
        headers::common(&mut all);
        if let Some(namespace) = place.and_then(|place| place.namespace.as_ref()) {
            all.insert(headers::OCI_NAMESPACE, namespace.clone());
        }
        if let Some(facts) = facts {
            self.turn.came_from(facts.status);
            headers::facts(&mut all, facts);
        }
        all
    }

    /// Answers that it cannot be had.
    pub(crate) fn fail(
        mut self,
        failure: &Failure,
        place: Option<&Place>,
        reference: Option<String>,
    ) -> Response<Body> {
        let about = place.map(|place| place.about(reference));
        let (status, more, body) = failure.answer(about.as_ref(), self.head().headers.get(USER_AGENT));
        let mut all = self.headers(place, None);
        for (name, value) in more {
            all.insert(name, value);
        }
        self.bytes(status, all, body)
    }
}

/// What a handler gives back: an answer, or the work that leads to one. The former costs no allocation.
#[expect(
    clippy::large_enum_variant,
    reason = "a box for the large one is the allocation that the small one is there for"
)]
pub(crate) enum Answer {
    Now(Option<Response<Body>>),
    Later(Pin<Box<dyn Future<Output = Response<Body>>>>),
}

impl Answer {
    pub(crate) fn now(response: Response<Body>) -> Answer {
        Answer::Now(Some(response))
    }

    pub(crate) fn later(work: impl Future<Output = Response<Body>> + 'static) -> Answer {
        Answer::Later(Box::pin(work))
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Answer::Now(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Answer::Later(work) => work.as_mut().poll(cx).map(Ok),
        }
    }
}
