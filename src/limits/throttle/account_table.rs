//! A bounded map from clients to what they used: when every seat is taken, only one whose owner owes nothing is given away.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::quality::RandomState;

use super::account::Account;

/// One account for each meter.
pub(super) type Accounts = [Account; 8];

/// Locks that share the clients among them.
const SHARDS: usize = 16;

/// After a look at all seats found none idle, newcomers are turned away for so long (a second, in nanoseconds) without another look.
const BARREN: u64 = 1_000_000_000;

/// Seats that are looked at before a newcomer is turned away: enough to find an idle one when some are, few enough for every request.
const LOOKED_AT: usize = 16;

pub(super) struct AccountTable<K> {
    hasher: RandomState,
    // Each held for the few lines of one check.
    shards: [Mutex<Shard<K>>; SHARDS],
}

pub(super) struct Shard<K> {
    /// Seats by the hash of whose they are. It is 64 bits under a random key, and four are made for every request, so it is a quick one:
    /// should two clients ever have the same one, they share a seat, as they would share a network's.
    index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    taken: Vec<(K, Accounts)>,
    /// Of the keys of `taken`.
    hashes: Vec<u64>,
    most: usize,
    /// Where the search for an idle seat goes on.
    hand: usize,
    /// Seats looked at since an idle one was found.
    fruitless: usize,
    /// When all had been looked at in vain.
    barren_at: Option<u64>,
}

/// A shard that is locked for one key, and the hash of that key: the only one that is made of it.
pub(super) struct Locked<'a, K> {
    shard: MutexGuard<'a, Shard<K>>,
    hash: u64,
}

/// Takes a hash for what it is.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not called: the keys are numbers.
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl<K: Clone + Eq + Hash> AccountTable<K> {
    /// Room for at least one in each shard, and about `most` in all.
    pub(super) fn new(most: usize) -> AccountTable<K> {
        let most = most.div_ceil(SHARDS).max(1);
        let shard = || {
            Mutex::new(Shard {
                index: HashMap::default(),
                taken: Vec::new(),
                hashes: Vec::new(),
                most,
                hand: 0,
                fruitless: 0,
                barren_at: None,
            })
        };
        AccountTable { hasher: RandomState::default(), shards: std::array::from_fn(|_| shard()) }
    }

    /// Where this key's accounts are, if anywhere.
    pub(super) fn lock(&self, key: &K) -> Locked<'_, K> {
        let hash = self.hasher.hash_one(key);
        // Bits in the middle choose the shard: the shard's own map goes by the lowest and the highest.
        let shard = (hash >> 32) as usize % SHARDS;
        Locked { shard: self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner), hash }
    }

    pub(super) fn len(&self) -> usize {
        self.each().map(|shard| shard.taken.len()).sum()
    }

    /// Shard by shard, so that a walk over all never stops all requests.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<K>>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Clone> Locked<'_, K> {
    /// The accounts of this key, new ones if need be; `None` when all seats are taken by others who owe something.
    pub(super) fn seat(&mut self, key: &K, now: u64, is_idle: impl Fn(&K, &Accounts) -> bool) -> Option<&mut Accounts> {
        let seat = match self.shard.index.get(&self.hash) {
            Some(seat) => *seat as usize,
            None => self.shard.give(key, self.hash, now, is_idle)?,
        };
        self.shard.taken.get_mut(seat).map(|(_, accounts)| accounts)
    }

    /// The accounts of this key if it has any.
    pub(super) fn find(&self) -> Option<&Accounts> {
        let seat = *self.shard.index.get(&self.hash)?;
        self.shard.taken.get(seat as usize).map(|(_, accounts)| accounts)
    }
}

impl<K: Clone> Shard<K> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, Accounts)> {
        self.taken.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (K, Accounts)> {
        self.taken.iter_mut()
    }

    fn give(&mut self, key: &K, hash: u64, now: u64, is_idle: impl Fn(&K, &Accounts) -> bool) -> Option<usize> {
        let seat = if self.taken.len() < self.most {
            self.taken.push((key.clone(), Accounts::default()));
            self.hashes.push(hash);
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
            self.index.remove(&std::mem::replace(&mut self.hashes[seat], hash));
            self.taken[seat] = (key.clone(), Accounts::default());
            seat
        };
        self.index.insert(hash, u32::try_from(seat).ok()?);
        Some(seat)
    }
}
