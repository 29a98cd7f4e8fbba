//! The body of a request: in pieces of a good size, and never slower than a client may be.
//!
//! A body that no handler reads is not read from the socket either. One that is read must come: a client that sends nothing for
//! `body_stall`, or less than [`LEAST`] within it, is given up, so that a session and a connection cost their owner something.

use std::time::{Duration, Instant};

use actix_http::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

/// Bytes gathered before they are handed on: large enough that a trip to another thread is cheap beside hashing them.
const PIECE: usize = 256 << 10;

/// Bytes that must come within `body_stall`, unless the body ends.
const LEAST: u64 = 16 << 10;

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client left, or broke the framing; no answer can reach it.
    Gone,
    /// It was too slow.
    Slow,
}

/// A body on its way in.
pub(crate) struct RequestBody {
    payload: Payload,
    stall: Duration,
    since: Instant,
    within: u64,
    /// Makes the connection read it; `None` once it does.
    begin: Option<Box<dyn FnOnce()>>,
    cut: Option<Cut>,
}

impl RequestBody {
    /// The body that comes by `payload` after `begin` was called.
    pub(crate) fn new(payload: Payload, stall: Duration, begin: Box<dyn FnOnce()>) -> RequestBody {
        RequestBody { payload, stall, since: Instant::now(), within: 0, begin: Some(begin), cut: None }
    }

    /// The body of a request that has none.
    pub(crate) fn empty() -> RequestBody {
        RequestBody::new(Payload::None, Duration::ZERO, Box::new(|| ()))
    }

    /// The next piece, `None` at the end. What came before a cut is given before the cut.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        if let Some(begin) = self.begin.take() {
            begin();
            self.since = Instant::now();
            // Until now the connection has refused to read on, so that nothing else would make it look again. It is driven by
            // the task that drives this.
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                std::task::Poll::Ready(())
            })
            .await;
        }
        if let Some(cut) = self.cut {
            return Err(cut);
        }
        let mut piece = BytesMut::new();
        loop {
            let left = self.stall.saturating_sub(self.since.elapsed());
            let next = match tokio::time::timeout(left.max(Duration::from_millis(1)), self.payload.next()).await {
                Ok(Some(Ok(bytes))) => Ok(bytes),
                Ok(None) if piece.is_empty() => return Ok(None),
                Ok(None) => return Ok(Some(piece.freeze())),
                Ok(Some(Err(_))) => Err(Cut::Gone),
                Err(_) => Err(Cut::Slow),
            };
            match next {
                Ok(bytes) => {
                    self.within += bytes.len() as u64;
                    if self.within >= LEAST {
                        self.since = Instant::now();
                        self.within = 0;
                    }
                    if piece.is_empty() && bytes.len() >= PIECE / 4 {
                        return Ok(Some(bytes));
                    }
                    if piece.is_empty() {
                        piece.reserve(PIECE);
                    }
                    piece.extend_from_slice(&bytes);
                    if piece.len() >= PIECE / 2 {
                        return Ok(Some(piece.freeze()));
                    }
                }
                // Said next time: the payload says it once, and then that it is over, as if it were whole.
                Err(cut) if !piece.is_empty() => {
                    self.cut = Some(cut);
                    return Ok(Some(piece.freeze()));
                }
                Err(cut) => {
                    self.cut = Some(cut);
                    return Err(cut);
                }
            }
        }
    }

    /// Appends to `all` until the body ends, which is `true`, or `all` has more than `most` bytes.
    pub(crate) async fn read_up_to(&mut self, most: usize, all: &mut BytesMut) -> Result<bool, Cut> {
        // The client is not to blame for the time since the last piece.
        self.since = Instant::now();
        while all.len() <= most {
            match self.next().await? {
                Some(piece) => all.extend_from_slice(&piece),
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}
