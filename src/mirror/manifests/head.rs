//! HEAD of a manifest: from what is cached, else by a HEAD upstream, which costs nothing.

use std::{sync::Arc, time::SystemTime};

use super::{Manifests, confirmed};
use crate::{
    answer::{CacheFacts, CacheStatus, ManifestAnswer, ManifestHead},
    clock,
    mirror::{
        error::Error,
        flight::AGE_LIMIT,
        freshness::{self, Freshness},
        lookup::{Lookup, Object},
        tags::Resolution,
    },
    oci::{Digest, Reference, Tag},
    upstream::{self, ledger::Reason},
};

impl Manifests {
    /// [`Manifests::cached`] for a HEAD: nothing is saved by it, since upstream does not count HEADs.
    pub fn cached_head(
        self: &Arc<Self>,
        lookup: &Lookup,
        reference: &Reference,
        now: SystemTime,
    ) -> Option<ManifestHead> {
        Some(self.fresh_now(lookup, reference, now)?.head())
    }

    /// HEAD of a manifest. Never costs a counted request, but where a registry refuses HEAD.
    ///
    /// # Errors
    /// As [`Manifests::get`].
    pub async fn head(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestHead, Error> {
        if let Some(answer) = self.fresh(lookup, reference, clock::now()).await? {
            return Ok(answer.head());
        }
        let key = lookup.key(Object::Manifest(reference.clone()));
        self.negative.check(&key)?;
        let head = match reference {
            Reference::Tag(tag) => self.head_tag(lookup, tag).await,
            Reference::Digest(digest) => self.head_digest(lookup, digest).await,
        };
        self.negative.learn(&key, head)
    }

    async fn head_digest(self: &Arc<Self>, lookup: &Lookup, digest: &Digest) -> Result<ManifestHead, Error> {
        let key = lookup.key(Object::Manifest(Reference::Digest(digest.clone())));
        let (manifests, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let absent = key.clone();
        let work = |_| async move { manifests.negative.run(&absent, manifests.ask_digest(&owned, &wanted)).await };
        match self.heads.join(key, AGE_LIMIT, work).await? {
            Some(head) => Ok(head),
            // This registry answers HEAD not at all or without what ours must say: only the GET knows.
            None => Ok(self.by_digest(lookup, digest, Reason::HeadRefused, false).await?.head()),
        }
    }

    /// What upstream says of a digest by HEAD; `None` when only a GET tells.
    async fn ask_digest(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<ManifestHead>, Error> {
        match self.sources.head_manifest(lookup, &Reference::Digest(digest.clone())).await {
            Ok((source, head)) => {
                self.sources.add_member(&source, digest).await;
                if let Some(manifest) = self.sources.store.cache.manifests.load(digest).await? {
                    let facts = CacheFacts::now(CacheStatus::Hit);
                    return Ok(Some(ManifestAnswer { manifest, facts }.head()));
                }
                let (Some(media_type), Some(size)) = (head.media_type, head.size) else { return Ok(None) };
                let facts = CacheFacts::now(CacheStatus::Miss);
                Ok(Some(ManifestHead { digest: digest.clone(), media_type, size, facts }))
            }
            Err(upstream::Error::HeadRefused) => Ok(None),
            Err(error) => Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
        }
    }

    /// HEAD of a tag that is not fresh: free upstream, and nothing is fetched.
    async fn head_tag(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<ManifestHead, Error> {
        self.tags.promote(lookup, tag).await?;
        // What a HEAD alone brought is answered without its bytes while it is fresh.
        let now = clock::now();
        if lookup.cached_only.is_none()
            && let Some((_, record)) = self.tags.pending(lookup, tag, now)
        {
            let facts =
                CacheFacts { status: CacheStatus::Hit, age: freshness::age(record.checked_at, now), warning: None };
            return Ok(ManifestHead::of(record, facts));
        }
        let cached = self.tags.load(lookup, tag).await?;
        if let Some((source, record)) = &cached
            && self.tags.freshness(lookup, source, tag, record, now) == Freshness::Fresh
        {
            let facts =
                CacheFacts { status: CacheStatus::Hit, age: freshness::age(record.checked_at, now), warning: None };
            return Ok(ManifestHead::of(record.clone(), facts));
        }
        if let Some((record, facts)) = self.tags.stale_for_cached_only(lookup, tag, now).await? {
            return Ok(ManifestHead::of(record, facts));
        }
        let error = match self.tags.resolve(lookup, tag).await {
            Ok(Resolution::Named { source, record, changed }) => {
                let refusal =
                    changed.then(|| self.fetcher.cannot_fetch(lookup, &source, &record.digest, now)).flatten();
                if let Some(refusal) = refusal
                    && self.sources.manifest(lookup, &record.digest).await?.is_none()
                {
                    // A client that asked by HEAD goes on to GET what it names. Better the old image whole than the new one refused.
                    refusal
                } else {
                    if changed && self.sources.manifest(lookup, &record.digest).await?.is_some() {
                        self.tags.put(&source, tag, &record).await;
                    } else if changed {
                        self.tags.set_pending(lookup, tag, source, record.clone());
                    }
                    let same = !changed && cached.is_some();
                    let status = if same { CacheStatus::Revalidated } else { CacheStatus::Miss };
                    let facts = confirmed(&record, status);
                    return Ok(ManifestHead::of(record, facts));
                }
            }
            Ok(Resolution::HeadRefused { .. }) => {
                return Ok(self.find(lookup, &Reference::Tag(tag.clone())).await?.head());
            }
            Err(error) => error,
        };
        match self.tags.stale(lookup, tag, &error, now).await? {
            Some((record, facts)) => Ok(ManifestHead::of(record, facts)),
            None => Err(error),
        }
    }
}
