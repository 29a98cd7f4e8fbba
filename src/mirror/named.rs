//! The blobs that manifests of a repository name, and how large they are said to be.
//!
//! Upstream need not say how large a blob is (RFC 9112 section 6.3), and a proxy cache answers 404 to the HEAD of a blob that it has
//! not fetched. What a client was given of a manifest tells both. It vouches for nothing: only upstream's answer does.

use super::lookup::{Key, Lookup, Object};
use crate::oci::{Manifest, Reference};

/// Sizes in bytes by blob, and manifests that were read. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct NamedBlobs(moka::sync::Cache<Key, u64>);

impl NamedBlobs {
    /// Of `entries` blobs and manifests at most; a blob that falls out costs its registry's word, or another request.
    pub(super) fn new(entries: u64) -> NamedBlobs {
        NamedBlobs(moka::sync::Cache::new(entries))
    }

    /// Reads a manifest of this repository, unless it was read lately.
    pub(super) fn learn(&self, lookup: &Lookup, manifest: &Manifest) {
        let read = lookup.key(Object::Manifest(Reference::Digest(manifest.digest.clone())));
        if self.0.contains_key(&read) {
            return;
        }
        // The layers of a cache that BuildKit exported stand in an index, as manifests would.
        for child in manifest.describe().map(|description| description.children).unwrap_or_default() {
            self.0.insert(lookup.key(Object::Blob(child.digest)), child.size);
        }
        self.0.insert(read, 0);
    }

    /// The size of a blob that some manifest names; zero when it does not say.
    pub(super) fn size(&self, blob: &Key) -> Option<u64> {
        self.0.get(blob)
    }
}
