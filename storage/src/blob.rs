//! Who is using which blob, so that eviction leaves it alone and readers share one open file.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{arriving::Shared, oci::Digest};

/// As many locks as this stand between the workers, so that two rarely meet at one.
const SHARDS: usize = 64;

/// The digests in use.
#[derive(Clone, Debug)]
pub(crate) struct Holds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hasher: RandomState,
    // Held for one lookup, and by eviction for one unlink: who opens a blob takes a hold before it opens, so that the
    // file is either gone by then or stays.
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    held: HashMap<Digest, Held>,
    // Blobs verified since the start, by 64 bits of a keyed hash; one collision in a lifetime skips one check.
    verified: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    open: Weak<Shared>,
}

impl Holds {
    pub(crate) fn new() -> Holds {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Holds(Arc::new(Inner { hasher: RandomState::new(), shards }))
    }

    /// Keeps eviction away from the digest until the hold is dropped.
    pub(crate) fn hold(&self, digest: &Digest) -> Hold {
        self.0.shard(digest).held.entry(digest.clone()).or_default().count += 1;
        Hold { inner: self.0.clone(), digest: digest.clone() }
    }

    /// The blob as somebody has it open already.
    pub(crate) fn opened(&self, digest: &Digest) -> Option<Arc<Shared>> {
        // Not out of the lock: what is upgraded here may be dropped here, and its hold takes the lock.
        let open = self.0.shard(digest).held.get(digest)?.open.upgrade();
        open.filter(|shared| !shared.is_stopped())
    }

    /// From now on [`Holds::opened`] gives this, for as long as somebody has it; or what another thread shared first.
    pub(crate) fn share(&self, digest: &Digest, shared: Arc<Shared>) -> Arc<Shared> {
        let mut shard = self.0.shard(digest);
        let Some(held) = shard.held.get_mut(digest) else { return shared };
        let first = held.open.upgrade();
        match first {
            Some(first) if !first.is_stopped() => {
                drop(shard);
                first
            }
            stopped => {
                held.open = Arc::downgrade(&shared);
                drop(shard);
                drop(stopped);
                shared
            }
        }
    }

    /// Does `work` while nobody can begin to use the digest; `None`, and nothing is done, when somebody does use it.
    pub(crate) fn unless_held<T>(&self, digest: &Digest, work: impl FnOnce() -> T) -> Option<T> {
        let mut shard = self.0.shard(digest);
        if shard.held.contains_key(digest) {
            return None;
        }
        shard.verified.remove(&self.0.hasher.hash_one(digest));
        Some(work())
    }

    /// The blob's bytes were seen to match its digest.
    pub(crate) fn mark_verified(&self, digest: &Digest) {
        self.0.shard(digest).verified.insert(self.0.hasher.hash_one(digest));
    }

    /// Whether that was so since the start.
    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.0.shard(digest).verified.contains(&self.0.hasher.hash_one(digest))
    }
}

impl Inner {
    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(digest) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody uses the digest; dropping it is the only way to stop.
#[derive(Debug)]
pub(crate) struct Hold {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut shard = self.inner.shard(&self.digest);
        if let Some(held) = shard.held.get_mut(&self.digest) {
            held.count -= 1;
            if held.count == 0 {
                shard.held.remove(&self.digest);
            }
        }
    }
}

/// Locks of which each stands for many keys: what is written and what is remembered of one key change together.
#[derive(Debug)]
pub(crate) struct Stripes {
    hasher: RandomState,
    locks: Vec<Mutex<()>>,
}

impl Stripes {
    pub(crate) fn new() -> Stripes {
        Stripes { hasher: RandomState::new(), locks: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Held for one small file.
    pub(crate) fn lock(&self, key: &impl Hash) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.locks[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
