//! Removing what has to go when room is needed.
//!
//! # What this guarantees
//! What a client reads or writes is never removed, nor what a hosted repository holds or an operator pinned. Blobs never displace
//! manifests: Docker Hub bills manifest GETs, and a thousand manifests cost less than one layer; they have a tenth of the capacity and of the
//! inodes to themselves and compete among each other. Partial files that no writer fills go first: they serve no client.
//!
//! # When
//! One thread does it, when a writer demands room or the high watermark is passed, and goes down to the low watermark, so that it
//! is not done for every blob.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::info;

use crate::{
    blobs::Partials,
    cache::Inventory,
    capacity::{Capacity, Demand, seconds},
    files::{Files, Kind},
    hosted::Pins,
    images::Pinned,
    oci::Digest,
    remove::{Removal, Remover},
};

/// How often it is looked whether a watermark is passed when no demand comes.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked what is idle, at most.
const LOOK: Duration = Duration::from_secs(600);

/// The thread that removes, and what it needs for it.
#[derive(Debug)]
pub(crate) struct Evictor {
    pub(crate) files: Arc<Files>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) partials: Arc<Partials>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) remover: Remover,
    /// What is idle for so long goes; zero is never.
    pub(crate) max_idle: Duration,
    pub(crate) demands: Receiver<Demand>,
}

impl Evictor {
    /// Serves demands until the store is closed.
    pub(crate) fn run(self) {
        // By its own count, so that a clock that steps makes nothing idle.
        let (base, started) = (seconds(SystemTime::now()), Instant::now());
        let mut looked = started;
        while !self.files.is_closing() {
            self.capacity.set_now(base.saturating_add(u32::try_from(started.elapsed().as_secs()).unwrap_or(u32::MAX)));
            if !self.max_idle.is_zero() && looked.elapsed() >= LOOK.min(self.max_idle / 10) {
                self.retire();
                looked = Instant::now();
            }
            // What names an object is not known before that.
            if self.inventory.is_complete() {
                self.remover.remove_left(|digest| self.inventory.is_named(digest));
            }
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

    /// Removes what no client asked for in `max_idle`.
    fn retire(&self) {
        self.capacity.drain_accesses();
        let idle = |kind| self.capacity.accounts().of(kind).idle(self.max_idle.as_secs());
        let idle = Kind::ALL.map(|kind| (kind, idle(kind)));
        if idle.iter().all(|(_, digests)| digests.is_empty()) {
            return;
        }
        let Some(pinned) = self.pinned.objects() else { return };
        let (mut freed, mut count) = (0, 0);
        for (kind, digests) in &idle {
            for digest in digests.iter().filter(|digest| !pinned.contains(*digest)) {
                if let Some(size) = self.evict_one(*kind, digest) {
                    freed += size;
                    count += 1;
                }
            }
        }
        if count > 0 {
            info!(freed, objects = count, "removed what was idle");
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
        let Some(pinned) = self.pinned.objects() else { return freed };
        let mut count = 0;
        for digest in order.iter().filter(|digest| !pinned.contains(*digest)) {
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
        let Some(pinned) = self.pinned.objects() else { return };
        // A twentieth more than needed, so that it is not done for every manifest.
        let surplus = order.len().div_ceil(20);
        let mut after = 0;
        for digest in order.iter().filter(|digest| !pinned.contains(*digest)) {
            after += usize::from(!over());
            if after > surplus {
                break;
            }
            self.evict_one(Kind::Manifest, digest);
        }
    }

    fn evict_one(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        match self.remover.remove(kind, digest, |capacity| capacity.evicted(kind, digest)) {
            Removal::Removed(size) => Some(size),
            Removal::InUse | Removal::Kept => None,
        }
    }
}
