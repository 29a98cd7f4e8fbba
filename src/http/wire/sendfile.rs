//! One large body on its way from a reader to a socket, without passing through a buffer of ours where that can be helped.
//!
//! actix-http copies every piece of a body into one write buffer. A blob goes around that: its `MessageBody` puts a [`Transfer`]
//! into the connection's shared state and stays pending; the dispatcher writes the response's head, finds nothing more to write and calls
//! `poll_flush` of our [`Connection`](super::connection::Connection), which drives the transfer. The head is therefore always out
//! before the first byte of the body, and the next response cannot begin before the last. That order (write everything, then
//! `poll_flush`) is actix-http's, so its minor version is pinned by the lock file and by the tests of `server.rs`.
//!
//! What must not change: an error here must end the connection and never the body. The head has promised a length; a client that
//! gets fewer bytes and a closed connection knows that it has not got the blob.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncWrite as _, Interest},
    net::TcpStream,
    task::JoinHandle,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;

use super::stream::Stream;
use crate::mirror::{Extent, Stopped};

/// Bytes that one connection may send before the others of its worker get their turn.
const TURN: u64 = 1 << 20;

/// Bytes of an arriving blob that a client gets before it has to wait for the blob to grow, even when more are there.
///
/// When a blob begins to arrive, all who wait for it are woken at once, and each gets this much before any is woken again: a
/// wake-up from the writer's thread goes to the end of the worker's line. One from this thread goes to its head, so that
/// without this pause the first few are sent megabytes while the last of a thousand have nothing.
const FIRST_TURN: u64 = 32 << 10;

/// How long a client waits for that at most: a blob that stalls must not keep back what did arrive.
const PAUSE: Duration = Duration::from_millis(100);

/// How far ahead pages are brought into memory when they are not there.
const READ_AHEAD: u64 = 1 << 20;

/// Read from a file at once for a TLS connection: several records, and a buffer that a thousand connections can have.
const TLS_READ: usize = 128 << 10;

/// The next extent from an offset to an end, as [`crate::mirror::Reader::poll_extent`] gives it.
pub(crate) type Source = Box<dyn FnMut(&mut Context<'_>, u64, u64) -> Poll<Result<Extent, Stopped>>>;

/// Some bytes of one blob, being sent.
pub(crate) struct Transfer {
    source: Source,
    offset: u64,
    end: u64,
    /// Where a client that reads an arriving blob lets all others go first; `None` when that is behind it.
    first_turn_ends: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    extent: Option<Extent>,
    /// Pages before this offset were found in memory or brought there.
    resident: u64,
    warming: Option<JoinHandle<()>>,
    /// What was read of a file for TLS and is not yet written.
    buffer: Vec<u8>,
    written: usize,
}

/// How far a call got.
pub(crate) enum Progress {
    /// Everything is with the kernel or with rustls.
    Done,
    /// Nothing more to send until the blob grows or its pages are read; the waker is registered.
    Starved,
    /// The client does not take any more for now; the waker is registered.
    Blocked,
    /// The turn is over; the waker was called.
    Yielded,
}

impl Transfer {
    /// The bytes from `start` to `end` of what `source` gives.
    pub(crate) fn new(source: Source, start: u64, end: u64) -> Transfer {
        Transfer {
            source,
            offset: start,
            end,
            first_turn_ends: Some(start + FIRST_TURN),
            pause: None,
            extent: None,
            resident: start,
            warming: None,
            buffer: Vec::new(),
            written: 0,
        }
    }

    /// Sends what can be sent now, and says how many bytes that were.
    ///
    /// # Errors
    /// When the client is gone, the blob stopped arriving, or the file is shorter than it should be. The connection must be cut.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> io::Result<(Progress, u64)> {
        let start = self.offset;
        let result = self.send(cx, stream);
        result.map(|progress| (progress, self.offset - start))
    }

    fn send(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> io::Result<Progress> {
        let turn_ends = self.offset + TURN;
        while self.offset < self.end {
            if self.offset >= turn_ends {
                cx.waker().wake_by_ref();
                return Ok(Progress::Yielded);
            }
            let extent = match self.extent.take() {
                Some(extent) => extent,
                None => match (self.source)(cx, self.offset, self.end) {
                    Poll::Pending => return Ok(Progress::Starved),
                    Poll::Ready(Ok(extent)) => extent,
                    Poll::Ready(Err(stopped)) => return Err(io::Error::other(stopped)),
                },
            };
            if self.waits_its_turn(cx, &extent) {
                self.extent = Some(extent);
                return Ok(Progress::Starved);
            }
            if let Extent::File { file, offset, length } = &extent
                && self.poll_resident(cx, file, *offset, *length).is_pending()
            {
                self.extent = Some(extent);
                return Ok(Progress::Starved);
            }
            let most = turn_ends.min(self.first_turn_ends.unwrap_or(turn_ends)) - self.offset;
            let sent = match (&extent, &mut *stream) {
                (Extent::File { file, offset, length }, Stream::Plain(socket)) => {
                    send_file(cx, socket, file, *offset, (*length).min(most))
                }
                (Extent::File { file, offset, length }, Stream::Tls(socket)) => {
                    self.send_copied(cx, socket, file, *offset, (*length).min(most))
                }
                (Extent::Bytes(bytes), stream) => Pin::new(stream).poll_write(cx, bytes),
            };
            match sent {
                Poll::Pending => {
                    self.extent = Some(extent);
                    return Ok(Progress::Blocked);
                }
                // A file that ends early was truncated under us; an empty extent breaks the reader's promise. Either way the
                // client must not wait for the rest for ever.
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(count)) => {
                    self.offset += count as u64;
                    self.extent = rest(extent, count);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(Progress::Done)
    }

    /// Whether the first turn is over and the blob has not grown since. All that is wanted being here, there is no first turn.
    fn waits_its_turn(&mut self, cx: &mut Context<'_>, extent: &Extent) -> bool {
        let readable = match extent {
            Extent::File { offset, length, .. } if offset + length < self.end => offset + length,
            _ => {
                self.first_turn_ends = None;
                return false;
            }
        };
        if self.first_turn_ends.is_none_or(|end| self.offset < end) {
            return false;
        }
        let patience = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
        if (self.source)(cx, readable, self.end).is_pending() && patience.as_mut().poll(cx).is_pending() {
            return true;
        }
        (self.first_turn_ends, self.pause) = (None, None);
        false
    }

    /// Over TLS: reads a piece into the buffer and writes from there until it is empty.
    fn send_copied(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TlsStream<TcpStream>,
        file: &File,
        offset: u64,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        if self.written == self.buffer.len() {
            self.buffer.resize(TLS_READ.min(usize::try_from(most).unwrap_or(TLS_READ)), 0);
            self.written = 0;
            let count = match file.read_at(&mut self.buffer, offset) {
                Ok(count) => count,
                Err(error) => {
                    self.buffer.clear();
                    return Poll::Ready(Err(error));
                }
            };
            self.buffer.truncate(count);
        }
        let count = ready!(Pin::new(socket).poll_write(cx, &self.buffer[self.written..]))?;
        self.written += count;
        Poll::Ready(Ok(count))
    }

    /// Whether the next pages can be sent without waiting for the disk, which would hold up every connection of this worker; if they
    /// cannot, reads them on a thread that may wait. Costs two system calls a window when everything is in memory.
    fn poll_resident(&mut self, cx: &mut Context<'_>, file: &Arc<File>, offset: u64, length: u64) -> Poll<()> {
        if let Some(warming) = &mut self.warming {
            // Should reading fail, then sending fails as well and says so.
            let _ = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
            self.resident = self.offset + READ_AHEAD.min(length);
        }
        if self.offset < self.resident {
            return Poll::Ready(());
        }
        let window = READ_AHEAD.min(length);
        if is_resident(file, offset) && is_resident(file, offset + window - 1) {
            self.resident = self.offset + window;
            return Poll::Ready(());
        }
        let file = file.clone();
        let mut warming = tokio::task::spawn_blocking(move || {
            let mut page = vec![0; 64 << 10];
            let mut at = offset;
            while at < offset + window {
                match file.read_at(&mut page, at) {
                    Ok(count) if count > 0 => at += count as u64,
                    _ => break,
                }
            }
        });
        let polled = Pin::new(&mut warming).poll(cx);
        if polled.is_ready() {
            self.resident = self.offset + window;
            return Poll::Ready(());
        }
        self.warming = Some(warming);
        Poll::Pending
    }
}

/// Whether the page of this byte is in memory. A file system that cannot tell is taken to say yes.
fn is_resident(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, rustix::io::ReadWriteFlags::NOWAIT);
    !matches!(read, Err(rustix::io::Errno::AGAIN))
}

fn send_file(cx: &mut Context<'_>, socket: &TcpStream, file: &File, offset: u64, most: u64) -> Poll<io::Result<usize>> {
    let count = usize::try_from(most).unwrap_or(usize::MAX);
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let mut at = offset;
            rustix::fs::sendfile(socket.as_fd(), file.as_fd(), Some(&mut at), count).map_err(io::Error::from)
        });
        match sent {
            // Readiness was stale; asking again registers the waker.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// What is left of an extent after `count` bytes of it.
fn rest(extent: Extent, count: usize) -> Option<Extent> {
    match extent {
        Extent::File { file, offset, length } => {
            let count = count as u64;
            (count < length).then(|| Extent::File { file, offset: offset + count, length: length - count })
        }
        Extent::Bytes(mut bytes) => (count < bytes.len()).then(|| {
            let _ = bytes.split_to(count);
            Extent::Bytes(bytes)
        }),
    }
}
