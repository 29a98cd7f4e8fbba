//! One flight for many lookups of a manifest, each admitted for itself.
//!
//! All who look up one object at one moment share a flight, and the first of them is admitted and pays. When *that one* is refused, the
//! refusal is not shared: the others gather again by class, and at last by client, each flight admitted for the client it flies for
//! ([`ShareScope`]). A client that gets only what is cached flies alone from the start. So a scanner that came first costs production nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    answer::ManifestAnswer,
    error::Error,
    flight::{AGE_LIMIT, Flights},
    lookup::{Key, Lookup},
    metrics::{FlightKind, Metrics},
};
use crate::client::{Class, ClientKey};

/// With whom a request shares its flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ShareScope {
    /// Everybody who asks the same.
    All,
    /// Clients of its class, after the request of another class was refused.
    Class(Class),
    /// This client alone.
    Client(ClientKey),
    /// One that may have what is cached and nothing else: a bypass may lift that from another request of the same client.
    CachedOnly(ClientKey),
}

impl ShareScope {
    /// Who may have what is cached and nothing else must not lead others to that.
    fn widest(lookup: &Lookup) -> ShareScope {
        match lookup.cached_only {
            None => ShareScope::All,
            Some(_) => ShareScope::CachedOnly(lookup.client.key.clone()),
        }
    }
}

/// What a flight for a manifest knows of those it flies for.
#[derive(Clone, Debug)]
pub(super) struct Waiters {
    /// Those who joined.
    pub(super) count: Arc<AtomicU32>,
    pub(super) scope: ShareScope,
    /// Whether a stale answer may stand in, so that no client has to wait.
    pub(super) has_stale: bool,
}

/// The flights of manifests. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct ManifestFlights(Flights<(Key, ShareScope), ManifestAnswer>);

impl ManifestFlights {
    /// `queue_wait` is how long a leader may wait for a pull to come back, besides.
    pub(super) fn new(queue_wait: Duration, metrics: Arc<Metrics>, runtime: Handle) -> ManifestFlights {
        ManifestFlights(Flights::new(FlightKind::manifest, AGE_LIMIT + queue_wait, metrics, runtime))
    }

    /// Asks in one flight with all requests for the same; after a refusal that was another client's, with fewer.
    pub(super) async fn coalesce<W>(
        &self,
        key: &Key,
        lookup: &Lookup,
        work: impl Fn(Waiters) -> W,
    ) -> Result<ManifestAnswer, Error>
    where
        W: Future<Output = Result<ManifestAnswer, Error>> + Send + 'static,
    {
        let mut answer = Err(Error::Internal);
        let widest = ShareScope::widest(lookup);
        let narrower = [ShareScope::Class(lookup.client.class), ShareScope::Client(lookup.client.key.clone())];
        let narrower = narrower.into_iter().filter(|_| lookup.cached_only.is_none());
        for scope in std::iter::once(widest).chain(narrower) {
            let led = AtomicBool::new(false);
            let flight = self.0.join((key.clone(), scope.clone()), |count| {
                led.store(true, Ordering::Relaxed);
                work(Waiters { count, scope, has_stale: false })
            });
            answer = flight.await;
            let is_own = led.load(Ordering::Relaxed);
            match &answer {
                Err(Error::BudgetSpent { retry_alone, .. }) if *retry_alone || !is_own => {}
                Err(Error::Throttled(_)) if !is_own => {}
                _ => break,
            }
        }
        answer
    }

    /// The outcome of work that no client waits for, shared with the lookups that come meanwhile.
    pub(super) async fn background<W>(&self, key: Key, work: impl FnOnce(Waiters) -> W) -> Result<ManifestAnswer, Error>
    where
        W: Future<Output = Result<ManifestAnswer, Error>> + Send + 'static,
    {
        let waiters = |count| Waiters { count, scope: ShareScope::All, has_stale: true };
        self.0.join((key, ShareScope::All), |count| work(waiters(count))).await
    }
}
