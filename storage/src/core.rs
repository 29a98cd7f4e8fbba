//! What the store, its writers and its threads share.

use std::{
    fs::File,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::error;

use crate::{
    Error, Settings,
    blob::{Holds, Stripes},
    disk::Disk,
    evict::Space,
    hosted::{Collected, Durable},
    index::Index,
    layout::{Kind, Layout, flat},
    memory::Memory,
    oci::Digest,
    partial::Partials,
    pins::Pins,
    upload::Uploads,
    verify::Verifier,
};

/// What the store, its writers and its threads share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) disk: Disk,
    pub(crate) layout: Layout,
    pub(crate) space: Space,
    pub(crate) holds: Holds,
    pub(crate) partials: Partials,
    pub(crate) memory: Memory,
    pub(crate) stripes: Stripes,
    /// Of hosted repositories; held while one is changed, with its syncs, by blocking threads alone.
    pub(crate) repositories: Stripes,
    pub(crate) quarantined: AtomicU64,
    pub(crate) collected: Collected,
    pub(crate) index_ready: AtomicBool,
    pub(crate) index: Index,
    pub(crate) verifier: Verifier,
    pub(crate) bell: Bell,
    pub(crate) pins: Pins,
    pub(crate) durable: Durable,
    pub(crate) uploads: Uploads,
    // The directory is ours while this is open: as long as a thread or a writer may still touch it.
    pub(crate) _lock: File,
}

impl Core {
    /// Wakes the housekeeper.
    pub(crate) fn nudge(&self) {
        self.bell.ring();
    }

    /// Takes a corrupt object out of the way, for somebody to look at; its readers stop, and it is absent from now on.
    pub(crate) fn quarantine(&self, kind: Kind, digest: &Digest, why: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = self.layout.object(kind, digest);
        let to = self.layout.quarantine().join(format!("{}.{}.{now}", kind.directory(), flat(digest)));
        error!(%digest, kind = kind.directory(), why, "corrupt; quarantined");
        if let Err(error) = self.disk.rename(&path, &to) {
            // Whatever hinders the move, it must not be served again.
            let removed = self.disk.remove(&path);
            error!(%digest, %error, ?removed, "cannot quarantine");
        }
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        self.space.remove(kind, digest);
        self.memory.manifests.invalidate(digest);
        if kind == Kind::Blob
            && let Some(shared) = self.holds.opened(digest)
        {
            shared.condemn(Arc::from(why));
        }
    }
}

/// Wakes a thread that otherwise wakes now and then, and tells it to end.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<(bool, bool)>,
    rung: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        self.rung.notify_all();
    }

    pub(crate) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.rung.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Waits for a ring or for `most`; `false` when it is time to end.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rung.wait_timeout_while(state, most, |(rung, ended)| !*rung && !*ended);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.0 = false;
        !state.1
    }
}

/// Runs what touches the disk away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Error::vanished(what)))
}
