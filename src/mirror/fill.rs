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
//! A source's refusal is not shared. Repository A may get 404 or 401 for a digest that repository B may read: then A's
//! ask ends, the [`Permit`] is dropped, and B's ask, which waited for it, leads with its own source. And a fill started by
//! B serves A only after A's upstream vouched for the digest under A's name ([`super::blobs`] sees to that).
//! It never retries a blob that did not match its digest: that is upstream's fault to mend, and a client's next pull to try.
//!
//! # What breaks if a line is moved
//!
//! The permit must outlive the commit. Were the digest freed before the file is in place, the next ask would find neither
//! fill nor blob and go upstream again. Only a disk that does not answer within `fill_timeout` loses it: the digest would be
//! unavailable for ever, and two writers of one digest do no harm.

use std::{
    ops::Range,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{Sender, channel},
        watch,
    },
    time::{Instant, sleep, timeout},
};
use weir_shared::{Flight, Lease, Tier, Turn};
use weir_storage::{Reader, Stopped, Store, Writer};

use super::{
    fills::{ArrivingBlob, Found, Permit, Supplier, Suppliers},
    incoming::Incoming,
    metrics::Metrics,
    outcome::FillOutcome,
    peers::Peers,
};
use crate::{
    oci::{Digest, Hasher},
    upstream,
};

/// How often one fill picks up a broken body before its readers get an error.
const RESUMES: u32 = 3;

/// The wait before the first resume; doubled for each further one.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// How long a fill waits for its turn; below the 30 s after which containerd gives up on headers.
const SLOT_WAIT: Duration = Duration::from_secs(20);

/// With each so many bytes the time limit of a fill begins anew.
const STEP: usize = 64 << 10;

/// How long the digest of a fill that failed is kept from the next one, while the disk puts the partial file aside.
const ABANDON_WAIT: Duration = Duration::from_secs(5);

/// Why a fill without progress ends, for its readers.
const TOO_OLD: &str = "this mirror waited too long for its disk or for upstream";

/// Pieces of a passed-through body that may wait for a slow client. With upstream's pieces of up to 64 KiB, half a MiB.
const PASSING_PIECES: usize = 8;

/// A fill to start: who may ask for what, as whom.
pub(super) struct Fill {
    pub(super) supplier: Supplier,
    pub(super) digest: Digest,
    /// Its size, as a manifest says it.
    pub(super) named: Option<u64>,
    /// Whether what came was decoded; then it is asked for from the start each time.
    pub(super) is_decoded: bool,
    pub(super) store: Store,
    /// The bucket that replicas share: it gets what comes from upstream.
    pub(super) tier: Option<Tier>,
    /// The same, when the blob is to come from there.
    pub(super) bucket: Option<Tier>,
    /// Until it is in the bucket, other replicas wait for it.
    pub(super) lease: Option<Lease>,
    /// The other replicas, where they give one another what arrives.
    pub(super) peers: Option<Peers>,
    /// Whether the blob comes from the one of them that has the lease.
    pub(super) is_following: bool,
    /// The replicas that gave bytes of it, or are to give them; the last one is followed.
    pub(super) owners: Vec<String>,
    pub(super) stop: watch::Receiver<bool>,
    /// For its beginning, each [`STEP`] of it, and its end.
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Fill {
    /// Asks upstream and starts to write. Returns when upstream's headers are in.
    ///
    /// # Errors
    /// Upstream's, when it refuses, or is gone, or answers with what cannot be this blob; that the disk does not answer.
    pub(super) async fn start(self, permit: Arc<Permit>) -> Result<Found, upstream::Error> {
        // A replica begins to send before there is a slot: its own fill may wait for one there. If each held one meanwhile, two replicas
        // could wait for one another.
        let from_peer = if self.is_following { Some(self.get(0).await?) } else { None };
        // The semaphore is never closed; were it, the fill would just run unbounded.
        let slot = match timeout(SLOT_WAIT, permit.fills.slots.clone().acquire_owned()).await {
            Ok(slot) => slot.ok(),
            Err(_) => {
                let reason = "too many blobs are arriving at once".into();
                return Err(upstream::Error::Unavailable { reason, retry_after: Some(SLOT_WAIT) });
            }
        };
        let (metrics, digest, limit) = (self.metrics.clone(), self.digest.clone(), self.timeout);
        timeout(limit, self.open(permit, slot, from_peer)).await.unwrap_or_else(|_| {
            metrics.fill(FillOutcome::too_old);
            tracing::error!(%digest, "a fill does not begin; the disk or upstream does not answer");
            Err(upstream::Error::Unavailable { reason: TOO_OLD.into(), retry_after: None })
        })
    }

    async fn open(
        mut self,
        permit: Arc<Permit>,
        slot: Option<OwnedSemaphorePermit>,
        from_peer: Option<Incoming>,
    ) -> Result<Found, upstream::Error> {
        let mut writer = match self.store.blobs.write(&self.digest, None).await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, digest = %self.digest, "passing a blob through: it cannot be kept");
                return self.pass_through().await.map(Found::uncached);
            }
        };
        let body = match from_peer {
            Some(body) => body,
            None => self.get(writer.written()).await?,
        };
        self.is_decoded = body.is_decoded();
        let Some(size) = body.size() else {
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
                    let reader = match body.start() {
                        0 => pass(body, size, 0..size, Some(Check::new(self.digest.clone())), None),
                        _ => self.pass_through().await?,
                    };
                    Ok(Found::uncached(reader))
                }
            };
        }
        let ahead = Arc::new(Semaphore::new(permit.fills.ahead_ranges));
        let arriving = ArrivingBlob {
            blob: writer.arriving(),
            size,
            is_decoded: self.is_decoded,
            ahead,
            source: self.supplier.source.clone(),
            is_from_bucket: self.bucket.is_some(),
        };
        if let Err(error) =
            self.store.cache.members.add(&self.supplier.source, std::slice::from_ref(&self.digest)).await
        {
            tracing::warn!(%error, digest = %self.digest, "membership could not be kept; upstream will be asked again");
        }
        let is_upstream = self.bucket.is_none() && !self.is_following;
        if let Some(tier) = self.tier.as_ref().filter(|_| is_upstream) {
            tier.keep_member(&self.supplier.source, &self.digest, self.lease.as_ref());
        }
        if is_upstream {
            self.metrics.fills.inc();
        }
        permit.progress.send_replace(Some(arriving.clone()));
        let (suppliers, mut permit) = (permit.suppliers.clone(), Some(permit));
        let (metrics, started) = (self.metrics.clone(), Instant::now());
        tokio::spawn(async move {
            self.pump(writer, body, &suppliers, &mut permit).await;
            metrics.fill_seconds.observe(started.elapsed());
            // Only now: see the module's essay.
            drop(permit);
            drop(slot);
        });
        Ok(Found::Arriving(arriving))
    }

    /// The blob from this offset on, or from an earlier one.
    pub(super) async fn get(&self, from: u64) -> Result<Incoming, upstream::Error> {
        if let (true, Some(peers), Some(owner)) = (self.is_following, &self.peers, self.owners.last()) {
            let body = peers.get(owner, &self.digest, from).await?;
            // Which of the two is wrong is not known, and space is made for what is announced.
            if self.named.is_some_and(|named| named != body.size) {
                return Err(upstream::Error::Malformed("its size is not the one that the manifest says".into()));
            }
            return Ok(Incoming::Peer(Box::new(body)));
        }
        match &self.bucket {
            Some(bucket) => self.get_from_bucket(bucket, from).await,
            None => self.get_from(&self.supplier, from).await,
        }
    }

    /// What the replica that broke off does not give: from the bucket, from the next one that fetches it, or `None` when it is this one's turn
    /// to ask upstream.
    async fn follow(&mut self, at: u64) -> Option<Incoming> {
        let (tier, peers) = (self.tier.clone()?, self.peers.clone()?);
        let (bucket, others, digest) = (&tier, &peers, &self.digest);
        let look = || async move { bucket.blob(digest, at).await.map(Incoming::Bucket) };
        let next = |owner: String| async move {
            let body = others.get(&owner, digest, at).await.ok()?;
            Some(Incoming::Peer(Box::new(body)))
        };
        let turn = tier.turn(&Flight::blob(digest), look, next).await;
        match turn {
            Turn::Found(body) => {
                if let Incoming::Peer(body) = &body {
                    self.owners.push(body.owner.clone());
                }
                Some(body)
            }
            Turn::Ask(lease) => {
                self.lease = lease;
                self.is_following = false;
                None
            }
        }
    }

    async fn get_from_bucket(&self, bucket: &Tier, from: u64) -> Result<Incoming, upstream::Error> {
        let gone = || upstream::Error::Unavailable { reason: "the bucket does not give it".into(), retry_after: None };
        bucket.blob(&self.digest, from).await.map(Incoming::Bucket).ok_or_else(gone)
    }

    async fn get_from(&self, supplier: &Supplier, from: u64) -> Result<Incoming, upstream::Error> {
        let Supplier { upstream, identity, source } = supplier;
        let body = if from == 0 || self.is_decoded {
            upstream.get_whole_blob(identity, &source.repository, &self.digest, self.named).await?
        } else {
            upstream.get_blob(identity, &source.repository, &self.digest, from, None).await?
        };
        // Nothing would be read of it before it is whole, and so nothing be verified.
        if body.size == Some(0) && self.digest != self.digest.algorithm().digest(b"") {
            return Err(upstream::Error::Malformed("it sent no byte of the blob".into()));
        }
        Ok(Incoming::Upstream(Box::new(body)))
    }

    /// Moves the body into the writer until it is whole and committed, resuming when it breaks.
    ///
    /// When the disk hangs, it gives the permit up before it returns, and the slot is not free: the disk still has one of the threads
    /// that the slots bound.
    async fn pump(
        mut self,
        mut writer: Writer,
        body: Incoming,
        suppliers: &Suppliers,
        permit: &mut Option<Arc<Permit>>,
    ) {
        let (outcome, why, keep) = match self.write(&mut writer, body, suppliers).await {
            Ok(()) => return self.commit(writer, permit).await,
            Err(Interrupted::Stopping) => (FillOutcome::closed, "the mirror is stopping", true),
            Err(Interrupted::Upstream(_)) => (FillOutcome::upstream_failed, "upstream broke off", true),
            Err(Interrupted::Disk(error)) => {
                self.distrust(&error);
                tracing::error!(%error, digest = %self.digest, "a fill stopped at the disk");
                (outcome_of(&error), "the mirror's disk failed", false)
            }
            Err(Interrupted::TooOld) => {
                tracing::error!(digest = %self.digest, "a fill makes no progress and ends");
                (FillOutcome::too_old, TOO_OLD, true)
            }
        };
        self.metrics.fill(outcome);
        // The readers learn of it at once. What came is kept before the next lookup leads, if the disk answers, so that it resumes.
        let mut abandon = pin!(writer.abandon(why.into(), keep));
        if timeout(ABANDON_WAIT, &mut abandon).await.is_err() {
            *permit = None;
            abandon.await;
        }
    }

    async fn commit(&self, writer: Writer, permit: &mut Option<Arc<Permit>>) {
        let arriving = writer.arriving();
        let mut commit = pin!(writer.commit());
        let committed = match timeout(self.timeout, &mut commit).await {
            Ok(committed) => {
                self.metrics.fill(committed.as_ref().map_or_else(outcome_of, |()| FillOutcome::done));
                committed
            }
            Err(_) => {
                arriving.stop(TOO_OLD.into());
                self.metrics.fill(FillOutcome::too_old);
                tracing::error!(digest = %self.digest, "a fill does not end; the disk does not answer");
                *permit = None;
                commit.await
            }
        };
        match committed {
            Ok(()) => {
                tracing::debug!(digest = %self.digest, bytes = arriving.readable(), "filled");
                if let Some(lease) = &self.lease {
                    lease.got();
                }
                // The replica that fetched it writes it to the bucket.
                if let Some(tier) = self.tier.as_ref().filter(|_| !self.is_following) {
                    tier.keep_blob(&self.digest, self.lease.as_ref());
                }
            }
            Err(error) => {
                let is_mismatch = matches!(error, weir_storage::Error::DigestMismatch { .. });
                if let Some(bucket) = &self.bucket {
                    if is_mismatch {
                        bucket.quarantine(&self.digest).await;
                    }
                    tracing::warn!(%error, digest = %self.digest, "a blob from the bucket was thrown away");
                    return;
                }
                if self.distrust(&error) && self.is_following {
                    return;
                }
                if is_mismatch {
                    self.metrics.mismatches.inc();
                }
                tracing::warn!(%error, digest = %self.digest, upstream = %self.supplier.source.upstream,
                    repository = %self.supplier.source.repository, "a blob from upstream was thrown away");
            }
        }
    }

    /// Follows none of the replicas that gave bytes of this blob for a while, when it is wrong. Whether there is such a one.
    fn distrust(&self, error: &weir_storage::Error) -> bool {
        let Some(peers) = self.peers.as_ref().filter(|_| outcome_of(error) == FillOutcome::mismatch) else {
            return false;
        };
        self.owners.iter().for_each(|owner| peers.distrust(owner.clone()));
        !self.owners.is_empty()
    }

    async fn write(
        &mut self,
        writer: &mut Writer,
        mut body: Incoming,
        suppliers: &Suppliers,
    ) -> Result<(), Interrupted> {
        let (mut at, mut resumes) = (writer.written(), 0);
        loop {
            match self.drain(writer, body, &mut at).await {
                Err(Interrupted::Upstream(error)) => body = self.resume(error, at, &mut resumes, suppliers).await?,
                ended => return ended,
            }
        }
    }

    /// Appends what comes until the body ends or breaks; `at` follows.
    async fn drain(&mut self, writer: &mut Writer, mut body: Incoming, at: &mut u64) -> Result<(), Interrupted> {
        // Upstream may ignore the range and start over: what is here already is skipped, not appended twice.
        let mut skip = at.saturating_sub(body.start());
        if body.start() > *at {
            return Err(Interrupted::Upstream(upstream::Error::Malformed("it skipped a part of the blob".into())));
        }
        let size = body.size();
        let mut timer = pin!(sleep(self.timeout));
        let mut received = 0;
        loop {
            let piece = tokio::select! {
                piece = body.next() => piece,
                _ = self.stop.wait_for(|stop| *stop) => return Err(Interrupted::Stopping),
                () = &mut timer => return Err(Interrupted::TooOld),
            };
            match piece {
                Ok(Some(mut bytes)) => {
                    // What is skipped is progress, too.
                    received += bytes.len();
                    if received >= STEP {
                        received = 0;
                        timer.as_mut().reset(Instant::now() + self.timeout);
                    }
                    let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                    skip -= skipped as u64;
                    let fresh = bytes.split_off(skipped);
                    if fresh.is_empty() {
                        continue;
                    }
                    *at += fresh.len() as u64;
                    tokio::select! {
                        appended = writer.append(fresh) => appended.map_err(Interrupted::Disk)?,
                        () = &mut timer => return Err(Interrupted::TooOld),
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

    /// Asks for the rest, by another connection and where possible of another source, after a pause.
    ///
    /// # Errors
    /// The last failure when upstream had its chances; that the mirror is stopping.
    async fn resume(
        &mut self,
        mut error: upstream::Error,
        at: u64,
        resumes: &mut u32,
        suppliers: &Suppliers,
    ) -> Result<Incoming, Interrupted> {
        // What cannot be decoded could not be decoded the next time.
        let is_final = self.is_decoded && matches!(error, upstream::Error::Malformed(_));
        while *resumes < RESUMES && !is_final {
            *resumes += 1;
            self.metrics.resumes.inc();
            tracing::info!(%error, digest = %self.digest, at, attempt = *resumes, "resuming a broken fill");
            let pause = RESUME_PAUSE * 2u32.pow(*resumes - 1);
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.wait_for(|stop| *stop) => return Err(Interrupted::Stopping),
            }
            // The last attempt is upstream's, whatever the other replicas do.
            if self.is_following && *resumes < RESUMES {
                let mut stop = self.stop.clone();
                tokio::select! {
                    body = self.follow(at) => if let Some(body) = body { return Ok(body) },
                    _ = stop.wait_for(|stop| *stop) => return Err(Interrupted::Stopping),
                }
            }
            // By turns: another source first, if there is one, and this one again.
            let others = suppliers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let turn = (*resumes as usize - 1) % (others.len() + 1);
            let supplier = others.get(turn).unwrap_or(&self.supplier);
            match self.get_from(supplier, at).await {
                Ok(body) => return Ok(body),
                Err(next) => error = next,
            }
            // With upstream down, a bucket that broke off once is all that there is.
            if let Some(bucket) = &self.bucket
                && let Ok(body) = self.get_from_bucket(bucket, at).await
            {
                return Ok(body);
            }
        }
        tracing::warn!(%error, digest = %self.digest, at, "a fill gave up");
        Err(Interrupted::Upstream(error))
    }

    /// Serves one ask from upstream without the disk, verifying on the way; see [`pass`].
    pub(super) async fn pass_through(&self) -> Result<Reader, upstream::Error> {
        self.metrics.passed_through.inc();
        let body = self.get(0).await?;
        let size = body.size().ok_or(upstream::Error::Malformed("it does not say how large the blob is".into()))?;
        Ok(pass(body, size, 0..size, Some(Check::new(self.digest.clone())), None))
    }
}

/// The name of what the store says against a fill.
fn outcome_of(error: &weir_storage::Error) -> FillOutcome {
    match error {
        weir_storage::Error::DigestMismatch { .. } | weir_storage::Error::WrongSize { .. } => FillOutcome::mismatch,
        _ => FillOutcome::disk_failed,
    }
}

/// Why a body did not get into the writer as a whole.
enum Interrupted {
    Stopping,
    TooOld,
    Upstream(upstream::Error),
    Disk(weir_storage::Error),
}

/// What bytes are verified by on their way: the digest of the whole, and the hash of what the client has already.
pub(super) struct Check {
    pub(super) digest: Digest,
    pub(super) hasher: Hasher,
}

impl Check {
    /// Of a blob of which the client has nothing.
    fn new(digest: Digest) -> Check {
        Check { hasher: digest.algorithm().hasher(), digest }
    }
}

/// Pieces on their way to one reader.
type Pieces = Sender<Result<Bytes, Stopped>>;

/// A reader of the bytes `range` of a blob of `size` bytes, straight from upstream.
///
/// With a check, the blob is passed to its end, hashed on the way, and its last piece withheld until it verifies, so that
/// invariant 1 holds without a disk. Without, this is the documented exception: a small range far ahead of a fill.
/// `held` is dropped when the bytes have gone out.
pub(super) fn pass(
    body: Incoming,
    size: u64,
    range: Range<u64>,
    check: Option<Check>,
    held: Option<OwnedSemaphorePermit>,
) -> Reader {
    let (send, receive) = channel(PASSING_PIECES);
    let start = range.start;
    tokio::spawn(async move {
        let _held = held;
        forward(body, range, check, send).await;
    });
    Reader::passing(size, start, receive)
}

/// As [`pass`], of the end of a blob, and of the body that `open` gives.
pub(super) fn pass_rest(
    runtime: &Handle,
    range: Range<u64>,
    check: Check,
    open: impl Future<Output = Result<Incoming, String>> + Send + 'static,
) -> Reader {
    let (send, receive) = channel(PASSING_PIECES);
    let Range { start, end } = range;
    runtime.spawn(async move {
        match open.await {
            Ok(body) => forward(body, range, Some(check), send).await,
            // The client may have left; then it needs no answer.
            Err(error) => drop(send.send(Err(Stopped(error.into()))).await),
        }
    });
    Reader::passing(end, start, receive)
}

/// Sends the bytes `range` of a body to one reader.
async fn forward(mut body: Incoming, range: Range<u64>, mut check: Option<Check>, send: Pieces) {
    let mut at = body.start();
    let mut withheld: Option<Bytes> = None;
    let failure: Arc<str> = loop {
        match body.next().await {
            Ok(Some(mut bytes)) => {
                let skip = usize::try_from(range.start.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
                at += bytes.len() as u64;
                let mut bytes = bytes.split_off(skip);
                let beyond = usize::try_from(at.saturating_sub(range.end)).unwrap_or(usize::MAX);
                bytes.truncate(bytes.len().saturating_sub(beyond));
                if let Some(check) = &mut check {
                    check.hasher.update(&bytes);
                }
                // An empty piece must not push out the one that is withheld.
                if !bytes.is_empty()
                    && let Some(ready) = withheld.replace(bytes)
                    && send.send(Ok(ready)).await.is_err()
                {
                    return;
                }
                if at >= range.end && check.is_none() {
                    break "".into();
                }
            }
            Ok(None) if at < range.end => break "upstream broke off".into(),
            Ok(None) => break "".into(),
            Err(error) => break error.to_string().into(),
        }
    };
    let verified = check.is_none_or(|check| check.hasher.finish() == check.digest);
    let last = match (failure.is_empty(), verified) {
        (true, true) => Ok(withheld.unwrap_or_default()),
        (true, false) => Err(Stopped("it does not match its digest".into())),
        (false, _) => Err(Stopped(failure)),
    };
    // The client may have left; then it needs no answer.
    let _ = send.send(last).await;
}
