//! The body of a blob while it arrives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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
    /// How long upstream was waited for since the rate was last looked at. The time a slow disk or client takes is not in it.
    pub(super) waited: Duration,
    /// What came meanwhile.
    pub(super) received: u64,
}

impl Body {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it broke off, stalled for the idle time-out, or came slower than the least rate over it: going on
    /// with a range makes sense.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.is_too_slow() {
            self.open = None;
            let reason = format!("its answer comes at less than {} bytes a second", self.transport.least_rate).into();
            return Err(Error::Unavailable { reason, retry_after: None });
        }
        let Some((response, _)) = &mut self.open else { return Ok(None) };
        let asked = Instant::now();
        let piece = self.transport.piece(response).await;
        self.waited += asked.elapsed();
        match &piece {
            Ok(Some(bytes)) => self.received += bytes.len() as u64,
            _ => self.open = None,
        }
        piece
    }

    /// Whether a whole idle time-out was spent waiting for less than the least rate; looked at once in each.
    fn is_too_slow(&mut self) -> bool {
        if self.waited < self.transport.idle {
            return false;
        }
        let least = self.transport.least_rate as f64 * self.waited.as_secs_f64();
        let is_slow = (self.received as f64) < least;
        (self.waited, self.received) = (Duration::ZERO, 0);
        is_slow && self.open.is_some()
    }
}
