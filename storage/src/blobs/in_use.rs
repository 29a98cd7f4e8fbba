//! Which blobs are in use, so that eviction leaves them alone and readers share one open file.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    files::Stamp,
    oci::Digest,
    sync::{Condvar, Mutex, MutexGuard},
};

/// As many locks as this stand between the workers, so that two rarely meet at one.
const SHARDS: usize = 64;

/// What the readers of one digest share, and whether one more may still join.
pub(crate) trait Usable {
    fn is_usable(&self) -> bool;
    /// Whether nothing more happens to it.
    fn is_settled(&self) -> bool;
}

/// The digests in use, and what their readers share.
#[derive(Debug)]
pub(crate) struct InUse<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    hasher: RandomState,
    /// How long readers join an open file before one opens it again, and sees by its stamp whether it is what was verified. A
    /// file that is read without pause would never be looked at otherwise.
    look_again: Duration,
    // Held for one lookup.
    shards: Vec<Mutex<Shard<T>>>,
    /// Of each shard, notified when a digest has left.
    left: Vec<Condvar>,
}

#[derive(Debug)]
struct Shard<T> {
    held: HashMap<Digest, Held<T>>,
    // What is being evicted. A reader takes a hold before it opens, and waits for as long as the digest leaves, so that the
    // file is either gone by then or stays.
    leaving: HashSet<Digest>,
    // Blobs verified since the start and what their files were then, each as 64 bits of a keyed hash: sixteen bytes per blob,
    // and one collision in a lifetime skips one check.
    verified: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Held<T> {
    count: usize,
    open: Weak<T>,
    /// When that was opened.
    since: Instant,
    /// What was open before, as far as it is read still.
    older: Vec<Weak<T>>,
}

impl<T: Usable> Held<T> {
    /// What one more reader may join.
    fn joinable(&self, open: &T, look_again: Duration) -> bool {
        open.is_usable() && (!open.is_settled() || self.since.elapsed() < look_again)
    }
}

// By hand, for a derived one would ask `T` to be `Clone`.
impl<T> Clone for InUse<T> {
    fn clone(&self) -> InUse<T> {
        InUse(self.0.clone())
    }
}

impl<T: Usable> InUse<T> {
    /// Readers join an open file for `look_again`; then one opens it again.
    pub(crate) fn new(look_again: Duration) -> InUse<T> {
        let shard = || Shard { held: HashMap::new(), leaving: HashSet::new(), verified: HashMap::new() };
        let shards = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        let left = (0..SHARDS).map(|_| Condvar::new()).collect();
        InUse(Arc::new(Inner { hasher: RandomState::new(), look_again, shards, left }))
    }

    /// Keeps eviction away from the digest until the hold is dropped. Waits for the disk while the digest is being evicted, so
    /// it is for blocking threads.
    pub(crate) fn hold(&self, digest: &Digest) -> Hold<T> {
        let unused = || Held { count: 0, open: Weak::new(), since: Instant::now(), older: Vec::new() };
        let mut shard = self.0.shard(digest);
        while shard.leaving.contains(digest) {
            shard = self.0.left[self.0.at(digest)].wait(shard).unwrap_or_else(PoisonError::into_inner);
        }
        shard.held.entry(digest.clone()).or_insert_with(unused).count += 1;
        drop(shard);
        Hold { inner: self.0.clone(), digest: digest.clone() }
    }

    /// The blob as a reader has it open already, to be joined.
    pub(crate) fn opened(&self, digest: &Digest) -> Option<Arc<T>> {
        // Not out of the lock: what is upgraded here may be dropped here, and its hold takes the lock.
        let shard = self.0.shard(digest);
        let held = shard.held.get(digest)?;
        let open = held.open.upgrade()?;
        let joinable = held.joinable(&open, self.0.look_again);
        drop(shard);
        joinable.then_some(open)
    }

    /// All that readers of the digest have open.
    pub(crate) fn all(&self, digest: &Digest) -> Vec<Arc<T>> {
        let shard = self.0.shard(digest);
        let open = shard.held.get(digest).map(|held| std::iter::once(&held.open).chain(&held.older));
        open.into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// From now on [`InUse::opened`] gives this, for as long as one has it; or what another thread shared first.
    pub(crate) fn share(&self, digest: &Digest, shared: Arc<T>) -> Arc<T> {
        let mut shard = self.0.shard(digest);
        let Some(held) = shard.held.get_mut(digest) else { return shared };
        let first = held.open.upgrade();
        if let Some(first) = first.as_ref().filter(|first| held.joinable(first, self.0.look_again)) {
            drop(shard);
            return first.clone();
        }
        held.older.retain(|older| older.strong_count() > 0);
        held.older.push(std::mem::replace(&mut held.open, Arc::downgrade(&shared)));
        held.since = Instant::now();
        drop(shard);
        drop(first);
        shared
    }

    /// Does `work` while no new use of the digest can begin; `None`, and nothing is done, when it is in use. No lock is held
    /// meanwhile.
    pub(crate) fn unless_held<R>(&self, digest: &Digest, work: impl FnOnce() -> R) -> Option<R> {
        let mut shard = self.0.shard(digest);
        if shard.held.contains_key(digest) || !shard.leaving.insert(digest.clone()) {
            return None;
        }
        shard.verified.remove(&self.0.hasher.hash_one(digest));
        drop(shard);
        let _leaving = Leaving { inner: &self.0, digest };
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
    fn at(&self, digest: &Digest) -> usize {
        self.hasher.hash_one(digest) as usize % SHARDS
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard<T>> {
        self.shards[self.at(digest)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A digest that is being evicted, until this is dropped.
struct Leaving<'a, T> {
    inner: &'a Inner<T>,
    digest: &'a Digest,
}

impl<T> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        self.inner.shard(self.digest).leaving.remove(self.digest);
        self.inner.left[self.inner.at(self.digest)].notify_all();
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
