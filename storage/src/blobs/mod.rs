//! Blobs: whole and verified under their digest, or arriving.
//!
//! A blob comes in by `write`, is shared among its readers by `shared`, and goes out by `read`. `in_use` knows which are read or
//! written, `partial` what an earlier attempt left, and `verify` finds what rotted before it is given whole.

mod in_use;
mod inspect;
mod partial;
mod read;
mod shared;
mod verify;
mod write;

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

pub use self::{
    inspect::Inspection,
    read::{Arriving, Extent, Reader, Rest},
    shared::{HOLD_BACK, Stopped},
    write::Writer,
};
pub(crate) use self::{
    partial::{Idle, Partials},
    verify::Verifier,
};
use self::{shared::SharedBlob, write::Target};
use crate::{
    Error, Settings,
    capacity::Capacity,
    files::{Files, Kind, reading},
    oci::Digest,
};

/// The digests that are read or written.
pub(crate) type InUse = in_use::InUse<SharedBlob>;

/// The blobs of a store. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Blobs {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    pub(crate) in_use: InUse,
    pub(crate) partials: Arc<Partials>,
    pub(crate) verifier: Arc<Verifier>,
    write_buffer: u64,
}

impl Blobs {
    pub(crate) fn new(files: Arc<Files>, capacity: Arc<Capacity>, settings: &Settings) -> Blobs {
        let in_use = InUse::new(settings.look_again);
        let (verify, write_buffer) = (settings.verify_on_first_read, settings.write_buffer);
        Blobs {
            partials: Arc::new(Partials::new(files.clone(), capacity.clone())),
            verifier: Arc::new(Verifier::new(files.clone(), capacity.clone(), in_use.clone(), verify)),
            files,
            capacity,
            in_use,
            write_buffer,
        }
    }

    /// The blob, when a reader has it open already. No system call.
    pub fn now(&self, digest: &Digest) -> Option<Reader> {
        let shared = self.in_use.opened(digest)?;
        self.capacity.note(Kind::Blob, digest);
        Some(Reader::of(&shared))
    }

    /// The whole blob, held against eviction while the reader lives; `None` when it is not here. On the first reading of what an
    /// earlier run stored, the last 64 KiB are given when it was verified, as of a blob that arrives.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence, also when the disk does not answer in time.
    pub async fn load(&self, digest: &Digest) -> Result<Option<Reader>, Error> {
        if let Some(reader) = self.now(digest) {
            return Ok(Some(reader));
        }
        let (blobs, digest) = (self.clone(), digest.clone());
        reading("blob", move || blobs.open(&digest)).await
    }

    /// One `open` and one `fstat`.
    fn open(&self, digest: &Digest) -> Result<Option<Reader>, Error> {
        let hold = self.in_use.hold(digest);
        let Some(file) = self.files.disk.open(&self.files.layout.object(Kind::Blob, digest))? else { return Ok(None) };
        self.capacity.note(Kind::Blob, digest);
        Ok(self.verifier.share(digest, file, hold)?.map(|shared| Reader::of(&shared)))
    }

    /// The whole blob for a look at its contents, which is no use of it for eviction; `None` when it is not here. The reader holds it
    /// against eviction, and is to be dropped on a thread of the runtime.
    ///
    /// # Errors
    /// As [`Blobs::load`].
    pub async fn inspect(&self, digest: &Digest) -> Result<Option<(Reader, Inspection)>, Error> {
        let (blobs, digest) = (self.clone(), digest.clone());
        reading("blob", move || {
            let path = blobs.files.layout.object(Kind::Blob, &digest);
            let hold = blobs.in_use.hold(&digest);
            let Some(file) = blobs.files.disk.open(&path)? else { return Ok(None) };
            let Some(shared) = blobs.verifier.share(&digest, file, hold)? else { return Ok(None) };
            let inspection = Inspection::new(blobs.files.clone(), shared.file.clone(), path);
            Ok(Some((Reader::of(&shared), inspection)))
        })
        .await
    }

    /// The size of a whole blob in bytes. One `stat`, or none when a reader has it open.
    ///
    /// # Errors
    /// As [`Blobs::load`].
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        if let Some(size) = self.in_use.opened(digest).and_then(|shared| shared.size()) {
            return Ok(Some(size));
        }
        let (files, digest) = (self.files.clone(), digest.clone());
        reading("blob size", move || {
            let metadata = files.disk.metadata(&files.layout.object(Kind::Blob, &digest))?;
            Ok(metadata.map(|metadata| metadata.len()))
        })
        .await
    }

    /// The size of a whole blob in bytes, and when it was stored. One `stat`.
    ///
    /// # Errors
    /// As [`Blobs::load`].
    pub async fn stored(&self, digest: &Digest) -> Result<Option<(u64, SystemTime)>, Error> {
        let (files, digest) = (self.files.clone(), digest.clone());
        reading("blob size", move || {
            let path = files.layout.object(Kind::Blob, &digest);
            let Some(metadata) = files.disk.metadata(&path)? else { return Ok(None) };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Ok(Some((metadata.len(), modified)))
        })
        .await
    }

    /// At most `most` bytes from the beginning of an extent of this blob, in memory; none behind the end of the file.
    ///
    /// # Errors
    /// As [`Blobs::load`].
    pub async fn copy(&self, digest: &Digest, extent: Extent, most: usize) -> Result<Bytes, Error> {
        let (file, offset, length) = match extent {
            Extent::Bytes(bytes) => return Ok(bytes.slice(..most.min(bytes.len()))),
            Extent::File { file, offset, length } => (file, offset, length),
        };
        let (files, digest) = (self.files.clone(), digest.clone());
        reading("blob", move || {
            let mut buffer = vec![0; most.min(usize::try_from(length).unwrap_or(most))];
            let path = files.layout.object(Kind::Blob, &digest);
            let count = files.disk.read_at(&file, &path, &mut buffer, offset)?;
            buffer.truncate(count);
            Ok(buffer.into())
        })
        .await
    }

    /// Starts to write a blob, adopting a partial file of an earlier attempt: [`Writer::written`] says where to go on.
    ///
    /// `expected` bytes are reserved on disk and in the capacity, after eviction when that is needed. Of two writers of one
    /// digest at most one adopts; both may commit.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no room.
    pub async fn write(&self, digest: &Digest, expected: Option<u64>) -> Result<Writer, Error> {
        let target = Target {
            files: self.files.clone(),
            capacity: self.capacity.clone(),
            in_use: self.in_use.clone(),
            partials: self.partials.clone(),
            write_buffer: self.write_buffer,
        };
        Writer::begin(target, digest.clone(), expected).await
    }
}
