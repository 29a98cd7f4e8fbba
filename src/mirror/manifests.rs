//! Manifests by tag and by digest: from disk when that is fresh, else with as few counted requests as there can be.
//!
//! A tag is resolved by HEAD, which Docker Hub does not count, and the manifest it names is fetched by digest, once, and only when
//! it is not here. So an unchanged tag costs nothing however often it is revalidated, and a changed tag that names
//! what another tag brought costs nothing either. [`super::tags`] has the tag's half.

use std::{sync::Arc, time::SystemTime};

use tokio::runtime::Handle;
use weir_storage::Source;

use super::{
    answer::{CacheFacts, CacheStatus, ManifestAnswer, ManifestHead},
    budgeted_fetch::BudgetedFetch,
    coalesce::{ManifestFlights, Waiters},
    error::Error,
    flight::{AGE_LIMIT, Flights},
    freshness::{self, Freshness},
    lookup::{Key, Lookup, Object},
    metrics::{FlightKind, Metrics},
    negative::NegativeCache,
    settings::Settings,
    sources::Sources,
    tags::{Resolution, Tags},
};
use crate::{
    oci::{Digest, Manifest, Reference, Tag},
    upstream::{self, ledger::Reason},
};

/// The manifests of all mirrored repositories.
#[derive(Debug)]
pub struct Manifests {
    settings: Arc<Settings>,
    sources: Sources,
    tags: Tags,
    fetcher: BudgetedFetch,
    negative: Arc<NegativeCache>,
    metrics: Arc<Metrics>,
    flights: ManifestFlights,
    heads: Flights<Key, Option<ManifestHead>>,
    runtime: Handle,
}

impl Manifests {
    pub(super) fn new(
        settings: Arc<Settings>,
        sources: Sources,
        tags: Tags,
        fetcher: BudgetedFetch,
        negative: Arc<NegativeCache>,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Manifests {
        Manifests {
            flights: ManifestFlights::new(fetcher.queue_wait(), metrics.clone(), runtime.clone()),
            heads: Flights::new(FlightKind::manifest_head, AGE_LIMIT, metrics.clone(), runtime.clone()),
            settings,
            sources,
            tags,
            fetcher,
            negative,
            metrics,
            runtime,
        }
    }

    /// The fast lane: an answer that needs no await, or `None`; then call [`Manifests::get`], which also reports failures.
    pub fn cached(self: &Arc<Self>, lookup: &Lookup, reference: &Reference, now: SystemTime) -> Option<ManifestAnswer> {
        let answer = self.fresh(lookup, reference, now).ok()??;
        self.count(&answer);
        Some(answer)
    }

    /// [`Manifests::cached`] for a HEAD: nothing is saved by it, since upstream does not count HEADs.
    pub fn cached_head(
        self: &Arc<Self>,
        lookup: &Lookup,
        reference: &Reference,
        now: SystemTime,
    ) -> Option<ManifestHead> {
        Some(self.fresh(lookup, reference, now).ok()??.head())
    }

    /// Whether a manifest is here and this client's to have, fresh or not. Asks upstream nothing.
    pub fn is_cached(&self, lookup: &Lookup, reference: &Reference) -> bool {
        let digest = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(tag) => self.tags.get(lookup, tag).ok().flatten().map(|(_, record)| record.digest),
        };
        digest.is_some_and(|digest| self.sources.manifest(lookup, &digest).is_ok_and(|manifest| manifest.is_some()))
    }

    /// A manifest by tag or digest. Costs upstream at most one counted GET, and none when it is here.
    ///
    /// # Errors
    /// See [`Error`]; a cached answer stands in where the error allows it.
    pub async fn get(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestAnswer, Error> {
        let answer = self.find(lookup, reference).await?;
        self.count(&answer);
        Ok(answer)
    }

    /// HEAD of a manifest. Never costs a counted request, but where a registry refuses HEAD.
    ///
    /// # Errors
    /// As [`Manifests::get`].
    pub async fn head(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestHead, Error> {
        if let Some(answer) = self.fresh(lookup, reference, SystemTime::now())? {
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

    fn count(&self, answer: &ManifestAnswer) {
        if answer.facts.status != CacheStatus::Miss {
            self.fetcher.ledger.count_saved();
        }
        self.metrics.manifest(answer.facts.status);
    }

    /// An answer that needs no await: a digest that is here, or a tag that is fresh.
    fn fresh(
        self: &Arc<Self>,
        lookup: &Lookup,
        reference: &Reference,
        now: SystemTime,
    ) -> Result<Option<ManifestAnswer>, Error> {
        let (digest, checked_at) = match reference {
            Reference::Digest(digest) => (digest.clone(), now),
            Reference::Tag(tag) => {
                let Some((_, record)) = self.tags.get(lookup, tag)? else { return Ok(None) };
                match self.tags.freshness(lookup, tag, &record, now) {
                    Freshness::Fresh => {}
                    Freshness::Stale if self.sources.manifest(lookup, &record.digest)?.is_some() => {
                        self.revalidate_behind(lookup, tag)
                    }
                    Freshness::Stale | Freshness::Expired => return Ok(None),
                }
                (record.digest, record.checked_at)
            }
        };
        Ok(self.sources.manifest(lookup, &digest)?.map(|manifest| {
            let facts = CacheFacts { status: CacheStatus::Hit, age: freshness::age(checked_at, now), warning: None };
            ManifestAnswer { manifest, facts }
        }))
    }

    async fn find(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.fresh(lookup, reference, SystemTime::now())? {
            return Ok(answer);
        }
        match reference {
            Reference::Digest(digest) => self.by_digest(lookup, digest, Reason::Cold, false).await,
            Reference::Tag(tag) => self.by_tag(lookup, tag).await,
        }
    }

    /// As [`Manifests::get`], for a reason of the mirror; `has_stale` says that a stale answer may stand in.
    pub(super) async fn by_digest(
        self: &Arc<Self>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
        has_stale: bool,
    ) -> Result<ManifestAnswer, Error> {
        let key = lookup.key(Object::Manifest(Reference::Digest(digest.clone())));
        self.negative.check(&key)?;
        let (manifests, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let work = move |waiters| {
            let (manifests, owned, wanted) = (manifests.clone(), owned.clone(), wanted.clone());
            async move { manifests.fetch_digest(&owned, &wanted, reason, &Waiters { has_stale, ..waiters }).await }
        };
        let answer = self.flights.coalesce(&key, lookup, work).await;
        self.negative.learn(&key, answer)
    }

    /// The flight's work for a digest: looks again, lets upstream vouch for bytes that are here, or fetches them.
    async fn fetch_digest(
        self: &Arc<Self>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.sources.manifest(lookup, digest)? {
            return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
        }
        if let Some(denied) = &lookup.cached_only {
            return Err(Error::Throttled(denied.clone()));
        }
        let here = self.sources.store.cache.manifests.read(digest)?;
        let reference = Reference::Digest(digest.clone());
        let has_accounts = !self.sources.upstream(&lookup.upstream)?.settings().accounts.is_empty();
        let mut source = lookup.public();
        // Bytes that another repository brought need this one's word, and a HEAD is free. With accounts, a HEAD tells
        // first who may read this, since the account with the most left pays for what anonymous may read.
        if here.is_some() || has_accounts {
            match self.sources.head_manifest(lookup, &reference).await {
                Ok((vouching, head)) => {
                    if head.digest.is_some_and(|found| found != *digest && found.algorithm() == digest.algorithm()) {
                        let message = "upstream answered a digest with another one".into();
                        return Err(Error::UpstreamMalformed { message });
                    }
                    source = vouching;
                    if let Some(manifest) = here {
                        self.sources.add_member(&source, digest).await;
                        return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
                    }
                }
                Err(upstream::Error::HeadRefused) => {}
                Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
            }
        }
        let manifest = self.fetcher.fetch(lookup, &source, &reference, reason, waiters).await?;
        self.forget_absence_of_children(lookup, &manifest);
        self.keep(&source, &manifest).await;
        Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
    }

    /// What a new manifest names may have come with it, whatever was known of it before.
    fn forget_absence_of_children(&self, lookup: &Lookup, manifest: &Manifest) {
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        for child in children {
            let object = if manifest.media_type.is_index() {
                Object::Manifest(Reference::Digest(child.digest))
            } else {
                Object::Blob(child.digest)
            };
            self.negative.forget(&lookup.key(object));
        }
    }

    /// Keeps what was fetched. A disk that is full or fails costs the cache an entry and the client nothing.
    async fn keep(&self, source: &Source, manifest: &Manifest) {
        match self.sources.store.cache.manifests.put(manifest).await {
            Ok(()) => self.sources.add_member(source, &manifest.digest).await,
            Err(error) => tracing::warn!(%error, digest = %manifest.digest, "a manifest could not be kept"),
        }
    }

    async fn by_tag(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let key = lookup.key(Object::Manifest(Reference::Tag(tag.clone())));
        self.negative.check(&key)?;
        let (manifests, owned, wanted) = (self.clone(), lookup.clone(), tag.clone());
        let work = move |waiters| {
            let (manifests, owned, wanted) = (manifests.clone(), owned.clone(), wanted.clone());
            async move { manifests.fetch_tag(&owned, &wanted, waiters).await }
        };
        let answer = self.flights.coalesce(&key, lookup, work).await;
        self.negative.learn(&key, answer)
    }

    /// The flight's work for a tag: resolve it, get what it names, and fall back to what is cached when that fails.
    async fn fetch_tag(
        self: &Arc<Self>,
        lookup: &Lookup,
        tag: &Tag,
        mut waiters: Waiters,
    ) -> Result<ManifestAnswer, Error> {
        self.tags.promote(lookup, tag).await?;
        if let Some(answer) = self.fresh(lookup, &Reference::Tag(tag.clone()), SystemTime::now())? {
            return Ok(answer);
        }
        if let Some((record, facts)) = self.tags.stale_for_cached_only(lookup, tag, SystemTime::now()).await?
            && let Some(manifest) = self.sources.manifest(lookup, &record.digest)?
        {
            return Ok(ManifestAnswer { manifest, facts });
        }
        waiters.has_stale = self.has_stale(lookup, tag)?;
        let answer = match self.current(lookup, tag).await {
            Ok(resolution) => match self.fetch_named(lookup, tag, resolution, &waiters).await {
                // Somebody moved the tag between the HEAD and the GET: the digest is gone, the tag is not.
                Err(Error::ManifestUnknown) => match self.tags.resolve(lookup, tag).await {
                    Ok(resolution) => self.fetch_named(lookup, tag, resolution, &waiters).await,
                    Err(error) => Err(error),
                },
                answer => answer,
            },
            Err(error) => Err(error),
        };
        match answer {
            Err(error) => match self.tags.stale(lookup, tag, &error, SystemTime::now()).await? {
                Some((record, facts)) => match self.sources.manifest(lookup, &record.digest)? {
                    Some(manifest) => Ok(ManifestAnswer { manifest, facts }),
                    None => Err(error),
                },
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Whether the old answer may stand in when the new one cannot be had.
    fn has_stale(&self, lookup: &Lookup, tag: &Tag) -> Result<bool, Error> {
        let Some((_, record)) = self.tags.get(lookup, tag)? else { return Ok(false) };
        let age = freshness::age(record.checked_at, SystemTime::now());
        Ok(age < self.settings.stale_if_error && self.sources.manifest(lookup, &record.digest)?.is_some())
    }

    /// What the tag names: as a HEAD found it while that is fresh, else by asking upstream.
    async fn current(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let now = SystemTime::now();
        if let Some((source, record)) = self.tags.pending(lookup, tag, now) {
            return Ok(Resolution::Named { source, record, changed: true });
        }
        match self.tags.get(lookup, tag)? {
            Some((source, record)) if self.tags.freshness(lookup, tag, &record, now) == Freshness::Fresh => {
                Ok(Resolution::Named { source, record, changed: false })
            }
            _ => self.tags.resolve(lookup, tag).await,
        }
    }

    /// Gets what a tag was found to name, and records the tag.
    async fn fetch_named(
        self: &Arc<Self>,
        lookup: &Lookup,
        tag: &Tag,
        resolution: Resolution,
        waiters: &Waiters,
    ) -> Result<ManifestAnswer, Error> {
        match resolution {
            Resolution::Named { source, record, changed } => {
                let reason = if changed { Reason::Changed } else { Reason::Cold };
                let held = self.sources.manifest(lookup, &record.digest)?;
                let mut answer = match held {
                    Some(manifest) => ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Revalidated) },
                    None => {
                        // Upstream has just named it, so it is there, whatever was known before.
                        let reference = Reference::Digest(record.digest.clone());
                        self.negative.forget(&lookup.key(Object::Manifest(reference)));
                        self.by_digest(lookup, &record.digest, reason, waiters.has_stale).await?
                    }
                };
                if !changed && answer.facts.status == CacheStatus::Hit {
                    answer.facts.status = CacheStatus::Revalidated;
                }
                // Only now that its bytes are here: had the budget refused them, the old answer would still stand.
                if changed {
                    self.tags.put_pending(lookup, &source, tag, &record).await;
                }
                Ok(answer)
            }
            Resolution::HeadRefused { source, reason } => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self.fetcher.fetch(lookup, &source, &reference, reason, waiters).await?;
                self.forget_absence_of_children(lookup, &manifest);
                self.keep(&source, &manifest).await;
                self.tags.put(&source, tag, &Tags::record_of(&manifest)).await;
                Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
            }
        }
    }

    async fn head_digest(self: &Arc<Self>, lookup: &Lookup, digest: &Digest) -> Result<ManifestHead, Error> {
        let reference = Reference::Digest(digest.clone());
        let key = lookup.key(Object::Manifest(reference.clone()));
        let (manifests, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let work = |_| async move {
            match manifests.sources.head_manifest(&owned, &reference).await {
                Ok((source, head)) => {
                    manifests.sources.add_member(&source, &wanted).await;
                    if let Some(manifest) = manifests.sources.store.cache.manifests.read(&wanted)? {
                        let facts = CacheFacts::now(CacheStatus::Hit);
                        return Ok(Some(ManifestAnswer { manifest, facts }.head()));
                    }
                    let (Some(media_type), Some(size)) = (head.media_type, head.size) else { return Ok(None) };
                    Ok(Some(ManifestHead {
                        digest: wanted,
                        media_type,
                        size,
                        facts: CacheFacts::now(CacheStatus::Miss),
                    }))
                }
                Err(upstream::Error::HeadRefused) => Ok(None),
                Err(error) => Err(Error::from_upstream(&owned.upstream, error, Error::ManifestUnknown)),
            }
        };
        match self.heads.join(key, work).await? {
            Some(head) => Ok(head),
            // This registry answers HEAD not at all or without what ours must say: only the GET knows.
            None => Ok(self.by_digest(lookup, digest, Reason::HeadRefused, false).await?.head()),
        }
    }

    /// HEAD of a tag that is not fresh: free upstream, and nothing is fetched.
    async fn head_tag(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<ManifestHead, Error> {
        self.tags.promote(lookup, tag).await?;
        // What a HEAD alone brought is answered without its bytes while it is fresh.
        let now = SystemTime::now();
        if lookup.cached_only.is_none()
            && let Some((_, record)) = self.tags.pending(lookup, tag, now)
        {
            let facts =
                CacheFacts { status: CacheStatus::Hit, age: freshness::age(record.checked_at, now), warning: None };
            return Ok(ManifestHead::of(record, facts));
        }
        let cached = self.tags.get(lookup, tag)?;
        if let Some((_, record)) = &cached
            && self.tags.freshness(lookup, tag, record, now) == Freshness::Fresh
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
                let refusal = changed.then(|| self.fetcher.cannot_fetch(lookup, &source, now)).flatten();
                if let Some(refusal) = refusal
                    && self.sources.manifest(lookup, &record.digest)?.is_none()
                {
                    // A client that asked by HEAD goes on to GET what it names. Better the old image whole than the new one refused.
                    refusal
                } else {
                    if changed && self.sources.manifest(lookup, &record.digest)?.is_some() {
                        self.tags.put(&source, tag, &record).await;
                    } else if changed {
                        self.tags.set_pending(lookup, tag, source, record.clone());
                    }
                    let same = !changed && cached.is_some();
                    let status = if same { CacheStatus::Revalidated } else { CacheStatus::Miss };
                    return Ok(ManifestHead::of(record, CacheFacts::now(status)));
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

    /// Revalidates while the old answer goes out.
    fn revalidate_behind(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) {
        if lookup.cached_only.is_some() {
            return;
        }
        let (manifests, lookup, tag) = (self.clone(), lookup.clone(), tag.clone());
        self.runtime.spawn(async move {
            let key = lookup.key(Object::Revalidation(tag.clone()));
            let (worker, owned) = (manifests.clone(), lookup.clone());
            let work = |waiters| async move {
                let resolution = worker.tags.resolve(&owned, &tag).await?;
                worker.fetch_named(&owned, &tag, resolution, &waiters).await
            };
            if let Err(error) = manifests.flights.background(key, work).await {
                tracing::info!(%error, upstream = %lookup.upstream, repository = %lookup.repository, "revalidation failed");
            }
        });
    }
}
