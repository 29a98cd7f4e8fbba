//! A client of registries; the only user of reqwest.
//!
//! [`Upstream`] asks one registry the six things that a mirror needs to know, and answers with values or with an [`Error`] that a caller can act
//! on. Each request goes the same way: the breaker gives leave (`breaker.rs`), a credential is found (`auth.rs`), the request waits for
//! its turn (`limiter.rs`) and is sent (`transport.rs`) to an address that may be spoken to (`address.rs`); redirects are walked
//! by hand (`redirect.rs`), and the status is read (`refusal.rs`). A counted request is paid in the [`ledger`] first.
//!
//! # What it guarantees
//!
//! A credential goes to the configured origin and to that origin's vetted token host, nowhere else. Nothing is asked of an upstream that is
//! down or limits us but one probe at a time. Every wait and every body has a bound, but for the body of a blob, which may take as
//! long as it takes while pieces keep coming. What is returned as a manifest was verified; what is returned as a blob was not,
//! since its bytes are still on the way.
//!
//! # Scope
//!
//! No cache, no policy, no coalescing but of tokens: those are the mirror's. Nothing here is done behind anybody's back:
//! an upstream that nobody asks is never spoken to, and Weir starts without any.

pub mod ledger;

mod address;
mod auth;
mod blobs;
mod breaker;
mod challenge;
mod concurrency;
mod error_response;
mod exchange;
mod link;
mod listings;
mod manifests;
mod metrics;
mod ratelimit;
mod redirect;
mod retry_after;
mod tls;
mod transport;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::StatusCode;
use url::Url;

use crate::oci::{Digest, MediaType, Name};
pub use blobs::Body;
pub use ledger::{Ledger, Reservation};
pub use metrics::Metrics;
pub use ratelimit::RateLimit;
pub use tls::install_provider;

/// One `[[upstream]]`. Every duration and bound stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What `ns=` and the path prefix say, such as `docker.io`.
    pub name: Arc<str>,
    /// Where it is, such as `https://registry-1.docker.io`; may have a path, below which `/v2/` is.
    pub url: Url,
    /// Serves names without a registry.
    pub default: bool,
    /// As whom it may be asked besides anonymously.
    pub accounts: Vec<Account>,
    /// Hosts, with or without port, whose token realms are trusted besides those of the upstream's own domain.
    pub token_hosts: Vec<String>,
    /// Never speaks IPv6 to it: Hub's abuse limit groups IPv6 by /64, so neighbours count.
    pub ipv4_only: bool,
    /// TCP and TLS together (5 s).
    pub connect_timeout: Duration,
    /// Until the response headers (15 s; containerd waits 30 for ours).
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body (15 s). There is no whole-body timeout.
    pub idle_timeout: Duration,
    /// Requests under way at once to one host (32) …
    pub concurrency: usize,
    /// … and waiting for their turn (1024), past which they fail as unavailable.
    pub queue: usize,
    /// More root certificates (PEM) for a private registry; the system's are always trusted.
    pub ca_file: Option<std::path::PathBuf>,
}

/// A user of a registry.
#[derive(Clone, Debug)]
pub struct Account {
    /// Sent to the registry, and shown in the ledger.
    pub username: Arc<str>,
    /// Sent to the registry or its token service, and shown nowhere.
    pub password: Secret,
}

/// A secret that does not print.
#[derive(Clone)]
pub struct Secret(pub Arc<str>);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// As whom upstream is asked: anonymous, or one of the accounts. A budget belongs to an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// `None` is anonymous.
    pub account: Option<Arc<str>>,
}

impl Identity {
    /// How one who has no account is called.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// The account's user name, or [`Identity::ANONYMOUS`].
    pub fn name(&self) -> Arc<str> {
        self.account.clone().unwrap_or_else(|| Arc::from(Identity::ANONYMOUS))
    }
}

/// What a HEAD of a manifest told. `digest` is `None` for registries that send none (then only a GET knows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the reference names now.
    pub digest: Option<Digest>,
    /// `None` when upstream does not know, or says `application/json` and the like.
    pub media_type: Option<MediaType>,
    /// In bytes.
    pub size: Option<u64>,
}

/// What a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 404: upstream says it does not exist.
    #[error("not found upstream")]
    NotFound,
    /// 401 or 403 to this identity, after a good token or with Basic. Hub answers so for what does not exist, too.
    #[error("refused by upstream")]
    Denied,
    /// 429 of the pull limit (JSON TOOMANYREQUESTS). HEADs go on.
    #[error("upstream's pull limit is reached")]
    PullLimit {
        /// Until the forecast of the next pull, or as upstream asked.
        retry_after: Duration,
    },
    /// 429 of the abuse limit, or its breaker is open: nothing is asked of this upstream until then.
    #[error("upstream limits this address: {message}")]
    AbuseLimit {
        /// For how long.
        retry_after: Duration,
        /// In upstream's words: one line, at most 200 characters.
        message: Arc<str>,
    },
    /// Connect, time-out, 5xx, token service, breaker.
    #[error("upstream is unavailable: {reason}")]
    Unavailable {
        /// In our words; holds no address with a query.
        reason: Arc<str>,
        /// When it makes sense to come back, if that is known.
        retry_after: Option<Duration>,
    },
    /// 405 or 501 to a HEAD, or learned lately for this repository (10 min): the only case in which a GET stands in.
    #[error("upstream refuses HEAD")]
    HeadRefused,
    /// 200 with something that is not what was asked: HTML, wrong length, another digest, a redirect to where we do not go.
    #[error("upstream's answer is malformed: {0}")]
    Malformed(Arc<str>),
}

impl Error {
    fn outcome(&self) -> metrics::Outcome {
        match self {
            Error::NotFound => metrics::Outcome::NotFound,
            Error::Denied => metrics::Outcome::Denied,
            Error::PullLimit { .. } => metrics::Outcome::PullLimit,
            Error::AbuseLimit { .. } => metrics::Outcome::AbuseLimit,
            Error::Unavailable { .. } => metrics::Outcome::Unavailable,
            Error::HeadRefused => metrics::Outcome::HeadRefused,
            Error::Malformed(_) => metrics::Outcome::Malformed,
        }
    }
}

/// One configured registry. Cloning is cheap. All methods must run on main's runtime, never on an actix worker.
#[derive(Clone, Debug)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    ledger: Ledger,
    transport: Arc<transport::Transport>,
    breaker: breaker::Breaker,
    auth: Arc<auth::Auth>,
    metrics: Metrics,
    /// Repositories that refused a HEAD lately.
    headless: moka::sync::Cache<Name, ()>,
}

/// How long a refused HEAD is remembered, and of how many repositories.
const HEADLESS: Duration = Duration::from_secs(600);
const MAX_HEADLESS: u64 = 10_000;

impl Upstream {
    /// Speaks to nobody yet.
    ///
    /// # Errors
    /// In words that name the setting: a URL that cannot be asked, a `ca_file` that cannot be read, no root certificates.
    pub fn new(settings: Settings, ledger: Ledger) -> Result<Upstream, String> {
        Upstream::with_metrics(settings, ledger, Metrics::default())
    }

    /// As [`Upstream::new`], with counters that are shared among upstreams.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn with_metrics(settings: Settings, ledger: Ledger, metrics: Metrics) -> Result<Upstream, String> {
        let wrong = |what: &str| format!("upstream {}: {what}", settings.name);
        let url = &settings.url;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("url must be http:// or https:// with a host"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("url must have no user, query or fragment; accounts name users"));
        }
        if settings.accounts.iter().any(|account| &*account.username == Identity::ANONYMOUS) {
            return Err(wrong("no account may be called \"anonymous\""));
        }
        let transport = Arc::new(transport::Transport::new(&settings)?);
        let breaker = breaker::Breaker::of(&settings.name);
        let auth = auth::Auth::new(&settings, transport.clone(), breaker.clone(), metrics.clone());
        let headless = moka::sync::Cache::builder().max_capacity(MAX_HEADLESS).time_to_live(HEADLESS).build();
        let auth = Arc::new(auth);
        let inner = Inner { settings, ledger, transport, breaker, auth, metrics, headless };
        Ok(Upstream { inner: Arc::new(inner) })
    }

    /// As they were given.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Anonymous first, then the accounts that are not parked (one 401 of the token service or of Basic parks an account for 10 min).
    pub fn identities(&self) -> Vec<Identity> {
        let identity = |account| Identity { upstream: self.inner.settings.name.clone(), account };
        let accounts = self.inner.settings.accounts.iter().map(|account| account.username.clone());
        let awake = accounts.filter(|account| !self.inner.auth.is_parked(account));
        std::iter::once(None).chain(awake.map(Some)).map(identity).collect()
    }

    /// Closed, or until when it is open and why; for readiness and the dashboard.
    pub fn breaker(&self) -> Option<(SystemTime, Arc<str>)> {
        self.inner.breaker.open(Instant::now())
    }

    /// Below `/v2/`. Names, tags and digests hold no character that would have to be escaped.
    fn url(&self, rest: &str) -> Url {
        let mut url = self.inner.settings.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{base}/v2/{path}"));
        url.set_query(query);
        url
    }
}

/// A repeated request waits between nothing and 100 ms, then 200 ms, and never beyond this.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Full jitter over an exponential step.
fn backoff(attempt: u32) -> Duration {
    jitter(Duration::from_millis(100).saturating_mul(1 << attempt.min(8)).min(MAX_BACKOFF))
}

/// Anything from nothing to `most`, so that those who wait do not come back together.
fn jitter(most: Duration) -> Duration {
    // The hasher's keys are random, and that is all the randomness that this needs.
    let random = RandomState::new().hash_one(0) >> 32;
    most.mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Answers that a gateway gives while what is behind it restarts.
fn worth_repeating(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

#[cfg(test)]
mod tests;
