//! One piece of work per key, however many ask for it.
//!
//! # What it guarantees
//!
//! While work for a key is under way, each request for that key waits for the same outcome; none starts it twice. The
//! work runs on the background runtime as a task of its own, so it goes on when all that asked have left: a server
//! worker's task dies with its connection, and with it would die the pull that a hundred others wait for.
//! Every waiter gets the outcome, success and failure alike, at once.
//!
//! # What it refuses to do
//!
//! It keeps no result. When the outcome is sent, the key is free, and the next to ask starts anew. The work must
//! therefore look in the store first: between a caller's look and its joining, an earlier flight may have ended.
//! It does not retry work that failed; an outcome is an outcome.
//!
//! # What breaks if a line is moved
//!
//! The key is freed *before* the outcome is sent ([`Landing::drop`] runs before the sender's last `send`). In the other order
//! a waiter that asks again at once, as a client does after an error, could join the flight that just failed and receive
//! the same failure without anyone having tried.
//! A task that panics or is cancelled frees its key, too, and sends nothing: its waiters see the sender vanish, which is
//! not an outcome, and one of them takes over with work of its own.
//! A task that never ends, as on a disk that hangs, keeps its key no longer than the age limit: then its waiters get an error,
//! and the next lookup starts anew. Every outcome has a name, which the metrics count.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tracing::{Instrument as _, Span, field::Empty};

use super::{
    error::Error,
    metrics::Metrics,
    outcome::{FlightKind, FlightOutcome},
    sync::{AtomicU32, Handle, Instant, Mutex, Ordering, timeout_at, watch},
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
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Flights<K, T> {
        let Flights { kind, under_way, metrics, runtime } = self;
        let (under_way, metrics, runtime) = (under_way.clone(), metrics.clone(), runtime.clone());
        Flights { kind: *kind, under_way, metrics, runtime }
    }
}

#[derive(Debug)]
struct Flight<T> {
    outcome: watch::Receiver<Option<Result<T, Error>>>,
    waiters: Arc<AtomicU32>,
    deadline: Instant,
    span: Span,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Flight<T> {
        let Flight { outcome, waiters, deadline, span } = self;
        Flight { outcome: outcome.clone(), waiters: waiters.clone(), deadline: *deadline, span: span.clone() }
    }
}

impl<T> Flight<T> {
    /// Whether lookups may still join it. Not when its leader is gone and sent nothing, whose key may not be free yet: a panic drops
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
    pub(super) fn new(kind: FlightKind, metrics: Arc<Metrics>, runtime: Handle) -> Flights<K, T> {
        Flights { kind, under_way: Arc::default(), metrics, runtime }
    }

    /// The outcome of the work under way for `key`, or of `work`, which is then started and may take `age_limit`.
    ///
    /// `work` receives the count of those who wait besides the first; it grows while the work goes on.
    ///
    /// # Errors
    /// What the work says; [`Error::Internal`] when it panicked, and so did that of those who took over;
    /// [`Error::UpstreamUnavailable`] when it reached the age limit.
    pub(super) async fn join<F, W>(&self, key: K, age_limit: Duration, work: F) -> Result<T, Error>
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
                        self.metrics.joined(self.kind);
                        Span::current().follows_from(&flight.span);
                        flight.clone()
                    }
                    None => {
                        let Some(work) = work.take() else { break };
                        let flight = self.start(key.clone(), age_limit, work);
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

    fn start<F, W>(&self, key: K, age_limit: Duration, work: F) -> Flight<T>
    where
        F: FnOnce(Arc<AtomicU32>) -> W,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiters = Arc::new(AtomicU32::new(0));
        let (tell, outcome) = watch::channel(None);
        let span = tracing::debug_span!("flight", kind = ?self.kind, ?key, outcome = Empty);
        let (kind, metrics) = (self.kind, self.metrics.clone());
        let mut landing =
            Landing { under_way: self.under_way.clone(), key, waiters: waiters.clone(), counts: Some((kind, metrics)) };
        let work = work(waiters.clone());
        let task = async move {
            let value = work.await;
            Span::current().record("outcome", tracing::field::debug(outcome_of(&value)));
            if let Some((kind, metrics)) = landing.counts.take() {
                metrics.flight(kind, outcome_of(&value));
            }
            drop(landing);
            tell.send_replace(Some(value));
        };
        self.runtime.spawn(task.instrument(span.clone()));
        Flight { outcome, waiters, deadline: Instant::now() + age_limit, span }
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
