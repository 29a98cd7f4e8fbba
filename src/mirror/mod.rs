//! The decisions: an answer from disk, or from upstream by way of disk.
//!
//! [`Mirror`] assembles [`Manifests`], [`Blobs`] and [`Listings`]. All of them go
//! the same way: memory or disk when that is fresh (`freshness`) and this client's to have (`sources`); else what is
//! known to be absent (`negative`); else a flight (`flight`), whose work looks at the disk again, asks upstream, keeps
//! the answer, and gives it to all who wait.
//!
//! All work that asks upstream runs on the background runtime that `main` owns, and outlives the client that asked.

mod archive_entries;
mod blobs;
mod budgeted_fetch;
mod coalesce;
mod decisions;
mod enforcement;
mod error;
mod export;
mod fill;
mod fills;
mod fleet_answers;
mod flight;
#[cfg(test)]
mod flight_tests;
mod freshness;
mod handles;
mod health;
mod image_facts;
mod import;
mod import_holds;
mod import_image;
mod import_staging;
mod incoming;
mod layers;
mod listings;
mod lookup;
mod manifest_history;
mod manifests;
mod metrics;
mod named;
mod names;
mod negative;
mod outcome;
mod peers;
mod refreshed;
mod remembered;
mod scans;
mod settings;
mod signatures;
mod small_blob;
mod sources;
mod sync;
mod tags;
pub mod warm;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Semaphore};
use weir_shared::Tier;
use weir_storage::Store;

pub use self::{
    blobs::Blobs,
    enforcement::Enforcement,
    error::Error,
    export::{Export, ExportError, ExportRequest, Exports, Wanted},
    fills::{Begun, UnderWay},
    health::Check,
    image_facts::{ImageFacts, NoFacts, PlatformFacts},
    import::{ImportError, Imported, Imports, Resolve},
    import_image::ImportTarget,
    import_staging::ArchiveError,
    layers::Layers,
    listings::Listings,
    lookup::{Cost, Lookup},
    manifest_history::ManifestHistory,
    manifests::Manifests,
    metrics::Metrics,
    peers::{PeerBlob, Peers},
    refreshed::Refreshed,
    scans::{Scanned, Scans},
    settings::{Settings, TagRule},
};
use self::{
    budgeted_fetch::BudgetedFetch, handles::Handles, named::NamedBlobs, names::Names, negative::NegativeCache,
    settings::SharedSettings, signatures::Signatures, sources::Sources, tags::Tags, warm::Warm,
};
pub use crate::upstream::ledger::{Balance, Spend};
use crate::{
    client::{Client, ClientKey},
    clock,
    limits::{Limits, budget::HeldPull},
    oci::{Name, Reference, Tag},
    upstream::{CredentialState, Ledger, Upstream},
};
pub use weir_storage::{
    Error as StoreError, Extent, Image, ImageFilter, Images, ImportMark, NameFilter, Pin, Pulled, Puller, Purged,
    Reader, Reading, Repair, Report, Repository, Scrub, Selection, Source, Space, Stopped, Summary, Usage,
};

/// Exports and imports at once: each reads or writes as fast as the disk does, and one more is for who comes meanwhile.
const ARCHIVES: usize = 2;

/// How long a stopping mirror waits for what is on its way to the bucket.
const SHARED_WAIT: Duration = Duration::from_secs(5);

/// The mirror. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Answers for manifests.
    pub manifests: Arc<Manifests>,
    /// Answers for blobs.
    pub blobs: Arc<Blobs>,
    /// Answers for tag lists, referrers and the catalog.
    pub listings: Arc<Listings>,
    /// Fetches what clients have not asked for yet.
    pub warm: Arc<Warm>,
    /// Archives of what is cached.
    pub exports: Exports,
    /// Archives that come in.
    pub imports: Imports,
    /// What the layers hold that are here.
    pub layers: Layers,
    /// What scanners said of images.
    pub scans: Scans,
    /// What the cache knew of images before.
    pub history: ManifestHistory,
    /// What is known of cached images.
    pub facts: ImageFacts,
    /// What `[[policy]]` makes of manifests.
    pub enforcement: Arc<Enforcement>,
    settings: SharedSettings,
    sources: Sources,
    tags: Tags,
    negative: Arc<NegativeCache>,
    ledger: Ledger,
    limits: Limits,
    metrics: Arc<Metrics>,
}

impl Mirror {
    /// A mirror of `upstreams` in `store`. Sends no request yet: Weir starts while every upstream is down.
    pub fn new(
        settings: Settings,
        store: Store,
        upstreams: Vec<Upstream>,
        ledger: Ledger,
        limits: Limits,
        runtime: Handle,
    ) -> Mirror {
        Mirror::sharing(settings, (store, None, None), upstreams, ledger, limits, runtime)
    }

    /// As [`Mirror::new`], with the bucket that stands behind the store when other replicas share it, and those.
    pub fn sharing(
        settings: Settings,
        (store, tier, peers): (Store, Option<Tier>, Option<Peers>),
        upstreams: Vec<Upstream>,
        ledger: Ledger,
        limits: Limits,
        runtime: Handle,
    ) -> Mirror {
        let negative = Arc::new(NegativeCache::new(settings.negative_entries, settings.negative_ttl));
        let handles = Handles {
            named: NamedBlobs::new(settings.negative_entries),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            sources: Sources::new(store, tier, upstreams),
            peers,
            negative,
            metrics: Arc::default(),
            runtime,
        };
        let names = Names::new();
        let history = ManifestHistory::new(&handles.sources.store, handles.runtime.clone());
        let tags = Tags::new(&handles, names.clone(), history.clone());
        let fetcher =
            BudgetedFetch::new(handles.sources.clone(), ledger.clone(), limits.clone(), names, handles.metrics.clone());
        let manifests = Arc::new(Manifests::new(&handles, tags.clone(), fetcher));
        let listings = Listings::new(&handles, tags.clone(), manifests.clone());
        let blobs = Arc::new(Blobs::new(&handles));
        let permits = Arc::new(Semaphore::new(ARCHIVES));
        let (exports, imports) = (Exports::new(&handles, permits.clone()), Imports::new(&handles, permits));
        let layers = Layers::new(&handles);
        let scans = Scans::new(handles.sources.store.clone());
        let facts = ImageFacts::new(&handles, layers.clone(), (scans.clone(), history.clone()));
        let listings = Arc::new(listings);
        let signatures = Signatures::new(&handles, manifests.clone(), listings.clone(), blobs.clone());
        let asked = (blobs.clone(), signatures);
        let enforcement = Arc::new(Enforcement::new(&handles, facts.clone(), asked, limits.clone()));
        let Handles { settings, sources, negative, metrics, runtime, .. } = handles;
        let warmed = (manifests.clone(), blobs.clone());
        let warm = Arc::new(Warm::new(&settings.load(), warmed, sources.store.clone(), runtime));
        Mirror {
            settings,
            manifests,
            blobs,
            exports,
            imports,
            layers,
            scans,
            history,
            facts,
            enforcement,
            listings,
            warm,
            sources,
            tags,
            negative,
            ledger,
            limits,
            metrics,
        }
    }

    /// The upstreams that are asked now.
    pub fn upstream_clients(&self) -> Vec<Upstream> {
        self.sources.upstreams()
    }

    /// From now on these upstreams and settings, but for what [`Settings::reloaded`] leaves. What goes on ends with the upstream that it began
    /// with; what was known to be absent may be there under another URL or account, and is asked again.
    pub fn reload(&self, upstreams: Vec<Upstream>, settings: &Settings) {
        let is_same = |one: &Upstream| self.sources.upstreams().iter().any(|other| one.is(other));
        if upstreams.len() != self.sources.upstreams().len() || !upstreams.iter().all(is_same) {
            self.sources.replace(upstreams);
            self.negative.clear();
            self.tags.forget_pending();
            self.listings.forget_absent();
        }
        self.settings.store(Arc::new(self.settings.load().reloaded(settings)));
    }

    /// What every identity has left upstream.
    pub fn budget(&self) -> Vec<Balance> {
        let now = clock::now();
        let mut identities = self.ledger.identities();
        for upstream in self.sources.upstreams() {
            for identity in upstream.identities() {
                if !identities.contains(&identity) {
                    identities.push(identity);
                }
            }
        }
        identities.iter().map(|identity| self.ledger.balance(identity, now)).collect()
    }

    /// What this client's class may use of an upstream's budget: pulls in a window, how many of them are left, and the window. Of the
    /// identity with the most left; `None` when upstream names no limit.
    pub fn allowance(&self, upstream: &str, client: &Client, now: SystemTime) -> Option<(u64, u64, Duration)> {
        let upstream = self.sources.upstream(upstream).ok()?;
        let left = upstream.identities().into_iter().map(|identity| self.ledger.balance(&identity, now));
        let left = left.filter(|left| left.limit.is_some()).max_by_key(|left| left.remaining)?;
        let limit = u64::try_from(left.limit?).ok()?;
        let kept = if client.overrides { 0 } else { self.limits.config().budget.kept(client.class, limit) };
        let remaining = u64::try_from(left.remaining?).unwrap_or(0);
        Some((limit.saturating_sub(kept), remaining.saturating_sub(kept), left.window?))
    }

    /// The newest counted requests, newest first.
    pub fn spends(&self, most: usize) -> Vec<Spend> {
        self.ledger.spends(most)
    }

    /// The newest pulls that the budget held back, oldest first; at most 4,096 are known.
    pub fn held_pulls(&self) -> Vec<HeldPull> {
        self.limits.held_pulls()
    }

    /// Why a repository, or one reference of it, went upstream, and who asked; newest first.
    ///
    /// A tag stands for what it names now and for the children of that, since most GETs are by digest.
    pub async fn explain(&self, upstream: &str, repository: &Name, reference: Option<&str>) -> Vec<Spend> {
        let mut wanted: Vec<String> = reference.map(str::to_owned).into_iter().collect();
        if let Some(tag) = reference.and_then(|reference| reference.parse::<Tag>().ok()) {
            wanted.extend(self.tags.digests_of(upstream, repository, &tag).await);
        }
        let mut spends = self.ledger.explain(repository, reference.map(|_| &wanted[..]));
        spends.retain(|spend| &*spend.upstream == upstream);
        spends
    }

    /// Manifest GETs answered without one upstream, and since when they are counted.
    pub fn saved(&self) -> (u64, SystemTime) {
        self.ledger.saved()
    }

    /// What the store holds.
    pub fn usage(&self) -> Usage {
        self.sources.store.usage()
    }

    /// What the mirror counts, for `/metrics`.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is known of the credential of each account: upstream, account, state.
    pub fn credentials(&self) -> Vec<(Arc<str>, Arc<str>, CredentialState)> {
        let of = |upstream: &Upstream| {
            let name = upstream.settings().name.clone();
            upstream.credentials().into_iter().map(move |(account, state)| (name.clone(), account, state))
        };
        self.sources.upstreams().iter().flat_map(of).collect()
    }

    /// What Weir needs and how it is. One small file is written, at most once a second; no request is sent.
    pub async fn health(&self) -> Vec<Check> {
        health::checks(&self.sources).await
    }

    /// The names of all upstreams.
    pub fn upstreams(&self) -> Vec<Arc<str>> {
        self.sources.upstreams().iter().map(|upstream| upstream.settings().name.clone()).collect()
    }

    /// Requests that wait for their turn to be sent, by upstream.
    pub fn waiting_upstream(&self) -> Vec<(Arc<str>, usize)> {
        self.sources.upstreams().iter().map(|upstream| (upstream.settings().name.clone(), upstream.waiting())).collect()
    }

    /// Requests to each upstream since the start, and how long all of them took until the answer began.
    pub fn upstream_times(&self) -> Vec<(Arc<str>, (u64, Duration))> {
        self.sources.upstreams().iter().map(|upstream| (upstream.settings().name.clone(), upstream.took())).collect()
    }

    /// What the file system of the store has; `None` when it does not say so in time.
    pub async fn space(&self) -> Option<Space> {
        self.sources.store.space().await.ok()
    }

    /// Upstreams that fail: name, until when they are not asked, and why; until `None` when the next request is sent.
    pub fn breakers(&self) -> Vec<(Arc<str>, Option<SystemTime>, Arc<str>)> {
        let open =
            |upstream: &Upstream| upstream.breaker().map(|(until, why)| (upstream.settings().name.clone(), until, why));
        self.sources.upstreams().iter().filter_map(open).collect()
    }

    /// What is cached, image by image.
    pub fn images(&self) -> &Images {
        &self.sources.store.images
    }

    /// Notes that a client got a manifest by GET: a pull, as Docker Hub counts it. No system call.
    pub fn note_pull(&self, lookup: &Lookup, reference: &Reference, now: SystemTime) {
        let repository = Repository { upstream: lookup.upstream.clone(), name: lookup.repository.clone() };
        self.images().note_pull(repository, reference.clone(), &puller(&lookup.client.key), now);
    }

    /// As [`Mirror::note_pull`], of a manifest that is hosted, since the images of both are listed together.
    pub fn note_hosted_pull(&self, client: &Client, name: &Name, reference: &Reference, now: SystemTime) {
        let repository = Repository::hosted(name.clone());
        self.images().note_pull(repository, reference.clone(), &puller(&client.key), now);
    }

    /// When upstream last confirmed the tag of an image; `None` for a digest, and for what is hosted or was imported.
    pub fn confirmed(&self, image: &Image) -> Option<SystemTime> {
        image.checked_at.filter(|_| !image.repository.is_hosted() && self.imported(image).is_none())
    }

    /// Until when the tag of an image is answered without asking upstream; `None` for a digest, which never changes, and for a tag that no
    /// upstream confirmed.
    pub fn fresh_until(&self, image: &Image) -> Option<SystemTime> {
        let Repository { upstream, name } = &image.repository;
        let ttl = self.settings.load().ttl_of(upstream, name, image.tag.as_ref()?);
        self.confirmed(image)?.checked_add(ttl)
    }

    /// Whether upstream is asked about the tag of an image at the next pull.
    pub fn is_stale(&self, image: &Image, now: SystemTime) -> bool {
        let has_upstream = image.tag.is_some() && !image.repository.is_hosted();
        has_upstream && self.fresh_until(image).is_none_or(|until| until <= now)
    }

    /// How the image was imported, when upstream has not confirmed it since.
    pub fn imported(&self, image: &Image) -> Option<ImportMark> {
        self.sources.store.cache.imports.of(image)
    }

    /// Removes what is selected from the cache, and forgets what was known to be absent; see [`Images::purge`].
    ///
    /// # Errors
    /// As [`Images::purge`].
    pub async fn purge(&self, selections: Vec<Selection>, dry_run: bool) -> Result<Purged, StoreError> {
        if !dry_run {
            self.negative.clear();
            self.tags.forget_pending();
            self.listings.forget_absent();
            self.enforcement.forget();
        }
        self.images().purge(selections, dry_run).await
    }

    /// What looks for damage of what is stored.
    pub fn scrub(&self) -> &Scrub {
        &self.sources.store.scrub
    }

    /// Stops fills so that they can be resumed, and flushes. The end of the drain.
    pub async fn close(&self) {
        self.warm.close().await;
        self.layers.close().await;
        self.blobs.close().await;
        if let Some(tier) = &self.sources.tier {
            tier.close(SHARED_WAIT).await;
        }
        self.ledger.persist().await;
        self.sources.store.close().await;
    }
}

/// The client of a pull, as the store remembers it.
pub(crate) fn puller(key: &ClientKey) -> Puller {
    match key {
        ClientKey::Address(IpAddr::V4(address)) => Puller::Address(address.to_ipv6_mapped().to_bits()),
        ClientKey::Address(IpAddr::V6(address)) => Puller::Address(address.to_bits()),
        ClientKey::Principal(name) => Puller::Account(name.clone()),
    }
}

/// The client that the store remembers.
pub(crate) fn client_of(puller: &Puller) -> ClientKey {
    match puller {
        Puller::Address(bits) => ClientKey::Address(IpAddr::V6(Ipv6Addr::from_bits(*bits)).to_canonical()),
        Puller::Account(name) => ClientKey::Principal(name.clone()),
    }
}
