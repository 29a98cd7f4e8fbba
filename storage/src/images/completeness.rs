//! How much of an image is here, from the inventory and the accounts. No system call.

mod shared;
mod summary;

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
    time::SystemTime,
};

use foldhash::quality::RandomState;
use serde::Serialize;

pub use self::summary::Summaries;
use crate::{
    cache::{Children, DEPTH, Image, Inventory, Repository, State},
    capacity::Capacity,
    files::Kind,
    oci::{Child, Digest},
};

/// Objects that were looked at: an index may name one a thousand times.
pub(super) type Seen<'a> = HashSet<&'a Digest, RandomState>;

/// How much of an image is here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Completeness {
    /// All of it is here, for every platform.
    pub complete: bool,
    /// Bytes of the manifests and blobs that it names, as far as manifests are here to name them.
    pub size: u64,
    /// Bytes of them that are here.
    pub here: u64,
    /// For an index, each of its manifests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

/// A manifest of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// As `linux/arm64/v8`; `unknown/unknown` is an attestation.
    pub platform: Option<Box<str>>,
    /// The manifest.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// All of it is here.
    pub complete: bool,
    /// Bytes that it names, as far as its manifest is here to name them.
    pub size: u64,
    /// Bytes of them that are here; none for a platform that was never pulled.
    pub here: u64,
}

fn as_text<S: serde::Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

/// What a registry or a repository has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Repositories.
    pub repositories: u64,
    /// Images: tags, and digests that no tag reaches.
    pub images: u64,
    /// Bytes that are here; what several of its images name counts once.
    pub bytes: u64,
}

/// Whether the image of a full name is listed.
pub type NameFilter<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// Which images are listed; what is absent does not count.
#[derive(Default)]
pub struct ImageFilter<'a> {
    /// Those of this upstream.
    pub registry: Option<&'a str>,
    /// Those of this repository.
    pub repository: Option<&'a Repository>,
    /// Those whose full names this takes.
    pub name: Option<NameFilter<'a>>,
    /// Those of which all is here, or those of which something is missing.
    pub complete: Option<bool>,
}

/// The inventory at a moment, and the accounts as they are. Nothing waits for it.
#[derive(Debug)]
pub struct Reading<'a> {
    pub(super) state: State,
    pub(super) inventory: &'a Inventory,
    pub(super) capacity: &'a Capacity,
    /// What is cached when it is first asked what is complete: a pull that reads never waits for that to be found out.
    settled: OnceLock<State>,
}

impl<'a> Reading<'a> {
    /// What is cached now.
    pub(super) fn new(inventory: &'a Inventory, capacity: &'a Capacity) -> Reading<'a> {
        Reading { state: inventory.read(), inventory, capacity, settled: OnceLock::new() }
    }
}

impl Reading<'_> {
    /// The images from this repository on, by upstream, repository, tag in byte order.
    pub fn images(&self, from: Option<&Repository>) -> impl Iterator<Item = Image> {
        self.state.repositories(from).flat_map(|repository| self.state.images(repository))
    }

    /// As [`Reading::images`], those that are wanted. A scan of names and look-ups alone, which is several times as fast.
    pub fn images_wanted<'b>(
        &'b self,
        from: Option<&'b Repository>,
        wanted: ImageFilter<'b>,
    ) -> impl Iterator<Item = Image> + 'b {
        let ImageFilter { registry, repository: only, name, complete } = wanted;
        let is_as_wanted = move |digest: &Digest| complete == Some(self.is_complete(digest));
        let repositories = self.state.repositories(from.max(only));
        let repositories = repositories.filter(move |it| registry.is_none_or(|registry| *it.upstream == *registry));
        let repositories = repositories.take_while(move |it| only.is_none_or(|only| *it == only));
        repositories.flat_map(move |repository| {
            let manifest: Option<&dyn Fn(&Digest) -> bool> =
                if complete.is_some() { Some(&is_as_wanted) } else { None };
            self.state.images_wanted(repository, name.as_deref(), manifest)
        })
    }

    /// The images of one repository.
    pub fn images_of(&self, repository: &Repository) -> Vec<Image> {
        self.state.images(repository)
    }

    /// All that the cached images of a credential reach; not what is hosted. A scan in memory.
    pub fn reach(&self, credential: &str) -> HashSet<Digest> {
        let is_of = |image: &Image| !image.repository.is_hosted() && *image.credential == *credential;
        let images: Vec<Image> = self.images(None).filter(is_of).collect();
        self.state.reach(images.iter().map(|image| &image.digest))
    }

    /// When a manifest came, to the second; `None` when it is not here. A look-up.
    pub fn arrived(&self, digest: &Digest) -> Option<SystemTime> {
        self.state.arrived(digest)
    }

    /// Whether all that a manifest names was here when this was first asked; [`Reading::completeness`] says how much is. A look-up, but for
    /// the first, which takes up what came and went.
    pub fn is_complete(&self, digest: &Digest) -> bool {
        let settled = self.settled.get_or_init(|| {
            self.inventory.settle(self.capacity);
            self.inventory.read()
        });
        settled.is_whole(digest)
    }

    /// Bytes of what a manifest names, as far as manifests are here to name them, by the sizes that these claim. Cheaper than
    /// [`Reading::completeness`], and the same when no registry lied about a size. A look-up, but for an index.
    pub fn claimed_size(&self, digest: &Digest) -> u64 {
        let mut size = self.capacity.size(Kind::Manifest, digest).unwrap_or_default();
        if let Some(claimed) = self.state.claimed(digest) {
            return size.saturating_add(claimed);
        }
        let (mut todo, mut seen) = (vec![digest], Seen::default());
        while let Some(digest) = todo.pop() {
            for child in self.state.children(digest).into_iter().flat_map(|children| children.iter()) {
                if seen.insert(&child.digest) {
                    size += child.size();
                    todo.extend(child.is_manifest().then_some(&child.digest));
                }
            }
        }
        size
    }

    /// Whether one of the platforms that a manifest claims for what it names is wanted. Of a manifest that is here; no size is looked up.
    pub fn claims_platform(&self, digest: &Digest, is_wanted: impl Fn(&str) -> bool) -> bool {
        let children = self.state.children(digest).into_iter().flat_map(Children::with_platforms);
        children.filter_map(|(_, platform)| platform).any(is_wanted)
    }

    /// How much of what a manifest names is here.
    pub fn completeness(&self, digest: &Digest) -> Completeness {
        let (size, here, complete) = self.measure(digest, None, &mut Seen::default(), DEPTH);
        let children = self.state.children(digest).into_iter().flat_map(Children::with_platforms);
        let mut measured = HashMap::new();
        let platforms = children.filter(|(child, _)| child.is_manifest()).map(|(child, platform)| {
            let measure = || self.measure(&child.digest, Some(child.size()), &mut Seen::default(), DEPTH - 1);
            let (size, here, complete) = *measured.entry(&child.digest).or_insert_with(measure);
            Platform { platform: platform.map(Box::from), digest: child.digest.clone(), complete, size, here }
        });
        Completeness { complete, size, here, platforms: platforms.collect() }
    }

    /// Bytes named and bytes here, each object once, and whether all is here. `claimed` is the size that a parent claims.
    fn measure<'a>(
        &'a self,
        digest: &'a Digest,
        claimed: Option<u64>,
        seen: &mut Seen<'a>,
        depth: u8,
    ) -> (u64, u64, bool) {
        if !seen.insert(digest) {
            return (0, 0, true);
        }
        let stored = self.capacity.size(Kind::Manifest, digest);
        let Some((children, stored)) = self.state.children(digest).zip(stored) else {
            return (claimed.unwrap_or_default(), 0, false);
        };
        let (mut size, mut here, mut complete) = (stored, stored, true);
        for child in children.iter() {
            let (more, present, whole) = match child.is_manifest() {
                true if depth == 0 => (child.size(), 0, false),
                true => self.measure(&child.digest, Some(child.size()), seen, depth - 1),
                false if !seen.insert(&child.digest) => (0, 0, true),
                false => match self.capacity.size(Kind::Blob, &child.digest) {
                    Some(stored) => (stored, stored, true),
                    None => (child.size(), 0, false),
                },
            };
            size += more;
            here += present;
            complete &= whole;
        }
        (size, here, complete)
    }

    /// What a manifest names, in order: config, layers, manifests; and the size of each as it is stored here.
    pub fn objects(&self, digest: &Digest) -> Vec<(Child, Option<u64>)> {
        let children = self.state.children(digest).into_iter().flat_map(Children::described);
        let with_stored = |child: Child| {
            let kind = if child.is_manifest { Kind::Manifest } else { Kind::Blob };
            let stored = self.capacity.size(kind, &child.digest);
            (child, stored)
        };
        children.map(with_stored).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        Settings, Source,
        cache::Inventory,
        images::{Puller, Pulls},
        oci::{Algorithm, Manifest, Reference},
    };

    /// Kilobytes of anonymous memory that this process has.
    fn memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn blob(number: usize) -> Digest {
        Algorithm::Sha256.digest(&number.to_le_bytes())
    }

    /// `WEIR_IMAGES=100000 cargo test -p weir-storage --lib -- --nocapture at_scale` measures what so many images of a million
    /// objects take, alone in its process.
    #[test]
    fn at_scale_a_list_takes_little_time_and_memory() {
        let wanted = std::env::var("WEIR_IMAGES").ok().map(|text| text.parse::<usize>().unwrap());
        let (images, layers) = (wanted.unwrap_or(2000), 9);
        let (capacity, _demands) = Capacity::new(&Settings::default(), 0);
        for number in 0..images * layers {
            capacity.insert(Kind::Blob, &blob(number), 1000);
        }
        let inventory = Inventory::default();
        let mut manifests = Vec::with_capacity(images);
        for number in 0..images {
            let layers: Vec<String> = (number * layers..(number + 1) * layers)
                .map(|layer| format!(r#"{{"digest":"{}","size":1000}}"#, blob(layer)))
                .collect();
            let bytes = bytes::Bytes::from(format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(",")));
            let digest = Algorithm::Sha256.digest(&bytes);
            let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
            capacity.insert(Kind::Manifest, &digest, bytes.len() as u64);
            manifests.push(Manifest { digest, media_type, bytes });
        }
        let before = memory();
        for (number, manifest) in manifests.iter().enumerate() {
            let repository = format!("team{}/app", number % 1000).parse().unwrap();
            let source = Source { upstream: "docker.io".into(), credential: Source::ANONYMOUS.into(), repository };
            inventory.manifest(manifest, SystemTime::now(), false);
            inventory.member(&source, &manifest.digest, false);
            let tag = format!("v{number}").parse().unwrap();
            inventory.tag(&source, &tag, &manifest.digest, SystemTime::now(), false);
        }
        // Each was pulled by as many clients as are remembered of one.
        let pulls = Pulls::new();
        for number in 0..images {
            let place = Repository {
                upstream: "docker.io".into(),
                name: format!("team{}/app", number % 1000).parse().unwrap(),
            };
            for client in 0..5 {
                let key = (place.clone(), Reference::Tag(format!("v{number}").parse().unwrap()));
                pulls.note(key, &Puller::Address(client), SystemTime::now());
            }
            // A thread notes so many at most between two drains.
            if number % 1000 == 0 || number + 1 == images {
                pulls.drain(&inventory);
            }
        }
        let (start, reading) = (Instant::now(), Reading::new(&inventory, &capacity));
        assert!(reading.is_complete(&manifests[0].digest));
        println!("which images are complete, of all: {:?}", start.elapsed());
        let more = memory().saturating_sub(before) >> 10;
        let page: Vec<Image> = reading.images(None).take(100).collect();
        let timed = |what: &str, found: usize, work: &dyn Fn() -> usize| {
            let start = Instant::now();
            assert_eq!(work(), found, "{what}");
            println!("{what}: {:?}", start.elapsed());
        };
        let complete = |image: &Image| reading.is_complete(&image.digest);
        timed("first page", 100, &|| reading.images(None).take(100).filter(complete).count());
        timed("what a page shares", 100, &|| reading.shared(&page).iter().filter(|shared| shared.is_empty()).count());
        timed("a registry", 1, &|| {
            let (_, all) = reading.summaries().registries[0].clone();
            usize::from(all.images == images as u64 && all.bytes > (images * layers * 1000) as u64)
        });
        let last = format!("v{}", images - 1);
        timed("search", 1, &|| {
            let name: NameFilter<'_> = Box::new(|name| name.ends_with(&last));
            reading.images_wanted(None, ImageFilter { name: Some(name), ..ImageFilter::default() }).count()
        });
        timed("largest", images, &|| {
            reading.images(None).filter(|image| reading.claimed_size(&image.digest) > 0).count()
        });
        timed("last pulled", images, &|| {
            let last = |image: &Image| pulls.last(&image.repository, image.tag.as_ref(), &image.digest);
            reading.images(None).filter(|image| last(image).is_some()).count()
        });
        let incomplete = || ImageFilter { complete: Some(false), ..ImageFilter::default() };
        timed("incomplete", 0, &|| reading.images_wanted(None, incomplete()).count());
        // Eviction between two lists.
        let gone = images / 100;
        for number in 0..gone {
            capacity.evicted(Kind::Blob, &blob(number * layers));
        }
        timed("incomplete after an eviction", gone, &|| {
            let later = Reading::new(&inventory, &capacity);
            later.images_wanted(None, incomplete()).count()
        });
        println!("memory, with the record of pulls: {more} MiB");
        let last: Image = reading.images(None).last().unwrap();
        assert_eq!(pulls.of(&last.repository, last.tag.as_ref(), &last.digest).unwrap().pulls, 5);
        // Beside other tests the process has other memory, too.
        assert!(wanted.is_none() || more * 2000 < 3 * images as u64, "{more} MiB");
    }
}
