//! stub: the decisions: from disk, or from upstream by way of disk.
#![allow(missing_docs, unused_variables, dead_code, clippy::todo, reason = "replaced by the real modules")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    asker::Client,
    oci::{Digest, Manifest, MediaType, Name, Reference, Tag},
    upstream::{
        self, Upstream,
        ledger::{Left, Spend},
    },
};
pub use weir_storage::{Extent, Reader, Source, Stopped, Usage};

/// Who asks what of whom.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    pub repository: Name,
    pub client: Arc<Client>,
}

/// How a request was answered; the value of the cache-status log field, metric label and `X-Cache` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Hit,
    Miss,
    Revalidated,
    Stale,
    Bypass,
}

/// What goes along with every answer.
#[derive(Clone, Debug)]
pub struct Facts {
    pub status: Status,
    /// Seconds since upstream last confirmed it; `Age` is sent when it came from the cache.
    pub age: Duration,
    /// For `Warning: 299 - "…"`: why this is stale.
    pub warning: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub manifest: Manifest,
    pub facts: Facts,
}

/// HEAD needs no bytes, and a cold HEAD fetches none.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    pub digest: Digest,
    pub media_type: MediaType,
    pub size: u64,
    pub facts: Facts,
}

#[derive(Debug)]
pub struct BlobAnswer {
    pub reader: Reader,
    pub facts: Facts,
}

#[derive(Clone, Debug)]
pub struct BlobHead {
    pub size: u64,
    pub facts: Facts,
}

#[derive(Clone, Debug)]
pub struct TagsAnswer {
    pub tags: Arc<[Tag]>,
    pub facts: Facts,
}

/// Descriptors as upstream has them, unfiltered; http filters and announces it.
#[derive(Clone, Debug)]
pub struct ReferrersAnswer {
    pub descriptors: Arc<[serde_json::Value]>,
    pub facts: Facts,
}

/// What a client can be told. http/error.rs is the one table from here to status and code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no such repository")]
    NameUnknown,
    #[error("no such manifest")]
    ManifestUnknown,
    #[error("no such blob")]
    BlobUnknown,
    /// Nothing left of the budget, and nothing cached: 429. The message says what is left and when more comes.
    #[error("{message}")]
    BudgetSpent { retry_after: Duration, message: Arc<str> },
    /// Upstream's own 429: 429.
    #[error("{message}")]
    UpstreamLimited { retry_after: Duration, message: Arc<str> },
    /// Upstream is down, slow or lies: 502/503/504 by what happened.
    #[error("{message}")]
    UpstreamUnavailable { retry_after: Option<Duration>, message: Arc<str> },
    #[error("{message}")]
    UpstreamMalformed { message: Arc<str> },
    /// A failure on our own disk that could not be worked around: 500.
    #[error("internal error")]
    Internal,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub tag_ttl: Duration,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    pub not_found_grace: Duration,
    pub negative_ttl: Duration,
    pub revalidate_timeout: Duration,
    /// (pattern, ttl), first match wins; the pattern is over `upstream/repository:tag`, `*` spans `/`.
    pub tags: Vec<(String, Duration)>,
    /// Tag lists and referrers are fresh for so long (1 min).
    pub listing_ttl: Duration,
    /// Fills under way at once (64).
    pub fills: usize,
    /// A closed range of at most this many bytes, far ahead of the fill, is passed through (4 MiB); at most …
    pub ahead_range: u64,
    /// … so many at once per fill (4).
    pub ahead_ranges: usize,
    /// Entries of the negative cache (100,000).
    pub negative_entries: u64,
}

/// Cloning is cheap.
#[derive(Clone)]
pub struct Mirror;

impl Mirror {
    pub fn new(
        settings: Settings,
        store: weir_storage::Store,
        upstreams: Vec<Upstream>,
        ledger: upstream::Ledger,
        runtime: tokio::runtime::Handle,
    ) -> Mirror {
        todo!()
    }
    /// The fast lane: an answer from memory alone that needs no await, or `None` (then ask [`Mirror::manifest`]).
    pub fn warm_manifest(&self, ask: &Ask, reference: &Reference, now: SystemTime) -> Option<ManifestAnswer> {
        todo!()
    }
    pub async fn manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestAnswer, Error> {
        todo!()
    }
    pub async fn head_manifest(&self, ask: &Ask, reference: &Reference) -> Result<ManifestHead, Error> {
        todo!()
    }
    /// The warm blob, when it is here and vouched for: no await. Else `None`.
    pub fn warm_blob(&self, ask: &Ask, digest: &Digest) -> Option<BlobAnswer> {
        todo!()
    }
    /// `range` (start, end exclusive if given) only decides where bytes come from while the blob arrives; the reader is of the whole blob. A suffix
    /// range is resolved by http, which learns the size from the reader.
    pub async fn blob(
        &self,
        ask: &Ask,
        digest: &Digest,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<BlobAnswer, Error> {
        todo!()
    }
    pub async fn head_blob(&self, ask: &Ask, digest: &Digest) -> Result<BlobHead, Error> {
        todo!()
    }
    pub async fn tags(&self, ask: &Ask) -> Result<TagsAnswer, Error> {
        todo!()
    }
    pub async fn referrers(&self, ask: &Ask, digest: &Digest) -> Result<ReferrersAnswer, Error> {
        todo!()
    }
    /// `upstream/repository` for every non-default upstream, `repository` for the default one; byte order.
    pub async fn catalog(&self, client: &Client) -> Result<Vec<String>, Error> {
        todo!()
    }
    /// What every identity has left.
    pub fn budget(&self) -> Vec<Left> {
        todo!()
    }
    pub fn spends(&self, most: usize) -> Vec<Spend> {
        todo!()
    }
    pub fn explain(&self, repository: &Name, reference: Option<&str>) -> Vec<Spend> {
        todo!()
    }
    /// Answers given from the cache since the ledger began, by (manifest GETs that upstream was not asked).
    pub fn saved(&self) -> u64 {
        todo!()
    }
    pub fn usage(&self) -> Usage {
        todo!()
    }
    /// For `DELETE /api/v1/cache`: forgets a tag or a repository; returns how many entries went.
    pub async fn purge(&self, upstream: &str, repository: &Name, reference: Option<&Tag>) -> Result<u64, Error> {
        todo!()
    }
    /// Stops fills so that they can be resumed, and flushes; called at the end of the drain.
    pub async fn close(&self) {
        todo!()
    }
}
