//! Refreshing a tag: upstream is asked at once, be the tag fresh or not, and what it names is fetched when it moved. And what a warm
//! asks: what a reference names, of which no stale answer stands in.

use std::{collections::HashSet, sync::Arc};

use super::Manifests;
use crate::{
    answer::{CacheFacts, CacheStatus, ManifestAnswer},
    clock,
    mirror::{
        budgeted_fetch::BudgetedFetch,
        error::Error,
        freshness::Freshness,
        lookup::{Lookup, Object},
        refreshed::Refreshed,
    },
    oci::{Digest, Reference, Tag},
    upstream::ledger::Reason,
};

impl Manifests {
    /// Asks upstream what a tag names now. When that changed, its manifest is fetched, and with an index the manifests of the
    /// platforms of which the old one had something here; the layers come with the next pull. A tag that is gone upstream is
    /// forgotten as an expired one is.
    ///
    /// # Errors
    /// As [`Manifests::get`], but no stale answer stands in.
    pub async fn refresh(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<Refreshed, Error> {
        let before = self.tags.load(lookup, tag).await?.map(|(_, record)| record.digest);
        let wanted = before.as_ref().map(|digest| self.platforms_here(digest)).unwrap_or_default();
        let answer = self.ask(lookup, tag).await?;
        let mut refreshed = Refreshed { before, digest: answer.manifest.digest.clone(), platforms: 0 };
        if refreshed.before.as_ref() != Some(&refreshed.digest) {
            let children = answer.manifest.describe().map(|description| description.children).unwrap_or_default();
            for child in children.iter().filter(|child| child.is_manifest) {
                if child.platform.as_ref().is_some_and(|platform| wanted.contains(platform)) {
                    self.by_digest(lookup, &child.digest, Reason::Changed, false).await?;
                    refreshed.platforms += 1;
                }
            }
        }
        Ok(refreshed)
    }

    /// Whether an upstream is asked with accounts: without them, all that it gives is public.
    pub(in crate::mirror) fn has_accounts(&self, upstream: &str) -> bool {
        self.sources.upstream(upstream).is_ok_and(|upstream| !upstream.settings().accounts.is_empty())
    }

    /// What sends counted GETs, for what asks how many may be sent.
    pub(in crate::mirror) fn fetcher(&self) -> &BudgetedFetch {
        &self.fetcher
    }

    /// What a reference names: as it is cached while a tag is fresh, else as upstream says. Whether it is a miss says what it cost.
    ///
    /// # Errors
    /// As [`Manifests::get`], but no stale answer stands in.
    pub(in crate::mirror) async fn confirm(
        self: &Arc<Self>,
        lookup: &Lookup,
        reference: &Reference,
    ) -> Result<ManifestAnswer, Error> {
        let answer = match reference {
            Reference::Digest(digest) => self.by_digest(lookup, digest, Reason::Cold, false).await?,
            Reference::Tag(tag) => match self.fresh_tag(lookup, tag).await? {
                Some(answer) => answer,
                None => self.ask(lookup, tag).await?,
            },
        };
        self.named.learn(lookup, &answer.manifest);
        Ok(answer)
    }

    /// What a fresh tag names, when that is here.
    async fn fresh_tag(&self, lookup: &Lookup, tag: &Tag) -> Result<Option<ManifestAnswer>, Error> {
        let Some((source, record)) = self.tags.load(lookup, tag).await? else { return Ok(None) };
        if self.tags.freshness(lookup, &source, tag, &record, clock::now()) != Freshness::Fresh {
            return Ok(None);
        }
        let manifest = self.sources.manifest(lookup, &record.digest).await?;
        Ok(manifest.map(|manifest| ManifestAnswer { manifest, facts: CacheFacts::now(CacheStatus::Hit) }))
    }

    /// Asks upstream what a tag names, and has that fetched when it is not here.
    async fn ask(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let key = lookup.key(Object::Revalidation(tag.clone()));
        let (manifests, owned, name) = (self.clone(), lookup.clone(), tag.clone());
        let work = move |waiters| {
            let (manifests, owned, name) = (manifests.clone(), owned.clone(), name.clone());
            async move {
                let resolution = manifests.tags.resolve_upstream(&owned, &name).await?;
                manifests.fetch_named(&owned, &name, resolution, &waiters).await
            }
        };
        let answer = match self.flights.coalesce(&key, lookup, work).await {
            Ok(answer) => answer,
            Err(error) => {
                // Whatever stands in for a client, the operator is told what upstream said.
                self.tags.stale(lookup, tag, &error, clock::now()).await?;
                return Err(error);
            }
        };
        self.negative.forget(&lookup.key(Object::Manifest(Reference::Tag(tag.clone()))));
        Ok(answer)
    }

    /// The platforms of an index of which something is here. No system call.
    fn platforms_here(&self, index: &Digest) -> HashSet<Box<str>> {
        let platforms = self.sources.store.images.read().completeness(index).platforms;
        platforms.into_iter().filter(|platform| platform.here > 0).filter_map(|platform| platform.platform).collect()
    }
}
