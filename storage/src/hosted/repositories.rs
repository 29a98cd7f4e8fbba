//! Repositories that live here: what they hold, what their tags name, what refers to what. All of it is files.
//!
//! # What this guarantees
//! * What comes back without an error is on the disk: the bytes, their name, and the names of the directories above. Nothing of
//!   it depends on the index.
//! * A push is written from the bottom up (bytes, that the repository holds them, what they refer to, tags) and removed from the
//!   top down, so that whatever a crash leaves is a state that some order of whole requests could have made.
//! * What a repository holds is pinned: eviction leaves it alone. What it has given up is cached content like any other.
//!
//! # Scope
//! Who may do what, and whether a manifest is one, was decided before.

mod collect;
mod delete;
mod records;

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    damaged_record::{DamagedRecord, RecordRepair},
    pins::Pins,
    protection::Protection,
};
use crate::{
    Error, Reader, Settings, TagRecord,
    blobs::Blobs,
    cache::{Inventory, Manifests, hosted_source},
    capacity::Capacity,
    files::{Files, Kind, TAGS, blocking, flat, held_in, held_name, reading, unflat},
    oci::{Child, Digest, Manifest, MediaType, Name, Reference, Tag},
};

/// Locks of which each stands for many repositories.
const LOCKS: usize = 64;

/// What is hosted, as an operator wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedUsage {
    /// Each namespace's pattern and the bytes that it holds; what several of its repositories hold counts once.
    pub namespaces: Vec<(String, u64)>,
    /// Bytes that each of them may hold; 0 is as many as there is room for.
    pub capacity: u64,
    /// Blobs that repositories gave up since the start because no manifest named them.
    pub collected: u64,
    /// Their bytes. They are cached content from then on, and leave the disk by eviction.
    pub collected_bytes: u64,
}

/// What a repository knows of a manifest that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    media_type: MediaType,
    subject: Option<Digest>,
}

/// A manifest to be hosted, and what is to be known of it.
#[derive(Clone, Debug)]
pub struct Push {
    /// Its bytes, digest and media type.
    pub manifest: Manifest,
    /// What it names: what of it the repository holds is not collected meanwhile.
    pub children: Vec<Child>,
    /// Whether it is taken while the repository lacks blobs that it names.
    pub may_lack_blobs: bool,
    /// What it refers to, and how it is described there (end-12).
    pub subject: Option<(Digest, serde_json::Value)>,
    /// Tags that shall name it, and whether each may not be moved.
    pub tags: Vec<(Tag, bool)>,
}

/// The repositories that live in a store. Cloning is cheap.
///
/// What is `async` runs on a blocking thread and is done even when its future is dropped.
#[derive(Clone, Debug)]
pub struct Repositories(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    blobs: Blobs,
    manifests: Manifests,
    pins: Arc<Pins>,
    inventory: Arc<Inventory>,
    /// What no manifest names stays for so long.
    unnamed_ttl: Duration,
    collected: Collected,
    hasher: RandomState,
    // Held while a repository is changed, with its syncs, by blocking threads alone.
    locks: Vec<Mutex<()>>,
}

/// What was given up since the start because no manifest named it.
#[derive(Debug, Default)]
struct Collected {
    blobs: AtomicU64,
    bytes: AtomicU64,
}

impl Collected {
    fn add(&self, size: u64) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Repositories {
    pub(crate) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        blobs: Blobs,
        manifests: Manifests,
        inventory: Arc<Inventory>,
        settings: &Settings,
    ) -> Repositories {
        Repositories(Arc::new(Inner {
            files,
            capacity,
            blobs,
            manifests,
            inventory,
            pins: Arc::new(Pins::new(settings.namespaces.clone(), settings.namespace_capacity)),
            unnamed_ttl: settings.unnamed_ttl,
            collected: Collected::default(),
            hasher: RandomState::new(),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }))
    }

    /// From now on these patterns of hosted names, each of which may hold `capacity` bytes, or any number when that is 0. What is held stays.
    pub fn set_namespaces(&self, namespaces: Vec<String>, capacity: u64) {
        self.0.pins.set_namespaces(namespaces, capacity);
    }

    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.0.pins
    }

    /// Reads what is hosted into the pins. Before anything is answered or evicted.
    pub(crate) fn recover(&self) -> Result<(), Error> {
        let (disk, root) = (&self.0.files.disk, self.0.files.layout.hosted());
        let mut below = disk.list(&root)?;
        while let Some(path) = below.pop() {
            let Ok(name) = path.parse::<Name>() else { continue };
            for kind in Kind::ALL {
                let entries = disk.list(&root.join(&path).join(held_in(kind)))?;
                for (digest, size) in entries.iter().filter_map(|entry| held_name(entry)) {
                    self.0.pins.find(kind, &digest, size, &name);
                    if kind == Kind::Manifest {
                        self.0.inventory.member(&hosted_source(name.clone()), &digest, true);
                    }
                }
            }
            let children = disk.list(&root.join(&path))?;
            below
                .extend(children.iter().filter(|child| !child.starts_with('_')).map(|child| format!("{path}/{child}")));
        }
        Ok(())
    }

    /// Reads the tags of what is hosted into the inventory. A file for each.
    pub(crate) fn list_tags(&self) -> Result<(), Error> {
        let inner = &self.0;
        for name in self.names() {
            let source = hosted_source(name.clone());
            for tag in inner.tags(&name)? {
                if inner.files.is_closing() {
                    return Ok(());
                }
                match inner.tag(&name, &tag) {
                    Ok(Some(record)) => inner.inventory.tag(&source, &tag, &record.digest, record.checked_at, true),
                    Ok(None) => {}
                    Err(error @ Error::DamagedRecord(_)) => warn!(%error, "the tag is listed nowhere"),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What it all comes to. Two locks and no disk.
    pub fn usage(&self) -> HostedUsage {
        HostedUsage {
            namespaces: self.0.pins.used(),
            capacity: self.0.pins.capacity(),
            collected: self.0.collected.blobs(),
            collected_bytes: self.0.collected.bytes(),
        }
    }

    /// A blob that the repository holds.
    ///
    /// # Errors
    /// [`Error::Io`], also when the disk does not answer in time.
    pub async fn blob(&self, name: &Name, digest: &Digest) -> Result<Option<Reader>, Error> {
        match self.0.pins.held(Kind::Blob, digest, name) {
            Some(_) => self.0.blobs.load(digest).await,
            None => Ok(None),
        }
    }

    /// Its size. The client may be about to name it in a manifest, so it is not collected for a while.
    ///
    /// # Errors
    /// As [`Repositories::blob`].
    pub async fn blob_size(&self, name: &Name, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.0.pins.held(Kind::Blob, digest, name).is_none() {
            return Ok(None);
        }
        self.0.pins.touch(Kind::Blob, digest, name);
        self.0.blobs.size(digest).await
    }

    /// The repositories that hold a blob.
    pub fn holders(&self, digest: &Digest) -> Vec<Name> {
        self.0.pins.holders(Kind::Blob, digest)
    }

    /// Whether a repository holds anything.
    pub fn has(&self, name: &Name) -> bool {
        self.0.pins.has(name)
    }

    /// Every repository that holds a manifest, in byte order.
    pub fn names(&self) -> Vec<Name> {
        self.0.pins.repositories().into_iter().filter(|(_, manifests)| *manifests).map(|(name, _)| name).collect()
    }

    /// Gives the repository a blob that is in the store, read once more unless that was done since the start; `false` when it is
    /// not there or not what it should be.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Io`].
    pub async fn mount(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let (inner, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("mount", move || inner.mount(&name, &digest)).await
    }

    /// Takes a blob from the repository; `false` when it did not hold it.
    ///
    /// # Errors
    /// [`Error::Immutable`] or [`Error::Referenced`] when it is protected, and nothing is changed; [`Error::Io`].
    pub async fn delete_blob(&self, name: &Name, digest: &Digest, protection: Protection) -> Result<bool, Error> {
        let (inner, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("delete blob", move || inner.delete_blob(&name, &digest, &protection)).await
    }

    /// Keeps a manifest, what it refers to, and its tags; gives how many of the manifests that it lists are not here.
    ///
    /// # Errors
    /// [`Error::Immutable`] or [`Error::MissingBlobs`], and nothing is changed; [`Error::Quota`], [`Error::Full`], [`Error::Io`].
    pub async fn put_manifest(&self, name: &Name, push: Push) -> Result<usize, Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        blocking("host manifest", move || inner.host_manifest(&name, &push)).await
    }

    /// A manifest that the repository holds, by digest or as a tag names it, with the media type it was pushed with.
    ///
    /// # Errors
    /// As [`Repositories::blob`].
    pub async fn manifest(&self, name: &Name, reference: &Reference) -> Result<Option<Manifest>, Error> {
        let (inner, name, reference) = (self.0.clone(), name.clone(), reference.clone());
        reading("hosted manifest", move || match &reference {
            Reference::Digest(digest) => inner.manifest(&name, digest),
            Reference::Tag(tag) => match inner.tag(&name, tag)? {
                Some(record) => inner.manifest(&name, &record.digest),
                None => Ok(None),
            },
        })
        .await
    }

    /// What a tag names, when the repository holds that.
    ///
    /// # Errors
    /// As [`Repositories::blob`].
    pub async fn tag(&self, name: &Name, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let (inner, name, tag) = (self.0.clone(), name.clone(), tag.clone());
        reading("hosted tag", move || inner.tag(&name, &tag)).await
    }

    /// All tags, in byte order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn tags(&self, name: &Name) -> Result<Vec<Tag>, Error> {
        let (inner, name) = (self.0.clone(), name.clone());
        reading("hosted tags", move || inner.tags(&name)).await
    }

    /// Removes a tag; `false` when there was none.
    ///
    /// # Errors
    /// [`Error::Immutable`] when `immutable`; [`Error::Io`].
    pub async fn delete_tag(&self, name: &Name, tag: &Tag, immutable: bool) -> Result<bool, Error> {
        let (inner, name, tag) = (self.0.clone(), name.clone(), tag.clone());
        blocking("delete tag", move || {
            let _stripe = inner.lock(&name);
            let path = inner.files.layout.hosted_tag(&name, &tag);
            if immutable && inner.files.disk.metadata(&path)?.is_some() {
                return Err(Error::Immutable(tag));
            }
            let removed = inner.files.disk.remove(&path)?;
            inner.inventory.untag(&hosted_source(name), &tag);
            inner.files.sync_parent(&path)?;
            Ok(removed)
        })
        .await
    }

    /// Removes a manifest, the tags that name it, and its place among the referrers of its subject; `false` when there was none.
    ///
    /// # Errors
    /// As [`Repositories::delete_blob`].
    pub async fn delete_manifest(&self, name: &Name, digest: &Digest, protection: Protection) -> Result<bool, Error> {
        let (inner, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("delete manifest", move || inner.delete_manifest(&name, &digest, &protection)).await
    }

    /// The descriptors of what refers to a subject, in the order of their digests after `last`, until there are `most` of them
    /// or `most_bytes`; and whether there are more. `more` are descriptors that are known from elsewhere.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        more: Vec<(Digest, serde_json::Value)>,
        page: ReferrersPage,
    ) -> Result<(Vec<serde_json::Value>, Option<Digest>), Error> {
        let (inner, name, subject) = (self.0.clone(), name.clone(), subject.clone());
        reading("hosted referrers", move || inner.referrers(&name, &subject, more, &page)).await
    }

    /// Gives up what was pushed, is named by no manifest of its repository, and was not asked for in a while. Safe beside
    /// pushes. Gives how many blobs went.
    ///
    /// # Errors
    /// None that ends it: a repository that cannot be read is left alone and logged.
    pub async fn collect(&self) -> Result<u64, Error> {
        let inner = self.0.clone();
        blocking("collect", move || Ok(inner.collect())).await
    }

    /// Gives `report` each damaged record of the repositories. `keep` is told the bytes of each that is read, waits as the pace asks for,
    /// and gives `false` to end it.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be looked at.
    pub(crate) fn damaged_records(
        &self,
        repair: RecordRepair,
        keep: &mut dyn FnMut(u64) -> bool,
        report: &mut dyn FnMut(DamagedRecord),
    ) -> Result<(), Error> {
        self.0.damaged_records(repair, keep, report)
    }

    /// Gives the repository a blob that `place` puts under its name; all of it is on the disk then. When `place` gives the file,
    /// its bytes were verified.
    ///
    /// # Errors
    /// [`Error::Quota`], before anything is placed; those of `place`; [`Error::Io`].
    pub(crate) fn add_blob(
        &self,
        name: &Name,
        digest: &Digest,
        size: u64,
        place: impl FnOnce() -> Result<Option<Arc<File>>, Error>,
    ) -> Result<(), Error> {
        self.0.add_blob(name, digest, size, place)
    }
}

/// Which of the referrers are asked for.
#[derive(Clone, Debug)]
pub struct ReferrersPage {
    /// Only those of this artifact type.
    pub artifact_type: Option<String>,
    /// Only those after this digest.
    pub last: Option<Digest>,
    /// So many at most.
    pub most: usize,
    /// So many bytes of JSON at most, but one entry always.
    pub most_bytes: usize,
}

impl Inner {
    fn lock(&self, name: &Name) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) as usize % LOCKS;
        self.locks[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, name: &Name, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let record: Option<TagRecord> =
            self.files.read_authoritative_record(&self.files.layout.hosted_tag(name, tag))?;
        Ok(record.filter(|record| self.pins.held(Kind::Manifest, &record.digest, name).is_some()))
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        self.capacity.make_room_and_retry(0, || self.files.write_record_synced(path, value))
    }

    fn add_blob(
        &self,
        name: &Name,
        digest: &Digest,
        size: u64,
        place: impl FnOnce() -> Result<Option<Arc<File>>, Error>,
    ) -> Result<(), Error> {
        let _hold = self.blobs.in_use.hold(digest);
        // Before anything is irrevocable, for this may be refused.
        let new = self.pins.add(Kind::Blob, digest, size, name)?;
        let object = self.files.layout.object(Kind::Blob, digest);
        let added = place().and_then(|verified| {
            if let Some(Ok(stamp)) = verified.map(|file| self.files.disk.stamp(&file, &object)) {
                self.blobs.in_use.mark_verified(digest, stamp);
            }
            self.files.sync_parent(&object)?;
            let path = self.files.layout.held(name, Kind::Blob, digest, size);
            let lock = self.lock(name);
            self.files.disk.touch(&path)?;
            self.pins.touch(Kind::Blob, digest, name);
            drop(lock);
            self.files.sync_parent(&path)
        });
        added.inspect_err(|_| {
            if new {
                self.pins.remove(Kind::Blob, digest, name);
            }
        })
    }

    fn mount(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let _hold = self.blobs.in_use.hold(digest);
        let path = self.files.layout.object(Kind::Blob, digest);
        let Some(file) = self.files.disk.open(&path)? else { return Ok(false) };
        let size = self.files.disk.length(&file, &path)?;
        if !self.blobs.verifier.verify_now(digest, file)? {
            return Ok(false);
        }
        self.add_blob(name, digest, size, || Ok(None)).map(|()| true)
    }

    /// The repository holds it no more. Under the lock of its name.
    fn give_up(&self, kind: Kind, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let Some(size) = self.pins.held(kind, digest, name) else { return Ok(false) };
        let path = self.files.layout.held(name, kind, digest, size);
        self.files.disk.remove(&path)?;
        // From here on it is absent, whatever a power cut makes of it: an answer that it is gone comes only after the sync.
        self.pins.remove(kind, digest, name);
        if kind == Kind::Manifest {
            self.inventory.unmember(&hosted_source(name.clone()), digest);
        }
        self.files.sync_parent(&path)?;
        Ok(true)
    }

    fn host_manifest(&self, name: &Name, push: &Push) -> Result<usize, Error> {
        let (digest, size) = (&push.manifest.digest, push.manifest.bytes.len() as u64);
        let _hold = self.blobs.in_use.hold(digest);
        self.manifests.write(&push.manifest, true)?;
        self.files.sync_parent(&self.files.layout.object(Kind::Manifest, digest))?;
        let _stripe = self.lock(name);
        for (tag, _) in push.tags.iter().filter(|(_, immutable)| *immutable) {
            let known: Option<TagRecord> =
                self.files.read_authoritative_record(&self.files.layout.hosted_tag(name, tag))?;
            if known.is_some_and(|known| known.digest != *digest) {
                return Err(Error::Immutable(tag.clone()));
            }
        }
        // Under the lock: what is here now cannot be deleted before the manifest names it.
        let (mut blobs, mut manifests) = (Vec::new(), 0);
        for Child { digest, is_manifest, is_foreign, .. } in &push.children {
            self.pins.touch(Kind::Blob, digest, name);
            if *is_foreign || self.is_here(Kind::Blob, digest, name)? {
                continue;
            }
            match is_manifest {
                false => blobs.push(digest),
                // An index may list blobs, too: BuildKit's cache does.
                true => manifests += usize::from(!self.is_here(Kind::Manifest, digest, name)?),
            }
        }
        if let Some(first) = blobs.first().filter(|_| !push.may_lack_blobs) {
            return Err(Error::MissingBlobs { digest: Box::new((*first).clone()), missing: blobs.len() });
        }
        let new = self.pins.add(Kind::Manifest, digest, size, name)?;
        self.write_push(name, push, size).inspect_err(|_| {
            if new {
                self.pins.remove(Kind::Manifest, digest, name);
            }
        })?;
        let (source, now) = (hosted_source(name.clone()), SystemTime::now());
        self.inventory.member(&source, digest, false);
        push.tags.iter().for_each(|(tag, _)| self.inventory.tag(&source, tag, digest, now, false));
        Ok(manifests)
    }

    /// Whether the repository holds it and its bytes were not lost.
    fn is_here(&self, kind: Kind, digest: &Digest, name: &Name) -> Result<bool, Error> {
        let object = self.files.layout.object(kind, digest);
        Ok(self.pins.held(kind, digest, name).is_some() && self.files.disk.metadata(&object)?.is_some())
    }

    fn write_push(&self, name: &Name, push: &Push, size: u64) -> Result<(), Error> {
        let Manifest { digest, media_type, .. } = &push.manifest;
        let subject = push.subject.as_ref().map(|(subject, _)| subject.clone());
        let path = self.files.layout.held(name, Kind::Manifest, digest, size);
        self.write(&path, &Held { media_type: media_type.clone(), subject })?;
        self.files.sync_parent(&path)?;
        if let Some((subject, descriptor)) = &push.subject {
            let path = self.files.layout.referrers(name, subject).join(flat(digest));
            self.write(&path, descriptor)?;
            self.files.sync_parent(&path)?;
        }
        let now = SystemTime::now();
        for (tag, _) in &push.tags {
            let record = TagRecord { digest: digest.clone(), media_type: media_type.clone(), size, checked_at: now };
            self.write(&self.files.layout.hosted_tag(name, tag), &record)?;
        }
        match push.tags.first() {
            Some((tag, _)) => self.files.sync_parent(&self.files.layout.hosted_tag(name, tag)),
            None => Ok(()),
        }
    }

    fn tags(&self, name: &Name) -> Result<Vec<Tag>, Error> {
        let names = self.files.disk.list(&self.files.layout.repository(name).join(TAGS))?;
        let mut tags: Vec<Tag> = names.iter().filter_map(|name| name.parse().ok()).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        more: Vec<(Digest, serde_json::Value)>,
        page: &ReferrersPage,
    ) -> Result<(Vec<serde_json::Value>, Option<Digest>), Error> {
        let directory = self.files.layout.referrers(name, subject);
        let mut known: BTreeMap<Digest, Option<serde_json::Value>> =
            more.into_iter().map(|(digest, descriptor)| (digest, Some(descriptor))).collect();
        known.extend(
            self.files.disk.list(&directory)?.iter().filter_map(|name| unflat(name)).map(|digest| (digest, None)),
        );
        let (mut found, mut bytes, mut last) = (Vec::new(), 0, page.last.clone());
        for (digest, descriptor) in known {
            if page.last.as_ref().is_some_and(|last| digest <= *last) {
                continue;
            }
            let descriptor = match descriptor {
                Some(descriptor) => Some(descriptor),
                None => self.descriptor(name, subject, &digest)?,
            };
            let Some(descriptor) = descriptor else { continue };
            if page.artifact_type.as_deref().is_some_and(|wanted| descriptor["artifactType"].as_str() != Some(wanted)) {
                continue;
            }
            let size = descriptor.to_string().len();
            if found.len() == page.most || (!found.is_empty() && bytes + size > page.most_bytes) {
                return Ok((found, last));
            }
            bytes += size;
            found.push(descriptor);
            last = Some(digest);
        }
        Ok((found, None))
    }
}
