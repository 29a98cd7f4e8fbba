//! One request and its way to an answer, as the handlers see it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use actix_http::{
    Method, Request, RequestHead, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use bytes::Bytes;

use super::{
    body::{Body, with_headers},
    error::{About as Said, ApiError},
    headers,
    request_scope::RequestScope,
};
use crate::{
    limits::permit::RequestInfo,
    mirror::{CacheFacts, Lookup},
};

/// A request that was understood so far, and the turn it is part of.
pub(crate) struct RequestContext {
    pub(crate) request: Request,
    pub(crate) turn: RequestScope,
}

/// A repository, mirrored or hosted, and what of the request bears on how it is answered.
pub(crate) struct TargetRepository {
    pub(crate) ask: Lookup,
    /// The `ns` that decided, to be echoed.
    pub(crate) namespace: Option<HeaderValue>,
}

/// The upstream of what has none. No upstream has this name, so that a hosted place leads the mirror nowhere.
pub(crate) const HERE: &str = "";

impl TargetRepository {
    /// For the sentences of errors.
    pub(crate) fn about(&self, reference: Option<String>) -> Said {
        Said { repository: self.name(), reference }
    }

    /// The repository with its registry, if it is mirrored.
    pub(crate) fn name(&self) -> String {
        match &*self.ask.upstream {
            HERE => self.ask.repository.to_string(),
            upstream => format!("{upstream}/{}", self.ask.repository),
        }
    }
}

impl RequestContext {
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
    pub(crate) fn empty(mut self, place: &TargetRepository, status: StatusCode) -> Response<Body> {
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
        place: Option<&TargetRepository>,
        facts: Option<&CacheFacts>,
        body: &serde_json::Value,
    ) -> Response<Body> {
        let mut all = self.headers(place, facts);
        all.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.bytes(StatusCode::OK, all, Bytes::from(body.to_string()))
    }

    /// The headers that every answer of a place has.
    pub(crate) fn headers(&mut self, place: Option<&TargetRepository>, facts: Option<&CacheFacts>) -> HeaderMap {
        let mut all = HeaderMap::with_capacity(12);
        headers::common(&mut all);
        if let Some(namespace) = place.and_then(|place| place.namespace.as_ref()) {
            all.insert(headers::OCI_NAMESPACE, namespace.clone());
        }
        if let Some(facts) = facts {
            self.turn.came_from(facts.status);
            headers::facts(&mut all, facts);
        }
        if let Some((permit, _)) = self.turn.admission()
            && !permit.is_quiet()
        {
            headers::quota(&mut all, permit, self.turn.shared());
            permit.warnings().for_each(|text| headers::warn(&mut all, &text));
        }
        all
    }

    /// What is not here may be fetched for this client, or why not: rungs 1 to 3. What is here goes on.
    pub(crate) fn may_miss(&self, place: &TargetRepository, reference: &str) -> Result<(), ApiError> {
        if let Some(denied) = &place.ask.cached_only {
            return Err(ApiError::Denied(denied.clone()));
        }
        let Some((permit, limits)) = self.turn.admission() else { return Ok(()) };
        let about = RequestInfo { method: self.turn.method().as_str(), repository: &place.name(), reference };
        match limits.miss_throttled(&permit.client, about, SystemTime::now()) {
            Some(wait) => Err(ApiError::MissThrottled(wait)),
            None => Ok(()),
        }
    }

    /// Answers that it cannot be had.
    pub(crate) fn fail(
        mut self,
        failure: &ApiError,
        place: Option<&TargetRepository>,
        reference: Option<String>,
    ) -> Response<Body> {
        let about = place.map(|place| place.about(reference));
        let (status, more, body) = failure.answer(about.as_ref(), self.head().headers.get(USER_AGENT));
        if let Some((permit, limits)) = self.turn.admission() {
            let (repository, reference) = match &about {
                Some(about) => (about.repository.as_str(), about.reference.as_deref().unwrap_or_default()),
                None => ("", ""),
            };
            let about = RequestInfo { method: self.turn.method().as_str(), repository, reference };
            limits.record_outcome(permit, about, status.as_u16(), SystemTime::now());
        }
        let pushes = matches!(*self.turn.method(), Method::POST | Method::PATCH | Method::PUT);
        // The client goes on with the same upload, which is counted when it ends.
        let goes_on =
            *self.turn.method() == Method::PATCH && matches!(failure, ApiError::OutOfOrder | ApiError::Cut(_));
        if pushes && !goes_on && place.is_some_and(|place| &*place.ask.upstream == HERE) {
            self.turn.pushed(Some(failure.code()));
        }
        let mut all = self.headers(place, None);
        for (name, value) in more {
            all.insert(name, value);
        }
        let mut response = self.bytes(status, all, body);
        response.head_mut().reason = failure.reason();
        response
    }
}

/// What a handler gives back: an answer, or the work that leads to one. The former costs no allocation.
#[expect(
    clippy::large_enum_variant,
    reason = "a box for the large one is the allocation that the small one is there for"
)]
pub(crate) enum ResponseFuture {
    Now(Option<Response<Body>>),
    Later(Pin<Box<dyn Future<Output = Response<Body>>>>),
}

impl ResponseFuture {
    pub(crate) fn now(response: Response<Body>) -> ResponseFuture {
        ResponseFuture::Now(Some(response))
    }

    pub(crate) fn later(work: impl Future<Output = Response<Body>> + 'static) -> ResponseFuture {
        ResponseFuture::Later(Box::pin(work))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            ResponseFuture::Now(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            ResponseFuture::Later(work) => work.as_mut().poll(cx).map(Ok),
        }
    }
}
