//! Who has how many bytes of the capacity. It accounts and evicts nothing: who needs room asks the evictor and waits.
//!
//! # What this guarantees
//! Blobs, manifests, partial files and reservations together stay within the capacity. A reservation that finds no room asks
//! for it once and is refused when there is still none, so that a full disk is an error and never a wait without an end.
//!
//! # Scope
//! What goes is decided by `rank`, and removed by `evict`, which holds the other end of the queue of demands.

mod rank;

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tracing::warn;

pub(crate) use self::rank::Ranks;
use crate::{Error, Settings, files::Kind, oci::Digest};

/// The share of the capacity and of the inodes that manifests may have.
const MANIFEST_SHARE: u64 = 10;

/// Threads that note accesses each have their own map, up to so many.
const SHARDS: usize = 16;

/// Digests noted per shard between two drains; more than that in a second and the rest are not distinguished.
const NOTED: usize = 8192;

/// Demands that wait for the evictor; more wait for their turn to ask.
const DEMANDS: usize = 64;

/// How long one waits for the evictor: a disk that hangs is a full disk then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Objects that came or went since it was last looked which images are complete; after more, all are looked at.
const MOST_RECENT: usize = 65_536;

/// Evicted at once at least when the disk is fuller than the accounts say.
const LEAST: u64 = 1 << 20;

/// What the evictor is asked for.
#[derive(Debug)]
pub(crate) enum Demand {
    /// So many bytes; the answer is how many went.
    Bytes(u64, SyncSender<u64>),
    /// To look whether a watermark is passed.
    Tidy,
}

/// What is used, in bytes and in numbers of things.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes that may be used.
    pub capacity: u64,
    /// Bytes above which eviction begins.
    pub high: u64,
    /// Bytes of whole blobs. Complete when the count after the start is.
    pub blob_bytes: u64,
    /// Whole blobs.
    pub blobs: u64,
    /// Bytes of manifests.
    pub manifest_bytes: u64,
    /// Manifests.
    pub manifests: u64,
    /// Bytes of partial files and of what writers have reserved.
    pub partial_bytes: u64,
    /// Objects evicted since start.
    pub evicted: u64,
    /// Objects found corrupt since start.
    pub quarantined: u64,
    /// Writers that were refused for want of room, since start.
    pub full: u64,
    /// Whether the index answers; `false` while it is rebuilt.
    pub index_ready: bool,
}

impl Usage {
    /// Bytes of everything that is stored, arriving or reserved.
    pub fn used(&self) -> u64 {
        self.blob_bytes + self.manifest_bytes + self.partial_bytes
    }
}

/// The capacity and its accounts.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// Bytes that may be used.
    pub(crate) bytes: u64,
    /// What eviction comes down to.
    pub(crate) low: u64,
    /// Above what it begins.
    pub(crate) high: u64,
    /// How many manifests there may be.
    most_manifests: u64,
    // Held for a few map operations, and for sorting when something must go. No request for a cached object takes it.
    accounts: Mutex<Accounts>,
    accesses: Vec<Mutex<HashMap<(Kind, Digest), u32>>>,
    demands: SyncSender<Demand>,
    complained: Mutex<Option<Instant>>,
    evicted: AtomicU64,
    quarantined: AtomicU64,
    full: AtomicU64,
}

/// Seconds since 1970; good until 2106.
pub(crate) fn seconds(time: SystemTime) -> u32 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) blobs: Ranks,
    pub(crate) manifests: Ranks,
    /// Bytes promised to writers.
    reserved: u64,
    /// Bytes of partial files that wait to be resumed.
    idle: u64,
    /// What the index does not have yet.
    pub(crate) changed: HashSet<(Kind, Digest)>,
    pub(crate) recent: Recent,
}

/// Objects that came or went.
#[derive(Debug)]
pub(crate) enum Recent {
    /// These.
    Some(Vec<Digest>),
    /// More than are remembered.
    All,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent::Some(Vec::new())
    }
}

impl Accounts {
    pub(crate) fn of(&mut self, kind: Kind) -> &mut Ranks {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }

    /// An object came or went, and the index does not know it yet.
    fn change(&mut self, kind: Kind, digest: &Digest) {
        self.note_recent(digest);
        self.changed.insert((kind, digest.clone()));
    }

    /// An object that was found on the disk, of which nothing is known but when it was written.
    pub(crate) fn find(&mut self, kind: Kind, digest: &Digest, size: u64, unused: Duration) {
        self.note_recent(digest);
        self.of(kind).find(digest, size, unused);
    }

    fn note_recent(&mut self, digest: &Digest) {
        match &mut self.recent {
            Recent::Some(digests) if digests.len() < MOST_RECENT => digests.push(digest.clone()),
            recent => *recent = Recent::All,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.blobs.bytes() + self.manifests.bytes() + self.reserved + self.idle
    }
}

impl Capacity {
    /// `inodes` are those of the file system, 0 where it does not count them. The demands are for the evictor.
    pub(crate) fn new(settings: &Settings, inodes: u64) -> (Arc<Capacity>, Receiver<Demand>) {
        let share = |share: f64| (settings.capacity as f64 * share.clamp(0.0, 1.0)) as u64;
        let (demands, received) = sync_channel(DEMANDS);
        let capacity = Capacity {
            bytes: settings.capacity,
            low: share(settings.low_watermark),
            high: share(settings.high_watermark),
            most_manifests: if inodes > 0 { inodes / MANIFEST_SHARE } else { u64::MAX },
            accounts: Mutex::default(),
            accesses: (0..SHARDS).map(|_| Mutex::default()).collect(),
            demands,
            complained: Mutex::default(),
            evicted: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            full: AtomicU64::new(0),
        };
        // What comes before the evictor's first look has a time, too.
        capacity.set_now(seconds(SystemTime::now()));
        (Arc::new(capacity), received)
    }

    /// So late it is: seconds since 1970.
    pub(crate) fn set_now(&self, now: u32) {
        let mut accounts = self.accounts();
        Kind::ALL.into_iter().for_each(|kind| accounts.of(kind).set_now(now));
    }

    pub(crate) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many blobs and manifests are here.
    pub(crate) fn objects(&self) -> usize {
        let accounts = self.accounts();
        (accounts.blobs.count() + accounts.manifests.count()) as usize
    }

    /// For metrics, readiness and the dashboard. Takes one lock.
    pub(crate) fn usage(&self) -> Usage {
        let accounts = self.accounts();
        Usage {
            capacity: self.bytes,
            high: self.high,
            blob_bytes: accounts.blobs.bytes(),
            blobs: accounts.blobs.count(),
            manifest_bytes: accounts.manifests.bytes(),
            manifests: accounts.manifests.count(),
            partial_bytes: accounts.reserved + accounts.idle,
            evicted: self.evicted.load(Ordering::Relaxed),
            quarantined: self.quarantined.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
            index_ready: false,
        }
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

    /// Takes what was noted into the accounts.
    pub(crate) fn drain_accesses(&self) {
        for shard in &self.accesses {
            let noted = mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            if noted.is_empty() {
                continue;
            }
            let mut accounts = self.accounts();
            for ((kind, digest), hits) in noted {
                if accounts.of(kind).touch(&digest, hits) {
                    accounts.changed.insert((kind, digest));
                }
            }
        }
    }

    pub(crate) fn insert(&self, kind: Kind, digest: &Digest, size: u64) {
        let mut accounts = self.accounts();
        accounts.of(kind).insert(digest, size);
        accounts.change(kind, digest);
    }

    /// An object that was evicted; gives its size.
    pub(crate) fn evicted(&self, kind: Kind, digest: &Digest) -> u64 {
        self.evicted.fetch_add(1, Ordering::Relaxed);
        let mut accounts = self.accounts();
        accounts.change(kind, digest);
        accounts.of(kind).evict(digest).map_or(0, |entry| entry.size)
    }

    /// An object that was found corrupt and taken away.
    pub(crate) fn quarantined(&self, kind: Kind, digest: &Digest) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        self.removed(kind, digest);
    }

    /// An object that is gone for another reason; gives its size.
    pub(crate) fn removed(&self, kind: Kind, digest: &Digest) -> u64 {
        let mut accounts = self.accounts();
        accounts.change(kind, digest);
        accounts.of(kind).remove(digest).map_or(0, |entry| entry.size)
    }

    /// What came and went since this was last asked. One user of it: what it is given, no other is.
    pub(crate) fn take_recent(&self) -> Recent {
        mem::take(&mut self.accounts().recent)
    }

    /// The size an object was stored with, as far as it is counted yet.
    pub(crate) fn size(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        self.accounts().of(kind).get(digest).map(|entry| entry.size)
    }

    /// Partial files that wait to be resumed have so many bytes more, or fewer.
    pub(crate) fn idle(&self, more: u64, fewer: u64) {
        let mut accounts = self.accounts();
        accounts.idle = (accounts.idle + more).saturating_sub(fewer);
    }

    /// Whether manifests outgrew their share; `pinned` are the number and the bytes of those that do not count.
    pub(crate) fn manifests_outgrown(&self, pinned: (u64, u64)) -> bool {
        let accounts = self.accounts();
        accounts.manifests.bytes().saturating_sub(pinned.1) > self.bytes / MANIFEST_SHARE
            || accounts.manifests.count().saturating_sub(pinned.0) > self.most_manifests
    }

    /// Has the evictor look whether a watermark is passed, soon and elsewhere.
    pub(crate) fn wake_evictor(&self) {
        // When the queue is full it looks anyhow.
        let (Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = self.demands.try_send(Demand::Tidy);
    }

    /// Has the evictor remove so many bytes, and waits; gives how many went. Blocks, and never on the evictor's own thread.
    pub(crate) fn make_room(&self, bytes: u64) -> u64 {
        let (answer, answered) = sync_channel(1);
        if self.demands.send(Demand::Bytes(bytes, answer)).is_err() {
            return 0;
        }
        answered.recv_timeout(PATIENCE).unwrap_or(0)
    }

    /// Runs a small write of `size` bytes, and once more after an eviction when the disk was full.
    ///
    /// # Errors
    /// [`Error::Full`] when it still is; else those of the write.
    pub(crate) fn make_room_and_retry<T>(
        &self,
        size: u64,
        mut write: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut written = write();
        if written.as_ref().is_err_and(Error::is_full) {
            self.make_room(size.max(LEAST));
            written = write();
        }
        written.map_err(|error| if error.is_full() { self.refuse(size) } else { error })
    }

    /// The room is not there: counted, and logged at most once a minute.
    pub(crate) fn refuse(&self, needed: u64) -> Error {
        self.full.fetch_add(1, Ordering::Relaxed);
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            *complained = Some(Instant::now());
            warn!(needed, capacity = self.bytes, "storage is full; blobs pass through uncached");
        }
        Error::Full { needed }
    }

    /// Promises `needed` bytes, after eviction when that is needed.
    ///
    /// # Errors
    /// [`Error::Full`] when what could go was not enough.
    pub(crate) fn reserve(self: &Arc<Capacity>, needed: u64) -> Result<Reservation, Error> {
        let mut reservation = Reservation { capacity: self.clone(), bytes: 0 };
        reservation.grow(needed)?;
        Ok(reservation)
    }
}

/// Bytes of the capacity that a writer may use. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Reservation {
    capacity: Arc<Capacity>,
    bytes: u64,
}

impl Reservation {
    /// Sees to it that at least `total` bytes are reserved; when they are not, `ahead` bytes at a time.
    pub(crate) fn cover(&mut self, total: u64, ahead: u64) -> Result<(), Error> {
        match total.saturating_sub(self.bytes) {
            0 => Ok(()),
            missing => self.grow(missing.max(ahead.min(self.capacity.bytes / 16))),
        }
    }

    /// Takes `more` bytes, after eviction when that is needed.
    fn grow(&mut self, more: u64) -> Result<(), Error> {
        let capacity = &self.capacity;
        for attempt in 0..2 {
            let used = {
                let mut accounts = capacity.accounts();
                let used = accounts.used();
                if used.saturating_add(more) <= capacity.bytes {
                    accounts.reserved += more;
                    self.bytes += more;
                    drop(accounts);
                    if used + more > capacity.high {
                        capacity.wake_evictor();
                    }
                    return Ok(());
                }
                used
            };
            // What can never fit must not cost the others their place.
            if attempt > 0 || more > capacity.bytes {
                break;
            }
            let goal = if more <= capacity.low { capacity.low } else { capacity.bytes };
            capacity.make_room(used.saturating_add(more).saturating_sub(goal));
        }
        Err(capacity.refuse(more))
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.capacity.accounts().reserved -= surplus;
        self.bytes -= surplus;
    }

    /// The bytes became a blob of `size`.
    pub(crate) fn commit(mut self, digest: &Digest, size: u64) {
        let mut accounts = self.capacity.accounts();
        accounts.reserved -= self.bytes;
        accounts.blobs.insert(digest, size);
        accounts.change(Kind::Blob, digest);
        drop(accounts);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.capacity.accounts().reserved -= self.bytes;
        }
    }
}
