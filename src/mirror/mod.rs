//! The decisions: an answer from disk, or from upstream by way of disk.
//!
//! [`Mirror`] assembles [`Manifests`], [`Blobs`] and [`Listings`]. All of them go
//! the same way: memory or disk when that is fresh (`freshness`) and this client's to have (`sources`); else what is
//! known to be absent (`negative`); else a flight (`flight`), whose work looks at the disk again, asks upstream, keeps
//! the answer, and gives it to all who wait.
//!
//! All work that asks upstream runs on the background runtime that `main` owns, and outlives the client that asked.

mod answer;
mod blobs;
mod budgeted_fetch;
mod coalesce;
mod error;
mod fill;
mod flight;
mod freshness;
mod listings;
mod lookup;
mod manifests;
mod metrics;
mod names;
mod negative;
mod settings;
mod sources;
mod tags;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::runtime::Handle;
use weir_storage::Store;

pub use self::{
    answer::{
        BlobAnswer, BlobHead, CacheFacts, CacheStatus, ManifestAnswer, ManifestHead, ReferrersAnswer, TagsAnswer,
    },
    blobs::Blobs,
    error::Error,
    listings::Listings,
    lookup::Lookup,
    manifests::Manifests,
    metrics::Metrics,
    settings::Settings,
};
use self::{budgeted_fetch::BudgetedFetch, names::Names, negative::NegativeCache, sources::Sources, tags::Tags};
pub use crate::upstream::ledger::{Balance, Spend};
use crate::{
    client::Client,
    limits::Limits,
    oci::{Name, Tag},
    upstream::{Ledger, Upstream},
};
pub use weir_storage::{Extent, Reader, Repair, Report, Scrub, Source, Stopped, Usage};

/// The mirror. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Answers for manifests.
    pub manifests: Arc<Manifests>,
    /// Answers for blobs.
    pub blobs: Arc<Blobs>,
    /// Answers for tag lists, referrers and the catalog.
    pub listings: Arc<Listings>,
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
        let (settings, metrics) = (Arc::new(settings), Arc::<Metrics>::default());
        let negative = Arc::new(NegativeCache::new(settings.negative_entries, settings.negative_ttl));
        let sources = Sources::new(store, upstreams);
        let names = Names::new();
        let tags = Tags::new(settings.clone(), sources.clone(), names.clone(), metrics.clone(), runtime.clone());
        let manifests = Arc::new(Manifests::new(
            settings.clone(),
            sources.clone(),
            tags.clone(),
            BudgetedFetch::new(sources.clone(), ledger.clone(), limits.clone(), names),
            negative.clone(),
            metrics.clone(),
            runtime.clone(),
        ));
        let listings = Listings::new(
            settings.clone(),
            sources.clone(),
            tags.clone(),
            manifests.clone(),
            negative.clone(),
            metrics.clone(),
            runtime.clone(),
        );
        let blobs = Blobs::new(settings, sources.clone(), negative.clone(), metrics.clone(), runtime);
        Mirror {
            manifests,
            blobs: Arc::new(blobs),
            listings: Arc::new(listings),
            sources,
            tags,
            negative,
            ledger,
            limits,
            metrics,
        }
    }

    /// What every identity has left upstream.
    pub fn budget(&self) -> Vec<Balance> {
        let now = SystemTime::now();
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

    /// Why a repository, or one reference of it, went upstream, and who asked; newest first.
    ///
    /// A tag stands for what it names now and for the children of that, since most GETs are by digest.
    pub fn explain(&self, upstream: &str, repository: &Name, reference: Option<&str>) -> Vec<Spend> {
        let wanted = reference.map(|reference| {
            let tag = reference.parse::<Tag>().ok();
            tag.map_or_else(Vec::new, |tag| self.tags.digests_of(upstream, repository, &tag))
                .into_iter()
                .chain([reference.to_owned()])
                .collect::<Vec<String>>()
        });
        let mut spends = self.ledger.explain(repository, wanted.as_deref());
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

    /// Upstreams that are not asked now: name, until when, and why.
    pub fn breakers(&self) -> Vec<(Arc<str>, SystemTime, Arc<str>)> {
        let open =
            |upstream: &Upstream| upstream.breaker().map(|(until, why)| (upstream.settings().name.clone(), until, why));
        self.sources.upstreams().filter_map(open).collect()
    }

    /// Forgets a tag, or a whole repository, and what was known to be absent. Returns how many entries went; bytes leave by eviction.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn purge(&self, upstream: &str, repository: &Name, reference: Option<&Tag>) -> Result<u64, Error> {
        self.negative.clear();
        self.tags.forget_pending();
        self.listings.forget_absent();
        Ok(self.sources.store.cache.forget(upstream, repository, reference).await?)
    }

    /// What looks for damage of what is stored.
    pub fn scrub(&self) -> &Scrub {
        &self.sources.store.scrub
    }

    /// Stops fills so that they can be resumed, and flushes. The end of the drain.
    pub async fn close(&self) {
        self.blobs.close().await;
        self.ledger.persist().await;
        self.sources.store.close().await;
    }
}
