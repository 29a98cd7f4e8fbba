//! The I/O type under actix-http: sends files without copying, and closes clients that are idle, slow or dishonest.
//!
//! actix-http guards the head of a connection's first request and the pause between two requests, and nothing else: a client that never
//! reads, sends the second head a byte a minute, or pipelines, keeps what it holds for ever or confuses the dispatcher
//! (which encodes a response by the flags of the request it decoded *last*). All of that is decided here, below it:
//!
//! - **One request at a time.** Bytes are handed up to the end of one request head; what follows is held back, unread in the
//!   kernel where possible, until the response is complete. A body that no handler takes is therefore never read, one that is taken is
//!   read to its end and no further, and a pipelined request never runs while another does.
//! - **A head arrives within `head_timeout`** of its first byte, on every request of a connection. A line end before it is such a
//!   byte: for actix-http, too, the pause is over then, and nothing else would ever close a connection that ends in one.
//! - **An idle connection gives way** to a new one when nearly all are taken, and where none is idle one of a client that has many; see
//!   `connection_limit.rs`.
//! - **A response makes progress within `write_stall`**, else the connection is cut.
//! - **A request that no handler sees is answered** like one that a handler refuses: what actix-http writes while no request is under
//!   way is replaced by a [`ProtocolErrorResponse`]. A client that asked nothing, or still sends the body of a request that was
//!   answered, is closed in silence.
//! - **An upgrade is ignored.** actix-http would close the connection after the response; see `upgrade.rs`.
//! - **`100 Continue` waits for the service.** actix-http writes it before it calls the service; a client that gets it sends the
//!   body of a push that is refused. It goes out when the service reads the body, and not at all when it does not.
//! - **Transfers are driven in `poll_flush`**; see `sendfile.rs`.
//!
//! What must not change: while the connection is busy `poll_read` returns `Pending` though there may be something to read; it is
//! `poll_flush`, which the dispatcher calls at the end of each turn, that wakes the task once the response is complete. Without
//! that line a pipelined request would wait for ever.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    body_length::BodyLength,
    connection_limit::ConnectionSlot,
    head_end::HeadEnd,
    protocol_error::{self, ProtocolError, ProtocolErrorResponse, Refuse},
    sendfile::Progress,
    stall_timer::StallTimer,
    state::{BodyState, ConnectionState, Phase},
    stream::Stream,
    upgrade,
};
use crate::http::metrics::{Metrics, OpenConnection};

/// What actix-http writes before the body of a request that expects it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) write_stall: Duration,
    pub(crate) disconnect: Duration,
}

/// A client's connection.
pub(crate) struct Connection {
    stream: Stream,
    state: Rc<ConnectionState>,
    scan: HeadEnd,
    /// Something arrived behind the last head, if only an empty line.
    begun: bool,
    /// A whole head was handed up and its request has not begun yet.
    handed_up: bool,
    /// What is owed of a `100 Continue` that was held back.
    interim: &'static [u8],
    /// Bytes behind the head that was handed up.
    held: BytesMut,
    /// How the head that was handed up last begins.
    opening: Vec<u8>,
    refuse: Refuse,
    refusal: Option<ProtocolErrorResponse>,
    head: StallTimer,
    write: StallTimer,
    disconnect: Duration,
    metrics: Metrics,
    _open: OpenConnection,
    slot: ConnectionSlot,
}

impl Connection {
    pub(crate) fn new(
        stream: Stream,
        state: Rc<ConnectionState>,
        patience: Patience,
        refuse: Refuse,
        metrics: &Metrics,
        slot: ConnectionSlot,
    ) -> Connection {
        Connection {
            stream,
            state,
            scan: HeadEnd::Before,
            begun: false,
            handed_up: false,
            interim: &[],
            held: BytesMut::new(),
            opening: Vec::new(),
            refuse,
            refusal: None,
            head: StallTimer::new(patience.head),
            write: StallTimer::new(patience.write_stall),
            disconnect: patience.disconnect,
            _open: metrics.open(),
            metrics: metrics.clone(),
            slot,
        }
    }

    /// For the service.
    pub(crate) fn state(&self) -> Rc<ConnectionState> {
        self.state.clone()
    }

    /// Bytes that were held back, as many as fit.
    fn give_held(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
    }

    /// Takes back what was read beyond `end`.
    fn hold_back(&mut self, buf: &mut ReadBuf<'_>, end: usize) {
        let mut held = BytesMut::from(&buf.filled()[end..]);
        held.unsplit(std::mem::take(&mut self.held));
        self.held = held;
        buf.set_filled(end);
    }

    /// Reads of the body of a request, and nothing behind it.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut length: BodyLength,
    ) -> Poll<io::Result<()>> {
        if length.is_over() {
            self.state.set_body(BodyState::Read);
            // As when there is no body: what follows waits until this request is answered.
            self.state.refuse_read(true);
            return Poll::Pending;
        }
        while !self.interim.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, self.interim))?;
            self.interim = &self.interim[count..];
            if self.interim.is_empty() {
                // rustls may keep them.
                let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
            }
        }
        let start = buf.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            self.give_held(buf);
        }
        let new = buf.filled().len() - start;
        let body = length.feed(&buf.filled()[start..]);
        self.state.set_body(BodyState::Reading(length));
        if body < new {
            self.hold_back(buf, start + body);
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what the log line of a refusal needs.
    fn note(&mut self, bytes: &[u8]) {
        if self.scan == HeadEnd::Before {
            self.opening.clear();
        }
        let room = protocol_error::OPENING.saturating_sub(self.opening.len());
        self.opening.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Answers the request that no handler will see, unless it is none.
    fn refuse(&mut self, error: ProtocolError) {
        if self.state.has_unread_body() || self.opening.trim_ascii().is_empty() {
            return;
        }
        let response = (self.refuse)(error, &self.opening, &self.state);
        self.refusal = Some(ProtocolErrorResponse::new(response, self.disconnect));
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slot = self.state.transfer().borrow_mut();
        let Some(transfer) = slot.as_mut() else { return Poll::Ready(Ok(())) };
        let (progress, count) = transfer.poll(cx, &mut self.stream).inspect_err(|error| {
            // The rest are clients that left.
            if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::UnexpectedEof) {
                self.metrics.cut();
                tracing::warn!(target: "weir::http", %error, "a response was cut short");
            }
        })?;
        self.state.add_sent(count);
        if count > 0 {
            self.write.disarm();
        }
        match progress {
            Progress::Done => {
                *slot = None;
                // The body is asked again and finds that it is complete.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(()))
            }
            Progress::Blocked => {
                self.write.check(cx)?;
                Poll::Pending
            }
            Progress::Starved => {
                self.write.disarm();
                // What rustls has buffered must not wait for the blob to grow.
                if let Stream::Tls(socket) = &mut self.stream {
                    let _ = Pin::new(socket.as_mut()).poll_flush(cx)?;
                }
                Poll::Pending
            }
            Progress::Yielded => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refusal) = &mut this.refusal {
            ready!(refusal.poll(cx, &mut this.stream));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if this.slot.is_closing() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.state.phase() == Phase::Answering
            && let BodyState::Reading(length) = this.state.body()
        {
            this.handed_up = false;
            return this.poll_body(cx, buf, length);
        }
        if this.state.phase() != Phase::Idle || this.handed_up {
            this.handed_up = false;
            // With nothing there, interest in more is registered and no wake-up is owed: one turn of the dispatcher less
            // for each request that is not pipelined.
            let more = match &this.stream {
                Stream::Plain(socket) => !this.held.is_empty() || socket.poll_read_ready(cx).is_ready(),
                Stream::Tls(_) => true,
            };
            this.state.refuse_read(more);
            return Poll::Pending;
        }
        let start = buf.filled().len();
        if this.held.is_empty() {
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            if polled.is_pending()
                && this.begun
                && let Err(late) = this.head.check(cx)
            {
                this.refuse(ProtocolError::HeadTimeout);
                if let Some(refusal) = &mut this.refusal {
                    ready!(refusal.poll(cx, &mut this.stream));
                }
                return Poll::Ready(Err(late));
            }
            if polled.is_pending() && !this.begun && this.slot.idle(cx) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            ready!(polled)?;
        } else {
            this.give_held(buf);
        }
        let new = buf.filled().len() - start;
        this.slot.busy(cx);
        let is_first = this.scan == HeadEnd::Before;
        this.note(&buf.filled()[start..]);
        let end = this.scan.feed(&buf.filled()[start..]);
        this.begun = end.is_none() && (new > 0 || this.begun);
        if let Some(end) = end {
            if is_first {
                upgrade::ignore(&mut buf.filled_mut()[start..start + end]);
            }
            this.head.disarm();
            this.handed_up = true;
            this.interim = &[];
            if end < new {
                this.hold_back(buf, start + end);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refusal.is_none() && this.state.phase() == Phase::Idle {
            this.refuse(protocol_error::reason(bytes));
            if this.refusal.is_none() {
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        if let Some(refusal) = &mut this.refusal {
            ready!(refusal.poll(cx, &mut this.stream));
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.state.body() == BodyState::Unread && bytes.starts_with(CONTINUE) {
            this.interim = CONTINUE;
            return Poll::Ready(Ok(CONTINUE.len()));
        }
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        match polled {
            Poll::Pending => this.write.check(cx)?,
            Poll::Ready(_) => this.write.disarm(),
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A request that waits for its handler, or for a blob to grow, has no other turn.
        if this.slot.is_closing() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(this.poll_transfer(cx))?;
        if let Stream::Tls(socket) = &mut this.stream {
            let polled = Pin::new(socket.as_mut()).poll_flush(cx)?;
            match polled {
                Poll::Pending => {
                    this.write.check(cx)?;
                    return Poll::Pending;
                }
                Poll::Ready(()) => this.write.disarm(),
            }
        }
        if this.state.phase() != Phase::Answering {
            if this.state.flushed() {
                cx.waker().wake_by_ref();
            }
            // The dispatcher reads again only when something comes, so that a connection becomes idle here. That it is to be
            // closed is found by the read that the wake-up leads to.
            if !this.begun && !this.handed_up && this.slot.idle(cx) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        if polled.is_pending() {
            this.write.check(cx)?;
        }
        polled
    }
}

#[cfg(test)]
mod tests;
