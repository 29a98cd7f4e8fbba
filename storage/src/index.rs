//! The index: sled, as a memory of what the files say, and never more than that.
//!
//! # What is in it
//! `objects`: how often each object was asked for and its priority, for eviction. `sources`: which sources have something, for
//! the catalog. Both can be had again: the one begins anew from the times of the files, the other from a walk.
//!
//! # Why it is not trusted
//! sled 0.34 survives `kill -9`. On a flipped bit it panics, mostly while it opens; truncated, it opens without an error
//! and is empty. So every call is made where a panic is caught, and what opened is compared with a sentinel outside of it: the
//! epoch of its last opening and how many entries there must be at least. What fails either is put aside as
//! `index.bad-<seconds>` (the last one is kept) and made anew from the files, while answers come from the directories.
//!
//! # Scope
//! No answer to a pull comes from here. One thread writes it at a time, every few seconds, in batches; what was not written when
//! the process died is learned again.

use std::{
    hash::BuildHasher,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    Error, Source,
    cache::{Sources, source_of},
    capacity::Capacity,
    files::{Files, Kind, blocking, flat, unflat},
    oci::Digest,
};

/// What the values look like. Another number is not read as this one.
const SCHEMA: u64 = 1;

/// How often the index is written.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// How often it is tried to make one that failed anew.
pub(crate) const MEND_EVERY: Duration = Duration::from_secs(60);

/// The index of a store. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Index(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    sources: Arc<Sources>,
    /// Bytes of sled's page cache.
    cache: u64,
    // Held for as long as a batch takes. Requests do not take it, but for the catalog.
    open: Mutex<Option<OpenIndex>>,
    ready: AtomicBool,
    failed: AtomicBool,
}

/// An open index that may be trusted.
#[derive(Debug)]
struct OpenIndex {
    trees: Option<Trees>,
    sentinel: Sentinel,
}

#[derive(Debug)]
struct Trees {
    database: sled::Db,
    objects: sled::Tree,
    sources: sled::Tree,
}

/// What the index is measured against; a file beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sentinel {
    schema: u64,
    epoch: u64,
    objects: u64,
    sources: u64,
}

impl Drop for OpenIndex {
    fn drop(&mut self) {
        // sled writes when it is dropped, and may panic on what it then finds.
        let _ = guarded(|| {
            drop(self.trees.take());
            Ok(())
        });
    }
}

/// Why the index is not to be had; a text for the log, since no caller can act on more.
type Fault = String;

fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".into()),
    }
}

fn key(kind: Kind, digest: &Digest) -> String {
    format!("{}/{}", kind.directory(), flat(digest))
}

fn unkey(key: &[u8]) -> Option<(Kind, Digest)> {
    let (directory, name) = std::str::from_utf8(key).ok()?.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.directory() == directory)?;
    Some((kind, unflat(name)?))
}

/// Frequency, priority and the time of the last use; an index of an earlier version has no time.
fn remembered(value: &[u8]) -> Option<(u32, f64, u32)> {
    let (frequency, rest) = value.split_first_chunk()?;
    let (priority, used) = rest.split_first_chunk()?;
    let used = if used.is_empty() { u32::MAX } else { u32::from_le_bytes(used.try_into().ok()?) };
    Some((u32::from_le_bytes(*frequency), f64::from_le_bytes(*priority), used))
}

fn number(value: Option<sled::IVec>) -> Option<u64> {
    value.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_le_bytes)
}

impl Trees {
    fn open(files: &Files, cache: u64) -> Result<Trees, Fault> {
        guarded(|| {
            let config = sled::Config::new().path(files.layout.index()).cache_capacity(cache);
            let database = config.flush_every_ms(None).open()?;
            let (objects, sources) = (database.open_tree("objects")?, database.open_tree("sources")?);
            Ok(Trees { database, objects, sources })
        })
    }

    fn meta(&self, name: &str) -> Result<Option<u64>, Fault> {
        guarded(|| Ok(number(self.database.get(name)?)))
    }

    /// Whether it has at least what it must have; the sentinel of this opening.
    fn measure(&self, sentinel: Sentinel) -> Result<Sentinel, Fault> {
        let epoch = self.meta("epoch")?;
        // A crash between the two writes of `begin` leaves the file one behind.
        if self.meta("schema")? != Some(SCHEMA) || ![Some(sentinel.epoch), Some(sentinel.epoch + 1)].contains(&epoch) {
            return Err(format!("it is of epoch {epoch:?} and not {}", sentinel.epoch));
        }
        let (objects, sources) = guarded(|| {
            let count = |tree: &sled::Tree| tree.iter().try_fold(0, |count, entry| entry.map(|_| count + 1));
            Ok((count(&self.objects)?, count(&self.sources)?))
        })?;
        if objects < sentinel.objects || sources < sentinel.sources {
            return Err(format!(
                "it has {objects} objects and {sources} sources where there were {} and {}",
                sentinel.objects, sentinel.sources
            ));
        }
        Ok(Sentinel { epoch: epoch.unwrap_or(sentinel.epoch) + 1, objects, sources, ..sentinel })
    }
}

impl Index {
    pub(crate) fn new(files: Arc<Files>, capacity: Arc<Capacity>, sources: Arc<Sources>, cache: u64) -> Index {
        let (ready, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Index(Arc::new(Inner { files, capacity, sources, cache, open: Mutex::default(), ready, failed }))
    }

    /// Whether it answers; `false` while it is made anew.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Every source that has at least one tag or manifest cached, by upstream, repository, credential in byte order. From the
    /// index, or by walking the directories while it is not to be had. The caller picks the credentials that may be shown.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn catalog(&self) -> Result<Vec<Source>, Error> {
        let inner = self.0.clone();
        blocking("catalog", move || inner.catalog()).await
    }

    /// Opens the index, or makes it anew. On a thread of its own, after the objects were counted.
    pub(crate) fn open(&self) {
        self.0.open();
    }

    /// Tells the index what changed.
    pub(crate) fn flush(&self) {
        self.0.flush();
    }

    /// Makes the index anew when it failed.
    pub(crate) fn mend(&self) {
        if self.0.failed.load(Ordering::Acquire) && !self.is_ready() {
            // The sentinel stands for what is to be put aside.
            let gone = self.0.files.disk.remove(&self.0.files.layout.sentinel());
            if gone.is_ok() {
                self.0.open();
            }
        }
    }
}

impl Inner {
    fn slot(&self) -> MutexGuard<'_, Option<OpenIndex>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        let sentinel = self.files.read_record::<Sentinel>(&self.files.layout.sentinel()).unwrap_or_else(|error| {
            warn!(%error, "cannot read the sentinel of the index");
            None
        });
        let trusted = match sentinel {
            None => Err("there is no sentinel".to_owned()),
            Some(sentinel) if sentinel.schema != SCHEMA => Err("it is of another version".to_owned()),
            Some(sentinel) => Trees::open(&self.files, self.cache).and_then(|trees| {
                // What fails is dropped where a panic is caught.
                let mut index = OpenIndex { trees: Some(trees), sentinel };
                let Some(trees) = &index.trees else { return Err("it is closed".into()) };
                index.sentinel = trees.measure(sentinel)?;
                self.recall(trees)?;
                Ok(index)
            }),
        };
        let index = trusted.or_else(|fault| self.rebuild(&fault));
        match index.and_then(|index| self.begin(&index).map(|()| index)) {
            Ok(index) => {
                *self.slot() = Some(index);
                self.failed.store(false, Ordering::Release);
                self.ready.store(true, Ordering::Release);
            }
            Err(fault) => {
                self.failed.store(true, Ordering::Release);
                warn!(fault, "there is no index for now; answers come from the directories");
            }
        }
    }

    fn begin(&self, index: &OpenIndex) -> Result<(), Fault> {
        let Some(trees) = &index.trees else { return Err("it is closed".into()) };
        guarded(|| {
            trees.database.insert("schema", &SCHEMA.to_le_bytes())?;
            trees.database.insert("epoch", &index.sentinel.epoch.to_le_bytes())?;
            trees.database.flush()
        })?;
        self.write_sentinel(index.sentinel)
    }

    fn write_sentinel(&self, sentinel: Sentinel) -> Result<(), Fault> {
        let path = self.files.layout.sentinel();
        let write = || self.files.write_record(&path, &sentinel);
        self.capacity.make_room_and_retry(0, write).map_err(|error| error.to_string())
    }

    /// Puts the old one aside and fills a new one from the files.
    fn rebuild(&self, fault: &str) -> Result<OpenIndex, Fault> {
        let path = self.files.layout.index();
        let io = |error: Error| error.to_string();
        if self.files.disk.metadata(&path).map_err(io)?.is_some() {
            warn!(fault, "the index cannot be trusted; making it anew from the files");
            let root = self.files.layout.root();
            for old in self.files.disk.list(root).map_err(io)?.iter().filter(|name| name.starts_with("index.bad-")) {
                self.files.disk.remove_tree(&root.join(old)).map_err(io)?;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.files.disk.rename(&path, &root.join(format!("index.bad-{now}"))).map_err(io)?;
        }
        let sentinel = Sentinel { schema: SCHEMA, epoch: 1, objects: 0, sources: 0 };
        let index = OpenIndex { trees: Some(Trees::open(&self.files, self.cache)?), sentinel };
        let sources = self.sources.note_all().map_err(io)?;
        info!(sources, "made the index anew");
        let mut accounts = self.capacity.accounts();
        for kind in Kind::ALL {
            let all: Vec<_> = accounts.of(kind).digests().map(|digest| (kind, digest.clone())).collect();
            accounts.changed.extend(all);
        }
        Ok(index)
    }

    /// Takes what the index remembers of each object into the accounts. What is not there any more is removed from the index.
    fn recall(&self, trees: &Trees) -> Result<(), Fault> {
        // Hashes, since there may be a million: of two objects with the same one, the other is written when it is asked for next.
        let hasher = RandomState::default();
        let mut known = Vec::new();
        let ages = [(Kind::Blob, "age-blobs"), (Kind::Manifest, "age-manifests")];
        for (kind, name) in ages {
            if let Some(age) = trees.meta(name)? {
                self.capacity.accounts().of(kind).resume_age(f64::from_bits(age));
            }
        }
        let mut entries = trees.objects.iter();
        while let Some((name, value)) = guarded(|| entries.next().transpose())? {
            let Some(((kind, digest), (frequency, priority, used))) = unkey(&name).zip(remembered(&value)) else {
                return Err("an entry is not one of ours".into());
            };
            let mut accounts = self.capacity.accounts();
            if accounts.of(kind).get(&digest).is_some() {
                accounts.of(kind).remember(&digest, frequency, priority, used);
                known.push(hasher.hash_one((kind, &digest)));
            } else {
                accounts.changed.insert((kind, digest));
            }
        }
        known.sort_unstable();
        let is_new = |entry: &(Kind, &Digest)| known.binary_search(&hasher.hash_one(entry)).is_err();
        let mut accounts = self.capacity.accounts();
        for kind in Kind::ALL {
            let new = accounts.of(kind).digests().map(|digest| (kind, digest)).filter(is_new);
            let new: Vec<_> = new.map(|(kind, digest)| (kind, digest.clone())).collect();
            accounts.changed.extend(new);
        }
        Ok(())
    }

    fn flush(&self) {
        if !self.ready.load(Ordering::Acquire) {
            return;
        }
        let mut slot = self.slot();
        let written = slot.as_mut().ok_or_else(|| "it is closed".into()).and_then(|index| self.write(index));
        let Err(fault) = written else { return };
        self.ready.store(false, Ordering::Release);
        self.failed.store(true, Ordering::Release);
        drop(slot.take());
        warn!(fault, "the index failed; it is made anew");
    }

    fn write(&self, index: &mut OpenIndex) -> Result<(), Fault> {
        let Some(trees) = &index.trees else { return Err("it is closed".into()) };
        let (changed, ages) = {
            let mut accounts = self.capacity.accounts();
            let changed: Vec<_> = std::mem::take(&mut accounts.changed).into_iter().collect();
            let entries: Vec<_> = changed.iter().map(|(kind, digest)| accounts.of(*kind).get(digest)).collect();
            let ages = [("age-blobs", accounts.blobs.age()), ("age-manifests", accounts.manifests.age())];
            (changed.into_iter().zip(entries).collect::<Vec<_>>(), ages)
        };
        let Some(sources) = self.sources.take() else { return Err("it lost something".into()) };
        if changed.is_empty() && sources.is_empty() {
            return Ok(());
        }
        let before = index.sentinel;
        let gone = changed.iter().filter(|(_, entry)| entry.is_none()).count() as u64;
        let lost = sources.values().filter(|there| !**there).count() as u64;
        if gone + lost > 0 {
            // A crash in the middle must not look like a loss.
            index.sentinel.objects = before.objects.saturating_sub(gone);
            index.sentinel.sources = before.sources.saturating_sub(lost);
            self.write_sentinel(index.sentinel)?;
        }
        let (mut objects, mut known) = (before.objects as i64, before.sources as i64);
        guarded(|| {
            for ((kind, digest), entry) in changed {
                let key = key(kind, &digest);
                objects += match entry {
                    Some(entry) => {
                        let mut value = entry.frequency.to_le_bytes().to_vec();
                        value.extend_from_slice(&entry.priority.to_le_bytes());
                        value.extend_from_slice(&entry.used.to_le_bytes());
                        i64::from(trees.objects.insert(key, value)?.is_none())
                    }
                    None => -i64::from(trees.objects.remove(key)?.is_some()),
                };
            }
            for (key, there) in sources {
                known += match there {
                    true => i64::from(trees.sources.insert(key, &[])?.is_none()),
                    false => -i64::from(trees.sources.remove(key)?.is_some()),
                };
            }
            for (name, age) in ages {
                trees.database.insert(name, &age.to_bits().to_le_bytes())?;
            }
            trees.database.flush()
        })?;
        index.sentinel.objects = objects.max(0) as u64;
        index.sentinel.sources = known.max(0) as u64;
        if index.sentinel != before || gone + lost > 0 { self.write_sentinel(index.sentinel) } else { Ok(()) }
    }

    fn catalog(&self) -> Result<Vec<Source>, Error> {
        self.flush();
        let slot = self.slot();
        let trees = slot.as_ref().and_then(|index| index.trees.as_ref());
        let ready = trees.filter(|_| self.ready.load(Ordering::Acquire));
        let keys = ready.and_then(|trees| {
            let keys: Result<Vec<sled::IVec>, Fault> = guarded(|| trees.sources.iter().keys().collect());
            keys.inspect_err(|fault| warn!(fault, "the index does not answer")).ok()
        });
        drop(slot);
        Ok(match keys {
            Some(keys) => keys.iter().filter_map(|key| source_of(key)).collect(),
            None => self.sources.walk()?.iter().filter_map(|key| source_of(key)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_sled_is_a_fault() {
        assert_eq!(guarded::<()>(|| panic!("as sled does on what it cannot read")), Err("it panicked".into()));
        assert_eq!(guarded(|| Ok(1)), Ok(1));
    }
}
