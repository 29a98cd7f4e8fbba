//! Tags as they were last seen upstream: one sealed record per source and tag.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{inventory::Inventory, memory::Memory, sources::Sources};
use crate::{
    Error, Source,
    capacity::Capacity,
    files::{Files, TAGS, blocking, reading},
    oci::{Digest, MediaType, Tag},
};

/// A tag as it was last seen upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// What it named.
    pub digest: Digest,
    /// The media type of that manifest.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// When upstream last confirmed it.
    pub checked_at: SystemTime,
}

/// The tags of mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tags {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    sources: Arc<Sources>,
    inventory: Arc<Inventory>,
    memory: Memory<(Source, Tag), TagRecord>,
}

impl Tags {
    pub(super) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        sources: Arc<Sources>,
        inventory: Arc<Inventory>,
        memory: u64,
    ) -> Tags {
        Tags { files, capacity, sources, inventory, memory: Memory::new(memory, |_| 0) }
    }

    /// What a tag named when upstream was last asked, when that was read or written lately. No system call.
    pub fn now(&self, source: &Source, tag: &Tag) -> Option<TagRecord> {
        self.memory.get(&(source.clone(), tag.clone()))
    }

    /// What a tag named when upstream was last asked.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence, also when the disk does not answer in time; a torn record is absent.
    pub async fn load(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        if let Some(record) = self.now(source, tag) {
            return Ok(Some(record));
        }
        let (tags, source, tag) = (self.clone(), source.clone(), tag.clone());
        reading("tag", move || tags.read(&source, &tag)).await
    }

    fn read(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        self.memory.get_or_read((source.clone(), tag.clone()), || self.read_file(source, tag))
    }

    /// From disk, past the memory of what was asked for lately.
    pub(crate) fn read_file(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        self.files.read_record(&self.files.layout.tag(source, tag)?)
    }

    /// Notes what a tag names.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    pub async fn put(&self, source: &Source, tag: &Tag, record: &TagRecord) -> Result<(), Error> {
        let (tags, source, tag, record) = (self.clone(), source.clone(), tag.clone(), record.clone());
        blocking("put tag", move || {
            let path = tags.files.layout.tag(&source, &tag)?;
            let write = || tags.capacity.make_room_and_retry(0, || tags.files.write_record(&path, &record));
            tags.memory.put((source.clone(), tag.clone()), record.clone(), write)?;
            tags.inventory.tag(&source, &tag, &record.digest, record.checked_at, false);
            tags.sources.found(&source);
            Ok(())
        })
        .await
    }

    /// Forgets a tag.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn remove(&self, source: &Source, tag: &Tag) -> Result<(), Error> {
        let (tags, source, tag) = (self.clone(), source.clone(), tag.clone());
        blocking("remove tag", move || tags.forget(&source, &tag).map(drop)).await
    }

    pub(crate) fn forget(&self, source: &Source, tag: &Tag) -> Result<bool, Error> {
        let path = self.files.layout.tag(source, tag)?;
        let removed = self.memory.remove(&(source.clone(), tag.clone()), || self.files.disk.remove(&path));
        self.inventory.untag(source, tag);
        removed
    }

    /// The cached tags of a repository, in byte order. Lists one directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn list(&self, source: &Source) -> Result<Vec<Tag>, Error> {
        let (tags, source) = (self.clone(), source.clone());
        reading("tags", move || tags.all(&source)).await
    }

    pub(crate) fn all(&self, source: &Source) -> Result<Vec<Tag>, Error> {
        let names = self.files.disk.list(&self.files.layout.source(source)?.join(TAGS))?;
        let mut tags: Vec<Tag> = names.iter().filter_map(|name| name.parse().ok()).collect();
        tags.sort_unstable();
        Ok(tags)
    }
}
