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
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    Error, Source,
    core::Core,
    layout::{Kind, flat, unflat},
};

/// What the values look like. Another number is not read as this one.
const SCHEMA: u64 = 1;

/// How often the index is written.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// How often it is tried to make one that failed anew.
pub(crate) const MEND_EVERY: Duration = Duration::from_secs(60);

/// Sources that wait to be noted; with more of them the index is made anew instead.
const WAITING: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Index {
    // Held for as long as a batch takes. Requests do not take it, but for the catalog.
    shelf: Mutex<Option<Shelf>>,
    // Held for one map operation. `true`: it has something; `false`: it has nothing any more.
    sources: Mutex<HashMap<Vec<u8>, bool>>,
    spoiled: AtomicBool,
}

/// An open index that may be trusted.
#[derive(Debug)]
struct Shelf {
    open: Option<Open>,
    sentinel: Sentinel,
}

#[derive(Debug)]
struct Open {
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

impl Drop for Shelf {
    fn drop(&mut self) {
        // sled writes when it is dropped, and may panic on what it then finds.
        let _ = guarded(|| {
            drop(self.open.take());
            Ok(())
        });
    }
}

/// Why the index is not to be had; a text for the log, since nobody can act on more.
type Doubt = String;

fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Doubt> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".into()),
    }
}

fn key(kind: Kind, digest: &crate::oci::Digest) -> String {
    format!("{}/{}", kind.directory(), flat(digest))
}

fn unkey(key: &[u8]) -> Option<(Kind, crate::oci::Digest)> {
    let (directory, name) = std::str::from_utf8(key).ok()?.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.directory() == directory)?;
    Some((kind, unflat(name)?))
}

fn number(value: Option<sled::IVec>) -> Option<u64> {
    value.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_le_bytes)
}

impl Open {
    fn at(core: &Core) -> Result<Open, Doubt> {
        guarded(|| {
            let config = sled::Config::new().path(core.layout.index()).cache_capacity(core.settings.index_cache);
            let database = config.flush_every_ms(None).open()?;
            let (objects, sources) = (database.open_tree("objects")?, database.open_tree("sources")?);
            Ok(Open { database, objects, sources })
        })
    }

    fn meta(&self, name: &str) -> Result<Option<u64>, Doubt> {
        guarded(|| Ok(number(self.database.get(name)?)))
    }

    /// Whether it has at least what it must have; the sentinel of this opening.
    fn measure(&self, sentinel: Sentinel) -> Result<Sentinel, Doubt> {
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

impl Core {
    /// Opens the index, or makes it anew. On a thread of its own, after the objects were counted.
    pub(crate) fn open_index(&self) {
        let sentinel = self.read_record::<Sentinel>(&self.layout.sentinel()).unwrap_or_else(|error| {
            warn!(%error, "cannot read the sentinel of the index");
            None
        });
        let trusted = match sentinel {
            None => Err("there is no sentinel".to_owned()),
            Some(sentinel) if sentinel.schema != SCHEMA => Err("it is of another version".to_owned()),
            Some(sentinel) => Open::at(self).and_then(|open| {
                // What fails is dropped where a panic is caught.
                let mut shelf = Shelf { open: Some(open), sentinel };
                let Some(open) = &shelf.open else { return Err("it is closed".into()) };
                shelf.sentinel = open.measure(sentinel)?;
                self.recall(open)?;
                Ok(shelf)
            }),
        };
        let shelf = trusted.or_else(|doubt| self.rebuild_index(&doubt));
        match shelf.and_then(|shelf| self.begin(&shelf).map(|()| shelf)) {
            Ok(shelf) => {
                *self.index.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(shelf);
                self.index.spoiled.store(false, Ordering::Release);
                self.index_ready.store(true, Ordering::Release);
            }
            Err(doubt) => {
                self.index.spoiled.store(true, Ordering::Release);
                warn!(doubt, "there is no index for now; answers come from the directories");
            }
        }
    }

    fn begin(&self, shelf: &Shelf) -> Result<(), Doubt> {
        let Some(open) = &shelf.open else { return Err("it is closed".into()) };
        guarded(|| {
            open.database.insert("schema", &SCHEMA.to_le_bytes())?;
            open.database.insert("epoch", &shelf.sentinel.epoch.to_le_bytes())?;
            open.database.flush()
        })?;
        self.write_sentinel(shelf.sentinel)
    }

    fn write_sentinel(&self, sentinel: Sentinel) -> Result<(), Doubt> {
        self.write_record(&self.layout.sentinel(), &sentinel).map_err(|error| error.to_string())
    }

    /// Puts the old one aside and fills a new one from the files.
    fn rebuild_index(&self, doubt: &str) -> Result<Shelf, Doubt> {
        let path = self.layout.index();
        let io = |error: Error| error.to_string();
        if self.disk.metadata(&path).map_err(io)?.is_some() {
            warn!(doubt, "the index cannot be trusted; making it anew from the files");
            let root = self.layout.root();
            for old in self.disk.list(root).map_err(io)?.iter().filter(|name| name.starts_with("index.bad-")) {
                self.disk.remove_tree(&root.join(old)).map_err(io)?;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.disk.rename(&path, &root.join(format!("index.bad-{now}"))).map_err(io)?;
        }
        let sentinel = Sentinel { schema: SCHEMA, epoch: 1, objects: 0, sources: 0 };
        let shelf = Shelf { open: Some(Open::at(self)?), sentinel };
        let sources = self.walk_sources().map_err(io)?;
        info!(sources = sources.len(), "made the index anew");
        let mut waiting = self.index.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for (upstream, repository, credential) in sources {
            // What was noted meanwhile is newer than the walk.
            waiting.entry(format!("{upstream}\0{repository}\0{credential}").into_bytes()).or_insert(true);
        }
        drop(waiting);
        let mut books = self.space.books();
        for kind in Kind::ALL {
            let all: Vec<_> = books.of(kind).digests().map(|digest| (kind, digest.clone())).collect();
            books.changed.extend(all);
        }
        Ok(shelf)
    }

    /// Takes what the index remembers of each object into the books. What is not there any more is told the index.
    fn recall(&self, open: &Open) -> Result<(), Doubt> {
        let mut known = std::collections::HashSet::new();
        let ages = [(Kind::Blob, "age-blobs"), (Kind::Manifest, "age-manifests")];
        for (kind, name) in ages {
            if let Some(age) = open.meta(name)? {
                self.space.books().of(kind).resume_age(f64::from_bits(age));
            }
        }
        let mut entries = open.objects.iter();
        while let Some((name, value)) = guarded(|| entries.next().transpose())? {
            let remembered = unkey(&name).zip(<[u8; 12]>::try_from(value.as_ref()).ok());
            let Some(((kind, digest), value)) = remembered else { return Err("an entry is not one of ours".into()) };
            let (frequency, priority) = value.split_at(4);
            let frequency = frequency.try_into().map_or(1, u32::from_le_bytes);
            let priority = priority.try_into().map_or(0.0, f64::from_le_bytes);
            let mut books = self.space.books();
            if books.of(kind).get(&digest).is_some() {
                books.of(kind).remember(&digest, frequency, priority);
                known.insert((kind, digest));
            } else {
                books.changed.insert((kind, digest));
            }
        }
        let mut books = self.space.books();
        for kind in Kind::ALL {
            let new = books.of(kind).digests().map(|digest| (kind, digest.clone()));
            let new: Vec<_> = new.filter(|entry| !known.contains(entry)).collect();
            books.changed.extend(new);
        }
        Ok(())
    }

    /// The source has something.
    pub(crate) fn has_source(&self, source: &Source) {
        self.note_source(source, true);
    }

    /// It has nothing any more.
    pub(crate) fn lost_source(&self, source: &Source) {
        self.note_source(source, false);
    }

    fn note_source(&self, source: &Source, there: bool) {
        let key = format!("{}\0{}\0{}", source.upstream, source.repository, source.credential).into_bytes();
        let mut waiting = self.index.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.insert(key, there);
        } else {
            self.index.spoiled.store(true, Ordering::Release);
        }
    }

    /// Tells the index what changed. For the housekeeper, and at the end.
    pub(crate) fn flush_index(&self) {
        if !self.index_ready.load(Ordering::Acquire) {
            return;
        }
        let mut slot = self.index.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let spoiled = self.index.spoiled.load(Ordering::Acquire);
        let written = match slot.as_mut() {
            Some(shelf) if !spoiled => self.write_index(shelf),
            _ => Err("it lost something".into()),
        };
        let Err(doubt) = written else { return };
        self.index_ready.store(false, Ordering::Release);
        self.index.spoiled.store(true, Ordering::Release);
        drop(slot.take());
        warn!(doubt, "the index failed; it is made anew");
    }

    /// Makes the index anew when it failed. For the housekeeper.
    pub(crate) fn mend_index(&self) {
        if self.index.spoiled.load(Ordering::Acquire) && !self.index_ready.load(Ordering::Acquire) {
            // The sentinel stands for what is to be put aside.
            let gone = self.disk.remove(&self.layout.sentinel());
            if gone.is_ok() {
                self.open_index();
            }
        }
    }

    fn write_index(&self, shelf: &mut Shelf) -> Result<(), Doubt> {
        let Some(open) = &shelf.open else { return Err("it is closed".into()) };
        let (changed, ages) = {
            let mut books = self.space.books();
            let changed: Vec<_> = std::mem::take(&mut books.changed).into_iter().collect();
            let entries: Vec<_> = changed.iter().map(|(kind, digest)| books.of(*kind).get(digest)).collect();
            let ages = [("age-blobs", books.blobs.age()), ("age-manifests", books.manifests.age())];
            (changed.into_iter().zip(entries).collect::<Vec<_>>(), ages)
        };
        let sources = std::mem::take(&mut *self.index.sources.lock().unwrap_or_else(PoisonError::into_inner));
        if changed.is_empty() && sources.is_empty() {
            return Ok(());
        }
        let before = shelf.sentinel;
        let gone = changed.iter().filter(|(_, entry)| entry.is_none()).count() as u64;
        let lost = sources.values().filter(|there| !**there).count() as u64;
        if gone + lost > 0 {
            // A crash in the middle must not look like a loss.
            shelf.sentinel.objects = before.objects.saturating_sub(gone);
            shelf.sentinel.sources = before.sources.saturating_sub(lost);
            self.write_sentinel(shelf.sentinel)?;
        }
        let (mut objects, mut known) = (before.objects as i64, before.sources as i64);
        guarded(|| {
            for ((kind, digest), entry) in changed {
                let key = key(kind, &digest);
                objects += match entry {
                    Some(entry) => {
                        let mut value = entry.frequency.to_le_bytes().to_vec();
                        value.extend_from_slice(&entry.priority.to_le_bytes());
                        i64::from(open.objects.insert(key, value)?.is_none())
                    }
                    None => -i64::from(open.objects.remove(key)?.is_some()),
                };
            }
            for (key, there) in sources {
                known += match there {
                    true => i64::from(open.sources.insert(key, &[])?.is_none()),
                    false => -i64::from(open.sources.remove(key)?.is_some()),
                };
            }
            for (name, age) in ages {
                open.database.insert(name, &age.to_bits().to_le_bytes())?;
            }
            open.database.flush()
        })?;
        shelf.sentinel.objects = objects.max(0) as u64;
        shelf.sentinel.sources = known.max(0) as u64;
        if shelf.sentinel != before || gone + lost > 0 { self.write_sentinel(shelf.sentinel) } else { Ok(()) }
    }

    /// Every source with something, in byte order.
    pub(crate) fn catalog(&self) -> Result<Vec<Source>, Error> {
        self.flush_index();
        let slot = self.index.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let open = slot.as_ref().and_then(|shelf| shelf.open.as_ref());
        let ready = open.filter(|_| self.index_ready.load(Ordering::Acquire));
        let keys = ready.and_then(|open| {
            let keys: Result<Vec<sled::IVec>, Doubt> = guarded(|| open.sources.iter().keys().collect());
            keys.inspect_err(|doubt| warn!(doubt, "the index does not answer")).ok()
        });
        drop(slot);
        let sources = match keys {
            Some(keys) => keys.iter().filter_map(|key| read_source(key)).collect(),
            None => {
                let walked = self.walk_sources()?.into_iter();
                let keys =
                    walked.map(|(upstream, repository, credential)| format!("{upstream}\0{repository}\0{credential}"));
                keys.filter_map(|key| read_source(key.as_bytes())).collect()
            }
        };
        Ok(sources)
    }
}

fn read_source(key: &[u8]) -> Option<Source> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
    let (upstream, repository, credential) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Source { upstream: upstream.into(), credential: credential.into(), repository: repository.parse().ok()? })
}
