//! The body of a blob while it arrives.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;

use super::{concurrency::Permits, error::Error, transport::Transport};

/// A blob body under way. Pieces come until `None`; the error of a broken body says whether a resume makes sense. It holds one of the
/// host's connections until it ends or drops.
#[derive(Debug)]
pub struct Body {
    /// Length of the whole blob (from Content-Length or Content-Range).
    pub size: Option<u64>,
    /// Offset of the first byte that will come; 0 when upstream ignored the range.
    pub start: u64,
    /// `None` when it is over.
    pub(super) open: Option<(Response, Permits)>,
    pub(super) transport: Arc<Transport>,
}

impl Body {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it broke off or stalled for the idle time-out: going on with a range makes sense.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some((response, _)) = &mut self.open else { return Ok(None) };
        let piece = self.transport.piece(response).await;
        if !matches!(piece, Ok(Some(_))) {
            self.open = None;
        }
        piece
    }
}
