//! Who may have what: sources, and which of them vouched for a digest.
//!
//! Bytes are shared by digest, the right to them is not. A digest is served under a repository when upstream, asked
//! under that repository's name, answered 200 for it: to the GET that brought it, or to a HEAD, which is free. That some
//! manifest names a digest is not enough: anybody may publish a manifest that names somebody else's layer.
//!
//! What anonymous may read upstream is everybody's. What only an account of ours could read is served only to principals
//! whose `pull` patterns name it, and is kept under that account, so that one client's right never answers for another's.

use std::sync::{Arc, LazyLock};

use crate::{
    mirror::{Error, Inner, Lookup, Source},
    oci::{Digest, Reference, matches},
    upstream::{self, Identity, Upstream},
};

/// [`Source::ANONYMOUS`], shared so that a warm answer allocates nothing.
static ANONYMOUS: LazyLock<Arc<str>> = LazyLock::new(|| Source::ANONYMOUS.into());

impl Inner {
    pub(super) fn upstream(&self, lookup: &Lookup) -> Result<&Upstream, Error> {
        self.upstreams.get(&lookup.upstream).ok_or(Error::NameUnknown)
    }

    /// What anonymous may read of this repository is kept under this source.
    pub(super) fn public(lookup: &Lookup) -> Source {
        Source {
            upstream: lookup.upstream.clone(),
            credential: ANONYMOUS.clone(),
            repository: lookup.repository.clone(),
        }
    }

    pub(super) fn source_of(lookup: &Lookup, identity: &Identity) -> Source {
        match &identity.account {
            None => Inner::public(lookup),
            Some(account) => Source { credential: account.clone(), ..Inner::public(lookup) },
        }
    }

    /// Whether this client may have what only an account of ours can read. Allocates nothing for those who may not.
    pub(super) fn may_read_private(lookup: &Lookup) -> bool {
        if lookup.client.pull.is_empty() {
            return false;
        }
        let full = format!("{}/{}", lookup.upstream, lookup.repository);
        lookup.client.pull.iter().any(|pattern| matches(pattern, &full) || matches(pattern, lookup.repository.as_str()))
    }

    /// The first `Some` over the sources this client may have answers of: the public one, then those of our accounts.
    pub(super) fn of_sources<T>(
        &self,
        lookup: &Lookup,
        mut look: impl FnMut(&Source) -> Result<Option<T>, weir_storage::Error>,
    ) -> Result<Option<T>, Error> {
        if let Some(found) = look(&Inner::public(lookup))? {
            return Ok(Some(found));
        }
        if Inner::may_read_private(lookup) {
            for account in &self.upstream(lookup)?.settings().accounts {
                let source = Source { credential: account.username.clone(), ..Inner::public(lookup) };
                if let Some(found) = look(&source)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Whether a source of this client's vouched for the digest.
    pub(super) fn is_member(&self, lookup: &Lookup, digest: &Digest) -> Result<bool, Error> {
        let found = self.of_sources(lookup, |source| Ok(self.store.vouches(source, digest)?.then_some(())))?;
        Ok(found.is_some())
    }

    /// Notes that upstream vouched. A failure costs one more free HEAD later and is no reason to refuse now.
    pub(super) async fn add_member(&self, source: &Source, digest: &Digest) {
        if let Err(error) = self.store.vouch(source, std::slice::from_ref(digest)).await {
            tracing::warn!(%error, %digest, "membership could not be kept; upstream will be asked again");
        }
    }

    /// Asks as anonymous and then, when this client may have it, as each account of ours, until one is not refused.
    ///
    /// # Errors
    /// The first refusal when all are refused; any other failure at once, since it says nothing about who may.
    pub(super) async fn first<T, F>(
        &self,
        lookup: &Lookup,
        mut request: impl FnMut(Upstream, Identity) -> F,
    ) -> Result<(Source, T), upstream::Error>
    where
        F: Future<Output = Result<T, upstream::Error>>,
    {
        let Some(upstream) = self.upstreams.get(&lookup.upstream) else { return Err(upstream::Error::NotFound) };
        let private = Inner::may_read_private(lookup);
        let mut refusal = None;
        for identity in upstream.identities() {
            if identity.account.is_some() && !private {
                continue;
            }
            let source = Inner::source_of(lookup, &identity);
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

    /// [`Inner::first`] for a HEAD of a blob; gives its size, when upstream tells.
    pub(super) async fn head_blob_upstream(
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

    /// [`Inner::first`] for a HEAD of a manifest, which Docker Hub does not count.
    pub(super) async fn head_upstream(
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
