//! Blobs: from disk, from the fill under way, or by starting one.

use std::sync::Arc;

use weir_storage::Reader;

use super::{
    Ask, BlobAnswer, BlobHead, Error, Facts, Inner, Object, Status,
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
    pub(super) fn warm_blob(&self, ask: &Ask, digest: &Digest) -> Result<Option<Reader>, Error> {
        Ok(if self.vouched(ask, digest)? { self.store.blob(digest)? } else { None })
    }

    pub(super) async fn blob(
        self: &Arc<Inner>,
        ask: &Ask,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(reader) = self.warm_blob(ask, digest)? {
                return Ok(BlobAnswer { reader, facts: Facts::now(Status::Hit) });
            }
            let key = self.key(ask, Object::Blob(digest.clone()));
            self.known_absent(&key)?;
            let (inner, asked, wanted) = (self.clone(), ask.clone(), digest.clone());
            let found = self.blobs.join(key.clone(), |_| async move { inner.find_blob(&asked, &wanted).await }).await;
            match self.learn(&key, found.unwrap_or(Err(Error::Internal)))? {
                // Opened by each waiter for itself; if it was evicted meanwhile, the next round fills it again.
                Found::Whole => {}
                Found::Arriving(stage) => return self.arriving(ask, digest, stage, range).await,
                Found::Alone(reader) => {
                    let reader = reader.lock().ok().and_then(|mut reader| reader.take());
                    let reader = match reader {
                        Some(reader) => reader,
                        None => self.alone(ask, digest).await?,
                    };
                    return Ok(BlobAnswer { reader, facts: Facts::now(Status::Bypass) });
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    /// A reader of the arriving blob or, for a small range far ahead of it, of that range alone.
    async fn arriving(
        self: &Arc<Inner>,
        ask: &Ask,
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
            let (inner, asked, wanted) = (self.clone(), ask.clone(), digest.clone());
            let range = self.runtime.spawn(async move {
                let request = |upstream: Upstream, identity| {
                    let (repository, wanted) = (asked.repository.clone(), wanted.clone());
                    async move { upstream.get_blob(&identity, &repository, &wanted, start, Some(end)).await }
                };
                let (_, body) = inner.first(&asked, request).await.ok()?;
                // A server that ignores the range would make us download the whole blob again.
                (body.start == start).then(|| pass(body, size, start, end, None, Some(permit)))
            });
            if let Ok(Some(reader)) = range.await {
                return Ok(BlobAnswer { reader, facts: Facts::now(Status::Bypass) });
            }
        }
        Ok(BlobAnswer { reader: blob.reader(), facts: Facts::now(Status::Miss) })
    }

    /// The flight's work: looks again, joins the fill of this digest when the source vouches, or starts it.
    async fn find_blob(self: &Arc<Inner>, ask: &Ask, digest: &Digest) -> Result<Found, Error> {
        for _ in 0..ATTEMPTS {
            // Between the asker's look and this one an earlier flight may have landed; without this line, two asks a
            // moment apart are two downloads.
            if self.store.blob_size(digest)?.is_some() {
                self.ensure_vouched(ask, digest).await?;
                return Ok(Found::Whole);
            }
            match self.fills.enter(digest) {
                Entry::Follow(mut stage) => {
                    self.ensure_vouched(ask, digest).await?;
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
                        let fill = self.fill(ask, digest, upstream, identity);
                        async move { fill.start(permit.ok_or(upstream::Error::Denied)?).await }
                    };
                    let started = self.first(ask, request).await.map_err(|error| refused(ask, error))?;
                    return Ok(match started.1 {
                        Started::Arriving(stage) => Found::Arriving(stage),
                        Started::Passing(reader) => Found::Alone(Arc::new(std::sync::Mutex::new(Some(reader)))),
                    });
                }
            }
        }
        Err(Error::UpstreamUnavailable { retry_after: None, message: "this blob kept failing to arrive".into() })
    }

    fn fill(&self, ask: &Ask, digest: &Digest, upstream: Upstream, identity: Identity) -> Fill {
        Fill {
            upstream,
            source: Inner::source_of(ask, &identity),
            identity,
            digest: digest.clone(),
            store: self.store.clone(),
            stop: self.stop.subscribe(),
            metrics: self.metrics.clone(),
        }
    }

    /// A stream for one client, when the disk is full and another client has the leader's.
    async fn alone(self: &Arc<Inner>, ask: &Ask, digest: &Digest) -> Result<Reader, Error> {
        let (inner, ask, digest) = (self.clone(), ask.clone(), digest.clone());
        let work = async move {
            let request = |upstream, identity| {
                let fill = inner.fill(&ask, &digest, upstream, identity);
                async move { fill.pass_through().await }
            };
            inner.first(&ask, request).await.map(|(_, reader)| reader).map_err(|error| refused(&ask, error))
        };
        self.runtime.spawn(work).await.unwrap_or(Err(Error::Internal))
    }

    /// Asks upstream with a HEAD whether this repository has the blob, unless it said so before.
    async fn ensure_vouched(&self, ask: &Ask, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.vouched(ask, digest)? {
            return Ok(None);
        }
        let head = self.head_blob_upstream(ask, digest).await;
        let (source, size) = head.map_err(|error| refused(ask, error))?;
        self.vouch(&source, digest).await;
        Ok(size)
    }

    pub(super) async fn head_blob(self: &Arc<Inner>, ask: &Ask, digest: &Digest) -> Result<BlobHead, Error> {
        if self.vouched(ask, digest)? {
            if let Some(size) = self.store.blob_size(digest)? {
                return Ok(BlobHead { size, facts: Facts::now(Status::Hit) });
            }
            if let Some(Stage::Arriving { size, .. }) = self.fills.arriving(digest) {
                return Ok(BlobHead { size, facts: Facts::now(Status::Hit) });
            }
        }
        let key = self.key(ask, Object::Blob(digest.clone()));
        self.known_absent(&key)?;
        let (inner, asked, wanted) = (self.clone(), ask.clone(), digest.clone());
        let work = |_| async move {
            let here = inner.store.blob_size(&wanted)?;
            if here.is_some() {
                inner.ensure_vouched(&asked, &wanted).await?;
                return Ok(here);
            }
            let head = inner.head_blob_upstream(&asked, &wanted).await;
            let (source, size) = head.map_err(|error| refused(&asked, error))?;
            inner.vouch(&source, &wanted).await;
            Ok(size)
        };
        let head = Object::BlobHead(digest.clone());
        let size = self.sizes.join(self.key(ask, head), work).await.unwrap_or(Err(Error::Internal));
        match self.learn(&key, size)? {
            Some(size) => Ok(BlobHead { size, facts: Facts::now(Status::Miss) }),
            // Upstream's HEAD told no length, which the answer must have: the fill's headers will.
            None => {
                let answer = self.blob(ask, digest, None).await?;
                Ok(BlobHead { size: answer.reader.size(), facts: answer.facts })
            }
        }
    }
}

/// What a client is told of a blob that upstream would not give.
///
/// A repository that may not be read answers as one that has no such blob: whether the bytes are on this disk must not show.
fn refused(ask: &Ask, error: upstream::Error) -> Error {
    match error {
        upstream::Error::Denied => Error::BlobUnknown,
        error => Error::from_upstream(&ask.upstream, error, Error::BlobUnknown),
    }
}
