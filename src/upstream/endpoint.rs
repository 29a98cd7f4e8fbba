//! One registry at one URL: leave from the breaker, a credential, redirects by hand, and what the response's status means.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE},
};
use url::Url;

use super::{
    auth::{Auth, ForeignToken, Next},
    breaker::{Breaker, BreakerPermit},
    challenge::Challenge,
    concurrency::Lane,
    error::Error,
    error_response::{self, ErrorResponse},
    ledger::{Exhausted, Ledger, Stamp},
    metrics::{Metrics, Operation},
    ratelimit::{self, RateLimit},
    redirect,
    request::{AttemptError, Reply, Request},
    retry,
    settings::Settings,
    transport::{Received, Transport, TransportError},
};

/// How often one request is sent with other credentials: none, an old token, a new one, and once more for another scope.
const MAX_CREDENTIALS: usize = 5;

/// Who receives a request. Only the first two may be sent a credential, each its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Origin,
    ForeignRegistry,
    Elsewhere,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    name: Arc<str>,
    origin: Url,
    pub(super) ledger: Ledger,
    pub(super) transport: Arc<Transport>,
    pub(super) breaker: Breaker,
    pub(super) auth: Arc<Auth>,
    metrics: Metrics,
}

impl Endpoint {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(super) fn new(settings: &Settings, url: &Url, ledger: Ledger, metrics: Metrics) -> Result<Endpoint, String> {
        let settings = &Settings { url: url.clone(), ..settings.clone() };
        let transport = Arc::new(Transport::new(settings)?);
        let breaker = Breaker::of(&settings.name);
        let auth = Arc::new(Auth::new(settings, transport.clone(), breaker.clone(), metrics.clone()));
        let (name, origin) = (settings.name.clone(), settings.url.clone());
        Ok(Endpoint { name, origin, ledger, transport, breaker, auth, metrics })
    }

    /// The address of something below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.origin.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{base}/v2/{path}"));
        url.set_query(query);
        url
    }

    /// One attempt: breaker, credential, request, redirects.
    pub(super) async fn attempt(&self, request: &mut Request<'_>) -> Result<Reply, AttemptError> {
        let mut permit = self.breaker.admit(Instant::now())?;
        let (received, stamp, authorization) = self.ask_origin(request, &mut permit).await?;
        let received = self.origin_response(request, &mut permit, received, stamp).await?;
        self.follow_redirects(request, received, authorization).await
    }

    /// Asks the configured origin with the credential that it wants.
    async fn ask_origin(
        &self,
        request: &mut Request<'_>,
        permit: &mut BreakerPermit,
    ) -> Result<(Received, Stamp, Option<HeaderValue>), AttemptError> {
        let url = self.url(&request.path);
        let mut session = self.auth.session(request).await?;
        for _ in 0..MAX_CREDENTIALS {
            let authorization = session.authorization();
            let stamp = self.ledger.stamp(request.identity);
            let sent = self.request(permit, request, &url, authorization.clone(), true).await;
            let received = sent.map_err(|failure| self.failed(permit, failure))?;
            let status = received.response.status();
            if !matches!(status.as_u16(), 400 | 401 | 403) {
                session.accepted();
                return Ok((received, stamp, authorization));
            }
            permit.answered();
            let headers = received.response.headers().clone();
            // Its permits are given back before a token is fetched, or the two could wait for each other.
            self.transport.finish(received).await;
            if let Next::Final = session.refused(status, &Challenge::read(&headers)).await? {
                self.reconcile(request, status, &headers, stamp);
                let response = error_response::classify(request.operation, status, &headers, b"", SystemTime::now());
                return Err(other_error(response, status).into());
            }
        }
        Err(Error::Denied.into())
    }

    /// Redirects, walked one by one. `own`, the credential of the configured origin, goes along only when a hop leads back there.
    async fn follow_redirects(
        &self,
        request: &mut Request<'_>,
        mut received: Received,
        own: Option<HeaderValue>,
    ) -> Result<Reply, AttemptError> {
        let mut url = self.url(&request.path);
        let mut target = Target::Origin;
        let mut hops = 0;
        let mut permit = self.breaker.untracked();
        let (began, mut foreign): (_, Option<ForeignToken>) = (Instant::now(), None);
        loop {
            let status = received.response.status();
            // An address that is signed for a GET refuses a HEAD; that we were sent there says that the blob exists.
            let signed = request.operation == Operation::BlobHead
                && target == Target::Elsewhere
                && matches!(status.as_u16(), 400 | 403 | 405 | 501);
            if status.is_success() || is_beyond(request, status) || signed {
                let Received { response, permits } = received;
                return Ok(Reply { response, permits });
            }
            let mut authorization = None;
            let is_asked = match target {
                Target::Elsewhere => url.path().starts_with("/v2/"),
                Target::ForeignRegistry => foreign.as_ref().is_some_and(|token| token.is_older(began)),
                Target::Origin => false,
            };
            if status == StatusCode::UNAUTHORIZED && is_asked {
                let challenges = Challenge::read(received.response.headers());
                let token = self.auth.foreign_token(&url, &challenges, foreign.take()).await?;
                authorization = Some(token.header());
                foreign = Some(token);
                target = Target::ForeignRegistry;
            } else if is_redirect(status) {
                hops += 1;
                if hops > redirect::MAX_REDIRECTS {
                    return Err(Error::Malformed("too many redirects".into()).into());
                }
                let location = redirect::location(received.response.headers());
                let location = location.ok_or_else(|| Error::Malformed("a redirect to no address".into()))?;
                foreign = None;
                url = redirect::target(&url, &location).map_err(|why| Error::Malformed(why.into()))?;
                target = Target::Elsewhere;
                if redirect::same_origin(&url, &self.origin) {
                    (target, authorization) = (Target::Origin, own.clone());
                }
            } else {
                return Err(self.redirect_error(request.operation, target, &url, received).await);
            }
            // The permit for the host behind us is given back before the next is taken, or the two could wait for each other.
            self.transport.finish(received).await;
            // What leads back to the origin is counted there like any other GET, so it is paid like one.
            let at_origin = target == Target::Origin;
            if let Some(reservation) = request.reservation.as_mut().filter(|_| at_origin) {
                let exhausted = |exhausted: Exhausted| Error::PullLimit { retry_after: exhausted.retry_after };
                reservation.again().await.map_err(exhausted)?;
            }
            let stamp = self.ledger.stamp(request.identity);
            received = self
                .request(&permit, request, &url, authorization, at_origin)
                .await
                .map_err(|failure| transport_error(failure, "where it redirects to"))?;
            // Beside its API a registry is a content network, too.
            let refused = matches!(received.response.status().as_u16(), 400..=404 | 410);
            if at_origin && refused && request.operation == Operation::BlobGet && !url.path().contains("/v2/") {
                return Err(self.redirect_error(request.operation, Target::Elsewhere, &url, received).await);
            }
            if at_origin {
                received = self.origin_response(request, &mut permit, received, stamp).await?;
            }
        }
    }

    async fn request(
        &self,
        permit: &BreakerPermit,
        request: &mut Request<'_>,
        url: &Url,
        authorization: Option<HeaderValue>,
        counted: bool,
    ) -> Result<Received, TransportError> {
        let (method, lane) = match request.operation {
            Operation::ManifestHead | Operation::BlobHead => (Method::HEAD, Lane::Short),
            Operation::BlobGet => (Method::GET, Lane::Body),
            Operation::ManifestGet | Operation::Tags | Operation::Referrers => (Method::GET, Lane::Short),
        };
        let mut sent = reqwest::Request::new(method, url.clone());
        let headers = sent.headers_mut();
        headers.extend(request.accept.clone().map(|value| (ACCEPT, value)));
        headers.extend(request.range.clone().map(|value| (RANGE, value)));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let mut reservation = request.reservation.as_deref_mut().filter(|_| counted);
        let sending = || {
            if let Some(reservation) = &mut reservation {
                reservation.sent();
            }
        };
        let outcome = self.transport.send(permit, sent, lane, sending).await;
        if let (Err(TransportError::NotSent(_)), Some(reservation)) = (&outcome, reservation) {
            reservation.unsent();
        }
        outcome
    }

    /// What an answer of the origin tells the ledger. Returns whether it was served, and so counted.
    fn reconcile(&self, request: &mut Request<'_>, status: StatusCode, headers: &HeaderMap, stamp: Stamp) -> bool {
        let counted = matches!(request.operation, Operation::ManifestGet | Operation::ManifestHead);
        let reading = RateLimit::read(headers).filter(|_| counted);
        let served = status.is_success() || is_redirect(status) || is_beyond(request, status);
        match &mut request.reservation {
            Some(reservation) if served => reservation.answered(stamp, reading),
            reservation => {
                // No registry counts a pull that was not served. Should one do so all the same, its next reading says it.
                if let Some(reservation) = reservation {
                    reservation.unsent();
                }
                if let Some(reading) = reading {
                    self.ledger.observe(request.identity, stamp, reading);
                }
            }
        }
        if let Some(reading) = reading {
            let (upstream, identity) = (&self.name, request.identity.name());
            self.metrics.rate_limit(upstream, identity, reading.limit, reading.remaining);
            let source = ratelimit::source(headers);
            tracing::debug!(%upstream, %identity, ?reading, source, "upstream says what is left");
        }
        served
    }

    /// What the origin's answer tells the breaker and the ledger; an error unless the answer is a success or a redirect.
    async fn origin_response(
        &self,
        request: &mut Request<'_>,
        permit: &mut BreakerPermit,
        mut received: Received,
        stamp: Stamp,
    ) -> Result<Received, AttemptError> {
        let status = received.response.status();
        if self.reconcile(request, status, received.response.headers(), stamp) {
            permit.answered();
            return Ok(received);
        }
        let body = match status {
            StatusCode::TOO_MANY_REQUESTS => self.error_body(&mut received).await,
            _ => Vec::new(),
        };
        let headers = received.response.headers();
        let response = error_response::classify(request.operation, status, headers, &body, SystemTime::now());
        Err(match response {
            ErrorResponse::PullLimit(asked) => {
                permit.answered();
                let retry_after = self.ledger.exhausted(request.identity, asked);
                tracing::warn!(upstream = %self.name, ?retry_after, "upstream's pull limit is reached");
                Error::PullLimit { retry_after }.into()
            }
            ErrorResponse::AbuseLimit(asked, message) => {
                self.transport.limiter.shrink();
                let retry_after = permit.limited(asked, &message, Instant::now());
                tracing::warn!(upstream = %self.name, ?retry_after, %message, "upstream limits us");
                Error::AbuseLimit { retry_after, message }.into()
            }
            ErrorResponse::ServerError(retry_after) => {
                self.transport.limiter.shrink();
                let reason: Arc<str> = format!("it answers {status}").into();
                permit.server_error(&reason, request.repository.as_str(), Instant::now());
                // Who says when to come back is not asked before.
                let soon = retry_after.is_none_or(|wait| wait <= retry::MAX_BACKOFF);
                let retries = if soon { retry::after(status) } else { 0 };
                AttemptError { error: Error::Unavailable { reason, retry_after }, retries }
            }
            other => {
                permit.answered();
                other_error(other, status).into()
            }
        })
    }

    /// What the answer of a redirect's target means. It says nothing about the origin's health, and its 401 is not answered.
    async fn redirect_error(
        &self,
        operation: Operation,
        target: Target,
        url: &Url,
        mut received: Received,
    ) -> AttemptError {
        let of_registry = target != Target::Elsewhere || url.path().starts_with("/v2/");
        let of_blob = matches!(operation, Operation::BlobGet | Operation::BlobHead);
        let status = received.response.status();
        let body = match status {
            StatusCode::TOO_MANY_REQUESTS => self.error_body(&mut received).await,
            _ => Vec::new(),
        };
        let error =
            match error_response::classify(operation, status, received.response.headers(), &body, SystemTime::now()) {
                // A registry that was redirected to speaks for the blob; a content network only for an address that it was given,
                // which may have expired. The origin vouched by redirecting, and is asked for another address once.
                ErrorResponse::Denied | ErrorResponse::NotFound | ErrorResponse::Unexpected
                    if !of_registry && of_blob =>
                {
                    let reason = format!("{} to which it redirects answers {status}", host(url)).into();
                    return AttemptError { error: Error::Unavailable { reason, retry_after: None }, retries: 1 };
                }
                ErrorResponse::Denied if operation == Operation::Referrers => Error::NotFound,
                ErrorResponse::Denied if target != Target::Elsewhere => Error::Denied,
                ErrorResponse::Denied => {
                    Error::Malformed(format!("where it redirects to, the answer is {status}").into())
                }
                ErrorResponse::PullLimit(asked) => {
                    Error::PullLimit { retry_after: asked.unwrap_or(DEFAULT_RETRY_AFTER) }
                }
                ErrorResponse::AbuseLimit(asked, message) => {
                    Error::AbuseLimit { retry_after: asked.unwrap_or(DEFAULT_RETRY_AFTER), message }
                }
                ErrorResponse::ServerError(retry_after) => {
                    let reason = format!("where it redirects to, the answer is {status}").into();
                    return AttemptError {
                        error: Error::Unavailable { reason, retry_after },
                        retries: retry::after(status),
                    };
                }
                other => other_error(other, status),
            };
        error.into()
    }

    /// The start of an error's body; nothing when it does not come.
    async fn error_body(&self, received: &mut Received) -> Vec<u8> {
        let body = self.transport.body(&mut received.response, error_response::MAX_BODY);
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
        transport_error(failure, "")
    }
}

/// How long the body of a 429 is waited for.
const ERROR_BODY: Duration = Duration::from_secs(5);
/// What a client is asked to wait when a redirect's target limits us without saying for how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(60);

fn transport_error(failure: TransportError, place: &str) -> AttemptError {
    let unavailable = |reason: &str| {
        let reason = if place.is_empty() { reason.into() } else { format!("{place}: {reason}").into() };
        Error::Unavailable { reason, retry_after: None }
    };
    match failure {
        TransportError::Rejected(error) => error.into(),
        TransportError::NotSent(reason) | TransportError::Broken(reason) => {
            AttemptError { error: unavailable(&reason), retries: retry::RETRIES }
        }
        TransportError::TimedOut(reason) => unavailable(&reason).into(),
    }
}

fn other_error(response: ErrorResponse, status: StatusCode) -> Error {
    match response {
        ErrorResponse::NotFound => Error::NotFound,
        ErrorResponse::Denied => Error::Denied,
        ErrorResponse::HeadNotAllowed => Error::HeadRefused,
        _ => Error::Status(status.as_u16()),
    }
}

/// Whether a range lies behind the end of what was asked for; to any other request 416 is an answer to another question.
fn is_beyond(request: &Request<'_>, status: StatusCode) -> bool {
    status == StatusCode::RANGE_NOT_SATISFIABLE && request.range.is_some()
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
