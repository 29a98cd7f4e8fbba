//! What is looked up, for whom, and what two lookups have in common when they share work.

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use weir_storage::Source;

use crate::{
    client::{Class, Client, ClientKey, OnExceed},
    limits::permit::Denied,
    oci::{Digest, Name, Reference, Tag, matches},
    upstream::Identity,
};

/// [`Source::ANONYMOUS`], shared so that a warm answer allocates nothing.
static ANONYMOUS: LazyLock<Arc<str>> = LazyLock::new(|| Source::ANONYMOUS.into());

/// A client's question about one mirrored repository. It needs no HTTP request: prefetch and tests make them as well.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
    /// The client, for whom access, class and budget are decided.
    pub client: Arc<Client>,
    /// The reason when this client gets only what is cached, because its misses are throttled or banned.
    pub cached_only: Option<Arc<Denied>>,
    /// What this request cost.
    pub cost: Cost,
}

/// What a request cost: how long it waited for a pull to come back, and whose pull it spent, if anything wants to know. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Cost(Option<Arc<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// Microseconds of waiting.
    waited: AtomicU64,
    /// The identity whose pull was spent last.
    paid_by: Mutex<Option<Arc<str>>>,
}

impl Cost {
    /// One that counts.
    pub fn counted() -> Cost {
        Cost(Some(Arc::default()))
    }

    /// How long it waited for a pull to come back; `None` when not at all.
    pub fn waited(&self) -> Option<Duration> {
        let micros = self.0.as_ref()?.waited.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// The identity whose pull it spent, such as `anonymous`; `None` when it spent none, as one that shares the pull of another request.
    pub fn paid_by(&self) -> Option<Arc<str>> {
        self.0.as_ref()?.paid_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn paid(&self, identity: &Identity) {
        if let Some(counted) = &self.0 {
            *counted.paid_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.name().into());
        }
    }

    pub(super) fn add_wait(&self, span: Duration) {
        if let Some(counted) = &self.0 {
            counted.waited.fetch_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        }
    }
}

impl Lookup {
    /// The source of what anonymous may read of this repository.
    pub(super) fn public(&self) -> Source {
        Source { upstream: self.upstream.clone(), credential: ANONYMOUS.clone(), repository: self.repository.clone() }
    }

    /// The source of what this identity may read of this repository.
    pub(super) fn source_of(&self, identity: &Identity) -> Source {
        match &identity.account {
            None => self.public(),
            Some(account) => Source { credential: account.clone(), ..self.public() },
        }
    }

    /// Whether this client may have what only an account of ours can read. Allocates nothing for a client without patterns.
    pub(super) fn may_read_private(&self) -> bool {
        if self.client.pull.is_empty() {
            return false;
        }
        let full = format!("{}/{}", self.upstream, self.repository);
        self.client.pull.iter().any(|pattern| matches(pattern, &full) || matches(pattern, self.repository.as_str()))
    }

    /// The same for background work of policies: in the class bulk for every client, with its right to read and no other.
    pub(super) fn in_background(&self) -> Lookup {
        let client = Client {
            key: ClientKey::policy(),
            class: Class::Bulk,
            on_exceed: OnExceed::Deny,
            overrides: false,
            ..(*self.client).clone()
        };
        Lookup { client: Arc::new(client), cached_only: None, cost: Cost::default(), ..self.clone() }
    }

    /// The key of an object of this repository, for this client's kind of access.
    pub(super) fn key(&self, object: Object) -> Key {
        Key {
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            private: self.may_read_private(),
            object,
        }
    }
}

/// What two lookups must have in common to share one piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) upstream: Arc<str>,
    pub(super) repository: Name,
    /// Whether the client may have what only our accounts can read. Those who may not never share with those who may.
    pub(super) private: bool,
    pub(super) object: Object,
}

/// An object of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Object {
    Manifest(Reference),
    Revalidation(Tag),
    Blob(Digest),
    Tags,
    Referrers(Digest),
    /// What is beside a manifest: its signatures and attestations.
    Signatures(Digest),
}
