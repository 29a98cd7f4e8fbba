//! Journals: what no upstream can give again, appended record by record and on disk when the append returns.
//!
//! # What this guarantees
//! A record is replayed if its append returned, and no record is replayed that was never appended: each is framed with its
//! length and checksum, and what does not check is the torn tail of a crash, cut off and logged. Appends of many share
//! one `fdatasync`: those that come while one is under way are written together and share the next.
//!
//! # After a failure
//! A frame that was not written completely is overwritten by the next. A sync that failed is not trusted again: the callers
//! that waited get the error, and the file is rewritten as a new one before anything else is appended.
//!
//! # Compaction
//! Writes a new file, syncs it, renames it over the old one, syncs the directory. A crash leaves the one or the other.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::Files;
use crate::Error;

/// The first line, followed by how many of the records are a snapshot's.
const FORMAT: &str = "weir-journal-1";

/// The first line is padded to so many bytes.
const HEADER: u64 = 48;

/// Appends that wait for the disk at once; more wait for their turn.
const WAITING: usize = 1024;

/// A record is a ledger entry or a ban: larger than this, it is damage.
const MOST: usize = 16 << 20;

/// Records that survive a crash: each append is on disk when it returns. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Journal {
    requests: mpsc::Sender<Request>,
    path: PathBuf,
    files: Arc<Files>,
}

/// The journals of a store. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Journals {
    files: Arc<Files>,
    // Held to look up or open a journal.
    open: Arc<Mutex<HashMap<&'static str, Journal>>>,
}

type Answer = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
enum Request {
    Append(Bytes, Answer),
    Compact(Vec<Bytes>, Answer),
}

impl Journals {
    pub(crate) fn new(files: Arc<Files>) -> Journals {
        Journals { files, open: Arc::default() }
    }

    /// The journal of that name (lower-case letters, digits, dashes); the same one each time. Reads the whole file when it
    /// is opened.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or begun.
    pub fn open(&self, name: &'static str) -> Result<Journal, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = open.get(name) {
            return Ok(journal.clone());
        }
        let journal = Journal::open(&self.files, name)?;
        open.insert(name, journal.clone());
        Ok(journal)
    }
}

impl Journal {
    fn open(files: &Arc<Files>, name: &str) -> Result<Journal, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Error::Unusable(format!("{name:?} cannot name a journal")));
        }
        let path = files.layout.journal(name);
        let (requests, received) = mpsc::channel(WAITING);
        let mut writer = JournalWriter { files: files.clone(), path: path.clone(), open: None };
        writer.reopen()?;
        let thread = std::thread::Builder::new().name(format!("journal-{name}"));
        let started = thread.spawn(move || writer.run(received));
        started.map_err(|source| Error::Io { call: "spawn", path: path.clone(), source })?;
        Ok(Journal { requests, path, files: files.clone() })
    }

    /// What was journaled, oldest first: the last snapshot's records, then those appended since. Reads the whole file.
    ///
    /// # Errors
    /// When the file cannot be read. A torn tail is no error; it was dropped when the journal was opened.
    pub fn replay(&self) -> Result<Vec<Bytes>, Error> {
        let bytes: Bytes = self.files.disk.read(&self.path, u64::MAX)?.unwrap_or_default().into();
        Ok(parse(&bytes).map(|parsed| parsed.records).unwrap_or_default())
    }

    /// Appends one record of at most 16 MiB; it is on disk when this returns.
    ///
    /// # Errors
    /// When it may not be on disk. It may then be there all the same after a restart.
    pub async fn append(&self, record: &[u8]) -> Result<(), Error> {
        if record.len() > MOST {
            return Err(Error::Unusable(format!("a record of {} bytes is too large for a journal", record.len())));
        }
        let record = Bytes::copy_from_slice(record);
        self.ask(|answer| Request::Append(record, answer)).await
    }

    /// Replaces everything journaled so far by these records, atomically.
    ///
    /// # Errors
    /// When it may not be on disk. What is there then is either these records or all that were journaled before.
    pub async fn compact(&self, records: Vec<Bytes>) -> Result<(), Error> {
        self.ask(|answer| Request::Compact(records, answer)).await
    }

    async fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| Error::vanished("journal"))?;
        answered.await.unwrap_or_else(|_| Err(Error::vanished("journal")))
    }
}

/// The thread that writes one journal.
struct JournalWriter {
    files: Arc<Files>,
    path: PathBuf,
    /// The file, and where the next frame goes; `None` after a sync that failed.
    open: Option<(File, u64)>,
}

impl JournalWriter {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut next = None;
        while let Some(request) = next.take().or_else(|| requests.blocking_recv()) {
            match request {
                Request::Compact(records, answer) => {
                    let result = self.rewrite(&records, records.len() as u64);
                    let _ = answer.send(result);
                }
                Request::Append(record, answer) => {
                    let (mut records, mut answers) = (vec![record], vec![answer]);
                    while records.len() < WAITING {
                        match requests.try_recv() {
                            Ok(Request::Append(record, answer)) => {
                                records.push(record);
                                answers.push(answer);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let result = self.append(&records);
                    if let Err(error) = &result {
                        error!(path = %self.path.display(), %error, "cannot journal");
                    }
                    for answer in answers {
                        // Who does not wait for the answer does not get it.
                        let _ = answer.send(result.as_ref().copied().map_err(Error::again));
                    }
                }
            }
        }
    }

    fn append(&mut self, records: &[Bytes]) -> Result<(), Error> {
        if self.open.is_none() {
            let bytes: Bytes = self.files.disk.read(&self.path, u64::MAX)?.unwrap_or_default().into();
            let parsed = parse(&bytes).unwrap_or_default();
            self.rewrite(&parsed.records, parsed.snapshot)?;
        }
        let Some((file, end)) = &mut self.open else { return Err(Error::vanished("journal")) };
        let frames: Vec<Bytes> = records.iter().flat_map(frame).collect();
        let size: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        self.files.disk.write_at(file, &self.path, &frames, *end)?;
        if let Err(error) = self.files.disk.sync_data(file, &self.path) {
            self.open = None;
            return Err(error);
        }
        *end += size;
        Ok(())
    }

    /// Opens what is there, or begins anew; drops a torn tail.
    fn reopen(&mut self) -> Result<(), Error> {
        let Some(file) = self.files.disk.open_to_write(&self.path)? else { return self.rewrite(&[], 0) };
        let bytes: Bytes = self.files.disk.read(&self.path, u64::MAX)?.unwrap_or_default().into();
        let Some(parsed) = parse(&bytes) else {
            // Nothing in it can be made sense of. It is kept beside, since it cannot be had again.
            let aside = self.path.with_extension("bad");
            error!(path = %self.path.display(), aside = %aside.display(), "not a journal; put aside, beginning anew");
            self.files.disk.rename(&self.path, &aside)?;
            return self.rewrite(&[], 0);
        };
        let torn = bytes.len() as u64 - parsed.end;
        if torn > 0 {
            warn!(path = %self.path.display(), bytes = torn, records = parsed.records.len(), "dropped a torn tail");
            self.files.disk.truncate(&file, &self.path, parsed.end)?;
            self.files.disk.sync_data(&file, &self.path)?;
        }
        self.open = Some((file, parsed.end));
        Ok(())
    }

    fn rewrite(&mut self, records: &[Bytes], snapshot: u64) -> Result<(), Error> {
        let disk = &self.files.disk;
        let new = self.path.with_extension("new");
        disk.remove(&new)?;
        let file = disk.create(&new)?;
        let header = format!("{:<47}\n", format!("{FORMAT} {snapshot}"));
        let mut pieces = vec![Bytes::from(header)];
        pieces.extend(records.iter().flat_map(frame));
        disk.write_at(&file, &new, &pieces, 0)?;
        disk.sync_data(&file, &new)?;
        // From the rename on, the open file is not the one of this name: what failed after it must not be appended to.
        self.open = None;
        disk.rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            self.files.sync_names(directory)?;
        }
        self.open = Some((file, pieces.iter().map(|piece| piece.len() as u64).sum()));
        Ok(())
    }
}

/// Length and checksum (little-endian), then the record. The checksum is over the length as well.
fn frame(record: &Bytes) -> [Bytes; 2] {
    let length = (record.len() as u32).to_le_bytes();
    let mut sum = crc32fast::Hasher::new();
    sum.update(&length);
    sum.update(record);
    let mut head = length.to_vec();
    head.extend_from_slice(&sum.finalize().to_le_bytes());
    [Bytes::from(head), record.clone()]
}

#[derive(Debug, Default)]
struct Parsed {
    records: Vec<Bytes>,
    /// How many of them are a snapshot's.
    snapshot: u64,
    /// Where the last good frame ends.
    end: u64,
}

/// The records of a journal's bytes, and where the last good one ends.
#[cfg(any(test, fuzzing))]
pub(super) fn records(bytes: &Bytes) -> Option<(Vec<Bytes>, u64)> {
    parse(bytes).map(|parsed| (parsed.records, parsed.end))
}

/// `None` when the first line is not a journal's.
fn parse(bytes: &Bytes) -> Option<Parsed> {
    let header = std::str::from_utf8(bytes.get(..HEADER as usize)?).ok()?;
    let snapshot = header.strip_suffix('\n')?.trim_end().strip_prefix(FORMAT)?.trim_start().parse().ok()?;
    let mut parsed = Parsed { records: Vec::new(), snapshot, end: HEADER };
    loop {
        let at = parsed.end as usize;
        let Some(head) = bytes.get(at..at + 8) else { return Some(parsed) };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = at + 8 + length;
        if length > MOST || end > bytes.len() {
            return Some(parsed);
        }
        let record = bytes.slice(at + 8..end);
        if frame(&record)[0] != head {
            return Some(parsed);
        }
        parsed.records.push(record);
        parsed.end = end as u64;
    }
}
