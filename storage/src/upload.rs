//! Upload sessions: bytes on their way into a hosted repository, of a digest that is told last.
//!
//! # What this guarantees
//! * What was acknowledged of a session is in its file, so that a killed process finds it and the client goes on from there. It
//!   is not synced: after a power cut the file may be shorter or hold zeros, which the digest shows at the end.
//! * [`Upload::commit`] comes back only when the blob is verified, synced, under its name, and the name is on the disk.
//! * However a session ends, committed, cancelled or expired, its file and its bytes of the capacity go with it.
//! * Two requests on one session never mix: the later one takes over, and the earlier is told so with its next piece.
//!
//! # Which hash
//! The algorithm is known only when the digest is. What was announced is hashed as it arrives, sha256 when nothing was; if
//! that was wrong, or the process has been started anew, the file is read once more at the end.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use crate::{
    Error,
    core::{Core, blocking},
    evict::Reservation,
    layout::Kind,
    oci::{Algorithm, Digest, Hasher, Name},
};

/// Reserved at a time.
const GROWTH: u64 = 8 << 20;

/// Write-back is asked for each time so much has come, so that the sync at the end finds little to do.
const WRITEBACK: u64 = 8 << 20;

/// Read at once when a file is hashed again.
const CHUNK: usize = 1 << 20;

/// All sessions.
#[derive(Debug)]
pub(crate) struct Uploads {
    /// Names this server in the ids it gives out.
    pub(crate) server: String,
    // Held for one map operation.
    sessions: Mutex<HashMap<Box<str>, Arc<Session>>>,
}

/// What survives the process.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    repository: Name,
    principal: String,
    algorithm: Option<String>,
}

#[derive(Debug)]
struct Session {
    id: Box<str>,
    repository: Name,
    principal: Box<str>,
    algorithm: Algorithm,
    /// Bytes in the file.
    written: AtomicU64,
    /// Which request may write: the last one that began.
    turn: AtomicU64,
    // Held to read or set it.
    active: Mutex<Instant>,
    /// Held across one piece's way to the disk, by the thread that brings it there.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Opened with the first byte.
    file: Option<Arc<File>>,
    /// `None`: what is in the file must be read again.
    hasher: Option<Hasher>,
    written: u64,
    written_back: u64,
    reservation: Option<Reservation>,
    ended: bool,
}

/// One request's hold of a session.
#[derive(Clone, Debug)]
pub struct Upload {
    core: Arc<Core>,
    session: Arc<Session>,
    turn: u64,
}

impl Uploads {
    pub(crate) fn of(server: String) -> Uploads {
        Uploads { server, sessions: Mutex::default() }
    }

    /// Forgets all sessions, whose files stay for the next process; they hold what the store is made of.
    pub(crate) fn forget(&self) {
        let sessions = std::mem::take(&mut *self.sessions());
        // Not under the lock: what is dropped here may drop a great deal.
        drop(sessions);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Begins a session for this principal (empty for nobody in particular).
    pub(crate) fn begin_upload(
        self: &Arc<Core>,
        repository: &Name,
        principal: &str,
        algorithm: Algorithm,
    ) -> Result<Upload, Error> {
        if self.uploads.sessions().len() >= self.settings.upload_sessions {
            return Err(Error::Busy);
        }
        let id: Box<str> = format!("{}-{}", self.uploads.server, self.disk.random()?).into();
        let record = Record {
            repository: repository.clone(),
            principal: principal.to_owned(),
            algorithm: Some(algorithm.as_str().to_owned()),
        };
        self.write_record(&self.layout.upload_record(&id), &record)?;
        Ok(self.enter_upload(id, record, None, 0, Instant::now()))
    }

    fn enter_upload(
        self: &Arc<Core>,
        id: Box<str>,
        record: Record,
        reservation: Option<Reservation>,
        written: u64,
        active: Instant,
    ) -> Upload {
        let algorithm = match record.algorithm.as_deref() {
            Some("sha512") => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        };
        let state = State {
            file: None,
            hasher: (written == 0).then(|| algorithm.hasher()),
            written,
            written_back: written,
            reservation,
            ended: false,
        };
        let session = Arc::new(Session {
            id: id.clone(),
            repository: record.repository,
            principal: record.principal.into(),
            algorithm,
            written: AtomicU64::new(written),
            turn: AtomicU64::new(0),
            active: Mutex::new(active),
            state: Arc::new(tokio::sync::Mutex::new(state)),
        });
        self.uploads.sessions().insert(id, session.clone());
        Upload { core: self.clone(), session, turn: 0 }
    }

    /// The session of that id, when it is of this repository and this principal.
    pub(crate) fn upload(self: &Arc<Core>, id: &str, repository: &Name, principal: &str) -> Option<Upload> {
        let session = self.uploads.sessions().get(id).cloned()?;
        if session.repository != *repository || *session.principal != *principal {
            return None;
        }
        session.touch();
        let turn = session.turn.load(Ordering::Acquire);
        Some(Upload { core: self.clone(), session, turn })
    }

    /// How many sessions there are.
    pub(crate) fn upload_count(&self) -> usize {
        self.uploads.sessions().len()
    }

    /// Finds the sessions that an earlier run left, and removes what is no session any more.
    pub(crate) fn recover_uploads(self: &Arc<Core>) -> Result<(), Error> {
        let directory = self.layout.uploads();
        self.disk.make_directory(&directory)?;
        let names = self.disk.list(&directory)?;
        for id in names.iter().filter(|name| !name.ends_with(".session")) {
            if !names.iter().any(|name| name.strip_suffix(".session") == Some(id)) {
                self.disk.remove(&directory.join(id))?;
            }
        }
        for id in names.iter().filter_map(|name| name.strip_suffix(".session")) {
            let data = self.layout.upload(id);
            let record = self.read_record::<Record>(&self.layout.upload_record(id))?;
            let record_age = self.disk.metadata(&self.layout.upload_record(id))?;
            let found = self.disk.metadata(&data)?;
            let modified = found.as_ref().or(record_age.as_ref()).and_then(|metadata| metadata.modified().ok());
            let idle = modified.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            let written = found.map_or(0, |metadata| metadata.len());
            let reservation = self.reserve(written);
            let since = Instant::now().checked_sub(idle);
            match (record, reservation, since) {
                (Some(record), Ok(reservation), Some(since)) if idle < self.settings.upload_ttl => {
                    self.enter_upload(id.into(), record, Some(reservation), written, since);
                }
                _ => self.remove_upload(id),
            }
        }
        Ok(())
    }

    /// Ends the sessions that nobody used for too long. For the housekeeper.
    pub(crate) fn expire_uploads(&self) {
        let ttl = self.settings.upload_ttl;
        let idle: Vec<Arc<Session>> =
            self.uploads.sessions().values().filter(|session| session.idle() >= ttl).cloned().collect();
        for session in idle {
            // Whoever writes at this moment is not idle.
            if let Ok(mut state) = session.state.clone().try_lock_owned()
                && session.idle() >= ttl
            {
                info!(repository = %session.repository, bytes = state.written, "an upload expired");
                self.end_upload(&session, &mut state);
            }
        }
    }

    /// The session is no more, and neither are its bytes.
    fn end_upload(&self, session: &Session, state: &mut State) {
        state.ended = true;
        state.file = None;
        self.uploads.sessions().remove(&session.id);
        self.remove_upload(&session.id);
        state.reservation = None;
    }

    fn remove_upload(&self, id: &str) {
        // The record first: data without one is swept at the next start, a record without data would be a session.
        for path in [self.layout.upload_record(id), self.layout.upload(id)] {
            if let Err(error) = self.disk.remove(&path) {
                warn!(%error, "what is left of an upload stays until the next start");
            }
        }
    }
}

impl Session {
    fn touch(&self) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Upload {
    /// What names the session: this server, and 128 random bits.
    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// Bytes received and in the file: where to go on.
    pub fn written(&self) -> u64 {
        self.session.written.load(Ordering::Acquire)
    }

    /// From now on this request writes, and no earlier one does. Waits until what an earlier one gave is in its place.
    pub async fn take_over(&mut self) {
        self.turn = self.session.turn.fetch_add(1, Ordering::AcqRel) + 1;
        drop(self.session.state.lock().await);
    }

    async fn state(&self) -> Result<OwnedMutexGuard<State>, Error> {
        let state = self.session.state.clone().lock_owned().await;
        if state.ended || self.session.turn.load(Ordering::Acquire) != self.turn {
            return Err(Error::Superseded);
        }
        Ok(state)
    }

    /// Appends and hashes. Done even when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Quota`]; [`Error::Superseded`] when the session ended or another request writes; [`Error::Io`].
    pub async fn append(&self, pieces: Vec<Bytes>) -> Result<(), Error> {
        let mut state = self.state().await?;
        let (core, session) = (self.core.clone(), self.session.clone());
        blocking("append", move || {
            let appended = state.append(&core, &session, &pieces);
            session.written.store(state.written, Ordering::Release);
            session.touch();
            appended
        })
        .await
    }

    /// Gives back all beyond `offset`: what a request brought that could not be taken whole.
    ///
    /// # Errors
    /// [`Error::Superseded`], [`Error::Io`].
    pub async fn roll_back(&self, offset: u64) -> Result<(), Error> {
        let mut state = self.state().await?;
        let (core, session) = (self.core.clone(), self.session.clone());
        blocking("roll back", move || {
            let path = core.layout.upload(&session.id);
            if state.written > 0 || state.file.is_some() {
                let file = state.open(&core, &path)?;
                core.disk.truncate(&file, &path, offset)?;
            }
            state.written = offset;
            state.written_back = state.written_back.min(offset);
            state.hasher = (offset == 0).then(|| session.algorithm.hasher());
            session.written.store(offset, Ordering::Release);
            if let Some(reservation) = &mut state.reservation {
                reservation.shrink_to(offset);
            }
            Ok(())
        })
        .await
    }

    /// Makes the bytes a blob of the session's repository: verified, synced, named, the name synced, and pinned, in this
    /// order. Only then does it come back, and the session is no more. Done even when the future is dropped.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], and the session is no more; [`Error::Quota`], [`Error::Superseded`]; [`Error::Io`], and the session
    /// is no more: a sync that failed is not tried again.
    pub async fn commit(&self, digest: &Digest) -> Result<(), Error> {
        let mut state = self.state().await?;
        let (core, session, digest) = (self.core.clone(), self.session.clone(), digest.clone());
        blocking("commit", move || {
            let committed = state.commit(&core, &session, &digest);
            match &committed {
                Err(Error::Quota { .. }) => session.touch(),
                _ => core.end_upload(&session, &mut state),
            }
            committed
        })
        .await
    }

    /// Ends the session and gives back its bytes.
    ///
    /// # Errors
    /// [`Error::Superseded`] when it had ended already.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        self.take_over().await;
        let mut state = self.state().await?;
        let (core, session) = (self.core.clone(), self.session.clone());
        blocking("cancel", move || {
            core.end_upload(&session, &mut state);
            Ok(())
        })
        .await
    }
}

impl State {
    fn open(&mut self, core: &Core, path: &Path) -> Result<Arc<File>, Error> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let existing = core.disk.open_to_write(path)?;
        let file = Arc::new(existing.map_or_else(|| core.disk.create(path), Ok)?);
        self.file = Some(file.clone());
        Ok(file)
    }

    fn append(&mut self, core: &Arc<Core>, session: &Session, pieces: &[Bytes]) -> Result<(), Error> {
        let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        core.pins.room(&session.repository, self.written + total)?;
        if self.reservation.is_none() {
            self.reservation = Some(core.reserve(0)?);
        }
        if let Some(reservation) = &mut self.reservation {
            let missing = (self.written + total).saturating_sub(reservation.bytes());
            // A little ahead, so that the books are not opened for every piece; what is small takes no more than it is.
            let ahead = if self.written == 0 { 0 } else { GROWTH.min(core.settings.capacity / 16) };
            if missing > 0 {
                reservation.grow(missing.max(ahead))?;
            }
        }
        let path = core.layout.upload(&session.id);
        let at = self.written;
        let file = self.open(core, &path)?;
        let mut wrote = core.disk.write_at(&file, &path, pieces, at);
        if wrote.as_ref().is_err_and(Error::is_full) {
            core.evict(total.max(GROWTH));
            wrote = core.disk.write_at(&file, &path, pieces, at);
        }
        if let Err(error) = wrote {
            // What of it is in the file is not counted, and is written over or cut off.
            let _ = core.disk.truncate(&file, &path, at);
            return Err(if error.is_full() { core.complain(total) } else { error });
        }
        if let Some(hasher) = &mut self.hasher {
            pieces.iter().for_each(|piece| hasher.update(piece));
        }
        self.written += total;
        if self.written - self.written_back >= WRITEBACK {
            core.disk.start_writeback(&file, self.written_back, self.written - self.written_back);
            self.written_back = self.written;
        }
        Ok(())
    }

    fn commit(&mut self, core: &Arc<Core>, session: &Session, digest: &Digest) -> Result<(), Error> {
        let path = core.layout.upload(&session.id);
        let written = self.written;
        let file = self.open(core, &path)?;
        let hasher = self.hasher.take().filter(|_| session.algorithm == digest.algorithm());
        let actual = match hasher {
            Some(hasher) => hasher.finish(),
            None => hash(core, &file, &path, digest.algorithm(), written)?,
        };
        if actual != *digest {
            return Err(Error::mismatch(digest, actual));
        }
        let reservation = self.reservation.take().map_or_else(|| core.reserve(0), Ok)?;
        // Before anything is irrevocable, for this may be refused.
        let pinned = core.pins.add(Kind::Blob, digest, written, &session.repository)?;
        let name = || {
            // What an append that failed half-way left behind the end.
            core.disk.truncate(&file, &path, written)?;
            core.disk.sync_data(&file, &path)?;
            // A process that dies from here on has no session left over that would have lost its bytes.
            core.disk.remove(&core.layout.upload_record(&session.id))?;
            core.disk.rename(&path, &core.layout.object(Kind::Blob, digest))?;
            core.holds.mark_verified(digest);
            reservation.commit(digest, written);
            core.host_blob(&session.repository, digest, written)
        };
        let _hold = core.holds.hold(digest);
        name().inspect_err(|_| {
            if pinned {
                core.pins.remove(Kind::Blob, digest, &session.repository);
            }
        })
    }
}

/// Reads the file once more.
fn hash(core: &Core, file: &File, path: &Path, algorithm: Algorithm, length: u64) -> Result<Digest, Error> {
    let (mut hasher, mut buffer, mut at) = (algorithm.hasher(), vec![0; CHUNK], 0);
    while at < length {
        let most = CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK));
        match core.disk.read_at(file, path, &mut buffer[..most], at)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
    Ok(hasher.finish())
}
