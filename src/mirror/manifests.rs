//! Manifests by tag and by digest: from disk when that is fresh, else with as few counted requests as there can be.
//!
//! A tag is resolved by HEAD, which Docker Hub does not count, and the manifest it names is fetched by digest, once, and only when
//! it is not here. So an unchanged tag costs nothing however often it is revalidated, and a changed tag that names
//! what another tag brought costs nothing either. [`super::tags`] has the tag's half.

mod fetched;
mod head;
mod refresh;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::runtime::Handle;
use weir_shared::{Flight, Lease, Turn};
use weir_storage::{Source, TagRecord};

use super::{
    budgeted_fetch::BudgetedFetch,
    coalesce::{ManifestFlights, Waiters},
    error::Error,
    fleet_answers::FleetAnswers,
    flight::Flights,
    freshness::{self, Freshness},
    handles::Handles,
    lookup::{Key, Lookup, Object},
    metrics::Metrics,
    named::NamedBlobs,
    negative::NegativeCache,
    outcome::FlightKind,
    settings::SharedSettings,
    sources::{Sources, known},
    tags::{Resolution, Tags},
};
use crate::{
    answer::{CacheFacts, CacheStatus, ManifestAnswer, ManifestHead},
    clock,
    oci::{Digest, Manifest, Reference, Tag},
    upstream::{self, ledger::Reason},
};

/// What a lookup names by its digest or by a tag that is not expired.
struct Named {
    digest: Digest,
    checked_at: SystemTime,
    /// The tag, when it is to be revalidated.
    stale: Option<Tag>,
    /// What the client learns of an answer that upstream has not confirmed.
    warning: Option<Arc<str>>,
}

/// The manifests of all mirrored repositories.
#[derive(Debug)]
pub struct Manifests {
    settings: SharedSettings,
    sources: Sources,
    tags: Tags,
    fetcher: BudgetedFetch,
    negative: Arc<NegativeCache>,
    named: NamedBlobs,
    metrics: Arc<Metrics>,
    flights: ManifestFlights,
    heads: Flights<Key, Option<ManifestHead>>,
    fleet: FleetAnswers,
    runtime: Handle,
}

impl Manifests {
    pub(super) fn new(handles: &Handles, tags: Tags, fetcher: BudgetedFetch) -> Manifests {
        let Handles { settings, sources, negative, named, metrics, runtime, .. } = handles;
        Manifests {
            flights: ManifestFlights::new(fetcher.limits.clone(), metrics.clone(), runtime.clone()),
            heads: Flights::new(FlightKind::manifest_head, metrics.clone(), runtime.clone()),
            fleet: FleetAnswers::new(handles),
            settings: settings.clone(),
            sources: sources.clone(),
            tags,
            fetcher,
            negative: negative.clone(),
            named: named.clone(),
            metrics: metrics.clone(),
            runtime: runtime.clone(),
        }
    }

    /// The fast lane: an answer from memory, or `None`; then call [`Manifests::get`], which also reports failures.
    pub fn cached(self: &Arc<Self>, lookup: &Lookup, reference: &Reference, now: SystemTime) -> Option<ManifestAnswer> {
        let answer = self.fresh_now(lookup, reference, now)?;
        self.count(&answer);
        Some(answer)
    }

    /// Whether a manifest is here and this client's to have, fresh or not. Asks upstream nothing.
    pub async fn is_cached(&self, lookup: &Lookup, reference: &Reference) -> bool {
        let digest = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(tag) => self.tags.load(lookup, tag).await.ok().flatten().map(|(_, record)| record.digest),
        };
        let Some(digest) = digest else { return false };
        self.sources.manifest(lookup, &digest).await.is_ok_and(|manifest| manifest.is_some())
    }

    /// Whether [`Manifests::get`] asks upstream nothing before it answers.
    pub async fn is_fresh(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> bool {
        self.fresh(lookup, reference, clock::now()).await.is_ok_and(|answer| answer.is_some())
    }

    /// A manifest by tag or digest. Costs upstream at most one counted GET, and none when it is here.
    ///
    /// # Errors
    /// See [`Error`]; a cached answer stands in where the error allows it.
    pub async fn get(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestAnswer, Error> {
        let answer = self.find(lookup, reference).await?;
        self.named.learn(lookup, &answer.manifest);
        self.count(&answer);
        Ok(answer)
    }

    fn count(&self, answer: &ManifestAnswer) {
        if answer.facts.status != CacheStatus::Miss {
            self.fetcher.ledger.count_saved();
        }
        self.metrics.manifest(answer.facts.status);
    }

    /// The answer from memory for a digest that is there or a tag that is not expired.
    fn fresh_now(self: &Arc<Self>, lookup: &Lookup, reference: &Reference, now: SystemTime) -> Option<ManifestAnswer> {
        let named = match reference {
            Reference::Digest(digest) => Named { digest: digest.clone(), checked_at: now, stale: None, warning: None },
            Reference::Tag(tag) => self.named(lookup, tag, self.tags.now(lookup, tag)?, now)?,
        };
        let manifest = self.sources.manifest_now(lookup, &named.digest)?;
        Some(self.hit(lookup, named, manifest, now))
    }

    /// As [`Manifests::fresh_now`], from disk where memory does not have it.
    async fn fresh(
        self: &Arc<Self>,
        lookup: &Lookup,
        reference: &Reference,
        now: SystemTime,
    ) -> Result<Option<ManifestAnswer>, Error> {
        let named = match reference {
            Reference::Digest(digest) => Named { digest: digest.clone(), checked_at: now, stale: None, warning: None },
            Reference::Tag(tag) => {
                let record = self.tags.load(lookup, tag).await?;
                let named = record.and_then(|found| self.named(lookup, tag, found, now));
                let Some(named) = named else { return Ok(None) };
                named
            }
        };
        let manifest = self.sources.manifest(lookup, &named.digest).await?;
        Ok(manifest.map(|manifest| self.hit(lookup, named, manifest, now)))
    }

    /// What a tag names, unless the record of it expired.
    fn named(&self, lookup: &Lookup, tag: &Tag, found: (Source, TagRecord), now: SystemTime) -> Option<Named> {
        let (source, record) = found;
        let stale = match self.tags.freshness(lookup, &source, tag, &record, now) {
            Freshness::Fresh => None,
            Freshness::Stale => Some(tag.clone()),
            Freshness::Expired => return None,
        };
        let warning = self.tags.imported(&source, tag).map(|mark| {
            let age = Duration::from_secs(freshness::age(mark.at, now).as_secs());
            let age = humantime::format_duration(age);
            format!("answer was imported {age} ago, and upstream has not confirmed it").into()
        });
        Some(Named { digest: record.digest, checked_at: record.checked_at, stale, warning })
    }

    /// The answer; a stale one is revalidated while it goes out.
    fn hit(self: &Arc<Self>, lookup: &Lookup, named: Named, manifest: Manifest, now: SystemTime) -> ManifestAnswer {
        if let Some(tag) = &named.stale {
            self.revalidate_behind(lookup, tag);
        }
        let age = freshness::age(named.checked_at, now);
        let status = if named.warning.is_some() { CacheStatus::Stale } else { CacheStatus::Hit };
        ManifestAnswer { manifest, facts: CacheFacts { status, age, warning: named.warning } }
    }

    async fn find(self: &Arc<Self>, lookup: &Lookup, reference: &Reference) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.fresh(lookup, reference, clock::now()).await? {
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
        let (manifests, owned, wanted, absent) = (self.clone(), lookup.clone(), digest.clone(), key.clone());
        let work = move |waiters| {
            let (manifests, owned, wanted, key) = (manifests.clone(), owned.clone(), wanted.clone(), absent.clone());
            async move {
                let waiters = Waiters { has_stale, ..waiters };
                manifests.negative.run(&key, manifests.fetch_digest(&owned, &wanted, reason, &waiters)).await
            }
        };
        self.flights.coalesce(&key, lookup, work).await
    }

    /// The flight's work for a digest: looks again, lets upstream vouch for bytes that are here, or fetches them.
    async fn fetch_digest(
        self: &Arc<Self>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.sources.manifest(lookup, digest).await? {
            return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
        }
        let lease = match self.turn(lookup, digest).await {
            Turn::Found(manifest) => {
                return Ok(ManifestAnswer { manifest: manifest?, facts: CacheFacts::now(CacheStatus::Hit) });
            }
            Turn::Ask(lease) => lease,
        };
        if let Some(denied) = &lookup.cached_only {
            return Err(Error::Throttled(denied.clone()));
        }
        let here = self.sources.store.cache.manifests.load(digest).await?;
        let reference = Reference::Digest(digest.clone());
        let has_accounts = !self.sources.upstream(&lookup.upstream)?.settings().accounts.is_empty();
        let mut source = Some(lookup.public());
        // Bytes that another repository brought need this one's word, and a HEAD is free. With accounts, a HEAD tells
        // first who may read this, since the account with the most left pays for what anonymous may read.
        if here.is_some() || has_accounts {
            match self.sources.head_manifest(lookup, &reference).await {
                Ok((vouching, head)) => {
                    let differs = |found: &Digest| found != digest && found.algorithm() == digest.algorithm();
                    if head.digest.as_ref().is_some_and(differs) {
                        let message = "upstream answered a digest with another one".into();
                        return Err(Error::UpstreamMalformed { message });
                    }
                    if let Some(manifest) = here {
                        self.sources.add_member(&vouching, digest).await;
                        return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
                    }
                    source = if head.digest.is_some() { Some(vouching) } else { known(vouching) };
                }
                Err(upstream::Error::HeadRefused) => source = None,
                Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
            }
        }
        let (source, manifest) = self.fetcher.fetch(lookup, source.as_ref(), &reference, reason, waiters).await?;
        self.forget_absence_of_children(lookup, &manifest);
        self.keep(&source, &manifest, lease.as_ref()).await;
        Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
    }

    /// The manifest from the bucket that replicas share, by now or when another replica has brought it there, else this one's turn to ask
    /// upstream.
    async fn turn(&self, lookup: &Lookup, digest: &Digest) -> Turn<Result<Manifest, Error>> {
        let Some(tier) = &self.sources.tier else { return Turn::Ask(None) };
        let look = || async {
            self.adopt(lookup, digest).await;
            self.sources.manifest(lookup, digest).await.transpose()
        };
        // For a client that gets only what is cached, no upstream is asked and no replica waited for.
        if lookup.cached_only.is_some() {
            return look().await.map_or(Turn::Ask(None), Turn::Found);
        }
        let is_private = lookup.may_read_private();
        tier.turn(&Flight::manifest(&lookup.upstream, &lookup.repository, is_private, digest), look, |_| {
            std::future::ready(None)
        })
        .await
    }

    /// Brings a manifest from the bucket, if there is one. A disk that is full costs the cache an entry and the client nothing.
    async fn adopt(&self, lookup: &Lookup, digest: &Digest) {
        if let Err(error) = self.sources.adopt_manifest(lookup, digest).await {
            tracing::warn!(%error, %digest, "a manifest of the bucket could not be kept");
        }
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
    async fn keep(&self, source: &Source, manifest: &Manifest, lease: Option<&Lease>) {
        match self.sources.store.cache.manifests.put(manifest).await {
            Ok(()) => {
                if let Some(lease) = lease {
                    lease.got();
                }
                if let Some(tier) = &self.sources.tier {
                    tier.keep_manifest(&manifest.digest, lease);
                }
                self.sources.add_member_under(source, &manifest.digest, lease).await;
            }
            Err(error) => tracing::warn!(%error, digest = %manifest.digest, "a manifest could not be kept"),
        }
    }

    async fn by_tag(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let key = lookup.key(Object::Manifest(Reference::Tag(tag.clone())));
        self.negative.check(&key)?;
        let (manifests, owned, wanted, absent) = (self.clone(), lookup.clone(), tag.clone(), key.clone());
        let work = move |waiters| {
            let (manifests, owned, wanted, key) = (manifests.clone(), owned.clone(), wanted.clone(), absent.clone());
            async move { manifests.negative.run(&key, manifests.fetch_tag(&owned, &wanted, waiters)).await }
        };
        self.flights.coalesce(&key, lookup, work).await
    }

    /// The flight's work for a tag: resolve it, get what it names, and fall back to what is cached when that fails.
    async fn fetch_tag(
        self: &Arc<Self>,
        lookup: &Lookup,
        tag: &Tag,
        mut waiters: Waiters,
    ) -> Result<ManifestAnswer, Error> {
        self.tags.promote(lookup, tag).await?;
        if let Some(answer) = self.fresh(lookup, &Reference::Tag(tag.clone()), clock::now()).await? {
            return Ok(answer);
        }
        if let Some((record, facts)) = self.tags.stale_for_cached_only(lookup, tag, clock::now()).await?
            && let Some(manifest) = self.sources.manifest(lookup, &record.digest).await?
        {
            return Ok(ManifestAnswer { manifest, facts });
        }
        waiters.has_stale = self.has_stale(lookup, tag).await?;
        let answer = match self.current(lookup, tag).await {
            Ok(resolution) => {
                let is_named = matches!(resolution, Resolution::Named { .. });
                match self.fetch_named(lookup, tag, resolution, &waiters).await {
                    // The tag was moved between the HEAD and the GET: the digest is gone, the tag is not. A GET by tag says of the tag itself
                    // that it is gone.
                    Err(Error::ManifestUnknown) if is_named => match self.tags.resolve_upstream(lookup, tag).await {
                        Ok(resolution) => self.fetch_named(lookup, tag, resolution, &waiters).await,
                        Err(error) => Err(error),
                    },
                    answer => answer,
                }
            }
            Err(error) => Err(error),
        };
        match answer {
            Err(error) => match self.tags.stale(lookup, tag, &error, clock::now()).await? {
                Some((record, facts)) => match self.sources.manifest(lookup, &record.digest).await? {
                    Some(manifest) => Ok(ManifestAnswer { manifest, facts }),
                    None => Err(error),
                },
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Whether the old answer may stand in when the new one cannot be had.
    async fn has_stale(&self, lookup: &Lookup, tag: &Tag) -> Result<bool, Error> {
        let Some((_, record)) = self.tags.load(lookup, tag).await? else { return Ok(false) };
        let age = freshness::age(record.checked_at, clock::now());
        Ok(age < self.settings.load().stale_if_error && self.sources.manifest(lookup, &record.digest).await?.is_some())
    }

    /// What the tag names: as a HEAD found it while that is fresh, else by asking upstream.
    async fn current(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let now = clock::now();
        if let Some((source, record)) = self.tags.pending(lookup, tag, now) {
            return Ok(Resolution::Named { source, record, changed: true });
        }
        match self.tags.load(lookup, tag).await? {
            Some((source, record)) if self.tags.freshness(lookup, &source, tag, &record, now) == Freshness::Fresh => {
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
                let held = self.sources.manifest(lookup, &record.digest).await?;
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
                if answer.facts.status == CacheStatus::Revalidated {
                    answer.facts = confirmed(&record, CacheStatus::Revalidated);
                }
                // Only now that its bytes are here: had the budget refused them, the old answer would still stand.
                if changed {
                    self.tags.put_pending(lookup, &source, tag, &record).await;
                }
                Ok(answer)
            }
            Resolution::HeadRefused { source } => {
                let (reference, reason) = (Reference::Tag(tag.clone()), Reason::HeadRefused);
                let fetched = Box::pin(self.fetcher.fetch(lookup, source.as_ref(), &reference, reason, waiters));
                let (source, manifest, at) = self.told(lookup, tag, fetched).await?;
                self.forget_absence_of_children(lookup, &manifest);
                self.keep(&source, &manifest, None).await;
                self.tags.put(&source, tag, &TagRecord { checked_at: at, ..Tags::record_of(&manifest) }).await;
                Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
            }
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
            let wanted = tag.clone();
            let work = |waiters| async move {
                let resolution = worker.tags.resolve(&owned, &wanted).await?;
                worker.fetch_named(&owned, &wanted, resolution, &waiters).await
            };
            if let Err(error) = manifests.flights.background(key, work).await {
                manifests.tags.denied(&lookup, &tag, &error).await;
                tracing::info!(%error, upstream = %lookup.upstream, repository = %lookup.repository, "revalidation failed");
            }
        });
    }
}

/// The facts of an answer that upstream confirmed: to this replica now, or to another one a while ago.
fn confirmed(record: &TagRecord, status: CacheStatus) -> CacheFacts {
    match freshness::age(record.checked_at, clock::now()) {
        age if age < Duration::from_secs(1) => CacheFacts::now(status),
        age => CacheFacts { status: CacheStatus::Hit, age, warning: None },
    }
}
