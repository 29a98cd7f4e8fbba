//! Which source vouched for which digest: one empty file each.
//!
//! A blob is served under a repository only when that repository vouched for it, so this is what keeps private content from
//! leaking across names. A file per pair costs an inode and no block, is created by one call, cannot be torn, and is found by
//! one `stat`; that it is a file is what makes it survive the index.

use crate::{Error, Source, core::Core, oci::Digest};

impl Core {
    pub(crate) fn vouches(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        let key = (source.clone(), digest.clone());
        if self.memory.members.get(&key).is_some() {
            return Ok(true);
        }
        let _stripe = self.stripes.lock(&key);
        let vouches = self.disk.metadata(&self.layout.member(source, digest)?)?.is_some();
        if vouches {
            self.memory.members.insert(key, ());
        }
        Ok(vouches)
    }

    pub(crate) fn vouch(&self, source: &Source, digests: &[Digest]) -> Result<(), Error> {
        let mut listed = false;
        for digest in digests {
            let key = (source.clone(), digest.clone());
            if self.memory.members.contains_key(&key) {
                continue;
            }
            let stripe = self.stripes.lock(&key);
            let touched = self.disk.touch(&self.layout.member(source, digest)?);
            touched.map_err(|error| if error.is_full() { self.complain(0) } else { error })?;
            self.memory.members.insert(key, ());
            drop(stripe);
            listed |= self.has_manifest(digest)?;
        }
        if listed {
            self.has_source(source);
        }
        Ok(())
    }

    pub(crate) fn unvouch(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        let key = (source.clone(), digest.clone());
        let _stripe = self.stripes.lock(&key);
        // First from memory: when the file cannot be removed, what is in memory must not vouch for it.
        self.memory.members.invalidate(&key);
        self.disk.remove(&self.layout.member(source, digest)?)
    }
}
