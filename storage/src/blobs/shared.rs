//! What the writer of an arriving blob and all its readers share: the file, how far it may be read, and how it ended.
//!
//! # What this guarantees
//! Readers never see a byte at or beyond `readable`, which only grows while the blob arrives and becomes the whole size
//! only by [`SharedBlob::finish`], which is called after the digest was verified and nowhere else. An end has three names,
//! whole, stopped and unwritable; the owner of the arrival must reach one of them, and does so in its `Drop` if not before.
//!
//! # Unwritable
//! When the disk fails in the middle, what was written may be read to its end, and the hash of it is kept: a reader that can have
//! the rest from elsewhere goes on there, and verifies the whole. The last bytes are then among those that come from elsewhere.
//!
//! # Waking
//! A reader that has caught up leaves one waker, under its own number, so that polling twice does not leave two and a
//! reader that goes away leaves none. To publish takes all wakers at once and wakes them outside the lock; a reader that
//! is busy sending is not woken. The writer paces itself by how many it woke (see `write`).
//!
//! # Scope
//! Nothing here reads or writes the file.

use std::{
    collections::HashMap,
    fs::File,
    mem,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use super::in_use::{Hold, Usable};
use crate::oci::Hasher;
use crate::sync::{AtomicU8, AtomicU64, Mutex, MutexGuard, Ordering};

/// The bytes at the end of an arriving blob that no reader gets before the digest is verified.
pub const HOLD_BACK: u64 = 64 * 1024;

/// Stands for a size that is not known yet.
pub(crate) const UNKNOWN: u64 = u64::MAX;

const ARRIVING: u8 = 0;
const WHOLE: u8 = 1;
const STOPPED: u8 = 2;
const UNWRITABLE: u8 = 3;

/// Why an arriving blob stopped; the connection must be cut, never ended cleanly.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the blob stopped arriving: {0}")]
pub struct Stopped(pub Arc<str>);

#[derive(Debug)]
pub(crate) struct SharedBlob {
    pub(crate) file: Arc<File>,
    size: AtomicU64,
    readable: AtomicU64,
    phase: AtomicU8,
    next: AtomicU64,
    // Held for one insertion or one swap; never across a wake.
    waiting: Mutex<Waiting>,
    // Keeps eviction away for as long as the blob is read or written.
    _hold: Hold<SharedBlob>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: HashMap<u64, Waker>,
    stopped: Option<Stopped>,
    /// Where the disk failed, and the hash of all bytes before.
    unwritable: Option<(u64, Hasher)>,
}

impl Usable for SharedBlob {
    fn is_usable(&self) -> bool {
        !self.is_stopped()
    }

    fn is_settled(&self) -> bool {
        self.is_whole()
    }
}

impl SharedBlob {
    /// A blob of which nothing may be read yet.
    pub(crate) fn new(file: Arc<File>, size: Option<u64>, hold: Hold<SharedBlob>) -> SharedBlob {
        SharedBlob {
            file,
            size: AtomicU64::new(size.unwrap_or(UNKNOWN)),
            readable: AtomicU64::new(0),
            phase: AtomicU8::new(ARRIVING),
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
            _hold: hold,
        }
    }

    /// A blob that is whole already.
    pub(crate) fn whole(file: Arc<File>, size: u64, hold: Hold<SharedBlob>) -> SharedBlob {
        let shared = SharedBlob::new(file, Some(size), hold);
        shared.finish(size);
        shared
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn size(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Acquire)).filter(|size| *size != UNKNOWN)
    }

    pub(crate) fn announce(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    pub(crate) fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.phase.load(Ordering::Acquire) == WHOLE
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), STOPPED | UNWRITABLE)
    }

    /// A number for one more reader.
    pub(crate) fn join(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn leave(&self, reader: u64) {
        // A whole blob has no wakers: the warm path takes no lock when it ends.
        if self.phase.load(Ordering::Acquire) == ARRIVING {
            self.waiting().wakers.remove(&reader);
        }
    }

    /// Readers that wait for more bytes at this moment.
    pub(crate) fn waiting_readers(&self) -> usize {
        self.waiting().wakers.len()
    }

    /// How far from `written` bytes may be read before the blob is verified.
    ///
    /// The last bytes stay hidden, so that no client can ever hold a complete body that turns out to be corrupt. Of a
    /// blob of unknown size any byte may be among the last, so it is the newest that are hidden.
    pub(crate) fn publishable(&self, written: u64) -> u64 {
        let end = self.size().unwrap_or(written);
        written.min(end.saturating_sub(HOLD_BACK))
    }

    /// Lets readers have what may be read of `written` bytes; returns how many were woken.
    pub(crate) fn publish(&self, written: u64) -> usize {
        let mut waiting = self.waiting();
        self.readable.fetch_max(self.publishable(written), Ordering::AcqRel);
        wake(mem::take(&mut waiting.wakers), waiting)
    }

    /// The digest is verified: everything may be read.
    pub(crate) fn finish(&self, size: u64) {
        let mut waiting = self.waiting();
        self.size.store(size, Ordering::Release);
        self.readable.store(size, Ordering::Release);
        self.phase.store(WHOLE, Ordering::Release);
        wake(mem::take(&mut waiting.wakers), waiting);
    }

    /// It will not be whole. The first reason stays; a whole blob stays whole.
    pub(crate) fn stop(&self, why: Arc<str>) {
        let mut waiting = self.waiting();
        if self.phase.load(Ordering::Acquire) == ARRIVING {
            waiting.stopped = Some(Stopped(why));
            self.phase.store(STOPPED, Ordering::Release);
        }
        wake(mem::take(&mut waiting.wakers), waiting);
    }

    /// The disk takes no more; all of the `written` bytes may be read, and `hasher` has taken them.
    pub(crate) fn stop_writing(&self, written: u64, hasher: Hasher, why: Arc<str>) {
        // Bytes that could be the last are given after they are verified only.
        if self.size().is_none_or(|size| written >= size) {
            return self.stop(why);
        }
        let mut waiting = self.waiting();
        if self.phase.load(Ordering::Acquire) == ARRIVING {
            waiting.stopped = Some(Stopped(why));
            waiting.unwritable = Some((written, hasher));
            self.readable.fetch_max(written, Ordering::AcqRel);
            self.phase.store(UNWRITABLE, Ordering::Release);
        }
        wake(mem::take(&mut waiting.wakers), waiting);
    }

    /// Where the disk failed, and the hash of all bytes before.
    pub(crate) fn unwritable(&self) -> Option<(u64, Hasher)> {
        self.waiting().unwritable.clone()
    }

    /// The whole blob turned out to be corrupt: its readers stop where they are.
    pub(crate) fn condemn(&self, why: Arc<str>) {
        let mut waiting = self.waiting();
        waiting.stopped = Some(Stopped(why));
        self.phase.store(STOPPED, Ordering::Release);
        wake(mem::take(&mut waiting.wakers), waiting);
    }

    /// Waits until something after `offset` may be read; gives the end of it. At the end of a blob whose size was not
    /// known it gives `offset` itself.
    pub(crate) fn poll_readable(&self, reader: u64, cx: &mut Context<'_>, offset: u64) -> Poll<Result<u64, Stopped>> {
        if let Some(answer) = self.look(offset) {
            return Poll::Ready(answer);
        }
        let mut waiting = self.waiting();
        if let Some(stopped) = &waiting.stopped {
            return Poll::Ready(Err(stopped.clone()));
        }
        // Between the first look and the lock it may have been published, and no publisher would wake this reader for it.
        if let Some(answer) = self.look(offset) {
            return Poll::Ready(answer);
        }
        waiting.wakers.insert(reader, cx.waker().clone());
        Poll::Pending
    }

    fn look(&self, offset: u64) -> Option<Result<u64, Stopped>> {
        let phase = self.phase.load(Ordering::Acquire);
        let readable = self.readable();
        (phase != STOPPED && (readable > offset || phase == WHOLE)).then_some(Ok(readable.max(offset)))
    }
}

fn wake(wakers: HashMap<u64, Waker>, guard: MutexGuard<'_, Waiting>) -> usize {
    drop(guard);
    let count = wakers.len();
    wakers.into_values().for_each(Waker::wake);
    count
}
