//! The record of a pushed manifest, and what becomes of damaged records: they are named, and made anew or put aside.

use std::path::Path;

use serde::de::DeserializeOwned;
use tracing::error;

use super::{Held, Inner};
use crate::{
    Error, TagRecord,
    cache::hosted_source,
    files::{Kind, REFERRERS, TAGS, flat, held_in, held_name, unflat},
    hosted::damaged_record::{DamagedRecord, RecordKind, RecordRepair},
    oci::{Description, Digest, Manifest, Name, Tag},
};

impl Inner {
    /// A manifest that the repository holds, with the media type it was pushed with.
    pub(super) fn manifest(&self, name: &Name, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let Some(size) = self.pins.held(Kind::Manifest, digest, name) else { return Ok(None) };
        let Some(manifest) = self.manifests.read(digest)? else { return Ok(None) };
        let path = self.files.layout.held(name, Kind::Manifest, digest, size);
        match self.files.read_authoritative_record::<Held>(&path) {
            // It says the same as the manifest does.
            Err(Error::DamagedRecord(_)) if self.restore_held(name, digest, size)? => Ok(Some(manifest)),
            held => Ok(held?.map(|held| Manifest { media_type: held.media_type, ..manifest })),
        }
    }

    /// See [`super::Repositories::damaged_records`].
    pub(super) fn damaged_records(
        &self,
        repair: RecordRepair,
        keep: &mut dyn FnMut(u64) -> bool,
        report: &mut dyn FnMut(DamagedRecord),
    ) -> Result<(), Error> {
        for (name, _) in self.pins.repositories() {
            let root = self.files.layout.repository(&name);
            let mut damaged = |kind, reference: String, restored| {
                error!(repository = %name, kind = RecordKind::name(kind), reference, restored, "a damaged record, found by a scrub");
                report(DamagedRecord { kind, repository: Some(name.clone()), reference, restored });
            };
            for tag in self.tags(&name)? {
                match self.look::<TagRecord>(&root.join(TAGS).join(tag.as_str()), keep)? {
                    Looked::Stopped => return Ok(()),
                    Looked::Sound => {}
                    Looked::Damaged => {
                        if repair == RecordRepair::PutAside {
                            self.put_tag_aside(&name, &tag)?;
                        }
                        damaged(RecordKind::Tag, tag.to_string(), false);
                    }
                }
            }
            let held = root.join(held_in(Kind::Manifest));
            for file in self.files.disk.list(&held)? {
                let Some((digest, size)) = held_name(&file) else { continue };
                match self.look::<Held>(&held.join(&file), keep)? {
                    Looked::Stopped => return Ok(()),
                    Looked::Sound => {}
                    Looked::Damaged => {
                        let restored = repair != RecordRepair::Nothing && self.restore_held(&name, &digest, size)?;
                        damaged(RecordKind::Manifest, digest.to_string(), restored);
                    }
                }
            }
            for subject in self.files.disk.list(&root.join(REFERRERS))?.iter().filter_map(|subject| unflat(subject)) {
                let directory = self.files.layout.referrers(&name, &subject);
                for digest in self.files.disk.list(&directory)?.iter().filter_map(|digest| unflat(digest)) {
                    match self.look::<serde_json::Value>(&directory.join(flat(&digest)), keep)? {
                        Looked::Stopped => return Ok(()),
                        Looked::Sound => {}
                        Looked::Damaged => {
                            let restored =
                                repair != RecordRepair::Nothing && self.restore_referrer(&name, &subject, &digest)?;
                            if repair == RecordRepair::PutAside && !restored {
                                let path = directory.join(flat(&digest));
                                self.files.put_record_aside(&path, &format!("referrer.{}", flat(&digest)))?;
                            }
                            damaged(RecordKind::Referrer, digest.to_string(), restored);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A push replaces a record whole and a delete removes it, so that one look is enough.
    fn look<T: DeserializeOwned>(&self, path: &Path, keep: &mut dyn FnMut(u64) -> bool) -> Result<Looked, Error> {
        // As much as the disk reads for a small file.
        if !keep(4096) {
            return Ok(Looked::Stopped);
        }
        match self.files.read_authoritative_record::<T>(path) {
            Err(Error::DamagedRecord(_)) => Ok(Looked::Damaged),
            record => record.map(|_| Looked::Sound),
        }
    }

    fn put_tag_aside(&self, name: &Name, tag: &Tag) -> Result<(), Error> {
        let _alone = self.lock(name);
        let path = self.files.layout.hosted_tag(name, tag);
        self.files.put_record_aside(&path, &format!("tag.{}", tag.as_str()))?;
        self.inventory.untag(&hosted_source(name.clone()), tag);
        self.files.sync_parent(&path)
    }

    /// How a manifest is described among the referrers of its subject; made anew when the record is damaged.
    pub(super) fn descriptor(
        &self,
        name: &Name,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<serde_json::Value>, Error> {
        let path = self.files.layout.referrers(name, subject).join(flat(digest));
        match self.files.read_authoritative_record(&path) {
            Err(Error::DamagedRecord(_)) if self.restore_referrer(name, subject, digest)? => {
                self.files.read_authoritative_record(&path)
            }
            descriptor => descriptor,
        }
    }

    /// A manifest that says itself which media type it has, and what it says.
    pub(super) fn self_described(&self, digest: &Digest) -> Result<Option<(Manifest, Description)>, Error> {
        let Some(manifest) = self.manifests.read(digest)? else { return Ok(None) };
        let description = manifest.describe().ok();
        Ok(description
            .filter(|description| description.media_type.as_ref() == Some(&manifest.media_type))
            .map(|description| (manifest, description)))
    }

    /// Writes the record of a manifest anew; `false` when the manifest does not say all of it.
    pub(super) fn restore_held(&self, name: &Name, digest: &Digest, size: u64) -> Result<bool, Error> {
        let Some((manifest, Description { subject, .. })) = self.self_described(digest)? else { return Ok(false) };
        let _alone = self.lock(name);
        // It may have been given up meanwhile.
        if self.pins.held(Kind::Manifest, digest, name).is_none() {
            return Ok(false);
        }
        let path = self.files.layout.held(name, Kind::Manifest, digest, size);
        self.write(&path, &Held { media_type: manifest.media_type, subject })?;
        self.files.sync_parent(&path)?;
        Ok(true)
    }

    /// As [`Inner::restore_held`], of how it is described among the referrers of its subject.
    fn restore_referrer(&self, name: &Name, subject: &Digest, digest: &Digest) -> Result<bool, Error> {
        let Some((manifest, description)) = self.self_described(digest)? else { return Ok(false) };
        let _alone = self.lock(name);
        if self.pins.held(Kind::Manifest, digest, name).is_none() || description.subject.as_ref() != Some(subject) {
            return Ok(false);
        }
        let path = self.files.layout.referrers(name, subject).join(flat(digest));
        self.write(&path, &description.referrer(&manifest.media_type, digest, manifest.bytes.len()))?;
        self.files.sync_parent(&path)?;
        Ok(true)
    }
}

enum Looked {
    Sound,
    Damaged,
    Stopped,
}
