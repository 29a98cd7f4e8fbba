//! The tags by which digests became known, for the ledger: clients fetch by digest, and operators know tags.

use std::sync::Arc;

use super::lookup::Lookup;
use crate::oci::{Digest, Manifest, Name};

/// Digests that are remembered. A lost one is shown as the digest alone.
const ENTRIES: u64 = 20_000;

/// What a tag of a repository named lately, itself and by way of an index. Bounded. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Names(moka::sync::Cache<(Arc<str>, Name, Digest), Arc<str>>);

impl Names {
    pub(super) fn new() -> Names {
        Names(moka::sync::Cache::new(ENTRIES))
    }

    /// The tag, and the platform behind it, that named this digest last: `latest` or `latest (linux/amd64)`.
    pub(super) fn of(&self, lookup: &Lookup, digest: &Digest) -> Option<Arc<str>> {
        self.0.get(&(lookup.upstream.clone(), lookup.repository.clone(), digest.clone()))
    }

    /// This digest is what `name` names.
    pub(super) fn learn(&self, lookup: &Lookup, digest: Digest, name: Arc<str>) {
        self.0.insert((lookup.upstream.clone(), lookup.repository.clone(), digest), name);
    }

    /// The manifests of an index whose own name is known are named after it and their platform.
    pub(super) fn learn_platforms(&self, lookup: &Lookup, index: &Manifest) {
        if !index.media_type.is_index() {
            return;
        }
        let Some(name) = self.of(lookup, &index.digest) else { return };
        let document: serde_json::Value = serde_json::from_slice(&index.bytes).unwrap_or_default();
        for child in document["manifests"].as_array().into_iter().flatten() {
            let platform = &child["platform"];
            let words = ["os", "architecture", "variant"].iter().filter_map(|key| platform[*key].as_str());
            let platform = words.collect::<Vec<_>>().join("/");
            if let Some(digest) = child["digest"].as_str().and_then(|digest| digest.parse().ok()) {
                self.learn(lookup, digest, format!("{name} ({platform})").into());
            }
        }
    }
}
