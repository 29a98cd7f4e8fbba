//! One request to an upstream: leave from the breaker, a credential, redirects by hand, and what the answer's status means.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE},
};
use url::Url;

use super::{
    Error, Identity, Reservation, Upstream,
    breaker::BreakerPermit,
    challenge::Challenge,
    concurrency::{Lane, Permits},
    error_response::{self, ErrorResponse},
    ledger::{Asking, Exhausted},
    metrics::{Operation, Outcome},
    ratelimit::{self, RateLimit},
    redirect,
    transport::{Received, TransportError},
};
use crate::oci::Name;

/// How often a request is repeated that got no answer, or a 502, 503 or 504.
const RETRIES: u32 = 2;

/// What is asked.
pub(super) struct Request<'a> {
    pub(super) kind: Operation,
    pub(super) identity: &'a Identity,
    pub(super) repository: &'a Name,
    pub(super) url: Url,
    pub(super) accept: Option<HeaderValue>,
    pub(super) range: Option<HeaderValue>,
    /// Pays, when the request is counted.
    pub(super) reservation: Option<&'a mut Reservation>,
}

/// A success (2xx), a 416 to a range, or the refusal of a HEAD by where a blob's redirect led.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) permits: Permits,
}

/// What ended an attempt, and whether another one makes sense.
struct AttemptError {
    error: Error,
    again: bool,
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> AttemptError {
        AttemptError { error, again: false }
    }
}

/// Whom a hop is made to. Only the first two kinds may carry a credential, each its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Origin,
    ForeignRegistry,
    Elsewhere,
}

impl Upstream {
    /// Asks, repeats what may be repeated, and counts what came of it.
    pub(super) async fn ask(&self, mut request: Request<'_>) -> Result<Answer, Error> {
        let mut attempt = 0;
        let outcome = loop {
            match self.attempt(&mut request).await {
                Err(AttemptError { again: true, error }) if attempt < RETRIES && self.inner.transport.may_retry() => {
                    // Each GET that Hub may have counted has an entry of its own, so that repeating one is paid again.
                    if let Some(reservation) = &mut request.reservation
                        && reservation.again().await.is_err()
                    {
                        break Err(error);
                    }
                    self.inner.metrics.retried(&self.inner.settings.name);
                    tokio::time::sleep(super::backoff(attempt)).await;
                    attempt += 1;
                }
                Err(AttemptError { error, .. }) => break Err(error),
                Ok(answer) => break Ok(answer),
            }
        };
        let result = outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok);
        self.inner.metrics.asked(&self.inner.settings.name, request.kind, result);
        self.inner.metrics.breaker(&self.inner.settings.name, self.breaker().is_some());
        if let Err(error) = &outcome {
            let (kind, repository) = (request.kind, request.repository);
            tracing::debug!(upstream = %self.inner.settings.name, ?kind, %repository, %error, "upstream did not give it");
        }
        outcome
    }

    async fn attempt(&self, request: &mut Request<'_>) -> Result<Answer, AttemptError> {
        let mut permit = self.inner.breaker.admit(Instant::now())?;
        let scope = format!("repository:{}:pull", request.repository);
        let (received, asking, authorization) = self.at_origin(request, &mut permit, &scope).await?;
        let received = self.told(request, &mut permit, received, asking).await?;
        self.walk(request, received, authorization).await
    }

    /// The hop to the configured origin, with the credential that it wants.
    async fn at_origin(
        &self,
        request: &mut Request<'_>,
        permit: &mut BreakerPermit,
        scope: &str,
    ) -> Result<(Received, Asking, Option<HeaderValue>), AttemptError> {
        let auth = &self.inner.auth;
        let url = request.url.clone();
        let mut credential = auth.credential(request.identity, scope).await?;
        // Twice refused is enough: once without the right credential, once with an old one, and then the new one decides.
        for _ in 0..3 {
            let authorization = credential.as_ref().map(|credential| credential.header.clone());
            let asking = self.inner.ledger.asking(request.identity);
            let sent = self.hop(permit, request, &url, authorization.clone(), true).await;
            let received = sent.map_err(|failure| self.failed(permit, failure))?;
            if received.response.status() != StatusCode::UNAUTHORIZED {
                return Ok((received, asking, authorization));
            }
            permit.answered();
            let challenges = Challenge::read(received.response.headers());
            self.inner.transport.finish(received).await;
            credential = Some(auth.answer(request.identity, scope, &challenges, credential).await?);
        }
        Err(Error::Denied.into())
    }

    /// Redirects, walked one by one. `own`, the credential of the configured origin, goes along only when a hop leads back there.
    async fn walk(
        &self,
        request: &mut Request<'_>,
        mut received: Received,
        own: Option<HeaderValue>,
    ) -> Result<Answer, AttemptError> {
        let mut url = request.url.clone();
        let mut hop = Target::Origin;
        let mut hops = 0;
        let mut permit = self.inner.breaker.untracked();
        loop {
            let status = received.response.status();
            // An address that is signed for a GET refuses a HEAD; that we were sent there says that the blob exists.
            let signed = request.kind == Operation::BlobHead
                && hop == Target::Elsewhere
                && matches!(status.as_u16(), 400 | 403 | 405 | 501);
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE || signed {
                let Received { response, permits } = received;
                return Ok(Answer { response, permits });
            }
            let mut authorization = None;
            if status == StatusCode::UNAUTHORIZED && hop == Target::Elsewhere && url.path().starts_with("/v2/") {
                let challenges = Challenge::read(received.response.headers());
                authorization = Some(self.inner.auth.foreign_token(&url, &challenges).await?.header);
                hop = Target::ForeignRegistry;
            } else if is_redirect(status) {
                hops += 1;
                if hops > redirect::MAX_REDIRECTS {
                    return Err(Error::Malformed("too many redirects".into()).into());
                }
                let location = received.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                let location = location.ok_or_else(|| Error::Malformed("a redirect to no address".into()))?;
                url = redirect::target(&url, location).map_err(|why| Error::Malformed(why.into()))?;
                hop = Target::Elsewhere;
                if redirect::same_origin(&url, &self.inner.settings.url) {
                    (hop, authorization) = (Target::Origin, own.clone());
                }
            } else {
                return Err(self.elsewhere(request.kind, hop, received).await);
            }
            // The permit for the host behind us is given back before the next is taken, or the two could wait for each other.
            self.inner.transport.finish(received).await;
            // What leads back home is counted there like any other GET, so it is paid like one.
            let home = hop == Target::Origin;
            if let Some(reservation) = request.reservation.as_mut().filter(|_| home) {
                let exhausted = |exhausted: Exhausted| Error::PullLimit { retry_after: exhausted.retry_after };
                reservation.again().await.map_err(exhausted)?;
            }
            let asking = self.inner.ledger.asking(request.identity);
            received = self
                .hop(&permit, request, &url, authorization, home)
                .await
                .map_err(|failure| unanswered(failure, "where it redirects to"))?;
            if home {
                received = self.told(request, &mut permit, received, asking).await?;
            }
        }
    }

    async fn hop(
        &self,
        permit: &BreakerPermit,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<HeaderValue>,
        counted: bool,
    ) -> Result<Received, TransportError> {
        let mut headers = HeaderMap::new();
        headers.extend(request.accept.clone().map(|value| (ACCEPT, value)));
        headers.extend(request.range.clone().map(|value| (RANGE, value)));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let (method, lane) = match request.kind {
            Operation::ManifestHead | Operation::BlobHead => (Method::HEAD, Lane::Short),
            Operation::BlobGet => (Method::GET, Lane::Body),
            Operation::ManifestGet | Operation::Tags | Operation::Referrers => (Method::GET, Lane::Short),
        };
        let mut reservation = request.reservation.as_deref_mut().filter(|_| counted);
        let sending = || {
            if let Some(reservation) = &mut reservation {
                reservation.sent();
            }
        };
        let outcome = self.inner.transport.send(permit, method, url, headers, lane, sending).await;
        if let (Err(TransportError::NotSent(_)), Some(reservation)) = (&outcome, reservation) {
            reservation.unsent();
        }
        outcome
    }

    /// What an answer of the origin tells the ledger. Returns whether it was served, and so counted.
    fn reconcile(&self, request: &mut Request<'_>, received: &Received, asking: Asking) -> bool {
        let status = received.response.status();
        let counted = matches!(request.kind, Operation::ManifestGet | Operation::ManifestHead);
        let reading = RateLimit::read(received.response.headers()).filter(|_| counted);
        let served = status.is_success() || is_redirect(status) || status == StatusCode::RANGE_NOT_SATISFIABLE;
        match &mut request.reservation {
            Some(reservation) if served => reservation.answered(asking, reading),
            reservation => {
                // Nobody counts a pull that was not served. Should one do so all the same, its next reading says it.
                if let Some(reservation) = reservation {
                    reservation.unsent();
                }
                if let Some(reading) = reading {
                    self.inner.ledger.observe(request.identity, asking, reading);
                }
            }
        }
        if let Some(reading) = reading {
            let (upstream, identity) = (&self.inner.settings.name, request.identity.name());
            self.inner.metrics.rate_limit(upstream, &identity, reading.limit, reading.remaining);
            let source = ratelimit::source(received.response.headers());
            tracing::debug!(%upstream, %identity, ?reading, source, "upstream says what is left");
        }
        served
    }

    /// What the origin's answer tells the breaker and the ledger; an error unless the answer is a success or a redirect.
    async fn told(
        &self,
        request: &mut Request<'_>,
        permit: &mut BreakerPermit,
        mut received: Received,
        asking: Asking,
    ) -> Result<Received, AttemptError> {
        let status = received.response.status();
        if self.reconcile(request, &received, asking) {
            permit.answered();
            return Ok(received);
        }
        let body = match status {
            StatusCode::TOO_MANY_REQUESTS => self.error_body(&mut received).await,
            _ => Vec::new(),
        };
        let headers = received.response.headers();
        let refusal = error_response::classify(request.kind, status, headers, &body, SystemTime::now());
        Err(match refusal {
            ErrorResponse::PullLimit(asked) => {
                permit.answered();
                let retry_after = self.inner.ledger.exhausted(request.identity, asked);
                tracing::warn!(upstream = %self.inner.settings.name, ?retry_after, "upstream's pull limit is reached");
                Error::PullLimit { retry_after }.into()
            }
            ErrorResponse::AbuseLimit(asked, message) => {
                self.inner.transport.limiter.shrink();
                let retry_after = permit.limited(asked, &message, Instant::now());
                tracing::warn!(upstream = %self.inner.settings.name, ?retry_after, %message, "upstream limits us");
                Error::AbuseLimit { retry_after, message }.into()
            }
            ErrorResponse::ServerError(retry_after) => {
                self.inner.transport.limiter.shrink();
                let reason: Arc<str> = format!("it answers {status}").into();
                permit.failed(&reason, Instant::now());
                // Who says when to come back is not asked before.
                let again = super::worth_repeating(status) && retry_after.is_none_or(|wait| wait <= super::MAX_BACKOFF);
                AttemptError { error: Error::Unavailable { reason, retry_after }, again }
            }
            refusal => {
                permit.answered();
                plain(refusal, status).into()
            }
        })
    }

    /// What the answer of a redirect's target means. It says nothing about the origin's health, and its 401 is not answered.
    async fn elsewhere(&self, kind: Operation, hop: Target, mut received: Received) -> AttemptError {
        let status = received.response.status();
        let body = match status {
            StatusCode::TOO_MANY_REQUESTS => self.error_body(&mut received).await,
            _ => Vec::new(),
        };
        let error = match error_response::classify(kind, status, received.response.headers(), &body, SystemTime::now())
        {
            ErrorResponse::Denied if hop != Target::Elsewhere => Error::Denied,
            ErrorResponse::Denied => Error::Malformed(format!("where it redirects to, the answer is {status}").into()),
            ErrorResponse::PullLimit(asked) => Error::PullLimit { retry_after: asked.unwrap_or(DEFAULT_RETRY_AFTER) },
            ErrorResponse::AbuseLimit(asked, message) => {
                Error::AbuseLimit { retry_after: asked.unwrap_or(DEFAULT_RETRY_AFTER), message }
            }
            ErrorResponse::ServerError(retry_after) => {
                let reason = format!("where it redirects to, the answer is {status}").into();
                return AttemptError {
                    error: Error::Unavailable { reason, retry_after },
                    again: super::worth_repeating(status),
                };
            }
            refusal => plain(refusal, status),
        };
        error.into()
    }

    /// The start of an error's body; nothing when it does not come.
    async fn error_body(&self, received: &mut Received) -> Vec<u8> {
        let body = self.inner.transport.body(&mut received.response, error_response::MAX_BODY);
        match tokio::time::timeout(ERROR_BODY, body).await {
            Ok(Ok(body)) => body.to_vec(),
            _ => Vec::new(),
        }
    }

    fn failed(&self, permit: &mut BreakerPermit, failure: TransportError) -> AttemptError {
        if let TransportError::NotSent(reason) | TransportError::Broken(reason) | TransportError::TimedOut(reason) =
            &failure
        {
            permit.failed(reason, Instant::now());
        }
        unanswered(failure, "")
    }
}

/// How long the body of a 429 is waited for.
const ERROR_BODY: Duration = Duration::from_secs(5);
/// What a client is asked to wait when a redirect's target limits us without saying for how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(60);

fn unanswered(failure: TransportError, place: &str) -> AttemptError {
    let unavailable = |reason: &str| {
        let reason = if place.is_empty() { reason.into() } else { format!("{place}: {reason}").into() };
        Error::Unavailable { reason, retry_after: None }
    };
    match failure {
        TransportError::Rejected(error) => error.into(),
        TransportError::NotSent(reason) | TransportError::Broken(reason) => {
            AttemptError { error: unavailable(&reason), again: true }
        }
        TransportError::TimedOut(reason) => unavailable(&reason).into(),
    }
}

fn plain(refusal: ErrorResponse, status: StatusCode) -> Error {
    match refusal {
        ErrorResponse::NotFound => Error::NotFound,
        ErrorResponse::Denied => Error::Denied,
        ErrorResponse::HeadNotAllowed => Error::HeadRefused,
        _ => Error::Malformed(format!("it answers {status}").into()),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
