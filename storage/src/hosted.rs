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

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::{
    Error, Reader, Store, TagRecord, Upload,
    core::{Core, blocking},
    layout::{Kind, TAGS, flat, held_in, held_name, unflat},
    oci::{Algorithm, Digest, Manifest, MediaType, Name, Tag},
};

/// Directories whose names are known to be on the disk; with more of them the memory begins anew.
const DURABLE: usize = 65_536;

/// Directories whose own name was synced since the start, up to the root.
#[derive(Debug, Default)]
pub(crate) struct Durable(Mutex<HashSet<PathBuf>>);

/// What was given up since the start because no manifest named it.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    blobs: AtomicU64,
    bytes: AtomicU64,
}

/// What is hosted, as an operator wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedUsage {
    /// Each namespace's pattern and the bytes that it holds; what several of its repositories hold counts once.
    pub namespaces: Vec<(String, u64)>,
    /// Bytes that each of them may hold; 0 is as many as there is room for.
    pub capacity: u64,
    /// Uploads under way.
    pub uploads: usize,
    /// Blobs that repositories gave up since the start because no manifest named them …
    pub collected: u64,
    /// … and their bytes. They are cached content from then on, and leave the disk by eviction.
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
    pub children: Vec<Digest>,
    /// What it refers to, and how it is described there (end-12).
    pub subject: Option<(Digest, serde_json::Value)>,
    /// Tags that shall name it, and whether each may not be moved.
    pub tags: Vec<(Tag, bool)>,
}

/// The repositories that live in a store. Cloning is cheap.
///
/// As with [`Store`], what is `async` runs on a blocking thread and is done even when its future is dropped.
#[derive(Clone, Debug)]
pub struct Hosted(Arc<Core>);

impl Store {
    /// The repositories that live here.
    pub fn hosted(&self) -> Hosted {
        Hosted(self.core().clone())
    }
}

impl Hosted {
    /// Begins an upload for this principal (empty for nobody in particular), to be hashed with this algorithm unless its end
    /// says otherwise.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Io`].
    pub async fn begin(&self, name: &Name, principal: &str, algorithm: Algorithm) -> Result<Upload, Error> {
        let (core, name, principal) = (self.0.clone(), name.clone(), principal.to_owned());
        blocking("begin upload", move || core.begin_upload(&name, &principal, algorithm)).await
    }

    /// The upload of that id, when it is this repository's and this principal's.
    pub fn upload(&self, id: &str, name: &Name, principal: &str) -> Option<Upload> {
        self.0.upload(id, name, principal)
    }

    /// Uploads under way.
    pub fn uploads(&self) -> usize {
        self.0.upload_count()
    }

    /// What it all comes to. Two locks and no disk.
    pub fn usage(&self) -> HostedUsage {
        HostedUsage {
            namespaces: self.0.pins.used(),
            capacity: self.0.settings.namespace_capacity,
            uploads: self.uploads(),
            collected: self.0.collected.blobs.load(Ordering::Relaxed),
            collected_bytes: self.0.collected.bytes.load(Ordering::Relaxed),
        }
    }

    /// What names this server in the ids of its uploads.
    pub fn server(&self) -> &str {
        &self.0.uploads.server
    }

    /// A blob that the repository holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob(&self, store: &Store, name: &Name, digest: &Digest) -> Result<Option<Reader>, Error> {
        match self.0.pins.held(Kind::Blob, digest, name) {
            Some(_) => store.blob(digest),
            None => Ok(None),
        }
    }

    /// Its size. Whoever asks may be about to name it in a manifest, so it is not collected for a while.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob_size(&self, store: &Store, name: &Name, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.0.pins.held(Kind::Blob, digest, name).is_none() {
            return Ok(None);
        }
        self.0.pins.touch(Kind::Blob, digest, name);
        store.blob_size(digest)
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
    pub fn repositories(&self) -> Vec<Name> {
        self.0.pins.repositories().into_iter().filter(|(_, manifests)| *manifests).map(|(name, _)| name).collect()
    }

    /// Gives the repository a blob that is in the store, read once more unless that was done since the start; `false` when it is
    /// not there or not what it should be.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Io`].
    pub async fn mount(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let (core, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("mount", move || core.mount(&name, &digest)).await
    }

    /// Takes a blob from the repository; `false` when it did not hold it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn delete_blob(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let (core, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("delete blob", move || {
            let _stripe = core.repositories.lock(&name);
            core.give_up(Kind::Blob, &name, &digest)
        })
        .await
    }

    /// Keeps a manifest, what it refers to, and its tags.
    ///
    /// # Errors
    /// [`Error::Immutable`], and nothing is changed; [`Error::Quota`], [`Error::Full`], [`Error::Io`].
    pub async fn put_manifest(&self, name: &Name, push: Push) -> Result<(), Error> {
        let (core, name) = (self.0.clone(), name.clone());
        blocking("host manifest", move || core.host_manifest(&name, &push)).await
    }

    /// A manifest that the repository holds, with the media type it was pushed with.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn manifest(&self, name: &Name, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let Some(size) = self.0.pins.held(Kind::Manifest, digest, name) else { return Ok(None) };
        let Some(manifest) = self.0.manifest(digest)? else { return Ok(None) };
        let held: Option<Held> = self.0.read_record(&self.0.layout.held(name, Kind::Manifest, digest, size))?;
        Ok(held.map(|held| Manifest { media_type: held.media_type, ..manifest }))
    }

    /// What a tag names, when the repository holds that.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tag(&self, name: &Name, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let record: Option<TagRecord> = self.0.read_record(&self.0.layout.hosted_tag(name, tag))?;
        Ok(record.filter(|record| self.0.pins.held(Kind::Manifest, &record.digest, name).is_some()))
    }

    /// All tags, in byte order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn tags(&self, name: &Name) -> Result<Vec<Tag>, Error> {
        let (core, name) = (self.0.clone(), name.clone());
        blocking("tags", move || core.hosted_tags(&name)).await
    }

    /// Removes a tag; `false` when there was none.
    ///
    /// # Errors
    /// [`Error::Immutable`] when `immutable`; [`Error::Io`].
    pub async fn delete_tag(&self, name: &Name, tag: &Tag, immutable: bool) -> Result<bool, Error> {
        let (core, name, tag) = (self.0.clone(), name.clone(), tag.clone());
        blocking("delete tag", move || {
            let _stripe = core.repositories.lock(&name);
            let path = core.layout.hosted_tag(&name, &tag);
            if immutable && core.disk.metadata(&path)?.is_some() {
                return Err(Error::Immutable(tag));
            }
            let removed = core.disk.remove(&path)?;
            core.sync_parent(&path)?;
            Ok(removed)
        })
        .await
    }

    /// Removes a manifest, the tags that name it, and its place among the referrers of its subject; `false` when there was none.
    ///
    /// # Errors
    /// [`Error::Immutable`] when one of those tags `is_immutable`, and nothing is changed; [`Error::Io`].
    pub async fn delete_manifest(
        &self,
        name: &Name,
        digest: &Digest,
        is_immutable: impl Fn(&Tag) -> bool + Send + 'static,
    ) -> Result<bool, Error> {
        let (core, name, digest) = (self.0.clone(), name.clone(), digest.clone());
        blocking("delete manifest", move || core.drop_manifest(&name, &digest, is_immutable)).await
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
        let (core, name, subject) = (self.0.clone(), name.clone(), subject.clone());
        blocking("referrers", move || core.hosted_referrers(&name, &subject, more, &page)).await
    }

    /// Gives up what was pushed, is named by no manifest of its repository, and was not asked for in a while. Safe beside
    /// pushes. Gives how many blobs went.
    ///
    /// # Errors
    /// None that ends it: a repository that cannot be read is left alone and logged.
    pub async fn collect(&self) -> Result<u64, Error> {
        let core = self.0.clone();
        blocking("collect", move || Ok(core.collect(core.settings.unnamed_ttl))).await
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

impl Core {
    /// Reads what is hosted into the pins. Before anything is answered or evicted.
    pub(crate) fn recover_hosted(&self) -> Result<(), Error> {
        let root = self.layout.hosted();
        let mut below = self.disk.list(&root)?;
        while let Some(path) = below.pop() {
            let Ok(name) = path.parse::<Name>() else { continue };
            for kind in Kind::ALL {
                let entries = self.disk.list(&root.join(&path).join(held_in(kind)))?;
                for (digest, size) in entries.iter().filter_map(|entry| held_name(entry)) {
                    self.pins.find(kind, &digest, size, &name);
                }
            }
            let children = self.disk.list(&root.join(&path))?;
            below
                .extend(children.iter().filter(|child| !child.starts_with('_')).map(|child| format!("{path}/{child}")));
        }
        Ok(())
    }

    /// Sees to it that the names in a directory, and its own name, are on the disk.
    pub(crate) fn sync_names(&self, directory: &Path) -> Result<(), Error> {
        self.disk.sync_directory(directory)?;
        let known = |path: &Path| self.durable.0.lock().unwrap_or_else(PoisonError::into_inner).contains(path);
        let (mut at, mut synced) = (directory, Vec::new());
        while at != self.layout.root() && !known(at) {
            let Some(parent) = at.parent() else { break };
            self.disk.sync_directory(parent)?;
            synced.push(at.to_owned());
            at = parent;
        }
        if !synced.is_empty() {
            let mut durable = self.durable.0.lock().unwrap_or_else(PoisonError::into_inner);
            if durable.len() > DURABLE {
                durable.clear();
            }
            durable.extend(synced);
        }
        Ok(())
    }

    fn sync_parent(&self, path: &Path) -> Result<(), Error> {
        match path.parent() {
            Some(parent) if self.disk.metadata(parent)?.is_some() => self.sync_names(parent),
            _ => Ok(()),
        }
    }

    /// Notes that a repository holds a blob which is in its place; all of it is on the disk then. The pin is the caller's.
    pub(crate) fn host_blob(&self, name: &Name, digest: &Digest, size: u64) -> Result<(), Error> {
        self.sync_parent(&self.layout.object(Kind::Blob, digest))?;
        let path = self.layout.held(name, Kind::Blob, digest, size);
        let stripe = self.repositories.lock(name);
        self.disk.touch(&path)?;
        self.pins.touch(Kind::Blob, digest, name);
        drop(stripe);
        self.sync_parent(&path)
    }

    fn mount(self: &Arc<Core>, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let _hold = self.holds.hold(digest);
        let path = self.layout.object(Kind::Blob, digest);
        let Some(file) = self.disk.open(&path)? else { return Ok(false) };
        let size = self.disk.length(&file, &path)?;
        if !self.holds.is_verified(digest) && !self.verify_now(digest, file, size)? {
            return Ok(false);
        }
        let new = self.pins.add(Kind::Blob, digest, size, name)?;
        self.host_blob(name, digest, size).map(|()| true).inspect_err(|_| {
            if new {
                self.pins.remove(Kind::Blob, digest, name);
            }
        })
    }

    /// The repository holds it no more. Under the stripe of its name.
    fn give_up(&self, kind: Kind, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let Some(size) = self.pins.held(kind, digest, name) else { return Ok(false) };
        let path = self.layout.held(name, kind, digest, size);
        self.disk.remove(&path)?;
        // From here on it is absent, whatever a power cut makes of it: an answer that it is gone comes only after the sync.
        self.pins.remove(kind, digest, name);
        self.sync_parent(&path)?;
        Ok(true)
    }

    fn host_manifest(&self, name: &Name, push: &Push) -> Result<(), Error> {
        let (digest, size) = (&push.manifest.digest, push.manifest.bytes.len() as u64);
        let _hold = self.holds.hold(digest);
        self.write_manifest(&push.manifest, true)?;
        self.sync_parent(&self.layout.object(Kind::Manifest, digest))?;
        let _stripe = self.repositories.lock(name);
        for (tag, _) in push.tags.iter().filter(|(_, immutable)| *immutable) {
            let known: Option<TagRecord> = self.read_record(&self.layout.hosted_tag(name, tag))?;
            if known.is_some_and(|known| known.digest != *digest) {
                return Err(Error::Immutable(tag.clone()));
            }
        }
        push.children.iter().for_each(|child| self.pins.touch(Kind::Blob, child, name));
        let new = self.pins.add(Kind::Manifest, digest, size, name)?;
        self.write_push(name, push, size).inspect_err(|_| {
            if new {
                self.pins.remove(Kind::Manifest, digest, name);
            }
        })
    }

    fn write_push(&self, name: &Name, push: &Push, size: u64) -> Result<(), Error> {
        let Manifest { digest, media_type, .. } = &push.manifest;
        let subject = push.subject.as_ref().map(|(subject, _)| subject.clone());
        let path = self.layout.held(name, Kind::Manifest, digest, size);
        self.write_record_as(&path, &Held { media_type: media_type.clone(), subject }, true)?;
        self.sync_parent(&path)?;
        if let Some((subject, descriptor)) = &push.subject {
            let path = self.layout.referrers(name, subject).join(flat(digest));
            self.write_record_as(&path, descriptor, true)?;
            self.sync_parent(&path)?;
        }
        let now = SystemTime::now();
        for (tag, _) in &push.tags {
            let record = TagRecord { digest: digest.clone(), media_type: media_type.clone(), size, checked_at: now };
            self.write_record_as(&self.layout.hosted_tag(name, tag), &record, true)?;
        }
        match push.tags.first() {
            Some((tag, _)) => self.sync_parent(&self.layout.hosted_tag(name, tag)),
            None => Ok(()),
        }
    }

    fn hosted_tags(&self, name: &Name) -> Result<Vec<Tag>, Error> {
        let names = self.disk.list(&self.layout.repository(name).join(TAGS))?;
        let mut tags: Vec<Tag> = names.iter().filter_map(|name| name.parse().ok()).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    fn drop_manifest(&self, name: &Name, digest: &Digest, is_immutable: impl Fn(&Tag) -> bool) -> Result<bool, Error> {
        let _stripe = self.repositories.lock(name);
        let Some(size) = self.pins.held(Kind::Manifest, digest, name) else { return Ok(false) };
        let mut tags = Vec::new();
        for tag in self.hosted_tags(name)? {
            let path = self.layout.hosted_tag(name, &tag);
            let record: Option<TagRecord> = self.read_record(&path)?;
            if record.is_some_and(|record| record.digest == *digest) {
                if is_immutable(&tag) {
                    return Err(Error::Immutable(tag));
                }
                tags.push(path);
            }
        }
        for path in &tags {
            self.disk.remove(path)?;
        }
        if let Some(path) = tags.first() {
            self.sync_parent(path)?;
        }
        let held: Option<Held> = self.read_record(&self.layout.held(name, Kind::Manifest, digest, size))?;
        if let Some(subject) = held.and_then(|held| held.subject) {
            let path = self.layout.referrers(name, &subject).join(flat(digest));
            self.disk.remove(&path)?;
            self.sync_parent(&path)?;
        }
        self.give_up(Kind::Manifest, name, digest)
    }

    fn hosted_referrers(
        &self,
        name: &Name,
        subject: &Digest,
        more: Vec<(Digest, serde_json::Value)>,
        page: &ReferrersPage,
    ) -> Result<(Vec<serde_json::Value>, Option<Digest>), Error> {
        let directory = self.layout.referrers(name, subject);
        let mut known: std::collections::BTreeMap<Digest, Option<serde_json::Value>> =
            more.into_iter().map(|(digest, descriptor)| (digest, Some(descriptor))).collect();
        known.extend(self.disk.list(&directory)?.iter().filter_map(|name| unflat(name)).map(|digest| (digest, None)));
        let (mut found, mut bytes, mut last) = (Vec::new(), 0, page.last.clone());
        for (digest, descriptor) in known {
            if page.last.as_ref().is_some_and(|last| digest <= *last) {
                continue;
            }
            let descriptor = match descriptor {
                Some(descriptor) => Some(descriptor),
                None => self.read_record(&directory.join(flat(&digest)))?,
            };
            let Some(descriptor): Option<serde_json::Value> = descriptor else { continue };
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

    /// See [`Hosted::collect`].
    fn collect(&self, ttl: Duration) -> u64 {
        let mut gone = 0;
        for (name, _) in self.pins.repositories() {
            match self.collect_repository(&name, ttl) {
                Ok(0) => {}
                Ok(count) => {
                    info!(repository = %name, blobs = count, "gave up blobs that no manifest names");
                    gone += count;
                }
                Err(error) => warn!(repository = %name, %error, "cannot tell which blobs are named; all stay"),
            }
        }
        gone
    }

    fn collect_repository(&self, name: &Name, ttl: Duration) -> Result<u64, Error> {
        let mut idle = HashSet::new();
        for digest in self.pins.of(Kind::Blob, name) {
            if self.is_idle(name, &digest, ttl)? {
                idle.insert(digest);
            }
        }
        if idle.is_empty() {
            return Ok(0);
        }
        for digest in self.pins.of(Kind::Manifest, name) {
            // Without its bytes nobody knows what it names.
            let described = self.read_manifest(&digest)?.and_then(|manifest| manifest.describe().ok());
            let Some(description) = described else {
                debug!(%digest, repository = %name, "a manifest cannot be read");
                return Err(Error::Unusable(format!("{digest} cannot be read")));
            };
            for child in &description.children {
                idle.remove(&child.digest);
            }
        }
        let mut gone = 0;
        for digest in idle {
            // Whoever names it meanwhile touches it under the same lock.
            let _stripe = self.repositories.lock(name);
            let size = self.pins.held(Kind::Blob, &digest, name).unwrap_or(0);
            if self.is_idle(name, &digest, ttl)? && self.give_up(Kind::Blob, name, &digest)? {
                gone += 1;
                self.collected.blobs.fetch_add(1, Ordering::Relaxed);
                self.collected.bytes.fetch_add(size, Ordering::Relaxed);
            }
        }
        Ok(gone)
    }

    fn is_idle(&self, name: &Name, digest: &Digest, ttl: Duration) -> Result<bool, Error> {
        if let Some(at) = self.pins.touched(Kind::Blob, digest, name) {
            return Ok(at.elapsed() >= ttl);
        }
        let Some(size) = self.pins.held(Kind::Blob, digest, name) else { return Ok(false) };
        let metadata = self.disk.metadata(&self.layout.held(name, Kind::Blob, digest, size))?;
        let pushed = metadata.and_then(|metadata| metadata.modified().ok());
        let age = pushed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        Ok(age >= ttl)
    }
}
