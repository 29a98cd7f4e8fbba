//! The I/O type under actix-http: sends files without copying, and closes clients that are idle, slow or dishonest.
//!
//! actix-http guards the head of a connection's first request and the pause between two requests, and nothing else: a client that never
//! reads, sends the second head a byte a minute, or pipelines, keeps what it holds for ever or confuses the dispatcher
//! (which encodes a response by the flags of the request it decoded *last*). All of that is decided here, below it:
//!
//! - **One request at a time.** Bytes are handed up to the end of one request head; what follows is held back, unread in the
//!   kernel where possible, until the response is complete. A body that nobody takes is therefore never read, one that is taken is
//!   read to its end and no further, and a pipelined request never runs while another does.
//! - **A head arrives within `head_timeout`** of its first byte, on every request of a connection. A line end before it is such a
//!   byte: for actix-http, too, the pause is over then, and nobody else would ever close a connection that ends in one.
//! - **A response makes progress within `write_stall`**, else the connection is cut.
//! - **A request that no handler sees is answered** like one that a handler refuses: what actix-http writes while no request is under
//!   way is replaced by a [`ProtocolErrorResponse`]. Who asked nothing, or still sends the body of a request that was answered, is closed in silence.
//! - **[`Transfer`]s are driven in `poll_flush`**; see `sendfile.rs`.
//!
//! What must not change: while the connection is busy `poll_read` returns `Pending` though there may be something to read; it is
//! `poll_flush`, which the dispatcher calls at the end of each turn, that wakes the task once the response is complete. Without
//! that line a pipelined request would wait for ever.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::header::HeaderValue;
use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::client::{Client, ClientKey};
use crate::http::{
    body_length::BodyLength,
    connection_limit::ConnectionSlot,
    error::ApiError,
    head_end::HeadEnd,
    metrics::{Metrics, OpenConnection},
    protocol_error::{self, ProtocolErrorResponse},
    sendfile::{Progress, Transfer},
    stream::Stream,
};

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) write_stall: Duration,
    pub(crate) disconnect: Duration,
}

/// What the request handler and the connection under it both know. One per connection; a connection never leaves its worker.
pub(crate) struct ConnectionState {
    /// The other end of the socket.
    pub(crate) peer: Option<SocketAddr>,
    /// Whether `GET /v2/` on this listener asks for a password.
    pub(crate) login: bool,
    /// The client that the peer's address is, once it was asked for.
    pub(crate) client: RefCell<Option<Arc<Client>>>,
    /// The client that asked last and what it is called in headers.
    pub(crate) source: RefCell<Option<(ClientKey, HeaderValue)>>,
    busy: Cell<bool>,
    /// From the beginning of a request until the last byte of its answer was flushed, which is later than its end.
    answering: Cell<bool>,
    /// The request has a body that was not read to its end.
    unread: Cell<bool>,
    refused_read: Cell<bool>,
    transfer: RefCell<Option<Transfer>>,
    sent: Cell<u64>,
    /// The rest of a body that somebody takes.
    body: Cell<Option<BodyLength>>,
}

impl ConnectionState {
    pub(crate) fn new(peer: Option<SocketAddr>, login: bool) -> Rc<ConnectionState> {
        Rc::new(ConnectionState {
            peer,
            login,
            client: RefCell::new(None),
            source: RefCell::new(None),
            busy: Cell::new(false),
            answering: Cell::new(false),
            unread: Cell::new(false),
            refused_read: Cell::new(false),
            transfer: RefCell::new(None),
            sent: Cell::new(0),
            body: Cell::new(None),
        })
    }

    /// A request begins, with a body or without: nothing more is read until [`ConnectionState::end`], and what was answered is flushed.
    pub(crate) fn begin(&self, has_body: bool) {
        self.busy.set(true);
        self.answering.set(true);
        self.unread.set(has_body);
        self.sent.set(0);
    }

    /// Its response is complete, or will never be.
    pub(crate) fn end(&self) {
        self.busy.set(false);
        self.body.set(None);
        self.transfer.borrow_mut().take();
    }

    /// Somebody takes the body of this request: it is read, up to its end.
    pub(crate) fn take_body(&self, framing: BodyLength) {
        self.body.set(Some(framing));
    }

    /// Hands over a body for [`Connection`] to send once the head is out.
    pub(crate) fn send(&self, transfer: Transfer) {
        *self.transfer.borrow_mut() = Some(transfer);
    }

    /// Whether what was handed over is still being sent.
    pub(crate) fn is_sending(&self) -> bool {
        self.transfer.borrow().is_some()
    }

    /// Bytes of the current transfer that are with the kernel.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }
}

/// A timer that is armed when waiting begins and forgotten when something happens.
struct StallTimer {
    patience: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl StallTimer {
    fn new(patience: Duration) -> StallTimer {
        StallTimer { patience, sleep: None, armed: false }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Waiting goes on. Fails when it has gone on for too long.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        if !self.armed {
            self.armed = true;
            sleep.as_mut().reset(Instant::now() + self.patience);
        }
        if sleep.as_mut().poll(cx).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// A client's connection.
pub(crate) struct Connection {
    stream: Stream,
    shared: Rc<ConnectionState>,
    scan: HeadEnd,
    /// Something arrived behind the last head, if only an empty line.
    begun: bool,
    /// A whole head was handed up and its request has not begun yet.
    handed_up: bool,
    /// Bytes behind the head that was handed up.
    held: BytesMut,
    /// How the head that was handed up last begins.
    opening: Vec<u8>,
    refusal: Option<ProtocolErrorResponse>,
    head: StallTimer,
    write: StallTimer,
    disconnect: Duration,
    metrics: Metrics,
    _open: OpenConnection,
    _slot: ConnectionSlot,
}

impl Connection {
    pub(crate) fn new(
        stream: Stream,
        shared: Rc<ConnectionState>,
        patience: Patience,
        metrics: &Metrics,
        slot: ConnectionSlot,
    ) -> Connection {
        Connection {
            stream,
            shared,
            scan: HeadEnd::Before,
            begun: false,
            handed_up: false,
            held: BytesMut::new(),
            opening: Vec::new(),
            refusal: None,
            head: StallTimer::new(patience.head),
            write: StallTimer::new(patience.write_stall),
            disconnect: patience.disconnect,
            _open: metrics.open(),
            metrics: metrics.clone(),
            _slot: slot,
        }
    }

    /// For the request handler.
    pub(crate) fn shared(&self) -> Rc<ConnectionState> {
        self.shared.clone()
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

    /// Reads of a body that somebody takes, and nothing behind it.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut framing: BodyLength,
    ) -> Poll<io::Result<()>> {
        if framing.is_over() {
            self.shared.body.set(None);
            // As when there is no body: what follows waits until this request is answered.
            self.shared.refused_read.set(true);
            return Poll::Pending;
        }
        let start = buf.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            self.give_held(buf);
        }
        let new = buf.filled().len() - start;
        let body = framing.feed(&buf.filled()[start..]);
        self.shared.body.set(Some(framing));
        self.shared.unread.set(!framing.is_over());
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
    fn refuse(&mut self, failure: &ApiError) {
        if self.shared.unread.get() || self.opening.trim_ascii().is_empty() {
            return;
        }
        let (shared, metrics) = (self.shared.clone(), self.metrics.clone());
        self.refusal = Some(ProtocolErrorResponse::new(failure, &self.opening, shared, metrics, self.disconnect));
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slot = self.shared.transfer.borrow_mut();
        let Some(transfer) = slot.as_mut() else { return Poll::Ready(Ok(())) };
        let (progress, count) = transfer.poll(cx, &mut self.stream).inspect_err(|error| {
            // The rest are clients that left.
            if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::UnexpectedEof) {
                self.metrics.cut();
                tracing::warn!(target: "weir::http", %error, "a response was cut short");
            }
        })?;
        self.shared.sent.set(self.shared.sent.get() + count);
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
        if this.shared.busy.get()
            && let Some(framing) = this.shared.body.get()
        {
            this.handed_up = false;
            return this.poll_body(cx, buf, framing);
        }
        if this.shared.busy.get() || this.shared.answering.get() || this.handed_up {
            this.handed_up = false;
            // With nothing there, interest in more is registered and no wake-up is owed: one turn of the dispatcher less
            // for each request that is not pipelined.
            let more = match &this.stream {
                Stream::Plain(socket) => !this.held.is_empty() || socket.poll_read_ready(cx).is_ready(),
                Stream::Tls(_) => true,
            };
            this.shared.refused_read.set(more);
            return Poll::Pending;
        }
        let start = buf.filled().len();
        if this.held.is_empty() {
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            if polled.is_pending()
                && this.begun
                && let Err(late) = this.head.check(cx)
            {
                this.refuse(&ApiError::HeadTimeout);
                if let Some(refusal) = &mut this.refusal {
                    ready!(refusal.poll(cx, &mut this.stream));
                }
                return Poll::Ready(Err(late));
            }
            ready!(polled)?;
        } else {
            this.give_held(buf);
        }
        let new = buf.filled().len() - start;
        this.note(&buf.filled()[start..]);
        let end = this.scan.feed(&buf.filled()[start..]);
        this.begun = end.is_none() && (new > 0 || this.begun);
        if let Some(end) = end {
            this.head.disarm();
            this.handed_up = true;
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
        if this.refusal.is_none() && !this.shared.answering.get() {
            this.refuse(&protocol_error::reason(bytes));
            if this.refusal.is_none() {
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        if let Some(refusal) = &mut this.refusal {
            ready!(refusal.poll(cx, &mut this.stream));
            return Poll::Ready(Ok(bytes.len()));
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
        if !this.shared.busy.get() {
            this.shared.answering.set(false);
            if this.shared.refused_read.replace(false) {
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
