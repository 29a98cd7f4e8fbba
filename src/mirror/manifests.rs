//! Manifests by tag and by digest: from disk when that is fresh, else with as few counted requests as there can be.
//!
//! A tag is resolved by HEAD, which Docker Hub does not count, and what it names is fetched by digest, once, and only when
//! it is not here. So an unchanged tag costs nothing however often it is revalidated, and a changed tag that names
//! what another tag brought costs nothing either. See [`super::revalidate`] for the tag's half.

use std::{
    sync::{Arc, PoisonError, atomic::AtomicU32},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Ask, Error, Facts, Inner, ManifestAnswer, ManifestHead, Object, Source, Status,
    freshness::{self, Freshness},
    revalidate::Resolution,
};
use crate::{
    limits::budget,
    oci::{Digest, Manifest, Reference, Tag},
    upstream::{
        self, Identity, Upstream,
        ledger::{Left, Purpose, Reason},
    },
};

/// How often an identity that seems to have nothing left is looked at again, by a HEAD, when a pull is wanted.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Inner {
    /// The manifest from disk, if this client may have it.
    pub(super) fn held(&self, ask: &Ask, digest: &Digest) -> Result<Option<Manifest>, Error> {
        if self.vouched(ask, digest)? { Ok(self.store.manifest(digest)?) } else { Ok(None) }
    }

    /// An answer that needs no await: a digest that is here, or a tag that is fresh.
    pub(super) fn warm_manifest(
        self: &Arc<Inner>,
        ask: &Ask,
        reference: &Reference,
        now: SystemTime,
    ) -> Result<Option<ManifestAnswer>, Error> {
        let (digest, checked_at) = match reference {
            Reference::Digest(digest) => (digest.clone(), now),
            Reference::Tag(tag) => {
                let Some((_, record)) = self.tag(ask, tag)? else { return Ok(None) };
                match self.judge(ask, tag, &record, now) {
                    Freshness::Fresh => {}
                    Freshness::Stale if self.held(ask, &record.digest)?.is_some() => self.revalidate_behind(ask, tag),
                    Freshness::Stale | Freshness::Expired => return Ok(None),
                }
                (record.digest, record.checked_at)
            }
        };
        Ok(self.held(ask, &digest)?.map(|manifest| {
            let facts = Facts { status: Status::Hit, age: freshness::age(checked_at, now), warning: None };
            ManifestAnswer { manifest, facts }
        }))
    }

    pub(super) async fn manifest(self: &Arc<Inner>, ask: &Ask, reference: &Reference) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.warm_manifest(ask, reference, SystemTime::now())? {
            return Ok(answer);
        }
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(ask, digest, Reason::Cold).await,
            Reference::Tag(tag) => self.manifest_by_tag(ask, tag).await,
        }
    }

    pub(super) async fn manifest_by_digest(
        self: &Arc<Inner>,
        ask: &Ask,
        digest: &Digest,
        reason: Reason,
    ) -> Result<ManifestAnswer, Error> {
        let key = self.key(ask, Object::Manifest(Reference::Digest(digest.clone())));
        self.known_absent(&key)?;
        let (inner, asked, wanted) = (self.clone(), ask.clone(), digest.clone());
        let work = |waiters| async move { inner.fetch_digest(&asked, &wanted, reason, waiters).await };
        let answer = self.manifests.join(key.clone(), work).await.unwrap_or(Err(Error::Internal));
        self.learn(&key, answer)
    }

    /// The flight's work for a digest: looks again, lets upstream vouch for bytes that are here, or fetches them.
    async fn fetch_digest(
        self: &Arc<Inner>,
        ask: &Ask,
        digest: &Digest,
        reason: Reason,
        waiters: Arc<AtomicU32>,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(manifest) = self.held(ask, digest)? {
            return Ok(ManifestAnswer { manifest, facts: Facts::now(Status::Hit) });
        }
        let here = self.store.manifest(digest)?;
        let reference = Reference::Digest(digest.clone());
        let has_accounts = !self.upstream(ask)?.settings().accounts.is_empty();
        let mut source = Inner::public(ask);
        // Bytes that another repository brought need this one's word, and a HEAD is free. With accounts, a HEAD tells
        // first who may read this, since the account with the most left pays for what anonymous may read.
        if here.is_some() || has_accounts {
            match self.head_upstream(ask, &reference).await {
                Ok((vouching, head)) => {
                    if head.digest.is_some_and(|found| found != *digest && found.algorithm() == digest.algorithm()) {
                        let message = "upstream answered a digest with another one".into();
                        return Err(Error::UpstreamMalformed { message });
                    }
                    source = vouching;
                    if let Some(manifest) = here {
                        self.vouch(&source, digest).await;
                        return Ok(ManifestAnswer { manifest, facts: Facts::now(Status::Hit) });
                    }
                }
                Err(upstream::Error::HeadRefused) => {}
                Err(error) => return Err(Error::from_upstream(&ask.upstream, error, Error::ManifestUnknown)),
            }
        }
        let manifest = self.fetch(ask, &source, &reference, reason, waiters).await?;
        self.keep(&source, &manifest).await;
        Ok(ManifestAnswer { manifest, facts: Facts::now(Status::Miss) })
    }

    /// Keeps what was fetched. A disk that is full or fails costs the cache an entry and the client nothing.
    pub(super) async fn keep(&self, source: &Source, manifest: &Manifest) {
        match self.store.put_manifest(manifest).await {
            Ok(()) => self.vouch(source, &manifest.digest).await,
            Err(error) => tracing::warn!(%error, digest = %manifest.digest, "a manifest could not be kept"),
        }
    }

    /// The counted GET. What anonymous may read is paid by the identity with the most left, the rest by its account.
    pub(super) async fn fetch(
        &self,
        ask: &Ask,
        source: &Source,
        reference: &Reference,
        reason: Reason,
        waiters: Arc<AtomicU32>,
    ) -> Result<Manifest, Error> {
        let upstream = self.upstream(ask)?;
        let now = SystemTime::now();
        let mut payers: Vec<(Identity, Left)> = upstream
            .identities()
            .into_iter()
            .filter(|identity| {
                &*source.credential == Source::ANONYMOUS || identity.account.as_ref() == Some(&source.credential)
            })
            .map(|identity| (identity.clone(), self.ledger.left(&identity, now)))
            .collect();
        payers.sort_by_key(|(identity, left)| {
            std::cmp::Reverse((left.remaining.unwrap_or(i64::MAX), identity.account.is_some()))
        });
        let mut refusal = None;
        for (identity, mut left) in payers {
            if left.remaining.is_some_and(|remaining| remaining <= 0) {
                left = self.look_again(upstream, &identity, ask, reference, left).await;
            }
            let asker = budget::Asker::alone(ask.client.class);
            if let Err((_, retry_after)) = self.settings.budget.decide(&left, &asker, now) {
                refusal.get_or_insert(spent(&left, retry_after));
                continue;
            }
            let purpose = Purpose {
                repository: ask.repository.clone(),
                reference: reference.clone(),
                client: ask.client.key.to_string().into(),
                class: ask.client.class,
                reason,
                waiters: waiters.clone(),
            };
            let reservation = match self.ledger.reserve(&identity, purpose).await {
                Ok(reservation) => reservation,
                Err(exhausted) => {
                    refusal.get_or_insert(spent(&exhausted.left, exhausted.retry_after));
                    continue;
                }
            };
            match upstream.get_manifest(reservation, &ask.repository, reference).await {
                Ok(manifest) => return Ok(manifest),
                // Another identity may have some left.
                Err(error @ upstream::Error::PullLimit { .. }) => {
                    refusal.get_or_insert(Error::from_upstream(&ask.upstream, error, Error::ManifestUnknown));
                }
                Err(error) => return Err(Error::from_upstream(&ask.upstream, error, Error::ManifestUnknown)),
            }
        }
        Err(refusal.unwrap_or(Error::NameUnknown))
    }

    /// What is left, after a HEAD when none told lately: it is free, and pulls come back that no forecast knew of.
    ///
    /// Without it a digest that a fresh tag names would be refused until the forecast, though upstream would give it.
    async fn look_again(
        &self,
        upstream: &Upstream,
        identity: &Identity,
        ask: &Ask,
        reference: &Reference,
        left: Left,
    ) -> Left {
        let now = Instant::now();
        {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            if looks.get(identity).is_some_and(|last| now.duration_since(*last) < LOOK_AGAIN) {
                return left;
            }
            // As many entries as there are identities.
            looks.insert(identity.clone(), now);
        }
        match upstream.head_manifest(identity, &ask.repository, reference).await {
            Ok(_) => self.ledger.left(identity, SystemTime::now()),
            Err(_) => left,
        }
    }

    async fn manifest_by_tag(self: &Arc<Inner>, ask: &Ask, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let key = self.key(ask, Object::Manifest(Reference::Tag(tag.clone())));
        self.known_absent(&key)?;
        let (inner, asked, wanted) = (self.clone(), ask.clone(), tag.clone());
        let work = |waiters| async move { inner.fetch_tag(&asked, &wanted, waiters).await };
        let answer = self.manifests.join(key.clone(), work).await.unwrap_or(Err(Error::Internal));
        self.learn(&key, answer)
    }

    /// The flight's work for a tag: resolve it, get what it names, and fall back to what is cached when that fails.
    pub(super) async fn fetch_tag(
        self: &Arc<Inner>,
        ask: &Ask,
        tag: &Tag,
        waiters: Arc<AtomicU32>,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.warm_manifest(ask, &Reference::Tag(tag.clone()), SystemTime::now())? {
            return Ok(answer);
        }
        let answer = match self.current(ask, tag).await {
            Ok(resolution) => match self.fetch_named(ask, tag, resolution, waiters.clone()).await {
                // Somebody moved the tag between the HEAD and the GET: the digest is gone, the tag is not.
                Err(Error::ManifestUnknown) => match self.resolve(ask, tag).await {
                    Ok(resolution) => self.fetch_named(ask, tag, resolution, waiters).await,
                    Err(error) => Err(error),
                },
                answer => answer,
            },
            Err(error) => Err(error),
        };
        match answer {
            Err(error) => match self.stale(ask, tag, &error, SystemTime::now()).await? {
                Some((record, facts)) => match self.held(ask, &record.digest)? {
                    Some(manifest) => Ok(ManifestAnswer { manifest, facts }),
                    None => Err(error),
                },
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// What the tag names: as a HEAD found it while that is fresh, else by asking upstream.
    async fn current(self: &Arc<Inner>, ask: &Ask, tag: &Tag) -> Result<Resolution, Error> {
        match self.tag(ask, tag)? {
            Some((source, record)) if self.judge(ask, tag, &record, SystemTime::now()) == Freshness::Fresh => {
                Ok(Resolution::Named { source, record, changed: false })
            }
            _ => self.resolve(ask, tag).await,
        }
    }

    /// Gets what a tag was found to name, and records the tag.
    pub(super) async fn fetch_named(
        self: &Arc<Inner>,
        ask: &Ask,
        tag: &Tag,
        resolution: Resolution,
        waiters: Arc<AtomicU32>,
    ) -> Result<ManifestAnswer, Error> {
        match resolution {
            Resolution::Named { source, record, changed } => {
                let reason = if changed { Reason::Changed } else { Reason::Cold };
                let held = self.held(ask, &record.digest)?;
                let mut answer = match held {
                    Some(manifest) => ManifestAnswer { manifest, facts: Facts::now(Status::Revalidated) },
                    None => self.manifest_by_digest(ask, &record.digest, reason).await?,
                };
                if !changed && answer.facts.status == Status::Hit {
                    answer.facts.status = Status::Revalidated;
                }
                // Only now that its bytes are here: had the budget refused them, the old answer would still stand.
                if changed {
                    self.remember_tag(&source, tag, &record).await;
                }
                Ok(answer)
            }
            Resolution::HeadRefused { source, reason } => {
                let reference = Reference::Tag(tag.clone());
                let manifest = self.fetch(ask, &source, &reference, reason, waiters).await?;
                self.keep(&source, &manifest).await;
                self.remember_tag(&source, tag, &Inner::record(&manifest)).await;
                Ok(ManifestAnswer { manifest, facts: Facts::now(Status::Miss) })
            }
        }
    }

    pub(super) async fn head_manifest(
        self: &Arc<Inner>,
        ask: &Ask,
        reference: &Reference,
    ) -> Result<ManifestHead, Error> {
        if let Some(answer) = self.warm_manifest(ask, reference, SystemTime::now())? {
            return Ok(answer.head());
        }
        let key = self.key(ask, Object::Manifest(reference.clone()));
        self.known_absent(&key)?;
        let head = match reference {
            Reference::Tag(tag) => self.head_tag(ask, tag).await,
            Reference::Digest(digest) => self.head_digest(ask, digest).await,
        };
        self.learn(&key, head)
    }

    async fn head_digest(self: &Arc<Inner>, ask: &Ask, digest: &Digest) -> Result<ManifestHead, Error> {
        let reference = Reference::Digest(digest.clone());
        let key = self.key(ask, Object::ManifestHead(reference.clone()));
        let (inner, asked, wanted) = (self.clone(), ask.clone(), digest.clone());
        let work = |_| async move {
            match inner.head_upstream(&asked, &reference).await {
                Ok((source, head)) => {
                    inner.vouch(&source, &wanted).await;
                    if let Some(manifest) = inner.store.manifest(&wanted)? {
                        let facts = Facts::now(Status::Hit);
                        return Ok(Some(ManifestAnswer { manifest, facts }.head()));
                    }
                    let (Some(media_type), Some(size)) = (head.media_type, head.size) else { return Ok(None) };
                    Ok(Some(ManifestHead { digest: wanted, media_type, size, facts: Facts::now(Status::Miss) }))
                }
                Err(upstream::Error::HeadRefused) => Ok(None),
                Err(error) => Err(Error::from_upstream(&asked.upstream, error, Error::ManifestUnknown)),
            }
        };
        match self.heads.join(key, work).await.unwrap_or(Err(Error::Internal))? {
            Some(head) => Ok(head),
            // This registry answers HEAD not at all or without what ours must say: only the GET knows.
            None => Ok(self.manifest_by_digest(ask, digest, Reason::HeadRefused).await?.head()),
        }
    }
}

/// The one sentence of a refusal for want of budget: what is left, of what, and when more comes.
fn spent(left: &Left, retry_after: Duration) -> Error {
    let whole = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs().max(1)));
    let of = match (left.limit, left.window) {
        (Some(limit), Some(window)) => {
            format!("{} of {limit} pulls per {} left", left.remaining.unwrap_or(0).max(0), whole(window))
        }
        _ => "no pulls left".to_owned(),
    };
    let message = format!(
        "this mirror has {of} at {} and does not have this image; more in about {}",
        left.identity.upstream,
        whole(retry_after)
    );
    Error::BudgetSpent { retry_after, message: message.into() }
}
