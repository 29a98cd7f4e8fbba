//! The writer's three steps, reserve, append, commit, as the fill that drives them sees them.
//!
//! What is behind the channel is `ingest`: one blocking thread per arriving blob. `append` hands bytes over and comes back at
//! once while less than the write buffer waits for the disk, so that a blob costs no round trip per piece of 16 KiB.

use std::sync::{
    Arc, Mutex, PoisonError,
    mpsc::{self, Sender},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::{Arriving, Error, Reader, arriving::Shared, core::blocking, ingest::Ingest, store::Store};

/// One blob on its way to the disk. Dropping it is a failure that every reader learns of; the partial file stays to be resumed.
///
/// The thread behind it ends with it, and does what was asked last even when the future that asked is dropped.
#[derive(Debug)]
pub struct Writer {
    pub(crate) line: Sender<Message>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) room: Arc<Room>,
    pub(crate) written: u64,
}

/// What waits for the disk, and why nothing does any more.
#[derive(Debug)]
pub(crate) struct Room {
    /// One permit is one byte of the write buffer.
    pub(crate) permits: Semaphore,
    pub(crate) bound: u32,
    // Held to put or take one value.
    failure: Mutex<Option<Error>>,
}

#[derive(Debug)]
pub(crate) enum Message {
    /// Bytes, and the permits they took.
    Append(Bytes, u32),
    Announce(u64, oneshot::Sender<Result<(), Error>>),
    Commit(oneshot::Sender<Result<(), Error>>),
    Abandon {
        why: Arc<str>,
        keep: bool,
        done: oneshot::Sender<()>,
    },
}

impl Room {
    pub(crate) fn new(bound: u64) -> Room {
        let bound = u32::try_from(bound).unwrap_or(u32::MAX).clamp(64 * 1024, 1 << 30);
        Room { permits: Semaphore::new(bound as usize), bound, failure: Mutex::default() }
    }

    /// Nothing is taken any more, and this is why.
    pub(crate) fn close(&self, failure: Option<Error>) {
        let mut slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = slot.take().or(failure);
        drop(slot);
        self.permits.close();
    }

    fn failure(&self) -> Error {
        let slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map_or_else(|| Error::vanished("write"), Error::again)
    }
}

impl Writer {
    pub(crate) async fn begin(store: &Store, digest: crate::oci::Digest, expected: Option<u64>) -> Result<Self, Error> {
        let core = store.core().clone();
        let (writer, ingest) = blocking("open", move || Ingest::begin(&core, digest, expected)).await?;
        // Not awaited: it ends when the writer is dropped, at the latest.
        drop(tokio::task::spawn_blocking(move || ingest.run()));
        Ok(writer)
    }

    /// Bytes that an earlier attempt left and that are in place and hashed already: where to go on.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// A reader from byte 0 of what arrives; any number of them, at their own pace.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.shared)
    }

    /// A handle that gives more readers while somebody else drives the writer.
    pub fn arriving(&self) -> Arriving {
        Arriving(self.shared.clone())
    }

    /// Says how large the blob is, once upstream's headers told; reserves it when `writer()` could not.
    ///
    /// # Errors
    /// [`Error::WrongSize`] when another size was announced or more bytes are here already; [`Error::Full`]. The readers stop.
    pub async fn announce(&mut self, size: u64) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Message::Announce(size, done))?;
        answer.await.unwrap_or_else(|_| Err(self.room.failure()))
    }

    /// Appends, hashes, and publishes all but the last [`crate::HOLD_BACK`] bytes of the announced size.
    ///
    /// Waits while the write buffer is full. Dropping the future before it is done may have taken a part of `bytes`: then the
    /// writer is to be dropped as well.
    ///
    /// # Errors
    /// What went wrong with these or earlier bytes; the writer is of no more use and its readers know.
    pub async fn append(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.room.bound as usize / 2));
            // A tiny piece costs its place in the queue, too.
            let cost = (piece.len() as u32).max(1024);
            match self.room.permits.acquire_many(cost).await {
                Ok(permit) => permit.forget(),
                Err(_closed) => return Err(self.room.failure()),
            }
            self.send(Message::Append(piece, cost))?;
        }
        Ok(())
    }

    /// Verifies, releases the last bytes to the readers, syncs the data, renames: only then is the blob in the store.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] or [`Error::WrongSize`]: nothing is kept and the readers fail. [`Error::Io`]: when it was
    /// the sync that failed, the readers got the right bytes and yet nothing is kept.
    pub async fn commit(self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Message::Commit(done))?;
        answer.await.unwrap_or_else(|_| Err(self.room.failure()))
    }

    /// Gives up: readers learn `why` at once. `keep` leaves the partial file for a later attempt.
    pub async fn abandon(self, why: Arc<str>, keep: bool) {
        // The readers need not wait for what is still on its way to the disk.
        self.shared.stop(why.clone());
        let (done, answer) = oneshot::channel();
        if self.send(Message::Abandon { why, keep, done }).is_ok() {
            // A thread that is gone has cleaned up.
            let _ = answer.await;
        }
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        self.line.send(message).map_err(|_| self.room.failure())
    }
}

/// The two ends of the line between a writer and its thread.
pub(crate) fn line() -> (Sender<Message>, mpsc::Receiver<Message>) {
    // Unbounded in messages and bounded by the permits that each of them took.
    mpsc::channel()
}
