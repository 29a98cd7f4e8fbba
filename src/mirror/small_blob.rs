//! The bytes of a small blob that is here, such as a config or a signature.

use std::{future::poll_fn, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use weir_storage::{Error, Store};

use crate::oci::Digest;

/// A blob that is not read in this time is one of a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the bytes of a blob are not known; each is a part of a sentence about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBytes {
    /// It is not here.
    Absent,
    /// It is longer than what may be read.
    TooLong,
    /// It did not arrive, or is damaged.
    Unreadable(&'static str),
}

/// The bytes of a blob, at most `most`.
///
/// # Errors
/// [`Error::Io`].
pub(super) async fn read(store: &Store, digest: &Digest, most: u64) -> Result<Result<Bytes, NoBytes>, Error> {
    let Some(mut reader) = store.blobs.load(digest).await? else { return Ok(Err(NoBytes::Absent)) };
    let size = reader.size();
    if size > most {
        return Ok(Err(NoBytes::TooLong));
    }
    let mut bytes = BytesMut::new();
    while (bytes.len() as u64) < size {
        let at = bytes.len() as u64;
        let extent = timeout(PATIENCE, poll_fn(|cx| reader.poll_extent(cx, at, size))).await;
        let Ok(Ok(extent)) = extent else { return Ok(Err(NoBytes::Unreadable("it did not arrive"))) };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = store.blobs.copy(digest, extent, most).await?;
        if piece.is_empty() {
            return Ok(Err(NoBytes::Unreadable("it is damaged on the disk")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Ok(bytes.freeze()))
}
