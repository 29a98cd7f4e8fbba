//! Which blobs are in use, so that eviction leaves them alone and readers share one open file.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{files::Stamp, oci::Digest};

/// As many locks as this stand between the workers, so that two rarely meet at one.
const SHARDS: usize = 64;

/// What the readers of one digest share, and whether one more may still join.
pub(crate) trait Usable {
    fn is_usable(&self) -> bool;
}

/// The digests in use, and what their readers share.
#[derive(Debug)]
pub(crate) struct InUse<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    hasher: RandomState,
    // Held for one lookup, and by eviction for one rename: a reader takes a hold before it opens, so that the file is
    // either gone by then or stays.
    shards: Vec<Mutex<Shard<T>>>,
}

#[derive(Debug)]
struct Shard<T> {
    held: HashMap<Digest, Held<T>>,
    // Blobs verified since the start and what their files were then, each as 64 bits of a keyed hash: sixteen bytes per blob,
    // and one collision in a lifetime skips one check.
    verified: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Held<T> {
    count: usize,
    open: Weak<T>,
}

// By hand, for a derived one would ask `T` to be `Clone`.
impl<T> Clone for InUse<T> {
    fn clone(&self) -> InUse<T> {
        InUse(self.0.clone())
    }
}

impl<T: Usable> InUse<T> {
    pub(crate) fn new() -> InUse<T> {
        let shards =
            (0..SHARDS).map(|_| Mutex::new(Shard { held: HashMap::new(), verified: HashMap::new() })).collect();
        InUse(Arc::new(Inner { hasher: RandomState::new(), shards }))
    }

    /// Keeps eviction away from the digest until the hold is dropped.
    pub(crate) fn hold(&self, digest: &Digest) -> Hold<T> {
        let unused = || Held { count: 0, open: Weak::new() };
        self.0.shard(digest).held.entry(digest.clone()).or_insert_with(unused).count += 1;
        Hold { inner: self.0.clone(), digest: digest.clone() }
    }

    /// The blob as a reader has it open already.
    pub(crate) fn opened(&self, digest: &Digest) -> Option<Arc<T>> {
        // Not out of the lock: what is upgraded here may be dropped here, and its hold takes the lock.
        let open = self.0.shard(digest).held.get(digest)?.open.upgrade();
        open.filter(|shared| shared.is_usable())
    }

    /// From now on [`InUse::opened`] gives this, for as long as one has it; or what another thread shared first.
    pub(crate) fn share(&self, digest: &Digest, shared: Arc<T>) -> Arc<T> {
        let mut shard = self.0.shard(digest);
        let Some(held) = shard.held.get_mut(digest) else { return shared };
        let first = held.open.upgrade();
        match first {
            Some(first) if first.is_usable() => {
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

    /// Does `work` while no new use of the digest can begin; `None`, and nothing is done, when it is in use.
    pub(crate) fn unless_held<R>(&self, digest: &Digest, work: impl FnOnce() -> R) -> Option<R> {
        let mut shard = self.0.shard(digest);
        if shard.held.contains_key(digest) {
            return None;
        }
        shard.verified.remove(&self.0.hasher.hash_one(digest));
        Some(work())
    }

    /// The blob's bytes were seen to match its digest in the file that has this stamp.
    pub(crate) fn mark_verified(&self, digest: &Digest, stamp: Stamp) {
        let stamp = self.0.hasher.hash_one(stamp);
        self.0.shard(digest).verified.insert(self.0.hasher.hash_one(digest), stamp);
    }

    /// Whether that was so since the start, of a file with this stamp.
    pub(crate) fn is_verified(&self, digest: &Digest, stamp: Stamp) -> bool {
        let stamp = self.0.hasher.hash_one(stamp);
        self.0.shard(digest).verified.get(&self.0.hasher.hash_one(digest)) == Some(&stamp)
    }
}

impl<T> Inner<T> {
    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard<T>> {
        let at = self.hasher.hash_one(digest) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One use of the digest; dropping it is the only way to end it.
#[derive(Debug)]
pub(crate) struct Hold<T> {
    inner: Arc<Inner<T>>,
    digest: Digest,
}

impl<T> Drop for Hold<T> {
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
