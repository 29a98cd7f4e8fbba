//! One image of an archive: whether all of it is there and sound, and then its names.
//!
//! # What breaks if a line is moved
//! The tag comes last: a crash before it leaves objects that no tag names. What the archive does not have must be public here already: an
//! archive is a file of anybody's making, and could name a digest that only an account may read.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::BytesMut;
use serde_json::Value;
use weir_storage::{Error as StoreError, ImportMark, Listing, Source, Store, TagRecord};

use super::{
    freshness::{self, Freshness},
    import_staging::Staged,
    listings::referrers_kind,
    settings::Settings,
};
use crate::{
    archive::{Listed, MOST_JSON},
    clock,
    oci::{Child, Description, Digest, Manifest, MediaType, Name, Reference},
};

/// How deep indexes stand in indexes.
const DEPTH: usize = 4;
/// What refers to one manifest: a list is read whole and written whole for each that an archive brings.
const MOST_REFERRERS: usize = 1000;

/// Where an image of an archive belongs.
#[derive(Clone, Debug)]
pub struct ImportTarget {
    /// The upstream's configured name.
    pub upstream: std::sync::Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
    /// Its tag, or the digest that it is pulled by.
    pub reference: Reference,
}

impl std::fmt::Display for ImportTarget {
    /// The full name, with the registry.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if matches!(self.reference, Reference::Tag(_)) { ':' } else { '@' };
        write!(f, "{}/{}{separator}{}", self.upstream, self.repository, self.reference)
    }
}

/// Why an image is not imported.
pub(super) enum Refusal {
    Image(String),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Store(error)
    }
}

fn refused<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::Image(why))
}

/// What an image consists of.
#[derive(Default)]
pub(super) struct Parts {
    manifests: Vec<Manifest>,
    blobs: Vec<Digest>,
    /// Platforms that are there, when others are not.
    pub(super) platforms: Vec<String>,
    lacks_platforms: bool,
}

/// Looks at the images of an archive and names them.
pub(super) struct ImageImport<'a> {
    pub(super) store: &'a Store,
    pub(super) settings: &'a Settings,
    pub(super) staged: &'a Staged,
    /// What anonymous may read here, once it was looked for.
    pub(super) public: Option<HashSet<Digest>>,
}

impl ImageImport<'_> {
    /// All that an image consists of, when it is whole and sound.
    pub(super) async fn gather(&mut self, listed: &Listed) -> Result<Parts, Refusal> {
        let mut parts = Parts::default();
        let mut todo = vec![(listed.digest.clone(), listed.size, Some(listed.media_type.clone()), None, 0)];
        let mut seen = HashSet::new();
        while let Some((digest, size, media_type, platform, depth)) = todo.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let Some(manifest) = self.manifest(&digest, media_type).await? else {
                if depth == 0 {
                    return refused(format!("{digest} is not in the archive"));
                }
                // An index of which only some platforms were exported.
                parts.lacks_platforms = true;
                continue;
            };
            if manifest.bytes.len() as u64 != size {
                return refused(format!("{digest} has {} bytes, and {size} are named", manifest.bytes.len()));
            }
            let described = manifest.describe().map_err(|error| Refusal::Image(format!("{digest}: {error}")))?;
            if described.media_type.as_ref().is_some_and(|named| *named != manifest.media_type) {
                return refused(format!("{digest} names another media type than {}", manifest.media_type));
            }
            parts.platforms.extend(platform);
            let mut types = media_types(&manifest);
            let (manifests, blobs): (Vec<Child>, Vec<Child>) =
                described.children.into_iter().partition(|child| child.is_manifest);
            if !manifests.is_empty() && depth >= DEPTH {
                return refused(format!("{digest} is an index in {DEPTH} others, which is too deep"));
            }
            for child in manifests.into_iter().rev() {
                let media_type = types.remove(&child.digest);
                let platform = child.platform.map(String::from);
                todo.push((child.digest, child.size, media_type, platform, depth + 1));
            }
            for blob in blobs {
                self.add_blob(&digest, blob, &mut parts).await?;
            }
            parts.manifests.push(manifest);
        }
        if parts.lacks_platforms && parts.manifests.len() < 2 {
            return refused(format!("none of the manifests that {} names is in the archive", listed.digest));
        }
        if !parts.lacks_platforms {
            parts.platforms.clear();
        }
        Ok(parts)
    }

    /// A manifest of the archive, or one that is public here. `None` when it is neither.
    async fn manifest(&mut self, digest: &Digest, media_type: Option<MediaType>) -> Result<Option<Manifest>, Refusal> {
        if self.staged.damaged.contains(digest) {
            return refused(damaged(digest));
        }
        let Some(size) = self.staged.present.get(digest) else {
            return match self.is_public(digest) {
                true => Ok(self.store.cache.manifests.load(digest).await?),
                false => Ok(None),
            };
        };
        if *size > MOST_JSON {
            return refused(format!("{digest} has {size} bytes, which no manifest has"));
        }
        let Some(mut reader) = self.store.blobs.load(digest).await? else { return refused(evicted(digest)) };
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < *size {
            let at = bytes.len() as u64;
            let extent = std::future::poll_fn(|cx| reader.poll_extent(cx, at, *size)).await;
            let extent = extent.map_err(|stopped| Refusal::Image(format!("{digest}: {stopped}")))?;
            let piece = self.store.blobs.copy(digest, extent, MOST_JSON as usize).await?;
            if piece.is_empty() {
                return refused(damaged(digest));
            }
            bytes.extend_from_slice(&piece);
        }
        let named = || Description::read(&bytes).ok().and_then(|described| described.media_type);
        let Some(media_type) = media_type.or_else(named) else {
            return refused(format!("no media type is named for {digest}"));
        };
        if !media_type.is_manifest() {
            return refused(format!("{digest} has the media type {media_type}, which is no manifest's"));
        }
        Ok(Some(Manifest { digest: digest.clone(), media_type, bytes: bytes.freeze() }))
    }

    async fn add_blob(&mut self, of: &Digest, blob: Child, parts: &mut Parts) -> Result<(), Refusal> {
        let digest = blob.digest;
        if self.staged.damaged.contains(&digest) {
            return refused(damaged(&digest));
        }
        let size = match self.staged.present.get(&digest) {
            Some(size) => Some(*size),
            None if self.is_public(&digest) => self.store.blobs.size(&digest).await?,
            None => None,
        };
        match size {
            Some(size) if size == blob.size => parts.blobs.push(digest),
            Some(size) => return refused(format!("{digest} has {size} bytes, and {of} names {}", blob.size)),
            // Clients fetch it from where its own descriptor says.
            None if blob.is_foreign => {}
            None => return refused(format!("{digest}, which {of} names, is neither in the archive nor public here")),
        }
        Ok(())
    }

    /// Whether anonymous may read it here: the archive need not have it then, as after an export with `--since`.
    fn is_public(&mut self, digest: &Digest) -> bool {
        let find = || self.store.images.read().reach(Source::ANONYMOUS);
        self.public.get_or_insert_with(find).contains(digest)
    }

    /// Stores the manifests and names everything, the tag last. Gives why the tag was not moved, when it was not.
    pub(super) async fn name(
        &self,
        target: &ImportTarget,
        listed: &Listed,
        parts: &Parts,
        mark: &ImportMark,
    ) -> Result<Option<String>, Refusal> {
        for digest in &parts.blobs {
            if self.store.blobs.size(digest).await?.is_none() {
                return refused(evicted(digest));
            }
        }
        // What one account may read is not given to others by an import; it stands as what anonymous may read, as its operator asked.
        let source = Source {
            upstream: target.upstream.clone(),
            credential: Source::ANONYMOUS.into(),
            repository: target.repository.clone(),
        };
        for manifest in &parts.manifests {
            self.store.cache.manifests.put(manifest).await?;
        }
        let manifests = parts.manifests.iter().map(|manifest| manifest.digest.clone());
        let members: Vec<Digest> = manifests.chain(parts.blobs.iter().cloned()).collect();
        self.store.cache.members.add(&source, &members).await?;
        for manifest in &parts.manifests {
            self.refer(&source, manifest).await?;
        }
        if let Some(kept) = self.confirmed(&source, target, listed).await? {
            return Ok(Some(kept));
        }
        self.store.cache.imports.mark(&source, &target.reference, mark.clone()).await?;
        if let Reference::Tag(tag) = &target.reference {
            let record = TagRecord {
                digest: listed.digest.clone(),
                media_type: listed.media_type.clone(),
                size: listed.size,
                checked_at: clock::now(),
            };
            self.store.cache.tags.put(&source, tag, &record).await?;
        }
        Ok(None)
    }

    /// Adds a manifest to the list of what refers to its subject, unless upstream gave that list lately.
    async fn refer(&self, source: &Source, manifest: &Manifest) -> Result<(), Refusal> {
        let Ok(described) = manifest.describe() else { return Ok(()) };
        let Some(subject) = &described.subject else { return Ok(()) };
        let (listings, kind) = (&self.store.cache.listings, referrers_kind(subject));
        let known = listings.load(source, &kind).await?;
        let is_fresh = |it: &Listing| freshness::age(it.checked_at, clock::now()) < self.settings.listing_ttl;
        if known.as_ref().is_some_and(|listing| !listing.imported && is_fresh(listing)) {
            return Ok(());
        }
        let body = known.map(|listing| listing.body).unwrap_or_default();
        let mut descriptors: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
        let digest = manifest.digest.to_string();
        descriptors.retain(|descriptor| descriptor["digest"] != *digest);
        if descriptors.len() >= MOST_REFERRERS {
            return refused(format!("{subject} has {MOST_REFERRERS} referrers here already, which is too many"));
        }
        descriptors.push(described.referrer(&manifest.media_type, &manifest.digest, manifest.bytes.len()));
        let body = Value::Array(descriptors).to_string().into_bytes();
        let listing = Listing { checked_at: clock::now(), body, imported: true };
        Ok(listings.put(source, &kind, &listing).await?)
    }

    /// That upstream said lately what the tag names. Its word stands against that of an archive.
    async fn confirmed(
        &self,
        source: &Source,
        target: &ImportTarget,
        listed: &Listed,
    ) -> Result<Option<String>, Refusal> {
        let Reference::Tag(tag) = &target.reference else { return Ok(None) };
        let Some(record) = self.store.cache.tags.load(source, tag).await? else { return Ok(None) };
        let ttl = self.settings.ttl_of(&target.upstream, &target.repository, tag);
        let is_fresh = freshness::judge(record.checked_at, ttl, Duration::ZERO, clock::now()) == Freshness::Fresh;
        let is_imported = self.store.cache.imports.get(source, &target.reference).is_some();
        let is_kept = is_fresh && !is_imported;
        Ok(is_kept.then(|| match record.digest == listed.digest {
            true => "upstream has confirmed it lately".to_owned(),
            false => format!("upstream said lately that the tag names {}, and it stays so", record.digest),
        }))
    }
}

fn damaged(digest: &Digest) -> String {
    format!("{digest} does not match its digest: the archive is damaged")
}

fn evicted(digest: &Digest) -> String {
    format!("{digest} was evicted before all of the archive was read: the archive does not fit into storage.capacity")
}

/// The media types that an index names for its manifests.
fn media_types(index: &Manifest) -> HashMap<Digest, MediaType> {
    let index: serde_json::Value = serde_json::from_slice(&index.bytes).unwrap_or_default();
    let descriptors = index["manifests"].as_array().into_iter().flatten();
    let typed = descriptors.filter_map(|descriptor| {
        let digest = descriptor["digest"].as_str()?.parse().ok()?;
        Some((digest, descriptor["mediaType"].as_str()?.parse().ok()?))
    });
    typed.collect()
}
