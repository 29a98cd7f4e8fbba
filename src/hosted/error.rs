//! Why a request for hosted content fails, and how the store's failures become that.

use crate::oci::{Invalid, Malformed};

/// Why a request for hosted content fails. `http/error.rs` is the one table from here to status and code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such repository, or none that this client may read.
    #[error("no such repository")]
    NameUnknown,
    /// The repository has no such manifest.
    #[error("no such manifest")]
    ManifestUnknown,
    /// The repository has no such blob.
    #[error("no such blob")]
    BlobUnknown,
    /// No such upload of this repository and this client on this server.
    #[error("there is no such upload here, or no more; begin a new one")]
    UploadUnknown,
    /// The request contradicts itself.
    #[error("the upload cannot go on: {0}")]
    UploadInvalid(&'static str),
    /// An account might.
    #[error("a valid user name and password are required")]
    Login,
    /// This account may not; the sentence says what.
    #[error("{0}")]
    Denied(String),
    /// The bytes are no manifest that can be taken.
    #[error("{0}")]
    ManifestInvalid(String),
    /// The repository lacks blobs that the manifest names.
    #[error("{0}; push them first, or allow that with hosted.sparse_images")]
    MissingBlobs(String),
    /// A manifest of the repository names what was to be deleted.
    #[error(
        "the manifest {0} of this repository names it; delete that first, or allow this with hosted.delete_referenced"
    )]
    Referenced(String),
    /// The bytes have another digest.
    #[error("{0}")]
    DigestInvalid(String),
    /// The tag stays, and so does what it reaches.
    #[error(
        "the tag {0} is immutable here: neither it nor what it names may be replaced or removed; push under another tag"
    )]
    Immutable(String),
    /// The namespace holds as much as it may.
    #[error("{0}")]
    Quota(String),
    /// There is no room, or not more uploads at once.
    #[error("too many uploads are under way; try again")]
    TooManyUploads,
    /// The disk is full.
    #[error("the disk of this registry is full")]
    Full,
    /// The disk takes no writes.
    #[error("the disk of this registry is read-only; its operator has to look at it")]
    Unwritable,
    /// A record of what was pushed is damaged.
    #[error("what this registry knows of that name is damaged; its operator finds out more by weir verify")]
    Damaged,
    /// A failure of our own. The log has the detail.
    #[error("internal error")]
    Internal,
}

impl From<weir_storage::Error> for Error {
    fn from(error: weir_storage::Error) -> Error {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};

        use weir_storage::Error as Storage;
        match error {
            Storage::DigestMismatch { expected, actual } => {
                Error::DigestInvalid(format!("what was pushed as {expected} has the digest {actual}"))
            }
            Storage::Full { .. } => Error::Full,
            // A file system without blocks or inodes, or one that was mounted read-only after an error.
            Storage::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => Error::Full,
            Storage::Io { source, .. } if source.kind() == ReadOnlyFilesystem => Error::Unwritable,
            Storage::Quota { namespace, capacity } => Error::Quota(format!(
                "the namespace {namespace} is full: it may hold {capacity} bytes; delete what is not needed any more"
            )),
            Storage::Busy => Error::TooManyUploads,
            Storage::Superseded => Error::UploadUnknown,
            Storage::Immutable(tag) => Error::Immutable(tag.to_string()),
            Storage::Referenced(by) => Error::Referenced(by.to_string()),
            Storage::MissingBlobs { .. } => Error::MissingBlobs(error.to_string()),
            Storage::DamagedRecord(_) => {
                tracing::error!(%error, "a record of hosted content");
                Error::Damaged
            }
            Storage::WrongSize { .. } | Storage::Unusable(_) | Storage::Counting | Storage::Io { .. } => {
                tracing::error!(%error, "the store failed");
                Error::Internal
            }
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::ManifestInvalid(malformed.to_string())
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Error {
        Error::DigestInvalid(invalid.to_string())
    }
}
