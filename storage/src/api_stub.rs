//! The public surface that `mirror`, `hosted`, `upstream::ledger` (through a value) and `main` are written against.
#![allow(missing_docs, unused_variables, clippy::todo, reason = "replaced by the real modules")]

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Manifest, MediaType, Name, Tag};

/// The bounds of the store; every one stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory the store owns.
    pub root: PathBuf,
    /// Bytes that blobs and manifests may take together.
    pub capacity: u64,
    /// Eviction starts above this share of the capacity (0.95) …
    pub high_watermark: f64,
    /// … and stops at this one (0.90).
    pub low_watermark: f64,
    /// A partial file older than this is removed at start (24 h).
    pub partial_ttl: Duration,
    /// Bytes of sled's page cache (32 MiB).
    pub index_cache: u64,
}

/// What can go wrong on disk, in words that do not mention HTTP. Never stands for absence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the capacity is full and eviction could not make room: pass the bytes through instead.
    #[error("no room for {needed} bytes")]
    Full { needed: u64 },
    /// The bytes do not match the digest they were stored under.
    #[error("content does not match {expected}: it is {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// More or fewer bytes than were announced.
    #[error("{digest} has {actual} bytes where {expected} were announced")]
    WrongSize { digest: Digest, expected: u64, actual: u64 },
    /// The directory belongs to another process or another version of Weir; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// Any other failure of a file system call.
    #[error("{call} {path}: {source}")]
    Io {
        call: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whose answer something is: an upstream, the credential it was asked with, and the repository.
///
/// The credential is part of it so that what only one credential may read never answers for another. What anonymous may
/// read is kept under [`Source::ANONYMOUS`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The upstream's configured name, such as `docker.io`.
    pub upstream: Arc<str>,
    /// [`Source::ANONYMOUS`], or the account's user name.
    pub credential: Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
}

impl Source {
    /// The credential of those who have none.
    pub const ANONYMOUS: &'static str = "anonymous";
}

/// A tag as it was last seen upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    pub digest: Digest,
    pub media_type: MediaType,
    pub size: u64,
    /// When upstream last confirmed it.
    pub checked_at: SystemTime,
}

/// A tag list or a referrers answer as it was last seen upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub checked_at: SystemTime,
    /// JSON whose shape is the caller's.
    pub body: Vec<u8>,
}

/// Everything on the disk. Cloning is cheap. All methods may block on the disk for as long as it takes one small file, but for
/// those that are `async`, which run elsewhere.
#[derive(Clone, Debug)]
pub struct Store;

impl Store {
    /// Takes the directory, recovers it, opens the index (which is rebuilt in the background when it cannot be trusted).
    pub fn open(settings: Settings) -> Result<Store, Error> {
        todo!()
    }

    /// The whole blob, held against eviction while the reader lives; `None` when it is not here. One `open`, one `fstat`.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Reader>, Error> {
        todo!()
    }

    /// The size of a whole blob. One `stat`.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        todo!()
    }

    /// Starts to write a blob, adopting a partial file of an earlier attempt: [`Writer::written`] says where to go on.
    ///
    /// `expected` bytes are reserved on disk and in the capacity, after eviction when that is needed.
    /// # Errors
    /// [`Error::Full`] when there is no room.
    pub async fn writer(&self, digest: &Digest, expected: Option<u64>) -> Result<Writer, Error> {
        todo!()
    }

    /// A manifest, from memory when it was read lately. Checked against its digest when read from disk: what does not match is
    /// quarantined and absent.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        todo!()
    }
    /// Keeps a verified manifest. Not synced: upstream can give it again.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        todo!()
    }

    pub fn tag(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        todo!()
    }
    pub async fn put_tag(&self, source: &Source, tag: &Tag, record: &TagRecord) -> Result<(), Error> {
        todo!()
    }
    pub async fn remove_tag(&self, source: &Source, tag: &Tag) -> Result<(), Error> {
        todo!()
    }
    /// The cached tags of a repository, in byte order.
    pub async fn tags(&self, source: &Source) -> Result<Vec<Tag>, Error> {
        todo!()
    }

    /// Whether this source vouched for the digest. One look in memory, else one `stat`.
    pub fn vouches(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        todo!()
    }
    /// Notes that this source vouched for these digests.
    pub async fn vouch(&self, source: &Source, digests: &[Digest]) -> Result<(), Error> {
        todo!()
    }
    /// Takes it back, when upstream says that the digest is gone there.
    pub async fn unvouch(&self, source: &Source, digest: &Digest) -> Result<(), Error> {
        todo!()
    }

    /// `kind` is `tags` or `referrers-<algorithm>-<hex>`.
    pub fn listing(&self, source: &Source, kind: &str) -> Result<Option<Listing>, Error> {
        todo!()
    }
    pub async fn put_listing(&self, source: &Source, kind: &str, listing: &Listing) -> Result<(), Error> {
        todo!()
    }

    /// All (upstream, repository) with something cached and readable under one of `credentials`, in byte order. From the index.
    pub async fn catalog(&self) -> Result<Vec<Source>, Error> {
        todo!()
    }

    /// Forgets a repository's tag, or all of the repository, and what it vouched for (the bytes leave by eviction).
    pub async fn forget(&self, upstream: &str, repository: &Name, tag: Option<&Tag>) -> Result<u64, Error> {
        todo!()
    }

    /// An append-only journal with snapshots; see [`Journal`].
    pub fn journal(&self, name: &'static str) -> Result<Journal, Error> {
        todo!()
    }

    /// What is used, for metrics, readiness and the dashboard.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// Hashes every stored object again, at most `bytes_per_second`, and quarantines what does not match.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, Error> {
        todo!()
    }

    /// Flushes the index; called when the process ends.
    pub async fn close(&self) {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub capacity: u64,
    pub blob_bytes: u64,
    pub blobs: u64,
    pub manifest_bytes: u64,
    pub manifests: u64,
    pub partial_bytes: u64,
    pub evicted: u64,
    pub quarantined: u64,
    /// Writers that were refused for want of room, since start.
    pub full: u64,
    /// Whether the index answers; `false` while it is rebuilt.
    pub index_ready: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    pub objects: u64,
    pub bytes: u64,
    pub quarantined: Vec<Digest>,
}

/// One blob on its way to the disk. Dropping it is a failure that every reader learns of; the partial file stays to be resumed.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Bytes that an earlier attempt left and that are in place and hashed already.
    pub fn written(&self) -> u64 {
        todo!()
    }
    /// A reader from byte 0 of what arrives; any number of them, at their own pace. `size` as announced.
    pub fn reader(&self) -> Reader {
        todo!()
    }
    /// Says how large the blob is, once upstream's headers told; reserves it when `writer()` could not.
    pub async fn announce(&mut self, size: u64) -> Result<(), Error> {
        todo!()
    }
    /// Appends, hashes, and publishes all but the last [`HOLD_BACK`] bytes of the announced size.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), Error> {
        todo!()
    }
    /// Verifies, releases the last bytes to the readers, syncs the data, renames. On mismatch nothing is kept and the
    /// readers fail.
    pub async fn commit(self) -> Result<(), Error> {
        todo!()
    }
    /// Gives up: readers learn `why` at once. `keep` leaves the partial file for a later attempt.
    pub async fn abandon(self, why: Arc<str>, keep: bool) {
        todo!()
    }
}

/// The bytes at the end of an arriving blob that nobody gets before the digest is verified.
pub const HOLD_BACK: u64 = 64 * 1024;

/// Reads one blob, whole or still arriving, by position. Cloning shares the file and the hold against eviction.
#[derive(Clone, Debug)]
pub struct Reader;

/// Some bytes of a blob, ready to be sent.
#[derive(Clone, Debug)]
pub enum Extent {
    /// `length` bytes at `offset` of an open file, to be sent without copying.
    File { file: Arc<File>, offset: u64, length: u64 },
    /// Bytes that never touched the disk, or that live in another store.
    Bytes(Bytes),
}

/// Why an arriving blob stopped; the connection must be cut, never ended cleanly.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the blob stopped arriving: {0}")]
pub struct Stopped(pub Arc<str>);

impl Reader {
    /// A reader over bytes that are passed through: the disk is full, or a range far ahead of the fill was asked. `size` is that of the
    /// blob, `start` the offset of the first byte that will come; extents come in order only.
    pub fn passing(size: u64, start: u64, bytes: tokio::sync::mpsc::Receiver<Result<Bytes, Stopped>>) -> Reader {
        todo!()
    }
    /// The size of the blob in bytes, as announced by upstream or as it is on disk.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// Whether the blob is whole and verified now.
    pub fn is_whole(&self) -> bool {
        todo!()
    }
    /// How many bytes from 0 may be read now.
    pub fn readable(&self) -> u64 {
        todo!()
    }
    /// The next extent at `offset`, ending at `end` at the latest; waits until at least one byte may be read. `offset < end <= size`.
    pub fn poll_extent(&mut self, cx: &mut Context<'_>, offset: u64, end: u64) -> Poll<Result<Extent, Stopped>> {
        todo!()
    }
}

/// Records that survive a crash: each append is on disk when it returns (`fdatasync` at most every few milliseconds, shared by
/// those who wait).
#[derive(Clone, Debug)]
pub struct Journal;

impl Journal {
    /// What was journaled, oldest first: the last snapshot's records, then those appended since. A torn tail is dropped and logged.
    pub fn replay(&self) -> Result<Vec<Bytes>, Error> {
        todo!()
    }
    pub async fn append(&self, record: &[u8]) -> Result<(), Error> {
        todo!()
    }
    /// Replaces everything journaled so far by these records, atomically.
    pub async fn compact(&self, records: Vec<Bytes>) -> Result<(), Error> {
        todo!()
    }
    /// Records since the last compaction.
    pub fn length(&self) -> u64 {
        todo!()
    }
}
