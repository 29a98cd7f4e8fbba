//! A tag whose answer is no longer fresh: ask upstream by HEAD, then keep it, replace it, or let it stand in as stale.
//!
//! A failed HEAD never turns into a counted GET; only a registry that refuses HEAD as such (405, 501) is asked by GET,
//! since there a GET is the only way to learn anything. A tag that upstream moved is not recorded while what it names
//! is not here, be it a GET that finds out or a HEAD: an upstream that fails, or a budget that refuses the new bytes, must
//! leave the old answer standing. Until then what a HEAD found is kept beside it, in memory.

use std::{sync::Arc, time::SystemTime};

use weir_storage::TagRecord;

use super::{
    CacheFacts, CacheStatus, Error, Inner, Key, Lookup, ManifestHead, Object, Source,
    budgeted_fetch::{ShareScope, Waiters},
    freshness::{self, Freshness},
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

impl Inner {
    /// The cached tag, and whose answer it is.
    pub(super) fn tag(&self, lookup: &Lookup, tag: &Tag) -> Result<Option<(Source, TagRecord)>, Error> {
        self.of_sources(lookup, |source| Ok(self.store.tag(source, tag)?.map(|record| (source.clone(), record))))
    }

    /// The digests a tag stands for now, for every credential: what it names and the children of that.
    pub(super) fn named_by(&self, upstream: &str, repository: &Name, tag: &Tag) -> Vec<String> {
        let Some(configured) = self.upstreams.get(upstream) else { return Vec::new() };
        let accounts = configured.settings().accounts.iter().map(|account| account.username.clone());
        let mut names = Vec::new();
        for credential in [Source::ANONYMOUS.into()].into_iter().chain(accounts) {
            let source = Source { upstream: upstream.into(), credential, repository: repository.clone() };
            let Ok(Some(record)) = self.store.tag(&source, tag) else { continue };
            let manifest = self.store.manifest(&record.digest).ok().flatten();
            let children = manifest.and_then(|manifest| manifest.describe().ok()).map(|described| described.children);
            names.extend(children.into_iter().flatten().map(|child| child.digest.to_string()));
            names.push(record.digest.to_string());
        }
        names
    }

    pub(super) fn judge(&self, lookup: &Lookup, tag: &Tag, record: &TagRecord, now: SystemTime) -> Freshness {
        let settings = &self.settings;
        let ttl = freshness::tag_ttl(&settings.tags, settings.tag_ttl, &lookup.upstream, &lookup.repository, tag);
        freshness::judge(record.checked_at, ttl, settings.stale_while_revalidate, now)
    }

    /// Asks upstream what a tag names, with everybody else who asks at this moment.
    ///
    /// # Errors
    /// Upstream's, or unavailable after `revalidate_timeout` when a cached answer could stand in meanwhile.
    pub(super) async fn resolve(self: &Arc<Inner>, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let key = self.tag_key(lookup, tag);
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), tag.clone());
        let flight = self.resolutions.join(key, |_| async move { inner.ask_upstream(&owned, &wanted).await });
        let outcome = if self.tag(lookup, tag)?.is_some() {
            let late = Error::UpstreamUnavailable {
                retry_after: None,
                message: format!("{} did not answer in time", lookup.upstream).into(),
            };
            tokio::time::timeout(self.settings.revalidate_timeout, flight).await.unwrap_or(Ok(Err(late)))
        } else {
            flight.await
        };
        outcome.unwrap_or(Err(Error::Internal))
    }

    async fn ask_upstream(&self, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let old = self.tag(lookup, tag)?;
        let absent = Error::ManifestUnknown;
        let (source, head) = match self.head_upstream(lookup, &Reference::Tag(tag.clone())).await {
            Ok(answer) => answer,
            Err(upstream::Error::HeadRefused) => {
                let source = old.map_or_else(|| Inner::public(lookup), |(source, _)| source);
                return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused });
            }
            Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, absent)),
        };
        let Some(digest) = head.digest else {
            return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused });
        };
        let now = SystemTime::now();
        if let Some((_, old)) = old.as_ref().filter(|(_, old)| old.digest == digest) {
            let record = TagRecord { checked_at: now, ..old.clone() };
            self.remember_tag(&source, tag, &record).await;
            return Ok(Resolution::Named { source, record, changed: false });
        }
        let record = match self.held(lookup, &digest)? {
            Some(manifest) => Inner::record(&manifest),
            None => match (head.media_type, head.size) {
                (Some(media_type), Some(size)) => TagRecord { digest, media_type, size, checked_at: now },
                _ => return Ok(Resolution::HeadRefused { source, reason: Reason::HeadRefused }),
            },
        };
        let changed = old.is_some();
        if !changed {
            self.remember_tag(&source, tag, &record).await;
        }
        Ok(Resolution::Named { source, record, changed })
    }

    /// What a HEAD lately found this tag to name, when that is newer than what is cached.
    pub(super) fn pending_tag(&self, lookup: &Lookup, tag: &Tag, now: SystemTime) -> Option<(Source, TagRecord)> {
        let (source, record) = self.pending_tags.get(&self.tag_key(lookup, tag))?;
        (self.judge(lookup, tag, &record, now) == Freshness::Fresh).then_some((source, record))
    }

    fn tag_key(&self, lookup: &Lookup, tag: &Tag) -> Key {
        self.key(lookup, Object::ManifestHead(Reference::Tag(tag.clone())))
    }

    /// HEAD of a tag that is not fresh: free upstream, and nothing is fetched.
    pub(super) async fn head_tag(self: &Arc<Inner>, lookup: &Lookup, tag: &Tag) -> Result<ManifestHead, Error> {
        self.promote(lookup, tag).await?;
        // What a HEAD alone brought is answered without its bytes while it is fresh.
        let now = SystemTime::now();
        if lookup.cached_only.is_none()
            && let Some((_, record)) = self.pending_tag(lookup, tag, now)
        {
            let facts =
                CacheFacts { status: CacheStatus::Hit, age: freshness::age(record.checked_at, now), warning: None };
            return Ok(ManifestHead::of(record, facts));
        }
        let cached = self.tag(lookup, tag)?;
        if let Some((_, record)) = &cached
            && self.judge(lookup, tag, record, now) == Freshness::Fresh
        {
            let facts =
                CacheFacts { status: CacheStatus::Hit, age: freshness::age(record.checked_at, now), warning: None };
            return Ok(ManifestHead::of(record.clone(), facts));
        }
        if let Some((record, facts)) = self.stale_for_held(lookup, tag, now).await? {
            return Ok(ManifestHead::of(record, facts));
        }
        let error = match self.resolve(lookup, tag).await {
            Ok(Resolution::Named { source, record, changed }) => {
                let refusal = changed.then(|| self.cannot_fetch(lookup, &source, now)).flatten();
                if let Some(refusal) = refusal
                    && self.held(lookup, &record.digest)?.is_none()
                {
                    // Whoever asks HEAD goes on to GET what it names. Better the old image whole than the new one refused.
                    refusal
                } else {
                    if changed && self.held(lookup, &record.digest)?.is_some() {
                        self.remember_tag(&source, tag, &record).await;
                    } else if changed {
                        self.pending_tags.insert(self.tag_key(lookup, tag), (source, record.clone()));
                    }
                    let same = !changed && cached.is_some();
                    let status = if same { CacheStatus::Revalidated } else { CacheStatus::Miss };
                    return Ok(ManifestHead::of(record, CacheFacts::now(status)));
                }
            }
            Ok(Resolution::HeadRefused { .. }) => {
                return Ok(self.manifest(lookup, &Reference::Tag(tag.clone())).await?.head());
            }
            Err(error) => error,
        };
        match self.stale(lookup, tag, &error, now).await? {
            Some((record, facts)) => Ok(ManifestHead::of(record, facts)),
            None => Err(error),
        }
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
        let Some((source, record)) = self.tag(lookup, tag)? else { return Ok(None) };
        let age = freshness::age(record.checked_at, now);
        let allowed = match error {
            Error::ManifestUnknown => age < self.settings.not_found_grace,
            error => error.allows_stale() && age < self.settings.stale_if_error,
        };
        // A tag that upstream deleted must not come back as a stale answer when upstream is next out of reach.
        if matches!(error, Error::ManifestUnknown)
            && !allowed
            && let Err(error) = self.store.remove_tag(&source, tag).await
        {
            tracing::warn!(%error, %tag, "a tag that is gone upstream could not be removed");
        }
        let seconds = std::time::Duration::from_secs(age.as_secs());
        Ok(allowed.then(|| {
            let warning =
                format!("answer is stale, last confirmed {} ago: {error}", humantime::format_duration(seconds));
            let facts = CacheFacts { status: CacheStatus::Stale, age, warning: Some(warning.into()) };
            (record, facts)
        }))
    }

    /// The cached answer for a client that may have nothing else. Nobody upstream is asked whether it is still right: who is held back for
    /// asking too much would go on doing so, with a HEAD for each request of a tag that moved.
    pub(super) async fn stale_for_held(
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

    /// Revalidates while the old answer goes out.
    pub(super) fn revalidate_behind(self: &Arc<Inner>, lookup: &Lookup, tag: &Tag) {
        if lookup.cached_only.is_some() {
            return;
        }
        let (inner, lookup, tag) = (self.clone(), lookup.clone(), tag.clone());
        self.runtime.spawn(async move {
            let key = inner.key(&lookup, Object::Revalidation(tag.clone()));
            let (worker, owned) = (inner.clone(), lookup.clone());
            let work = |count| async move {
                let resolution = worker.resolve(&owned, &tag).await?;
                let waiters = Waiters { count, scope: ShareScope::All, has_stale: true };
                worker.fetch_named(&owned, &tag, resolution, &waiters).await
            };
            if let Ok(Err(error)) = inner.manifests.join((key, ShareScope::All), work).await {
                tracing::info!(%error, upstream = %lookup.upstream, repository = %lookup.repository, "revalidation failed");
            }
        });
    }

    /// Lets a tag name what a HEAD found, when a GET by digest has brought it.
    pub(super) async fn promote(&self, lookup: &Lookup, tag: &Tag) -> Result<(), Error> {
        if let Some((source, record)) = self.pending_tags.get(&self.tag_key(lookup, tag))
            && self.held(lookup, &record.digest)?.is_some()
        {
            self.record_pending_tag(lookup, &source, tag, &record).await;
        }
        Ok(())
    }

    /// The bytes of a moved tag are here: the tag names them from now on.
    pub(super) async fn record_pending_tag(&self, lookup: &Lookup, source: &Source, tag: &Tag, record: &TagRecord) {
        self.remember_tag(source, tag, record).await;
        self.pending_tags.invalidate(&self.tag_key(lookup, tag));
    }

    pub(super) async fn remember_tag(&self, source: &Source, tag: &Tag, record: &TagRecord) {
        if let Err(error) = self.store.put_tag(source, tag, record).await {
            tracing::warn!(%error, %tag, "a tag could not be kept; upstream will be asked again");
        }
    }

    pub(super) fn record(manifest: &Manifest) -> TagRecord {
        TagRecord {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            checked_at: SystemTime::now(),
        }
    }
}
