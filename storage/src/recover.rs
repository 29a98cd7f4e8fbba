//! What happens at start: the directory is taken, what a crash left is swept, and the objects are counted in the background.
//!
//! Answers do not wait for the count: a blob is found by its path. Until it is complete eviction knows only what was counted so
//! far, which is on the safe side for everything but the capacity; so the count is quick (one `stat` per object) and first.

use std::{
    io::ErrorKind,
    path::Path,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use crate::{
    Error,
    blobs::{Idle, InUse, Partials},
    capacity::Capacity,
    files::{Disk, Files, Kind, Layout, partial_name},
    oci::{Algorithm, Digest},
};

/// The first line of the lock file. Another layout of the directory will say another number.
const LAYOUT: &str = "weir layout 1";

/// Quarantined files that are kept for the operator to look at.
const QUARANTINED: usize = 16;

/// Takes the directory for this process, until the file is closed.
///
/// # Errors
/// [`Error::Unusable`] in words for the operator. A directory that cannot be written is refused and not served from: pulls that are
/// not on record would be spent, and bans forgotten.
pub(crate) fn take(disk: &Disk, layout: &Layout) -> Result<std::fs::File, Error> {
    let root = layout.root().display();
    take_lock(disk, layout).map_err(|error| {
        let Error::Io { source, .. } = &error else { return error };
        let (why, fix) = match source.kind() {
            ErrorKind::ReadOnlyFilesystem => ("is on a read-only file system", "check it, and mount it writable"),
            ErrorKind::PermissionDenied => ("may not be written by this user", "give it to the user that runs weir"),
            _ => return error,
        };
        Error::Unusable(format!("{root} {why}: {fix}, or set storage.root elsewhere"))
    })
}

fn take_lock(disk: &Disk, layout: &Layout) -> Result<std::fs::File, Error> {
    let root = layout.root().display();
    disk.make_directory(layout.root())?;
    let path = layout.lock();
    let us = format!("process {}", std::process::id());
    let mut tries = 0;
    let (lock, before) = loop {
        let before = disk.read(&path, 4096)?.unwrap_or_default();
        let before = String::from_utf8_lossy(&before).into_owned();
        if let Some(lock) = disk.lock(&path)? {
            break (lock, before);
        }
        // A store that this process closed a moment ago may have a thread that is just ending.
        let owner = before.lines().nth(1).unwrap_or("another process");
        if owner != us || tries == 40 {
            let text = format!("{root} is in use by {owner}; stop it, or set storage.root elsewhere");
            return Err(Error::Unusable(text));
        }
        tries += 1;
        std::thread::sleep(Duration::from_millis(50));
    };
    // A power cut may leave a file that has its length and not its bytes.
    let before = before.trim_start_matches('\0');
    if before.lines().next().is_some_and(|line| line != LAYOUT) {
        return Err(Error::Unusable(format!(
            "{root} was laid out by another version of Weir ({:?} and not {LAYOUT:?}); run that version or set \
             storage.root elsewhere",
            before.lines().next().unwrap_or_default(),
        )));
    }
    let line = format!("{LAYOUT}\n{us}\n");
    let length = line.len() as u64;
    disk.write_at(&lock, &path, &[line.into()], 0)?;
    disk.truncate(&lock, &path, length)?;
    disk.sync_data(&lock, &path)?;
    Ok(lock)
}

/// # Errors
/// [`Error::Unusable`] when no store has made the directory.
pub(crate) fn must_exist(disk: &Disk, layout: &Layout) -> Result<(), Error> {
    let first = disk.read(&layout.lock(), 4096)?.unwrap_or_default();
    if first.is_empty() {
        let root = layout.root().display();
        return Err(Error::Unusable(format!("{root} is no data directory of Weir; name one in storage.root")));
    }
    Ok(())
}

/// The name of this server, made with the directory: eight hexadecimal digits.
pub(crate) fn server(disk: &Disk, layout: &Layout) -> Result<String, Error> {
    let path = layout.server();
    let known = disk.read(&path, 64)?.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let is_one = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_one(known.trim()) {
        return Ok(known.trim().to_owned());
    }
    let name = disk.random()?[..8].to_owned();
    disk.replace(&layout.temporary(), &path, &[format!("{name}\n").into()])?;
    Ok(name)
}

/// Removes what is of no use any more; what may be resumed is left to the next writer. One directory of few files.
pub(crate) fn sweep(files: &Files, partials: &Partials, ttl: Duration) -> Result<(), Error> {
    let (disk, layout, now) = (&files.disk, &files.layout, SystemTime::now());
    let age = |modified: SystemTime| now.duration_since(modified).unwrap_or_default();
    disk.make_directory(&layout.partials())?;
    for name in disk.list(&layout.partials())? {
        let path = layout.partials().join(&name);
        let Some(metadata) = disk.metadata(&path)? else { continue };
        let modified = metadata.modified().unwrap_or(now);
        match partial_name(&name) {
            Some((digest, number)) if age(modified) < ttl && metadata.len() > 0 => {
                layout.start_after(number);
                // Gives back the blocks that were reserved beyond the end.
                if let Some(file) = disk.open_to_write(&path)? {
                    disk.truncate(&file, &path, metadata.len())?;
                }
                partials.leave(&digest, Idle { number, size: metadata.len(), modified });
            }
            _ => drop(disk.remove(&path)?),
        }
    }
    let mut quarantined = Vec::new();
    for name in disk.list(&layout.quarantine())? {
        let path = layout.quarantine().join(name);
        if let Some(metadata) = disk.metadata(&path)? {
            quarantined.push((metadata.modified().unwrap_or(now), path));
        }
    }
    quarantined.sort();
    let surplus = quarantined.len().saturating_sub(QUARANTINED);
    for (at, (modified, path)) in quarantined.into_iter().enumerate() {
        if at < surplus || age(modified) > ttl {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

/// Counts the objects. Runs on a thread of its own; ends early when the store is closed.
pub(crate) fn count(files: &Files, capacity: &Capacity, in_use: &InUse) {
    let started = std::time::Instant::now();
    for kind in Kind::ALL {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for shard in files.layout.shards(kind, algorithm) {
                if files.is_closing() {
                    return;
                }
                if let Err(error) = count_shard(files, capacity, in_use, kind, algorithm, &shard) {
                    warn!(%error, "cannot count what is stored here");
                }
            }
        }
    }
    let usage = capacity.usage();
    let (blobs, manifests, bytes) = (usage.blobs, usage.manifests, usage.blob_bytes);
    info!(blobs, manifests, bytes, took = ?started.elapsed(), "counted what is stored");
    capacity.wake_evictor();
}

fn count_shard(
    files: &Files,
    capacity: &Capacity,
    in_use: &InUse,
    kind: Kind,
    algorithm: Algorithm,
    shard: &Path,
) -> Result<(), Error> {
    let now = SystemTime::now();
    for name in files.disk.list(shard)? {
        let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse::<Digest>() else {
            warn!(path = %shard.join(name).display(), "not one of ours; left alone");
            continue;
        };
        // So that it is not evicted between the `stat` and the entry.
        let _hold = in_use.hold(&digest);
        let Some(metadata) = files.disk.metadata(&shard.join(&name))? else { continue };
        let unused = metadata.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or(Duration::ZERO);
        capacity.accounts().find(kind, &digest, metadata.len(), unused);
    }
    Ok(())
}
