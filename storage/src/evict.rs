//! Keeping within the capacity: who has how many bytes, and what goes when more are needed.
//!
//! # What this guarantees
//! Blobs, manifests, partial files and reservations together stay within the capacity. What somebody reads or writes is
//! never removed. Blobs never displace manifests: Docker Hub bills manifest GETs, and a thousand manifests cost less than
//! one layer; they have a tenth of the capacity and of the inodes to themselves and compete among each other.
//!
//! # When
//! A reservation that finds no room evicts by itself, on the blocking thread it runs on; else the housekeeper thread does
//! when the high watermark is passed. Both go down to the low watermark, so that it is not done for every blob. Requests
//! never wait for it. Partial files that nobody fills go first: they are the only content that serves no one.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{Error, core::Core, layout::Kind, oci::Digest, rank::Ranks};

/// The share of the capacity and of the inodes that manifests may have.
const MANIFEST_SHARE: u64 = 10;

/// Threads that note accesses each have their own map, up to so many.
const SHARDS: usize = 16;

/// Digests noted per shard between two drains; more than that in a second and the rest are not told apart from each other.
const NOTED: usize = 8192;

/// The books of the store.
#[derive(Debug)]
pub(crate) struct Space {
    // Held for a few map operations, and for sorting when something must go. No request for a cached object takes it.
    books: Mutex<Books>,
    // One eviction at a time, or two would each remove what one needs.
    evicting: Mutex<()>,
    accesses: Vec<Mutex<HashMap<(Kind, Digest), u32>>>,
    complained: Mutex<Option<Instant>>,
    pub(crate) evicted: AtomicU64,
    pub(crate) full: AtomicU64,
    /// How many manifests there may be.
    pub(crate) most_manifests: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) blobs: Ranks,
    pub(crate) manifests: Ranks,
    /// Bytes promised to writers.
    pub(crate) reserved: u64,
    /// Bytes of partial files that wait to be resumed.
    pub(crate) idle: u64,
    /// What the index has to be told.
    pub(crate) changed: HashSet<(Kind, Digest)>,
}

impl Books {
    pub(crate) fn of(&mut self, kind: Kind) -> &mut Ranks {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }

    fn used(&self) -> u64 {
        self.blobs.bytes() + self.manifests.bytes() + self.reserved + self.idle
    }
}

impl Space {
    pub(crate) fn new() -> Space {
        Space {
            books: Mutex::default(),
            evicting: Mutex::default(),
            accesses: (0..SHARDS).map(|_| Mutex::default()).collect(),
            complained: Mutex::default(),
            evicted: AtomicU64::new(0),
            full: AtomicU64::new(0),
            most_manifests: AtomicU64::new(u64::MAX),
        }
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an object was asked for. Costs one lock that only this thread takes, but once a second.
    pub(crate) fn note(&self, kind: Kind, digest: &Digest) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed)));
        let shard = &self.accesses[MINE.get() % SHARDS];
        let mut noted = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, digest.clone());
        if let Some(hits) = noted.get_mut(&key) {
            *hits = hits.saturating_add(1);
        } else if noted.len() < NOTED {
            noted.insert(key, 1);
        }
    }

    /// Takes what was noted into the books.
    pub(crate) fn drain_accesses(&self) {
        for shard in &self.accesses {
            let noted = mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            if noted.is_empty() {
                continue;
            }
            let mut books = self.books();
            for ((kind, digest), hits) in noted {
                if books.of(kind).touch(&digest, hits) {
                    books.changed.insert((kind, digest));
                }
            }
        }
    }

    pub(crate) fn insert(&self, kind: Kind, digest: &Digest, size: u64) {
        let mut books = self.books();
        books.of(kind).insert(digest, size);
        books.changed.insert((kind, digest.clone()));
    }

    /// It is gone for another reason than eviction.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) {
        let mut books = self.books();
        books.of(kind).remove(digest);
        books.changed.insert((kind, digest.clone()));
    }
}

impl Core {
    /// Promises `needed` bytes of the capacity, after eviction when that is needed.
    ///
    /// # Errors
    /// [`Error::Full`] when what could go was not enough.
    pub(crate) fn reserve(self: &Arc<Core>, needed: u64) -> Result<Reservation, Error> {
        let mut reservation = Reservation { core: self.clone(), bytes: 0 };
        reservation.grow(needed)?;
        Ok(reservation)
    }

    /// What eviction should come down to, and above what it should begin.
    fn watermarks(&self) -> (u64, u64) {
        let share = |share: f64| (self.settings.capacity as f64 * share.clamp(0.0, 1.0)) as u64;
        (share(self.settings.low_watermark), share(self.settings.high_watermark))
    }

    /// The room is not there: counted, and told at most once a minute.
    pub(crate) fn complain(&self, needed: u64) -> Error {
        self.space.full.fetch_add(1, Ordering::Relaxed);
        let mut complained = self.space.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            *complained = Some(Instant::now());
            warn!(needed, capacity = self.settings.capacity, "storage is full; blobs pass through uncached");
        }
        Error::Full { needed }
    }

    /// Evicts when the high watermark is passed or the manifests have outgrown their share. For the housekeeper.
    pub(crate) fn tidy(&self) {
        self.space.drain_accesses();
        let (low, high) = self.watermarks();
        let used = self.space.books().used();
        if used > high {
            // What is hosted here stays, so there may be no way down to the mark.
            let (_, pinned) = self.pins.total(Kind::Blob);
            let most = self.space.books().blobs.bytes().saturating_sub(pinned);
            self.evict((used - low).min(most));
        }
        self.evict_manifests();
    }

    /// Removes at least `bytes` if it can; gives how many went.
    pub(crate) fn evict(&self, bytes: u64) -> u64 {
        let _one = self.space.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        self.space.drain_accesses();
        if bytes == 0 {
            return 0;
        }
        let mut freed = self.drop_partials(bytes);
        if freed >= bytes {
            return freed;
        }
        let order = self.space.books().blobs.order();
        let mut count = 0;
        for digest in &order {
            if freed >= bytes {
                break;
            }
            if let Some(size) = self.evict_one(Kind::Blob, digest) {
                freed += size;
                count += 1;
            }
        }
        info!(wanted = bytes, freed, blobs = count, "evicted");
        freed
    }

    fn evict_manifests(&self) {
        let most_bytes = self.settings.capacity / MANIFEST_SHARE;
        let most = self.space.most_manifests.load(Ordering::Relaxed);
        let over = |core: &Core| {
            // What is hosted here is not the cache's to count.
            let (count, bytes) = core.pins.total(Kind::Manifest);
            let books = core.space.books();
            books.manifests.bytes().saturating_sub(bytes) > most_bytes
                || books.manifests.count().saturating_sub(count) > most
        };
        if !over(self) {
            return;
        }
        let _one = self.space.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self.space.books().manifests.order();
        // A twentieth more than needed, so that it is not done for every manifest.
        let surplus = order.len().div_ceil(20);
        let mut after = 0;
        for digest in &order {
            after += usize::from(!over(self));
            if after > surplus {
                break;
            }
            self.evict_one(Kind::Manifest, digest);
        }
    }

    fn evict_one(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        let path = self.layout.object(kind, digest);
        // A pin is taken under a hold, so that none comes between the look and the removal; and the file leaves the disk and the
        // books under it too, so that a commit of the same digest comes before both or after both.
        let removed = self.holds.unless_held(digest, || {
            (!self.pins.is_pinned(kind, digest)).then(|| {
                self.disk.remove(&path).map(|_| {
                    let mut books = self.space.books();
                    books.changed.insert((kind, digest.clone()));
                    books.of(kind).evict(digest).map_or(0, |entry| entry.size)
                })
            })
        })??;
        let size = match removed {
            Ok(size) => size,
            Err(error) => {
                warn!(%digest, %error, "cannot evict");
                return None;
            }
        };
        if kind == Kind::Manifest {
            self.memory.manifests.invalidate(digest);
        }
        self.space.evicted.fetch_add(1, Ordering::Relaxed);
        Some(size)
    }
}

/// Bytes of the capacity that a writer may use. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Reservation {
    core: Arc<Core>,
    bytes: u64,
}

impl Reservation {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more` bytes, after eviction when that is needed.
    pub(crate) fn grow(&mut self, more: u64) -> Result<(), Error> {
        let core = self.core.clone();
        let capacity = core.settings.capacity;
        let (low, high) = core.watermarks();
        for attempt in 0..2 {
            let used = {
                let mut books = core.space.books();
                let used = books.used();
                if used.saturating_add(more) <= capacity {
                    books.reserved += more;
                    self.bytes += more;
                    if used + more > high {
                        core.nudge();
                    }
                    return Ok(());
                }
                used
            };
            // What can never fit must not cost the others their place.
            if attempt > 0 || more > capacity {
                break;
            }
            let goal = if more <= low { low } else { capacity };
            core.evict(used.saturating_add(more).saturating_sub(goal));
        }
        Err(core.complain(more))
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.core.space.books().reserved -= surplus;
        self.bytes -= surplus;
    }

    /// The bytes became a blob of `size`.
    pub(crate) fn commit(mut self, digest: &Digest, size: u64) {
        let mut books = self.core.space.books();
        books.reserved -= self.bytes;
        books.blobs.insert(digest, size);
        books.changed.insert((Kind::Blob, digest.clone()));
        drop(books);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.core.space.books().reserved -= self.bytes;
        }
    }
}
