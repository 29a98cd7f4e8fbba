//! Pins: patterns of images that eviction leaves alone, within a share of the capacity.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::completeness::{Reading, Seen};
use crate::{
    Error,
    cache::{Image, Inventory, Repository},
    capacity::Capacity,
    files::{Files, Kind},
    oci::{Digest, matches},
};

/// Objects that are counted before it is looked which of them are the same.
const MOST_UNSORTED: usize = 65_536;
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

/// The first character of a pattern that does not stand for itself.
const WILD: [char; 2] = ['*', '['];

/// The images that these pins cover, in the order of their names. Repositories that no pin can mean are not looked at, of which there may
/// be a hundred thousand.
pub(super) fn covered<'a>(reading: &'a Reading<'_>, pins: &'a [Pin]) -> impl Iterator<Item = Image> + 'a {
    let repositories: BTreeSet<&Repository> = pins
        .iter()
        .flat_map(|pin| match pin.pattern.find(WILD) {
            Some(end) => reading.state.repositories_named(&pin.pattern[..end], false),
            None => reading.state.repositories_named(&pin.pattern, true),
        })
        .collect();
    // Names are looked up and patterns are tried: there may be a thousand pins.
    let (patterns, names): (Vec<&Pin>, Vec<&Pin>) = pins.iter().partition(|pin| pin.pattern.contains(WILD));
    let names: HashSet<&str> = names.into_iter().map(|pin| &*pin.pattern).collect();
    repositories.into_iter().flat_map(|repository| reading.state.images(repository)).filter(move |image| {
        names.contains(&*image.name())
            || names.contains(&*repository(image))
            || patterns.iter().any(|pin| pin.covers(image))
    })
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
    /// Bytes that pinned images had when they were last counted.
    counted: AtomicU64,
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
        let pins = match files.read_authoritative_record(&files.layout.pins()) {
            Err(error @ Error::DamagedRecord(_)) => {
                // What was pinned can be fetched again, and a start must not depend on it.
                tracing::error!(%error, "no image is pinned; pin them again");
                Vec::new()
            }
            pins => pins?.unwrap_or_default(),
        };
        let most = (capacity.bytes as f64 * share.clamp(0.0, 1.0)) as u64;
        Ok(Pinned { inventory, capacity, files, most, pins: Mutex::new(pins), counted: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pins.
    pub(super) fn all(&self) -> Vec<Pin> {
        self.lock().clone()
    }

    /// Counts the bytes that pinned images have.
    pub(super) fn count(&self) -> u64 {
        let counted = self.all();
        let bytes = self.bytes(&self.reading(), &counted);
        let pins = self.lock();
        // Else a change counted meanwhile.
        if *pins == counted {
            self.counted.store(bytes, Ordering::Relaxed);
        }
        bytes
    }

    /// The bytes that pinned images had when they were last counted.
    pub(super) fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// What eviction leaves alone: all that pinned images reach, image by image, as long as that is within their share. `None`
    /// soon after a start, when there are pins and it is not known yet what they cover.
    pub(crate) fn objects(&self) -> Option<HashSet<Digest>> {
        let pins = self.lock().clone();
        (pins.is_empty() || self.inventory.is_complete()).then(|| {
            let reading = self.reading();
            self.covered(&reading, &pins).into_iter().cloned().collect()
        })
    }

    fn reading(&self) -> Reading<'_> {
        Reading::new(&self.inventory, &self.capacity)
    }

    fn stored(&self, digest: &Digest) -> u64 {
        let kinds = [Kind::Blob, Kind::Manifest];
        kinds.into_iter().filter_map(|kind| self.capacity.size(kind, digest)).sum()
    }

    /// The bytes that are here of all that these pins cover; each object once. Pins may cover a million: they are sorted and not put into a
    /// table, of which the memory would stay with the process.
    fn bytes(&self, reading: &Reading<'_>, pins: &[Pin]) -> u64 {
        // A list that grows leaves what it was before to the process; of one that has room for all, only what is written is memory.
        let mut objects = Vec::with_capacity(self.capacity.objects());
        let (mut own, mut different) = (Seen::default(), 0);
        let sort = |objects: &mut Vec<&Digest>| {
            objects.sort_unstable();
            objects.dedup();
            objects.len()
        };
        for image in covered(reading, pins) {
            reading.reach_image(&image, &mut own);
            objects.extend(own.drain());
            // Many images may share their layers.
            if objects.len() > 2 * different + MOST_UNSORTED {
                different = sort(&mut objects);
            }
        }
        sort(&mut objects);
        objects.into_iter().map(|digest| self.stored(digest)).sum()
    }

    /// What these pins cover within their share, image by image.
    fn covered<'a>(&self, reading: &'a Reading<'_>, pins: &'a [Pin]) -> Seen<'a> {
        let (mut kept, mut bytes) = (Seen::default(), 0);
        for image in covered(reading, pins) {
            let mut objects = Seen::default();
            reading.reach_image(&image, &mut objects);
            let new: u64 = objects.difference(&kept).map(|digest| self.stored(digest)).sum();
            bytes += new;
            if bytes <= self.most {
                kept.extend(objects);
            }
        }
        kept
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Vec<Pin>), bounded: bool) -> Result<bool, Error> {
        let mut pins = self.lock();
        let mut new = pins.clone();
        change(&mut new);
        let bytes = self.bytes(&self.reading(), &new);
        if bounded && bytes > self.most {
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
        // While the pins are locked: a count of what they were before is not kept.
        self.counted.store(bytes, Ordering::Relaxed);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Settings, Source, Store,
        oci::{Algorithm, Manifest},
    };

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

    #[tokio::test]
    async fn a_layer_that_two_pinned_images_share_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        let layer = Algorithm::Sha256.digest(b"layer");
        store.images.capacity.insert(Kind::Blob, &layer, 1000);
        let (credential, repository) = (Source::ANONYMOUS.into(), "a/b".parse().unwrap());
        let source = Source { upstream: "docker.io".into(), credential, repository };
        for tag in ["1", "2"] {
            let text = format!(
                r#"{{"schemaVersion":2,"layers":[{{"digest":"{layer}","size":1000}}],"annotations":{{"a":"{tag}"}}}}"#
            );
            let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
            let digest = Algorithm::Sha256.digest(text.as_bytes());
            store.images.capacity.insert(Kind::Manifest, &digest, 10);
            let inventory = &store.cache.inventory;
            inventory.manifest(
                &Manifest { digest: digest.clone(), media_type, bytes: text.into() },
                SystemTime::now(),
                false,
            );
            inventory.tag(&source, &tag.parse().unwrap(), &digest, SystemTime::UNIX_EPOCH, false);
        }
        let at = SystemTime::UNIX_EPOCH;
        let pin = Pin { pattern: "docker.io/*".into(), by: String::new(), reason: String::new(), at };
        store.images.pin(pin).await.unwrap();
        assert_eq!(store.images.pinned_bytes().0, 1020);
    }

    #[test]
    fn pins_look_at_the_repositories_that_they_can_mean_and_miss_none() {
        let (capacity, _demands) = Capacity::new(&Settings::default(), 0);
        let inventory = Inventory::default();
        let digest = Algorithm::Sha256.digest(b"image");
        let bytes = bytes::Bytes::from_static(br#"{"schemaVersion":2,"layers":[]}"#);
        let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        let untagged = Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes };
        inventory.manifest(&untagged, SystemTime::now(), false);
        let upstreams = ["a.io", "b.io", "b.io:5000"];
        let names = ["0", "a", "a-b", "a/b", "a/b-c", "a/b/c", "a/bc", "a/c", "a.b", "z"];
        for (upstream, name) in upstreams.iter().flat_map(|upstream| names.iter().map(move |name| (upstream, name))) {
            let credential = Source::ANONYMOUS.into();
            let source = Source { upstream: (*upstream).into(), credential, repository: name.parse().unwrap() };
            for tag in ["1", "2.0"] {
                inventory.tag(&source, &tag.parse().unwrap(), &digest, SystemTime::UNIX_EPOCH, false);
            }
            inventory.member(&source, &untagged.digest, false);
        }
        let reading = Reading::new(&inventory, &capacity);
        let all: Vec<Image> = reading.images(None).collect();
        // Every name, every repository, and each of their beginnings with a star after it, or a set.
        let full = all.iter().flat_map(|image| [image.name(), repository(image)]);
        let starts = full.flat_map(|name| {
            let cuts =
                (0..=name.len()).flat_map(|end| [format!("{}*", &name[..end]), format!("{}[0-9a-b]*", &name[..end])]);
            cuts.chain([name.clone(), format!("{name}*1"), format!("*{name}")]).collect::<Vec<_>>()
        });
        let patterns: BTreeSet<String> =
            starts.chain(["A*", "a.io/A*", "a.io/a..b*", "a.io", ""].map(str::to_owned)).collect();
        for pattern in patterns {
            let at = SystemTime::UNIX_EPOCH;
            let pin = Pin { pattern: pattern.clone(), by: String::new(), reason: String::new(), at };
            let expected: Vec<&Image> = all.iter().filter(|image| pin.covers(image)).collect();
            let found: Vec<Image> = covered(&reading, std::slice::from_ref(&pin)).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{pattern}");
        }
        let looked_at = |start: &str, whole: bool| reading.state.repositories_named(start, whole).count();
        assert_eq!(looked_at("b.io/a/b", false), 4, "a/b, a/b-c, a/b/c, a/bc");
        assert_eq!([looked_at("b.io/a/b:1", false), looked_at("b.io/a/b", true)], [1, 1]);
        assert_eq!([looked_at("b.io/", false), looked_at("b.i", false)], [names.len(), all.len() / 3]);
    }
}
