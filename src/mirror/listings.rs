//! Tag lists, referrers and the catalog: kept for a while, shared while they are fetched, and stale rather than absent.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::SystemTime,
};

use serde_json::Value;
use weir_storage::Listing;

use super::{
    CacheFacts, CacheStatus, Error, Inner, Lookup, Object, ReferrersAnswer, Source, TagsAnswer, freshness,
    revalidate::Resolution,
};
use crate::{
    client::Client,
    oci::{Digest, Tag},
    upstream::{self, Upstream, ledger::Reason},
};

impl Inner {
    pub(super) async fn tags(self: &Arc<Inner>, lookup: &Lookup) -> Result<TagsAnswer, Error> {
        let fetch = |inner: Arc<Inner>, lookup: Lookup| async move {
            let request = |upstream: Upstream, identity| {
                let repository = lookup.repository.clone();
                async move { upstream.tags(&identity, &repository).await }
            };
            let listed = inner.first(&lookup, request).await;
            let absent = Error::NameUnknown;
            let (source, tags) = listed.map_err(|error| Error::from_upstream(&lookup.upstream, error, absent))?;
            Ok((source, tags.into_iter().map(Value::String).collect()))
        };
        let (entries, facts) = self.listing(lookup, "tags", Object::Tags, fetch).await?;
        let mut tags: Vec<Tag> = entries.iter().filter_map(Value::as_str).filter_map(|tag| tag.parse().ok()).collect();
        tags.sort_unstable();
        tags.dedup();
        Ok(TagsAnswer { tags: tags.into(), facts })
    }

    pub(super) async fn referrers(
        self: &Arc<Inner>,
        lookup: &Lookup,
        digest: &Digest,
    ) -> Result<ReferrersAnswer, Error> {
        let kind = format!("referrers-{}-{}", digest.algorithm().as_str(), digest.hex());
        let subject = digest.clone();
        let fetch = |inner: Arc<Inner>, lookup: Lookup| async move { inner.fetch_referrers(&lookup, &subject).await };
        let (descriptors, facts) = self.listing(lookup, &kind, Object::Referrers(digest.clone()), fetch).await?;
        Ok(ReferrersAnswer { descriptors, facts })
    }

    /// Upstream's referrers, else what the fallback tag holds, else none. Never both: mixing them would show a deleted
    /// referrer again.
    async fn fetch_referrers(
        self: &Arc<Inner>,
        lookup: &Lookup,
        subject: &Digest,
    ) -> Result<(Source, Vec<Value>), Error> {
        let request = |upstream: Upstream, identity| {
            let (repository, subject) = (lookup.repository.clone(), subject.clone());
            async move { upstream.referrers(&identity, &repository, &subject).await }
        };
        // A refusal is also what Hub answers for a repository that does not exist. It is no proof that nothing refers to this.
        let nothing = match self.first(lookup, request).await {
            Ok((source, Some(descriptors))) => return Ok((source, descriptors)),
            Ok((_, None)) | Err(upstream::Error::NotFound) => Ok((Inner::public(lookup), Vec::new())),
            Err(upstream::Error::Denied) => Err(Error::NameUnknown),
            Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::NameUnknown)),
        };
        let Some(tag) = subject.fallback_tag() else { return nothing };
        let (source, record) = match self.resolve(lookup, &tag).await {
            Ok(Resolution::Named { source, record, .. }) => (source, record),
            // A registry that refuses HEAD would make every look for referrers a counted pull; none are shown then.
            Ok(Resolution::HeadRefused { .. }) => return nothing,
            Err(error) if error.is_absence() => return nothing,
            Err(error) => return Err(error),
        };
        let answer = self.manifest_by_digest(lookup, &record.digest, Reason::Referrers).await?;
        let index: Value = serde_json::from_slice(&answer.manifest.bytes).unwrap_or_default();
        let descriptors = index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok((source, descriptors))
    }

    /// A listing from disk while it is fresh, else from upstream, else from disk with a warning.
    async fn listing<F, W>(
        self: &Arc<Inner>,
        lookup: &Lookup,
        kind: &str,
        object: Object,
        fetch: F,
    ) -> Result<(Arc<[Value]>, CacheFacts), Error>
    where
        F: FnOnce(Arc<Inner>, Lookup) -> W,
        W: Future<Output = Result<(Source, Vec<Value>), Error>> + Send + 'static,
    {
        let now = SystemTime::now();
        let cached = self.of_sources(lookup, |source| self.store.listing(source, kind))?;
        let key = self.key(lookup, object);
        let empty = self.no_referrers.get(&key).map(|checked_at| Listing { checked_at, body: b"[]".to_vec() });
        let cached = cached.or(empty);
        let age = cached.as_ref().map(|listing| freshness::age(listing.checked_at, now)).unwrap_or_default();
        let entries = cached.and_then(|listing| serde_json::from_slice::<Vec<Value>>(&listing.body).ok());
        if let Some(entries) = &entries
            && age < self.settings.listing_ttl
        {
            return Ok((entries.clone().into(), CacheFacts { status: CacheStatus::Hit, age, warning: None }));
        }
        self.known_absent(&key)?;
        let kind = kind.to_owned();
        let (inner, owned, wanted) = (self.clone(), lookup.clone(), key.clone());
        let work = |_: Arc<AtomicU32>| {
            let fetched = fetch(inner.clone(), owned);
            async move {
                let (source, entries) = fetched.await?;
                if entries.is_empty() && matches!(wanted.object, Object::Referrers(_)) {
                    inner.no_referrers.insert(wanted, SystemTime::now());
                    return Ok(entries.into());
                }
                let body = serde_json::to_vec(&entries).map_err(|_| Error::Internal)?;
                let listing = Listing { checked_at: SystemTime::now(), body };
                if let Err(error) = inner.store.put_listing(&source, &kind, &listing).await {
                    tracing::warn!(%error, kind, "a listing could not be kept; upstream will be asked again");
                }
                Ok(entries.into())
            }
        };
        let fetched = self.listings.join(key.clone(), work).await.unwrap_or(Err(Error::Internal));
        match (self.learn(&key, fetched), entries) {
            (Ok(entries), _) => Ok((entries, CacheFacts::now(CacheStatus::Miss))),
            (Err(error), Some(entries)) if error.allows_stale() && age < self.settings.stale_if_error => {
                let warning = Some(format!("listing is stale: {error}").into());
                Ok((entries.into(), CacheFacts { status: CacheStatus::Stale, age, warning }))
            }
            (Err(error), _) => Err(error),
        }
    }

    pub(super) async fn catalog(&self, client: &Client) -> Result<Vec<String>, Error> {
        let (store, runtime) = (self.store.clone(), &self.runtime);
        let sources = runtime.spawn(async move { store.catalog().await }).await.map_err(|_| Error::Internal)??;
        let client = Arc::new(client.clone());
        let mut names: Vec<String> = sources
            .into_iter()
            .filter(|source| {
                let lookup = Lookup {
                    upstream: source.upstream.clone(),
                    repository: source.repository.clone(),
                    client: client.clone(),
                    cached_only: None,
                };
                &*source.credential == Source::ANONYMOUS || Inner::may_read_private(&lookup)
            })
            .filter_map(|source| {
                let settings = self.upstreams.get(&source.upstream)?.settings();
                Some(if settings.default {
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
