//! What tags name: as stored while that is fresh, else as upstream says by HEAD, else as stored and stale.
//!
//! A failed HEAD never turns into a counted GET; only a registry that refuses HEAD as such (405, 501) is asked by GET,
//! since there a GET is the only way to learn anything. A tag that moved upstream is not recorded while the manifest it names
//! is not here, be it a GET that finds out or a HEAD: an upstream that fails, or a budget that refuses the new bytes, must
//! leave the old answer standing. Until then the result of the HEAD is kept beside it, in memory, as a pending tag.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use weir_storage::{ImportMark, Source, TagRecord};

use super::{
    error::Error,
    fleet_answers::{FleetAnswers, source_of},
    flight::{AGE_LIMIT, Flights},
    freshness::{self, Freshness},
    handles::Handles,
    lookup::{Key, Lookup, Object},
    manifest_history::ManifestHistory,
    names::Names,
    negative::NegativeCache,
    outcome::FlightKind,
    settings::SharedSettings,
    sources::{Sources, known},
};
use crate::{
    answer::{CacheFacts, CacheStatus},
    clock,
    oci::{Digest, Manifest, MediaType, Name, Reference, Tag},
    upstream,
};

/// What upstream said of a tag.
#[derive(Clone, Debug)]
pub(super) enum Resolution {
    /// It names this digest. `changed` says that another one was cached before, and that this is not recorded yet.
    Named { source: Source, record: TagRecord, changed: bool },
    /// Only a GET can tell; who may read it, too, when the source is `None`.
    HeadRefused { source: Option<Source> },
}

/// What upstream answered to the HEAD of a tag, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Headed {
    /// With whose credential it was had; `None` when HEAD is refused as such.
    credential: Option<Arc<str>>,
    digest: Option<Digest>,
    media_type: Option<MediaType>,
    size: Option<u64>,
    at: SystemTime,
}

/// The tags of all mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    settings: SharedSettings,
    sources: Sources,
    names: Names,
    negative: Arc<NegativeCache>,
    /// What a HEAD found a moved tag to name while its bytes are not here: the older answer must stand until they are.
    pending: moka::sync::Cache<Key, (Source, TagRecord)>,
    history: ManifestHistory,
    resolutions: Flights<Key, Resolution>,
    fleet: FleetAnswers,
}

impl Tags {
    pub(super) fn new(handles: &Handles, names: Names, history: ManifestHistory) -> Tags {
        let Handles { settings, sources, negative, metrics, runtime, .. } = handles;
        Tags {
            settings: settings.clone(),
            sources: sources.clone(),
            names,
            negative: negative.clone(),
            history,
            pending: moka::sync::Cache::new(settings.load().negative_entries),
            resolutions: Flights::new(FlightKind::tag, metrics.clone(), runtime.clone()),
            fleet: FleetAnswers::new(handles),
        }
    }

    /// The tag as it is in memory, and whose answer it is. No system call.
    pub(super) fn now(&self, lookup: &Lookup, tag: &Tag) -> Option<(Source, TagRecord)> {
        let store = &self.sources.store;
        self.sources.readable(lookup).find_map(|source| Some((source.clone(), store.cache.tags.now(&source, tag)?)))
    }

    /// The cached tag, and whose answer it is.
    pub(super) async fn load(&self, lookup: &Lookup, tag: &Tag) -> Result<Option<(Source, TagRecord)>, Error> {
        for source in self.sources.readable(lookup) {
            if let Some(record) = self.sources.store.cache.tags.load(&source, tag).await? {
                return Ok(Some((source, record)));
            }
        }
        Ok(None)
    }

    /// The digests a tag stands for now, for every credential: what it names and the children of that.
    pub(super) async fn digests_of(&self, upstream: &str, repository: &Name, tag: &Tag) -> Vec<String> {
        let Ok(configured) = self.sources.upstream(upstream) else { return Vec::new() };
        let accounts = configured.settings().accounts.iter().map(|account| account.username.clone());
        let mut names = Vec::new();
        for credential in [Source::ANONYMOUS.into()].into_iter().chain(accounts) {
            let source = Source { upstream: upstream.into(), credential, repository: repository.clone() };
            let Ok(Some(record)) = self.sources.store.cache.tags.load(&source, tag).await else { continue };
            let manifest = self.sources.store.cache.manifests.load(&record.digest).await.ok().flatten();
            let children = manifest.and_then(|manifest| manifest.describe().ok()).map(|described| described.children);
            names.extend(children.into_iter().flatten().map(|child| child.digest.to_string()));
            names.push(record.digest.to_string());
        }
        names
    }

    /// What was imported is answered at once, however old it is, and upstream is asked meanwhile: a site without a network waits for
    /// no connection, and where upstream answers, its word is the next answer.
    pub(super) fn freshness(
        &self,
        lookup: &Lookup,
        source: &Source,
        tag: &Tag,
        record: &TagRecord,
        now: SystemTime,
    ) -> Freshness {
        if self.imported(source, tag).is_some() {
            return Freshness::Stale;
        }
        self.age_of(lookup, tag, record.checked_at, now)
    }

    /// The freshness of what upstream said.
    fn age_of(&self, lookup: &Lookup, tag: &Tag, checked_at: SystemTime, now: SystemTime) -> Freshness {
        let ttl = self.settings.load().ttl_of(&lookup.upstream, &lookup.repository, tag);
        freshness::judge(checked_at, ttl, self.settings.load().stale_while_revalidate, now)
    }

    /// Whether what upstream said of a tag at this time need not be asked again.
    pub(super) fn is_fresh(&self, lookup: &Lookup, tag: &Tag, at: SystemTime) -> bool {
        self.age_of(lookup, tag, at, clock::now()) == Freshness::Fresh
    }

    /// How the tag was imported, when upstream has not confirmed it since. No system call.
    pub(super) fn imported(&self, source: &Source, tag: &Tag) -> Option<ImportMark> {
        let imports = &self.sources.store.cache.imports;
        if imports.is_empty() {
            return None;
        }
        imports.get(source, &Reference::Tag(tag.clone()))
    }

    /// Upstream answered that it has no such tag, or shows it to no client like this one: an import of it is believed no longer.
    pub(super) async fn denied(&self, lookup: &Lookup, tag: &Tag, error: &Error) {
        if error.is_absence()
            && let Ok(Some((source, _))) = self.load(lookup, tag).await
            && self.imported(&source, tag).is_some()
        {
            self.sources.store.cache.imports.confirm(&source, &Reference::Tag(tag.clone())).await;
            // Removes it when it is gone. A refusal leaves it to expire, and no stale answer follows a refusal.
            if let Err(error) = self.stale(lookup, tag, error, clock::now()).await {
                tracing::warn!(%error, %tag, "an imported tag could not be looked at");
            }
        }
    }

    /// Asks upstream what a tag names, once for all that ask at this moment.
    ///
    /// # Errors
    /// Upstream's, or unavailable after `revalidate_timeout` when a cached answer could stand in meanwhile.
    pub(super) async fn resolve(&self, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        self.resolve_by(lookup, tag, true).await
    }

    /// As [`Tags::resolve`], when what another replica was told lately is no answer.
    pub(super) async fn resolve_upstream(&self, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        self.resolve_by(lookup, tag, self.sources.tier.is_none()).await
    }

    async fn resolve_by(&self, lookup: &Lookup, tag: &Tag, may_adopt: bool) -> Result<Resolution, Error> {
        let absent = Tags::key(lookup, tag);
        let key = if may_adopt { absent.clone() } else { lookup.key(Object::Revalidation(tag.clone())) };
        let (tags, owned, wanted) = (self.clone(), lookup.clone(), tag.clone());
        let work = |_| async move {
            if may_adopt {
                match tags.adopt(&owned, &wanted).await {
                    Ok(Some(resolution)) => return Ok(resolution),
                    Ok(None) => {}
                    // A disk that takes nothing costs the cache an entry, and the client nothing.
                    Err(error) => tracing::warn!(%error, tag = %wanted, "a tag of the bucket could not be kept"),
                }
            }
            match tags.load(&owned, &wanted).await? {
                None => tags.negative.run(&absent, tags.ask_upstream(&owned, &wanted, None, may_adopt)).await,
                // A cached tag may stand in for a while after it vanished, so its absence is learned by the lookup that decides so.
                old => tags.ask_upstream(&owned, &wanted, old, may_adopt).await,
            }
        };
        let flight = self.resolutions.join(key, AGE_LIMIT, work);
        if self.load(lookup, tag).await?.is_none() {
            return flight.await;
        }
        let late = || Error::UpstreamUnavailable {
            retry_after: None,
            message: format!("{} did not answer in time", lookup.upstream).into(),
        };
        tokio::time::timeout(self.settings.load().revalidate_timeout, flight).await.unwrap_or_else(|_| Err(late()))
    }

    /// Brings here what another replica was told of a tag, when that is newer and what it names can be had. Gives it while it is fresh.
    async fn adopt(&self, lookup: &Lookup, tag: &Tag) -> Result<Option<Resolution>, Error> {
        let Some(tier) = &self.sources.tier else { return Ok(None) };
        for source in self.sources.readable(lookup) {
            let Some(found) = tier.tag(&source, tag).await else { continue };
            let cache = &self.sources.store.cache;
            let old = cache.tags.load(&source, tag).await?;
            if old.as_ref().is_some_and(|old| old.checked_at >= found.at) {
                continue;
            }
            let Some(record) = found.record else {
                // Gone upstream: an older answer must not stand in for it later.
                cache.tags.remove(&source, tag).await?;
                continue;
            };
            self.sources.adopt_manifest(lookup, &record.digest).await?;
            if self.sources.manifest(lookup, &record.digest).await?.is_none() {
                continue;
            }
            cache.tags.put(&source, tag, &record).await?;
            if let Some(old) = old.filter(|old| old.digest != record.digest) {
                self.history.tag_moved(&source, tag, &old.digest);
            }
            cache.imports.confirm(&source, &Reference::Tag(tag.clone())).await;
            let is_fresh = self.age_of(lookup, tag, record.checked_at, clock::now()) == Freshness::Fresh;
            return Ok(is_fresh.then_some(Resolution::Named { source, record, changed: false }));
        }
        Ok(None)
    }

    /// What upstream says of a tag, to this replica or to another one at this moment; `may_adopt`: or to another one lately.
    async fn ask_upstream(
        &self,
        lookup: &Lookup,
        tag: &Tag,
        old: Option<(Source, TagRecord)>,
        may_adopt: bool,
    ) -> Result<Resolution, Error> {
        let is_usable = |headed: &Headed, is_old: bool| {
            let is_fresh = || self.is_fresh(lookup, tag, headed.at);
            let may_have = |credential: &Arc<str>| source_of(self.sources.readable(lookup), credential).is_some();
            headed.credential.as_ref().is_none_or(may_have) && (!is_old || may_adopt && is_fresh())
        };
        let absent_for = if may_adopt { self.settings.load().negative_ttl } else { Duration::ZERO };
        let headed =
            self.fleet.ask(("tag", lookup, tag), absent_for, is_usable, Box::pin(self.head(lookup, tag))).await?;
        let Some(credential) = headed.credential else { return Ok(Resolution::HeadRefused { source: None }) };
        let source = Source { credential, ..lookup.public() };
        let Some(digest) = headed.digest else { return Ok(Resolution::HeadRefused { source: known(source) }) };
        self.names.learn(lookup, digest.clone(), tag.as_str().into());
        // The clock of another replica may be ahead.
        let now = headed.at.min(clock::now());
        if let Some((_, old)) = old.as_ref().filter(|(_, old)| old.digest == digest) {
            let record = TagRecord { checked_at: now, ..old.clone() };
            self.put(&source, tag, &record).await;
            return Ok(Resolution::Named { source, record, changed: false });
        }
        let record = match self.sources.manifest(lookup, &digest).await? {
            Some(manifest) => TagRecord { checked_at: now, ..Tags::record_of(&manifest) },
            None => match (headed.media_type, headed.size) {
                (Some(media_type), Some(size)) => TagRecord { digest, media_type, size, checked_at: now },
                _ => return Ok(Resolution::HeadRefused { source: Some(source) }),
            },
        };
        let changed = old.is_some();
        if !changed {
            self.put(&source, tag, &record).await;
        }
        Ok(Resolution::Named { source, record, changed })
    }

    /// The HEAD itself.
    async fn head(&self, lookup: &Lookup, tag: &Tag) -> Result<Headed, Error> {
        match self.sources.head_manifest(lookup, &Reference::Tag(tag.clone())).await {
            Ok((source, upstream::Head { digest, media_type, size })) => {
                Ok(Headed { credential: Some(source.credential), digest, media_type, size, at: clock::now() })
            }
            Err(upstream::Error::HeadRefused) => {
                Ok(Headed { credential: None, digest: None, media_type: None, size: None, at: clock::now() })
            }
            Err(error) => Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
        }
    }

    /// What a HEAD lately found this tag to name, when that is newer than what is cached.
    pub(super) fn pending(&self, lookup: &Lookup, tag: &Tag, now: SystemTime) -> Option<(Source, TagRecord)> {
        let (source, record) = self.pending.get(&Tags::key(lookup, tag))?;
        (self.age_of(lookup, tag, record.checked_at, now) == Freshness::Fresh).then_some((source, record))
    }

    /// Keeps what a HEAD found a tag to name, beside the older answer.
    pub(super) fn set_pending(&self, lookup: &Lookup, tag: &Tag, source: Source, record: TagRecord) {
        self.pending.insert(Tags::key(lookup, tag), (source, record));
    }

    /// Forgets what HEADs found, as a purge by an operator asks; each tag costs one more HEAD, which is free.
    pub(super) fn forget_pending(&self) {
        self.pending.invalidate_all();
    }

    fn key(lookup: &Lookup, tag: &Tag) -> Key {
        lookup.key(Object::Manifest(Reference::Tag(tag.clone())))
    }

    /// The cached answer that stands in for this failure, with the words that say so, if one may.
    ///
    /// A refusal never brings out a stale answer: what upstream no longer shows to this credential, neither do we.
    pub(super) async fn stale(
        &self,
        lookup: &Lookup,
        tag: &Tag,
        error: &Error,
        now: SystemTime,
    ) -> Result<Option<(TagRecord, CacheFacts)>, Error> {
        let Some((source, record)) = self.load(lookup, tag).await? else { return Ok(None) };
        let age = freshness::age(record.checked_at, now);
        let allowed = match error {
            Error::ManifestUnknown => age < self.settings.load().not_found_grace,
            error => error.allows_stale() && age < self.settings.load().stale_if_error,
        };
        // A tag that upstream deleted must not come back as a stale answer when upstream is next out of reach.
        if matches!(error, Error::ManifestUnknown) && !allowed {
            if let Err(error) = self.sources.store.cache.tags.remove(&source, tag).await {
                tracing::warn!(%error, %tag, "a tag that is gone upstream could not be removed");
            }
            if let Some(tier) = &self.sources.tier {
                tier.remove_tag(&source, tag, now);
            }
        }
        let seconds = Duration::from_secs(age.as_secs());
        Ok(allowed.then(|| {
            let warning =
                format!("answer is stale, last confirmed {} ago: {error}", humantime::format_duration(seconds));
            let facts = CacheFacts { status: CacheStatus::Stale, age, warning: Some(warning.into()) };
            (record, facts)
        }))
    }

    /// The cached answer for a client that may have nothing else. Upstream is not asked whether it is still right: who is held back for
    /// asking too much would go on doing so, with a HEAD for each request of a tag that moved.
    pub(super) async fn stale_for_cached_only(
        &self,
        lookup: &Lookup,
        tag: &Tag,
        now: SystemTime,
    ) -> Result<Option<(TagRecord, CacheFacts)>, Error> {
        match &lookup.cached_only {
            Some(denied) => self.stale(lookup, tag, &Error::Throttled(denied.clone()), now).await,
            None => Ok(None),
        }
    }

    /// Lets a tag name what a HEAD found, when a GET by digest has brought it.
    pub(super) async fn promote(&self, lookup: &Lookup, tag: &Tag) -> Result<(), Error> {
        if let Some((source, record)) = self.pending.get(&Tags::key(lookup, tag))
            && self.sources.manifest(lookup, &record.digest).await?.is_some()
        {
            self.put_pending(lookup, &source, tag, &record).await;
        }
        Ok(())
    }

    /// The bytes of a moved tag are here: the tag names them from now on.
    pub(super) async fn put_pending(&self, lookup: &Lookup, source: &Source, tag: &Tag, record: &TagRecord) {
        self.put(source, tag, record).await;
        self.pending.invalidate(&Tags::key(lookup, tag));
    }

    pub(super) async fn put(&self, source: &Source, tag: &Tag, record: &TagRecord) {
        let tags = &self.sources.store.cache.tags;
        let old = tags.load(source, tag).await.ok().flatten();
        if let Err(error) = tags.put(source, tag, record).await {
            tracing::warn!(%error, %tag, "a tag could not be kept; upstream will be asked again");
            return;
        }
        if let Some(old) = old.filter(|old| old.digest != record.digest) {
            self.history.tag_moved(source, tag, &old.digest);
        }
        if let Some(tier) = &self.sources.tier {
            tier.keep_tag(source, tag, record);
        }
        self.sources.store.cache.imports.confirm(source, &Reference::Tag(tag.clone())).await;
    }

    pub(super) fn record_of(manifest: &Manifest) -> TagRecord {
        TagRecord {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            checked_at: clock::now(),
        }
    }
}
