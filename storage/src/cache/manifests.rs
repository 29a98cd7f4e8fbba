//! Manifests: one line with the media type, then the exact bytes, under their digest.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::{inventory::Inventory, memory::Memory};
use crate::{
    Error,
    blobs::InUse,
    capacity::Capacity,
    files::{Files, Kind, Stamp, blocking, reading},
    oci::{Digest, Manifest, MediaType},
};

/// Upstream's manifests are bounded by 4 MiB; a larger file is none that was written here.
const MOST: u64 = 5 << 20;
/// A media type has up to 255 bytes.
const LONGEST_LINE: usize = 300;

/// The manifests of a store, mirrored and hosted. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Manifests {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    in_use: InUse,
    inventory: Arc<Inventory>,
    memory: Memory<Digest, Manifest>,
}

impl Manifests {
    pub(super) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        in_use: InUse,
        inventory: Arc<Inventory>,
        memory: u64,
    ) -> Manifests {
        let memory = Memory::new(memory, |manifest: &Manifest| manifest.bytes.len());
        Manifests { files, capacity, in_use, inventory, memory }
    }

    /// A manifest as the bytes of its file.
    pub fn encode(manifest: &Manifest) -> Bytes {
        [first_line(&manifest.media_type).as_bytes(), b"\n", &manifest.bytes].concat().into()
    }

    /// The manifest that was encoded, when it is the one of this digest.
    pub fn decode(digest: &Digest, bytes: Bytes) -> Option<Manifest> {
        parse(digest, bytes)
    }

    /// A manifest that was read or written lately. No system call.
    pub fn now(&self, digest: &Digest) -> Option<Manifest> {
        let manifest = self.memory.get(digest)?;
        self.capacity.note(Kind::Manifest, digest);
        Some(manifest)
    }

    /// A manifest, checked against its digest when it is read from disk: what does not match is quarantined and absent.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence, also when the disk does not answer in time.
    pub async fn load(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        if let Some(manifest) = self.now(digest) {
            return Ok(Some(manifest));
        }
        let (manifests, digest) = (self.clone(), digest.clone());
        reading("manifest", move || manifests.read(&digest)).await
    }

    /// As [`Manifests::load`], on this thread.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let manifest = self.memory.get_or_read(digest.clone(), || self.read_file(digest))?;
        if manifest.is_some() {
            self.capacity.note(Kind::Manifest, digest);
        }
        Ok(manifest)
    }

    /// Keeps a manifest whose bytes match its digest. Not synced: upstream can give it again.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Full`], [`Error::Io`].
    pub async fn put(&self, manifest: &Manifest) -> Result<(), Error> {
        let (manifests, manifest) = (self.clone(), manifest.clone());
        blocking("put manifest", move || manifests.write(&manifest, false)).await
    }

    /// Whether there is one, in memory or on disk.
    pub(crate) fn contains(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.files.layout.object(Kind::Manifest, digest);
        Ok(self.memory.contains(digest) || self.files.disk.metadata(&path)?.is_some())
    }

    /// From disk, for a client: what is not what its name says is quarantined.
    fn read_file(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let path = self.files.layout.object(Kind::Manifest, digest);
        let Some(file) = self.files.disk.open(&path)? else { return Ok(None) };
        let manifest = parse(digest, self.files.disk.read_whole(&file, &path, MOST)?.into());
        if manifest.is_none() {
            let stamp = self.files.disk.stamp(&file, &path)?;
            self.quarantine(digest, Some(stamp), "the file does not match its digest")?;
        }
        Ok(manifest)
    }

    /// From disk, and only when it is what its name says; nothing is done about another. For work that no client asked for: a
    /// verification would otherwise miss what such work has put aside a moment before.
    pub(crate) fn look_at_file(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        Ok(self.bytes(digest)?.and_then(|bytes| parse(digest, bytes)))
    }

    /// When its file was written.
    pub(crate) fn written(&self, digest: &Digest) -> Result<Option<SystemTime>, Error> {
        let metadata = self.files.disk.metadata(&self.files.layout.object(Kind::Manifest, digest))?;
        Ok(metadata.and_then(|metadata| metadata.modified().ok()))
    }

    fn bytes(&self, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let bytes = self.files.disk.read(&self.files.layout.object(Kind::Manifest, digest), MOST)?;
        Ok(bytes.map(Bytes::from))
    }

    /// Takes a corrupt manifest out of the way; it is absent from now on. With a stamp, only the file of which it was taken.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be told which file it is.
    pub(crate) fn quarantine(&self, digest: &Digest, stamp: Option<Stamp>, why: &str) -> Result<(), Error> {
        let account = || {
            self.capacity.quarantined(Kind::Manifest, digest);
            self.forget(digest);
        };
        self.files.quarantine((Kind::Manifest, digest), stamp, why, account).map(drop)
    }

    /// `synced`: the bytes are on the disk before this returns; who needs the name there syncs its directory.
    pub(crate) fn write(&self, manifest: &Manifest, synced: bool) -> Result<(), Error> {
        if !Manifest::is_named(&manifest.bytes, &manifest.digest) {
            return Err(Error::mismatch(&manifest.digest, manifest.digest.algorithm().digest(&manifest.bytes)));
        }
        let (disk, layout) = (&self.files.disk, &self.files.layout);
        let path = layout.object(Kind::Manifest, &manifest.digest);
        let pieces = [Bytes::from(first_line(&manifest.media_type) + "\n"), manifest.bytes.clone()];
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let _hold = self.in_use.hold(&manifest.digest);
        // What is here already may be a pushed one, which is synced.
        if !synced && disk.metadata(&path)?.is_some_and(|metadata| metadata.len() == size) {
            return Ok(());
        }
        let write = || {
            let _storing = self.files.storing(&manifest.digest);
            match synced {
                true => disk.replace_synced(&layout.temporary(), &path, &pieces)?,
                false => disk.replace(&layout.temporary(), &path, &pieces)?,
            }
            self.capacity.insert(Kind::Manifest, &manifest.digest, size);
            // As the file has it, so that it is the same after a restart.
            let written = self.written(&manifest.digest).ok().flatten();
            self.inventory.manifest(manifest, written.unwrap_or_else(SystemTime::now), false);
            Ok(())
        };
        let make_room = || self.capacity.make_room_and_retry(size, write);
        self.memory.put(manifest.digest.clone(), manifest.clone(), make_room)
    }

    /// Its file is gone: it is not answered from memory any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        let forgotten: Result<(), Error> = self.memory.remove(digest, || Ok(()));
        debug_assert!(forgotten.is_ok());
        self.inventory.gone(digest);
    }
}

/// The first line of a manifest's file: `weir1 <crc32 of the media type, 8 hex> <media type>`.
fn first_line(media_type: &MediaType) -> String {
    let media_type = media_type.to_string();
    format!("weir1 {:08x} {media_type}", crc32fast::hash(media_type.as_bytes()))
}

/// The digest holds the bytes, and the checksum the media type. An older file begins with the media type alone.
fn parse(digest: &Digest, file: Bytes) -> Option<Manifest> {
    let end = file.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&file[..end]).ok()?;
    let media_type: MediaType = line.rsplit(' ').next()?.parse().ok()?;
    let sound = line == first_line(&media_type) || line == media_type.to_string();
    let bytes = file.slice(end + 1..);
    (sound && Manifest::is_named(&bytes, digest)).then(|| Manifest { digest: digest.clone(), media_type, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_media_type_that_changed_a_bit_is_no_manifest() {
        let bytes = Bytes::from_static(br#"{"schemaVersion":2}"#);
        let digest = Algorithm::Sha256.digest(&bytes);
        let media_type: MediaType = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        let line = first_line(&media_type);
        let file = [line.as_bytes(), b"\n", &bytes].concat();
        assert_eq!(parse(&digest, file.clone().into()).unwrap().media_type, media_type);
        for at in 0..=line.len() {
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[at] ^= 1 << bit;
                assert!(parse(&digest, flipped.into()).is_none(), "bit {bit} of byte {at}");
            }
        }
        let old = [format!("{media_type}\n").as_bytes(), &bytes].concat();
        assert_eq!(parse(&digest, old.into()).unwrap().media_type, media_type);
    }
}
