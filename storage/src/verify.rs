//! The first reading of a blob that an earlier run stored: hashed once before its last bytes are given.
//!
//! What rotted on the disk is found when it is asked for and not only when a scrub comes by. The reader gets its bytes at once,
//! all but the last 64 KiB, as if the blob were arriving; a thread reads the file beside it. Only when the hash is right are
//! the last bytes released; when it is wrong the readers stop, and the blob is quarantined and fetched anew. This is once per blob
//! and run: what this process wrote or verified is not hashed again.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::error;

use crate::{Error, HOLD_BACK, arriving::Shared, blob::Hold, core::Core, layout::Kind, oci::Digest};

/// Threads that verify at once; more blobs wait for their turn with all but their last bytes readable.
const THREADS: usize = 4;

/// Read at once.
const CHUNK: usize = 1 << 20;

/// The blobs whose turn is to come. One per digest, since readers of one digest share it.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    // Held for one queue operation.
    state: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Digest, Arc<Shared>)>,
    threads: usize,
}

impl Verifier {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading it all showed.
enum Verdict {
    Sound,
    Corrupt(String),
    /// The store was closed before it was known.
    Closed,
}

impl Core {
    /// Shares the open file of a blob among its readers, verified first when it must be; `None` when it is corrupt.
    ///
    /// # Errors
    /// [`Error::Io`] when a small blob cannot be read; of a large one the readers are told.
    pub(crate) fn share_blob(
        self: &Arc<Core>,
        digest: &Digest,
        file: File,
        size: u64,
        hold: Hold,
    ) -> Result<Option<Arc<Shared>>, Error> {
        let file = Arc::new(file);
        if !self.settings.verify_on_first_read || self.holds.is_verified(digest) {
            return Ok(Some(self.holds.share(digest, Arc::new(Shared::whole(file, size, hold)))));
        }
        let shared = Arc::new(Shared::new(file, Some(size), hold));
        if size <= HOLD_BACK {
            // None of it could be given before; hashing it here takes less than waking a thread.
            let sound = self.judge(digest, &shared)?;
            return Ok(sound.then(|| self.holds.share(digest, shared)));
        }
        shared.publish(size);
        let winner = self.holds.share(digest, shared.clone());
        if Arc::ptr_eq(&winner, &shared) {
            self.enqueue(digest.clone(), shared);
        }
        Ok(Some(winner))
    }

    /// Reads a whole blob once more, on this thread; a corrupt one is quarantined.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub(crate) fn verify_now(self: &Arc<Core>, digest: &Digest, file: File, size: u64) -> Result<bool, Error> {
        let shared = Arc::new(Shared::new(Arc::new(file), Some(size), self.holds.hold(digest)));
        self.judge(digest, &shared)
    }

    fn enqueue(self: &Arc<Core>, digest: Digest, shared: Arc<Shared>) {
        let mut queue = self.verifier.queue();
        queue.waiting.push_back((digest, shared));
        if queue.threads == THREADS {
            return;
        }
        queue.threads += 1;
        drop(queue);
        let core = self.clone();
        let started = std::thread::Builder::new().name("storage-verify".into()).spawn(move || core.verify_waiting());
        if let Err(error) = started {
            error!(%error, "cannot start a thread to verify; the caller does it");
            self.verify_waiting();
        }
    }

    fn verify_waiting(&self) {
        loop {
            let mut queue = self.verifier.queue();
            let Some((digest, shared)) = queue.waiting.pop_front() else {
                queue.threads -= 1;
                return;
            };
            drop(queue);
            if let Err(error) = self.judge(&digest, &shared) {
                error!(%digest, %error, "a blob cannot be verified");
            }
        }
    }

    /// Tells the readers what its bytes are worth; `false` when they are corrupt, or when the store was closed before it knew.
    fn judge(&self, digest: &Digest, shared: &Arc<Shared>) -> Result<bool, Error> {
        match self.look_through(digest, shared) {
            Ok(Verdict::Sound) => {
                self.holds.mark_verified(digest);
                shared.finish(shared.size().unwrap_or(0));
                return Ok(true);
            }
            Ok(Verdict::Corrupt(why)) => {
                self.quarantine(Kind::Blob, digest, &why);
                shared.stop(why.into());
            }
            Ok(Verdict::Closed) => shared.stop("the store was closed".into()),
            // A read that failed says nothing of the bytes: the file stays.
            Err(error) => {
                shared.stop(error.to_string().into());
                return Err(error);
            }
        }
        Ok(false)
    }

    fn look_through(&self, digest: &Digest, shared: &Arc<Shared>) -> Result<Verdict, Error> {
        let path = self.layout.object(Kind::Blob, digest);
        let (mut hasher, mut offset) = (digest.algorithm().hasher(), 0);
        let size = shared.size().unwrap_or(0);
        let mut buffer = vec![0; CHUNK.min(size as usize + 1)];
        loop {
            if self.bell.has_ended() {
                return Ok(Verdict::Closed);
            }
            let count = self.disk.read_at(&shared.file, &path, &mut buffer, offset)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        let actual = hasher.finish();
        if actual == *digest { Ok(Verdict::Sound) } else { Ok(Verdict::Corrupt(format!("its bytes hash to {actual}"))) }
    }
}
