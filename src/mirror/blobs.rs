//! Blobs: from disk, from the fill under way, or by starting one.

mod keep;

pub(super) use self::keep::Kept;

use std::{
    ops::Range,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use weir_shared::{Flight, Tier, Turn};
use weir_storage::{Reader, Source};

use super::{
    error::Error,
    fill::{Check, Fill, pass, pass_rest},
    fills::{ArrivingBlob, Fills, Found, Permit, Supplier, UnderWay},
    flight::{AGE_LIMIT, Flights},
    handles::Handles,
    incoming::Incoming,
    lookup::{Key, Lookup, Object},
    metrics::Metrics,
    named::NamedBlobs,
    negative::NegativeCache,
    outcome::FlightKind,
    peers::{PeerBlob, Peers},
    settings::SharedSettings,
    sources::Sources,
};
use crate::{
    answer::{BlobAnswer, BlobHead, CacheFacts, CacheStatus},
    oci::Digest,
    upstream::{self, Identity, Upstream},
};

/// How often one lookup meets a fill that ended without serving it, before it gives up. Each time another source was refused.
const ATTEMPTS: usize = 8;

/// How long another replica waits here until a blob begins to arrive.
const PEER_WAIT: Duration = Duration::from_secs(10);

/// How long a stopping mirror waits for its fills. A fill ends within the time of one append; the bound is for a disk that hangs.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The blobs of all mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Blobs {
    settings: SharedSettings,
    sources: Sources,
    peers: Option<Peers>,
    negative: Arc<NegativeCache>,
    named: NamedBlobs,
    metrics: Arc<Metrics>,
    flights: Flights<Key, Found>,
    sizes: Flights<Key, Option<u64>>,
    fills: Fills,
    /// True once the mirror closes; fills stop so that they can be resumed.
    stop: watch::Sender<bool>,
    runtime: Handle,
}

impl Blobs {
    pub(super) fn new(handles: &Handles) -> Blobs {
        let Handles { settings, sources, peers, negative, named, metrics, runtime } = handles;
        Blobs {
            flights: Flights::new(FlightKind::blob, metrics.clone(), runtime.clone()),
            sizes: Flights::new(FlightKind::blob_head, metrics.clone(), runtime.clone()),
            fills: Fills::new(settings.load().fills, settings.load().ahead_ranges),
            stop: watch::Sender::new(false),
            settings: settings.clone(),
            sources: sources.clone(),
            peers: peers.clone(),
            negative: negative.clone(),
            named: named.clone(),
            metrics: metrics.clone(),
            runtime: runtime.clone(),
        }
    }

    /// The blob when a reader has it open, whole, and memory knows that this client may have it. No system call. When it is
    /// `None`, [`Blobs::load`] looks at the disk.
    pub fn now(&self, lookup: &Lookup, digest: &Digest) -> Option<BlobAnswer> {
        if !self.sources.is_member_now(lookup, digest) {
            return None;
        }
        let reader = self.sources.store.blobs.now(digest)?;
        Some(self.hit(reader))
    }

    /// The blob when it is here and this client may have it. Asks upstream nothing.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn load(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<BlobAnswer>, Error> {
        Ok(self.whole(lookup, digest).await?.map(|reader| self.hit(reader)))
    }

    fn hit(&self, reader: Reader) -> BlobAnswer {
        self.metrics.blob(CacheStatus::Hit);
        BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Hit) }
    }

    /// A blob, from its first byte as soon as upstream's headers are in.
    ///
    /// `range` (start, exclusive end if it has one) decides only where the bytes come from while the blob arrives: a small one
    /// far ahead of the fill is fetched by itself, and the reader then gives those bytes alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(
        self: &Arc<Blobs>,
        lookup: &Lookup,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        let answer = self.find(lookup, digest, range).await?;
        self.metrics.blob(answer.facts.status);
        Ok(answer)
    }

    /// Blobs arriving now.
    pub fn fills(&self) -> usize {
        self.fills.count()
    }

    /// At most so many of them, those first for which most clients wait.
    pub fn under_way(&self, most: usize) -> Vec<UnderWay> {
        self.fills.under_way(most)
    }

    /// Of these, blobs that wait for a slot among `mirror.fills`.
    pub fn waiting_fills(&self) -> usize {
        self.fills.waiting()
    }

    /// Stops fills so that they can be resumed, and waits until they have.
    pub(super) async fn close(&self) {
        self.stop.send_replace(true);
        let deadline = Instant::now() + STOP_WAIT;
        while self.fills.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The blob if it is whole, here, and this client's to have.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn whole(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Reader>, Error> {
        match self.sources.member(lookup, digest).await? {
            Some(_) => Ok(self.sources.store.blobs.load(digest).await?),
            None => Ok(None),
        }
    }

    async fn find(
        self: &Arc<Blobs>,
        lookup: &Lookup,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(reader) = self.whole(lookup, digest).await? {
                return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Hit) });
            }
            let key = lookup.key(Object::Blob(digest.clone()));
            self.negative.check(&key)?;
            let (blobs, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
            let absent = key.clone();
            let work = |_| async move { blobs.negative.run(&absent, blobs.find_blob(&owned, &wanted)).await };
            match self.flights.join(key, AGE_LIMIT, work).await? {
                // Opened by each waiter for itself; if it was evicted meanwhile, the next round fills it again.
                Found::Whole => {}
                Found::Arriving(found) => return self.arriving(lookup, digest, found, range).await,
                Found::Uncached(opened) => {
                    let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let reader = match opened {
                        Some(reader) => reader,
                        None => self.uncached(lookup, digest).await?,
                    };
                    return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Bypass) });
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    /// A reader of the arriving blob or, for a small range far ahead of it, of that range alone.
    async fn arriving(
        self: &Arc<Blobs>,
        lookup: &Lookup,
        digest: &Digest,
        found: ArrivingBlob,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        let ArrivingBlob { blob, size, is_decoded, ahead, .. } = found;
        if let Some((start, Some(end))) = range
            && let end = end.min(size)
            && start < end
            && end - start <= self.settings.load().ahead_range
            && start > blob.readable().saturating_add(self.settings.load().ahead_range)
            && let Ok(permit) = ahead.try_acquire_owned()
        {
            let (blobs, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
            let range = self.runtime.spawn(async move {
                let request = |upstream: Upstream, identity| {
                    let (repository, wanted) = (owned.repository.clone(), wanted.clone());
                    async move { upstream.get_blob(&identity, &repository, &wanted, start, Some(end)).await }
                };
                let (_, body) = blobs.sources.first(&owned, request).await.ok()?;
                // A server that ignores the range would make us download the whole blob again.
                (body.start == start)
                    .then(|| pass(Incoming::Upstream(Box::new(body)), size, start..end, None, Some(permit)))
            });
            if let Ok(Some(reader)) = range.await {
                return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Bypass) });
            }
        }
        // A reader that outlives the mirror does not keep it, nor its store, open.
        let (blobs, owned, wanted) = (Arc::downgrade(self), lookup.clone(), digest.clone());
        let rest = move |at, hasher| match blobs.upgrade() {
            Some(blobs) => blobs.rest(owned, Check { digest: wanted, hasher }, is_decoded, at..size),
            None => Reader::passing(size, at, mpsc::channel(1).1),
        };
        Ok(BlobAnswer { reader: blob.reader_or(Box::new(rest)), facts: CacheFacts::now(CacheStatus::Miss) })
    }

    /// What one client lacks of a blob whose fill the disk broke off: from upstream, by a request of its own.
    fn rest(self: Arc<Blobs>, lookup: Lookup, check: Check, is_decoded: bool, range: Range<u64>) -> Reader {
        self.metrics.passed_through.inc();
        let (runtime, digest, at) = (self.runtime.clone(), check.digest.clone(), range.start);
        let open = async move {
            let request = |upstream, identity| {
                let fill = Fill { is_decoded, ..self.fill(&lookup, &digest, upstream, identity) };
                async move { fill.get(at).await }
            };
            match self.sources.first(&lookup, request).await {
                Ok((_, body)) if body.start() <= at => Ok(body),
                Ok(_) => Err("upstream skipped a part of the blob".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        pass_rest(&runtime, range, check, open)
    }

    /// The flight's work: looks again, joins the fill of this digest when the source vouches, or starts it.
    async fn find_blob(&self, lookup: &Lookup, digest: &Digest) -> Result<Found, Error> {
        for _ in 0..ATTEMPTS {
            // Between the request's look and this one an earlier flight may have ended; without this line, two asks a
            // moment apart are two downloads.
            if self.sources.store.blobs.size(digest).await?.is_some() {
                self.ensure_member(lookup, digest).await?;
                return Ok(Found::Whole);
            }
            match self.fills.enter(digest) {
                Err(mut progress) => {
                    self.ensure_member(lookup, digest).await?;
                    if let Some(supplier) = self.supplier(lookup, digest).await? {
                        progress.offer(supplier);
                    }
                    // A fill that failed is known to its readers before its permit is dropped. A lookup that comes in between
                    // came after the failure, and must not share it.
                    let readable =
                        |found: &Option<ArrivingBlob>| found.as_ref().is_some_and(|found| !found.blob.is_stopped());
                    if let Ok(found) = progress.arriving.wait_for(readable).await
                        && let Some(found) = found.clone()
                    {
                        return Ok(Found::Arriving(found));
                    }
                    // The leader's source was refused, or its fill ended: look again, and lead.
                }
                Ok(permit) => {
                    if self.sources.store.blobs.size(digest).await?.is_some() {
                        continue;
                    }
                    // Held over the whole loop: an identity that is refused must not let another lookup take the lead, for then
                    // the next identity would find no permit, which is not a refusal by upstream.
                    let permit = Arc::new(permit);
                    let lease = match self.turn(lookup, digest, &permit).await {
                        Turn::Found(found) => return found,
                        Turn::Ask(lease) => lease,
                    };
                    let request = |upstream: Upstream, identity| {
                        let fill = self.fill(lookup, digest, upstream, identity);
                        Fill { lease: lease.clone(), ..fill }.start(permit.clone())
                    };
                    let (_, found) =
                        self.sources.first(lookup, request).await.map_err(|error| refused(lookup, error))?;
                    return Ok(found);
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    /// The fill from the bucket that replicas share, by now or when another replica has brought the blob there, else this one's turn to
    /// ask upstream.
    async fn turn(&self, lookup: &Lookup, digest: &Digest, permit: &Arc<Permit>) -> Turn<Result<Found, Error>> {
        let Some(tier) = &self.sources.tier else { return Turn::Ask(None) };
        let look = || async { self.fill_from_bucket(tier, lookup, digest, permit).await.transpose() };
        let follow = |owner| self.fill_from_peer(lookup, digest, permit, owner);
        tier.turn(&Flight::blob(digest), look, follow).await
    }

    /// Starts the fill from the replica that fetches the blob, when this client may have it.
    async fn fill_from_peer(
        &self,
        lookup: &Lookup,
        digest: &Digest,
        permit: &Arc<Permit>,
        owner: String,
    ) -> Option<Result<Found, Error>> {
        // As for the bucket: whatever a HEAD says against it, the GET decides.
        self.ensure_member(lookup, digest).await.ok()?;
        let supplier = match self.supplier(lookup, digest).await {
            Ok(supplier) => supplier?,
            Err(error) => return Some(Err(error)),
        };
        let fill = self.fill(lookup, digest, supplier.upstream, supplier.identity);
        let fill = Fill { is_following: true, owners: vec![owner], ..fill };
        fill.start(permit.clone()).await.ok().map(Ok)
    }

    /// The blob for another replica: whole, or as it arrives; waits until that begins. `None` when this replica neither has it nor gets it.
    pub async fn for_peer(&self, digest: &Digest, from: u64) -> Option<PeerBlob> {
        let deadline = tokio::time::Instant::now() + PEER_WAIT;
        let store = &self.sources.store;
        let blob = |reader| Some(PeerBlob::new(reader, store.clone(), digest.clone(), from));
        loop {
            if let Some(reader) = store.blobs.load(digest).await.ok().flatten() {
                return blob(reader);
            }
            let mut progress = self.fills.progress(digest)?;
            let readable = |found: &Option<ArrivingBlob>| found.as_ref().is_some_and(|found| !found.blob.is_stopped());
            match tokio::time::timeout_at(deadline, progress.arriving.wait_for(readable)).await {
                Ok(Ok(found)) => return blob(found.as_ref()?.blob.reader()),
                // That fill ended; it may be whole by now.
                Ok(Err(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// Starts the fill from the bucket that replicas share, when it has the blob and this client may have it; `None` when upstream
    /// is to give it.
    ///
    /// # Errors
    /// The disk's.
    async fn fill_from_bucket(
        &self,
        tier: &Tier,
        lookup: &Lookup,
        digest: &Digest,
        permit: &Arc<Permit>,
    ) -> Result<Option<Found>, Error> {
        let Some(size) = tier.blob_size(digest).await else { return Ok(None) };
        let named = self.named.size(&lookup.key(Object::Blob(digest.clone()))).filter(|size| *size > 0);
        // Nothing would be read of an empty one before it is whole, and so nothing be verified.
        let is_wrongly_empty = size == 0 && *digest != digest.algorithm().digest(b"");
        if is_wrongly_empty {
            tier.quarantine(digest).await;
        }
        // Which of the two is wrong is not known: a publisher writes what it wants into a manifest.
        if is_wrongly_empty || named.is_some_and(|named| named != size) {
            return Ok(None);
        }
        // Whatever a HEAD says against it, the GET decides, as without a bucket.
        if self.ensure_member(lookup, digest).await.is_err() {
            return Ok(None);
        }
        let Some(supplier) = self.supplier(lookup, digest).await? else { return Ok(None) };
        let fill = self.fill(lookup, digest, supplier.upstream, supplier.identity);
        let fill = Fill { bucket: Some(tier.clone()), ..fill };
        match fill.start(permit.clone()).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                tracing::info!(%error, %digest, "a blob of the bucket does not begin; upstream is asked");
                Ok(None)
            }
        }
    }

    fn fill(&self, lookup: &Lookup, digest: &Digest, upstream: Upstream, identity: Identity) -> Fill {
        Fill {
            supplier: Supplier { upstream, source: lookup.source_of(&identity), identity },
            digest: digest.clone(),
            named: self.named.size(&lookup.key(Object::Blob(digest.clone()))).filter(|size| *size > 0),
            is_decoded: false,
            store: self.sources.store.clone(),
            tier: self.sources.tier.clone(),
            bucket: None,
            lease: None,
            peers: self.peers.clone(),
            is_following: false,
            owners: Vec::new(),
            stop: self.stop.subscribe(),
            timeout: self.settings.load().fill_timeout,
            metrics: self.metrics.clone(),
        }
    }

    /// The source by which this client may read the blob.
    async fn supplier(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Supplier>, Error> {
        let upstream = self.sources.upstream(&lookup.upstream)?;
        let Some(source) = self.sources.member(lookup, digest).await? else { return Ok(None) };
        let account = (&*source.credential != Source::ANONYMOUS).then(|| source.credential.clone());
        let identity = Identity { upstream: lookup.upstream.clone(), account };
        Ok(Some(Supplier { upstream, identity, source }))
    }

    /// A stream for one client, when the disk is full and another client has the leader's.
    async fn uncached(&self, lookup: &Lookup, digest: &Digest) -> Result<Reader, Error> {
        let (blobs, owned, digest) = (self.clone(), lookup.clone(), digest.clone());
        let work = async move {
            let request = |upstream, identity| {
                let fill = blobs.fill(&owned, &digest, upstream, identity);
                async move { fill.pass_through().await }
            };
            blobs.sources.first(&owned, request).await.map(|(_, reader)| reader).map_err(|error| refused(&owned, error))
        };
        self.runtime.spawn(work).await.unwrap_or(Err(Error::Internal))
    }

    /// Asks upstream with a HEAD whether this repository has the blob, unless it said so before.
    async fn ensure_member(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.sources.member(lookup, digest).await?.is_some() {
            return Ok(None);
        }
        match self.sources.adopt_member(lookup, digest).await {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, %digest, "a membership of the bucket could not be kept"),
        }
        self.ask_size(lookup, digest).await
    }

    /// What upstream's HEAD says of the size; it vouches for the blob.
    async fn ask_size(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<u64>, Error> {
        let is_named = self.named.size(&lookup.key(Object::Blob(digest.clone()))).is_some();
        let head = self.sources.head_blob(lookup, digest, is_named).await;
        let (source, size) = head.map_err(|error| refused(lookup, error))?;
        self.sources.add_member(&source, digest).await;
        Ok(size)
    }

    /// HEAD of a blob. Starts no fill.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head(self: &Arc<Blobs>, lookup: &Lookup, digest: &Digest) -> Result<BlobHead, Error> {
        if self.sources.member(lookup, digest).await?.is_some() {
            if let Some(size) = self.sources.store.blobs.size(digest).await? {
                return Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Hit) });
            }
            if let Some(size) = self.fills.size(digest) {
                return Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Hit) });
            }
        }
        let key = lookup.key(Object::Blob(digest.clone()));
        self.negative.check(&key)?;
        let (blobs, owned, wanted, absent) = (self.clone(), lookup.clone(), digest.clone(), key.clone());
        let work = |_| async move {
            let size = async {
                let here = blobs.sources.store.blobs.size(&wanted).await?;
                if here.is_some() {
                    blobs.ensure_member(&owned, &wanted).await?;
                    return Ok(here);
                }
                if let Some(tier) = &blobs.sources.tier
                    && let Some(size) = tier.blob_size(&wanted).await
                {
                    blobs.ensure_member(&owned, &wanted).await?;
                    return Ok(Some(size));
                }
                blobs.ask_size(&owned, &wanted).await
            };
            blobs.negative.run(&absent, size).await
        };
        match self.sizes.join(key, AGE_LIMIT, work).await? {
            Some(size) => Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Miss) }),
            // Upstream's HEAD had no length, which the answer must have: the fill's headers will.
            None => {
                let answer = self.find(lookup, digest, None).await?;
                Ok(BlobHead { size: answer.reader.size(), facts: answer.facts })
            }
        }
    }
}

/// The error for a blob that upstream would not give.
///
/// A repository that may not be read answers as one that has no such blob: whether the bytes are on this disk must not show.
fn refused(lookup: &Lookup, error: upstream::Error) -> Error {
    match error {
        upstream::Error::Denied => Error::BlobUnknown,
        error => Error::from_upstream(&lookup.upstream, error, Error::BlobUnknown),
    }
}
