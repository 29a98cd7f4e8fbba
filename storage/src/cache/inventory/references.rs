//! Which manifests name an object: kept as manifests come and go, so that what an image shares, and what an object that went was part of,
//! is looked up.
//!
//! Most objects are named by one manifest, and there are a million: an entry of those has 32 bits of a keyed hash and 32 of a number that
//! stands for the manifest. Two objects may share the bits, so that what is found here is looked at before it is believed.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::Children;
use crate::oci::Digest;

/// A number that stands for a manifest while that is here.
pub(super) type Number = u32;

/// What all manifests that are here name.
#[derive(Debug, Default)]
pub(super) struct References {
    // Keyed, so that no publisher chooses which objects share an entry.
    hasher: RandomState,
    once: HashMap<u32, Number, foldhash::quality::RandomState>,
    /// Named by several manifests.
    often: HashMap<u32, Vec<Number>, foldhash::quality::RandomState>,
    manifests: Vec<Option<Digest>>,
    free: Vec<Number>,
}

impl References {
    fn key(&self, digest: &Digest) -> u32 {
        self.hasher.hash_one(digest) as u32
    }

    /// The entries of what a manifest names, each once.
    fn keys(&self, children: &Children) -> Vec<u32> {
        let mut keys: Vec<u32> = children.iter().map(|child| self.key(&child.digest)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// A manifest that names these is here; gives its number.
    pub(super) fn add(&mut self, digest: &Digest, children: &Children) -> Number {
        let number = self.free.pop().unwrap_or(self.manifests.len() as Number);
        match self.manifests.get_mut(number as usize) {
            Some(place) => *place = Some(digest.clone()),
            None => self.manifests.push(Some(digest.clone())),
        }
        for key in self.keys(children) {
            if let Some(several) = self.often.get_mut(&key) {
                several.push(number);
            } else if let Some(one) = self.once.remove(&key) {
                self.often.insert(key, vec![one, number]);
            } else {
                self.once.insert(key, number);
            }
        }
        number
    }

    /// The manifest of this number, which names these, is here no more.
    pub(super) fn remove(&mut self, number: Number, children: &Children) {
        for key in self.keys(children) {
            let Some(several) = self.often.get_mut(&key) else {
                self.once.remove(&key);
                continue;
            };
            several.retain(|other| *other != number);
            if let [one] = several[..] {
                self.often.remove(&key);
                self.once.insert(key, one);
            }
        }
        if let Some(place) = self.manifests.get_mut(number as usize).filter(|place| place.is_some()) {
            *place = None;
            self.free.push(number);
        }
    }

    /// The manifests that name this object, and seldom one that does not.
    pub(super) fn parents(&self, digest: &Digest) -> impl Iterator<Item = &Digest> {
        let key = self.key(digest);
        let several = self.often.get(&key).map(Vec::as_slice).unwrap_or_default();
        let numbers = several.iter().chain(self.once.get(&key));
        numbers.filter_map(|number| self.manifests.get(*number as usize)?.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Child};

    #[test]
    fn who_names_an_object_is_known_as_manifests_come_and_go() {
        let digest = |name: &str| Algorithm::Sha256.digest(name.as_bytes());
        let child =
            |name: &str| Child { digest: digest(name), size: 1, is_manifest: false, platform: None, is_foreign: false };
        let (first, second, third) = (digest("first"), digest("second"), digest("third"));
        let of_first = Children::from(vec![child("one"), child("one"), child("two")]);
        let of_others = Children::from(vec![child("one")]);
        let mut references = References::default();
        let parents = |references: &References, name: &str| {
            let mut parents: Vec<Digest> = references.parents(&digest(name)).cloned().collect();
            parents.sort_unstable();
            parents
        };
        let sorted = |mut digests: Vec<&Digest>| {
            digests.sort_unstable();
            digests.into_iter().cloned().collect::<Vec<_>>()
        };
        let one = references.add(&first, &of_first);
        let two = references.add(&second, &of_others);
        let three = references.add(&third, &of_others);
        assert_eq!(parents(&references, "one"), sorted(vec![&first, &second, &third]));
        assert_eq!(parents(&references, "two"), sorted(vec![&first]));
        references.remove(one, &of_first);
        assert_eq!(parents(&references, "one"), sorted(vec![&second, &third]));
        references.remove(two, &of_others);
        assert_eq!((parents(&references, "one"), parents(&references, "two")), (vec![third.clone()], vec![]));
        assert_eq!(references.add(&first, &of_first), two, "a number is given again");
        assert_eq!(parents(&references, "one"), sorted(vec![&first, &third]));
        references.remove(two, &of_first);
        references.remove(three, &of_others);
        assert!(references.once.is_empty() && references.often.is_empty());
    }
}
