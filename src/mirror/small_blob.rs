//! The bytes of a small blob that is here, such as a config or a signature.

use std::{future::poll_fn, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use weir_storage::{Error, Store};

use crate::{oci::Digest, policy::Text};

/// A blob that is not read in this time is one of a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a blob that are read at once.
const PIECE: usize = 1 << 20;

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
    let mut bytes = BytesMut::new();
    let take = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        true
    };
    Ok(pieces(store, digest, most, take).await?.map(|_| bytes.freeze()))
}

/// Whether a blob is text, when it has at most `most` bytes. It is read in pieces, up to where it is none.
///
/// # Errors
/// [`Error::Io`].
pub(super) async fn is_text(store: &Store, digest: &Digest, most: u64) -> Result<Result<bool, NoBytes>, Error> {
    let mut text = Text::default();
    let is_read = pieces(store, digest, most, |piece| text.goes_on(piece)).await?;
    Ok(is_read.map(|is_read| is_read && text.is_whole()))
}

/// Gives the pieces of a blob to `take` until that wants no more; gives whether it had all.
async fn pieces(
    store: &Store,
    digest: &Digest,
    most: u64,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<Result<bool, NoBytes>, Error> {
    let Some(mut reader) = store.blobs.load(digest).await? else { return Ok(Err(NoBytes::Absent)) };
    let size = reader.size();
    if size > most {
        return Ok(Err(NoBytes::TooLong));
    }
    let mut at = 0;
    while at < size {
        let extent = timeout(PATIENCE, poll_fn(|cx| reader.poll_extent(cx, at, size))).await;
        let Ok(Ok(extent)) = extent else { return Ok(Err(NoBytes::Unreadable("it did not arrive"))) };
        let piece = store.blobs.copy(digest, extent, PIECE).await?;
        if piece.is_empty() {
            return Ok(Err(NoBytes::Unreadable("it is damaged on the disk")));
        }
        if !take(&piece) {
            return Ok(Ok(false));
        }
        at += piece.len() as u64;
    }
    Ok(Ok(true))
}
