//! A bounded map from clients to what they used: when every seat is taken, only one whose owner owes nothing is given away.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::account::Account;

/// One account for each meter.
pub(super) type Accounts = [Account; 8];

/// Locks that share the clients among them.
const SHARDS: usize = 16;

/// After a look at all seats found none idle, newcomers are turned away for so long (a second, in nanoseconds) without another look.
const BARREN: u64 = 1_000_000_000;

/// Seats that are looked at before a newcomer is turned away: enough to find an idle one when some are, few enough for every request.
const LOOKED_AT: usize = 16;

pub(super) struct Seats<K> {
    hasher: RandomState,
    // Each held for the few lines of one check.
    shards: [Mutex<Shard<K>>; SHARDS],
}

pub(super) struct Shard<K> {
    index: HashMap<K, u32>,
    taken: Vec<(K, Accounts)>,
    most: usize,
    /// Where the search for an idle seat goes on.
    hand: usize,
    /// Seats looked at since an idle one was found.
    fruitless: usize,
    /// When all had been looked at in vain.
    barren_at: Option<u64>,
}

impl<K: Clone + Eq + Hash> Seats<K> {
    /// Room for at least one in each shard, and about `most` in all.
    pub(super) fn new(most: usize) -> Seats<K> {
        let most = most.div_ceil(SHARDS).max(1);
        let shard = || {
            Mutex::new(Shard { index: HashMap::new(), taken: Vec::new(), most, hand: 0, fruitless: 0, barren_at: None })
        };
        Seats { hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) }
    }

    /// Where this key's accounts are, if anywhere.
    pub(super) fn lock(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        // The low bits choose the shard. The shard's own map hashes with another key.
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.each().map(|shard| shard.taken.len()).sum()
    }

    /// Shard by shard, so that a walk over all never stops all requests.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<K>>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Clone + Eq + Hash> Shard<K> {
    /// The accounts of this key, new ones if need be; `None` when all seats are taken by others who owe something.
    pub(super) fn seat(&mut self, key: &K, now: u64, is_idle: impl Fn(&K, &Accounts) -> bool) -> Option<&mut Accounts> {
        let seat = match self.index.get(key) {
            Some(seat) => *seat as usize,
            None => self.give(key, now, is_idle)?,
        };
        self.taken.get_mut(seat).map(|(_, accounts)| accounts)
    }

    /// The accounts of this key if it has any.
    pub(super) fn find(&mut self, key: &K) -> Option<&mut Accounts> {
        let seat = *self.index.get(key)?;
        self.taken.get_mut(seat as usize).map(|(_, accounts)| accounts)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, Accounts)> {
        self.taken.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (K, Accounts)> {
        self.taken.iter_mut()
    }

    fn give(&mut self, key: &K, now: u64, is_idle: impl Fn(&K, &Accounts) -> bool) -> Option<usize> {
        let seat = if self.taken.len() < self.most {
            self.taken.push((key.clone(), Accounts::default()));
            self.taken.len() - 1
        } else if self.barren_at.is_some_and(|at| (at..at.saturating_add(BARREN)).contains(&now)) {
            return None;
        } else {
            let looked_at = LOOKED_AT.min(self.taken.len());
            let free = (0..looked_at).map(|step| (self.hand + step) % self.taken.len()).find(|seat| {
                let (key, accounts) = &self.taken[*seat];
                is_idle(key, accounts)
            });
            self.hand = (free.unwrap_or(self.hand + looked_at - 1) + 1) % self.taken.len();
            self.fruitless = if free.is_some() { 0 } else { self.fruitless + looked_at };
            self.barren_at = (self.fruitless >= self.taken.len()).then_some(now);
            let seat = free?;
            self.index.remove(&self.taken[seat].0);
            self.taken[seat] = (key.clone(), Accounts::default());
            seat
        };
        self.index.insert(key.clone(), u32::try_from(seat).ok()?);
        Some(seat)
    }
}
