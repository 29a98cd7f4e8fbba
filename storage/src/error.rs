//! What can go wrong on disk, as variants that a caller can act on.

use std::{io, path::PathBuf};

use crate::oci::Digest;

/// What can go wrong on disk, in words that do not mention HTTP. Never stands for absence: what is not there is `None`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the capacity is full and eviction could not make room: pass the bytes through instead.
    #[error("no room for {needed} bytes")]
    Full {
        /// How many bytes were asked for.
        needed: u64,
    },
    /// The bytes do not match the digest they were stored under.
    #[error("content does not match {expected}: it is {actual}")]
    DigestMismatch {
        /// The name the bytes came under.
        expected: Box<Digest>,
        /// What they hash to.
        actual: Box<Digest>,
    },
    /// More or fewer bytes than were announced.
    #[error("{digest} has {actual} bytes where {expected} were announced")]
    WrongSize {
        /// The blob.
        digest: Box<Digest>,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came, or that had come when they were too many.
        actual: u64,
    },
    /// A hosted namespace would hold more than it may.
    #[error("the namespace {namespace} may hold {capacity} bytes")]
    Quota {
        /// Its pattern.
        namespace: String,
        /// Bytes it may hold.
        capacity: u64,
    },
    /// As many uploads are under way as there may be.
    #[error("too many uploads are under way")]
    Busy,
    /// What is stored is not all known yet, soon after a start.
    #[error("what is stored is still being counted; try again in a minute")]
    Counting,
    /// The upload has ended, or another request has taken it over.
    #[error("the upload has ended, or another request goes on with it")]
    Superseded,
    /// The tag is there, names something else, and may not be moved or removed.
    #[error("the tag {0} is immutable")]
    Immutable(crate::oci::Tag),
    /// A manifest names blobs that its repository does not hold; the first of them.
    #[error("{missing} of the blobs that the manifest names are not here, such as {digest}")]
    MissingBlobs {
        /// The first of them.
        digest: Box<Digest>,
        /// How many there are.
        missing: usize,
    },
    /// A manifest of the repository names it.
    #[error("{0} names it")]
    Referenced(Box<Digest>),
    /// A record of what was pushed is not what was written. It stays where it is, for absence would be a lie.
    #[error("the record {0} is damaged; weir verify names what is lost")]
    DamagedRecord(PathBuf),
    /// The directory belongs to another process or another version of Weir; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// Any other failure of a file system call.
    #[error("{call} {path}: {source}")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// The file it was about.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether a file system call failed for want of space or of quota, so that eviction may help.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Error::Full { .. } => true,
            Error::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    pub(crate) fn mismatch(expected: &Digest, actual: Digest) -> Error {
        Error::DigestMismatch { expected: Box::new(expected.clone()), actual: Box::new(actual) }
    }

    pub(crate) fn wrong_size(digest: &Digest, expected: u64, actual: u64) -> Error {
        Error::WrongSize { digest: Box::new(digest.clone()), expected, actual }
    }

    /// A second copy of this error, for each of several who wait for one thing.
    pub(crate) fn again(&self) -> Error {
        match self {
            Error::Full { needed } => Error::Full { needed: *needed },
            Error::DigestMismatch { expected, actual } => {
                Error::DigestMismatch { expected: expected.clone(), actual: actual.clone() }
            }
            Error::WrongSize { digest, expected, actual } => {
                Error::WrongSize { digest: digest.clone(), expected: *expected, actual: *actual }
            }
            Error::Unusable(why) => Error::Unusable(why.clone()),
            Error::Quota { namespace, capacity } => Error::Quota { namespace: namespace.clone(), capacity: *capacity },
            Error::DamagedRecord(path) => Error::DamagedRecord(path.clone()),
            Error::Busy => Error::Busy,
            Error::Counting => Error::Counting,
            Error::Superseded => Error::Superseded,
            Error::Immutable(tag) => Error::Immutable(tag.clone()),
            Error::MissingBlobs { digest, missing } => {
                Error::MissingBlobs { digest: digest.clone(), missing: *missing }
            }
            Error::Referenced(by) => Error::Referenced(by.clone()),
            Error::Io { call, path, source } => {
                let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
                Error::Io { call, path: path.clone(), source }
            }
        }
    }

    /// The disk did not answer in time.
    pub(crate) fn timed_out(what: &'static str) -> Error {
        let source = io::Error::new(io::ErrorKind::TimedOut, "the disk did not answer in time");
        Error::Io { call: what, path: PathBuf::new(), source }
    }

    /// The work behind an `async` method ended without an answer: it panicked, or the runtime is going down.
    pub(crate) fn vanished(what: &'static str) -> Error {
        Error::Io { call: what, path: PathBuf::new(), source: io::Error::other("the work ended without an answer") }
    }
}
