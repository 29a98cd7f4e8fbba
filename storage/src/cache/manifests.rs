//! Manifests: one line with the media type, then the exact bytes, under the digest of the bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::Memory;
use crate::{
    Error,
    blobs::InUse,
    capacity::Capacity,
    files::{Files, Kind, blocking, reading},
    oci::{Digest, Manifest, MediaType},
};

/// Upstream's manifests are bounded by 4 MiB; a larger file is none that was written here.
const MOST: u64 = 5 << 20;

/// The manifests of a store, mirrored and hosted. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Manifests {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    in_use: InUse,
    memory: Memory<Digest, Manifest>,
}

impl Manifests {
    pub(super) fn new(files: Arc<Files>, capacity: Arc<Capacity>, in_use: InUse, memory: u64) -> Manifests {
        Manifests { files, capacity, in_use, memory: Memory::new(memory, |manifest: &Manifest| manifest.bytes.len()) }
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
    ///
    /// # Errors
    /// As [`Manifests::load`].
    pub fn read(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
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

    /// From disk, and only when it is what its name says.
    pub(crate) fn read_file(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let path = self.files.layout.object(Kind::Manifest, digest);
        let Some(bytes) = self.files.disk.read(&path, MOST)? else { return Ok(None) };
        let manifest = parse(digest, bytes.into());
        if manifest.is_none() {
            self.quarantine(digest, "the file does not match its digest");
        }
        Ok(manifest)
    }

    /// Takes a corrupt manifest out of the way; it is absent from now on.
    pub(crate) fn quarantine(&self, digest: &Digest, why: &str) {
        self.files.quarantine(Kind::Manifest, digest, why);
        self.capacity.quarantined(Kind::Manifest, digest);
        self.forget(digest);
    }

    /// `synced`: the bytes are on the disk before this returns; who needs the name there syncs its directory.
    pub(crate) fn write(&self, manifest: &Manifest, synced: bool) -> Result<(), Error> {
        let actual = manifest.digest.algorithm().digest(&manifest.bytes);
        if actual != manifest.digest {
            return Err(Error::mismatch(&manifest.digest, actual));
        }
        let (disk, layout) = (&self.files.disk, &self.files.layout);
        let path = layout.object(Kind::Manifest, &manifest.digest);
        let pieces = [Bytes::from(format!("{}\n", manifest.media_type)), manifest.bytes.clone()];
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let _hold = self.in_use.hold(&manifest.digest);
        // What is here already may be a pushed one, which is synced.
        if !synced && disk.metadata(&path)?.is_some_and(|metadata| metadata.len() == size) {
            return Ok(());
        }
        let write = || match synced {
            true => disk.replace_synced(&layout.temporary(), &path, &pieces),
            false => disk.replace(&layout.temporary(), &path, &pieces),
        };
        self.memory.put(manifest.digest.clone(), manifest.clone(), || {
            self.capacity.make_room_and_retry(size, write)?;
            self.capacity.insert(Kind::Manifest, &manifest.digest, size);
            Ok(())
        })
    }

    /// Its file is gone: it is not answered from memory any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        let forgotten: Result<(), Error> = self.memory.remove(digest, || Ok(()));
        debug_assert!(forgotten.is_ok());
    }
}

fn parse(digest: &Digest, file: Bytes) -> Option<Manifest> {
    let line = file.iter().take(256).position(|byte| *byte == b'\n')?;
    let media_type: MediaType = std::str::from_utf8(&file[..line]).ok()?.parse().ok()?;
    let bytes = file.slice(line + 1..);
    (digest.algorithm().digest(&bytes) == *digest).then(|| Manifest { digest: digest.clone(), media_type, bytes })
}
