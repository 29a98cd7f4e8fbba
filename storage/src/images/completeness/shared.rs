//! What of some images other images need too.

use std::collections::HashSet;

use super::Reading;
use crate::{cache::Image, oci::Digest};

impl Reading<'_> {
    /// For each of these images the objects that other images need, its own manifest included when another tag or repository has it.
    /// Costs what these images name, however many others there are.
    pub fn shared(&self, images: &[Image]) -> Vec<HashSet<Digest>> {
        images.iter().map(|image| self.shared_of(image)).collect()
    }

    fn shared_of(&self, image: &Image) -> HashSet<Digest> {
        let own = self.state.reach([&image.digest]);
        let named: HashSet<&Digest> = self.inventory.named_elsewhere(&own).into_iter().collect();
        let is_shared = |digest: &&Digest| {
            let own_tag = u32::from(image.tag.is_some() && **digest == image.digest);
            named.contains(*digest)
                || self.state.is_tagged_more(digest, own_tag)
                || self.state.is_elsewhere(digest, &image.repository)
        };
        // What a shared manifest names is needed with it.
        self.state.reach(own.iter().filter(is_shared))
    }

    /// Bytes of these objects that are here.
    pub fn stored<'a>(&self, objects: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let accounts = self.capacity.accounts();
        let sizes = objects.into_iter().filter_map(|digest| match self.state.children(digest) {
            Some(_) => accounts.manifests.get(digest),
            None => accounts.blobs.get(digest),
        });
        sizes.map(|entry| entry.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::SystemTime,
    };

    use bytes::Bytes;

    use super::*;
    use crate::{
        Settings, Source,
        cache::{Inventory, Repository},
        capacity::Capacity,
        oci::{Algorithm, Manifest, Tag},
    };

    const OPERATIONS: usize = 2000;

    fn manifest(list: &str, children: &[&Digest]) -> Manifest {
        let entries: Vec<String> = children.iter().map(|it| format!(r#"{{"digest":"{it}","size":1}}"#)).collect();
        let bytes = Bytes::from(format!(r#"{{"schemaVersion":2,"{list}":[{}]}}"#, entries.join(",")));
        let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
    }

    /// What is cached, in plain collections.
    #[derive(Default)]
    struct Model {
        manifests: BTreeMap<Digest, Vec<Digest>>,
        tags: BTreeMap<(Repository, Tag), Digest>,
        members: BTreeSet<(Repository, Digest)>,
    }

    impl Model {
        fn reach(&self, from: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
            let (mut todo, mut reached): (Vec<Digest>, HashSet<Digest>) = (from.into_iter().collect(), HashSet::new());
            while let Some(digest) = todo.pop() {
                if reached.insert(digest.clone()) {
                    todo.extend(self.manifests.get(&digest).into_iter().flatten().cloned());
                }
            }
            reached
        }

        fn shared(&self, image: &Image) -> HashSet<Digest> {
            let own = self.reach([image.digest.clone()]);
            let is_shared = |digest: &&Digest| {
                let others = self.manifests.iter().filter(|(parent, _)| !own.contains(*parent));
                let is_named = others.flat_map(|(_, children)| children).any(|child| child == *digest);
                let is_own = |(repository, tag): &(Repository, Tag)| {
                    *repository == image.repository && Some(tag) == image.tag.as_ref()
                };
                let is_tagged = self.tags.iter().any(|(name, named)| named == *digest && !is_own(name));
                let is_elsewhere = self.manifests.contains_key(*digest)
                    && self.members.iter().any(|(repository, had)| had == *digest && *repository != image.repository);
                is_named || is_tagged || is_elsewhere
            };
            self.reach(own.iter().filter(is_shared).cloned().collect::<Vec<_>>())
        }
    }

    #[test]
    fn what_is_shared_is_what_a_scan_of_everything_says() {
        let blobs: Vec<Digest> = (0..4_u8).map(|number| Algorithm::Sha256.digest(&[number])).collect();
        // The last names one layer twice.
        let mut manifests: Vec<Manifest> =
            [[0, 1], [1, 2], [2, 3], [3, 3]].map(|layers| manifest("layers", &layers.map(|it| &blobs[it]))).into();
        let indexes =
            [[0, 1], [1, 3]].map(|parts| manifest("manifests", &parts.map(|it: usize| &manifests[it].digest)));
        manifests.extend(indexes);
        let sources = ["a", "b"].map(|name| Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: name.parse().unwrap(),
        });
        let tags: [Tag; 2] = ["1", "2"].map(|tag| tag.parse().unwrap());
        let (capacity, _demands) = Capacity::new(&Settings::default(), 0);
        let (inventory, mut model) = (Inventory::default(), Model::default());
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut compared = 0;
        for number in 0..OPERATIONS {
            let (source, tag, manifest) = (&sources[random(2)], &tags[random(2)], &manifests[random(6)]);
            let (digest, key) = (&manifest.digest, (Repository::from(source), tag.clone()));
            match random(8) {
                0..3 => {
                    inventory.manifest(manifest, SystemTime::now(), false);
                    let children = manifest.describe().unwrap().children.into_iter().map(|child| child.digest);
                    model.manifests.insert(digest.clone(), children.collect());
                }
                3 => {
                    inventory.gone(digest);
                    model.manifests.remove(digest);
                }
                4 => {
                    inventory.tag(source, tag, digest, SystemTime::UNIX_EPOCH, false);
                    model.tags.insert(key, digest.clone());
                }
                5 => {
                    inventory.untag(source, tag);
                    model.tags.remove(&key);
                }
                6 => {
                    inventory.member(source, digest, false);
                    model.members.insert((key.0, digest.clone()));
                }
                _ => {
                    inventory.unmember(source, digest);
                    model.members.remove(&(key.0, digest.clone()));
                }
            }
            let reading = Reading::new(&inventory, &capacity);
            let images: Vec<Image> = reading.images(None).collect();
            for (image, shared) in images.iter().zip(reading.shared(&images)) {
                assert_eq!(shared, model.shared(image), "{} after operation {number}", image.name());
                compared += shared.len();
            }
            assert_eq!(reading.state.names(), (model.tags.len() + model.members.len()) as u64);
        }
        assert!(compared > OPERATIONS, "little was shared");
    }
}
