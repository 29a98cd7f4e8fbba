//! One cold blob: upstream's stream into a storage writer, resuming, once per digest.
//!
//! # What it guarantees
//!
//! Of one digest at most one fill is under way, whichever repositories it is asked for in. Each request gets a reader of the blob as it
//! arrives, from its first byte, as soon as upstream's headers are in; the fill never waits for a reader and does not
//! notice when all have left. A body that breaks is resumed by `Range` where it broke, [`RESUMES`] times, before a reader
//! learns of it; what arrives is verified as a whole, so that a resume from another server of the same CDN is safe.
//!
//! # What it refuses to do
//!
//! A source's refusal is not shared. Repository A may be told 404 or 401 for a digest that repository B may read: then A's
//! ask ends, the [`Permit`] is dropped, and B's ask, which waited for it, leads with its own source. And a fill started by
//! B serves A only after A's upstream vouched for the digest under A's name ([`super::blobs`] sees to that).
//! It never retries a blob that did not match its digest: that is upstream's fault to mend, and a client's next pull to try.
//!
//! # What breaks if a line is moved
//!
//! The permit must outlive the commit. Were the digest freed before the file is in place, the next ask would find neither
//! fill nor blob and go upstream again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use weir_storage::{Arriving, Reader, Source, Stopped, Store, Writer};

use super::metrics::Metrics;
use crate::{
    oci::Digest,
    upstream::{self, Body, Identity, Upstream},
};

/// How often one fill picks up a broken body before its readers are told.
const RESUMES: u32 = 3;

/// The wait before the first resume; doubled for each further one.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// How long a fill waits for its turn; below the 30 s after which containerd gives up on headers.
const SLOT_WAIT: Duration = Duration::from_secs(20);

/// Other sources that one fill remembers.
const SUPPLIERS: usize = 8;

/// Pieces of a passed-through body that may wait for a slow client. With upstream's pieces of up to 64 KiB, half a MiB.
const PASSING_PIECES: usize = 8;

/// Fills under way, by digest.
#[derive(Clone, Debug)]
pub(super) struct Fills {
    // A std mutex: it is held for a map operation and never across an await.
    under_way: Arc<Mutex<HashMap<Digest, Progress>>>,
    /// Fills that download at once.
    slots: Arc<Semaphore>,
    /// Ranges far ahead of one fill that are passed through at once.
    ahead_ranges: usize,
}

/// A blob that arrives; every client whose source holds it may read it.
#[derive(Clone, Debug)]
pub(super) struct ArrivingBlob {
    pub(super) blob: Arriving,
    pub(super) size: u64,
    /// Permits for ranges far ahead of the fill.
    pub(super) ahead: Arc<Semaphore>,
}

/// A source of a blob: a repository that holds it, and the identity that may read it there.
#[derive(Clone, Debug)]
pub(super) struct Supplier {
    pub(super) upstream: Upstream,
    pub(super) identity: Identity,
    pub(super) source: Source,
}

/// Other sources of a blob under way, to resume from when its own fails.
type Suppliers = Arc<Mutex<Vec<Supplier>>>;

/// A fill under way, as those who follow it see it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The blob as soon as upstream's headers are in; closes when the fill ends.
    pub(super) arriving: watch::Receiver<Option<ArrivingBlob>>,
    suppliers: Suppliers,
}

impl Progress {
    /// The fill may go on from this source when its own fails. Cheap; each source is taken once, and few of them.
    pub(super) fn offer(&self, supplier: Supplier) {
        let mut suppliers = self.suppliers.lock().unwrap_or_else(PoisonError::into_inner);
        if suppliers.len() < SUPPLIERS && suppliers.iter().all(|known| known.source != supplier.source) {
            suppliers.push(supplier);
        }
    }
}

/// What a blob's flight gives to each of its waiters.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// It is here, and the source holds it: open it.
    Whole,
    /// It arrives.
    Arriving(ArrivingBlob),
    /// It cannot be kept: one waiter takes the stream that was opened, each other waiter opens its own.
    Uncached(Arc<Mutex<Option<Reader>>>),
}

impl Found {
    fn uncached(reader: Reader) -> Found {
        Found::Uncached(Arc::new(Mutex::new(Some(reader))))
    }
}

/// The right to fill one digest. Dropping it frees the digest and wakes those who wait for it.
pub(super) struct Permit {
    fills: Fills,
    digest: Digest,
    progress: watch::Sender<Option<ArrivingBlob>>,
    suppliers: Suppliers,
}

impl Fills {
    pub(super) fn new(slots: usize, ahead_ranges: usize) -> Fills {
        Fills { under_way: Arc::default(), slots: Arc::new(Semaphore::new(slots)), ahead_ranges }
    }

    /// The right to start the fill of this digest.
    ///
    /// # Errors
    /// The progress of the fill that is under way.
    pub(super) fn enter(&self, digest: &Digest) -> Result<Permit, Progress> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = under_way.get(digest) {
            return Err(progress.clone());
        }
        let (progress, arriving) = watch::channel(None);
        let suppliers = Suppliers::default();
        under_way.insert(digest.clone(), Progress { arriving, suppliers: suppliers.clone() });
        Ok(Permit { fills: self.clone(), digest: digest.clone(), progress, suppliers })
    }

    /// The size of the blob, if a fill of it has come so far.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.get(digest)?.arriving.borrow().as_ref().map(|arriving| arriving.size)
    }

    /// How many fills are under way.
    pub(super) fn count(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.fills.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

/// A fill to start: who may ask for what, as whom.
pub(super) struct Fill {
    pub(super) supplier: Supplier,
    pub(super) digest: Digest,
    pub(super) store: Store,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) metrics: Arc<Metrics>,
}

impl Fill {
    /// Asks upstream and starts to write. Returns when upstream's headers are in.
    ///
    /// # Errors
    /// Upstream's, when it refuses, or is gone, or answers with what cannot be this blob.
    pub(super) async fn start(self, permit: Arc<Permit>) -> Result<Found, upstream::Error> {
        // The semaphore is never closed; were it, the fill would just run unbounded.
        let slot = match tokio::time::timeout(SLOT_WAIT, permit.fills.slots.clone().acquire_owned()).await {
            Ok(slot) => slot.ok(),
            Err(_) => {
                let reason = "too many blobs are arriving at once".into();
                return Err(upstream::Error::Unavailable { reason, retry_after: Some(SLOT_WAIT) });
            }
        };
        let mut writer = match self.store.blobs.write(&self.digest, None).await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, digest = %self.digest, "passing a blob through: it cannot be kept");
                return self.pass_through().await.map(Found::uncached);
            }
        };
        let body = self.get(writer.written()).await?;
        let Some(size) = body.size else {
            writer.abandon("its size is unknown".into(), true).await;
            return Err(upstream::Error::Malformed("it does not say how large the blob is".into()));
        };
        if let Err(error) = writer.announce(size).await {
            writer.abandon("the disk is full".into(), false).await;
            return match error {
                weir_storage::Error::WrongSize { .. } => {
                    Err(upstream::Error::Malformed("the blob is smaller than what arrived of it before".into()))
                }
                error => {
                    tracing::warn!(%error, digest = %self.digest, "passing a blob through: it cannot be kept");
                    // The body under way serves this ask when it begins at the beginning.
                    let reader = match body.start {
                        0 => pass(body, size, 0, size, Some(self.digest.clone()), None),
                        _ => self.pass_through().await?,
                    };
                    Ok(Found::uncached(reader))
                }
            };
        }
        let ahead = Arc::new(Semaphore::new(permit.fills.ahead_ranges));
        let arriving = ArrivingBlob { blob: writer.arriving(), size, ahead };
        if let Err(error) =
            self.store.cache.members.add(&self.supplier.source, std::slice::from_ref(&self.digest)).await
        {
            tracing::warn!(%error, digest = %self.digest, "membership could not be kept; upstream will be asked again");
        }
        self.metrics.fills.inc();
        permit.progress.send_replace(Some(arriving.clone()));
        tokio::spawn(async move {
            self.pump(writer, body, &permit.suppliers).await;
            // Only now: see the module's essay.
            drop(permit);
            drop(slot);
        });
        Ok(Found::Arriving(arriving))
    }

    async fn get(&self, from: u64) -> Result<Body, upstream::Error> {
        self.get_from(&self.supplier, from).await
    }

    async fn get_from(&self, supplier: &Supplier, from: u64) -> Result<Body, upstream::Error> {
        let Supplier { upstream, identity, source } = supplier;
        match from {
            0 => upstream.get_whole_blob(identity, &source.repository, &self.digest).await,
            _ => upstream.get_blob(identity, &source.repository, &self.digest, from, None).await,
        }
    }

    /// Moves the body into the writer until it is whole, resuming when it breaks.
    async fn pump(mut self, mut writer: Writer, mut body: Body, suppliers: &Suppliers) {
        let mut at = writer.written();
        let mut resumes = 0;
        loop {
            match self.drain(&mut writer, body, &mut at).await {
                Ok(()) => break,
                Err(Interrupted::Stopping) => return writer.abandon("the mirror is stopping".into(), true).await,
                Err(Interrupted::Disk(error)) => {
                    tracing::error!(%error, digest = %self.digest, "a fill stopped at the disk");
                    return writer.abandon("the mirror's disk failed".into(), false).await;
                }
                Err(Interrupted::Upstream(error)) => {
                    let Some(next) = self.resume(error, at, &mut resumes, suppliers).await else {
                        return writer.abandon("upstream broke off".into(), true).await;
                    };
                    body = next;
                }
            }
        }
        match writer.commit().await {
            Ok(()) => tracing::debug!(digest = %self.digest, bytes = at, resumes, "filled"),
            Err(error) => {
                if matches!(error, weir_storage::Error::DigestMismatch { .. }) {
                    self.metrics.mismatches.inc();
                }
                tracing::warn!(%error, digest = %self.digest, upstream = %self.supplier.source.upstream,
                    repository = %self.supplier.source.repository, "a blob from upstream was thrown away");
            }
        }
    }

    /// Appends what comes until the body ends or breaks; `at` follows.
    async fn drain(&mut self, writer: &mut Writer, mut body: Body, at: &mut u64) -> Result<(), Interrupted> {
        // Upstream may ignore the range and start over: what is here already is skipped, not appended twice.
        let mut skip = at.saturating_sub(body.start);
        if body.start > *at {
            return Err(Interrupted::Upstream(upstream::Error::Malformed("it skipped a part of the blob".into())));
        }
        let size = body.size;
        loop {
            let piece = tokio::select! {
                piece = body.next() => piece,
                _ = self.stop.wait_for(|stop| *stop) => return Err(Interrupted::Stopping),
            };
            match piece {
                Ok(Some(mut bytes)) => {
                    let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                    skip -= skipped as u64;
                    let fresh = bytes.split_off(skipped);
                    if fresh.is_empty() {
                        continue;
                    }
                    *at += fresh.len() as u64;
                    if let Err(error) = writer.append(fresh).await {
                        return Err(Interrupted::Disk(error));
                    }
                }
                Ok(None) if size.is_some_and(|size| *at < size) => {
                    return Err(Interrupted::Upstream(upstream::Error::Malformed("it ended early".into())));
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(Interrupted::Upstream(error)),
            }
        }
    }

    /// Asks for the rest, by another connection and where possible of another source, after a pause; `None` when upstream had its chances.
    async fn resume(
        &mut self,
        mut error: upstream::Error,
        at: u64,
        resumes: &mut u32,
        suppliers: &Suppliers,
    ) -> Option<Body> {
        while *resumes < RESUMES {
            *resumes += 1;
            self.metrics.resumes.inc();
            tracing::info!(%error, digest = %self.digest, at, attempt = *resumes, "resuming a broken fill");
            let pause = RESUME_PAUSE * 2u32.pow(*resumes - 1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stop.wait_for(|stop| *stop) => return None,
            }
            // By turns: another source first, if there is one, and this one again.
            let others = suppliers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let turn = (*resumes as usize - 1) % (others.len() + 1);
            let supplier = others.get(turn).unwrap_or(&self.supplier);
            match self.get_from(supplier, at).await {
                Ok(body) => return Some(body),
                Err(next) => error = next,
            }
        }
        tracing::warn!(%error, digest = %self.digest, at, "a fill gave up");
        None
    }

    /// Serves one ask from upstream without the disk, verifying on the way; see [`pass`].
    pub(super) async fn pass_through(&self) -> Result<Reader, upstream::Error> {
        self.metrics.passed_through.inc();
        let body = self.get(0).await?;
        let size = body.size.ok_or(upstream::Error::Malformed("it does not say how large the blob is".into()))?;
        Ok(pass(body, size, 0, size, Some(self.digest.clone()), None))
    }
}

/// Why a body did not get into the writer as a whole.
enum Interrupted {
    Stopping,
    Upstream(upstream::Error),
    Disk(weir_storage::Error),
}

/// A reader of the bytes `start..end` of a blob of `size` bytes, straight from upstream.
///
/// With a digest, the whole blob is passed: it is hashed on the way and its last piece withheld until it verifies, so that
/// invariant 1 holds without a disk. Without, this is the documented exception: a small range far ahead of a fill.
/// `held` is dropped when the bytes have gone out.
pub(super) fn pass(
    mut body: Body,
    size: u64,
    start: u64,
    end: u64,
    digest: Option<Digest>,
    held: Option<OwnedSemaphorePermit>,
) -> Reader {
    let (send, receive) = tokio::sync::mpsc::channel(PASSING_PIECES);
    tokio::spawn(async move {
        let _held = held;
        let mut hasher = digest.as_ref().map(|digest| digest.algorithm().hasher());
        let mut at = body.start;
        let mut withheld: Option<bytes::Bytes> = None;
        let failure: Arc<str> = loop {
            match body.next().await {
                Ok(Some(mut bytes)) => {
                    let skip = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
                    at += bytes.len() as u64;
                    let mut bytes = bytes.split_off(skip);
                    let beyond = usize::try_from(at.saturating_sub(end)).unwrap_or(usize::MAX);
                    bytes.truncate(bytes.len().saturating_sub(beyond));
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&bytes);
                    }
                    // An empty piece must not push out the one that is withheld.
                    if !bytes.is_empty()
                        && let Some(ready) = withheld.replace(bytes)
                        && send.send(Ok(ready)).await.is_err()
                    {
                        return;
                    }
                    if at >= end && hasher.is_none() {
                        break "".into();
                    }
                }
                Ok(None) if at < end => break "upstream broke off".into(),
                Ok(None) => break "".into(),
                Err(error) => break error.to_string().into(),
            }
        };
        let verified = hasher.is_none_or(|hasher| Some(hasher.finish()) == digest);
        let last = match (failure.is_empty(), verified) {
            (true, true) => Ok(withheld.unwrap_or_default()),
            (true, false) => Err(Stopped("it does not match its digest".into())),
            (false, _) => Err(Stopped(failure)),
        };
        // The client may have left; then nobody minds.
        let _ = send.send(last).await;
    });
    Reader::passing(size, start, receive)
}
