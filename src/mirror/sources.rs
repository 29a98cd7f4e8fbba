//! Who may have what: sources, and the digests that each is known to hold.
//!
//! Bytes are shared by digest, the right to them is not. A digest is served under a repository when upstream, asked
//! under that repository's name, answered 200 for it: to the GET that brought it, or to a HEAD, which is free; or when an operator
//! imported it there, as what anonymous may read. That some manifest names a digest is not enough: a publisher can name the private
//! layer of another in a manifest.
//!
//! What anonymous may read upstream is public here. What only an account of ours could read is served only to principals
//! whose `pull` patterns name it, and is kept under that account, so that one client's right never answers for another's. The
//! exception is what the account's `shared` patterns name: the operator gives that to every client.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use weir_shared::{Lease, Tier};
use weir_storage::{Source, Store};

use super::{error::Error, lookup::Lookup};
use crate::{
    oci::{Digest, Manifest, Name, Reference},
    upstream::{self, Account, Identity, Upstream},
};

/// The upstreams, and what is stored of each of their repositories for each credential. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) store: Store,
    /// The bucket that replicas share, if one is configured.
    pub(super) tier: Option<Tier>,
    /// Replaced as a whole by a reload. What goes on keeps the upstream that it began with.
    upstreams: Arc<ArcSwap<HashMap<Arc<str>, Upstream>>>,
    /// By upstream and repository, the account that was given what anonymous was refused lately, so that it is asked first.
    given: moka::sync::Cache<(Arc<str>, Name), Arc<str>>,
}

/// How long an account is asked before anonymous, and of how many repositories that is known.
const GIVEN: Duration = Duration::from_secs(60);
const MAX_GIVEN: u64 = 10_000;

impl Sources {
    pub(super) fn new(store: Store, tier: Option<Tier>, upstreams: Vec<Upstream>) -> Sources {
        let given = moka::sync::Cache::builder().max_capacity(MAX_GIVEN).time_to_live(GIVEN).build();
        Sources { store, tier, upstreams: Arc::new(ArcSwap::from_pointee(by_name(upstreams))), given }
    }

    pub(super) fn upstreams(&self) -> Vec<Upstream> {
        self.upstreams.load().values().cloned().collect()
    }

    /// From now on these, and nothing that was learned of who gives what.
    pub(super) fn replace(&self, upstreams: Vec<Upstream>) {
        self.upstreams.store(Arc::new(by_name(upstreams)));
        self.given.invalidate_all();
    }

    /// # Errors
    /// [`Error::NameUnknown`] when no upstream has this name.
    pub(super) fn upstream(&self, name: &str) -> Result<Upstream, Error> {
        self.upstreams.load().get(name).cloned().ok_or(Error::NameUnknown)
    }

    /// The sources whose answers this client may have: the public one, then those of our accounts.
    pub(super) fn readable<'a>(&'a self, lookup: &'a Lookup) -> impl Iterator<Item = Source> + use<'a> {
        let private = move || {
            let private = lookup.may_read_private();
            let upstreams = self.upstreams.load();
            let accounts = upstreams.get(&lookup.upstream).into_iter();
            let accounts = accounts.flat_map(|upstream| &upstream.settings().accounts);
            let accounts = accounts.filter(|account| may_use(account, lookup, private));
            let source = |account: &Account| Source { credential: account.username.clone(), ..lookup.public() };
            accounts.map(source).collect::<Vec<_>>()
        };
        std::iter::once(lookup.public()).chain(std::iter::once_with(private).flatten())
    }

    /// Whether a source that this client may read holds the digest, as far as memory knows. No system call.
    pub(super) fn is_member_now(&self, lookup: &Lookup, digest: &Digest) -> bool {
        self.readable(lookup).any(|source| self.store.cache.members.now(&source, digest))
    }

    /// The first source that this client may read and that is known to hold the digest.
    pub(super) async fn member(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Source>, Error> {
        for source in self.readable(lookup) {
            if self.store.cache.members.load(&source, digest).await? {
                return Ok(Some(source));
            }
        }
        Ok(None)
    }

    /// Records that the source holds the digest. A failure costs one more free HEAD later and is no reason to refuse now.
    pub(super) async fn add_member(&self, source: &Source, digest: &Digest) {
        self.add_member_under(source, digest, None).await;
    }

    /// As [`Sources::add_member`], of what was fetched under a lease.
    pub(super) async fn add_member_under(&self, source: &Source, digest: &Digest, lease: Option<&Lease>) {
        if let Err(error) = self.store.cache.members.add(source, std::slice::from_ref(digest)).await {
            tracing::warn!(%error, %digest, "membership could not be kept; upstream will be asked again");
        }
        if let Some(tier) = &self.tier {
            tier.keep_member(source, digest, lease);
        }
        self.store.cache.imports.confirm(source, &Reference::Digest(digest.clone())).await;
    }

    /// Whether another replica was told that a source which this client may read holds the digest. That is known here from then on.
    pub(super) async fn adopt_member(&self, lookup: &Lookup, digest: &Digest) -> Result<bool, Error> {
        let Some(tier) = &self.tier else { return Ok(false) };
        for source in self.readable(lookup) {
            if tier.is_member(&source, digest).await {
                self.store.cache.members.add(&source, std::slice::from_ref(digest)).await?;
                self.store.cache.imports.confirm(&source, &Reference::Digest(digest.clone())).await;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings a manifest from the bucket to this disk, with the right to it if another replica was told of that.
    pub(super) async fn adopt_manifest(&self, lookup: &Lookup, digest: &Digest) -> Result<(), Error> {
        let Some(tier) = &self.tier else { return Ok(()) };
        if self.store.cache.manifests.load(digest).await?.is_none() {
            let Some(manifest) = tier.manifest(digest).await else { return Ok(()) };
            self.store.cache.manifests.put(&manifest).await?;
        }
        self.adopt_member(lookup, digest).await?;
        Ok(())
    }

    /// The manifest from memory, if this client may have it. No system call.
    pub(super) fn manifest_now(&self, lookup: &Lookup, digest: &Digest) -> Option<Manifest> {
        self.is_member_now(lookup, digest).then(|| self.store.cache.manifests.now(digest)).flatten()
    }

    /// The manifest from memory or disk, if this client may have it.
    pub(super) async fn manifest(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Manifest>, Error> {
        match self.member(lookup, digest).await? {
            Some(_) => Ok(self.store.cache.manifests.load(digest).await?),
            None => Ok(None),
        }
    }

    /// Sends the request as anonymous and then, when this client may have it, as each account of ours, until one is not refused;
    /// first as the account that was given something of this repository lately when anonymous was refused.
    ///
    /// # Errors
    /// The first refusal when all are refused; any other failure at once, since it says nothing about access.
    pub(super) async fn first<T, F>(
        &self,
        lookup: &Lookup,
        mut request: impl FnMut(Upstream, Identity) -> F,
    ) -> Result<(Source, T), upstream::Error>
    where
        F: Future<Output = Result<T, upstream::Error>>,
    {
        let Ok(upstream) = self.upstream(&lookup.upstream) else { return Err(upstream::Error::NotFound) };
        let private = lookup.may_read_private();
        let mut refusal = None;
        let repository = (lookup.upstream.clone(), lookup.repository.clone());
        let mut identities = upstream.sources(|account| may_use(account, lookup, private));
        if let Some(given) = self.given.get(&repository).filter(|_| identities.len() > 1) {
            identities.sort_by_key(|identity| identity.account.as_ref() != Some(&given));
        }
        for identity in identities {
            let source = lookup.source_of(&identity);
            let account = identity.account.clone();
            match request(upstream.clone(), identity).await {
                Ok(answer) => {
                    if let (Some(account), Some(_)) = (account, refusal) {
                        self.given.insert(repository, account);
                    }
                    return Ok((source, answer));
                }
                Err(error) => {
                    self.given.invalidate(&repository);
                    if !matches!(error, upstream::Error::Denied | upstream::Error::NotFound) {
                        return Err(error);
                    }
                    refusal.get_or_insert(error);
                }
            }
        }
        Err(refusal.unwrap_or(upstream::Error::Denied))
    }

    /// [`Sources::first`] for a HEAD of a blob; gives its size, when upstream tells. `is_named`: by a manifest of the repository.
    pub(super) async fn head_blob(
        &self,
        lookup: &Lookup,
        digest: &Digest,
        is_named: bool,
    ) -> Result<(Source, Option<u64>), upstream::Error> {
        let request = |upstream: Upstream, identity| {
            let (repository, digest) = (lookup.repository.clone(), digest.clone());
            async move { upstream.head_blob(&identity, &repository, &digest, is_named).await }
        };
        self.first(lookup, request).await
    }

    /// [`Sources::first`] for a HEAD of a manifest, which Docker Hub does not count.
    pub(super) async fn head_manifest(
        &self,
        lookup: &Lookup,
        reference: &Reference,
    ) -> Result<(Source, upstream::Head), upstream::Error> {
        let request = |upstream: Upstream, identity| {
            let (repository, reference) = (lookup.repository.clone(), reference.clone());
            async move { upstream.head_manifest(&identity, &repository, &reference).await }
        };
        self.first(lookup, request).await
    }
}

fn by_name(upstreams: Vec<Upstream>) -> HashMap<Arc<str>, Upstream> {
    upstreams.into_iter().map(|upstream| (upstream.settings().name.clone(), upstream)).collect()
}

/// Whose answer a HEAD without a digest is. Some servers send one to every client, so that it does not tell that anonymous may read.
pub(super) fn known(source: Source) -> Option<Source> {
    (*source.credential != *Source::ANONYMOUS).then_some(source)
}

/// Whether a client gets what this account may read of the repository; `private` is whether it gets what accounts may read at all.
pub(super) fn may_use(account: &Account, lookup: &Lookup, private: bool) -> bool {
    account.is_for(&lookup.repository) && (private || account.is_shared(&lookup.repository))
}
