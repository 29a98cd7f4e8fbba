//! The thread behind one arriving blob: hashes, writes, publishes, and in the end verifies, syncs and renames.
//!
//! # What this guarantees
//! * A file appears under `blobs/` only after its digest was verified and its data synced, in that order, by the rename at
//!   the end of [`Ingest::finish`]. Without the sync a power cut would leave zeros under the name of a digest.
//! * The last bytes are released when the digest is verified and before the sync: clients do not wait for the disk.
//! * A sync that failed is not tried again. The kernel reports lost pages once, and a second sync would say that all is well.
//! * However this ends, by error, panic, or because the writer was dropped, the readers are told, and the file is renamed,
//!   left to be resumed, or removed; its bytes of the capacity go with it. That is [`Drop`].
//!
//! # Pace
//! What waits in the line is written in one call and published at once, but after many readers were woken no sooner than
//! they can have done something with it: a thousand wake-ups for every 16 KiB would be all that two cores do. The pause is
//! 20 µs per reader woken, between 1 and 20 ms. The first bytes never wait.
//!
//! # Scope
//! Where the bytes come from and whether to try again is the fill's business.

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tracing::{debug, error, warn};

use crate::{
    Error,
    arriving::Shared,
    core::Core,
    evict::Reservation,
    layout::Kind,
    oci::{Digest, Hasher},
    partial::Idle,
    writer::{Message, Room, Writer, line},
};

/// Written in one call, at most.
const BATCH: usize = 1 << 20;

/// Write-back is asked for each time so much has come, so that the sync at the end finds little to do.
const WRITEBACK: u64 = 8 << 20;

/// Of an unknown size so much is reserved at a time.
const GROWTH: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Ingest {
    core: Arc<Core>,
    digest: Digest,
    number: u64,
    path: PathBuf,
    file: Arc<File>,
    shared: Arc<Shared>,
    room: Arc<Room>,
    line: Receiver<Message>,
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
    pub(crate) fn begin(core: &Arc<Core>, digest: Digest, expected: Option<u64>) -> Result<(Writer, Ingest), Error> {
        let hold = core.holds.hold(&digest);
        let reservation = core.reserve(expected.unwrap_or(0))?;
        let adopted = core.adopt_partial(&digest, expected.unwrap_or(u64::MAX));
        let number = adopted.map_or_else(|| core.layout.unique(), |idle| idle.number);
        let path = core.layout.partial(&digest, number);
        let existing = if adopted.is_some() { core.disk.open_to_write(&path)? } else { None };
        let file = Arc::new(existing.map_or_else(|| core.disk.create(&path), Ok)?);
        let (line, receiver) = line();
        let room = Arc::new(Room::new(core.settings.write_buffer));
        let shared = Arc::new(Shared::new(file.clone(), expected, hold));
        let mut ingest = Ingest {
            core: core.clone(),
            number,
            path,
            file,
            shared: shared.clone(),
            room: room.clone(),
            line: receiver,
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
        Ok((Writer { line, shared, room, written }, ingest))
    }

    /// Hashes what an earlier attempt wrote. What is wrong in it shows at the end, as what is wrong from upstream does.
    fn rehash(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; BATCH];
        loop {
            match self.core.disk.read_at(&self.file, &self.path, &mut buffer, self.written) {
                Ok(0) => break,
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.written += count as u64;
                }
                Err(error) => {
                    warn!(digest = %self.digest, %error, "a partial file cannot be read; it is fetched anew");
                    self.core.disk.truncate(&self.file, &self.path, 0)?;
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
        let free = self.core.disk.free(self.core.layout.root())?.bytes;
        if free < missing {
            self.core.evict(missing - free);
        }
        for attempt in 0..2 {
            match self.core.disk.reserve(&self.file, &self.path, size) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_full() && attempt == 0 => drop(self.core.evict(missing)),
                Err(error) if error.is_full() => break,
                Err(error) => return Err(error),
            }
        }
        Err(self.core.complain(missing))
    }

    /// Sees to it that `more` bytes are covered by the reservation.
    fn account(&mut self, more: u64) -> Result<(), Error> {
        let sized = self.shared.size().is_some();
        let Some(reservation) = &mut self.reservation else { return Ok(()) };
        let missing = (self.written + more).saturating_sub(reservation.bytes());
        if missing == 0 {
            return Ok(());
        }
        // Of an unknown size a good piece is taken at a time.
        let ahead = if sized { 0 } else { GROWTH.min(self.core.settings.capacity / 16) };
        reservation.grow(missing.max(ahead))
    }

    /// Serves the writer until it commits, abandons, or is dropped.
    pub(crate) fn run(mut self) {
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
                    // Whoever asked may be gone; the blob is where it is.
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
            self.line.recv_timeout(self.pause.saturating_sub(self.published.elapsed()))
        } else {
            self.line.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    /// Writes these bytes and what waits behind them; gives the first message that is something else.
    fn append(&mut self, first: Bytes, cost: u32) -> (Result<(), Error>, Option<Message>) {
        let (mut total, mut permits, mut next) = (first.len(), cost as usize, None);
        let mut pieces = vec![first];
        while total < BATCH {
            match self.line.try_recv() {
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
        self.room.permits.add_permits(permits);
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
        self.core.disk.write_at(&self.file, &self.path, pieces, self.written)?;
        pieces.iter().for_each(|piece| self.hasher.update(piece));
        self.written += total;
        if self.written - self.written_back >= WRITEBACK {
            self.core.disk.start_writeback(&self.file, self.written_back, self.written - self.written_back);
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
        self.core.disk.sync_data(&self.file, &self.path)?;
        self.core.disk.rename(&self.path, &self.core.layout.object(Kind::Blob, &self.digest))?;
        self.core.holds.mark_verified(&self.digest);
        if let Some(reservation) = self.reservation.take() {
            reservation.commit(&self.digest, self.written);
        }
        Ok(())
    }

    /// Something went wrong before the end was asked for.
    fn fail(mut self, error: Error) {
        let missing = self.shared.size().unwrap_or(0).saturating_sub(self.written);
        let error = match error {
            Error::Io { .. } if error.is_full() => self.core.complain(missing),
            error => error,
        };
        // What was written may not be on the disk after a failed call, and a full disk needs the room.
        self.keep &= !matches!(error, Error::Io { .. }) && !error.is_full();
        if !error.is_full() {
            error!(digest = %self.digest, %error, "a blob cannot be written");
        }
        // Who learns from a reader that it stopped finds the writer closed.
        let why = Arc::from(error.to_string());
        self.room.close(Some(error));
        self.shared.stop(why);
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.shared.stop(Arc::from("its writer was dropped"));
        self.room.close(None);
        let Some(reservation) = self.reservation.take() else { return };
        let kept = self.keep && self.written > 0 && {
            let cut = self.core.disk.truncate(&self.file, &self.path, self.written);
            cut.inspect_err(|error| warn!(digest = %self.digest, %error, "a partial file is not kept")).is_ok()
        };
        if kept {
            let idle = Idle { number: self.number, size: self.written, modified: SystemTime::now() };
            self.core.leave_partial(&self.digest, idle);
        } else if let Err(error) = self.core.disk.remove(&self.path) {
            warn!(digest = %self.digest, %error, "a partial file stays until the next start");
        }
        drop(reservation);
    }
}
