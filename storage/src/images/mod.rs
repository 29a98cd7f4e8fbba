//! Images as an operator sees them: whether all of one is here, what it shares, who pulled it, pins that eviction leaves alone, and purge.
//!
//! # What this guarantees
//! Lists and searches are answered from memory. Whether an object is here is asked of the accounts, so that an image is complete
//! exactly when a pull of it needs nothing from upstream but the word that its tag still names it. A purge removes no object that
//! an image outside of the purge names, that a hosted repository holds, or that a pull is reading; a pull that is reading ends well,
//! and the object is removed after it.
//!
//! # What this refuses
//! A purge before everything that is stored has been counted: what other images need is not known then.

mod completeness;
mod counted;
mod pins;
mod pulls;
mod purge;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tracing::{info, warn};

use self::purge::Plan;
pub use self::{
    completeness::{Completeness, ImageFilter, NameFilter, Platform, Reading, Summaries, Summary},
    pins::Pin,
    pulls::{Pulled, Puller},
    purge::{Purged, Selection},
};
pub(crate) use self::{counted::Counted, pins::Pinned, pulls::Pulls};
use crate::{
    Error,
    cache::{Cache, Image, Inventory, Repository, source_of},
    capacity::Capacity,
    files::{Files, Kind, blocking},
    hosted::Repositories,
    oci::{Digest, Reference},
    remove::{Removal, Remover},
};

/// How long a purge waits for what is stored to be counted, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(50);
/// How long after a failure what is stored is read again.
const RETRY: Duration = Duration::from_secs(10);

/// The images of a store. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) cache: Cache,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) remover: Remover,
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) counted: Arc<Counted>,
}

impl Images {
    /// Whether everything that was stored before the start is known yet.
    pub fn is_complete(&self) -> bool {
        self.cache.inventory.is_complete()
    }

    /// Looks at the images. No system call; see [`Reading`].
    pub fn read(&self) -> Reading<'_> {
        Reading::new(&self.cache.inventory, &self.capacity)
    }

    /// Notes that a client got a manifest by GET. No system call; it is on the disk some 10 s later.
    pub fn note_pull(&self, repository: Repository, reference: Reference, client: &Puller, now: SystemTime) {
        self.pulls.note((repository, reference), client, now);
    }

    /// How an image was pulled; `None` when no pull of it is remembered.
    pub fn pulled(&self, image: &Image) -> Option<Pulled> {
        self.pulls.of(&image.repository, image.tag.as_ref(), &image.digest)
    }

    /// What each registry and each repository has. Of many images, as they were some seconds ago, and nothing before all that is stored
    /// has been read: then it costs a lock.
    pub fn summaries(&self) -> Arc<Summaries> {
        self.counted.get(&self.read())
    }

    /// Takes up what came and went; counts what each registry and each repository has and what is pinned, when that is due.
    pub(crate) fn count(&self) {
        // Taken first: what changes meanwhile is counted the next time.
        let usage = self.capacity.usage();
        let now = (self.cache.inventory.changes(), usage.blob_bytes + usage.manifest_bytes, usage.blobs);
        // Not all at the next list, nor ever more when there is none.
        self.cache.inventory.settle(&self.capacity);
        self.counted.count(&self.read(), &self.pinned, now);
    }

    /// When an image was last pulled; `None` when no pull of it is remembered.
    pub fn last_pull(&self, image: &Image) -> Option<SystemTime> {
        self.pulls.last(&image.repository, image.tag.as_ref(), &image.digest)
    }

    /// The mirrored images that a client pulled at this time or later, in the order of their names. What was pulled in the last second may
    /// be missing. A scan in memory.
    pub fn pulled_since(&self, since: SystemTime) -> Vec<Image> {
        let is_pulled = |image: &Image| self.last_pull(image).is_some_and(|last| last >= since);
        let images = self.read();
        images.images(None).filter(|image| !image.repository.is_hosted() && is_pulled(image)).collect()
    }

    /// Since when no client pulled an image: since it was last pulled, or when no pull is remembered, since upstream last confirmed its
    /// tag, or since a client last asked for its manifest under any name.
    pub fn idle_since(&self, image: &Image) -> SystemTime {
        let used = || {
            let used = self.capacity.accounts().manifests.get(&image.digest).map_or(0, |entry| entry.used);
            SystemTime::UNIX_EPOCH + Duration::from_secs(used.into())
        };
        self.last_pull(image).or(image.checked_at).unwrap_or_else(used)
    }

    /// Takes what was noted into the record of pulls, and writes it when `written`. Nothing before the inventory is complete, for it is
    /// not known which tags a digest stands for.
    pub(crate) fn keep_pulls(&self, files: &Files, written: bool) {
        if self.is_complete() {
            self.pulls.drain(&self.cache.inventory);
            if written {
                self.pulls.write(files);
            }
        }
    }

    /// Reads what is stored into the inventory. Runs on a thread of its own, after the objects were counted.
    pub(crate) fn fill(&self, files: &Files, hosted: &Repositories) {
        let started = Instant::now();
        self.pulls.load(files);
        // Without the inventory nothing can be purged, and with pins nothing evicted: a disk that fails for a while is asked again.
        while let Err(error) = self.try_fill(files, hosted) {
            if files.is_closing() {
                return;
            }
            warn!(%error, "the inventory of what is stored could not be read; trying again");
            let until = Instant::now() + RETRY;
            while Instant::now() < until && !files.is_closing() {
                std::thread::sleep(EVERY);
            }
        }
        if !files.is_closing() {
            self.count();
            self.cache.inventory.set_complete(true);
            info!(took = ?started.elapsed(), "read the inventory of what is stored");
        }
    }

    /// Ends early when the store is closed.
    fn try_fill(&self, files: &Files, hosted: &Repositories) -> Result<(), Error> {
        let (cache, inventory): (&Cache, &Inventory) = (&self.cache, &self.cache.inventory);
        let manifests: Vec<Digest> = self.capacity.accounts().manifests.digests().cloned().collect();
        for digest in manifests {
            if files.is_closing() {
                return Ok(());
            }
            // Not into the memory of what was asked for lately. One that cannot be read cannot be served either.
            match cache.manifests.look_at_file(&digest) {
                Ok(Some(manifest)) => {
                    let written = cache.manifests.written(&digest)?.unwrap_or(SystemTime::UNIX_EPOCH);
                    inventory.manifest(&manifest, written, true);
                }
                Ok(None) => {}
                Err(error) => warn!(%digest, %error, "a manifest could not be read into the inventory"),
            }
        }
        for source in cache.sources.walk()?.iter().filter_map(|key| source_of(key)) {
            if files.is_closing() {
                return Ok(());
            }
            for tag in cache.tags.all(&source)? {
                if let Some(record) = cache.tags.read_file(&source, &tag)? {
                    inventory.tag(&source, &tag, &record.digest, record.checked_at, true);
                }
            }
            for digest in cache.members.all(&source)? {
                if inventory.read().children(&digest).is_some() {
                    inventory.member(&source, &digest, true);
                }
            }
        }
        hosted.list_tags()
    }

    /// Removes what is selected: the names at once, and the bytes that nothing else names. `dry_run` removes nothing and says what
    /// would go. Waits up to 8 s for pulls that read what is removed; what is still read then
    /// is removed within a second after its last reader.
    ///
    /// # Errors
    /// [`Error::Counting`] while what is stored is still counted; [`Error::Io`], some may be gone then.
    pub async fn purge(&self, selections: Vec<Selection>, dry_run: bool) -> Result<Purged, Error> {
        let until = Instant::now() + PATIENCE;
        while !self.is_complete() {
            if Instant::now() >= until {
                return Err(Error::Counting);
            }
            tokio::time::sleep(EVERY).await;
        }
        let images = self.clone();
        let work = move || {
            let plan = Plan::new(&images.read(), &selections);
            if dry_run { Ok(plan.rehearse(&images.remover)) } else { plan.execute(&images.cache, &images.remover) }
        };
        blocking("purge", work).await
    }

    /// Removes those of these blobs that no cached manifest names, no hosted repository holds and no client reads; gives how many.
    ///
    /// # Errors
    /// [`Error::Counting`] while it is not known yet what names them.
    pub async fn discard(&self, blobs: Vec<Digest>) -> Result<u64, Error> {
        if !self.is_complete() {
            return Err(Error::Counting);
        }
        let images = self.clone();
        let work = move || {
            let mut unnamed: HashSet<Digest> = blobs.into_iter().collect();
            for (_, children) in images.read().state.manifests() {
                for child in children.iter().filter(|child| !child.is_manifest()) {
                    unnamed.remove(&child.digest);
                }
            }
            let remove = |digest: &&Digest| {
                let account = |capacity: &Capacity| capacity.removed(Kind::Blob, digest);
                matches!(images.remover.remove(Kind::Blob, digest, account), Removal::Removed(_))
            };
            Ok(unnamed.iter().filter(remove).count() as u64)
        };
        blocking("discard", work).await
    }

    /// The pins, in the order in which they were made.
    pub fn pins(&self) -> Vec<Pin> {
        self.pinned.all()
    }

    /// The images that these pins cover, in the order of their names. Costs what the repositories have that the pins can mean.
    pub fn covered(&self, pins: &[Pin]) -> Vec<Image> {
        pins::covered(&self.read(), pins).collect()
    }

    /// Bytes that pinned images have, and that they may have. Of many images, as it was some seconds ago; then it costs a load.
    pub fn pinned_bytes(&self) -> (u64, u64) {
        let bytes = if Counted::is_much(&self.read()) { self.pinned.counted() } else { self.pinned.count() };
        (bytes, self.pinned.most)
    }

    /// Pins a pattern; one that is there is replaced. It is on the disk when this returns.
    ///
    /// # Errors
    /// [`Error::Unusable`] when pinned images would have more than their share, or there are too many pins; [`Error::Io`].
    pub async fn pin(&self, pin: Pin) -> Result<(), Error> {
        let pinned = self.pinned.clone();
        let change = move |pins: &mut Vec<Pin>| {
            pins.retain(|old| old.pattern != pin.pattern);
            pins.push(pin);
        };
        blocking("pin", move || pinned.change(change, true)).await.map(drop)
    }

    /// Takes a pin back; `false` when there was none of this pattern.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn unpin(&self, pattern: &str) -> Result<bool, Error> {
        let (pinned, pattern) = (self.pinned.clone(), pattern.to_owned());
        blocking("unpin", move || pinned.change(|pins| pins.retain(|old| old.pattern != pattern), false)).await
    }
}
