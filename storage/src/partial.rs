//! Files that are not whole: what an earlier attempt left, waiting to be resumed or to be dropped.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tracing::{debug, warn};

use crate::{core::Core, oci::Digest};

/// The partial files that nobody writes. One that is being written is in no list, so that at most one writer adopts it.
#[derive(Debug, Default)]
pub(crate) struct Partials {
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
    fn idle(&self) -> MutexGuard<'_, HashMap<Digest, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Leaves a partial file to whoever comes next.
    pub(crate) fn leave_partial(&self, digest: &Digest, idle: Idle) {
        self.space.books().idle += idle.size;
        self.partials.idle().entry(digest.clone()).or_default().push(idle);
    }

    /// Takes the longest partial file of a blob that has no more than `most` bytes; the others are removed.
    pub(crate) fn adopt_partial(&self, digest: &Digest, most: u64) -> Option<Idle> {
        let mut all = self.partials.idle().remove(digest)?;
        self.space.books().idle -= all.iter().map(|idle| idle.size).sum::<u64>();
        all.sort_by_key(|idle| idle.size);
        let fits = all.iter().rposition(|idle| idle.size <= most).map(|at| all.remove(at));
        all.iter().for_each(|idle| self.remove_partial(digest, *idle));
        fits
    }

    fn remove_partial(&self, digest: &Digest, idle: Idle) {
        if let Err(error) = self.disk.remove(&self.layout.partial(digest, idle.number)) {
            warn!(%digest, %error, "cannot remove a partial file");
        }
    }

    /// Removes idle partial files, the oldest first, until `bytes` went; gives how many did.
    pub(crate) fn drop_partials(&self, bytes: u64) -> u64 {
        let mut freed = 0;
        while freed < bytes {
            let mut idle = self.partials.idle();
            let oldest = idle.iter().min_by_key(|(_, files)| files.iter().map(|file| file.modified).min());
            let Some(digest) = oldest.map(|(digest, _)| digest.clone()) else { break };
            let files = idle.remove(&digest).unwrap_or_default();
            drop(idle);
            let size: u64 = files.iter().map(|file| file.size).sum();
            self.space.books().idle -= size;
            files.iter().for_each(|file| self.remove_partial(&digest, *file));
            debug!(%digest, size, "dropped a partial file for want of room");
            freed += size;
        }
        freed
    }
}
