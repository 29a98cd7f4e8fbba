//! What a client gets whose request no handler ever saw.
//!
//! actix-http answers what it cannot parse by itself, with a status and an empty body: nothing that a client prints, and nothing that
//! an operator sees. The connection knows those answers, for nothing else is written while no request is under way, and sends a
//! [`ProtocolErrorResponse`] in their place. Then it closes its own side first and takes in for a while what the client still
//! sends: closing over unread bytes resets the connection, and a reset takes the answer with it.

use std::{
    future::Future as _,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    time::Sleep,
};

use super::{state::ConnectionState, stream::Stream};

/// Bytes of a request that are kept for the log line of its refusal.
pub(super) const OPENING: usize = 256;

/// Why no handler sees a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    /// Its head did not arrive in time.
    HeadTimeout,
    /// Its head is larger than actix-http takes.
    HeadTooLarge,
    /// It is no HTTP request, or one that could be read in two ways.
    Malformed,
    /// It came without TLS to a listener that speaks TLS.
    NoTls,
    /// actix-http failed.
    Internal,
}

/// The whole response to a request that begins with these bytes, head and body; the service writes it, counts it and logs it.
pub(crate) type Refuse = Arc<dyn Fn(ProtocolError, &[u8], &Rc<ConnectionState>) -> Bytes + Send + Sync>;

/// Reads of what is thrown away before the other connections of the worker get their turn.
const READS: usize = 16;

/// A response that the connection sends by itself, before it closes.
pub(super) struct ProtocolErrorResponse {
    bytes: Bytes,
    /// The client knows that nothing follows.
    is_shut: bool,
    deadline: Pin<Box<Sleep>>,
}

impl ProtocolErrorResponse {
    /// Sends these bytes. All of it, and what the client still sends, is over within `patience`.
    pub(super) fn new(bytes: Bytes, patience: Duration) -> ProtocolErrorResponse {
        ProtocolErrorResponse { bytes, is_shut: false, deadline: Box::pin(tokio::time::sleep(patience)) }
    }

    /// Ready when the connection may be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<()> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut stream = Pin::new(stream);
        while !self.bytes.is_empty() {
            match ready!(stream.as_mut().poll_write(cx, &self.bytes)) {
                Ok(count @ 1..) => self.bytes.advance(count),
                _ => return Poll::Ready(()),
            }
        }
        if !self.is_shut {
            if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.is_shut = true;
        }
        let mut scrap = [0; 4096];
        for _ in 0..READS {
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(stream.as_mut().poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Why actix-http refused, as far as the status of its own answer tells.
pub(super) fn reason(answer: &[u8]) -> ProtocolError {
    match answer.get(9..12) {
        Some(b"408") => ProtocolError::HeadTimeout,
        Some(b"431") => ProtocolError::HeadTooLarge,
        Some([b'5', ..]) => ProtocolError::Internal,
        _ => ProtocolError::Malformed,
    }
}
