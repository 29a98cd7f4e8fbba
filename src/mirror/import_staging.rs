//! Reading an archive that comes in: each object is hashed and stored under its digest, where nothing names it yet.
//!
//! An object is written by the same writer as a fill is: accounted, made room for, hashed, synced, renamed; a pull of the same digest at
//! the same time ends well. All are stored as blobs at first, since only `index.json` tells which are manifests, and that may come last.
//! The memory that is taken is bounded by [`MOST_ENTRIES`] digests, one piece, and one `index.json`.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    io::{self, Read},
    rc::Rc,
};

use bytes::Bytes;
use tar::{Archive, EntryType, PaxExtensions};
use tokio::{runtime::Handle, sync::mpsc};
use weir_storage::{Error as StoreError, Store};

use super::import_holds::Holds;
use crate::{
    archive::{self, MOST_JSON},
    oci::Digest,
};

/// Files of one archive: their digests are in memory, some 100 bytes each.
const MOST_ENTRIES: usize = 200_000;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// Extended headers hold a path and some times.
const MOST_EXTENDED: u64 = 64 << 10;
/// What may follow the end of an archive: tar fills up its last record.
const MOST_TRAILING: u64 = 1 << 20;

/// Why an archive is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is not what can be imported.
    #[error("{0}; nothing was imported")]
    Malformed(String),
    /// It did not come to its end.
    #[error("the archive ended early, {0}; nothing was imported")]
    Ended(String),
    /// The store takes no more.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An archive as it comes: pieces, or why no more come.
pub(super) type Pieces = mpsc::Receiver<Result<Bytes, String>>;

/// Reads what comes, on a thread that may wait.
struct Input {
    pieces: Pieces,
    rest: Bytes,
    end: Rc<Cell<End>>,
}

/// Whether more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// The client has sent what it had.
    Reached,
    BrokeOff,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(why)) => {
                    self.end.set(End::BrokeOff);
                    return Err(io::Error::other(why));
                }
                None => {
                    self.end.set(End::Reached);
                    return Ok(0);
                }
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// What an archive had in it.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// The contents of `index.json`.
    pub(super) index: Vec<u8>,
    /// Objects that are what their digests say, and their sizes in bytes.
    pub(super) present: HashMap<Digest, u64>,
    /// Objects that are not.
    pub(super) damaged: HashSet<Digest>,
    /// What was stored, and was not here before.
    pub(super) written: Vec<Digest>,
    /// What this import holds: every object of the archive, as far as it was read.
    pub(super) held: Vec<Digest>,
}

/// Reads an archive into a store. Blocks.
pub(super) struct Staging<'a> {
    pub(super) store: &'a Store,
    pub(super) runtime: &'a Handle,
    pub(super) holds: &'a Holds,
    pub(super) staged: &'a mut Staged,
}

impl Staging<'_> {
    /// # Errors
    /// See [`ArchiveError`]. What was stored until then is in `staged`.
    pub(super) fn read(&mut self, pieces: Pieces) -> Result<(), ArchiveError> {
        let end = Rc::new(Cell::new(End::NotYet));
        let mut archive = Archive::new(Input { pieces, rest: Bytes::new(), end: end.clone() });
        let (mut seen, mut last, mut extended) = (HashSet::new(), "at its beginning".to_owned(), None);
        let mut has_begun = false;
        let ended = |last: &str, error: &dyn std::fmt::Display| ArchiveError::Ended(format!("{last}: {error}"));
        let entries = archive.entries().map_err(|error| ended(&last, &error))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|error| match end.get() {
                // Not even one header came, so that nothing says that this was to be an archive.
                End::Reached | End::NotYet if !has_begun => no_archive(),
                End::NotYet => malformed(&last, &format!("this is no tar: {error}")),
                End::Reached | End::BrokeOff => ended(&last, &error),
            })?;
            has_begun = true;
            let kind = entry.header().entry_type();
            let size = entry.header().entry_size().map_err(|error| malformed(&last, &error))?;
            match kind {
                EntryType::XGlobalHeader if size <= MOST_EXTENDED => continue,
                EntryType::XHeader if size <= MOST_EXTENDED => {
                    let bytes = read_all(&mut entry, size).map_err(|error| ended(&last, &error))?;
                    extended = extended_path(&bytes).map_err(|why| malformed(&last, &why))?;
                    continue;
                }
                _ => {}
            }
            let path = extended.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            let path = archive::clean(&path).map_err(ArchiveError::Malformed)?.to_owned();
            last = format!("in or after {path}");
            match kind {
                EntryType::Directory => continue,
                EntryType::Regular | EntryType::Continuous => {}
                kind => {
                    return Err(malformed(
                        &path,
                        &format!("an entry of type {kind:?} has no place in an OCI image layout"),
                    ));
                }
            }
            if !seen.insert(path.clone()) {
                return Err(malformed(&path, &"it is in the archive twice"));
            }
            if seen.len() > MOST_ENTRIES {
                return Err(ArchiveError::Malformed(format!(
                    "there are more than {MOST_ENTRIES} files in it; import it in parts"
                )));
            }
            if let Some(digest) = archive::blob_of(&path) {
                self.stage(&digest, size, &mut entry).map_err(|error| match error {
                    StageError::Input(error) => ended(&last, &error),
                    StageError::Store(error) => ArchiveError::Store(error),
                })?;
                continue;
            }
            let is_known = matches!(&*path, "oci-layout" | "index.json" | "manifest.json" | "repositories");
            if !is_known {
                let why = "it is no part of an OCI image layout; skopeo copy docker-archive:OLD.tar oci-archive:NEW.tar converts an \
                           archive of docker";
                return Err(malformed(&path, &why));
            }
            if size > MOST_JSON {
                return Err(malformed(&path, &format!("it has {size} bytes, and may have {MOST_JSON}")));
            }
            let bytes = read_all(&mut entry, size).map_err(|error| ended(&last, &error))?;
            match &*path {
                "index.json" => self.staged.index = bytes,
                "oci-layout" => check_version(&bytes)?,
                _ => {}
            }
        }
        let mut input = archive.into_inner();
        match end.get() {
            End::NotYet => {}
            End::Reached if !has_begun => return Err(no_archive()),
            End::Reached | End::BrokeOff => return Err(ArchiveError::Ended(format!("{last}: it has no end"))),
        }
        // The client is to get an answer, which it reads when it has sent everything.
        io::copy(&mut (&mut input).take(MOST_TRAILING), &mut io::sink())
            .map_err(|error| ended("at its end", &error))?;
        for (path, is_there) in
            [("oci-layout", seen.contains("oci-layout")), ("index.json", seen.contains("index.json"))]
        {
            if !is_there {
                return Err(malformed(path, &"it is missing: this is no OCI image layout"));
            }
        }
        Ok(())
    }

    /// Hashes an object, and stores it unless it is here.
    fn stage(&mut self, digest: &Digest, size: u64, from: &mut impl Read) -> Result<(), StageError> {
        // Said before anything is evicted for it.
        if size > self.store.usage().capacity {
            return Err(StageError::Store(StoreError::Full { needed: size }));
        }
        // Before it is looked for: another import may have stored it, and end before this one.
        self.holds.hold(digest);
        self.staged.held.push(digest.clone());
        let is_here = self.runtime.block_on(self.store.blobs.size(digest))?.is_some();
        let mut writer = match is_here {
            true => None,
            false => Some(self.runtime.block_on(self.store.blobs.write(digest, Some(size)))?),
        };
        // What an earlier attempt left is not written twice.
        let (mut left, mut skip) = (size, writer.as_ref().map_or(0, weir_storage::Writer::written));
        let mut hasher = digest.algorithm().hasher();
        let mut buffer = vec![0; PIECE];
        while left > 0 {
            let most = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let count = match from.read(&mut buffer[..most]) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let count = match count {
                Ok(count) => count,
                Err(error) => {
                    if let Some(writer) = writer {
                        self.runtime.block_on(writer.abandon("the archive broke off".into(), false));
                    }
                    return Err(StageError::Input(error));
                }
            };
            hasher.update(&buffer[..count]);
            left -= count as u64;
            let skipped = count.min(usize::try_from(skip).unwrap_or(count));
            skip -= skipped as u64;
            if let Some(writer) = &mut writer
                && skipped < count
            {
                let bytes = Bytes::copy_from_slice(&buffer[skipped..count]);
                self.runtime.block_on(writer.append(bytes))?;
            }
        }
        if hasher.finish() != *digest {
            if let Some(writer) = writer {
                self.runtime.block_on(writer.abandon("it does not match its digest".into(), false));
            }
            self.staged.damaged.insert(digest.clone());
            return Ok(());
        }
        if let Some(writer) = writer {
            self.runtime.block_on(writer.commit())?;
            self.holds.stored(digest);
            self.staged.written.push(digest.clone());
        }
        self.staged.present.insert(digest.clone(), size);
        Ok(())
    }
}

enum StageError {
    Input(io::Error),
    Store(StoreError),
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> StageError {
        StageError::Store(error)
    }
}

fn no_archive() -> ArchiveError {
    ArchiveError::Malformed("this is no tar archive, and so no OCI image layout in one".to_owned())
}

fn malformed(place: &str, why: &dyn std::fmt::Display) -> ArchiveError {
    ArchiveError::Malformed(format!("{place}: {why}"))
}

fn read_all(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < size { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// The path that an extended header gives to the file behind it.
fn extended_path(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut path = None;
    for record in PaxExtensions::new(bytes) {
        let record = record.map_err(|error| error.to_string())?;
        match record.key_bytes() {
            b"path" => path = Some(record.value_bytes().to_vec()),
            b"size" => return Err(
                "a file of more than 8 GiB is written in a way that is not read here; import the layout as a directory"
                    .into(),
            ),
            _ => {}
        }
    }
    Ok(path)
}

fn check_version(bytes: &[u8]) -> Result<(), ArchiveError> {
    let version: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    match version["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => {
            Err(malformed("oci-layout", &format!("version {version} is none that is known here; that is 1.0.0")))
        }
        None => Err(malformed("oci-layout", &"it names no imageLayoutVersion")),
    }
}
