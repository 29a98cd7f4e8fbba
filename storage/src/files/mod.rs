//! The directory of the store: the only system calls, the only paths, and what every layer above does with small files.
//!
//! `disk` makes the calls, `layout` builds the paths, `record` seals small values, `journal` appends. [`Files`] joins them with
//! the lock of the directory, so that code that can touch a file holds the directory.

mod disk;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod journal;
mod layout;
mod record;

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, warn};

pub use self::{
    disk::{Call, Faults},
    journal::{Journal, Journals},
    record::{seal, unseal},
};
pub(crate) use self::{
    disk::{Disk, Stamp},
    layout::{
        Kind, LISTINGS, Layout, MEMBERS, REFERRERS, TAGS, escape, flat, held_in, held_name, partial_name, unescape,
        unflat,
    },
};
use crate::{Error, oci::Digest};

/// A record is a few hundred bytes; a listing of 100,000 tags is some 13 MiB.
const RECORD_MOST: u64 = 64 << 20;

/// Directories whose names are known to be on the disk; with more of them the set begins anew.
const DURABLE: usize = 65_536;

/// Locks of the objects' names: one is held for a rename, of a manifest that is pushed for its sync, too.
const NAMES: usize = 64;

/// How long a reader waits for the disk. A disk that hangs is an error then, and the connection is free.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// The directory, held for this process.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) disk: Disk,
    pub(crate) layout: Layout,
    // Directories whose own name was synced since the start, up to the root. Held for one look or one insertion.
    durable: Mutex<HashSet<PathBuf>>,
    // Of the objects' names: read to store, written to put aside, so that the file which is put aside is the one that was looked at.
    names: [RwLock<()>; NAMES],
    closing: AtomicBool,
    // The directory is ours while this is open: as long as a thread or a writer may still touch it.
    _lock: File,
}

impl Files {
    pub(crate) fn new(disk: Disk, layout: Layout, lock: File) -> Files {
        Files {
            disk,
            layout,
            durable: Mutex::default(),
            names: [const { RwLock::new(()) }; NAMES],
            closing: AtomicBool::new(false),
            _lock: lock,
        }
    }

    /// The store is closed: what reads for long ends.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A sealed record of what upstream can say again; one that is not what was written is removed and absent.
    pub(crate) fn read_record<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        let Some(bytes) = self.disk.read(path, RECORD_MOST)? else { return Ok(None) };
        let record = record::unseal(&bytes);
        if record.is_none() {
            warn!(path = %path.display(), "a torn or foreign record; removed");
            self.disk.remove(path)?;
        }
        Ok(record)
    }

    /// A sealed record that nothing can say again.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`] when it is not what was written; it stays.
    pub(crate) fn read_authoritative_record<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        let Some(bytes) = self.disk.read(path, RECORD_MOST)? else { return Ok(None) };
        record::unseal(&bytes).map(Some).ok_or_else(|| Error::DamagedRecord(path.to_owned()))
    }

    /// Takes a damaged record out of the way, for the operator to look at. `name` is one of a file.
    pub(crate) fn put_record_aside(&self, path: &Path, name: &str) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.disk.rename(path, &self.layout.quarantine().join(format!("record.{name}.{now}")))
    }

    /// Replaces a record. Its bytes may be lost in a power cut.
    pub(crate) fn write_record(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        self.disk.replace(&self.layout.temporary(), path, &[record::seal(value)?])
    }

    /// Replaces a record; its bytes are on the disk when this returns. The name follows with [`Files::sync_parent`].
    pub(crate) fn write_record_synced(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        self.disk.replace_synced(&self.layout.temporary(), path, &[record::seal(value)?])
    }

    /// Sees to it that the names in a directory, and its own name, are on the disk.
    pub(crate) fn sync_names(&self, directory: &Path) -> Result<(), Error> {
        self.disk.sync_directory(directory)?;
        let known = |path: &Path| self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(path);
        let (mut at, mut synced) = (directory, Vec::new());
        while at != self.layout.root() && !known(at) {
            let Some(parent) = at.parent() else { break };
            self.disk.sync_directory(parent)?;
            synced.push(at.to_owned());
            at = parent;
        }
        if !synced.is_empty() {
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            if durable.len() > DURABLE {
                durable.clear();
            }
            durable.extend(synced);
        }
        Ok(())
    }

    /// As [`Files::sync_names`], of the directory of a file, when there is one.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<(), Error> {
        match path.parent() {
            Some(parent) if self.disk.metadata(parent)?.is_some() => self.sync_names(parent),
            _ => Ok(()),
        }
    }

    /// Whether the object's file is the one of which this stamp was taken, and no other was put in its place. One `open` and one `fstat`.
    pub(crate) fn is_still(&self, kind: Kind, digest: &Digest, stamp: Stamp) -> Result<bool, Error> {
        let path = self.layout.object(kind, digest);
        let now = self.disk.open(&path)?.map(|file| self.disk.stamp(&file, &path)).transpose()?;
        Ok(now == Some(stamp))
    }

    /// Held while a file is renamed to the name of an object and accounted for: what is put aside meanwhile is another file.
    pub(crate) fn storing(&self, digest: &Digest) -> RwLockReadGuard<'_, ()> {
        self.name(digest).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of an object's name.
    pub(crate) fn name(&self, digest: &Digest) -> &RwLock<()> {
        &self.names[usize::from(digest.bytes()[0]) % NAMES]
    }

    /// Takes a corrupt object out of the way, for the operator to look at. With a stamp, only the file of which it was taken; `false` when
    /// another is in its place. `account` takes it out of the accounts before anything can be stored under the digest.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be told which file it is.
    pub(crate) fn quarantine(
        &self,
        (kind, digest): (Kind, &Digest),
        stamp: Option<Stamp>,
        why: &str,
        account: impl FnOnce(),
    ) -> Result<bool, Error> {
        let _alone = self.name(digest).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(stamp) = stamp
            && !self.is_still(kind, digest, stamp)?
        {
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = self.layout.object(kind, digest);
        let to = self.layout.quarantine().join(format!("{}.{}.{now}", kind.directory(), flat(digest)));
        error!(%digest, kind = kind.directory(), why, "corrupt; quarantined");
        if let Err(error) = self.disk.rename(&path, &to) {
            // It must not be served again, even when it cannot be moved.
            let removed = self.disk.remove(&path);
            error!(%digest, %error, ?removed, "cannot quarantine");
        }
        account();
        Ok(true)
    }
}

/// Runs what writes away from the async threads, in a span of its own. It is done even when the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let span = tracing::debug_span!("storage", call = what);
    let work = tokio::task::spawn_blocking(move || span.in_scope(work));
    work.await.unwrap_or_else(|_| Err(Error::vanished(what)))
}

/// Runs what only reads away from the async threads, and does not wait for a disk that hangs.
pub(crate) async fn reading<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::time::timeout(READ_PATIENCE, blocking(what, work)).await {
        Ok(result) => result,
        Err(_) => Err(Error::timed_out(what)),
    }
}
