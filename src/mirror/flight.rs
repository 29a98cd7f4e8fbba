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

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{runtime::Handle, sync::watch};

/// How often a waiter takes over from leaders that vanish before it gives up.
const TAKE_OVERS: usize = 3;

/// The leader of a flight vanished, and so did those who took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vanished;

/// Flights under way, by key.
#[derive(Clone, Debug)]
pub(super) struct Flights<K, V> {
    // A std mutex: it is held for a map operation and never across an await.
    under_way: Arc<Mutex<HashMap<K, Flight<V>>>>,
    runtime: Handle,
}

#[derive(Clone, Debug)]
struct Flight<V> {
    outcome: watch::Receiver<Option<V>>,
    waiters: Arc<AtomicU32>,
}

impl<V> Flight<V> {
    /// Whether the leader is gone and told nothing. Its key may not be free yet: a panic drops its values in any order.
    fn vanished(&self) -> bool {
        self.outcome.has_changed().is_err() && self.outcome.borrow().is_none()
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// No flights yet; work will run on `runtime`.
    pub(super) fn new(runtime: Handle) -> Flights<K, V> {
        Flights { under_way: Arc::default(), runtime }
    }

    /// The outcome of the work under way for `key`, or of `work`, which is then started.
    ///
    /// `work` receives the count of those who wait besides the first; it grows while the work goes on.
    ///
    /// # Errors
    /// [`Vanished`] when the work panicked, and so did that of those who took over.
    pub(super) async fn join<F, W>(&self, key: K, work: F) -> Result<V, Vanished>
    where
        F: FnOnce(Arc<AtomicU32>) -> W,
        W: Future<Output = V> + Send + 'static,
    {
        let mut work = Some(work);
        for _ in 0..TAKE_OVERS {
            let mut outcome = {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                match under_way.get(&key).filter(|flight| !flight.vanished()) {
                    Some(flight) => {
                        flight.waiters.fetch_add(1, Ordering::Relaxed);
                        flight.outcome.clone()
                    }
                    None => {
                        let Some(work) = work.take() else { return Err(Vanished) };
                        let waiters = Arc::new(AtomicU32::new(0));
                        let (tell, outcome) = watch::channel(None);
                        let landing =
                            Landing { under_way: self.under_way.clone(), key: key.clone(), waiters: waiters.clone() };
                        let work = work(waiters.clone());
                        self.runtime.spawn(async move {
                            let value = work.await;
                            drop(landing);
                            tell.send_replace(Some(value));
                        });
                        under_way.insert(key.clone(), Flight { outcome: outcome.clone(), waiters });
                        outcome
                    }
                }
            };
            if let Ok(value) = outcome.wait_for(Option::is_some).await
                && let Some(value) = value.clone()
            {
                return Ok(value);
            }
        }
        Err(Vanished)
    }
}

/// Frees the key when the work ends, however it ends.
struct Landing<K: Eq + Hash, V> {
    under_way: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
    waiters: Arc<AtomicU32>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // A waiter may have taken over already; its flight is not ours to end.
        if under_way.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.waiters, &self.waiters)) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    fn flights() -> Arc<Flights<u8, Result<u32, &'static str>>> {
        Arc::new(Flights::new(Handle::current()))
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
                    Err("down")
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
        assert!(followers.await.into_iter().all(|outcome| outcome == Ok(Err("down"))));
        assert_eq!(leader.await.unwrap(), Ok(Err("down")));
        assert_eq!(flights.join(1, |_| async { Ok(7) }).await, Ok(Ok(7)), "an outcome is not kept");
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
        assert_eq!(follower.await, Ok(Ok(2)));
        assert_eq!(leader.await, Err(Vanished));
    }
}
