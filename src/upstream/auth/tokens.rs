//! Bearer tokens (distribution, spec/auth/token.md): fetched once for all who need one, and kept until shortly before they expire.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use url::Url;

use super::{accounts::Accounts, login::Login};
use crate::upstream::{
    breaker::Breaker,
    concurrency::Lane,
    error::Error,
    error_response::{self, ErrorResponse},
    metrics::{Metrics, Operation, Outcome},
    redirect,
    retry::{self, jitter},
    transport::{Received, Transport, TransportError},
};

/// Tokens kept. One is about a kilobyte or two, and is for one repository.
const MAX_TOKENS: u64 = 10_000;
/// Bytes of a token service's answer.
const MAX_BODY: usize = 1024 * 1024;
/// A token says how long it lives within these bounds; what says nothing lives a minute (distribution, spec/auth/token.md).
const LIFETIME: (u64, u64) = (60, 24 * 3600);
const EARLY: Duration = Duration::from_secs(30);
/// Refused tokens are replaced so many times at once, and then one in each such time, for which the refused request waits: a registry that
/// refuses everything costs its token service no more.
const REPLACED_AT_ONCE: u32 = 4;
const REPLACED: Duration = Duration::from_secs(2);

/// What a token is for. The origin is part of it so that a registry that was redirected to never shares with the configured one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) origin: String,
    pub(super) realm: String,
    pub(super) service: Option<Arc<str>>,
    pub(super) scope: Arc<str>,
    pub(super) account: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// When it was asked for. It says what was granted then or later, and nothing of what was granted after it came.
    pub(super) asked: Instant,
    until: Instant,
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Token>, Error>>>;

#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) upstream: Arc<str>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) token_hosts: Vec<String>,
    pub(super) transport: Arc<Transport>,
    pub(super) breaker: Breaker,
    pub(super) metrics: Metrics,
    cache: moka::sync::Cache<Key, Arc<Token>>,
    /// When the replacements of a token are paid for, that were had so far.
    replaced: moka::sync::Cache<Key, Instant>,
    // Held for a few lines, never across an await.
    flights: Mutex<HashMap<Key, Flight>>,
}

/// Why a fetch failed, and whether another attempt makes sense.
struct FetchError {
    error: Error,
    retry: bool,
}

impl From<Error> for FetchError {
    fn from(error: Error) -> FetchError {
        FetchError { error, retry: false }
    }
}

impl Tokens {
    pub(super) fn new(
        upstream: Arc<str>,
        accounts: Arc<Accounts>,
        token_hosts: Vec<String>,
        transport: Arc<Transport>,
        breaker: Breaker,
        metrics: Metrics,
    ) -> Tokens {
        let (cache, flights) = (moka::sync::Cache::new(MAX_TOKENS), Mutex::default());
        let remembered = REPLACED * (REPLACED_AT_ONCE + 1);
        let replaced = moka::sync::Cache::builder().max_capacity(MAX_TOKENS).time_to_live(remembered).build();
        Tokens { upstream, accounts, token_hosts, transport, breaker, metrics, cache, replaced, flights }
    }

    /// A token that is good as far as is known, or that is fetched now, once for all who need it.
    ///
    /// # Errors
    /// Whatever the token service did.
    pub(super) async fn get(self: &Arc<Self>, key: &Key) -> Result<Arc<Token>, Error> {
        let flight = {
            let mut flights = self.flights();
            // Looked for under the lock: a flight puts its token here before it leaves the map.
            if let Some(token) = self.cache.get(key).filter(|token| Instant::now() < token.until) {
                return Ok(token);
            }
            match flights.get(key) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = self.fly(key.clone());
                    flights.insert(key.clone(), flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    /// Drops a token that a registry no longer accepts.
    pub(super) fn forget(&self, key: &Key, header: &HeaderValue) {
        if self.cache.get(key).is_some_and(|token| token.header == *header) {
            self.replaced.insert(key.clone(), self.replaced_until(key) + REPLACED);
            self.cache.invalidate(key);
        }
    }

    fn replaced_until(&self, key: &Key) -> Instant {
        self.replaced.get(key).unwrap_or_else(Instant::now).max(Instant::now())
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fetch is a task of its own: it goes on when the first caller leaves.
    fn fly(self: &Arc<Self>, key: Key) -> Flight {
        let tokens = self.clone();
        let fetch = tokio::spawn(async move {
            let landing = Landing { tokens: &tokens, key: &key };
            if let Some(turn) = tokens.replaced_until(&key).checked_sub(REPLACED * REPLACED_AT_ONCE) {
                tokio::time::sleep_until(turn.into()).await;
            }
            let fetched = tokens.fetch(&key).await.map(Arc::new);
            if let Ok(token) = &fetched {
                tokens.cache.insert(key.clone(), token.clone());
            }
            drop(landing);
            fetched
        });
        let ended = || Error::Unavailable { reason: "the token request ended".into(), retry_after: None };
        fetch.map(move |joined| joined.unwrap_or_else(|_| Err(ended()))).boxed().shared()
    }

    /// One token, with up to two more attempts when the service cannot be reached.
    async fn fetch(&self, key: &Key) -> Result<Token, Error> {
        let mut attempt = 0;
        let outcome = loop {
            match self.fetch_as(key).await {
                Err(FetchError { retry: true, .. }) if attempt < 2 && self.transport.may_retry() => {
                    self.metrics.retried(&self.upstream);
                    tokio::time::sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                outcome => break outcome.map_err(|failed| failed.error),
            }
        };
        self.metrics.token(&self.upstream, outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
        outcome
    }

    /// With the account's password, and once more when its file holds another one than was refused.
    async fn fetch_as(&self, key: &Key) -> Result<Token, FetchError> {
        let Some(account) = &key.account else { return self.fetch_once(key, &key.scope, None).await };
        let mut login = self.accounts.login(account).await?;
        let mut fetched = self.fetch_once(key, &key.scope, Some(&login)).await;
        let refused =
            |fetched: &Result<Token, FetchError>| matches!(fetched, Err(FetchError { error: Error::Denied, .. }));
        if refused(&fetched) && self.accounts.changed(account, &login).await {
            login = self.accounts.login(account).await?;
            fetched = self.fetch_once(key, &key.scope, Some(&login)).await;
        }
        match &fetched {
            Ok(_) => self.accounts.accepted(account),
            Err(FetchError { error: Error::Denied, .. }) => {
                // A token service that accepted the password before may refuse this scope. One login without a scope tells; a
                // password that was never accepted is not tried again, because that is what locks accounts.
                let (proven, lately) = self.accounts.proven(account);
                if !lately && (!proven || refused(&self.fetch_once(key, "", Some(&login)).await)) {
                    return Err(self.accounts.park(account).into());
                }
                self.accounts.refused_repository(account, &key.scope);
            }
            Err(_) => {}
        }
        fetched
    }

    /// By GET with Basic or anonymous (distribution, spec/auth/token.md), or by POST with an identity token (spec/auth/oauth.md).
    async fn fetch_once(&self, key: &Key, scope: &str, login: Option<&Login>) -> Result<Token, FetchError> {
        let malformed = |what: &str| Error::Malformed(what.into());
        let mut url = Url::parse(&key.realm).map_err(|_| malformed("a token realm that is no address"))?;
        let named = key.service.as_deref().map(|service| ("service", service));
        let wanted = named.into_iter().chain((!scope.is_empty()).then_some(("scope", scope)));
        let (mut basic, mut form) = (None, None);
        match login {
            Some(login) if login.identity_token => {
                let grant =
                    [("grant_type", "refresh_token"), ("client_id", "weir"), ("refresh_token", &*login.secret.0)];
                form = Some(
                    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(wanted.chain(grant)).finish(),
                );
            }
            login => {
                basic = login.map(Login::basic).transpose().map_err(malformed)?;
                url.query_pairs_mut().extend_pairs(wanted);
            }
        }
        let asked = Instant::now();
        let mut received = self.ask(&url, basic.clone(), form.clone()).await?;
        if received.response.status().is_redirection() {
            // One redirect to where a realm may be: anything else could be led to the password.
            let location = redirect::location(received.response.headers());
            let target =
                location.ok_or("a redirect to no address").and_then(|location| redirect::target(&url, &location));
            let target = target.map_err(|why| malformed(&format!("token service: {why}")))?;
            let vetted = redirect::realm(&url, target.as_str(), &self.token_hosts).map_err(Error::Malformed)?;
            received = self.ask(&vetted, basic, form).await?;
        }
        let mut permit = self.breaker.untracked();
        let (status, headers) = (received.response.status(), received.response.headers().clone());
        let body = self.transport.body(&mut received.response, MAX_BODY).await?;
        if status.is_success() {
            return Ok(read(&body, asked)?);
        }
        match error_response::classify(Operation::Tags, status, &headers, &body, SystemTime::now()) {
            // 403 is about the scope; 401 may be about the password, and so is 400 about an identity token (RFC 6749 section 5.2).
            ErrorResponse::Denied => Err(Error::Denied.into()),
            _ if status == StatusCode::BAD_REQUEST && login.is_some_and(|login| login.identity_token) => {
                Err(Error::Denied.into())
            }
            ErrorResponse::AbuseLimit(wait, message) => {
                self.transport.limiter.shrink();
                let retry_after = permit.limited(wait, &message, Instant::now());
                Err(Error::AbuseLimit { retry_after, message }.into())
            }
            ErrorResponse::ServerError(retry_after) => {
                let reason: Arc<str> = format!("token service: it answers {status}").into();
                permit.failed(&reason, Instant::now());
                let retry = retry::is_transient(status);
                Err(FetchError { error: Error::Unavailable { reason, retry_after }, retry })
            }
            _ => {
                let reason = format!("token service: it answers {status}").into();
                Err(Error::Unavailable { reason, retry_after: None }.into())
            }
        }
    }

    async fn ask(&self, url: &Url, basic: Option<HeaderValue>, form: Option<String>) -> Result<Received, FetchError> {
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let mut request = reqwest::Request::new(method, url.clone());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(basic.map(|header| (AUTHORIZATION, header)));
        if let Some(form) = form {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            *request.body_mut() = Some(form.into());
        }
        // The request that needs the token has the breaker's leave already, and may be its probe; so this one asks for none,
        // but tells what it learned.
        let mut permit = self.breaker.untracked();
        let sent = self.transport.send(&permit, request, Lane::Short, || {}).await;
        sent.map_err(|failed| {
            let (reason, retry) = match failed {
                TransportError::Rejected(error) => return error.into(),
                TransportError::NotSent(reason) | TransportError::Broken(reason) => (reason, true),
                // Silence three times over would outlast the client's patience.
                TransportError::TimedOut(reason) => (reason, false),
            };
            let reason: Arc<str> = format!("token service: {reason}").into();
            permit.failed(&reason, Instant::now());
            FetchError { error: Error::Unavailable { reason, retry_after: None }, retry }
        })
    }
}

/// Takes a flight out of the map, however it ended.
struct Landing<'a> {
    tokens: &'a Tokens,
    key: &'a Key,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.tokens.flights().remove(self.key);
    }
}

/// Reads a token service's answer. `token` and `access_token` are one; a lifetime that is no number is none.
fn read(body: &[u8], asked: Instant) -> Result<Token, Error> {
    let not_a_token = || Error::Malformed("a token service that gives no token".into());
    let answer: serde_json::Value = serde_json::from_slice(body).map_err(|_| not_a_token())?;
    let texts = ["token", "access_token"].into_iter().filter_map(|name| answer[name].as_str());
    let text = texts.map(str::trim).find(|token| !token.is_empty());
    let header = HeaderValue::from_str(&format!("Bearer {}", text.ok_or_else(not_a_token)?));
    let mut header = header.map_err(|_| not_a_token())?;
    header.set_sensitive(true);
    let seconds = match &answer["expires_in"] {
        serde_json::Value::String(text) => text.parse::<f64>().ok(),
        value => value.as_f64(),
    };
    // A cast of a float saturates, and NaN is zero. `issued_at` is of another machine's clock and is not believed.
    let lifetime = seconds.map_or(LIFETIME.0, |seconds| seconds as u64).clamp(LIFETIME.0, LIFETIME.1);
    let lifetime = Duration::from_secs(lifetime) - EARLY;
    let until = Instant::now() + lifetime - jitter(Duration::from_secs(1));
    Ok(Token { header, asked, until })
}
