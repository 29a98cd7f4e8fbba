//! As whom a request is made: challenges answered, tokens fetched once and kept, accounts parked that a registry refused.
//!
//! # What it guarantees
//!
//! A password goes to the configured origin, when it asked for Basic, and to a token realm that [`redirect::realm`] let through; never
//! anywhere else, and never before it was asked for once. A challenge whose realm is foreign is passed over for a good one beside it;
//! if there is none nothing is sent at all.
//!
//! What a registry wants is learned with its first 401, of the repository and as a guess for all others, so that the next
//! repository costs no such detour. A challenge that names another realm, service or scope than the token came from is a new
//! question and is answered once; a token that was asked for before the request came is replaced once, whatever the refusal, since
//! access may have been granted, or the token revoked, a moment ago. So a refusal says what was granted when the request came or
//! later. All requests share the new token, and when a repository is refused again and again they wait for it a moment.
//!
//! # Scope
//!
//! Reading only: the scope is `repository:<name>:pull`, or what a challenge names for the same repository when that
//! only reads.

mod accounts;
mod cloud;
mod helper;
mod login;
mod tokens;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use url::Url;

use self::{
    accounts::Accounts,
    cloud::Cloud,
    login::Login,
    tokens::{Key, Token, Tokens},
};
use super::{
    breaker::Breaker,
    challenge::Challenge,
    concurrency::Lane,
    error::Error,
    metrics::{Metrics, Operation},
    redirect,
    request::Request,
    settings::{CredentialState, Settings},
    transport::Transport,
};

/// What repositories want is remembered of so many.
const MAX_LEARNED: u64 = 10_000;
/// Actions that only read: what ACR asks for besides `pull`.
const READING: [&str; 3] = ["pull", "metadata_read", "content_read"];

/// What a registry wants, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AuthScheme {
    /// The scope is `None` when it is the usual one.
    Bearer {
        realm: Url,
        service: Option<Arc<str>>,
        scope: Option<Arc<str>>,
    },
    Basic,
}

/// What a request carries.
#[derive(Debug)]
enum Credential {
    Basic { header: HeaderValue, account: Arc<str>, login: Arc<Login> },
    Token { token: Arc<Token>, key: Key },
}

#[derive(Debug)]
pub(super) struct Auth {
    origin: Url,
    accounts: Arc<Accounts>,
    tokens: Arc<Tokens>,
    /// By repository, and whether it is for a listing, which may need another scope.
    learned: moka::sync::Cache<(Arc<str>, bool), AuthScheme>,
    // Held for a line, never across an await.
    usual: Mutex<Option<AuthScheme>>,
}

/// An anonymous token for a registry that we were redirected to.
pub(super) struct ForeignToken(Arc<Token>);

impl ForeignToken {
    /// The `Authorization` to send.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.header.clone()
    }

    /// Whether another one may say more than this to a request that began then.
    pub(super) fn is_older(&self, began: Instant) -> bool {
        self.0.asked < began
    }
}

/// What to do about a refusal.
pub(super) enum Next {
    /// Send the request once more.
    Again,
    /// The refusal stands.
    Final,
}

/// The credentials of one request: what is sent now, and what was tried.
pub(super) struct Session<'a> {
    auth: &'a Auth,
    account: Option<Arc<str>>,
    repository: Arc<str>,
    listing: bool,
    began: Instant,
    sent: Option<Credential>,
    tried: Vec<Key>,
    bare: bool,
    /// A token that this request had anew was called invalid.
    invalid: bool,
}

impl Auth {
    pub(super) fn new(settings: &Settings, transport: Arc<Transport>, breaker: Breaker, metrics: Metrics) -> Auth {
        let accounts = Arc::new(Accounts::new(settings, Cloud::new(&transport)));
        let hosts = settings.token_hosts.clone();
        let tokens = Tokens::new(settings.name.clone(), accounts.clone(), hosts, transport, breaker, metrics);
        Auth {
            origin: settings.url.clone(),
            accounts,
            tokens: Arc::new(tokens),
            learned: moka::sync::Cache::new(MAX_LEARNED),
            usual: Mutex::default(),
        }
    }

    /// What is known of each account's credential.
    pub(super) fn credentials(&self) -> Vec<(Arc<str>, CredentialState)> {
        self.accounts.states()
    }

    /// Whether an account was refused lately.
    pub(super) fn is_parked(&self, account: &str) -> bool {
        self.accounts.parked(account).is_some()
    }

    /// Whether an account was not refused lately and has a credential.
    pub(super) fn is_usable(&self, account: &Arc<str>) -> bool {
        !self.is_parked(account) && !self.credentials().contains(&(account.clone(), CredentialState::Unreadable))
    }

    /// What to send to the configured origin with the first attempt: nothing, before it asked for something once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a parked account, and whatever the token service did.
    pub(super) async fn session<'a>(&'a self, request: &Request<'_>) -> Result<Session<'a>, Error> {
        let mut session = Session {
            auth: self,
            account: request.identity.account.clone(),
            repository: request.repository.as_str().into(),
            listing: request.operation == Operation::Tags,
            began: Instant::now(),
            sent: None,
            tried: Vec::new(),
            bare: false,
            invalid: false,
        };
        if let Some(account) = &session.account
            && self.is_parked(account)
        {
            // Reads the credential again: a new one ends the parking.
            self.accounts.login(account).await?;
        }
        let key = (session.repository.clone(), session.listing);
        let scheme = self.learned.get(&key).or_else(|| self.usual().clone());
        session.sent = match scheme {
            None => None,
            Some(AuthScheme::Basic) if session.account.is_none() => None,
            Some(scheme) => Some(session.credential(&scheme).await?),
        };
        Ok(session)
    }

    /// An anonymous token for a registry that we were redirected to, such as registry.k8s.io's `*.pkg.dev`, another one than was
    /// `refused`. No credential of ours is involved, and its realm must be at home there.
    pub(super) async fn foreign_token(
        &self,
        registry: &Url,
        challenges: &[Challenge],
        refused: Option<ForeignToken>,
    ) -> Result<ForeignToken, Error> {
        match choose(challenges, registry, &[]) {
            Ok((AuthScheme::Bearer { realm, service, .. }, challenge)) => {
                let scope = challenge.get("scope").unwrap_or_default().into();
                let origin = registry.origin().ascii_serialization();
                let key = Key { origin, realm: realm.into(), service, scope, account: None };
                if let Some(ForeignToken(token)) = refused {
                    self.tokens.forget(&key, &token.header);
                }
                Ok(ForeignToken(self.tokens.get(&key).await?))
            }
            Ok((AuthScheme::Basic, _)) | Err(_) => {
                Err(Error::Malformed("a redirect to where a password is asked for".into()))
            }
        }
    }

    fn usual(&self) -> MutexGuard<'_, Option<AuthScheme>> {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the registry refuses the password itself, asked without a repository (end-1).
    async fn refuses(&self, header: HeaderValue) -> bool {
        let mut url = self.origin.clone();
        url.set_path(&format!("{}/v2/", url.path().trim_end_matches('/')));
        let mut request = reqwest::Request::new(Method::GET, url);
        request.headers_mut().insert(AUTHORIZATION, header);
        let permit = self.tokens.breaker.untracked();
        let sent = self.tokens.transport.send(&permit, request, Lane::Short, || {}).await;
        sent.is_ok_and(|received| matches!(received.response.status().as_u16(), 401 | 403))
    }
}

impl Session<'_> {
    /// The `Authorization` to send now.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        match self.sent.as_ref()? {
            Credential::Basic { header, .. } => Some(header.clone()),
            Credential::Token { token, .. } => Some(token.header.clone()),
        }
    }

    /// The registry answered what was asked.
    pub(super) fn accepted(&self) {
        match &self.sent {
            Some(Credential::Basic { account, .. }) => self.auth.accounts.accepted(account),
            Some(Credential::Token { .. }) | None => {}
        }
    }

    /// What to do about a 400, 401 or 403 of the configured origin.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the only realm named is foreign, [`Error::Unavailable`] when the account itself is refused, and
    /// whatever the token service did.
    pub(super) async fn refused(&mut self, status: StatusCode, challenges: &[Challenge]) -> Result<Next, Error> {
        let challenged = status == StatusCode::UNAUTHORIZED;
        let scheme = if challenged { self.scheme(challenges) } else { Err(Error::Denied) };
        match self.sent.take() {
            None if !challenged => Ok(Next::Final),
            None => self.again(&scheme?).await,
            Some(Credential::Basic { account, login, header }) => {
                if self.auth.accounts.changed(&account, &login).await {
                    return self.again(&AuthScheme::Basic).await;
                }
                if let Ok(scheme @ AuthScheme::Bearer { .. }) = scheme {
                    return self.again(&scheme).await;
                }
                let (_, lately) = self.auth.accounts.proven(&account);
                if status != StatusCode::BAD_REQUEST && !lately && self.auth.refuses(header).await {
                    return Err(self.auth.accounts.park(&account));
                }
                self.auth.accounts.refused_repository(&account, &self.repository);
                Ok(Next::Final)
            }
            Some(Credential::Token { token, key }) => {
                // A token may have been revoked while the request waited for its turn. Then the registry calls the token invalid, and does
                // not say that it grants too little (RFC 6750 section 3.1).
                let invalid = challenges.iter().any(|challenge| challenge.get("error") == Some("invalid_token"));
                let is_new = token.asked >= self.began;
                let is_revoked = is_new && invalid && !std::mem::replace(&mut self.invalid, true);
                let last = is_new && !is_revoked;
                let scheme = match scheme {
                    Ok(scheme) => scheme,
                    Err(error) if challenged => {
                        self.auth.tokens.forget(&key, &token.header);
                        // What an old token is answered says little; without it the registry says what it wants.
                        if last || std::mem::replace(&mut self.bare, true) {
                            return Err(error);
                        }
                        return Ok(Next::Again);
                    }
                    Err(_) if last => return Ok(Next::Final),
                    Err(_) => {
                        self.auth.tokens.forget(&key, &token.header);
                        let token = self.auth.tokens.get(&key).await?;
                        self.sent = Some(Credential::Token { token, key });
                        return Ok(Next::Again);
                    }
                };
                let same = self.key(&scheme).is_some_and(|wanted| wanted == key);
                if same && last {
                    return Ok(Next::Final);
                }
                if same {
                    self.auth.tokens.forget(&key, &token.header);
                    // It is another question to the token service than the one that was answered before.
                    self.tried.retain(|tried| *tried != key);
                }
                self.again(&scheme).await
            }
        }
    }

    /// Takes the credential of a challenge for the next attempt, unless it was tried already.
    async fn again(&mut self, scheme: &AuthScheme) -> Result<Next, Error> {
        if self.account.is_none() && *scheme == AuthScheme::Basic {
            return Ok(Next::Final);
        }
        if let Some(key) = self.key(scheme) {
            if self.tried.contains(&key) {
                return Ok(Next::Final);
            }
            self.tried.push(key);
        }
        self.auth.learned.insert((self.repository.clone(), self.listing), scheme.clone());
        *self.auth.usual() = Some(match scheme {
            AuthScheme::Bearer { realm, service, .. } => {
                AuthScheme::Bearer { realm: realm.clone(), service: service.clone(), scope: None }
            }
            AuthScheme::Basic => AuthScheme::Basic,
        });
        self.sent = Some(self.credential(scheme).await?);
        Ok(Next::Again)
    }

    async fn credential(&self, scheme: &AuthScheme) -> Result<Credential, Error> {
        match (self.key(scheme), &self.account) {
            (Some(key), _) => {
                let token = self.auth.tokens.get(&key).await?;
                Ok(Credential::Token { token, key })
            }
            (None, Some(account)) => {
                let login = self.auth.accounts.login(account).await?;
                let unusable = |why| {
                    let reason = format!("account {account}: {why}").into();
                    Error::Unavailable { reason, retry_after: None }
                };
                let header = login.basic().map_err(unusable)?;
                Ok(Credential::Basic { header, account: account.clone(), login })
            }
            (None, None) => Err(Error::Denied),
        }
    }

    /// What the token for a scheme is for; `None` for Basic.
    fn key(&self, scheme: &AuthScheme) -> Option<Key> {
        let AuthScheme::Bearer { realm, service, scope } = scheme else { return None };
        let usual = || format!("repository:{}:pull", self.repository).into();
        Some(Key {
            origin: self.auth.origin.origin().ascii_serialization(),
            realm: realm.as_str().into(),
            service: service.clone(),
            scope: scope.clone().unwrap_or_else(usual),
            account: self.account.clone(),
        })
    }

    fn scheme(&self, challenges: &[Challenge]) -> Result<AuthScheme, Error> {
        let (mut scheme, challenge) = choose(challenges, &self.auth.origin, &self.auth.tokens.token_hosts)?;
        if let AuthScheme::Bearer { scope, .. } = &mut scheme {
            *scope = challenge.get("scope").and_then(|named| reading(named, &self.repository)).map(Arc::from);
        }
        Ok(scheme)
    }
}

/// The part of a challenge's scope that is of this repository, if it only reads and is not the usual one.
fn reading<'a>(scope: &'a str, repository: &str) -> Option<&'a str> {
    scope.split_ascii_whitespace().find(|part| {
        let mut parts = part.splitn(3, ':');
        let (kind, name, actions) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        kind == Some("repository")
            && name == Some(repository)
            && actions != "pull"
            && actions.split(',').all(|action| READING.contains(&action))
    })
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
                return Ok((AuthScheme::Bearer { realm, service, scope: None }, challenge));
            }
            Err(why) => foreign = Some(why),
        }
    }
    match (challenges.iter().find(|challenge| challenge.scheme == "basic"), foreign) {
        (Some(basic), _) => Ok((AuthScheme::Basic, basic)),
        (None, Some(why)) => Err(Error::Malformed(why)),
        (None, None) => Err(Error::Denied),
    }
}
