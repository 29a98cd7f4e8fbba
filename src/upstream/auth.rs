//! As whom a request is made: challenges answered, tokens fetched once and kept, accounts parked that a registry refused.
//!
//! # What it guarantees
//!
//! A password goes to the configured origin, when it asked for Basic, and to a token realm that [`redirect::realm`] let through; never
//! anywhere else, and never before it was asked for once. A challenge whose realm is foreign is passed over for a good one beside it;
//! if there is none nothing is sent at all.
//!
//! However many ask, one token is fetched for one (origin, service, scope, identity); those who ask meanwhile share
//! the answer, good or bad. What a registry wants is learned with its first 401, so that the next repository costs no such detour.
//!
//! An account whose password the token service or the registry refused is left alone for ten minutes: Docker Hub locks accounts
//! for as long after failed logins, and every further attempt prolongs that.
//!
//! # Scope
//!
//! Reading only: the scope is always `repository:<name>:pull`. Tokens live in memory, until 30 s before they expire.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::Engine as _;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use url::Url;

use super::{
    breaker::Breaker,
    challenge::Challenge,
    concurrency::Lane,
    error::Error,
    error_response::{self, ErrorResponse},
    identity::Identity,
    metrics::{Metrics, Operation, Outcome},
    redirect,
    retry::{self, jitter},
    settings::{Account, Settings},
    transport::{Transport, TransportError},
};

/// How long an account is left alone that was refused.
const PARKED: Duration = Duration::from_secs(600);
/// Tokens kept. One is about a kilobyte or two, and is for one repository.
const MAX_TOKENS: u64 = 10_000;
/// Bytes of a token service's answer.
const MAX_BODY: usize = 1024 * 1024;
/// A token says how long it lives within these bounds; what says nothing lives a minute (distribution, spec/auth/token.md).
const LIFETIME: (u64, u64) = (60, 24 * 3600);
const EARLY: Duration = Duration::from_secs(30);

/// What a registry wants, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AuthScheme {
    Bearer { realm: Url, service: Option<Arc<str>> },
    Basic,
}

/// What a token is for. The origin is part of it so that a registry that was redirected to never shares with the configured one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    origin: String,
    realm: String,
    service: Option<Arc<str>>,
    scope: Arc<str>,
    account: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Token>, Error>>>;

/// What a request carries.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) header: HeaderValue,
    /// Of a token, what it is for.
    key: Option<Key>,
    /// Whether it was made for this very request, so that another one would be no better.
    fresh: bool,
}

pub(crate) struct Auth {
    name: Arc<str>,
    origin: Url,
    token_hosts: Vec<String>,
    accounts: Vec<Account>,
    transport: Arc<Transport>,
    breaker: Breaker,
    metrics: Metrics,
    tokens: moka::sync::Cache<Key, Arc<Token>>,
    // All three are held for a few lines, never across an await.
    wanted: Mutex<Option<AuthScheme>>,
    flights: Mutex<HashMap<Key, Flight>>,
    parked: Mutex<HashMap<Arc<str>, Instant>>,
}

impl Auth {
    pub(crate) fn new(settings: &Settings, transport: Arc<Transport>, breaker: Breaker, metrics: Metrics) -> Auth {
        Auth {
            name: settings.name.clone(),
            origin: settings.url.clone(),
            token_hosts: settings.token_hosts.clone(),
            accounts: settings.accounts.clone(),
            transport,
            breaker,
            metrics,
            tokens: moka::sync::Cache::new(MAX_TOKENS),
            wanted: Mutex::default(),
            flights: Mutex::default(),
            parked: Mutex::default(),
        }
    }

    /// Whether an account was refused lately.
    pub(crate) fn is_parked(&self, account: &str) -> bool {
        lock(&self.parked).get(account).is_some_and(|until| Instant::now() < *until)
    }

    /// What to send to the configured origin with the first attempt: nothing, before it asked for something once.
    ///
    /// # Errors
    /// [`Error::Denied`] for a parked account, and whatever the token service did.
    pub(crate) async fn credential(
        self: &Arc<Self>,
        identity: &Identity,
        scope: &str,
    ) -> Result<Option<Credential>, Error> {
        if let Some(account) = &identity.account
            && self.is_parked(account)
        {
            return Err(Error::Denied);
        }
        let wanted = lock(&self.wanted).clone();
        match wanted {
            None => Ok(None),
            Some(AuthScheme::Basic) => Ok(self.account(identity).and_then(basic)),
            Some(AuthScheme::Bearer { realm, service }) => {
                self.token(&self.origin, realm, service, scope, identity.account.clone()).await.map(Some)
            }
        }
    }

    /// What to send after a 401 of the configured origin to a request that carried `sent`.
    ///
    /// # Errors
    /// [`Error::Denied`] when nothing better can be sent, [`Error::Malformed`] when the only realm named is foreign.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        identity: &Identity,
        scope: &str,
        challenges: &[Challenge],
        sent: Option<Credential>,
    ) -> Result<Credential, Error> {
        let wanted = choose(challenges, &self.origin, &self.token_hosts)?;
        *lock(&self.wanted) = Some(wanted.0.clone());
        match wanted {
            (AuthScheme::Basic, _) => {
                let account = self.account(identity).ok_or(Error::Denied)?;
                if sent.is_some_and(|sent| sent.key.is_none()) {
                    self.park(&account.username);
                    return Err(Error::Denied);
                }
                basic(account).ok_or(Error::Denied)
            }
            (AuthScheme::Bearer { realm, service }, challenge) => {
                if let Some(Credential { key: Some(key), fresh, header }) = sent {
                    // A token that says too little would say no more the next time.
                    if fresh || challenge.get("error") == Some("insufficient_scope") {
                        return Err(Error::Denied);
                    }
                    self.forget(&key, &header);
                }
                let mut credential = self.token(&self.origin, realm, service, scope, identity.account.clone()).await?;
                credential.fresh = true;
                Ok(credential)
            }
        }
    }

    /// An anonymous token for a registry that we were redirected to, such as registry.k8s.io's `*.pkg.dev`. No credential of ours
    /// is involved, and its realm must be at home there.
    pub(crate) async fn foreign_token(
        self: &Arc<Self>,
        registry: &Url,
        challenges: &[Challenge],
    ) -> Result<Credential, Error> {
        match choose(challenges, registry, &[]) {
            Ok((AuthScheme::Bearer { realm, service }, challenge)) => {
                let scope = challenge.get("scope").unwrap_or_default();
                self.token(registry, realm, service, scope, None).await
            }
            Ok((AuthScheme::Basic, _)) | Err(_) => Err(malformed("a redirect to where a password is asked for")),
        }
    }

    fn account(&self, identity: &Identity) -> Option<&Account> {
        let name = identity.account.as_ref()?;
        self.accounts.iter().find(|account| account.username == *name)
    }

    fn park(&self, account: &Arc<str>) {
        tracing::warn!(upstream = %self.name, %account, "an account was refused and is left alone for 10 min");
        lock(&self.parked).insert(account.clone(), Instant::now() + PARKED);
    }

    fn forget(&self, key: &Key, header: &HeaderValue) {
        if self.tokens.get(key).is_some_and(|token| token.header == *header) {
            self.tokens.invalidate(key);
        }
    }

    async fn token(
        self: &Arc<Self>,
        registry: &Url,
        realm: Url,
        service: Option<Arc<str>>,
        scope: &str,
        account: Option<Arc<str>>,
    ) -> Result<Credential, Error> {
        let origin = registry.origin().ascii_serialization();
        let key = Key { origin, realm: realm.into(), service, scope: Arc::from(scope), account };
        let flight = {
            let mut flights = lock(&self.flights);
            // Looked for under the lock: a flight puts its token here before it leaves the map.
            if let Some(token) = self.tokens.get(&key).filter(|token| Instant::now() < token.until) {
                return Ok(Credential { header: token.header.clone(), key: Some(key), fresh: false });
            }
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = self.fly(key.clone());
                    flights.insert(key.clone(), flight.clone());
                    flight
                }
            }
        };
        let token = flight.await?;
        Ok(Credential { header: token.header.clone(), key: Some(key), fresh: true })
    }

    /// The fetch is a task of its own: it goes on when the one who asked first leaves.
    fn fly(self: &Arc<Self>, key: Key) -> Flight {
        let auth = self.clone();
        let fetch = tokio::spawn(async move {
            let landing = Landing { auth: &auth, key: &key };
            let fetched = auth.fetch(&key).await.map(Arc::new);
            if let Ok(token) = &fetched {
                auth.tokens.insert(key.clone(), token.clone());
            }
            drop(landing);
            fetched
        });
        let landed = fetch.map(|joined| joined.unwrap_or_else(|_| Err(unavailable("the token request ended", None))));
        landed.boxed().shared()
    }

    /// One token, with up to two more attempts when the service cannot be reached.
    async fn fetch(&self, key: &Key) -> Result<Token, Error> {
        let mut attempt = 0;
        let outcome = loop {
            let outcome = self.fetch_once(key).await;
            match &outcome {
                Err((_, true)) if attempt < 2 && self.transport.may_retry() => {
                    self.metrics.retried(&self.name);
                    tokio::time::sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                _ => break outcome.map_err(|(error, _)| error),
            }
        };
        self.metrics.token(&self.name, outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
        outcome
    }

    /// The error goes with whether another attempt makes sense.
    async fn fetch_once(&self, key: &Key) -> Result<Token, (Error, bool)> {
        let last = |error| (error, false);
        let mut url = Url::parse(&key.realm).map_err(|_| last(malformed("a token realm that is no address")))?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            if !key.scope.is_empty() {
                query.append_pair("scope", &key.scope);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let account = key.account.as_ref().and_then(|name| self.accounts.iter().find(|a| a.username == *name));
        if let Some(credential) = account.and_then(basic) {
            headers.insert(AUTHORIZATION, credential.header);
        }
        // The request that needs the token has the breaker's leave already, and may be its probe; so this one asks for none,
        // but tells what it learned.
        let mut permit = self.breaker.untracked();
        let sent = self.transport.send(&permit, Method::GET, &url, headers, Lane::Short, || {}).await;
        let mut received = match sent {
            Ok(received) => received,
            Err(TransportError::Rejected(error)) => return Err(last(error)),
            Err(
                TransportError::NotSent(reason) | TransportError::Broken(reason) | TransportError::TimedOut(reason),
            ) => {
                let reason: Arc<str> = format!("token service: {reason}").into();
                permit.failed(&reason, Instant::now());
                return Err((Error::Unavailable { reason, retry_after: None }, true));
            }
        };
        let (status, headers) = (received.response.status(), received.response.headers().clone());
        let body = self.transport.body(&mut received.response, MAX_BODY).await.map_err(last)?;
        if status == StatusCode::OK {
            return read(&body).map_err(last);
        }
        match error_response::classify(Operation::Tags, status, &headers, &body, SystemTime::now()) {
            ErrorResponse::Denied if status == StatusCode::UNAUTHORIZED => {
                if let Some(account) = account {
                    self.park(&account.username);
                }
                Err(last(Error::Denied))
            }
            ErrorResponse::Denied => Err(last(Error::Denied)),
            ErrorResponse::AbuseLimit(asked, message) => {
                self.transport.limiter.shrink();
                let retry_after = permit.limited(asked, &message, Instant::now());
                Err(last(Error::AbuseLimit { retry_after, message }))
            }
            ErrorResponse::ServerError(retry_after) => {
                let reason: Arc<str> = format!("token service: it answers {status}").into();
                permit.failed(&reason, Instant::now());
                let again = retry::is_transient(status);
                Err((Error::Unavailable { reason, retry_after }, again))
            }
            _ => Err(last(unavailable(&format!("token service: it answers {status}"), None))),
        }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

/// Takes a flight out of the map, however it ended.
struct Landing<'a> {
    auth: &'a Auth,
    key: &'a Key,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.auth.flights).remove(self.key);
    }
}

/// Bearer before Basic, and of several Bearers the first with a realm that may be asked.
fn choose<'a>(
    challenges: &'a [Challenge],
    registry: &Url,
    token_hosts: &[String],
) -> Result<(AuthScheme, &'a Challenge), Error> {
    let mut foreign = None;
    for challenge in challenges.iter().filter(|challenge| challenge.scheme == "bearer") {
        match redirect::realm(registry, challenge.get("realm").unwrap_or_default(), token_hosts) {
            Ok(realm) => {
                let service = challenge.get("service").map(Arc::from);
                return Ok((AuthScheme::Bearer { realm, service }, challenge));
            }
            Err(why) => foreign = Some(why),
        }
    }
    match (challenges.iter().find(|challenge| challenge.scheme == "basic"), foreign) {
        (Some(basic), _) => Ok((AuthScheme::Basic, basic)),
        (None, Some(why)) => Err(malformed(why)),
        (None, None) => Err(Error::Denied),
    }
}

fn basic(account: &Account) -> Option<Credential> {
    let pair = format!("{}:{}", account.username, account.read_password().ok()?.0);
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    Some(Credential { header: secret(&format!("Basic {encoded}"))?, key: None, fresh: true })
}

fn read(body: &[u8]) -> Result<Token, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        // Some services write it as a fraction or as text.
        expires_in: Option<serde_json::Value>,
    }
    let not_a_token = || malformed("a token service that gives no token");
    let answer: Answer = serde_json::from_slice(body).map_err(|_| not_a_token())?;
    let text = answer.token.into_iter().chain(answer.access_token).find(|token| !token.is_empty());
    let header = secret(&format!("Bearer {}", text.ok_or_else(not_a_token)?)).ok_or_else(not_a_token)?;
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.parse::<f64>().ok(),
        value => value.as_f64(),
    });
    // A cast of a float saturates, and NaN is zero. `issued_at` is of another machine's clock and is not believed.
    let lifetime = seconds.map_or(LIFETIME.0, |seconds| seconds as u64).clamp(LIFETIME.0, LIFETIME.1);
    let lifetime = Duration::from_secs(lifetime) - EARLY;
    Ok(Token { header, until: Instant::now() + lifetime - jitter(Duration::from_secs(1)) })
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn malformed(what: &str) -> Error {
    Error::Malformed(what.into())
}

fn unavailable(reason: &str, retry_after: Option<Duration>) -> Error {
    Error::Unavailable { reason: reason.into(), retry_after }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
