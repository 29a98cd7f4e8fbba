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
mod body;
mod breaker;
mod challenge;
mod concurrency;
mod encoding;
mod endpoint;
mod error;
mod error_response;
mod exchange;
mod identity;
mod link;
mod listings;
mod manifests;
mod metrics;
mod ratelimit;
mod redirect;
mod request;
mod retry;
mod retry_after;
mod settings;
mod tls;
mod transport;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use body::Body;
use endpoint::Endpoint;
pub use error::Error;
use exchange::Exchange;
pub use identity::Identity;
pub use ledger::{Ledger, Reservation};
pub use metrics::Metrics;
pub use ratelimit::RateLimit;
pub use settings::{Account, Invalid, Secret, Settings};
pub use tls::install_provider;

use crate::oci::{Digest, MediaType, Name};

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

/// One configured registry. Cloning is cheap. All methods must run on main's runtime, never on an actix worker.
#[derive(Clone, Debug)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    exchange: Exchange,
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
    /// In words that name the setting: a `ca_file` that cannot be read, no root certificates.
    pub fn new(settings: Settings, ledger: Ledger) -> Result<Upstream, String> {
        Upstream::with_metrics(settings, ledger, Metrics::default())
    }

    /// As [`Upstream::new`], with counters that are shared among upstreams.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub fn with_metrics(settings: Settings, ledger: Ledger, metrics: Metrics) -> Result<Upstream, String> {
        let endpoint = Endpoint::new(&settings, ledger, metrics.clone())?;
        let exchange = Exchange { upstream: settings.name.clone(), endpoint, metrics };
        let headless = moka::sync::Cache::builder().max_capacity(MAX_HEADLESS).time_to_live(HEADLESS).build();
        Ok(Upstream { inner: Arc::new(Inner { settings, exchange, headless }) })
    }

    /// As they were given.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Anonymous first, then the accounts that are not parked (one 401 of the token service or of Basic parks an account for 10 min).
    pub fn identities(&self) -> Vec<Identity> {
        let identity = |account| Identity { upstream: self.inner.settings.name.clone(), account };
        let accounts = self.inner.settings.accounts.iter().map(|account| account.username.clone());
        let awake = accounts.filter(|account| !self.inner.exchange.endpoint.auth.is_parked(account));
        std::iter::once(None).chain(awake.map(Some)).map(identity).collect()
    }

    /// Closed, or until when it is open and why; for readiness and the dashboard.
    pub fn breaker(&self) -> Option<(SystemTime, Arc<str>)> {
        self.inner.exchange.endpoint.breaker.open(Instant::now())
    }
}

#[cfg(test)]
mod tests;
