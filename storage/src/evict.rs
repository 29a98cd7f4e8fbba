//! Removing what has to go when room is needed.
//!
//! # What this guarantees
//! What a client reads or writes is never removed, nor what a hosted repository holds. Blobs never displace manifests: Docker
//! Hub bills manifest GETs, and a thousand manifests cost less than one layer; they have a tenth of the capacity and of the
//! inodes to themselves and compete among each other. Partial files that no writer fills go first: they serve no client.
//!
//! # When
//! One thread does it, when a writer demands room or the high watermark is passed, and goes down to the low watermark, so that it
//! is not done for every blob. A file leaves its name under the lock that keeps new readers away, and is unlinked after it, for
//! to unlink a large file takes long.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    blobs::{InUse, Partials},
    cache::Manifests,
    capacity::{Capacity, Demand},
    files::{Files, Kind},
    hosted::Pins,
    oci::Digest,
};

/// How often it is looked whether a watermark is passed when no demand comes.
const EVERY: Duration = Duration::from_secs(1);

/// The thread that removes, and what it needs for it.
#[derive(Debug)]
pub(crate) struct Evictor {
    pub(crate) files: Arc<Files>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) in_use: InUse,
    pub(crate) partials: Arc<Partials>,
    pub(crate) manifests: Manifests,
    pub(crate) pins: Arc<Pins>,
    pub(crate) demands: Receiver<Demand>,
}

impl Evictor {
    /// Serves demands until the store is closed.
    pub(crate) fn run(self) {
        while !self.files.is_closing() {
            match self.demands.recv_timeout(EVERY) {
                Ok(Demand::Bytes(bytes, answer)) => {
                    let freed = self.evict(bytes);
                    // The writer may have lost its patience.
                    let _ = answer.send(freed);
                }
                Ok(Demand::Tidy) | Err(RecvTimeoutError::Timeout) => self.tidy(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Evicts when the high watermark is passed or the manifests have outgrown their share.
    fn tidy(&self) {
        self.capacity.drain_accesses();
        let used = self.capacity.accounts().used();
        if used > self.capacity.high {
            // What is hosted here stays, so there may be no way down to the mark.
            let (_, pinned) = self.pins.total(Kind::Blob);
            let most = self.capacity.accounts().blobs.bytes().saturating_sub(pinned);
            self.evict((used - self.capacity.low).min(most));
        }
        self.evict_manifests();
    }

    /// Removes at least `bytes` if it can; gives how many went.
    fn evict(&self, bytes: u64) -> u64 {
        self.capacity.drain_accesses();
        if bytes == 0 {
            return 0;
        }
        let mut freed = self.partials.drop_oldest(bytes);
        if freed >= bytes {
            return freed;
        }
        let order = self.capacity.accounts().blobs.order();
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
        // What is hosted here is not the cache's to count.
        let over = || self.capacity.manifests_outgrown(self.pins.total(Kind::Manifest));
        if !over() {
            return;
        }
        let order = self.capacity.accounts().manifests.order();
        // A twentieth more than needed, so that it is not done for every manifest.
        let surplus = order.len().div_ceil(20);
        let mut after = 0;
        for digest in &order {
            after += usize::from(!over());
            if after > surplus {
                break;
            }
            self.evict_one(Kind::Manifest, digest);
        }
    }

    fn evict_one(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        let (disk, layout) = (&self.files.disk, &self.files.layout);
        let trash = layout.temporary();
        // A pin is taken under a hold, so that none comes between the look and the removal; and the file leaves its name and
        // the accounts under it too, so that a commit of the same digest comes before both or after both.
        let moved = self.in_use.unless_held(digest, || {
            (!self.pins.is_pinned(kind, digest)).then(|| {
                let moved = disk.take_away(&layout.object(kind, digest), &trash);
                moved.map(|_| self.capacity.evicted(kind, digest))
            })
        })??;
        if kind == Kind::Manifest {
            self.manifests.forget(digest);
        }
        match moved.and_then(|size| disk.remove(&trash).map(|_| size)) {
            Ok(size) => Some(size),
            Err(error) => {
                warn!(%digest, %error, "cannot evict");
                None
            }
        }
    }
}
