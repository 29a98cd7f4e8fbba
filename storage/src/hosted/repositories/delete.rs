//! Deleting blobs and manifests of a repository, and what is protected from it.
//!
//! Whether something is protected is decided under the lock of the repository's name, which a push that would name it takes, too.

use std::collections::HashSet;

use super::Inner;
use crate::{
    Error, TagRecord,
    cache::hosted_source,
    files::{Kind, flat},
    hosted::protection::Protection,
    oci::{Digest, Name},
};

impl Inner {
    pub(super) fn delete_blob(&self, name: &Name, digest: &Digest, protection: &Protection) -> Result<bool, Error> {
        let _stripe = self.lock(name);
        if self.pins.held(Kind::Blob, digest, name).is_none() {
            return Ok(false);
        }
        self.check_unprotected(name, digest, protection)?;
        self.give_up(Kind::Blob, name, digest)
    }

    pub(super) fn delete_manifest(&self, name: &Name, digest: &Digest, protection: &Protection) -> Result<bool, Error> {
        let _stripe = self.lock(name);
        let Some(size) = self.pins.held(Kind::Manifest, digest, name) else { return Ok(false) };
        self.check_unprotected(name, digest, protection)?;
        let mut tags = Vec::new();
        for tag in self.tags(name)? {
            let path = self.files.layout.hosted_tag(name, &tag);
            let record: Option<TagRecord> = self.files.read_authoritative_record(&path)?;
            if record.is_some_and(|record| record.digest == *digest) {
                tags.push((tag, path));
            }
        }
        for (tag, path) in &tags {
            self.files.disk.remove(path)?;
            self.inventory.untag(&hosted_source(name.clone()), tag);
        }
        if let Some((_, path)) = tags.first() {
            self.files.sync_parent(path)?;
        }
        let held: Result<Option<super::Held>, Error> =
            self.files.read_authoritative_record(&self.files.layout.held(name, Kind::Manifest, digest, size));
        let subject = match held {
            Err(error @ Error::DamagedRecord(_)) => self.self_described(digest)?.ok_or(error)?.1.subject,
            held => held?.and_then(|held| held.subject),
        };
        if let Some(subject) = subject {
            let path = self.files.layout.referrers(name, &subject).join(flat(digest));
            self.files.disk.remove(&path)?;
            self.files.sync_parent(&path)?;
        }
        self.give_up(Kind::Manifest, name, digest)
    }

    fn check_unprotected(&self, name: &Name, digest: &Digest, protection: &Protection) -> Result<(), Error> {
        if let Some(is_immutable) = &protection.is_immutable {
            let mut seen = HashSet::new();
            for tag in self.tags(name)?.into_iter().filter(is_immutable) {
                let record: Option<TagRecord> =
                    self.files.read_authoritative_record(&self.files.layout.hosted_tag(name, &tag))?;
                let mut reached: Vec<Digest> = record.map(|record| record.digest).into_iter().collect();
                while let Some(next) = reached.pop() {
                    if next == *digest {
                        return Err(Error::Immutable(tag));
                    }
                    if self.pins.held(Kind::Manifest, &next, name).is_some() && seen.insert(next.clone()) {
                        reached.extend(self.named_by(&next)?);
                    }
                }
            }
        }
        if protection.referenced {
            for manifest in self.pins.of(Kind::Manifest, name) {
                if manifest != *digest && self.named_by(&manifest)?.contains(digest) {
                    return Err(Error::Referenced(Box::new(manifest)));
                }
            }
        }
        Ok(())
    }

    /// What a manifest names. Nothing when its bytes are lost: then nothing can be pulled by it.
    fn named_by(&self, manifest: &Digest) -> Result<Vec<Digest>, Error> {
        let description = self.manifests.read(manifest)?.and_then(|manifest| manifest.describe().ok());
        Ok(description.into_iter().flat_map(|found| found.children).map(|child| child.digest).collect())
    }
}
