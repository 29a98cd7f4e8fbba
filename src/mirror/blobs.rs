//! Blobs: from disk, from the fill under way, or by starting one.

use std::sync::Arc;

use weir_storage::Reader;

use super::{
    BlobAnswer, BlobHead, CacheFacts, CacheStatus, Error, Inner, Lookup, Object,
    fill::{Entry, Fill, Stage, Started, pass},
};
use crate::{
    oci::Digest,
    upstream::{self, Identity, Upstream},
};

/// How often one ask meets a fill that ended without serving it, before it gives up. Each time another source was refused.
const ATTEMPTS: usize = 8;

/// What a flight for a blob hands to each of its waiters.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// It is here and vouched for; open it.
    Whole,
    /// It arrives.
    Arriving(Stage),
    /// The disk is full and the leader has the only stream: each other waiter goes for its own.
    Alone(Arc<std::sync::Mutex<Option<Reader>>>),
}

impl Inner {
    /// The blob if it is whole, here, and this client's to have. Two looks in memory at best, else a stat and an open.
    pub(super) fn warm_blob(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Reader>, Error> {
        Ok(if self.is_member(lookup, digest)? { self.store.blob(digest)? } else { None })
    }

    pub(super) async fn blob(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(reader) = self.warm_blob(lookup, digest)? {
                return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Hit) });
            }
            let key = self.key(lookup, Object::Blob(digest.clone()));
            self.known_absent(&key)?;
            let (inner, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
            let found = self.blobs.join(key.clone(), |_| async move { inner.find_blob(&owned, &wanted).await }).await;
            match self.learn(&key, found.unwrap_or(Err(Error::Internal)))? {
                // Opened by each waiter for itself; if it was evicted meanwhile, the next round fills it again.
                Found::Whole => {}
                Found::Arriving(stage) => return self.arriving(lookup, digest, stage, range).await,
                Found::Alone(reader) => {
                    let reader = reader.lock().ok().and_then(|mut reader| reader.take());
                    let reader = match reader {
                        Some(reader) => reader,
                        None => self.alone(lookup, digest).await?,
                    };
                    return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Bypass) });
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    /// A reader of the arriving blob or, for a small range far ahead of it, of that range alone.
    async fn arriving(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
        stage: Stage,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        let Stage::Arriving { blob, size, ahead } = stage else { return Err(Error::Internal) };
        if let Some((start, Some(end))) = range
            && let end = end.min(size)
            && start < end
            && end - start <= self.settings.ahead_range
            && start > blob.readable().saturating_add(self.settings.ahead_range)
            && let Ok(permit) = ahead.try_acquire_owned()
        {
            let (inner, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
            let range = self.runtime.spawn(async move {
                let request = |upstream: Upstream, identity| {
                    let (repository, wanted) = (owned.repository.clone(), wanted.clone());
                    async move { upstream.get_blob(&identity, &repository, &wanted, start, Some(end)).await }
                };
                let (_, body) = inner.first(&owned, request).await.ok()?;
                // A server that ignores the range would make us download the whole blob again.
                (body.start == start).then(|| pass(body, size, start, end, None, Some(permit)))
            });
            if let Ok(Some(reader)) = range.await {
                return Ok(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Bypass) });
            }
        }
        Ok(BlobAnswer { reader: blob.reader(), facts: CacheFacts::now(CacheStatus::Miss) })
    }

    /// The flight's work: looks again, joins the fill of this digest when the source vouches, or starts it.
    async fn find_blob(self: &Arc<Inner>, lookup: &Lookup, digest: &Digest) -> Result<Found, Error> {
        for _ in 0..ATTEMPTS {
            // Between the asker's look and this one an earlier flight may have landed; without this line, two asks a
            // moment apart are two downloads.
            if self.store.blob_size(digest)?.is_some() {
                self.ensure_member(lookup, digest).await?;
                return Ok(Found::Whole);
            }
            match self.fills.enter(digest) {
                Entry::Follow(mut stage) => {
                    self.ensure_member(lookup, digest).await?;
                    // A fill that failed is known to its readers before its permit is dropped. Who comes in between asked
                    // after the failure, and must not share it.
                    let joins = |stage: &Stage| matches!(stage, Stage::Arriving { blob, .. } if !blob.is_stopped());
                    if let Ok(stage) = stage.wait_for(joins).await {
                        return Ok(Found::Arriving(stage.clone()));
                    }
                    // The leader's source was refused, or its fill ended: look again, and lead.
                }
                Entry::Lead(permit) => {
                    if self.store.blob_size(digest)?.is_some() {
                        continue;
                    }
                    let mut permit = Some(permit);
                    let request = |upstream: Upstream, identity| {
                        // A refused identity has spent its permit; the next one needs another.
                        let permit = permit.take().or_else(|| match self.fills.enter(digest) {
                            Entry::Lead(permit) => Some(permit),
                            Entry::Follow(_) => None,
                        });
                        let fill = self.fill(lookup, digest, upstream, identity);
                        async move { fill.start(permit.ok_or(upstream::Error::Denied)?).await }
                    };
                    let started = self.first(lookup, request).await.map_err(|error| refused(lookup, error))?;
                    return Ok(match started.1 {
                        Started::Arriving(stage) => Found::Arriving(stage),
                        Started::Passing(reader) => Found::Alone(Arc::new(std::sync::Mutex::new(Some(reader)))),
                    });
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    fn fill(&self, lookup: &Lookup, digest: &Digest, upstream: Upstream, identity: Identity) -> Fill {
        Fill {
            upstream,
            source: Inner::source_of(lookup, &identity),
            identity,
            digest: digest.clone(),
            store: self.store.clone(),
            stop: self.stop.subscribe(),
            metrics: self.metrics.clone(),
        }
    }

    /// A stream for one client, when the disk is full and another client has the leader's.
    async fn alone(self: &Arc<Inner>, lookup: &Lookup, digest: &Digest) -> Result<Reader, Error> {
        let (inner, owned, digest) = (self.clone(), lookup.clone(), digest.clone());
        let work = async move {
            let request = |upstream, identity| {
                let fill = inner.fill(&owned, &digest, upstream, identity);
                async move { fill.pass_through().await }
            };
            inner.first(&owned, request).await.map(|(_, reader)| reader).map_err(|error| refused(&owned, error))
        };
        self.runtime.spawn(work).await.unwrap_or(Err(Error::Internal))
    }

    /// Asks upstream with a HEAD whether this repository has the blob, unless it said so before.
    async fn ensure_member(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.is_member(lookup, digest)? {
            return Ok(None);
        }
        let head = self.head_blob_upstream(lookup, digest).await;
        let (source, size) = head.map_err(|error| refused(lookup, error))?;
        self.add_member(&source, digest).await;
        Ok(size)
    }

    pub(super) async fn head_blob(self: &Arc<Inner>, lookup: &Lookup, digest: &Digest) -> Result<BlobHead, Error> {
        if self.is_member(lookup, digest)? {
            if let Some(size) = self.store.blob_size(digest)? {
                return Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Hit) });
            }
            if let Some(Stage::Arriving { size, .. }) = self.fills.arriving(digest) {
                return Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Hit) });
            }
        }
        let key = self.key(lookup, Object::Blob(digest.clone()));
        self.known_absent(&key)?;
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let work = |_| async move {
            let here = inner.store.blob_size(&wanted)?;
            if here.is_some() {
                inner.ensure_member(&owned, &wanted).await?;
                return Ok(here);
            }
            let head = inner.head_blob_upstream(&owned, &wanted).await;
            let (source, size) = head.map_err(|error| refused(&owned, error))?;
            inner.add_member(&source, &wanted).await;
            Ok(size)
        };
        let head = Object::BlobHead(digest.clone());
        let size = self.sizes.join(self.key(lookup, head), work).await.unwrap_or(Err(Error::Internal));
        match self.learn(&key, size)? {
            Some(size) => Ok(BlobHead { size, facts: CacheFacts::now(CacheStatus::Miss) }),
            // Upstream's HEAD told no length, which the answer must have: the fill's headers will.
            None => {
                let answer = self.blob(lookup, digest, None).await?;
                Ok(BlobHead { size: answer.reader.size(), facts: answer.facts })
            }
        }
    }
}

/// What a client is told of a blob that upstream would not give.
///
/// A repository that may not be read answers as one that has no such blob: whether the bytes are on this disk must not show.
fn refused(lookup: &Lookup, error: upstream::Error) -> Error {
    match error {
        upstream::Error::Denied => Error::BlobUnknown,
        error => Error::from_upstream(&lookup.upstream, error, Error::BlobUnknown),
    }
}
