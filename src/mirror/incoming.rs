//! A blob as it arrives: from an upstream, from the bucket that replicas share, or from another replica.

use bytes::Bytes;
use weir_shared::BucketBody;

use crate::upstream::{self, Body, PeerBody};

/// The body of a blob under way, wherever it comes from. What is said of a [`Body`] holds for it.
pub(super) enum Incoming {
    Upstream(Box<Body>),
    Bucket(BucketBody),
    Peer(Box<PeerBody>),
}

impl Incoming {
    /// Bytes of the whole blob.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Incoming::Upstream(body) => body.size,
            Incoming::Bucket(body) => Some(body.size()),
            Incoming::Peer(body) => Some(body.size),
        }
    }

    /// Offset of the first byte that comes.
    pub(super) fn start(&self) -> u64 {
        match self {
            Incoming::Upstream(body) => body.start,
            Incoming::Bucket(body) => body.start(),
            Incoming::Peer(body) => body.start,
        }
    }

    /// Whether its pieces are not the bytes that came, so that no range leads into it.
    pub(super) fn is_decoded(&self) -> bool {
        match self {
            Incoming::Upstream(body) => body.is_decoded(),
            Incoming::Bucket(_) | Incoming::Peer(_) => false,
        }
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// As [`Body::next`].
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        match self {
            Incoming::Upstream(body) => body.next().await,
            Incoming::Peer(body) => body.next().await,
            Incoming::Bucket(body) => body
                .next()
                .await
                .map_err(|error| upstream::Error::Unavailable { reason: error.to_string().into(), retry_after: None }),
        }
    }
}
