//! Pins: patterns of images that eviction leaves alone, within a share of the capacity.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::completeness::Reading;
use crate::{
    Error,
    cache::{Image, Inventory},
    capacity::Capacity,
    files::{Files, Kind},
    oci::{Digest, matches},
};

/// Patterns at most.
const MOST_PINS: usize = 1000;

/// Images that eviction leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// An image or a repository, as `docker.io/library/busybox:1.36`, or a pattern such as `docker.io/library/*`; `*` spans `/`.
    pub pattern: String,
    /// The operator who pinned it.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

impl Pin {
    /// Whether an image is pinned by it.
    pub fn covers(&self, image: &Image) -> bool {
        !image.repository.is_hosted() && (self.pattern == repository(image) || matches(&self.pattern, &image.name()))
    }
}

fn repository(image: &Image) -> String {
    image.repository.full_name()
}

/// The pins, and the bytes that they may keep from eviction.
#[derive(Debug)]
pub(crate) struct Pinned {
    inventory: Arc<Inventory>,
    capacity: Arc<Capacity>,
    files: Arc<Files>,
    /// Bytes that pinned images may have together.
    pub(super) most: u64,
    // Held for one copy or one change, with its write.
    pins: Mutex<Vec<Pin>>,
}

impl Pinned {
    /// With the pins that are stored. `share` is that of the capacity.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn open(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        inventory: Arc<Inventory>,
        share: f64,
    ) -> Result<Pinned, Error> {
        let pins = files.read_record(&files.layout.pins())?.unwrap_or_default();
        let most = (capacity.bytes as f64 * share.clamp(0.0, 1.0)) as u64;
        Ok(Pinned { inventory, capacity, files, most, pins: Mutex::new(pins) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pins.
    pub(super) fn all(&self) -> Vec<Pin> {
        self.lock().clone()
    }

    /// What eviction leaves alone: all that pinned images reach, image by image, as long as that is within their share. `None`
    /// soon after a start, when there are pins and it is not known yet what they cover.
    pub(crate) fn objects(&self) -> Option<HashSet<Digest>> {
        let pins = self.lock().clone();
        (pins.is_empty() || self.inventory.is_complete()).then(|| self.covered(&pins).0)
    }

    /// What these pins cover within their share, and the bytes of all that they cover, here or claimed.
    pub(super) fn covered(&self, pins: &[Pin]) -> (HashSet<Digest>, u64) {
        let (mut covered, mut bytes) = (HashSet::new(), 0);
        if pins.is_empty() {
            return (covered, bytes);
        }
        // Names are looked up and patterns are tried: there may be a hundred thousand images, and a thousand pins.
        let (patterns, names): (Vec<&Pin>, Vec<&Pin>) = pins.iter().partition(|pin| pin.pattern.contains(['*', '[']));
        let names: HashSet<&str> = names.into_iter().map(|pin| &*pin.pattern).collect();
        let reading = Reading::new(&self.inventory, &self.capacity);
        // What is hosted is never evicted.
        for image in reading.images(None).filter(|image| !image.repository.is_hosted()) {
            let is_named = names.contains(&*image.name()) || names.contains(&*repository(&image));
            if !is_named && !patterns.iter().any(|pin| pin.covers(&image)) {
                continue;
            }
            let objects = reading.state.reach([&image.digest]);
            let stored = |digest: &Digest| {
                let kinds = [Kind::Blob, Kind::Manifest];
                kinds.into_iter().filter_map(|kind| self.capacity.size(kind, digest)).sum::<u64>()
            };
            let new: u64 = objects.difference(&covered).map(stored).sum();
            bytes += new;
            if bytes <= self.most {
                covered.extend(objects);
            }
        }
        (covered, bytes)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Vec<Pin>), bounded: bool) -> Result<bool, Error> {
        let mut pins = self.lock();
        let mut new = pins.clone();
        change(&mut new);
        let (_, bytes) = if bounded { self.covered(&new) } else { (HashSet::new(), 0) };
        if bytes > self.most {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(Error::Unusable(format!(
                "pinned images would have {} MiB and may have {} MiB (storage.pinned_share); unpin others or raise it",
                mib(bytes),
                mib(self.most)
            )));
        }
        if new.len() > MOST_PINS {
            return Err(Error::Unusable(format!("there are {MOST_PINS} pins already; write wider patterns")));
        }
        let changed = *pins != new;
        if changed {
            let path = self.files.layout.pins();
            self.files.write_record_synced(&path, &new)?;
            self.files.sync_parent(&path)?;
            *pins = new;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Store};

    #[tokio::test]
    async fn while_it_is_not_known_what_is_pinned_nothing_is_given_to_eviction() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        while !store.images.is_complete() {
            tokio::task::yield_now().await;
        }
        store.cache.inventory.set_complete(false);
        assert!(store.images.pinned.objects().is_some(), "nothing is pinned");
        let pin = Pin { pattern: "a*".into(), by: "operator".into(), reason: String::new(), at: SystemTime::now() };
        store.images.pin(pin).await.unwrap();
        assert!(store.images.pinned.objects().is_none());
        store.cache.inventory.set_complete(true);
        assert!(store.images.pinned.objects().is_some());
    }
}
