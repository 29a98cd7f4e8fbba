//! The first reading of a blob that an earlier run stored: hashed once before its last bytes are given.
//!
//! What rotted on the disk is found when it is asked for and not only when a scrub comes by. The reader gets its bytes at once,
//! all but the last 64 KiB, as if the blob were arriving; a thread reads the file beside it. Only when the hash is right are
//! the last bytes released; when it is wrong the readers stop, and the blob is quarantined and fetched anew. This is once per
//! blob and run, and again when the file changed: what this process wrote or verified is not hashed again.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tracing::error;

use super::{
    in_use::{Hold, InUse},
    shared::{HOLD_BACK, SharedBlob},
};
use crate::{
    Error,
    capacity::Capacity,
    files::{Files, Kind, Stamp},
    oci::Digest,
};

/// Threads that verify at once; more blobs wait for their turn with all but their last bytes readable.
const THREADS: usize = 4;

/// Read at once.
const CHUNK: usize = 1 << 20;

/// Blobs that wait before the ones whose readers have left are looked for.
const WAITING: usize = 1024;

/// Verifies blobs, and takes away those that are corrupt.
#[derive(Debug)]
pub(crate) struct Verifier {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    in_use: InUse<SharedBlob>,
    enabled: bool,
    // Held for one queue operation.
    queue: Mutex<Queue>,
}

/// The blobs whose turn is to come: one per digest, since the readers of one digest share it. A blob whose readers have left
/// is closed, and skipped when its turn comes.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Digest, Weak<SharedBlob>)>,
    threads: usize,
}

/// What reading it all showed.
enum Verdict {
    Sound,
    /// With the stamp of the file that was read.
    Corrupt(Stamp, String),
    /// The store was closed before it was known.
    Closed,
}

impl Verifier {
    /// Unless `enabled`, what an earlier run stored is taken as sound until a scrub finds otherwise.
    pub(crate) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        in_use: InUse<SharedBlob>,
        enabled: bool,
    ) -> Verifier {
        Verifier { files, capacity, in_use, enabled, queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shares the open file of a blob among its readers, verified first when it must be; `None` when it is corrupt.
    ///
    /// # Errors
    /// [`Error::Io`] when a small blob cannot be read; of a large one the readers get the error.
    pub(crate) fn share(
        self: &Arc<Verifier>,
        digest: &Digest,
        file: File,
        hold: Hold<SharedBlob>,
    ) -> Result<Option<Arc<SharedBlob>>, Error> {
        let stamp = self.files.disk.stamp(&file, &self.files.layout.object(Kind::Blob, digest))?;
        let (file, size) = (Arc::new(file), stamp.size);
        if let Some(stored) = self.capacity.size(Kind::Blob, digest).filter(|stored| *stored != size) {
            self.quarantine(digest, Some(stamp), &format!("it has {size} bytes where {stored} were stored"))?;
            return Ok(None);
        }
        if self.in_use.is_verified(digest, stamp) || !self.enabled {
            return Ok(Some(self.in_use.share(digest, Arc::new(SharedBlob::whole(file, size, hold)))));
        }
        let shared = Arc::new(SharedBlob::new(file, Some(size), hold));
        if size <= HOLD_BACK {
            // None of it could be given before; hashing it here takes less than waking a thread.
            let sound = self.verify(digest, &shared)?;
            return Ok(sound.then(|| self.in_use.share(digest, shared)));
        }
        shared.publish(size);
        let winner = self.in_use.share(digest, shared.clone());
        if Arc::ptr_eq(&winner, &shared) {
            self.enqueue(digest.clone(), &shared);
        }
        Ok(Some(winner))
    }

    /// Whether the file's bytes are what the digest says, read once more unless that was done since the start; a corrupt blob is
    /// quarantined. On this thread.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub(crate) fn verify_now(&self, digest: &Digest, file: File) -> Result<bool, Error> {
        let stamp = self.files.disk.stamp(&file, &self.files.layout.object(Kind::Blob, digest))?;
        if self.in_use.is_verified(digest, stamp) {
            return Ok(true);
        }
        let shared = SharedBlob::new(Arc::new(file), Some(stamp.size), self.in_use.hold(digest));
        self.verify(digest, &shared)
    }

    fn enqueue(self: &Arc<Verifier>, digest: Digest, shared: &Arc<SharedBlob>) {
        let mut queue = self.queue();
        if queue.waiting.len() >= WAITING {
            queue.waiting.retain(|(_, shared)| shared.strong_count() > 0);
        }
        queue.waiting.push_back((digest, Arc::downgrade(shared)));
        if queue.threads == THREADS {
            return;
        }
        queue.threads += 1;
        drop(queue);
        let verifier = self.clone();
        let thread = std::thread::Builder::new().name("storage-verify".into());
        if let Err(error) = thread.spawn(move || verifier.verify_waiting()) {
            error!(%error, "cannot start a thread to verify; the caller does it");
            self.verify_waiting();
        }
    }

    fn verify_waiting(&self) {
        loop {
            let mut queue = self.queue();
            let Some((digest, shared)) = queue.waiting.pop_front() else {
                queue.threads -= 1;
                return;
            };
            drop(queue);
            let Some(shared) = shared.upgrade() else { continue };
            if let Err(error) = self.verify(&digest, &shared) {
                error!(%digest, %error, "a blob cannot be verified");
            }
        }
    }

    /// Tells the readers what the bytes are worth; `false` when they are corrupt, or when the store was closed before it knew.
    fn verify(&self, digest: &Digest, shared: &SharedBlob) -> Result<bool, Error> {
        match self.read_through(digest, shared) {
            Ok(Verdict::Sound) => {
                shared.finish(shared.size().unwrap_or(0));
                return Ok(true);
            }
            Ok(Verdict::Corrupt(stamp, why)) => {
                let quarantined = self.quarantine(digest, Some(stamp), &why);
                shared.stop(why.into());
                quarantined?;
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

    fn read_through(&self, digest: &Digest, shared: &SharedBlob) -> Result<Verdict, Error> {
        let path = self.files.layout.object(Kind::Blob, digest);
        // Taken first: what is written meanwhile leaves another stamp.
        let stamp = self.files.disk.stamp(&shared.file, &path)?;
        let (mut hasher, mut offset) = (digest.algorithm().hasher(), 0);
        let mut buffer = vec![0; CHUNK.min(stamp.size as usize + 1)];
        loop {
            if self.files.is_closing() {
                return Ok(Verdict::Closed);
            }
            let count = self.files.disk.read_at(&shared.file, &path, &mut buffer, offset)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Ok(Verdict::Corrupt(stamp, format!("its bytes hash to {actual}")));
        }
        self.in_use.mark_verified(digest, stamp);
        Ok(Verdict::Sound)
    }

    /// The blob's bytes were seen to match its digest in the file that has this stamp.
    pub(crate) fn mark_verified(&self, digest: &Digest, stamp: Stamp) {
        self.in_use.mark_verified(digest, stamp);
    }

    /// Takes a corrupt blob out of the way; its readers stop, and it is absent from now on. With a stamp, only the file of which it was
    /// taken: of two lookups that meet a corrupt file, the second may come to its end after the first one's blob was fetched again.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be told which file it is.
    pub(crate) fn quarantine(&self, digest: &Digest, stamp: Option<Stamp>, why: &str) -> Result<(), Error> {
        let account = || {
            self.capacity.quarantined(Kind::Blob, digest);
            self.in_use.all(digest).iter().for_each(|shared| shared.condemn(Arc::from(why)));
        };
        self.files.quarantine((Kind::Blob, digest), stamp, why, account).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Settings, Store,
        files::{Call, Faults, Kind},
        oci::Algorithm,
    };

    #[tokio::test]
    async fn a_blob_that_is_stored_while_the_corrupt_one_is_put_aside_stays() {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        // A scrub of its own renames, too.
        let scrub = std::time::Duration::ZERO;
        let settings = Settings { root: directory.path().to_owned(), scrub, ..Settings::default() };
        let store = Store::open_on(settings, faults.clone()).unwrap();
        let bytes = vec![0; 5];
        let digest = Algorithm::Sha256.digest(&bytes);
        let path = store.blobs.verifier.files.layout.object(Kind::Blob, &digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, [1; 5]).unwrap();
        let stamp = store.blobs.verifier.files.disk.stamp(&std::fs::File::open(&path).unwrap(), &path).unwrap();
        // Between the look and the rename the blob is fetched again, unless that has to wait.
        let (files, at, name) = (store.blobs.verifier.files.clone(), path.clone(), digest.clone());
        faults.before(Call::Rename, 0, move || {
            if let Ok(_storing) = files.name(&name).try_read() {
                let temporary = at.with_extension("new");
                std::fs::write(&temporary, [0; 5]).unwrap();
                std::fs::rename(temporary, at).unwrap();
            }
        });
        let verifier = store.blobs.verifier.clone();
        let named = digest.clone();
        let work = move || verifier.quarantine(&named, Some(stamp), "it is corrupt");
        tokio::task::spawn_blocking(work).await.unwrap().unwrap();
        let kept = std::fs::read_dir(directory.path().join("quarantine")).unwrap().map(|entry| {
            let entry = entry.unwrap();
            std::fs::read(entry.path()).unwrap()
        });
        assert_eq!(kept.collect::<Vec<_>>(), [vec![1; 5]], "what was put aside is what was looked at");
        // And what stores waits while one puts aside.
        let mut writer = store.blobs.write(&digest, Some(5)).await.unwrap();
        writer.append(bytes.clone().into()).await.unwrap();
        let (files, name) = (store.blobs.verifier.files.clone(), digest.clone());
        let (held, is_held) = std::sync::mpsc::channel();
        faults.before(Call::Rename, 0, move || held.send(files.name(&name).try_write().is_err()).unwrap());
        writer.commit().await.unwrap();
        assert!(is_held.recv().unwrap(), "a blob is stored while another can be put aside");
        assert_eq!(store.usage().blobs, 1);
    }

    #[tokio::test]
    async fn a_blob_that_was_stored_again_survives_what_a_reader_of_the_corrupt_one_finds() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Store::open(Settings { root: directory.path().to_owned(), ..Settings::default() }).unwrap();
        for corrupt in [vec![1; 5], vec![1; 9]] {
            let bytes = vec![0; 5];
            let digest = Algorithm::Sha256.digest(&bytes);
            let earlier = open();
            let mut writer = earlier.blobs.write(&digest, Some(5)).await.unwrap();
            writer.append(bytes.clone().into()).await.unwrap();
            writer.commit().await.unwrap();
            drop(earlier);
            let store = open();
            let blobs = &store.blobs;
            let path = blobs.verifier.files.layout.object(Kind::Blob, &digest);
            // The file that was there when the reader opened it.
            std::fs::write(path.with_extension("old"), &corrupt).unwrap();
            let opened = std::fs::File::open(path.with_extension("old")).unwrap();
            let shared = blobs.verifier.share(&digest, opened, blobs.in_use.hold(&digest)).unwrap();
            assert!(shared.is_none(), "{corrupt:?} is not given");
            assert_eq!(blobs.load(&digest).await.unwrap().map(|reader| reader.size()), Some(5), "after {corrupt:?}");
        }
    }
}
