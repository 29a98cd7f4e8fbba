//! Writing one blob: reserve, append, verify, release, sync, rename, in this order and in this file.
//!
//! # What this guarantees
//! * A file appears under `blobs/` only after its digest was verified and its data synced, in that order, by the rename at
//!   the end of [`Ingest::finish`]. Without the sync a power cut would leave zeros under the name of a digest.
//! * The last bytes are released when the digest is verified and before the sync: clients do not wait for the disk.
//! * A sync that failed is not tried again. The kernel reports lost pages once, and a second sync would say that all is well.
//! * When the disk fails, the readers may have what was written, and the rest from elsewhere: [`SharedBlob::stop_writing`].
//! * However this ends, by error, panic, or because the writer was dropped, the readers get the outcome, and the file is renamed,
//!   left to be resumed, or removed; its bytes of the capacity go with it. That is [`Drop`].
//!
//! # Two ends
//! [`Writer`] is the end that a fill holds. Behind it is one blocking thread per arriving blob, [`Ingest`]: it reserves in
//! [`Ingest::begin`], appends in [`Ingest::append`], and does the rest in [`Ingest::finish`]. [`Writer::append`] hands bytes over
//! and comes back at once while less than the write buffer waits for the disk, so that a blob costs no round trip per piece of
//! 16 KiB.
//!
//! # Pace
//! What waits in the queue is written in one call and published at once, but after many readers were woken no sooner than
//! they can have done something with it: a thousand wake-ups for every 16 KiB would be all that two cores do. The pause is
//! 20 µs per reader woken, between 1 and 20 ms. The first bytes never wait.
//!
//! # Scope
//! Where the bytes come from and whether to try again is the fill's business.

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, error, warn};

use super::{
    in_use::InUse,
    partial::{Idle, Partials},
    read::{Arriving, Reader},
    shared::SharedBlob,
};
use crate::{
    Error,
    capacity::{Capacity, Reservation},
    files::{Files, Kind, blocking},
    oci::{Digest, Hasher},
};

/// Written in one call, at most.
const BATCH: usize = 1 << 20;

/// Write-back is asked for each time so much has come, so that the sync at the end finds little to do.
const WRITEBACK: u64 = 8 << 20;

/// Of an unknown size so much is reserved at a time.
const GROWTH: u64 = 8 << 20;

/// What a blob is written to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) files: Arc<Files>,
    pub(super) capacity: Arc<Capacity>,
    pub(super) in_use: InUse<SharedBlob>,
    pub(super) partials: Arc<Partials>,
    /// Bytes that may wait for the disk.
    pub(super) write_buffer: u64,
}

/// One blob on its way to the disk. Dropping it is a failure that every reader learns of; the partial file stays to be resumed.
///
/// The thread behind it ends with it, and does what was asked last even when the future that asked is dropped.
#[derive(Debug)]
pub struct Writer {
    messages: Sender<Message>,
    shared: Arc<SharedBlob>,
    buffer: Arc<WriteBuffer>,
    written: u64,
}

/// What waits for the disk, and why nothing does any more.
#[derive(Debug)]
struct WriteBuffer {
    /// One permit is one byte of the write buffer.
    permits: Semaphore,
    bound: u32,
    // Held to put or take one value.
    failure: Mutex<Option<Error>>,
}

#[derive(Debug)]
enum Message {
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

impl WriteBuffer {
    fn new(bound: u64) -> WriteBuffer {
        let bound = u32::try_from(bound).unwrap_or(u32::MAX).clamp(64 * 1024, 1 << 30);
        WriteBuffer { permits: Semaphore::new(bound as usize), bound, failure: Mutex::default() }
    }

    /// Nothing is taken any more, and this is why.
    fn close(&self, failure: Option<Error>) {
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
    pub(super) async fn begin(target: Target, digest: Digest, expected: Option<u64>) -> Result<Writer, Error> {
        let (writer, ingest) = blocking("open", move || Ingest::begin(target, digest, expected)).await?;
        // Not awaited: it ends when the writer is dropped, at the latest.
        let span = tracing::debug_span!("storage", call = "write");
        drop(tokio::task::spawn_blocking(move || span.in_scope(|| ingest.run())));
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

    /// A handle that gives more readers while another task drives the writer.
    pub fn arriving(&self) -> Arriving {
        Arriving(self.shared.clone())
    }

    /// Says how large the blob is, once upstream's headers say it; reserves it when `writer()` could not.
    ///
    /// # Errors
    /// [`Error::WrongSize`] when another size was announced or more bytes are here already; [`Error::Full`]. The readers stop.
    pub async fn announce(&mut self, size: u64) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Message::Announce(size, done))?;
        answer.await.unwrap_or_else(|_| Err(self.buffer.failure()))
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
            let piece = bytes.split_to(bytes.len().min(self.buffer.bound as usize / 2));
            // A tiny piece costs its place in the queue, too.
            let cost = (piece.len() as u32).max(1024);
            match self.buffer.permits.acquire_many(cost).await {
                Ok(permit) => permit.forget(),
                Err(_closed) => return Err(self.buffer.failure()),
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
        answer.await.unwrap_or_else(|_| Err(self.buffer.failure()))
    }

    /// Gives up: readers learn `why` at once. `keep` leaves the partial file for a later attempt.
    pub async fn abandon(self, why: Arc<str>, keep: bool) {
        // The readers need not wait for what is still on its way to the disk. A thread that failed tells them itself.
        if !self.buffer.permits.is_closed() {
            self.shared.stop(why.clone());
        }
        let (done, answer) = oneshot::channel();
        if self.send(Message::Abandon { why, keep, done }).is_ok() {
            // A thread that is gone has cleaned up.
            let _ = answer.await;
        }
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        self.messages.send(message).map_err(|_| self.buffer.failure())
    }
}

#[derive(Debug)]
struct Ingest {
    target: Target,
    digest: Digest,
    number: u64,
    path: PathBuf,
    file: Arc<File>,
    shared: Arc<SharedBlob>,
    buffer: Arc<WriteBuffer>,
    messages: Receiver<Message>,
    hasher: Hasher,
    written: u64,
    written_back: u64,
    published: Instant,
    pause: Duration,
    // `None` once it became a blob.
    reservation: Option<Reservation>,
    // Whether what is here may be resumed by a later attempt.
    keep: bool,
}

impl Ingest {
    /// Reserves, opens or adopts the file, and hashes what is in it already.
    fn begin(target: Target, digest: Digest, expected: Option<u64>) -> Result<(Writer, Ingest), Error> {
        let hold = target.in_use.hold(&digest);
        let reservation = target.capacity.reserve(expected.unwrap_or(0))?;
        let adopted = target.partials.adopt(&digest, expected.unwrap_or(u64::MAX));
        let (disk, layout) = (&target.files.disk, &target.files.layout);
        let number = adopted.map_or_else(|| layout.unique(), |idle| idle.number);
        let path = layout.partial(&digest, number);
        let existing = if adopted.is_some() { disk.open_to_write(&path)? } else { None };
        let file = Arc::new(existing.map_or_else(|| disk.create(&path), Ok)?);
        // Unbounded in messages, and bounded by the permits that each of them took.
        let (sender, messages) = channel();
        let buffer = Arc::new(WriteBuffer::new(target.write_buffer));
        let shared = Arc::new(SharedBlob::new(file.clone(), expected, hold));
        let mut ingest = Ingest {
            target,
            number,
            path,
            file,
            shared: shared.clone(),
            buffer: buffer.clone(),
            messages,
            hasher: digest.algorithm().hasher(),
            written: 0,
            written_back: 0,
            published: Instant::now(),
            pause: Duration::ZERO,
            reservation: Some(reservation),
            keep: true,
            digest,
        };
        if adopted.is_some() {
            ingest.rehash()?;
        }
        if let Some(expected) = expected {
            ingest.take_blocks(expected)?;
        }
        let written = ingest.written;
        Ok((Writer { messages: sender, shared, buffer, written }, ingest))
    }

    /// Hashes what an earlier attempt wrote. What is wrong in it shows at the end, as what is wrong from upstream does.
    fn rehash(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; BATCH];
        loop {
            match self.target.files.disk.read_at(&self.file, &self.path, &mut buffer, self.written) {
                Ok(0) => break,
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.written += count as u64;
                }
                Err(error) => {
                    warn!(digest = %self.digest, %error, "a partial file cannot be read; it is fetched anew");
                    self.target.files.disk.truncate(&self.file, &self.path, 0)?;
                    self.hasher = self.digest.algorithm().hasher();
                    self.written = 0;
                    break;
                }
            }
        }
        self.account(0)?;
        debug!(digest = %self.digest, bytes = self.written, "resuming a partial file");
        self.publish();
        Ok(())
    }

    /// Takes the disk's blocks for `size` bytes now, so that a full disk shows before the first byte.
    fn take_blocks(&mut self, size: u64) -> Result<(), Error> {
        let missing = size.saturating_sub(self.written);
        if missing == 0 {
            return Ok(());
        }
        let (disk, capacity) = (&self.target.files.disk, &self.target.capacity);
        let free = disk.free(self.target.files.layout.root())?.bytes;
        if free < missing {
            capacity.make_room(missing - free);
        }
        capacity.make_room_and_retry(missing, || disk.reserve(&self.file, &self.path, size))
    }

    /// Sees to it that `more` bytes are covered by the reservation.
    fn account(&mut self, more: u64) -> Result<(), Error> {
        // Of an unknown size a good piece is taken at a time.
        let ahead = if self.shared.size().is_some() { 0 } else { GROWTH };
        let total = self.written + more;
        self.reservation.as_mut().map_or(Ok(()), |reservation| reservation.cover(total, ahead))
    }

    /// Serves the writer until it commits, abandons, or is dropped.
    fn run(mut self) {
        let mut next = None;
        loop {
            match next.take().map_or_else(|| self.wait(), Ok) {
                Ok(Message::Append(bytes, cost)) => {
                    let result;
                    (result, next) = self.append(bytes, cost);
                    if let Err(error) = result {
                        return self.fail(error);
                    }
                }
                Ok(Message::Announce(size, done)) => {
                    let result = self.announce(size);
                    let failure = result.as_ref().err().map(Error::again);
                    let _ = done.send(result);
                    if let Some(error) = failure {
                        return self.fail(error);
                    }
                }
                Ok(Message::Commit(done)) => {
                    let result = self.finish();
                    if let Err(error) = &result {
                        self.keep = false;
                        self.shared.stop(Arc::from(error.to_string()));
                    }
                    drop(self);
                    // The caller may be gone; the blob is where it is.
                    let _ = done.send(result);
                    return;
                }
                Ok(Message::Abandon { why, keep, done }) => {
                    self.shared.stop(why);
                    self.keep = keep;
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.publish(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The next message; while something waits to be published, not for longer than the pause.
    fn wait(&mut self) -> Result<Message, RecvTimeoutError> {
        if self.shared.publishable(self.written) > self.shared.readable() {
            self.messages.recv_timeout(self.pause.saturating_sub(self.published.elapsed()))
        } else {
            self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    /// Writes these bytes and what waits behind them; gives the first message that is something else.
    fn append(&mut self, first: Bytes, cost: u32) -> (Result<(), Error>, Option<Message>) {
        let (mut total, mut permits, mut next) = (first.len(), cost as usize, None);
        let mut pieces = vec![first];
        while total < BATCH {
            match self.messages.try_recv() {
                Ok(Message::Append(bytes, cost)) => {
                    total += bytes.len();
                    permits += cost as usize;
                    pieces.push(bytes);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let result = self.write(&pieces, total as u64);
        self.buffer.permits.add_permits(permits);
        (result, next)
    }

    fn write(&mut self, pieces: &[Bytes], total: u64) -> Result<(), Error> {
        if let Some(expected) = self.shared.size()
            && self.written + total > expected
        {
            self.keep = false;
            return Err(Error::wrong_size(&self.digest, expected, self.written + total));
        }
        self.account(total)?;
        // Others may have filled the disk since the blocks were reserved.
        let write = || self.target.files.disk.write_at(&self.file, &self.path, pieces, self.written);
        self.target.capacity.make_room_and_retry(total, write)?;
        pieces.iter().for_each(|piece| self.hasher.update(piece));
        self.written += total;
        if self.written - self.written_back >= WRITEBACK {
            self.target.files.disk.start_writeback(&self.file, self.written_back, self.written - self.written_back);
            self.written_back = self.written;
        }
        if self.shared.readable() == 0 || self.published.elapsed() >= self.pause {
            self.publish();
        }
        Ok(())
    }

    fn publish(&mut self) {
        let woken = self.shared.publish(self.written);
        self.published = Instant::now();
        self.pause =
            Duration::from_micros(20 * woken as u64).clamp(Duration::from_millis(1), Duration::from_millis(20));
    }

    fn announce(&mut self, size: u64) -> Result<(), Error> {
        let known = self.shared.size();
        if known == Some(size) {
            return Ok(());
        }
        if known.is_some() || self.written > size {
            self.keep = known.is_some();
            let actual = known.unwrap_or(self.written);
            return Err(Error::wrong_size(&self.digest, size, actual));
        }
        self.shared.announce(size);
        self.account(size - self.written)?;
        self.take_blocks(size)
    }

    /// Verifies, releases, syncs, renames.
    fn finish(&mut self) -> Result<(), Error> {
        let expected = self.shared.size().unwrap_or(self.written);
        if self.written != expected {
            return Err(Error::wrong_size(&self.digest, expected, self.written));
        }
        let hasher = std::mem::replace(&mut self.hasher, self.digest.algorithm().hasher());
        let actual = hasher.finish();
        if actual != self.digest {
            return Err(Error::mismatch(&self.digest, actual));
        }
        self.shared.finish(self.written);
        self.target.files.disk.sync_data(&self.file, &self.path)?;
        let files = self.target.files.clone();
        let _storing = files.storing(&self.digest);
        files.disk.rename(&self.path, &files.layout.object(Kind::Blob, &self.digest))?;
        // A blob without a stamp is hashed once more when it is read.
        if let Ok(stamp) = self.target.files.disk.stamp(&self.file, &self.path) {
            self.target.in_use.mark_verified(&self.digest, stamp);
        }
        if let Some(reservation) = self.reservation.take() {
            reservation.commit(&self.digest, self.written);
        }
        Ok(())
    }

    /// Something went wrong before the end was asked for.
    fn fail(mut self, error: Error) {
        let missing = self.shared.size().unwrap_or(0).saturating_sub(self.written);
        let error = match error {
            Error::Io { .. } if error.is_full() => self.target.capacity.refuse(missing),
            error => error,
        };
        // What was written may not be on the disk after a failed call, and a full disk needs the room.
        self.keep &= !matches!(error, Error::Io { .. }) && !error.is_full();
        if !error.is_full() {
            error!(digest = %self.digest, %error, "a blob cannot be written");
        }
        let (why, disk) = (Arc::from(error.to_string()), matches!(error, Error::Io { .. } | Error::Full { .. }));
        // Who learns from a reader that it stopped finds the writer closed.
        self.buffer.close(Some(error));
        match disk {
            true => self.shared.stop_writing(self.written, self.hasher.clone(), why),
            false => self.shared.stop(why),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.shared.stop(Arc::from("its writer was dropped"));
        self.buffer.close(None);
        let Some(reservation) = self.reservation.take() else { return };
        let kept = self.keep && self.written > 0 && {
            let cut = self.target.files.disk.truncate(&self.file, &self.path, self.written);
            cut.inspect_err(|error| warn!(digest = %self.digest, %error, "a partial file is not kept")).is_ok()
        };
        if kept {
            let idle = Idle { number: self.number, size: self.written, modified: SystemTime::now() };
            self.target.partials.leave(&self.digest, idle);
        } else if let Err(error) = self.target.files.disk.remove(&self.path) {
            warn!(digest = %self.digest, %error, "a partial file stays until the next start");
        }
        drop(reservation);
    }
}
