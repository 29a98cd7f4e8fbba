//! The decisions: an answer from disk, or from upstream by way of disk.
//!
//! [`Mirror`] is what `http` asks; each of its questions has a file: `manifests`, `blobs`, `listings`. All of them go
//! the same way: memory or disk when that is fresh (`freshness`) and this client's to have (`membership`); else what is
//! known to be absent (`negative`); else a flight (`flight`), whose work looks at the disk again, asks upstream, keeps
//! the answer, and tells everybody who waits.
//!
//! All work that asks upstream runs on the background runtime that `main` owns, and outlives whoever lookup.

mod blobs;
mod budgeted_fetch;
mod error;
mod fill;
mod flight;
mod freshness;
mod listings;
mod manifests;
mod membership;
mod metrics;
mod negative;
mod revalidate;
mod settings;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tokio::{runtime::Handle, sync::watch};
use weir_storage::{Store, TagRecord};

use self::{blobs::Found, fill::Fills, flight::Flights, negative::NegativeCache, revalidate::Resolution};
pub use self::{error::Error, metrics::Metrics, settings::Settings};
pub use crate::upstream::ledger::{Balance, Spend};
use crate::{
    client::Client,
    limits::{Limits, permit::Denied},
    oci::{Digest, Manifest, MediaType, Name, Reference, Tag},
    upstream::{Identity, Ledger, Upstream},
};
pub use weir_storage::{Extent, Reader, Scrubbed, Source, Stopped, Usage};

/// Who asks what of whom.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
    /// Who asks.
    pub client: Arc<Client>,
    /// Why nothing counted is sent upstream for it, if nothing is: the ladder holds the client to what is cached (rung 2 or 3).
    pub cached_only: Option<Arc<Denied>>,
}

/// How a request was answered: the cache-status log field, metric label and header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheStatus {
    /// From here; upstream was not asked for it.
    Hit,
    /// Upstream was asked and the answer kept.
    Miss,
    /// From here, after upstream confirmed it.
    Revalidated,
    /// From here past its freshness, because upstream did not answer.
    Stale,
    /// From upstream, and not kept.
    Bypass,
}

/// What goes along with every answer.
#[derive(Clone, Debug)]
pub struct CacheFacts {
    /// How it was answered.
    pub status: CacheStatus,
    /// Since upstream last confirmed it; `Age` (RFC 9111 §5.1).
    pub age: Duration,
    /// Why it is stale, for `Warning: 299`.
    pub warning: Option<Arc<str>>,
}

impl CacheFacts {
    fn now(status: CacheStatus) -> CacheFacts {
        CacheFacts { status, age: Duration::ZERO, warning: None }
    }
}

/// A manifest and how it came.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// The manifest.
    pub manifest: Manifest,
    /// How it came.
    pub facts: CacheFacts,
}

impl ManifestAnswer {
    /// The same without the bytes.
    pub fn head(&self) -> ManifestHead {
        ManifestHead {
            digest: self.manifest.digest.clone(),
            media_type: self.manifest.media_type.clone(),
            size: self.manifest.bytes.len() as u64,
            facts: self.facts.clone(),
        }
    }
}

/// What HEAD tells of a manifest. A cold HEAD fetches no bytes.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// What the tag names, or the digest that was asked for.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// How it came.
    pub facts: CacheFacts,
}

impl ManifestHead {
    fn of(record: TagRecord, facts: CacheFacts) -> ManifestHead {
        ManifestHead { digest: record.digest, media_type: record.media_type, size: record.size, facts }
    }
}

/// A blob, whole or arriving, and how it comes.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Reads it.
    pub reader: Reader,
    /// How it comes.
    pub facts: CacheFacts,
}

/// What HEAD tells of a blob.
#[derive(Clone, Debug)]
pub struct BlobHead {
    /// Its size in bytes.
    pub size: u64,
    /// How it came.
    pub facts: CacheFacts,
}

/// A repository's tags.
#[derive(Clone, Debug)]
pub struct TagsAnswer {
    /// All of them, in byte order.
    pub tags: Arc<[Tag]>,
    /// How they came.
    pub facts: CacheFacts,
}

/// What refers to a manifest.
#[derive(Clone, Debug)]
pub struct ReferrersAnswer {
    /// Descriptors as upstream has them, unfiltered; `http` filters and says so.
    pub descriptors: Arc<[Value]>,
    /// How they came.
    pub facts: CacheFacts,
}

/// What two requests must have in common to share one piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    upstream: Arc<str>,
    repository: Name,
    /// Whether the asker may have what only our accounts can read; those who may not never share with those who may.
    private: bool,
    object: Object,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Object {
    Manifest(Reference),
    ManifestHead(Reference),
    Revalidation(Tag),
    Blob(Digest),
    BlobHead(Digest),
    Tags,
    Referrers(Digest),
}

/// The mirror. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Mirror(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    store: Store,
    upstreams: HashMap<Arc<str>, Upstream>,
    ledger: Ledger,
    limits: Limits,
    runtime: Handle,
    manifests: Flights<(Key, budgeted_fetch::ShareScope), Result<ManifestAnswer, Error>>,
    heads: Flights<Key, Result<Option<ManifestHead>, Error>>,
    resolutions: Flights<Key, Result<Resolution, Error>>,
    blobs: Flights<Key, Result<Found, Error>>,
    sizes: Flights<Key, Result<Option<u64>, Error>>,
    listings: Flights<Key, Result<Arc<[Value]>, Error>>,
    fills: Fills,
    negative: NegativeCache,
    /// What a HEAD found a moved tag to name while its bytes are not here: the older answer must stand until they are.
    pending_tags: moka::sync::Cache<Key, (Source, TagRecord)>,
    /// Subjects without referrers. In memory alone: a client can name any number of digests.
    no_referrers: moka::sync::Cache<Key, SystemTime>,
    /// When an identity that seemed to have nothing left was last looked at again.
    last_probes: Mutex<HashMap<Identity, Instant>>,
    /// True once the mirror closes; fills stop so that they can be resumed.
    stop: watch::Sender<bool>,
    /// Manifest GETs answered without one upstream.
    saved: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Mirror {
    /// A mirror of `upstreams` in `store`. Asks nobody anything yet: Weir starts while every upstream is down.
    pub fn new(
        settings: Settings,
        store: Store,
        upstreams: Vec<Upstream>,
        ledger: Ledger,
        limits: Limits,
        runtime: Handle,
    ) -> Mirror {
        let upstreams = upstreams.into_iter().map(|upstream| (upstream.settings().name.clone(), upstream)).collect();
        Mirror(Arc::new(Inner {
            manifests: Flights::new(runtime.clone()),
            heads: Flights::new(runtime.clone()),
            resolutions: Flights::new(runtime.clone()),
            blobs: Flights::new(runtime.clone()),
            sizes: Flights::new(runtime.clone()),
            listings: Flights::new(runtime.clone()),
            fills: Fills::new(settings.fills, settings.ahead_ranges),
            negative: NegativeCache::new(settings.negative_entries, settings.negative_ttl),
            pending_tags: moka::sync::Cache::new(settings.negative_entries),
            no_referrers: moka::sync::Cache::builder()
                .max_capacity(settings.negative_entries)
                .time_to_live(settings.stale_if_error.max(settings.listing_ttl))
                .build(),
            last_probes: Mutex::default(),
            stop: watch::Sender::new(false),
            saved: AtomicU64::new(0),
            metrics: Arc::default(),
            settings,
            store,
            upstreams,
            ledger,
            limits,
            runtime,
        }))
    }

    /// The fast lane: an answer that needs no await, or `None`; then ask [`Mirror::manifest`], which also tells failures.
    pub fn warm_manifest(&self, lookup: &Lookup, reference: &Reference, now: SystemTime) -> Option<ManifestAnswer> {
        let answer = self.0.warm_manifest(lookup, reference, now).ok()??;
        self.0.saved.fetch_add(1, Ordering::Relaxed);
        self.0.metrics.manifest(answer.facts.status);
        Some(answer)
    }

    /// [`Mirror::warm_manifest`] for a HEAD: nothing is saved by it, since upstream does not count HEADs.
    pub fn warm_head(&self, lookup: &Lookup, reference: &Reference, now: SystemTime) -> Option<ManifestHead> {
        Some(self.0.warm_manifest(lookup, reference, now).ok()??.head())
    }

    /// A manifest by tag or digest. Costs upstream at most one counted GET, and none when it is here.
    ///
    /// # Errors
    /// See [`Error`]; a cached answer stands in where the error allows it.
    pub async fn manifest(&self, lookup: &Lookup, reference: &Reference) -> Result<ManifestAnswer, Error> {
        let answer = self.0.manifest(lookup, reference).await?;
        if answer.facts.status != CacheStatus::Miss {
            self.0.saved.fetch_add(1, Ordering::Relaxed);
        }
        self.0.metrics.manifest(answer.facts.status);
        Ok(answer)
    }

    /// Whether a manifest is here and this client's to have, fresh or not; asks nobody.
    pub fn is_cached(&self, lookup: &Lookup, reference: &Reference) -> bool {
        self.0.is_cached(lookup, reference).unwrap_or(false)
    }

    /// What HEAD tells of a manifest. Never costs a counted request, but where a registry refuses HEAD.
    ///
    /// # Errors
    /// As [`Mirror::manifest`].
    pub async fn head_manifest(&self, lookup: &Lookup, reference: &Reference) -> Result<ManifestHead, Error> {
        self.0.head_manifest(lookup, reference).await
    }

    /// The blob when it is whole, here, and this client's to have; no await.
    pub fn warm_blob(&self, lookup: &Lookup, digest: &Digest) -> Option<BlobAnswer> {
        let reader = self.0.warm_blob(lookup, digest).ok()??;
        self.0.metrics.blob(CacheStatus::Hit);
        Some(BlobAnswer { reader, facts: CacheFacts::now(CacheStatus::Hit) })
    }

    /// A blob, from its first byte as soon as upstream's headers are in.
    ///
    /// `range` (start, exclusive end if it has one) decides only where the bytes come from while the blob arrives: a small one
    /// far ahead of the fill is fetched by itself, and the reader then gives those bytes alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blob(
        &self,
        lookup: &Lookup,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        let answer = self.0.blob(lookup, digest, range).await?;
        self.0.metrics.blob(answer.facts.status);
        Ok(answer)
    }

    /// What HEAD tells of a blob. Starts no fill.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head_blob(&self, lookup: &Lookup, digest: &Digest) -> Result<BlobHead, Error> {
        self.0.head_blob(lookup, digest).await
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tags(&self, lookup: &Lookup) -> Result<TagsAnswer, Error> {
        self.0.tags(lookup).await
    }

    /// What refers to a manifest; nothing, when upstream knows of nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn referrers(&self, lookup: &Lookup, digest: &Digest) -> Result<ReferrersAnswer, Error> {
        self.0.referrers(lookup, digest).await
    }

    /// What is cached and this client's to see: `repository` at the default upstream, `upstream/repository` elsewhere.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn catalog(&self, client: &Client) -> Result<Vec<String>, Error> {
        self.0.catalog(client).await
    }

    /// What every identity has left upstream.
    pub fn budget(&self) -> Vec<Balance> {
        let now = SystemTime::now();
        let mut identities = self.0.ledger.identities();
        for upstream in self.0.upstreams.values() {
            for identity in upstream.identities() {
                if !identities.contains(&identity) {
                    identities.push(identity);
                }
            }
        }
        identities.iter().map(|identity| self.0.ledger.balance(identity, now)).collect()
    }

    /// What this client's class may use of an upstream's budget: pulls in a window, how many of them are left, and the window. Of the
    /// identity with the most left; `None` when upstream names no limit.
    pub fn allowance(&self, upstream: &str, client: &Client, now: SystemTime) -> Option<(u64, u64, Duration)> {
        let upstream = self.0.upstreams.get(upstream)?;
        let left = upstream.identities().into_iter().map(|identity| self.0.ledger.balance(&identity, now));
        let left = left.filter(|left| left.limit.is_some()).max_by_key(|left| left.remaining)?;
        let limit = u64::try_from(left.limit?).ok()?;
        let kept = if client.overrides { 0 } else { self.0.limits.config().budget.kept(client.class, limit) };
        let remaining = u64::try_from(left.remaining?).unwrap_or(0);
        Some((limit.saturating_sub(kept), remaining.saturating_sub(kept), left.window?))
    }

    /// The newest counted requests, newest first.
    pub fn spends(&self, most: usize) -> Vec<Spend> {
        self.0.ledger.spends(most)
    }

    /// Why a repository, or one reference of it, went upstream, and who asked; newest first.
    ///
    /// A tag stands for what it names now and for the children of that, since most GETs are by digest.
    pub fn explain(&self, upstream: &str, repository: &Name, reference: Option<&str>) -> Vec<Spend> {
        let wanted = reference.map(|reference| {
            let tag = reference.parse::<Tag>().ok();
            tag.map_or_else(Vec::new, |tag| self.0.named_by(upstream, repository, &tag))
                .into_iter()
                .chain([reference.to_owned()])
                .collect::<Vec<String>>()
        });
        let mut spends = self.0.ledger.explain(repository, wanted.as_deref());
        spends.retain(|spend| &*spend.upstream == upstream);
        spends
    }

    /// Manifest GETs answered without one upstream, since start.
    pub fn saved(&self) -> u64 {
        self.0.saved.load(Ordering::Relaxed)
    }

    /// What the store holds.
    pub fn usage(&self) -> Usage {
        self.0.store.usage()
    }

    /// What the mirror counts, for `/metrics`.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Blobs arriving now.
    pub fn fills(&self) -> usize {
        self.0.fills.count()
    }

    /// Upstreams that are not asked now: name, until when, and why.
    pub fn breakers(&self) -> Vec<(Arc<str>, SystemTime, Arc<str>)> {
        let open = |(name, upstream): (&Arc<str>, &Upstream)| {
            upstream.breaker().map(|(until, why)| (name.clone(), until, why))
        };
        self.0.upstreams.iter().filter_map(open).collect()
    }

    /// Forgets a tag, or a whole repository, and what was known to be absent. Returns how many entries went; bytes leave by eviction.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn purge(&self, upstream: &str, repository: &Name, reference: Option<&Tag>) -> Result<u64, Error> {
        self.0.negative.clear();
        Ok(self.0.store.forget(upstream, repository, reference).await?)
    }

    /// Hashes everything stored again, at most so many bytes a second.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, Error> {
        let store = self.0.store.clone();
        let scrub = self.0.runtime.spawn(async move { store.scrub(bytes_per_second).await });
        Ok(scrub.await.map_err(|_| Error::Internal)??)
    }

    /// Stops fills so that they can be resumed, and flushes. The end of the drain.
    pub async fn close(&self) {
        self.0.stop.send_replace(true);
        // A fill ends within the time of one append; the bound is for a disk that hangs.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.0.fills.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.ledger.close().await;
        self.0.store.close().await;
    }
}

impl Inner {
    fn key(&self, lookup: &Lookup, object: Object) -> Key {
        Key {
            upstream: lookup.upstream.clone(),
            repository: lookup.repository.clone(),
            private: Inner::may_read_private(lookup),
            object,
        }
    }

    /// # Errors
    /// What upstream lately said, when that was that this does not exist.
    fn known_absent(&self, key: &Key) -> Result<(), Error> {
        self.negative.get(key, Instant::now()).map_or(Ok(()), Err)
    }

    /// Keeps or drops the memory of an absence by what upstream said now.
    fn learn<T>(&self, key: &Key, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            Ok(_) => self.negative.forget(key),
            Err(error) if error.is_absence() => self.negative.remember(key.clone(), error.clone(), Instant::now()),
            Err(_) => {}
        }
        outcome
    }
}
