//! Finding what rotted: every object is read and hashed again, and every hosted reference must have its bytes.
//!
//! # What this guarantees
//! A pass walks the directories and not what the process happens to know, so that it sees every object from the first moment.
//! The records of hosted repositories and the pins, which no upstream can say again, must be what was written.
//! What does not match its digest is named and, when asked for, quarantined: mirrored content is then fetched again when a client
//! asks for it, and of hosted content the report says which repositories lost it. An object that cannot be read is named as
//! well, and stays where it is: a read error says nothing of the bytes.
//!
//! # In service
//! One pass goes on all the time, a directory at a time, evenly over the interval that is configured. Where it is stands in a
//! file, so that a process that is often started anew still comes round.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::{
    Error,
    blobs::Verifier,
    cache::Manifests,
    capacity::Capacity,
    files::{Files, Kind, Stamp, blocking},
    hosted::{DamagedRecord, Pins, RecordKind, RecordRepair, Repositories},
    oci::{Algorithm, Digest, Name},
};

/// Read at once.
const CHUNK: usize = 1 << 20;

/// Damages that a report names.
const NAMED: usize = 1000;

/// In service a directory is read no slower than this, in bytes per second.
const SLOWEST: u64 = 1 << 20;

/// What is done with what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is named, and nothing is changed.
    Nothing,
    /// What does not match its digest is quarantined.
    Corrupt,
    /// That, what is mirrored and cannot be read, and damaged records: the name of a tag is free then, also of an immutable one.
    Unreadable,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "problem", content = "detail")]
pub enum Problem {
    /// Its bytes are not what its digest says.
    Corrupt,
    /// A hosted repository holds it, and there is no such file.
    Missing,
    /// The disk does not give its bytes; this is why.
    Unreadable(String),
}

/// An object that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// `blob` or `manifest`.
    pub kind: &'static str,
    /// Its digest.
    pub digest: Digest,
    /// What is wrong with it.
    #[serde(flatten)]
    pub problem: Problem,
    /// The hosted repositories that hold it; none when it is mirrored, and can be fetched again.
    pub repositories: Vec<Name>,
}

/// What a pass saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Objects read to the end.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many are not as they should be.
    pub damaged: u64,
    /// The first thousand of them; the log has all.
    pub damages: Vec<Damage>,
    /// The first thousand damaged records of what was pushed or pinned. They are among `damaged`.
    pub records: Vec<DamagedRecord>,
    /// Whether it ended before it had seen everything.
    pub stopped: bool,
}

impl Report {
    fn add(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damages.len() < NAMED {
            self.damages.push(damage);
        }
    }

    fn add_record(&mut self, record: DamagedRecord) {
        self.damaged += 1;
        if self.records.len() < NAMED {
            self.records.push(record);
        }
    }
}

/// A verification that was started in service.
#[derive(Debug, Default)]
pub(crate) struct Job {
    running: Option<Arc<Progress>>,
    last: Option<Result<Report, String>>,
}

/// What [`Scrub::status`] tells.
#[derive(Clone, Debug)]
pub struct Status {
    /// How far the verification under way is, if there is one.
    pub running: Option<Arc<Progress>>,
    /// What the last one saw, or why it could not look.
    pub last: Option<Result<Report, String>>,
}

/// How far a pass is, to be looked at while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    objects: AtomicU64,
    bytes: AtomicU64,
    total_objects: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    /// Objects and bytes read so far.
    pub fn done(&self) -> (u64, u64) {
        (self.objects.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Objects and bytes that there were when the pass began; nothing until they are counted.
    pub fn total(&self) -> (u64, u64) {
        (self.total_objects.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// Looks for what rotted. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Scrub {
    pub(crate) files: Arc<Files>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) manifests: Manifests,
    pub(crate) pins: Arc<Pins>,
    pub(crate) repositories: Repositories,
    pub(crate) served: Arc<Served>,
    // Held to start, end or look at a verification.
    pub(crate) job: Arc<Mutex<Job>>,
}

/// What the passes in service came to, since the start.
#[derive(Debug, Default)]
pub(crate) struct Served {
    objects: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    passes: AtomicU64,
}

/// What the passes in service came to, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scrubbed {
    /// Objects read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were not as they should be.
    pub damaged: u64,
    /// Passes that came round.
    pub passes: u64,
}

/// Where the pass in service is: the next directory, of all in their order.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    next: usize,
}

/// How fast a pass reads, and how it is ended.
struct Pace<'a> {
    bytes_per_second: u64,
    started: Instant,
    read: u64,
    stop: &'a dyn Fn() -> bool,
}

impl Pace<'_> {
    /// Notes that so much was read, and waits when that was early; `false` when the pass has to end.
    fn keep(&mut self, bytes: u64) -> bool {
        self.read += bytes;
        loop {
            if (self.stop)() {
                return false;
            }
            let due = if self.bytes_per_second > 0 { self.read as f64 / self.bytes_per_second as f64 } else { 0.0 };
            let early = Duration::from_secs_f64(due).saturating_sub(self.started.elapsed());
            if early.is_zero() {
                return true;
            }
            std::thread::park_timeout(early.min(Duration::from_secs(1)));
        }
    }
}

impl Scrub {
    /// Reads every stored object again, at most `bytes_per_second` (0: as fast as it goes), and looks whether every hosted
    /// reference has its bytes. Ends when its future is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be listed; then nothing is said of what is in it.
    pub async fn run(&self, repair: Repair, bytes_per_second: u64, progress: Arc<Progress>) -> Result<Report, Error> {
        // The blocking thread would otherwise go on for hours after the caller has left.
        struct Stop(Arc<AtomicBool>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(Arc::default());
        let (scrub, stopped) = (self.clone(), stop.0.clone());
        let result = blocking("scrub", move || {
            let stop = || stopped.load(Ordering::Relaxed) || scrub.files.is_closing();
            scrub.pass(repair, bytes_per_second, &progress, &stop)
        })
        .await;
        drop(stop);
        result
    }

    /// Starts a pass beside the service, at the disk's own speed; `false` when one is under way. It ends with the store.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no thread for it.
    pub fn start(&self, repair: Repair) -> Result<bool, Error> {
        let mut job = self.job();
        if job.running.is_some() {
            return Ok(false);
        }
        let progress = Arc::new(Progress::default());
        let (scrub, seen) = (self.clone(), progress.clone());
        let work = move || {
            let report = scrub.pass(repair, 0, &seen, &|| scrub.files.is_closing());
            let mut job = scrub.job();
            job.running = None;
            job.last = Some(report.map_err(|error| error.to_string()));
        };
        let thread = std::thread::Builder::new().name("storage-verify-all".into()).spawn(work);
        thread.map_err(|source| Error::Io { call: "spawn", path: "storage-verify-all".into(), source })?;
        job.running = Some(progress);
        Ok(true)
    }

    /// The verification under way, and what the last one saw.
    pub fn status(&self) -> Status {
        let job = self.job();
        Status { running: job.running.clone(), last: job.last.clone() }
    }

    fn job(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(
        &self,
        repair: Repair,
        bytes_per_second: u64,
        progress: &Progress,
        stop: &dyn Fn() -> bool,
    ) -> Result<Report, Error> {
        for (_, _, directory) in self.directories() {
            for name in self.files.disk.list(&directory)? {
                let size = self.files.disk.metadata(&directory.join(name))?.map_or(0, |metadata| metadata.len());
                progress.total_objects.fetch_add(1, Ordering::Relaxed);
                progress.total_bytes.fetch_add(size, Ordering::Relaxed);
            }
        }
        let mut report = Report::default();
        let mut pace = Pace { bytes_per_second, started: Instant::now(), read: 0, stop };
        for (kind, algorithm, directory) in self.directories() {
            self.look_at(kind, algorithm, &directory, repair, &mut pace, &mut report, progress)?;
            if stop() {
                report.stopped = true;
                return Ok(report);
            }
        }
        self.look_for_missing(&mut report)?;
        self.look_at_records(repair, &mut pace, &mut report)?;
        report.stopped = stop();
        Ok(report)
    }

    fn directories(&self) -> impl Iterator<Item = (Kind, Algorithm, std::path::PathBuf)> {
        let kinds = Kind::ALL.into_iter();
        let pairs = kinds.flat_map(|kind| [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| (kind, algorithm)));
        pairs.flat_map(|(kind, algorithm)| {
            self.files.layout.shards(kind, algorithm).map(move |directory| (kind, algorithm, directory))
        })
    }

    /// Reads every object of one directory.
    #[expect(clippy::too_many_arguments, reason = "the state of a pass, which both kinds of pass keep on their stack")]
    fn look_at(
        &self,
        kind: Kind,
        algorithm: Algorithm,
        directory: &Path,
        repair: Repair,
        pace: &mut Pace<'_>,
        report: &mut Report,
        progress: &Progress,
    ) -> Result<(), Error> {
        for name in self.files.disk.list(directory)? {
            let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse::<Digest>() else { continue };
            match self.read_through(kind, &digest, pace, progress) {
                Ok(Looked::Stopped) => return Ok(()),
                // Evicted, or moved away by a reader that found it corrupt.
                Ok(Looked::Absent) => continue,
                Ok(Looked::Sound) => {}
                Ok(Looked::Corrupt(stamp)) => {
                    report.add(self.damage(kind, &digest, Problem::Corrupt));
                    if repair != Repair::Nothing {
                        self.quarantine(kind, &digest, Some(stamp), "the file does not match its digest");
                    }
                }
                Err(error) => {
                    let damage = self.damage(kind, &digest, Problem::Unreadable(error.to_string()));
                    let mirrored = damage.repositories.is_empty();
                    report.add(damage);
                    if repair == Repair::Unreadable && mirrored {
                        self.quarantine(kind, &digest, None, "the file cannot be read");
                    }
                }
            }
            report.objects += 1;
            progress.objects.fetch_add(1, Ordering::Relaxed);
        }
        report.bytes = progress.bytes.load(Ordering::Relaxed);
        Ok(())
    }

    fn damage(&self, kind: Kind, digest: &Digest, problem: Problem) -> Damage {
        let repositories = self.pins.holders(kind, digest);
        error!(%digest, kind = kind.name(), ?problem, ?repositories, "found by a scrub");
        Damage { kind: kind.name(), digest: digest.clone(), problem, repositories }
    }

    fn quarantine(&self, kind: Kind, digest: &Digest, stamp: Option<Stamp>, why: &str) {
        let quarantined = match kind {
            Kind::Blob => self.verifier.quarantine(digest, stamp, why),
            Kind::Manifest => self.manifests.quarantine(digest, stamp, why),
        };
        if let Err(error) = quarantined {
            warn!(%digest, %error, "what is corrupt stays until it is looked at again");
        }
    }

    /// The hosted references of whose bytes there is no file.
    fn look_for_missing(&self, report: &mut Report) -> Result<(), Error> {
        for (kind, digest) in self.pins.all() {
            let there = self.files.disk.metadata(&self.files.layout.object(kind, &digest))?.is_some();
            let known = report.damages.iter().any(|damage| damage.digest == digest);
            // Given up in the meantime, it need not be there.
            if !there && !known && self.pins.is_pinned(kind, &digest) {
                report.add(self.damage(kind, &digest, Problem::Missing));
            }
        }
        Ok(())
    }

    /// The records of hosted repositories, and the pins.
    fn look_at_records(&self, repair: Repair, pace: &mut Pace<'_>, report: &mut Report) -> Result<(), Error> {
        let records = match repair {
            Repair::Nothing => RecordRepair::Nothing,
            // What an immutable tag is about is no decision of a pass in service.
            Repair::Corrupt => RecordRepair::Restore,
            Repair::Unreadable => RecordRepair::PutAside,
        };
        self.repositories
            .damaged_records(records, &mut |bytes| pace.keep(bytes), &mut |record| report.add_record(record))?;
        let pins = self.files.layout.pins();
        if let Err(error @ Error::DamagedRecord(_)) = self.files.read_authoritative_record::<serde_json::Value>(&pins) {
            error!(%error, "found by a scrub");
            if repair == Repair::Unreadable {
                self.files.put_record_aside(&pins, "pins")?;
            }
            report.add_record(DamagedRecord {
                kind: RecordKind::Pins,
                repository: None,
                reference: String::new(),
                restored: false,
            });
        }
        Ok(())
    }

    fn read_through(
        &self,
        kind: Kind,
        digest: &Digest,
        pace: &mut Pace<'_>,
        progress: &Progress,
    ) -> Result<Looked, Error> {
        let path = self.files.layout.object(kind, digest);
        let Some(file) = self.files.disk.open(&path)? else { return Ok(Looked::Absent) };
        let stamp = self.files.disk.stamp(&file, &path)?;
        if kind == Kind::Manifest {
            // It is small, and read as it is for a client: its first line is not covered by its digest.
            progress.bytes.fetch_add(stamp.size, Ordering::Relaxed);
            if !pace.keep(stamp.size) {
                return Ok(Looked::Stopped);
            }
            if self.manifests.look_at_file(digest)?.is_some() {
                return Ok(Looked::Sound);
            }
        } else {
            let (mut hasher, mut buffer, mut offset) = (digest.algorithm().hasher(), vec![0; CHUNK], 0);
            loop {
                let count = self.files.disk.read_at(&file, &path, &mut buffer, offset)?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                offset += count as u64;
                progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
                if !pace.keep(count as u64) {
                    return Ok(Looked::Stopped);
                }
            }
            if hasher.finish() == *digest {
                self.verifier.mark_verified(digest, stamp);
                return Ok(Looked::Sound);
            }
        }
        Ok(if self.files.is_still(kind, digest, stamp)? { Looked::Corrupt(stamp) } else { Looked::Absent })
    }

    /// Goes round for ever, once in each `interval`, until the store is closed. On a thread of its own.
    pub(crate) fn serve(&self, interval: Duration) {
        let directories: Vec<_> = self.directories().collect();
        let slot = interval / directories.len() as u32;
        let path = self.files.layout.scrub_cursor();
        let cursor: Option<Cursor> = self.files.read_record(&path).unwrap_or_default();
        let mut next = cursor.map_or(0, |cursor| cursor.next) % directories.len();
        let stop = || self.files.is_closing();
        while !stop() {
            let started = Instant::now();
            let usage = self.capacity.usage();
            let even = (usage.blob_bytes + usage.manifest_bytes) as f64 / interval.as_secs_f64().max(0.001);
            let mut pace = Pace { bytes_per_second: SLOWEST.max(2 * even as u64), started, read: 0, stop: &stop };
            let (mut report, progress) = (Report::default(), Progress::default());
            let (kind, algorithm, directory) = &directories[next];
            let looked = self.look_at(*kind, *algorithm, directory, Repair::Corrupt, &mut pace, &mut report, &progress);
            next = (next + 1) % directories.len();
            let hosted = match next {
                0 => self
                    .look_for_missing(&mut report)
                    .and_then(|()| self.look_at_records(Repair::Corrupt, &mut pace, &mut report)),
                _ => Ok(()),
            };
            if let Err(error) = looked.and(hosted) {
                warn!(%error, "cannot scrub a directory");
            }
            if stop() {
                return;
            }
            self.count(&report, next == 0);
            if let Err(error) = self.files.write_record(&path, &Cursor { next }) {
                warn!(%error, "the scrub will begin at an earlier place after a restart");
            }
            while let rest = slot.saturating_sub(started.elapsed())
                && !rest.is_zero()
                && !stop()
            {
                std::thread::park_timeout(rest);
            }
        }
    }

    fn count(&self, report: &Report, came_round: bool) {
        self.served.objects.fetch_add(report.objects, Ordering::Relaxed);
        self.served.bytes.fetch_add(report.bytes, Ordering::Relaxed);
        self.served.damaged.fetch_add(report.damaged, Ordering::Relaxed);
        if came_round {
            self.served.passes.fetch_add(1, Ordering::Relaxed);
            let scrubbed = self.scrubbed();
            info!(objects = scrubbed.objects, damaged = scrubbed.damaged, "a scrub of all that is stored came round");
        }
    }

    /// What the passes in service came to, since the start.
    pub fn scrubbed(&self) -> Scrubbed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Scrubbed {
            objects: read(&self.served.objects),
            bytes: read(&self.served.bytes),
            damaged: read(&self.served.damaged),
            passes: read(&self.served.passes),
        }
    }
}

enum Looked {
    Sound,
    /// With the stamp of the file that was read.
    Corrupt(Stamp),
    Absent,
    Stopped,
}
