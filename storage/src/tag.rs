//! Tags as they were last seen upstream: one sealed record per source and tag.

use std::time::SystemTime;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;

use crate::{
    Error, Source,
    core::Core,
    layout::TAGS,
    oci::{Digest, MediaType, Tag},
    record,
};

/// A record is a few hundred bytes; a listing of 100,000 tags is some 13 MiB.
pub(crate) const MOST: u64 = 64 << 20;

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

impl Core {
    pub(crate) fn tag(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let key = (source.clone(), tag.clone());
        if let Some(record) = self.memory.tags.get(&key) {
            return Ok(Some(record));
        }
        let _stripe = self.stripes.lock(&key);
        let record: Option<TagRecord> = self.read_record(&self.layout.tag(source, tag)?)?;
        if let Some(record) = &record {
            self.memory.tags.insert(key, record.clone());
        }
        Ok(record)
    }

    pub(crate) fn put_tag(&self, source: &Source, tag: &Tag, record: &TagRecord) -> Result<(), Error> {
        let key = (source.clone(), tag.clone());
        let stripe = self.stripes.lock(&key);
        self.write_record(&self.layout.tag(source, tag)?, record)?;
        self.memory.tags.insert(key, record.clone());
        drop(stripe);
        self.has_source(source);
        Ok(())
    }

    pub(crate) fn remove_tag(&self, source: &Source, tag: &Tag) -> Result<bool, Error> {
        let key = (source.clone(), tag.clone());
        let _stripe = self.stripes.lock(&key);
        // First from memory: when the file cannot be removed, nobody is served from memory what should be gone.
        self.memory.tags.invalidate(&key);
        self.disk.remove(&self.layout.tag(source, tag)?)
    }

    /// In byte order.
    pub(crate) fn tags(&self, source: &Source) -> Result<Vec<Tag>, Error> {
        let names = self.disk.list(&self.layout.source(source)?.join(TAGS))?;
        let mut tags: Vec<Tag> = names.iter().filter_map(|name| name.parse().ok()).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    /// A sealed record; one that is not what was written is removed and absent.
    pub(crate) fn read_record<T: DeserializeOwned>(&self, path: &std::path::Path) -> Result<Option<T>, Error> {
        let Some(bytes) = self.disk.read(path, MOST)? else { return Ok(None) };
        let record = record::unseal(&bytes);
        if record.is_none() {
            warn!(path = %path.display(), "a torn or foreign record; removed");
            self.disk.remove(path)?;
        }
        Ok(record)
    }

    pub(crate) fn write_record(&self, path: &std::path::Path, value: &impl Serialize) -> Result<(), Error> {
        self.write_record_as(path, value, false)
    }

    /// `synced`: its bytes are on the disk before this comes back.
    pub(crate) fn write_record_as(
        &self,
        path: &std::path::Path,
        value: &impl Serialize,
        synced: bool,
    ) -> Result<(), Error> {
        let sealed = record::seal(value).map_err(|error| Error::Unusable(format!("cannot be a record: {error}")))?;
        let size = sealed.len() as u64;
        let pieces = [sealed];
        let replace = || {
            let temporary = self.layout.temporary();
            match synced {
                true => self.disk.replace_synced(&temporary, path, &pieces),
                false => self.disk.replace(&temporary, path, &pieces),
            }
        };
        let mut written = replace();
        if written.as_ref().is_err_and(Error::is_full) {
            self.evict(size.max(1 << 20));
            written = replace();
        }
        written.map_err(|error| if error.is_full() { self.complain(size) } else { error })
    }
}
