//! One piece of work per key, however many lookup.
//!
//! # What it guarantees
//!
//! While work for a key is under way, whoever asks for that key waits for the same outcome; nobody starts it twice. The
//! work runs on the background runtime as a task of its own, so it goes on when everybody who asked has left: a server
//! worker's task dies with its connection, and with it would die the pull that a hundred others wait for.
//! Every waiter gets the outcome, success and failure alike, at once.
//!
//! # What it refuses to do
//!
//! It keeps no result. When the outcome is told, the key is free, and the next to ask starts anew. Whoever does the work must
//! therefore look in the store first: between a caller's look and its joining, an earlier flight may have landed.
//! It does not retry work that failed; an outcome is an outcome.
//!
//! # What breaks if a line is moved
//!
//! The key is freed *before* the outcome is told ([`Landing::drop`] runs before the sender's last `send`). In the other order
//! a waiter that asks again at once, as a client does after an error, could join the flight that just failed and receive
//! the same failure without anyone having tried.
//! A task that panics or is cancelled frees its key, too, and tells nothing: its waiters see the sender vanish, which is
//! not an outcome, and one of them takes over with work of its own.
//! A task that never ends, as on a disk that hangs, keeps its key no longer than the age limit: then its waiters get an error,
//! and the next lookup starts anew. Every outcome has a name, which the metrics count.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::Instrument as _;

use super::{
    error::Error,
    metrics::{FlightKind, FlightOutcome, Metrics},
};

/// How often a waiter takes over from leaders that vanish before it gives up.
const TAKE_OVERS: usize = 3;

/// How long a flight may take. Longer than any sound one: a slot among the fills, a token, and a few attempts upstream.
pub(super) const AGE_LIMIT: Duration = Duration::from_secs(120);

/// Flights under way, by key. Cloning shares them.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    kind: FlightKind,
    // A std mutex: it is held for a map operation and never across an await.
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    age_limit: Duration,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Flights<K, T> {
        let Flights { kind, under_way, age_limit, metrics, runtime } = self;
        let (under_way, metrics, runtime) = (under_way.clone(), metrics.clone(), runtime.clone());
        Flights { kind: *kind, under_way, age_limit: *age_limit, metrics, runtime }
    }
}

#[derive(Debug)]
struct Flight<T> {
    outcome: watch::Receiver<Option<Result<T, Error>>>,
    waiters: Arc<AtomicU32>,
    deadline: Instant,
    span: tracing::Span,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Flight<T> {
        let Flight { outcome, waiters, deadline, span } = self;
        Flight { outcome: outcome.clone(), waiters: waiters.clone(), deadline: *deadline, span: span.clone() }
    }
}

impl<T> Flight<T> {
    /// Whether lookups may still join it. Not when its leader is gone and told nothing, whose key may not be free yet: a panic drops
    /// its values in any order. And not when it is too old.
    fn is_open(&self) -> bool {
        let vanished = self.outcome.has_changed().is_err() && self.outcome.borrow().is_none();
        !vanished && Instant::now() < self.deadline
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Debug + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// No flights yet; work will run on `runtime`.
    pub(super) fn new(kind: FlightKind, age_limit: Duration, metrics: Arc<Metrics>, runtime: Handle) -> Flights<K, T> {
        Flights { kind, under_way: Arc::default(), age_limit, metrics, runtime }
    }

    /// The outcome of the work under way for `key`, or of `work`, which is then started.
    ///
    /// `work` receives the count of those who wait besides the first; it grows while the work goes on.
    ///
    /// # Errors
    /// What the work says; [`Error::Internal`] when it panicked, and so did that of those who took over;
    /// [`Error::UpstreamUnavailable`] when it reached the age limit.
    pub(super) async fn join<F, W>(&self, key: K, work: F) -> Result<T, Error>
    where
        F: FnOnce(Arc<AtomicU32>) -> W,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut work = Some(work);
        for _ in 0..TAKE_OVERS {
            let mut flight = {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                match under_way.get(&key).filter(|flight| flight.is_open()) {
                    Some(flight) => {
                        flight.waiters.fetch_add(1, Ordering::Relaxed);
                        tracing::Span::current().follows_from(&flight.span);
                        flight.clone()
                    }
                    None => {
                        let Some(work) = work.take() else { break };
                        let flight = self.start(key.clone(), work);
                        under_way.insert(key.clone(), flight.clone());
                        flight
                    }
                }
            };
            match timeout_at(flight.deadline, flight.outcome.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => {
                    if let Some(outcome) = outcome.clone() {
                        return outcome;
                    }
                }
                // The leader vanished.
                Ok(Err(_)) => {}
                Err(_) => {
                    if release(&self.under_way, &key, &flight.waiters) {
                        self.metrics.flight(self.kind, FlightOutcome::too_old);
                        tracing::error!(kind = ?self.kind, ?key, "a flight does not end; its key is freed");
                    }
                    let message = "this mirror waited too long for its disk or for upstream".into();
                    return Err(Error::UpstreamUnavailable { retry_after: None, message });
                }
            }
        }
        Err(Error::Internal)
    }

    fn start<F, W>(&self, key: K, work: F) -> Flight<T>
    where
        F: FnOnce(Arc<AtomicU32>) -> W,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiters = Arc::new(AtomicU32::new(0));
        let (tell, outcome) = watch::channel(None);
        let span = tracing::debug_span!("flight", kind = ?self.kind, ?key);
        let (kind, metrics) = (self.kind, self.metrics.clone());
        let mut landing =
            Landing { under_way: self.under_way.clone(), key, waiters: waiters.clone(), counts: Some((kind, metrics)) };
        let work = work(waiters.clone());
        let task = async move {
            let value = work.await;
            if let Some((kind, metrics)) = landing.counts.take() {
                metrics.flight(kind, outcome_of(&value));
            }
            drop(landing);
            tell.send_replace(Some(value));
        };
        self.runtime.spawn(task.instrument(span.clone()));
        Flight { outcome, waiters, deadline: Instant::now() + self.age_limit, span }
    }
}

/// The name of an outcome. Every failure has one of its own.
fn outcome_of<T>(value: &Result<T, Error>) -> FlightOutcome {
    match value {
        Ok(_) => FlightOutcome::done,
        Err(Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown) => FlightOutcome::absent,
        Err(Error::BudgetSpent { .. }) => FlightOutcome::budget_spent,
        Err(Error::Throttled(_)) => FlightOutcome::throttled,
        Err(Error::UpstreamLimited { .. }) => FlightOutcome::upstream_limited,
        Err(Error::UpstreamUnavailable { .. }) => FlightOutcome::upstream_unavailable,
        Err(Error::UpstreamMalformed { .. }) => FlightOutcome::upstream_malformed,
        Err(Error::Internal) => FlightOutcome::internal,
    }
}

/// Frees the key if this flight still has it, and says whether it had: a waiter may have taken over, whose flight is its own.
fn release<K: Eq + Hash, T>(under_way: &Mutex<HashMap<K, Flight<T>>>, key: &K, waiters: &Arc<AtomicU32>) -> bool {
    let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
    let is_own = under_way.get(key).is_some_and(|flight| Arc::ptr_eq(&flight.waiters, waiters));
    if is_own {
        under_way.remove(key);
    }
    is_own
}

/// Frees the key when the work ends, however it ends.
struct Landing<K: Eq + Hash, T> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
    waiters: Arc<AtomicU32>,
    /// Until the outcome is counted; what is left of it when the work vanishes is counted as that.
    counts: Option<(FlightKind, Arc<Metrics>)>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        if let Some((kind, metrics)) = self.counts.take() {
            metrics.flight(kind, FlightOutcome::vanished);
        }
        release(&self.under_way, &self.key, &self.waiters);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    fn flights() -> Arc<Flights<u8, u32>> {
        Arc::new(Flights::new(FlightKind::manifest, AGE_LIMIT, Arc::default(), Handle::current()))
    }

    #[tokio::test]
    async fn many_who_ask_share_one_piece_of_work_and_its_failure() {
        let flights = flights();
        let (go, gate) = oneshot::channel::<()>();
        let (started, mut starts) = mpsc::unbounded_channel();
        let leader = tokio::spawn({
            let (flights, started) = (flights.clone(), started.clone());
            async move {
                let work = |waiters: Arc<AtomicU32>| async move {
                    started.send(()).unwrap();
                    gate.await.unwrap();
                    assert_eq!(waiters.load(Ordering::Relaxed), 50);
                    Err(Error::BlobUnknown)
                };
                flights.join(1, work).await
            }
        });
        starts.recv().await.unwrap();
        let followers: Vec<_> = (0..50)
            .map(|_| {
                let flights = flights.clone();
                Box::pin(async move { flights.join(1, |_| async { panic!("started twice") }).await })
            })
            .collect();
        let mut followers = futures_util::future::join_all(followers);
        // One poll makes every follower join; then the leader may land.
        assert!(futures_util::poll!(&mut followers).is_pending());
        go.send(()).unwrap();
        assert!(followers.await.into_iter().all(|outcome| matches!(outcome, Err(Error::BlobUnknown))));
        assert!(matches!(leader.await.unwrap(), Err(Error::BlobUnknown)));
        assert_eq!(flights.join(1, |_| async { Ok(7) }).await.unwrap(), 7, "an outcome is not kept");
    }

    #[tokio::test]
    async fn work_goes_on_when_all_who_asked_have_left() {
        let flights = flights();
        let (go, gate) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let mut asked = Box::pin(flights.join(1, |_| async move {
            gate.await.unwrap();
            done.send(()).unwrap();
            Ok(1)
        }));
        assert!(futures_util::poll!(&mut asked).is_pending());
        drop(asked);
        go.send(()).unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn a_waiter_takes_over_from_a_leader_that_panics() {
        let flights = flights();
        let (go, gate) = oneshot::channel::<()>();
        let mut leader = Box::pin(flights.join(1, |_| async move {
            gate.await.unwrap();
            panic!("the leader dies")
        }));
        assert!(futures_util::poll!(&mut leader).is_pending());
        let mut follower = Box::pin(flights.join(1, |_| async { Ok(2) }));
        assert!(futures_util::poll!(&mut follower).is_pending());
        go.send(()).unwrap();
        assert_eq!(follower.await.unwrap(), 2);
        assert!(matches!(leader.await, Err(Error::Internal)));
        assert_eq!(counted(&flights, FlightOutcome::vanished), 1);
    }

    fn counted(flights: &Flights<u8, u32>, outcome: FlightOutcome) -> u64 {
        flights.metrics.flights(FlightKind::manifest, outcome)
    }

    /// A store call that never returns: its waiters are told, the key is free, and what asks next works.
    #[tokio::test]
    async fn a_flight_that_never_ends_keeps_its_key_no_longer_than_the_age_limit() {
        let limit = Duration::from_millis(50);
        let flights = Flights::<u8, u32>::new(FlightKind::manifest, limit, Arc::default(), Handle::current());
        let hung = || flights.join(1, |_| std::future::pending());
        let (leader, follower) = tokio::join!(hung(), hung());
        for outcome in [leader, follower] {
            assert!(matches!(outcome, Err(Error::UpstreamUnavailable { .. })), "{outcome:?}");
        }
        assert_eq!(flights.join(1, |_| async { Ok(3) }).await.unwrap(), 3);
        assert_eq!(counted(&flights, FlightOutcome::too_old), 1, "a flight is counted once");
        assert_eq!(counted(&flights, FlightOutcome::done), 1);
    }
}
