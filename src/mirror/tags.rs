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

use tokio::runtime::Handle;
use weir_storage::{Source, TagRecord};

use super::{
    answer::{CacheFacts, CacheStatus},
    error::Error,
    flight::{AGE_LIMIT, Flights},
    freshness::{self, Freshness},
    lookup::{Key, Lookup, Object},
    metrics::{FlightKind, Metrics},
    names::Names,
    settings::Settings,
    sources::Sources,
};
use crate::{
    oci::{Manifest, Name, Reference, Tag},
    upstream::{self, ledger::Reason},
};

/// What upstream said of a tag.
#[derive(Clone, Debug)]
pub(super) enum Resolution {
    /// It names this digest. `changed` says that another one was cached before, and that this is not recorded yet.
    Named { source: Source, record: TagRecord, changed: bool },
    /// Only a GET can tell.
    HeadRefused { source: Source, reason: Reason },
}

/// The tags of all mirrored repositories. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    settings: Arc<Settings>,
    sources: Sources,
    names: Names,
    /// What a HEAD found a moved tag to name while its bytes are not here: the older answer must stand until they are.
    pending: moka::sync::Cache<Key, (Source, TagRecord)>,
    resolutions: Flights<Key, Resolution>,
}

impl Tags {
    pub(super) fn new(
        settings: Arc<Settings>,
        sources: Sources,
        names: Names,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Tags {
        let pending = moka::sync::Cache::new(settings.negative_entries);
        Tags {
            settings,
            sources,
            names,
            pending,
            resolutions: Flights::new(FlightKind::tag, AGE_LIMIT, metrics, runtime),
        }
    }

    /// The cached tag, and whose answer it is.
    pub(super) fn get(&self, lookup: &Lookup, tag: &Tag) -> Result<Option<(Source, TagRecord)>, Error> {
        self.sources.find(lookup, |source| {
            Ok(self.sources.store.cache.tags.read(source, tag)?.map(|record| (source.clone(), record)))
        })
    }

    /// The digests a tag stands for now, for every credential: what it names and the children of that.
    pub(super) fn digests_of(&self, upstream: &str, repository: &Name, tag: &Tag) -> Vec<String> {
        let Ok(configured) = self.sources.upstream(upstream) else { return Vec::new() };
        let accounts = configured.settings().accounts.iter().map(|account| account.username.clone());
        let mut names = Vec::new();
        for credential in [Source::ANONYMOUS.into()].into_iter().chain(accounts) {
            let source = Source { upstream: upstream.into(), credential, repository: repository.clone() };
            let Ok(Some(record)) = self.sources.store.cache.tags.read(&source, tag) else { continue };
            let manifest = self.sources.store.cache.manifests.read(&record.digest).ok().flatten();
            let children = manifest.and_then(|manifest| manifest.describe().ok()).map(|described| described.children);
            names.extend(children.into_iter().flatten().map(|child| child.digest.to_string()));
            names.push(record.digest.to_string());
        }
        names
    }

    pub(super) fn freshness(&self, lookup: &Lookup, tag: &Tag, record: &TagRecord, now: SystemTime) -> Freshness {
        let settings = &self.settings;
        let ttl = freshness::tag_ttl(&settings.tags, settings.tag_ttl, &lookup.upstream, &lookup.repository, tag);
        freshness::judge(record.checked_at, ttl, settings.stale_while_revalidate, now)
    }

    /// Asks upstream what a tag names, with everybody else who asks at this moment.
    ///
    /// # Errors
    /// Upstream's, or unavailable after `revalidate_timeout` when a cached answer could stand in meanwhile.
    pub(super) async fn resolve(&self, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let key = Tags::key(lookup, tag);
        let (tags, owned, wanted) = (self.clone(), lookup.clone(), tag.clone());
        let flight = self.resolutions.join(key, |_| async move { tags.ask_upstream(&owned, &wanted).await });
        if self.get(lookup, tag)?.is_none() {
            return flight.await;
        }
        let late = || Error::UpstreamUnavailable {
            retry_after: None,
            message: format!("{} did not answer in time", lookup.upstream).into(),
        };
        tokio::time::timeout(self.settings.revalidate_timeout, flight).await.unwrap_or_else(|_| Err(late()))
    }

    async fn ask_upstream(&self, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let old = self.get(lookup, tag)?;
        let absent = Error::ManifestUnknown;
        let (source, head) = match self.sources.head_manifest(lookup, &Reference::Tag(tag.clone())).await {
            Ok(answer) => answer,
            Err(upstream::Error::HeadRefused) => {
                let source = old.map_or_else(|| lookup.public(), |(source, _)| source);
                return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused });
            }
            Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, absent)),
        };
        let Some(digest) = head.digest else {
            return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused });
        };
        self.names.learn(lookup, digest.clone(), tag.as_str().into());
        let now = SystemTime::now();
        if let Some((_, old)) = old.as_ref().filter(|(_, old)| old.digest == digest) {
            let record = TagRecord { checked_at: now, ..old.clone() };
            self.put(&source, tag, &record).await;
            return Ok(Resolution::Named { source, record, changed: false });
        }
        let record = match self.sources.manifest(lookup, &digest)? {
            Some(manifest) => Tags::record_of(&manifest),
            None => match (head.media_type, head.size) {
                (Some(media_type), Some(size)) => TagRecord { digest, media_type, size, checked_at: now },
                _ => return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused }),
            },
        };
        let changed = old.is_some();
        if !changed {
            self.put(&source, tag, &record).await;
        }
        Ok(Resolution::Named { source, record, changed })
    }

    /// What a HEAD lately found this tag to name, when that is newer than what is cached.
    pub(super) fn pending(&self, lookup: &Lookup, tag: &Tag, now: SystemTime) -> Option<(Source, TagRecord)> {
        let (source, record) = self.pending.get(&Tags::key(lookup, tag))?;
        (self.freshness(lookup, tag, &record, now) == Freshness::Fresh).then_some((source, record))
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
        let Some((source, record)) = self.get(lookup, tag)? else { return Ok(None) };
        let age = freshness::age(record.checked_at, now);
        let allowed = match error {
            Error::ManifestUnknown => age < self.settings.not_found_grace,
            error => error.allows_stale() && age < self.settings.stale_if_error,
        };
        // A tag that upstream deleted must not come back as a stale answer when upstream is next out of reach.
        if matches!(error, Error::ManifestUnknown)
            && !allowed
            && let Err(error) = self.sources.store.cache.tags.remove(&source, tag).await
        {
            tracing::warn!(%error, %tag, "a tag that is gone upstream could not be removed");
        }
        let seconds = Duration::from_secs(age.as_secs());
        Ok(allowed.then(|| {
            let warning =
                format!("answer is stale, last confirmed {} ago: {error}", humantime::format_duration(seconds));
            let facts = CacheFacts { status: CacheStatus::Stale, age, warning: Some(warning.into()) };
            (record, facts)
        }))
    }

    /// The cached answer for a client that may have nothing else. Nobody upstream is asked whether it is still right: who is held back for
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
            && self.sources.manifest(lookup, &record.digest)?.is_some()
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
        if let Err(error) = self.sources.store.cache.tags.put(source, tag, record).await {
            tracing::warn!(%error, %tag, "a tag could not be kept; upstream will be asked again");
        }
    }

    pub(super) fn record_of(manifest: &Manifest) -> TagRecord {
        TagRecord {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            checked_at: SystemTime::now(),
        }
    }
}
