//! Permits of which no client has them all, and of which an old one is given up for a client that has none.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::client::ClientKey;

/// How many permits there are and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) all: usize,
    /// Of one client.
    pub(crate) share: usize,
    /// Of all, those that only a client without one gets.
    pub(crate) reserve: usize,
    /// How long a permit is held undisturbed; then the oldest gives way when another client waits.
    pub(crate) patience: Duration,
}

/// Permits for a few at once.
pub(crate) struct FairPermits {
    bounds: Bounds,
    // Held for a walk over the permits and over those who wait; never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// In the order in which they came.
    waiting: Vec<(ClientKey, oneshot::Sender<FairPermit>)>,
    next: u64,
}

struct Held {
    number: u64,
    client: ClientKey,
    since: Instant,
    give_way: Arc<Notify>,
}

impl FairPermits {
    pub(crate) fn new(bounds: Bounds) -> Arc<FairPermits> {
        Arc::new(FairPermits { bounds, state: Mutex::default() })
    }

    /// Waits for a permit of this client.
    pub(crate) async fn acquire(self: Arc<FairPermits>, client: ClientKey) -> FairPermit {
        let (grant, mut granted) = oneshot::channel();
        self.state().waiting.push((client.clone(), grant));
        self.grant();
        loop {
            match tokio::time::timeout(self.bounds.patience, &mut granted).await {
                Ok(Ok(permit)) => return permit,
                // The sender lives until it has sent.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => self.claim(&client),
            }
        }
    }

    /// Gives to those who wait what they may have.
    fn grant(self: &Arc<FairPermits>) {
        let mut grants = Vec::new();
        let mut state = self.state();
        state.waiting.retain(|(_, grant)| !grant.is_closed());
        let mut at = 0;
        while at < state.waiting.len() {
            if !state.may(&state.waiting[at].0, &self.bounds) {
                at += 1;
                continue;
            }
            let (client, grant) = state.waiting.remove(at);
            let (number, give_way) = (state.next, Arc::<Notify>::default());
            state.next += 1;
            state.held.push(Held { number, client, since: Instant::now(), give_way: give_way.clone() });
            grants.push((grant, FairPermit { permits: self.clone(), number, give_way }));
        }
        drop(state);
        // One who has left drops the permit, which needs the lock.
        grants.into_iter().for_each(|(grant, permit)| drop(grant.send(permit)));
    }

    /// This client has waited for long. If it has no permit, one that has had its time is to be given up: of the client with the
    /// most, the oldest.
    fn claim(&self, client: &ClientKey) {
        let state = self.state();
        if state.of(client) > 0 {
            return;
        }
        let old = state.held.iter().filter(|held| held.since.elapsed() >= self.bounds.patience);
        let most = |held: &&Held| (state.of(&held.client), std::cmp::Reverse(held.number));
        if let Some(held) = old.max_by_key(most) {
            held.give_way.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&self, client: &ClientKey) -> usize {
        self.held.iter().filter(|held| held.client == *client).count()
    }

    fn may(&self, client: &ClientKey, bounds: &Bounds) -> bool {
        let (own, free) = (self.of(client), bounds.all.saturating_sub(self.held.len()));
        own < bounds.share && free > if own == 0 { 0 } else { bounds.reserve }
    }
}

/// A permit, until it is dropped.
pub(crate) struct FairPermit {
    permits: Arc<FairPermits>,
    number: u64,
    give_way: Arc<Notify>,
}

impl FairPermit {
    /// Resolves when another client has waited for so long that this permit is to be given up.
    pub(crate) async fn claimed(&self) {
        self.give_way.notified().await;
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        self.permits.state().held.retain(|held| held.number != self.number);
        self.permits.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn client(last: u8) -> ClientKey {
        ClientKey::Address([192, 0, 2, last].into())
    }

    fn permits() -> Arc<FairPermits> {
        FairPermits::new(Bounds { all: 16, share: 4, reserve: 4, patience: PATIENCE })
    }

    /// Whether it comes without anybody giving way.
    async fn at_once(permits: &Arc<FairPermits>, last: u8) -> Option<FairPermit> {
        tokio::time::timeout(PATIENCE / 5, permits.clone().acquire(client(last))).await.ok()
    }

    #[tokio::test]
    async fn four_clients_that_take_their_shares_leave_some_for_others() {
        let permits = permits();
        let mut held = Vec::new();
        for round in 0..16 {
            held.extend(at_once(&permits, round % 4).await);
        }
        assert_eq!(held.len(), 12, "the reserve is for clients without one");
        for newcomer in 10..14 {
            held.push(at_once(&permits, newcomer).await.unwrap());
        }
        assert!(at_once(&permits, 14).await.is_none());
        drop(held.pop());
        assert!(at_once(&permits, 14).await.is_some());
    }

    #[tokio::test]
    async fn the_oldest_of_the_client_with_the_most_gives_way_after_its_time() {
        let permits = permits();
        let mut held = Vec::new();
        for last in [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8] {
            held.push(at_once(&permits, last).await.unwrap());
        }
        let started = Instant::now();
        let newcomer = tokio::spawn(permits.clone().acquire(client(9)));
        held[0].claimed().await;
        assert!(started.elapsed() >= PATIENCE, "it had its time");
        held.remove(0);
        let newcomer = newcomer.await.unwrap();
        // A newcomer has its time as well, and one that leaves while it waits takes none.
        assert!(at_once(&permits, 10).await.is_none());
        drop((held, newcomer));
        assert!(permits.state().held.is_empty() && permits.state().waiting.len() <= 1);
        assert!(at_once(&permits, 11).await.is_some());
    }
}
