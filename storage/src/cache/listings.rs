//! Tag lists and referrers answers as they were last seen upstream.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::{
    Error, Source,
    capacity::Capacity,
    files::{Files, LISTINGS, blocking, reading},
};

/// A tag list or a referrers answer as it was last seen upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// When upstream gave it.
    pub checked_at: SystemTime,
    /// JSON whose shape is the caller's.
    #[serde(with = "text")]
    pub body: Vec<u8>,
    /// It came by an import, and upstream has given none since.
    #[serde(default)]
    pub imported: bool,
}

/// JSON kept as text is readable in the file and a fourth of the size of a list of numbers.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(String::into_bytes).map_err(D::Error::custom)
    }
}

/// The lists of mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Listings {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    memory: Memory<(Source, String), Listing>,
}

impl Listings {
    pub(super) fn new(files: Arc<Files>, capacity: Arc<Capacity>, memory: u64) -> Listings {
        Listings { files, capacity, memory: Memory::new(memory, |listing: &Listing| listing.body.len()) }
    }

    /// A list that was read or written lately. No system call.
    pub fn now(&self, source: &Source, kind: &str) -> Option<Listing> {
        self.memory.get(&(source.clone(), kind.to_owned()))
    }

    /// A list as it was last seen. `kind` is `tags` or `referrers-<algorithm>-<hex>`.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence, also when the disk does not answer in time; [`Error::Unusable`] for another
    /// kind of `kind`.
    pub async fn load(&self, source: &Source, kind: &str) -> Result<Option<Listing>, Error> {
        if let Some(listing) = self.now(source, kind) {
            return Ok(Some(listing));
        }
        let (listings, source, kind) = (self.clone(), source.clone(), kind.to_owned());
        reading("listing", move || listings.read(&source, &kind)).await
    }

    fn read(&self, source: &Source, kind: &str) -> Result<Option<Listing>, Error> {
        let read = || self.files.read_record(&self.files.layout.listing(source, kind)?);
        self.memory.get_or_read((source.clone(), kind.to_owned()), read)
    }

    /// Keeps a list. Its body is UTF-8.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::Unusable`] as for [`Listings::load`].
    pub async fn put(&self, source: &Source, kind: &str, listing: &Listing) -> Result<(), Error> {
        let (listings, source, kind, listing) = (self.clone(), source.clone(), kind.to_owned(), listing.clone());
        blocking("put listing", move || {
            let path = listings.files.layout.listing(&source, &kind)?;
            let size = listing.body.len() as u64;
            let write = || listings.capacity.make_room_and_retry(size, || listings.files.write_record(&path, &listing));
            listings.memory.put((source, kind), listing.clone(), write)
        })
        .await
    }

    /// Forgets all lists of this source; gives how many there were.
    pub(super) fn forget(&self, source: &Source) -> Result<u64, Error> {
        let mut gone = 0;
        for kind in self.files.disk.list(&self.files.layout.source(source)?.join(LISTINGS))? {
            let path = self.files.layout.listing(source, &kind)?;
            gone += u64::from(self.memory.remove(&(source.clone(), kind), || self.files.disk.remove(&path))?);
        }
        Ok(gone)
    }
}
