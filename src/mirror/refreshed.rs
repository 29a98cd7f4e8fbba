//! What a refresh of a tag finds, as a value.

use crate::oci::Digest;

/// What a refresh found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// What the tag named before, when it was cached.
    pub before: Option<Digest>,
    /// What it names now.
    pub digest: Digest,
    /// Manifests of platforms that were fetched with it.
    pub platforms: u64,
}
