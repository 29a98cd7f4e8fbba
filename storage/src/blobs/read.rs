//! Reading one blob by position, whole, still arriving, or only passing through.

use std::{
    fmt,
    fs::File,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::shared::{SharedBlob, Stopped, UNKNOWN};
use crate::oci::Hasher;

/// Some bytes of a blob, ready to be sent.
#[derive(Clone, Debug)]
pub enum Extent {
    /// `length` bytes at `offset` of an open file, to be sent without copying.
    File {
        /// The blob's file. It stays readable when the blob is evicted or renamed.
        file: Arc<File>,
        /// Where the extent begins, in bytes from the beginning of the blob.
        offset: u64,
        /// Its length in bytes, at least 1.
        length: u64,
    },
    /// Bytes that never touched the disk, or that live in another store.
    Bytes(Bytes),
}

/// Reads one blob by position, and holds it against eviction while it lives.
///
/// It is not `Clone`: bytes that pass through come once. More readers of an arriving blob come from [`crate::Arriving`].
#[derive(Debug)]
pub struct Reader(Origin);

/// The rest of a blob from elsewhere: given where it begins and the hash of all bytes before, a reader that begins there.
pub type Rest = Box<dyn FnOnce(u64, Hasher) -> Reader + Send + Sync>;

enum Origin {
    File { shared: Arc<SharedBlob>, number: u64, rest: Option<Rest> },
    Passing(Passing),
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { shared, number, .. } => write!(f, "File {{ {shared:?}, {number} }}"),
            Origin::Passing(passing) => passing.fmt(f),
        }
    }
}

#[derive(Debug)]
struct Passing {
    size: u64,
    position: u64,
    rest: Bytes,
    bytes: mpsc::Receiver<Result<Bytes, Stopped>>,
}

impl Reader {
    pub(crate) fn of(shared: &Arc<SharedBlob>) -> Reader {
        Reader(Origin::File { shared: shared.clone(), number: shared.join(), rest: None })
    }

    /// A reader over bytes that are passed through: the disk is full, or a range far ahead of the fill was asked.
    ///
    /// `size` is that of the blob in bytes, `start` the offset of the first byte that will come. Extents come in order
    /// only: an offset before that of the last extent is [`Stopped`], one after it skips. A channel that closes
    /// early is a failure, never an end.
    pub fn passing(size: u64, start: u64, bytes: mpsc::Receiver<Result<Bytes, Stopped>>) -> Reader {
        Reader(Origin::Passing(Passing { size, position: start, rest: Bytes::new(), bytes }))
    }

    /// The size of the blob in bytes, as announced by upstream or as it is on disk; `u64::MAX` while it is not known, which a
    /// `Content-Length` must not say.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Origin::File { shared, .. } => shared.size().unwrap_or(UNKNOWN),
            Origin::Passing(passing) => passing.size,
        }
    }

    /// Whether the blob is whole and verified now. Never so for what passes through.
    pub fn is_whole(&self) -> bool {
        match &self.0 {
            Origin::File { shared, .. } => shared.is_whole(),
            Origin::Passing(_) => false,
        }
    }

    /// How many bytes from 0 may be read now; for what passes through, the offset of the next byte.
    pub fn readable(&self) -> u64 {
        match &self.0 {
            Origin::File { shared, .. } => shared.readable(),
            Origin::Passing(passing) => passing.position,
        }
    }

    /// The next extent at `offset`, ending at `end` at the latest; waits until at least one byte may be read.
    ///
    /// `offset < end <= size`. Only of a blob whose size was unknown may `end` lie behind its end, and there the empty
    /// [`Extent::Bytes`] says that it is over.
    ///
    /// # Errors
    /// [`Stopped`], at once for every reader, even when bytes before the failure were not read yet.
    pub fn poll_extent(&mut self, cx: &mut Context<'_>, offset: u64, end: u64) -> Poll<Result<Extent, Stopped>> {
        let (stopped, resumed) = match &mut self.0 {
            Origin::File { shared, number, rest } => match ready!(shared.poll_readable(*number, cx, offset)) {
                Ok(readable) => {
                    return Poll::Ready(Ok(match readable.min(end).saturating_sub(offset) {
                        0 => Extent::Bytes(Bytes::new()),
                        length => Extent::File { file: shared.file.clone(), offset, length },
                    }));
                }
                Err(stopped) => (stopped, shared.unwritable().zip(rest.take())),
            },
            Origin::Passing(passing) => return passing.poll(cx, offset, end),
        };
        let Some(((at, hasher), rest)) = resumed else { return Poll::Ready(Err(stopped)) };
        *self = rest(at, hasher);
        self.poll_extent(cx, offset, end)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Origin::File { shared, number, .. } = &self.0 {
            shared.leave(*number);
        }
    }
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>, offset: u64, end: u64) -> Poll<Result<Extent, Stopped>> {
        let stopped = |why: &str| Poll::Ready(Err(Stopped(Arc::from(why))));
        if offset < self.position {
            return stopped("bytes that pass through cannot be read twice");
        }
        loop {
            let skip = self.rest.len().min(usize::try_from(offset - self.position).unwrap_or(usize::MAX));
            drop(self.rest.split_to(skip));
            self.position += skip as u64;
            if !self.rest.is_empty() {
                let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
                // It stays until the next is asked for: who only looked whether something came may read it again.
                return Poll::Ready(Ok(Extent::Bytes(self.rest.slice(..wanted.min(self.rest.len())))));
            }
            match ready!(self.bytes.poll_recv(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(why)) => return Poll::Ready(Err(why)),
                None => return stopped("upstream ended early"),
            }
        }
    }
}

/// A blob under way, as something to hand out readers from. Cloning is one atomic increment.
///
/// It keeps the blob's file open and keeps eviction away from it, so it is let go when the fill is over.
#[derive(Clone, Debug)]
pub struct Arriving(pub(crate) Arc<SharedBlob>);

impl Arriving {
    /// One more reader, from byte 0, at its own pace.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.0)
    }

    /// As [`Arriving::reader`]; when the disk fails before the blob is whole, the reader goes on with `rest` where writing ended.
    pub fn reader_or(&self, rest: Rest) -> Reader {
        Reader(Origin::File { shared: self.0.clone(), number: self.0.join(), rest: Some(rest) })
    }

    /// Whether it ended without being whole; its readers get the reason.
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }

    /// How many bytes from 0 may be read now.
    pub fn readable(&self) -> u64 {
        self.0.readable()
    }

    /// Readers that wait for more bytes at this moment. Takes the lock of those that begin to wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting_readers()
    }

    /// Tells its readers that it will not be whole, unless it is: for a writer that the disk keeps from saying so.
    pub fn stop(&self, why: Arc<str>) {
        self.0.stop(why);
    }
}
