//! What of some images other images need too.

use std::collections::{HashMap, HashSet};

use super::Reading;
use crate::{
    cache::{Image, Repository},
    oci::Digest,
};

/// Who else names a manifest.
#[derive(Default)]
struct Roots<'a> {
    tags: usize,
    repositories: HashSet<&'a Repository>,
}

impl Reading<'_> {
    /// For each of these images the objects that other images need, its own manifest included when another tag or repository has it. One
    /// scan in memory, however many images.
    pub fn shared(&self, images: &[Image]) -> Vec<HashSet<Digest>> {
        let own: Vec<HashSet<Digest>> = images.iter().map(|image| self.state.reach([&image.digest])).collect();
        let mut named: HashMap<&Digest, usize> = own.iter().flatten().map(|digest| (digest, 0)).collect();
        for (_, children) in self.state.manifests() {
            for child in children.iter() {
                if let Some(times) = named.get_mut(&child.digest) {
                    *times += 1;
                }
            }
        }
        let mut roots: HashMap<&Digest, Roots<'_>> = HashMap::new();
        for (repository, _, digest) in self.state.tags() {
            if named.contains_key(digest) {
                let root = roots.entry(digest).or_default();
                root.tags += 1;
                root.repositories.insert(repository);
            }
        }
        for repository in self.state.repositories(None) {
            // A repository that is known to have a manifest whose bytes are gone has no image of it.
            let is_here = |digest: &&Digest| named.contains_key(digest) && self.state.children(digest).is_some();
            for digest in self.state.digests(repository).filter(is_here) {
                roots.entry(digest).or_default().repositories.insert(repository);
            }
        }
        images.iter().zip(&own).map(|(image, own)| self.shared_of(image, own, &named, &roots)).collect()
    }

    fn shared_of(
        &self,
        image: &Image,
        own: &HashSet<Digest>,
        named: &HashMap<&Digest, usize>,
        roots: &HashMap<&Digest, Roots<'_>>,
    ) -> HashSet<Digest> {
        let mut by_own: HashMap<&Digest, usize> = HashMap::new();
        let children = own.iter().filter_map(|digest| self.state.children(digest)).flat_map(|children| children.iter());
        children.for_each(|child| *by_own.entry(&child.digest).or_default() += 1);
        let is_shared = |digest: &Digest| {
            let times = |counts: &HashMap<&Digest, usize>| counts.get(digest).copied().unwrap_or_default();
            let own_tag = usize::from(image.tag.is_some() && *digest == image.digest);
            times(named) > times(&by_own)
                || roots.get(digest).is_some_and(|root| {
                    root.tags > own_tag || root.repositories.iter().any(|other| **other != image.repository)
                })
        };
        // What a shared manifest names is needed with it.
        self.state.reach(own.iter().filter(|digest| is_shared(digest)))
    }

    /// Bytes of these objects that are here.
    pub fn stored<'a>(&self, objects: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let mut accounts = self.capacity.accounts();
        let accounts = &mut *accounts;
        let sizes = objects.into_iter().filter_map(|digest| match self.state.children(digest) {
            Some(_) => accounts.manifests.get(digest),
            None => accounts.blobs.get(digest),
        });
        sizes.map(|entry| entry.size).sum()
    }
}
