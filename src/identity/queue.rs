//! The queue before the password check: one password of each address at a time, so that an address with many of them waits for itself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

/// Logins that wait, of all addresses together.
const CAPACITY: usize = 1024;
/// Logins of one address that wait: while the queue is less than half full, and after that. The second half is for others.
const PER_ADDRESS: usize = 64;
const PER_ADDRESS_WHEN_BUSY: usize = 4;

/// The logins that wait, by address.
#[derive(Default)]
pub(super) struct LoginQueue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    by_address: HashMap<IpAddr, (Arc<Semaphore>, usize)>,
    count: usize,
}

/// A place in the queue; dropping it gives it back.
pub(super) struct QueueSlot<'a> {
    queue: &'a LoginQueue,
    address: IpAddr,
    /// The turn of its address: one permit.
    turn: Arc<Semaphore>,
}

impl LoginQueue {
    /// A place for a login from this address (folded); `None` when the address, or all addresses together, have too many.
    pub(super) fn enter(&self, address: IpAddr) -> Option<QueueSlot<'_>> {
        let mut waiting = self.lock();
        if waiting.count >= CAPACITY {
            return None;
        }
        let share = if waiting.count < CAPACITY / 2 { PER_ADDRESS } else { PER_ADDRESS_WHEN_BUSY };
        let (turn, count) = waiting.by_address.entry(address).or_insert_with(|| (Arc::new(Semaphore::new(1)), 0));
        if *count >= share {
            return None;
        }
        *count += 1;
        let turn = turn.clone();
        waiting.count += 1;
        Some(QueueSlot { queue: self, address, turn })
    }

    /// Logins that have a place.
    pub(super) fn count(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSlot<'_> {
    /// Waits until no other login of the address is being verified; none is until the permit is dropped.
    pub(super) async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.count -= 1;
        if let Some((_, count)) = waiting.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_share_of_the_queue_and_gives_it_back() {
        let queue = LoginQueue::default();
        let from = |last: u8| IpAddr::from([10, 0, 0, last]);
        let fill = |last| std::iter::from_fn(|| queue.enter(from(last))).collect::<Vec<_>>();
        let attackers: Vec<_> = (1..=8).map(fill).collect();
        assert!(attackers.iter().all(|slots| slots.len() == PER_ADDRESS));
        let others: Vec<_> = (9..=200).map(fill).collect();
        assert!(others.iter().take(128).all(|slots| slots.len() == PER_ADDRESS_WHEN_BUSY));
        assert_eq!(others.iter().map(Vec::len).sum::<usize>(), CAPACITY / 2);
        drop((attackers, others));
        assert!(queue.lock().by_address.is_empty() && queue.lock().count == 0);
    }

    #[tokio::test]
    async fn an_address_is_verified_one_login_at_a_time() {
        let queue = LoginQueue::default();
        let (first, second, other) =
            (queue.enter([10, 0, 0, 1].into()), queue.enter([10, 0, 0, 1].into()), queue.enter([10, 0, 0, 2].into()));
        let (first, second, other) = (first.unwrap(), second.unwrap(), other.unwrap());
        let turn = first.turn().await.unwrap();
        assert!(other.turn().await.is_some());
        let mut waits = std::pin::pin!(second.turn());
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        drop(turn);
        assert!(waits.await.is_some());
    }
}
