//! How often manifests name an object: counted as manifests come and go, so that what an image shares is looked up.
//!
//! Most objects are named once, and there are a million: an entry of those has 64 bits of a keyed hash and no count. Two objects that share
//! one are as likely as one in ten million stores has, and then one is shown as shared that is not.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use crate::oci::{Child, Digest};

/// The references of all manifests that are here.
#[derive(Debug, Default)]
pub(super) struct References {
    // Keyed, so that no publisher chooses which objects share one.
    hasher: RandomState,
    once: HashSet<u64, foldhash::quality::RandomState>,
    /// Named twice or more.
    often: HashMap<u64, u32, foldhash::quality::RandomState>,
}

impl References {
    /// A manifest that names these is here.
    pub(super) fn add(&mut self, children: &[Child]) {
        for child in children {
            let key = self.hasher.hash_one(&child.digest);
            if let Some(times) = self.often.get_mut(&key) {
                *times = times.saturating_add(1);
            } else if self.once.contains(&key) {
                self.once.remove(&key);
                self.often.insert(key, 2);
            } else {
                self.once.insert(key);
            }
        }
    }

    /// A manifest that names these is here no more.
    pub(super) fn remove(&mut self, children: &[Child]) {
        for child in children {
            let key = self.hasher.hash_one(&child.digest);
            let Some(times) = self.often.get_mut(&key) else {
                self.once.remove(&key);
                continue;
            };
            *times -= 1;
            if *times < 2 {
                self.often.remove(&key);
                self.once.insert(key);
            }
        }
    }

    /// How many references there are to it, each counted that a manifest has.
    pub(super) fn times(&self, digest: &Digest) -> usize {
        let key = self.hasher.hash_one(digest);
        self.often.get(&key).map_or(usize::from(self.once.contains(&key)), |times| *times as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn references_are_counted_as_manifests_come_and_go() {
        let child = |name: &str| Child {
            digest: Algorithm::Sha256.digest(name.as_bytes()),
            size: 1,
            is_manifest: false,
            platform: None,
            is_foreign: false,
        };
        let (one, two) = (child("one"), child("two"));
        let mut references = References::default();
        let count = |references: &References| [&one, &two].map(|child| references.times(&child.digest));
        let twice = [one.clone(), one.clone(), two.clone()];
        references.add(&twice);
        references.add(std::slice::from_ref(&one));
        assert_eq!(count(&references), [3, 1]);
        references.remove(&twice);
        assert_eq!(count(&references), [1, 0]);
        references.remove(std::slice::from_ref(&one));
        assert_eq!(count(&references), [0, 0]);
        assert!(references.once.is_empty() && references.often.is_empty());
    }
}
