//! Tag lists, referrers and the catalog: kept for a while, shared while they are fetched, and stale rather than absent.

use std::{
    fmt::Display,
    sync::{Arc, atomic::AtomicU32},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use weir_storage::{Listing, Source};

use super::{
    error::Error,
    fleet_answers::{FleetAnswers, source_of},
    flight::{AGE_LIMIT, Flights},
    freshness,
    handles::Handles,
    lookup::{Cost, Key, Lookup, Object},
    manifests::Manifests,
    negative::NegativeCache,
    outcome::FlightKind,
    settings::SharedSettings,
    sources::Sources,
    tags::{Resolution, Tags},
};
use crate::{
    answer::{CacheFacts, CacheStatus, ManifestAnswer, ReferrersAnswer, TagsAnswer},
    client::Client,
    clock,
    limits::repositories::RepositoryRules,
    oci::{Digest, Reference, Tag},
    upstream::{self, Upstream, ledger::Reason},
};

/// The listings of all mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Listings {
    settings: SharedSettings,
    sources: Sources,
    tags: Tags,
    manifests: Arc<Manifests>,
    negative: Arc<NegativeCache>,
    /// Subjects without referrers. In memory alone: a client can name any number of digests.
    no_referrers: moka::sync::Cache<Key, SystemTime>,
    flights: Flights<Key, Arc<[Value]>>,
    fleet: FleetAnswers,
    runtime: Handle,
}

/// A list as upstream gave it, when, and with whose credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Listed {
    credential: Arc<str>,
    entries: Vec<Value>,
    at: SystemTime,
}

/// How an imported list is answered, however old it is.
fn as_imported() -> (CacheStatus, Option<Arc<str>>) {
    (CacheStatus::Stale, Some("listing was imported, and upstream has not confirmed it".into()))
}

/// Under which name the store keeps the referrers of a manifest.
pub(super) fn referrers_kind(subject: &Digest) -> String {
    format!("referrers-{}-{}", subject.algorithm().as_str(), subject.hex())
}

impl Listings {
    pub(super) fn new(handles: &Handles, tags: Tags, manifests: Arc<Manifests>) -> Listings {
        let Handles { sources, negative, metrics, runtime, .. } = handles;
        let settings = handles.settings.load();
        let no_referrers = moka::sync::Cache::builder()
            .max_capacity(settings.negative_entries)
            .time_to_live(settings.stale_if_error.max(settings.listing_ttl))
            .build();
        Listings {
            settings: handles.settings.clone(),
            sources: sources.clone(),
            tags,
            manifests,
            negative: negative.clone(),
            no_referrers,
            flights: Flights::new(FlightKind::listing, metrics.clone(), runtime.clone()),
            fleet: FleetAnswers::new(handles),
            runtime: runtime.clone(),
        }
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tags(&self, lookup: &Lookup) -> Result<TagsAnswer, Error> {
        let fetch = |listings: Listings, lookup: Lookup| async move {
            let request = |upstream: Upstream, identity| {
                let repository = lookup.repository.clone();
                async move { upstream.tags(&identity, &repository).await }
            };
            let listed = listings.sources.first(&lookup, request).await;
            let absent = Error::NameUnknown;
            let (source, tags) = listed.map_err(|error| Error::from_upstream(&lookup.upstream, error, absent))?;
            Ok((source, tags.into_iter().map(Value::String).collect()))
        };
        let (entries, facts) = self.list(lookup, "tags", Object::Tags, fetch).await?;
        let mut tags: Vec<Tag> = entries.iter().filter_map(Value::as_str).filter_map(|tag| tag.parse().ok()).collect();
        tags.sort_unstable();
        tags.dedup();
        Ok(TagsAnswer { tags: tags.into(), facts })
    }

    /// The referrers of a manifest; none when upstream knows of none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn referrers(&self, lookup: &Lookup, digest: &Digest) -> Result<ReferrersAnswer, Error> {
        let kind = referrers_kind(digest);
        let subject = digest.clone();
        let fetch =
            |listings: Listings, lookup: Lookup| async move { listings.fetch_referrers(&lookup, &subject).await };
        let (descriptors, facts) = self.list(lookup, &kind, Object::Referrers(digest.clone()), fetch).await?;
        Ok(ReferrersAnswer { descriptors, facts })
    }

    /// Upstream's referrers, else what the fallback tag holds, else none. Never both: mixing them would show a deleted
    /// referrer again.
    async fn fetch_referrers(&self, lookup: &Lookup, subject: &Digest) -> Result<(Source, Vec<Value>), Error> {
        let request = |upstream: Upstream, identity| {
            let (repository, subject) = (lookup.repository.clone(), subject.clone());
            async move { upstream.referrers(&identity, &repository, &subject).await }
        };
        // A refusal is also what Hub answers for a repository that does not exist. It is no proof that nothing refers to this.
        let nothing = match self.sources.first(lookup, request).await {
            Ok((source, Some(descriptors))) => return Ok((source, descriptors)),
            Ok((_, None)) | Err(upstream::Error::NotFound) => Ok((lookup.public(), Vec::new())),
            Err(upstream::Error::Denied) => Err(Error::NameUnknown),
            Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::NameUnknown)),
        };
        let Some(tag) = subject.fallback_tag() else { return nothing };
        let found = match self.tags.resolve(lookup, &tag).await {
            // Some registries read the fallback tag as the digest. What an index lists does not refer to it.
            Ok(Resolution::Named { record, .. }) if record.digest == *subject => return nothing,
            Ok(Resolution::Named { source, record, .. }) => {
                let answer = self.manifests.by_digest(lookup, &record.digest, Reason::Referrers, false).await?;
                Ok((source, answer))
            }
            // Where pulls are counted, a registry that refuses HEAD would make every look for referrers a pull; none are shown then.
            Ok(Resolution::HeadRefused { .. }) if !self.is_unmetered(lookup) => return nothing,
            Ok(Resolution::HeadRefused { .. }) => self.by_get(lookup, &tag).await,
            Err(error) => Err(error),
        };
        let (source, answer) = match found {
            Ok((_, answer)) if answer.manifest.digest == *subject => return nothing,
            Err(error) if error.is_absence() => return nothing,
            found => found?,
        };
        let index: Value = serde_json::from_slice(&answer.manifest.bytes).unwrap_or_default();
        let descriptors = index.get("manifests").and_then(Value::as_array).into_iter().flatten();
        Ok((source, descriptors.filter(|descriptor| descriptor.is_object()).cloned().collect()))
    }

    /// What a fallback tag names where a HEAD does not tell, and whose answer that is.
    async fn by_get(&self, lookup: &Lookup, tag: &Tag) -> Result<(Source, ManifestAnswer), Error> {
        let answer = self.manifests.get(lookup, &Reference::Tag(tag.clone())).await?;
        let source = self.tags.load(lookup, tag).await?.map_or_else(|| lookup.public(), |(source, _)| source);
        Ok((source, answer))
    }

    fn is_unmetered(&self, lookup: &Lookup) -> bool {
        let upstream = self.sources.upstream(&lookup.upstream).ok();
        upstream.is_some_and(|upstream| upstream.identities().iter().all(|identity| upstream.is_unmetered(identity)))
    }

    /// Forgets which subjects had no referrers, as a purge by an operator asks.
    pub(super) fn forget_absent(&self) {
        self.no_referrers.invalidate_all();
    }

    /// A listing from disk while it is fresh, else from upstream, else from disk with a warning.
    async fn list<F, W>(
        &self,
        lookup: &Lookup,
        kind: &str,
        object: Object,
        fetch: F,
    ) -> Result<(Arc<[Value]>, CacheFacts), Error>
    where
        F: FnOnce(Listings, Lookup) -> W + Send + 'static,
        W: Future<Output = Result<(Source, Vec<Value>), Error>> + Send + 'static,
    {
        let now = clock::now();
        // The newest: an account's list is upstream's word on what was imported as public.
        let mut cached: Option<Listing> = None;
        for source in self.sources.readable(lookup) {
            let listing = self.sources.store.cache.listings.load(&source, kind).await?;
            cached = cached.into_iter().chain(listing).max_by_key(|listing| listing.checked_at);
        }
        let key = lookup.key(object);
        let empty =
            self.no_referrers.get(&key).map(|checked_at| Listing { checked_at, body: b"[]".to_vec(), imported: false });
        let is_on_disk = cached.is_some();
        let cached = cached.or(empty);
        let imported = cached.as_ref().is_some_and(|listing| listing.imported);
        let age = cached.as_ref().map(|listing| freshness::age(listing.checked_at, now)).unwrap_or_default();
        let entries = cached.and_then(|listing| serde_json::from_slice::<Vec<Value>>(&listing.body).ok());
        if let Some(entries) = &entries
            && age < self.settings.load().listing_ttl
        {
            let (status, warning) = if imported { as_imported() } else { (CacheStatus::Hit, None) };
            return Ok((entries.clone().into(), CacheFacts { status, age, warning }));
        }
        self.negative.check(&key)?;
        let kind = kind.to_owned();
        let (listings, owned, wanted) = (self.clone(), lookup.clone(), key.clone());
        let (negative, absent, public) = (self.negative.clone(), key.clone(), lookup.public());
        let work = move |_: Arc<AtomicU32>| {
            // It holds the flights of a fallback tag. Moved from one frame to the next it would be too large for a worker's stack.
            let fetched = Box::pin(fetch(listings.clone(), owned.clone()));
            let fetched = async move {
                let Listed { credential, entries, at } = match listings.told(&owned, &wanted.object, fetched).await {
                    Err(error) if imported && error.is_absence() => {
                        listings.disbelieve(&public, &kind).await;
                        return Err(error);
                    }
                    fetched => fetched?,
                };
                let source = Source { credential, ..public };
                // A list that is on the disk is replaced, or an outage would bring it back.
                if entries.is_empty() && !is_on_disk && matches!(wanted.object, Object::Referrers(_)) {
                    listings.no_referrers.insert(wanted, at);
                    return Ok(entries.into());
                }
                let body = serde_json::to_vec(&entries).map_err(|_| Error::Internal)?;
                let listing = Listing { checked_at: at, body, imported: false };
                if let Err(error) = listings.sources.store.cache.listings.put(&source, &kind, &listing).await {
                    tracing::warn!(%error, kind, "a listing could not be kept; upstream will be asked again");
                }
                Ok(entries.into())
            };
            async move { negative.run(&absent, fetched).await }
        };
        if imported && let Some(entries) = entries {
            // As an imported tag: a site without a network waits for no connection.
            let flights = self.flights.clone();
            self.runtime.spawn(async move { drop(flights.join(key, AGE_LIMIT, work).await) });
            let (status, warning) = as_imported();
            return Ok((entries.into(), CacheFacts { status, age, warning }));
        }
        match (self.flights.join(key, AGE_LIMIT, work).await, entries) {
            (Ok(entries), _) => Ok((entries, CacheFacts::now(CacheStatus::Miss))),
            (Err(error), Some(entries)) if error.allows_stale() && age < self.settings.load().stale_if_error => {
                let warning = Some(format!("listing is stale: {error}").into());
                Ok((entries.into(), CacheFacts { status: CacheStatus::Stale, age, warning }))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A list as upstream gives it by `fetched` or, to another replica, gave it a moment ago.
    async fn told(
        &self,
        lookup: &Lookup,
        object: &Object,
        fetched: impl Future<Output = Result<(Source, Vec<Value>), Error>>,
    ) -> Result<Listed, Error> {
        let (ttl, absent_for) = (self.settings.load().listing_ttl, self.settings.load().negative_ttl);
        let is_usable = |listed: &Listed, is_old: bool| {
            let is_fresh = || freshness::age(listed.at, clock::now()) < ttl;
            source_of(self.sources.readable(lookup), &listed.credential).is_some() && (!is_old || is_fresh())
        };
        let ask = async {
            let (source, entries) = fetched.await?;
            Ok(Listed { credential: source.credential, entries, at: clock::now() })
        };
        let asked: (&'static str, &Lookup, &(dyn Display + Sync)) = match object {
            Object::Referrers(subject) => ("referrers", lookup, subject),
            _ => ("tags", lookup, &""),
        };
        let mut listed = self.fleet.ask(asked, absent_for, is_usable, ask).await?;
        // The clock of another replica may be ahead.
        listed.at = listed.at.min(clock::now());
        Ok(listed)
    }

    /// Upstream answered that there is no such repository: an import of a list is believed no longer.
    async fn disbelieve(&self, source: &Source, kind: &str) {
        let listing = Listing { checked_at: SystemTime::UNIX_EPOCH, body: b"[]".to_vec(), imported: false };
        if let Err(error) = self.sources.store.cache.listings.put(source, kind, &listing).await {
            tracing::warn!(%error, kind, "an imported listing could not be taken back");
        }
    }

    /// The cached repositories that this client may see and `rules` do not refuse: `repository` at the default upstream,
    /// `upstream/repository` elsewhere.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn catalog(&self, client: &Client, rules: &RepositoryRules) -> Result<Vec<String>, Error> {
        let (store, runtime) = (self.sources.store.clone(), &self.runtime);
        let sources =
            runtime.spawn(async move { store.index.catalog().await }).await.map_err(|_| Error::Internal)??;
        let client = Arc::new(client.clone());
        let mut names: Vec<String> = sources
            .into_iter()
            .filter(|source| !rules.refuses(&source.upstream, &source.repository))
            .filter(|source| {
                let lookup = Lookup {
                    upstream: source.upstream.clone(),
                    repository: source.repository.clone(),
                    client: client.clone(),
                    cached_only: None,
                    cost: Cost::default(),
                };
                self.sources.readable(&lookup).any(|readable| readable.credential == source.credential)
            })
            .filter_map(|source| {
                let upstream = self.sources.upstream(&source.upstream).ok()?;
                Some(if upstream.settings().default {
                    source.repository.to_string()
                } else {
                    format!("{}/{}", source.upstream, source.repository)
                })
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}
