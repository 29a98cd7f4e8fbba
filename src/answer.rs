//! What a mirrored or a hosted repository answers, as values.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use weir_storage::{Reader, TagRecord};

use crate::oci::{Digest, Manifest, MediaType, Tag};

/// How a request was answered: the cache-status log field, metric label and header (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheStatus {
    /// From the cache, without asking upstream.
    Hit,
    /// From upstream, and kept.
    Miss,
    /// From the cache, after upstream confirmed it.
    Revalidated,
    /// From the cache past its freshness, because upstream did not answer.
    Stale,
    /// From upstream, and not kept.
    Bypass,
}

impl CacheStatus {
    /// All there are, in the order of their numbers.
    pub const ALL: [CacheStatus; 5] =
        [CacheStatus::Hit, CacheStatus::Miss, CacheStatus::Revalidated, CacheStatus::Stale, CacheStatus::Bypass];

    /// The word for it in the log and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheStatus::Hit => "hit",
            CacheStatus::Miss => "miss",
            CacheStatus::Revalidated => "revalidated",
            CacheStatus::Stale => "stale",
            CacheStatus::Bypass => "bypass",
        }
    }
}

/// How an answer came about; goes along with every answer.
#[derive(Clone, Debug)]
pub struct CacheFacts {
    /// How it was answered.
    pub status: CacheStatus,
    /// The time since upstream last confirmed it; `Age` (RFC 9111 §5.1).
    pub age: Duration,
    /// Why it is stale, for `Warning: 299`.
    pub warning: Option<Arc<str>>,
}

impl CacheFacts {
    /// An answer that is confirmed at this moment.
    pub fn now(status: CacheStatus) -> CacheFacts {
        CacheFacts { status, age: Duration::ZERO, warning: None }
    }
}

/// A manifest and how it came.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// The manifest.
    pub manifest: Manifest,
    /// How it came.
    pub facts: CacheFacts,
}

impl ManifestAnswer {
    /// The same without the bytes.
    pub fn head(&self) -> ManifestHead {
        ManifestHead {
            digest: self.manifest.digest.clone(),
            media_type: self.manifest.media_type.clone(),
            size: self.manifest.bytes.len() as u64,
            facts: self.facts.clone(),
        }
    }
}

/// The answer to HEAD of a manifest. A cold HEAD fetches no bytes.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// What the tag names, or the digest that was asked for.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// How it came.
    pub facts: CacheFacts,
}

impl ManifestHead {
    pub(crate) fn of(record: TagRecord, facts: CacheFacts) -> ManifestHead {
        ManifestHead { digest: record.digest, media_type: record.media_type, size: record.size, facts }
    }
}

/// A blob, whole or arriving, and how it comes.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Reads it.
    pub reader: Reader,
    /// How it comes.
    pub facts: CacheFacts,
}

/// The answer to HEAD of a blob.
#[derive(Clone, Debug)]
pub struct BlobHead {
    /// Its size in bytes.
    pub size: u64,
    /// How it came.
    pub facts: CacheFacts,
}

/// A repository's tags.
#[derive(Clone, Debug)]
pub struct TagsAnswer {
    /// All of them, in byte order.
    pub tags: Arc<[Tag]>,
    /// How they came.
    pub facts: CacheFacts,
}

/// The referrers of a manifest.
#[derive(Clone, Debug)]
pub struct ReferrersAnswer {
    /// Descriptors as upstream has them, unfiltered; `http` filters and says so.
    pub descriptors: Arc<[Value]>,
    /// How they came.
    pub facts: CacheFacts,
}
