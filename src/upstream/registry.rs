//! One configured registry: the six things that a mirror asks it.

mod blobs;
mod listings;
mod manifests;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    endpoint::Endpoint,
    exchange::Exchange,
    identity::Identity,
    ledger::Ledger,
    metrics::Metrics,
    settings::{Account, CredentialState, Settings},
    transport::Renewed,
};
use crate::clock;
use crate::oci::{Digest, MediaType, Name};

/// What a HEAD of a manifest says. `digest` is `None` for registries that send none (then only a GET knows).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the reference names now.
    pub digest: Option<Digest>,
    /// `None` when upstream does not know, or says `application/json` and the like.
    pub media_type: Option<MediaType>,
    /// In bytes.
    pub size: Option<u64>,
}

/// One configured registry. Cloning is cheap. All methods must run on main's runtime, never on an actix worker.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    settings: Settings,
    pub(super) exchange: Exchange,
    /// Repositories that refused a HEAD lately.
    headless: moka::sync::Cache<Name, ()>,
    /// Digests whose content is what it should be and cannot be used, and why.
    unusable: moka::sync::Cache<Digest, Arc<str>>,
}

/// How long a refused HEAD is remembered, and of how many repositories.
const HEADLESS: Duration = Duration::from_secs(600);
const MAX_HEADLESS: u64 = 10_000;
/// How long the content of a digest is known to be unusable; a later version of Weir may be able to use it.
const UNUSABLE: Duration = Duration::from_secs(3600);

impl Upstream {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// In words that name the setting: a `ca_file` that cannot be read, no root certificates.
    pub fn new(settings: Settings, ledger: Ledger) -> Result<Upstream, String> {
        Upstream::with_metrics(settings, ledger, Metrics::default())
    }

    /// As [`Upstream::new`], with counters that are shared among upstreams.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn with_metrics(settings: Settings, ledger: Ledger, metrics: Metrics) -> Result<Upstream, String> {
        for account in settings.accounts.iter().filter(|account| !account.shared.is_empty()) {
            let (account, shared) = (&account.username, &account.shared);
            tracing::warn!(upstream = %settings.name, %account, ?shared, "what this account may read of these is given to every client");
        }
        let endpoint = |url| Endpoint::new(&settings, url, ledger.clone(), metrics.clone());
        let (first, others) = (endpoint(&settings.url)?, settings.urls.iter().map(endpoint));
        let others = others.collect::<Result<_, _>>()?;
        let exchange = Exchange { upstream: settings.name.clone(), endpoint: first, others, metrics };
        let headless = moka::sync::Cache::builder().max_capacity(MAX_HEADLESS).time_to_live(HEADLESS).build();
        let unusable = moka::sync::Cache::builder().max_capacity(MAX_HEADLESS).time_to_live(UNUSABLE).build();
        Ok(Upstream { inner: Arc::new(Inner { settings, exchange, headless, unusable }) })
    }

    /// Whether this is a client of the registry that `settings` name, with nothing to be made anew. `allow` and `deny` are kept by the limits.
    pub fn is_of(&self, settings: &Settings) -> bool {
        let own = &self.inner.settings;
        *own == Settings { allow: own.allow.clone(), deny: own.deny.clone(), ..settings.clone() }
    }

    /// Whether both are clones of one client.
    pub fn is(&self, other: &Upstream) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// As they were given.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Anonymous first, then the accounts that were not refused lately.
    pub fn identities(&self) -> Vec<Identity> {
        let auth = &self.inner.exchange.endpoint.auth;
        self.sources(|account| !auth.is_parked(&account.username))
    }

    /// Anonymous first, then the accounts that are `wanted`, last those that were refused lately: to ask as one of them is an error that
    /// says so, and is no absence.
    pub fn sources(&self, wanted: impl Fn(&Account) -> bool) -> Vec<Identity> {
        let auth = &self.inner.exchange.endpoint.auth;
        let identity = |account| Identity { upstream: self.inner.settings.name.clone(), account };
        let accounts = self.inner.settings.accounts.iter().filter(|account| wanted(account));
        let mut accounts: Vec<_> = accounts.map(|account| account.username.clone()).collect();
        accounts.sort_by_key(|account| auth.is_parked(account));
        std::iter::once(None).chain(accounts.into_iter().map(Some)).map(identity).collect()
    }

    /// What is known of the credential of each account.
    pub fn credentials(&self) -> Vec<(Arc<str>, CredentialState)> {
        self.inner.exchange.endpoint.auth.credentials()
    }

    /// Whether the credential of this identity could not be read, so that nothing was asked with it.
    pub fn has_no_credential(&self, identity: &Identity) -> bool {
        let is_unreadable = |(name, state)| Some(name) == identity.account && state == CredentialState::Unreadable;
        self.credentials().into_iter().any(is_unreadable)
    }

    /// Reads the files of certificates again, and gives what puts those in force that changed. Blocks for the read of a few small files.
    ///
    /// # Errors
    /// In words that name the upstream, the setting and the file.
    pub fn prepare(&self) -> Result<Vec<Renewed>, String> {
        let exchange = &self.inner.exchange;
        let endpoints = std::iter::once(&exchange.endpoint).chain(&exchange.others);
        let renewed = endpoints.map(|endpoint| endpoint.transport.prepare()).collect::<Result<Vec<_>, _>>();
        renewed.map(|renewed| renewed.into_iter().flatten().collect())
    }

    /// Whether an identity's pulls are not counted, as far as upstream ever said. Docker Hub counts them, whatever it said yet.
    pub fn is_unmetered(&self, identity: &Identity) -> bool {
        let host = self.inner.settings.url.host_str().unwrap_or_default();
        let balance = self.inner.exchange.endpoint.ledger.balance(identity, clock::now());
        !host.ends_with("docker.io") && balance.limit.is_none() && balance.remaining.is_none()
    }

    /// Requests that wait for their turn to be sent.
    pub fn waiting(&self) -> usize {
        let exchange = &self.inner.exchange;
        let endpoints = std::iter::once(&exchange.endpoint).chain(&exchange.others);
        endpoints.map(|endpoint| endpoint.transport.limiter.waiting()).sum()
    }

    /// Requests since the start, and how long all of them took until the answer began.
    pub fn took(&self) -> (u64, Duration) {
        self.inner.exchange.metrics.took(&self.inner.exchange.upstream)
    }

    /// Closed, or until when it is open and why, for readiness and the dashboard; until `None` when the next request finds out whether
    /// upstream answers again.
    pub fn breaker(&self) -> Option<(Option<SystemTime>, Arc<str>)> {
        self.inner.exchange.endpoint.breaker.open(Instant::now())
    }
}
