//! Manifests: one line with the media type, then the exact bytes, under the digest of the bytes.

use bytes::Bytes;

use crate::{
    Error,
    core::Core,
    layout::Kind,
    oci::{Digest, Manifest, MediaType},
};

/// Upstream's manifests are bounded by 4 MiB; a larger file is none that was written here.
const MOST: u64 = 5 << 20;

impl Core {
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        if let Some(manifest) = self.memory.manifests.get(digest) {
            self.space.note(Kind::Manifest, digest);
            return Ok(Some(manifest));
        }
        let Some(manifest) = self.read_manifest(digest)? else { return Ok(None) };
        self.space.note(Kind::Manifest, digest);
        self.memory.manifests.insert(digest.clone(), manifest.clone());
        Ok(Some(manifest))
    }

    /// Whether there is one, in memory or on disk.
    pub(crate) fn has_manifest(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.memory.manifests.contains_key(digest)
            || self.disk.metadata(&self.layout.object(Kind::Manifest, digest))?.is_some())
    }

    /// From disk, and only when it is what its name says.
    pub(crate) fn read_manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let Some(bytes) = self.disk.read(&self.layout.object(Kind::Manifest, digest), MOST)? else { return Ok(None) };
        let manifest = parse(digest, bytes.into());
        if manifest.is_none() {
            self.quarantine(Kind::Manifest, digest, "the file does not match its digest");
        }
        Ok(manifest)
    }

    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        self.write_manifest(manifest, false)
    }

    /// `synced`: the bytes are on the disk before this comes back; whoever wants the name there syncs its directory.
    pub(crate) fn write_manifest(&self, manifest: &Manifest, synced: bool) -> Result<(), Error> {
        let actual = manifest.digest.algorithm().digest(&manifest.bytes);
        if actual != manifest.digest {
            return Err(Error::mismatch(&manifest.digest, actual));
        }
        let path = self.layout.object(Kind::Manifest, &manifest.digest);
        let pieces = [Bytes::from(format!("{}\n", manifest.media_type)), manifest.bytes.clone()];
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let _hold = self.holds.hold(&manifest.digest);
        // What is here already may be a pushed one, which is synced.
        if !synced && self.disk.metadata(&path)?.is_some_and(|metadata| metadata.len() == size) {
            return Ok(());
        }
        let replace = || {
            let temporary = self.layout.temporary();
            match synced {
                true => self.disk.replace_synced(&temporary, &path, &pieces),
                false => self.disk.replace(&temporary, &path, &pieces),
            }
        };
        let mut written = replace();
        if written.as_ref().is_err_and(Error::is_full) {
            self.evict(size.max(1 << 20));
            written = replace();
        }
        written.map_err(|error| if error.is_full() { self.complain(size) } else { error })?;
        self.space.insert(Kind::Manifest, &manifest.digest, size);
        self.memory.manifests.insert(manifest.digest.clone(), manifest.clone());
        Ok(())
    }
}

fn parse(digest: &Digest, file: Bytes) -> Option<Manifest> {
    let line = file.iter().take(256).position(|byte| *byte == b'\n')?;
    let media_type: MediaType = std::str::from_utf8(&file[..line]).ok()?.parse().ok()?;
    let bytes = file.slice(line + 1..);
    (digest.algorithm().digest(&bytes) == *digest).then(|| Manifest { digest: digest.clone(), media_type, bytes })
}
