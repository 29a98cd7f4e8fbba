//! Finding what rotted: every object is hashed again, slowly, and what does not match is quarantined.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    Error,
    blobs::Verifier,
    cache::Manifests,
    capacity::Capacity,
    files::{Files, Kind, blocking},
    oci::Digest,
};

/// What a scrub saw.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Objects hashed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that did not match and are absent from now on.
    pub quarantined: Vec<Digest>,
}

/// Read at once.
const CHUNK: usize = 1 << 20;

/// What a scrub goes over.
#[derive(Clone, Debug)]
pub struct Scrub {
    pub(crate) files: Arc<Files>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) manifests: Manifests,
}

impl Scrub {
    /// Hashes every stored object again, at most `bytes_per_second` (0: as fast as it goes), and quarantines what does not
    /// match. Ends when its future is dropped.
    ///
    /// # Errors
    /// None at present: an object that cannot be read is logged and left.
    pub async fn run(&self, bytes_per_second: u64) -> Result<Scrubbed, Error> {
        // The blocking thread would otherwise go on for hours after nobody waits for it.
        struct Stop(Arc<AtomicBool>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(Arc::default());
        let (scrub, stopped) = (self.clone(), stop.0.clone());
        let result = blocking("scrub", move || Ok(scrub.pass(bytes_per_second, &stopped))).await;
        drop(stop);
        result
    }

    fn pass(&self, bytes_per_second: u64, stop: &AtomicBool) -> Scrubbed {
        let (mut scrubbed, started) = (Scrubbed::default(), Instant::now());
        for kind in Kind::ALL {
            let digests: Vec<Digest> = self.capacity.accounts().of(kind).digests().cloned().collect();
            for digest in digests {
                let pace = |bytes: u64| {
                    let due = if bytes_per_second > 0 { bytes as f64 / bytes_per_second as f64 } else { 0.0 };
                    let early = Duration::from_secs_f64(due).saturating_sub(started.elapsed());
                    std::thread::sleep(early.min(Duration::from_secs(1)));
                    !stop.load(Ordering::Relaxed) && !self.files.is_closing()
                };
                let looked = match kind {
                    Kind::Blob => self.check_blob(&digest, &mut scrubbed.bytes, pace),
                    Kind::Manifest => self.check_manifest(&digest, &mut scrubbed.bytes, pace),
                };
                match looked {
                    Ok(Looked::Sound) => scrubbed.objects += 1,
                    Ok(Looked::Corrupt) => {
                        scrubbed.objects += 1;
                        scrubbed.quarantined.push(digest);
                    }
                    Ok(Looked::Absent) => {}
                    Ok(Looked::Stopped) => return scrubbed,
                    Err(error) => warn!(%digest, %error, "cannot scrub"),
                }
            }
        }
        let corrupt = scrubbed.quarantined.len();
        info!(objects = scrubbed.objects, bytes = scrubbed.bytes, corrupt, took = ?started.elapsed(), "scrubbed");
        scrubbed
    }

    fn check_manifest(&self, digest: &Digest, bytes: &mut u64, pace: impl Fn(u64) -> bool) -> Result<Looked, Error> {
        let before = self.capacity.usage().quarantined;
        let manifest = self.manifests.read_file(digest)?;
        *bytes += manifest.as_ref().map_or(0, |manifest| manifest.bytes.len() as u64);
        Ok(match manifest {
            _ if !pace(*bytes) => Looked::Stopped,
            Some(_) => Looked::Sound,
            None if self.capacity.usage().quarantined > before => Looked::Corrupt,
            None => Looked::Absent,
        })
    }

    fn check_blob(&self, digest: &Digest, bytes: &mut u64, pace: impl Fn(u64) -> bool) -> Result<Looked, Error> {
        let path = self.files.layout.object(Kind::Blob, digest);
        let Some(file) = self.files.disk.open(&path)? else { return Ok(Looked::Absent) };
        let (mut hasher, mut buffer, mut offset) = (digest.algorithm().hasher(), vec![0; CHUNK], 0);
        loop {
            let count = self.files.disk.read_at(&file, &path, &mut buffer, offset)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            offset += count as u64;
            *bytes += count as u64;
            if !pace(*bytes) {
                return Ok(Looked::Stopped);
            }
        }
        if hasher.finish() == *digest {
            return Ok(Looked::Sound);
        }
        self.verifier.quarantine(digest, "the file does not match its digest");
        Ok(Looked::Corrupt)
    }
}

enum Looked {
    Sound,
    Corrupt,
    Absent,
    Stopped,
}
