//! Files that are not whole: what an earlier attempt left, waiting to be resumed or to be dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tracing::{debug, warn};

use crate::{capacity::Capacity, files::Files, oci::Digest};

/// The partial files that no writer fills. One that is being written is in no list, so that at most one writer adopts it.
#[derive(Debug)]
pub(crate) struct Partials {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    // Held for one map operation.
    idle: Mutex<HashMap<Digest, Vec<Idle>>>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// The number in its name.
    pub(crate) number: u64,
    /// Bytes in it.
    pub(crate) size: u64,
    /// When it was last written.
    pub(crate) modified: SystemTime,
}

impl Partials {
    pub(crate) fn new(files: Arc<Files>, capacity: Arc<Capacity>) -> Partials {
        Partials { files, capacity, idle: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a partial file to the next writer of the digest.
    pub(crate) fn leave(&self, digest: &Digest, idle: Idle) {
        self.capacity.idle(idle.size, 0);
        self.all().entry(digest.clone()).or_default().push(idle);
    }

    /// Takes the longest partial file of a blob that has no more than `most` bytes; the others are removed.
    pub(crate) fn adopt(&self, digest: &Digest, most: u64) -> Option<Idle> {
        let mut all = self.all().remove(digest)?;
        self.capacity.idle(0, all.iter().map(|idle| idle.size).sum());
        all.sort_by_key(|idle| idle.size);
        let fits = all.iter().rposition(|idle| idle.size <= most).map(|at| all.remove(at));
        all.iter().for_each(|idle| self.remove(digest, *idle));
        fits
    }

    fn remove(&self, digest: &Digest, idle: Idle) {
        if let Err(error) = self.files.disk.remove(&self.files.layout.partial(digest, idle.number)) {
            warn!(%digest, %error, "cannot remove a partial file");
        }
    }

    /// Removes files, the oldest first, until `bytes` went; gives how many did.
    pub(crate) fn drop_oldest(&self, bytes: u64) -> u64 {
        let mut freed = 0;
        while freed < bytes {
            let mut all = self.all();
            let oldest = all.iter().min_by_key(|(_, files)| files.iter().map(|file| file.modified).min());
            let Some(digest) = oldest.map(|(digest, _)| digest.clone()) else { break };
            let files = all.remove(&digest).unwrap_or_default();
            drop(all);
            let size: u64 = files.iter().map(|file| file.size).sum();
            self.capacity.idle(0, size);
            files.iter().for_each(|file| self.remove(&digest, *file));
            debug!(%digest, size, "dropped a partial file for want of room");
            freed += size;
        }
        freed
    }
}
