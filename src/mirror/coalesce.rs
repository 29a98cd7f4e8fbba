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
    error::Error,
    flight::{AGE_LIMIT, Flights},
    lookup::{Key, Lookup},
    metrics::Metrics,
    outcome::FlightKind,
};
use crate::{
    answer::ManifestAnswer,
    client::{Class, ClientKey},
    limits::Limits,
};

/// With whom a request shares its flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ShareScope {
    /// All requests for the same.
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
pub(super) struct ManifestFlights {
    flights: Flights<(Key, ShareScope), ManifestAnswer>,
    limits: Limits,
}

impl ManifestFlights {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>, runtime: Handle) -> ManifestFlights {
        ManifestFlights { flights: Flights::new(FlightKind::manifest, metrics, runtime), limits }
    }

    /// A leader may wait for a pull to come back, besides: as long as the configuration of this moment allows.
    fn age_limit(&self) -> Duration {
        AGE_LIMIT + self.limits.config().budget.queue_max_wait
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
            let flight = self.flights.join((key.clone(), scope.clone()), self.age_limit(), |count| {
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
        self.flights.join((key, ShareScope::All), self.age_limit(), |count| work(waiters(count))).await
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::SystemTime};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        client::Client,
        limits::{LimitsConfig, audit::Actor},
        mirror::lookup::{Cost, Object},
    };

    /// The follower asks again in a flight of its own: what is its outcome there is its answer.
    #[tokio::test]
    async fn a_budget_refusal_of_the_leader_is_not_given_to_the_client_that_follows() {
        let flights =
            ManifestFlights::new(Limits::in_memory(LimitsConfig::default()), Arc::default(), Handle::current());
        let lookup = |last: u8| Lookup {
            upstream: "docker.io".into(),
            repository: "library/a".parse().unwrap(),
            client: Arc::new(Client::anonymous([192, 0, 2, last].into(), [192, 0, 2, last].into())),
            cached_only: None,
            cost: Cost::default(),
        };
        let (leader, follower) = (lookup(1), lookup(2));
        let key = leader.key(Object::Manifest("latest".parse().unwrap()));
        let gate = Arc::new(Notify::new());
        let refuse = |_| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Err(Error::BudgetSpent {
                    retry_after: Duration::ZERO,
                    message: "spent".into(),
                    rule: "budget_exhausted",
                    retry_alone: false,
                })
            }
        };
        let mut led = pin!(flights.coalesce(&key, &leader, refuse));
        let mut followed = pin!(flights.coalesce(&key, &follower, |_| async { Err(Error::ManifestUnknown) }));
        assert!(futures_util::poll!(&mut led).is_pending());
        assert!(futures_util::poll!(&mut followed).is_pending());
        gate.notify_one();
        let (led, followed) = tokio::join!(led, followed);
        assert!(matches!(led, Err(Error::BudgetSpent { .. })), "{led:?}");
        assert!(matches!(followed, Err(Error::ManifestUnknown)), "{followed:?}");
    }

    /// A reload makes the queue longer. A flight that starts after it and waits in the queue is not too old for that.
    #[tokio::test]
    async fn a_flight_may_wait_as_long_as_the_reloaded_queue_allows() {
        let mut config = LimitsConfig::default();
        config.budget.queue_max_wait = Duration::from_secs(10);
        let limits = Limits::in_memory(config.clone());
        let flights = ManifestFlights::new(limits.clone(), Arc::default(), Handle::current());
        assert_eq!(flights.age_limit(), AGE_LIMIT + Duration::from_secs(10));
        config.budget.queue_max_wait = Duration::from_secs(25);
        limits.reload(config, &Actor::auto(), SystemTime::now());
        assert_eq!(flights.age_limit(), AGE_LIMIT + Duration::from_secs(25));
    }
}
