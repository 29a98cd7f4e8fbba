//! Upload sessions: bytes on their way into a hosted repository, whose digest comes last.
//!
//! # What this guarantees
//! * What was acknowledged of a session is in its file, so that a killed process finds it and the client goes on from there. It
//!   is not synced: after a power cut the file may be shorter or hold zeros, which the digest shows at the end.
//! * [`Upload::commit`] comes back only when the blob is verified, synced, under its name, and the name is on the disk.
//! * However a session ends, committed, cancelled or expired, its file and its bytes of the capacity go with it.
//! * Two requests on one session never mix: the later one takes over, and the earlier gets an error with its next piece.
//!
//! # Which hash
//! The algorithm is known only when the digest is. What was announced is hashed as it arrives, sha256 when nothing was; if
//! that was wrong, or the process has been started anew, the file is read once more at the end.

use std::{
    cmp::Reverse,
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

use super::repositories::Repositories;
use crate::{
    Error, Settings,
    capacity::{Capacity, Reservation},
    files::{Files, Kind, blocking},
    oci::{Algorithm, Digest, Hasher, Name},
};

/// One client may have one in so many of all sessions.
const SHARE: usize = 4;

/// A session of which nothing came for so long gives way to a new one that has no place. Clients pause for seconds between two pieces.
const IDLE: Duration = Duration::from_secs(60);

/// Reserved at a time.
const GROWTH: u64 = 8 << 20;

/// Write-back is asked for each time so much has come, so that the sync at the end finds little to do.
const WRITEBACK: u64 = 8 << 20;

/// Read at once when a file is hashed again.
const CHUNK: usize = 1 << 20;

/// The upload sessions of a store. Cloning is cheap.
///
/// What is `async` runs on a blocking thread and is done even when its future is dropped.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    repositories: Repositories,
    /// Names this server in the ids it gives out.
    server: String,
    /// Sessions at once.
    most: usize,
    ttl: Duration,
    // Held for one map operation.
    sessions: Mutex<HashMap<Box<str>, Arc<Session>>>,
}

/// What survives the process.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    repository: Name,
    principal: String,
    /// Whose share it takes. A session of an earlier version has none, and takes that of its principal.
    client: Option<String>,
    algorithm: Option<String>,
}

#[derive(Debug)]
struct Session {
    id: Box<str>,
    repository: Name,
    principal: Box<str>,
    client: Box<str>,
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
    uploads: Uploads,
    session: Arc<Session>,
    turn: u64,
}

impl Uploads {
    pub(crate) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        repositories: Repositories,
        server: String,
        settings: &Settings,
    ) -> Uploads {
        let (most, ttl) = (settings.upload_sessions, settings.upload_ttl);
        Uploads(Arc::new(Inner { files, capacity, repositories, server, most, ttl, sessions: Mutex::default() }))
    }

    /// What names this server in the ids of its uploads.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions().len()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Session>>> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload for this principal (empty for a client without a name), who alone goes on with it, in the share of this client; to be
    /// hashed with this algorithm unless its end says otherwise.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Io`].
    pub async fn begin(
        &self,
        name: &Name,
        principal: &str,
        client: &str,
        algorithm: Algorithm,
    ) -> Result<Upload, Error> {
        let (uploads, repository) = (self.clone(), name.clone());
        let (principal, client) = (principal.to_owned(), client.to_owned());
        blocking("begin upload", move || {
            uploads.make_place(&client)?;
            let files = &uploads.0.files;
            let id: Box<str> = format!("{}-{}", uploads.0.server, files.disk.random()?).into();
            let algorithm = Some(algorithm.as_str().to_owned());
            let record = Record { repository, principal, client: Some(client), algorithm };
            let path = files.layout.upload_record(&id);
            uploads.0.capacity.make_room_and_retry(0, || files.write_record(&path, &record))?;
            Ok(uploads.enter(id, record, None, 0, Instant::now()))
        })
        .await
    }

    /// Sees to it that one more session of this client fits. When the client has its share, one of its own makes way; when there are as many as
    /// there may be, one of anybody's: an empty one, or one of which nothing came for a while, or else one of a client that has more than
    /// twice as many, whatever comes of it. So no client that has few is kept out by those that have many.
    fn make_place(&self, client: &str) -> Result<(), Error> {
        let sessions: Vec<Arc<Session>> = self.sessions().values().cloned().collect();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        sessions.iter().for_each(|session| *counts.entry(&session.client).or_default() += 1);
        let of = |client: &str| counts.get(client).copied().unwrap_or_default();
        let has_its_share = of(client) >= (self.0.most / SHARE).max(1);
        if !has_its_share && sessions.len() < self.0.most {
            return Ok(());
        }
        let rank = |session: &Session| {
            let (is_own, idle) = (*session.client == *client, session.idle());
            let is_empty = session.written.load(Ordering::Acquire) == 0;
            let has_many = of(&session.client) > 2 * (of(client) + 1);
            let rank = match has_its_share {
                true if !is_own => return None,
                _ if is_empty => 0,
                _ if idle >= IDLE => 1,
                false if has_many => 2,
                _ => return None,
            };
            Some((rank, Reverse(of(&session.client)), Reverse(idle)))
        };
        let mut candidates: Vec<_> = sessions.iter().filter_map(|session| Some((rank(session)?, session))).collect();
        candidates.sort_unstable_by_key(|(rank, _)| *rank);
        for ((rank, ..), session) in candidates {
            // A request that writes at this moment keeps it.
            let Ok(mut state) = session.state.clone().try_lock_owned() else { continue };
            if state.ended || (rank == 0 && state.written > 0) {
                continue;
            }
            info!(client = %session.client, repository = %session.repository, rank, "an upload made way for another");
            self.end(session, &mut state);
            return Ok(());
        }
        Err(Error::Busy)
    }

    fn enter(
        &self,
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
            client: record.client.unwrap_or_else(|| record.principal.clone()).into(),
            principal: record.principal.into(),
            algorithm,
            written: AtomicU64::new(written),
            turn: AtomicU64::new(0),
            active: Mutex::new(active),
            state: Arc::new(tokio::sync::Mutex::new(state)),
        });
        self.sessions().insert(id, session.clone());
        Upload { uploads: self.clone(), session, turn: 0 }
    }

    /// The upload of that id, when it is this repository's and this principal's.
    pub fn get(&self, id: &str, repository: &Name, principal: &str) -> Option<Upload> {
        let session = self.sessions().get(id).cloned()?;
        if session.repository != *repository || *session.principal != *principal {
            return None;
        }
        session.touch();
        let turn = session.turn.load(Ordering::Acquire);
        Some(Upload { uploads: self.clone(), session, turn })
    }

    /// Finds the sessions that an earlier run left, and removes what is no session any more.
    pub(crate) fn recover(&self) -> Result<(), Error> {
        let (disk, layout) = (&self.0.files.disk, &self.0.files.layout);
        let directory = layout.uploads();
        disk.make_directory(&directory)?;
        let names = disk.list(&directory)?;
        for id in names.iter().filter(|name| !name.ends_with(".session")) {
            if !names.iter().any(|name| name.strip_suffix(".session") == Some(id)) {
                disk.remove(&directory.join(id))?;
            }
        }
        for id in names.iter().filter_map(|name| name.strip_suffix(".session")) {
            let data = layout.upload(id);
            let record = self.0.files.read_record::<Record>(&layout.upload_record(id))?;
            let record_age = disk.metadata(&layout.upload_record(id))?;
            let found = disk.metadata(&data)?;
            let modified = found.as_ref().or(record_age.as_ref()).and_then(|metadata| metadata.modified().ok());
            let idle = modified.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            let written = found.map_or(0, |metadata| metadata.len());
            let reservation = self.0.capacity.reserve(written);
            let since = Instant::now().checked_sub(idle);
            match (record, reservation, since) {
                (Some(record), Ok(reservation), Some(since)) if idle < self.0.ttl => {
                    self.enter(id.into(), record, Some(reservation), written, since);
                }
                _ => self.remove(id),
            }
        }
        Ok(())
    }

    /// Ends the sessions that were not used for too long. For the housekeeper.
    pub(crate) fn expire(&self) {
        let ttl = self.0.ttl;
        let idle: Vec<Arc<Session>> =
            self.sessions().values().filter(|session| session.idle() >= ttl).cloned().collect();
        for session in idle {
            // A session that is written at this moment is not idle.
            if let Ok(mut state) = session.state.clone().try_lock_owned()
                && session.idle() >= ttl
            {
                info!(repository = %session.repository, bytes = state.written, "an upload expired");
                self.end(&session, &mut state);
            }
        }
    }

    /// The session is no more, and neither are its bytes.
    fn end(&self, session: &Session, state: &mut State) {
        state.ended = true;
        state.file = None;
        self.sessions().remove(&session.id);
        self.remove(&session.id);
        state.reservation = None;
    }

    fn remove(&self, id: &str) {
        let (disk, layout) = (&self.0.files.disk, &self.0.files.layout);
        // The record first: data without one is swept at the next start, a record without data would be a session.
        for path in [layout.upload_record(id), layout.upload(id)] {
            if let Err(error) = disk.remove(&path) {
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
        let (uploads, session) = (self.uploads.clone(), self.session.clone());
        blocking("append", move || {
            let appended = state.append(&uploads.0, &session, &pieces);
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
        let (uploads, session) = (self.uploads.clone(), self.session.clone());
        blocking("roll back", move || {
            let files = &uploads.0.files;
            let path = files.layout.upload(&session.id);
            if state.written > 0 || state.file.is_some() {
                let file = state.open(files, &path)?;
                files.disk.truncate(&file, &path, offset)?;
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
        let (uploads, session, digest) = (self.uploads.clone(), self.session.clone(), digest.clone());
        blocking("commit", move || {
            let committed = state.commit(&uploads.0, &session, &digest);
            match &committed {
                Err(Error::Quota { .. }) => session.touch(),
                _ => uploads.end(&session, &mut state),
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
        let (uploads, session) = (self.uploads.clone(), self.session.clone());
        blocking("cancel", move || {
            uploads.end(&session, &mut state);
            Ok(())
        })
        .await
    }
}

impl State {
    fn open(&mut self, files: &Files, path: &Path) -> Result<Arc<File>, Error> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let existing = files.disk.open_to_write(path)?;
        let file = Arc::new(existing.map_or_else(|| files.disk.create(path), Ok)?);
        self.file = Some(file.clone());
        Ok(file)
    }

    fn append(&mut self, uploads: &Inner, session: &Session, pieces: &[Bytes]) -> Result<(), Error> {
        let Inner { files, capacity, repositories, .. } = uploads;
        let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        repositories.pins().check_quota(&session.repository, self.written + total)?;
        if self.reservation.is_none() {
            self.reservation = Some(capacity.reserve(0)?);
        }
        if let Some(reservation) = &mut self.reservation {
            // A little ahead, so that the accounts are not opened for every piece; what is small takes no more than it is.
            let ahead = if self.written == 0 { 0 } else { GROWTH };
            reservation.cover(self.written + total, ahead)?;
        }
        let (path, at) = (files.layout.upload(&session.id), self.written);
        let file = self.open(files, &path)?;
        let write = || files.disk.write_at(&file, &path, pieces, at);
        capacity.make_room_and_retry(total.max(GROWTH), write).inspect_err(|_| {
            // What of it is in the file is not counted, and is written over or cut off.
            let _ = files.disk.truncate(&file, &path, at);
        })?;
        if let Some(hasher) = &mut self.hasher {
            pieces.iter().for_each(|piece| hasher.update(piece));
        }
        self.written += total;
        if self.written - self.written_back >= WRITEBACK {
            files.disk.start_writeback(&file, self.written_back, self.written - self.written_back);
            self.written_back = self.written;
        }
        Ok(())
    }

    fn commit(&mut self, uploads: &Inner, session: &Session, digest: &Digest) -> Result<(), Error> {
        let Inner { files, capacity, repositories, .. } = uploads;
        let path = files.layout.upload(&session.id);
        let written = self.written;
        let file = self.open(files, &path)?;
        let hasher = self.hasher.take().filter(|_| session.algorithm == digest.algorithm());
        let actual = match hasher {
            Some(hasher) => hasher.finish(),
            None => hash(files, &file, &path, digest.algorithm(), written)?,
        };
        if actual != *digest {
            return Err(Error::mismatch(digest, actual));
        }
        let reservation = self.reservation.take().map_or_else(|| capacity.reserve(0), Ok)?;
        repositories.add_blob(&session.repository, digest, written, || {
            // What an append that failed half-way left behind the end.
            files.disk.truncate(&file, &path, written)?;
            files.disk.sync_data(&file, &path)?;
            // A process that dies from here on has no session left over that would have lost its bytes.
            files.disk.remove(&files.layout.upload_record(&session.id))?;
            let _storing = files.storing(digest);
            files.disk.rename(&path, &files.layout.object(Kind::Blob, digest))?;
            reservation.commit(digest, written);
            Ok(Some(file))
        })
    }
}

/// Reads the file once more.
fn hash(files: &Files, file: &File, path: &Path, algorithm: Algorithm, length: u64) -> Result<Digest, Error> {
    let (mut hasher, mut buffer, mut at) = (algorithm.hasher(), vec![0; CHUNK], 0);
    while at < length {
        let most = CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK));
        match files.disk.read_at(file, path, &mut buffer[..most], at)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upload_of_which_nothing_came_for_a_minute_makes_way() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { root: directory.path().to_owned(), upload_sessions: 4, ..Settings::default() };
        let settings = Settings { namespaces: vec!["local/*".into()], ..settings };
        let store = Store::open(settings).unwrap();
        let name: Name = "local/a".parse().unwrap();
        let begin = async |client: &str| store.uploads.begin(&name, "", client, Algorithm::Sha256).await;
        let mut held = Vec::new();
        for client in ["a", "b", "c", "d"] {
            let upload = begin(client).await.unwrap();
            upload.append(vec![bytes::Bytes::from_static(b"x")]).await.unwrap();
            held.push(upload);
        }
        // One of its own where the client has its share, and one of anybody's where it has none.
        for (client, from) in [("b", 1), ("e", 2)] {
            assert!(matches!(begin(client).await, Err(Error::Busy)), "{client}");
            let session = &held[from].session;
            *session.active.lock().unwrap() = Instant::now().checked_sub(IDLE).unwrap();
            begin(client).await.unwrap().append(vec![bytes::Bytes::from_static(b"x")]).await.unwrap();
            assert!(store.uploads.get(held[from].id(), &name, "").is_none(), "{client}");
        }
        assert!([0, 3].iter().all(|at| store.uploads.get(held[*at].id(), &name, "").is_some()));
    }
}
