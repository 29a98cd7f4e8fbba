//! The body of a blob while it arrives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use prometheus_client::metrics::counter::Counter;
use reqwest::{Response, header::HeaderMap};

use super::{concurrency::Permits, encoding::Decoder, error::Error, transport::Transport};

/// A blob body under way. Pieces come until `None`; the error of a broken body says whether a resume makes sense. It holds one of the
/// host's connections until it ends or drops.
#[derive(Debug)]
pub struct Body {
    /// Length of the whole blob (from Content-Length or Content-Range).
    pub size: Option<u64>,
    /// Offset of the first byte that will come; 0 when upstream ignored the range.
    pub start: u64,
    /// What came already, to be given first.
    pub(super) ahead: Bytes,
    /// What the pieces are decoded by; the sizes are those of what it gives.
    pub(super) decoder: Option<Decoder>,
    /// `None` when it is over.
    pub(super) open: Option<(Response, Permits)>,
    pub(super) transport: Arc<Transport>,
    /// How long upstream was waited for since the rate was last looked at. The time a slow disk or client takes is not in it.
    pub(super) waited: Duration,
    /// What came meanwhile.
    pub(super) received: u64,
    /// The bytes that came of all bodies of this upstream.
    pub(super) counter: Counter,
}

impl Body {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it broke off, stalled for the idle time-out, or came slower than the least rate over it: going on
    /// with a range makes sense, unless the body is decoded. [`Error::Malformed`] when it cannot be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(decoded) = self.decoder.as_mut().map(Decoder::next).transpose()?.flatten() {
                return Ok(Some(decoded));
            }
            let piece = match self.ahead.is_empty() {
                true => self.receive().await?,
                false => Some(std::mem::take(&mut self.ahead)),
            };
            match (&mut self.decoder, piece) {
                (Some(decoder), Some(piece)) => decoder.give(piece),
                (_, piece) => return Ok(piece),
            }
        }
    }

    /// The header fields of the answer; none when it is over.
    pub(super) fn headers(&self) -> HeaderMap {
        self.open.as_ref().map(|(response, _)| response.headers().clone()).unwrap_or_default()
    }

    /// Whether its pieces are not the bytes that came, so that no range leads into it.
    pub fn is_decoded(&self) -> bool {
        self.decoder.is_some()
    }

    /// Receives until the end or `most` bytes, to be given first; whether the end came.
    pub(super) async fn look_ahead(&mut self, most: usize) -> Result<bool, Error> {
        let mut ahead = BytesMut::from(std::mem::take(&mut self.ahead));
        while ahead.len() < most {
            let Some(piece) = self.receive().await? else { break };
            ahead.extend_from_slice(&piece);
        }
        self.ahead = ahead.freeze();
        Ok(self.open.is_none())
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
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
            Ok(Some(bytes)) => {
                self.received += bytes.len() as u64;
                self.counter.inc_by(bytes.len() as u64);
            }
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
