//! Who may have what: sources, and the digests that each is known to hold.
//!
//! Bytes are shared by digest, the right to them is not. A digest is served under a repository when upstream, asked
//! under that repository's name, answered 200 for it: to the GET that brought it, or to a HEAD, which is free. That some
//! manifest names a digest is not enough: a publisher can name the private layer of another in a manifest.
//!
//! What anonymous may read upstream is public here. What only an account of ours could read is served only to principals
//! whose `pull` patterns name it, and is kept under that account, so that one client's right never answers for another's.

use std::{collections::HashMap, sync::Arc};

use weir_storage::{Source, Store};

use super::{error::Error, lookup::Lookup};
use crate::{
    oci::{Digest, Manifest, Reference},
    upstream::{self, Identity, Upstream},
};

/// The upstreams, and what is stored of each of their repositories for each credential. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) store: Store,
    upstreams: Arc<HashMap<Arc<str>, Upstream>>,
}

impl Sources {
    pub(super) fn new(store: Store, upstreams: Vec<Upstream>) -> Sources {
        let upstreams = upstreams.into_iter().map(|upstream| (upstream.settings().name.clone(), upstream));
        Sources { store, upstreams: Arc::new(upstreams.collect()) }
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.values()
    }

    /// # Errors
    /// [`Error::NameUnknown`] when no upstream has this name.
    pub(super) fn upstream(&self, name: &str) -> Result<&Upstream, Error> {
        self.upstreams.get(name).ok_or(Error::NameUnknown)
    }

    /// The first `Some` over the sources this client may have answers of: the public one, then those of our accounts.
    pub(super) fn find<T>(
        &self,
        lookup: &Lookup,
        mut find: impl FnMut(&Source) -> Result<Option<T>, weir_storage::Error>,
    ) -> Result<Option<T>, Error> {
        if let Some(found) = find(&lookup.public())? {
            return Ok(Some(found));
        }
        if lookup.may_read_private() {
            for account in &self.upstream(&lookup.upstream)?.settings().accounts {
                let source = Source { credential: account.username.clone(), ..lookup.public() };
                if let Some(found) = find(&source)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Whether a source that this client may read holds the digest.
    pub(super) fn is_member(&self, lookup: &Lookup, digest: &Digest) -> Result<bool, Error> {
        let found = self.find(lookup, |source| Ok(self.store.cache.members.read(source, digest)?.then_some(())))?;
        Ok(found.is_some())
    }

    /// The first source that this client may read and that holds the digest.
    pub(super) fn member(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Source>, Error> {
        self.find(lookup, |source| Ok(self.store.cache.members.read(source, digest)?.then(|| source.clone())))
    }

    /// Records that the source holds the digest. A failure costs one more free HEAD later and is no reason to refuse now.
    pub(super) async fn add_member(&self, source: &Source, digest: &Digest) {
        if let Err(error) = self.store.cache.members.add(source, std::slice::from_ref(digest)).await {
            tracing::warn!(%error, %digest, "membership could not be kept; upstream will be asked again");
        }
    }

    /// The manifest from disk, if this client may have it.
    pub(super) fn manifest(&self, lookup: &Lookup, digest: &Digest) -> Result<Option<Manifest>, Error> {
        if self.is_member(lookup, digest)? { Ok(self.store.cache.manifests.read(digest)?) } else { Ok(None) }
    }

    /// Sends the request as anonymous and then, when this client may have it, as each account of ours, until one is not refused.
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
        let Some(upstream) = self.upstreams.get(&lookup.upstream) else { return Err(upstream::Error::NotFound) };
        let private = lookup.may_read_private();
        let mut refusal = None;
        for identity in upstream.sources() {
            if identity.account.is_some() && !private {
                continue;
            }
            let source = lookup.source_of(&identity);
            match request(upstream.clone(), identity).await {
                Ok(answer) => return Ok((source, answer)),
                Err(error @ (upstream::Error::Denied | upstream::Error::NotFound)) => {
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or(upstream::Error::Denied))
    }

    /// [`Sources::first`] for a HEAD of a blob; gives its size, when upstream tells.
    pub(super) async fn head_blob(
        &self,
        lookup: &Lookup,
        digest: &Digest,
    ) -> Result<(Source, Option<u64>), upstream::Error> {
        let request = |upstream: Upstream, identity| {
            let (repository, digest) = (lookup.repository.clone(), digest.clone());
            async move { upstream.head_blob(&identity, &repository, &digest).await }
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
