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
    core::{Core, blocking},
    layout::Kind,
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

pub(crate) async fn scrub(core: Arc<Core>, bytes_per_second: u64) -> Result<Scrubbed, Error> {
    // The blocking thread would otherwise go on for hours after nobody waits for it.
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Arc::default());
    let stopped = stop.0.clone();
    let result = blocking("scrub", move || Ok(run(&core, bytes_per_second, &stopped))).await;
    drop(stop);
    result
}

fn run(core: &Core, bytes_per_second: u64, stop: &AtomicBool) -> Scrubbed {
    let (mut scrubbed, started) = (Scrubbed::default(), Instant::now());
    for kind in Kind::ALL {
        let digests: Vec<Digest> = core.space.books().of(kind).digests().cloned().collect();
        for digest in digests {
            let pace = |bytes: u64| {
                let due = if bytes_per_second > 0 { bytes as f64 / bytes_per_second as f64 } else { 0.0 };
                let early = Duration::from_secs_f64(due).saturating_sub(started.elapsed());
                std::thread::sleep(early.min(Duration::from_secs(1)));
                !stop.load(Ordering::Relaxed) && !core.bell.has_ended()
            };
            let looked = match kind {
                Kind::Blob => check_blob(core, &digest, &mut scrubbed.bytes, pace),
                Kind::Manifest => check_manifest(core, &digest, &mut scrubbed.bytes, pace),
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

enum Looked {
    Sound,
    Corrupt,
    Absent,
    Stopped,
}

fn check_manifest(core: &Core, digest: &Digest, bytes: &mut u64, pace: impl Fn(u64) -> bool) -> Result<Looked, Error> {
    let before = core.quarantined.load(Ordering::Relaxed);
    let manifest = core.read_manifest(digest)?;
    *bytes += manifest.as_ref().map_or(0, |manifest| manifest.bytes.len() as u64);
    Ok(match manifest {
        _ if !pace(*bytes) => Looked::Stopped,
        Some(_) => Looked::Sound,
        None if core.quarantined.load(Ordering::Relaxed) > before => Looked::Corrupt,
        None => Looked::Absent,
    })
}

fn check_blob(core: &Core, digest: &Digest, bytes: &mut u64, pace: impl Fn(u64) -> bool) -> Result<Looked, Error> {
    let path = core.layout.object(Kind::Blob, digest);
    let Some(file) = core.disk.open(&path)? else { return Ok(Looked::Absent) };
    let (mut hasher, mut buffer, mut offset) = (digest.algorithm().hasher(), vec![0; CHUNK], 0);
    loop {
        let count = core.disk.read_at(&file, &path, &mut buffer, offset)?;
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
        core.holds.mark_verified(digest);
        return Ok(Looked::Sound);
    }
    core.quarantine(Kind::Blob, digest, "the file does not match its digest");
    Ok(Looked::Corrupt)
}
