//! Which digests a source has: one empty file each.
//!
//! A blob is served under a repository only when that repository said that it has it, or when an operator imported it there, so
//! this is what keeps private content from leaking across names. A file per pair costs an inode and no block, is created by one call, cannot be torn, and is found by
//! one `stat`; that it is a file is what makes it survive the index.

use std::sync::Arc;

use super::{inventory::Inventory, manifests::Manifests, memory::Memory, sources::Sources};
use crate::{
    Error, Source,
    capacity::Capacity,
    files::{Files, MEMBERS, blocking, reading, unflat},
    oci::Digest,
};

/// The members of mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Membership {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    manifests: Manifests,
    sources: Arc<Sources>,
    inventory: Arc<Inventory>,
    memory: Memory<(Source, Digest), ()>,
}

impl Membership {
    pub(super) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        manifests: Manifests,
        sources: Arc<Sources>,
        inventory: Arc<Inventory>,
        memory: u64,
    ) -> Membership {
        Membership { files, capacity, manifests, sources, inventory, memory: Memory::new(memory, |()| 0) }
    }

    /// Whether this source is known to have the digest, as far as that was read or written lately. No system call.
    pub fn now(&self, source: &Source, digest: &Digest) -> bool {
        self.memory.get(&(source.clone(), digest.clone())).is_some()
    }

    /// Whether this source is known to have the digest.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence, also when the disk does not answer in time.
    pub async fn load(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        if self.now(source, digest) {
            return Ok(true);
        }
        let (members, source, digest) = (self.clone(), source.clone(), digest.clone());
        reading("membership", move || members.read(&source, &digest)).await
    }

    fn read(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        let found = self.memory.get_or_read((source.clone(), digest.clone()), || {
            let metadata = self.files.disk.metadata(&self.files.layout.member(source, digest)?)?;
            Ok(metadata.map(drop))
        })?;
        // At the start it was not listed when its bytes were not there, and another repository may have brought them since.
        if found.is_some() && self.inventory.lacks_member(source, digest) {
            self.inventory.member(source, digest, false);
            self.sources.found(source);
        }
        Ok(found.is_some())
    }

    /// Notes that this source has these digests. A manifest is put before it is added, or the source is not in the catalog
    /// until it has a tag.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`]; some may be noted then.
    pub async fn add(&self, source: &Source, digests: &[Digest]) -> Result<(), Error> {
        let (members, source, digests) = (self.clone(), source.clone(), digests.to_vec());
        blocking("add members", move || members.write(&source, digests)).await
    }

    fn write(&self, source: &Source, digests: Vec<Digest>) -> Result<(), Error> {
        let mut listed = false;
        for digest in digests {
            let key = (source.clone(), digest.clone());
            if !self.memory.contains(&key) {
                let path = self.files.layout.member(source, &digest)?;
                let touch = || self.capacity.make_room_and_retry(0, || self.files.disk.touch(&path));
                self.memory.put(key, (), touch)?;
            }
            // Also of what was known: its bytes may have come back.
            if self.manifests.contains(&digest)? {
                self.inventory.member(source, &digest, false);
                listed = true;
            }
        }
        if listed {
            self.sources.found(source);
        }
        Ok(())
    }

    /// Forgets all that this source is known to have; gives how many there were.
    pub(super) fn forget(&self, source: &Source) -> Result<u64, Error> {
        let mut gone = 0;
        for digest in self.all(source)? {
            gone += u64::from(self.forget_one(source, &digest)?);
        }
        Ok(gone)
    }

    /// All that this source is known to have. Lists one directory.
    pub(crate) fn all(&self, source: &Source) -> Result<Vec<Digest>, Error> {
        let names = self.files.disk.list(&self.files.layout.source(source)?.join(MEMBERS))?;
        Ok(names.iter().filter_map(|name| unflat(name)).collect())
    }

    /// Forgets that this source has the digest; `false` when it was not known to.
    pub(crate) fn forget_one(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        let path = self.files.layout.member(source, digest)?;
        let gone = self.memory.remove(&(source.clone(), digest.clone()), || self.files.disk.remove(&path));
        self.inventory.unmember(source, digest);
        gone
    }
}
