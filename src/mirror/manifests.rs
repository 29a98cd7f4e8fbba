//! Manifests by tag and by digest: from disk when that is fresh, else with as few counted requests as there can be.
//!
//! A tag is resolved by HEAD, which Docker Hub does not count, and what it names is fetched by digest, once, and only when
//! it is not here. So an unchanged tag costs nothing however often it is revalidated, and a changed tag that names
//! what another tag brought costs nothing either. See [`super::revalidate`] for the tag's half.

use std::{sync::Arc, time::SystemTime};

use super::{
    CacheFacts, CacheStatus, Error, Inner, Lookup, ManifestAnswer, ManifestHead, Object, Source,
    budgeted_fetch::Waiters,
    freshness::{self, Freshness},
    revalidate::Resolution,
};
use crate::{
    oci::{Digest, Manifest, Reference, Tag},
    upstream::{self, ledger::Reason},
};

impl Inner {
    /// The manifest from disk, if this client may have it.
    pub(super) fn held(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Manifest>, Error> {
        if self.is_member(lookup, digest)? { Ok(self.store.manifest(digest)?) } else { Ok(None) }
    }

    /// An answer that needs no await: a digest that is here, or a tag that is fresh.
    pub(super) fn warm_manifest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        reference: &Reference,
        now: SystemTime,
    ) -> Result<Option<ManifestAnswer>, Error> {
        let (digest, checked_at) = match reference {
            Reference::Digest(digest) => (digest.clone(), now),
            Reference::Tag(tag) => {
                let Some((_, record)) = self.tag(lookup, tag)? else { return Ok(None) };
                match self.judge(lookup, tag, &record, now) {
                    Freshness::Fresh => {}
                    Freshness::Stale if self.held(lookup, &record.digest)?.is_some() => {
                        self.revalidate_behind(lookup, tag)
                    }
                    Freshness::Stale | Freshness::Expired => return Ok(None),
                }
                (record.digest, record.checked_at)
            }
        };
        Ok(self.held(lookup, &digest)?.map(|manifest| {
            let facts = CacheFacts { status: CacheStatus::Hit, age: freshness::age(checked_at, now), warning: None };
            ManifestAnswer { manifest, facts }
        }))
    }

    pub(super) async fn manifest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        reference: &Reference,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.warm_manifest(lookup, reference, SystemTime::now())? {
            return Ok(answer);
        }
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(lookup, digest, Reason::Cold).await,
            Reference::Tag(tag) => self.manifest_by_tag(lookup, tag).await,
        }
    }

    pub(super) async fn manifest_by_digest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
    ) -> Result<ManifestAnswer, Error> {
        self.by_digest(lookup, digest, reason, false).await
    }

    async fn by_digest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
        has_stale: bool,
    ) -> Result<ManifestAnswer, Error> {
        let key = self.key(lookup, Object::Manifest(Reference::Digest(digest.clone())));
        self.known_absent(&key)?;
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let work = move |waiters| {
            let (inner, owned, wanted) = (inner.clone(), owned.clone(), wanted.clone());
            async move { inner.fetch_digest(&owned, &wanted, reason, &Waiters { has_stale, ..waiters }).await }
        };
        let answer = self.coalesce(&key, lookup, work).await;
        self.learn(&key, answer)
    }

    /// The flight's work for a digest: looks again, lets upstream vouch for bytes that are here, or fetches them.
    async fn fetch_digest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.held(lookup, digest)? {
            return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
        }
        if let Some(denied) = &lookup.cached_only {
            return Err(Error::Throttled(denied.clone()));
        }
        let here = self.store.manifest(digest)?;
        let reference = Reference::Digest(digest.clone());
        let has_accounts = !self.upstream(lookup)?.settings().accounts.is_empty();
        let mut source = Inner::public(lookup);
        // Bytes that another repository brought need this one's word, and a HEAD is free. With accounts, a HEAD tells
        // first who may read this, since the account with the most left pays for what anonymous may read.
        if here.is_some() || has_accounts {
            match self.head_upstream(lookup, &reference).await {
                Ok((vouching, head)) => {
                    if head.digest.is_some_and(|found| found != *digest && found.algorithm() == digest.algorithm()) {
                        let message = "upstream answered a digest with another one".into();
                        return Err(Error::UpstreamMalformed { message });
                    }
                    source = vouching;
                    if let Some(manifest) = here {
                        self.add_member(&source, digest).await;
                        return Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) });
                    }
                }
                Err(upstream::Error::HeadRefused) => {}
                Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
            }
        }
        let manifest = self.fetch(lookup, &source, &reference, reason, waiters).await?;
        self.keep(&source, &manifest).await;
        Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
    }

    /// Keeps what was fetched. A disk that is full or fails costs the cache an entry and the client nothing.
    pub(super) async fn keep(&self, source: &Source, manifest: &Manifest) {
        match self.store.put_manifest(manifest).await {
            Ok(()) => self.add_member(source, &manifest.digest).await,
            Err(error) => tracing::warn!(%error, digest = %manifest.digest, "a manifest could not be kept"),
        }
    }

    async fn manifest_by_tag(self: &Arc<Inner>, lookup: &Lookup, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let key = self.key(lookup, Object::Manifest(Reference::Tag(tag.clone())));
        self.known_absent(&key)?;
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), tag.clone());
        let work = move |waiters| {
            let (inner, owned, wanted) = (inner.clone(), owned.clone(), wanted.clone());
            async move { inner.fetch_tag(&owned, &wanted, waiters).await }
        };
        let answer = self.coalesce(&key, lookup, work).await;
        self.learn(&key, answer)
    }

    /// The flight's work for a tag: resolve it, get what it names, and fall back to what is cached when that fails.
    pub(super) async fn fetch_tag(
        self: &Arc<Inner>,
        lookup: &Lookup,
        tag: &Tag,
        mut waiters: Waiters,
    ) -> Result<ManifestAnswer, Error> {
        self.promote(lookup, tag).await?;
        if let Some(answer) = self.warm_manifest(lookup, &Reference::Tag(tag.clone()), SystemTime::now())? {
            return Ok(answer);
        }
        if let Some((record, facts)) = self.stale_for_held(lookup, tag, SystemTime::now()).await?
            && let Some(manifest) = self.held(lookup, &record.digest)?
        {
            return Ok(ManifestAnswer { manifest, facts });
        }
        waiters.has_stale = self.has_stale(lookup, tag)?;
        let answer = match self.current(lookup, tag).await {
            Ok(resolution) => match self.fetch_named(lookup, tag, resolution, &waiters).await {
                // Somebody moved the tag between the HEAD and the GET: the digest is gone, the tag is not.
                Err(Error::ManifestUnknown) => match self.resolve(lookup, tag).await {
                    Ok(resolution) => self.fetch_named(lookup, tag, resolution, &waiters).await,
                    Err(error) => Err(error),
                },
                answer => answer,
            },
            Err(error) => Err(error),
        };
        match answer {
            Err(error) => match self.stale(lookup, tag, &error, SystemTime::now()).await? {
                Some((record, facts)) => match self.held(lookup, &record.digest)? {
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
        let Some((_, record)) = self.tag(lookup, tag)? else { return Ok(false) };
        let age = freshness::age(record.checked_at, SystemTime::now());
        Ok(age < self.settings.stale_if_error && self.held(lookup, &record.digest)?.is_some())
    }

    /// Whether this is here, fresh or not: what goes on for a client whose misses are held back.
    pub(super) fn is_cached(&self, lookup: &Lookup, reference: &Reference) -> Result<bool, Error> {
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match self.tag(lookup, tag)? {
                Some((_, record)) => record.digest,
                None => return Ok(false),
            },
        };
        Ok(self.held(lookup, &digest)?.is_some())
    }

    /// What the tag names: as a HEAD found it while that is fresh, else by asking upstream.
    async fn current(self: &Arc<Inner>, lookup: &Lookup, tag: &Tag) -> Result<Resolution, Error> {
        let now = SystemTime::now();
        if let Some((source, record)) = self.pending_tag(lookup, tag, now) {
            return Ok(Resolution::Named { source, record, changed: true });
        }
        match self.tag(lookup, tag)? {
            Some((source, record)) if self.judge(lookup, tag, &record, now) == Freshness::Fresh => {
                Ok(Resolution::Named { source, record, changed: false })
            }
            _ => self.resolve(lookup, tag).await,
        }
    }

    /// Gets what a tag was found to name, and records the tag.
    pub(super) async fn fetch_named(
        self: &Arc<Inner>,
        lookup: &Lookup,
        tag: &Tag,
        resolution: Resolution,
        waiters: &Waiters,
    ) -> Result<ManifestAnswer, Error> {
        match resolution {
            Resolution::Named { source, record, changed } => {
                let reason = if changed { Reason::Changed } else { Reason::Cold };
                let held = self.held(lookup, &record.digest)?;
                let mut answer = match held {
                    Some(manifest) => ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Revalidated) },
                    None => self.by_digest(lookup, &record.digest, reason, waiters.has_stale).await?,
                };
                if !changed && answer.facts.status == CacheStatus::Hit {
                    answer.facts.status = CacheStatus::Revalidated;
                }
                // Only now that its bytes are here: had the budget refused them, the old answer would still stand.
                if changed {
                    self.record_pending_tag(lookup, &source, tag, &record).await;
                }
                Ok(answer)
            }
            Resolution::HeadRefused { source, reason } => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self.fetch(lookup, &source, &reference, reason, waiters).await?;
                self.keep(&source, &manifest).await;
                self.remember_tag(&source, tag, &Inner::record(&manifest)).await;
                Ok(ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Miss) })
            }
        }
    }

    pub(super) async fn head_manifest(
        self: &Arc<Inner>,
        lookup: &Lookup,
        reference: &Reference,
    ) -> Result<ManifestHead, Error> {
        if let Some(answer) = self.warm_manifest(lookup, reference, SystemTime::now())? {
            return Ok(answer.head());
        }
        let key = self.key(lookup, Object::Manifest(reference.clone()));
        self.known_absent(&key)?;
        let head = match reference {
            Reference::Tag(tag) => self.head_tag(lookup, tag).await,
            Reference::Digest(digest) => self.head_digest(lookup, digest).await,
        };
        self.learn(&key, head)
    }

    async fn head_digest(self: &Arc<Inner>, lookup: &Lookup, digest: &Digest) -> Result<ManifestHead, Error> {
        let reference = Reference::Digest(digest.clone());
        let key = self.key(lookup, Object::ManifestHead(reference.clone()));
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), digest.clone());
        let work = |_| async move {
            match inner.head_upstream(&owned, &reference).await {
                Ok((source, head)) => {
                    inner.add_member(&source, &wanted).await;
                    if let Some(manifest) = inner.store.manifest(&wanted)? {
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
        match self.heads.join(key, work).await.unwrap_or(Err(Error::Internal))? {
            Some(head) => Ok(head),
            // This registry answers HEAD not at all or without what ours must say: only the GET knows.
            None => Ok(self.manifest_by_digest(lookup, digest, Reason::HeadRefused).await?.head()),
        }
    }
}
