//! What `/api/v1/cache` says of images, against an independent model: the files, the graph that the test made, and its own tags.
//!
//! From a seed come images of one platform, indexes, indexes of indexes, with shared layers; pulls of a part of them; evictions, objects
//! that rot, files that vanish while Weir is stopped, tags that go, restarts, and an index that is deleted. After each operation the
//! list, every image, the filters, the repositories and the registries are compared.
//!
//! `WEIR_COMPLETENESS_SEED=7 cargo test -p weir --test weir completeness` runs one seed again, and `WEIR_COMPLETENESS_SEEDS=1000` so many.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use serde_json::{Value, json};
use weir::{
    admin::Serving,
    limits::{Limits, LimitsConfig},
    mirror::Mirror,
};
use weir_storage::{
    Repair, Settings, Source, Store, TagRecord,
    oci::{Algorithm, Digest, Manifest, MediaType},
};

use crate::{
    deploy::ask,
    mirror::support::{Change, over},
    pages::harness::listen,
};

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 30;
const OPERATIONS: usize = 14;
/// All blobs of a seed and one filler fit, and a second filler does not; the tenth that manifests have is never full.
const CAPACITY: u64 = 160 << 10;
const FILLER: usize = 100 << 10;
const REPOSITORIES: [&str; 3] = ["a/b", "a/b/c", "library/d"];
const TAGS: [&str; 2] = ["1", "2"];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn bytes(&mut self, length: usize) -> Bytes {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// A name in a manifest.
#[derive(Clone)]
struct Named {
    digest: Digest,
    size: u64,
    is_manifest: bool,
    platform: Option<String>,
}

/// A manifest as the test made it.
struct Made {
    manifest: Manifest,
    children: Vec<Named>,
}

impl Made {
    fn new(media_type: &str, text: String, children: Vec<Named>) -> Made {
        let bytes = Bytes::from(text);
        let media_type: MediaType = media_type.parse().unwrap();
        Made { manifest: Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }, children }
    }

    fn image(random: &mut Random, blobs: &[(Digest, Bytes)]) -> Made {
        let mut pick = || {
            let (digest, bytes) = &blobs[random.below(blobs.len())];
            Named { digest: digest.clone(), size: bytes.len() as u64, is_manifest: false, platform: None }
        };
        let (config, layers) = (pick(), [pick(), pick()]);
        let descriptor = |named: &Named| json!({"digest": named.digest.to_string(), "size": named.size});
        let layers_text: Vec<Value> = layers.iter().map(descriptor).collect();
        let text = json!({"schemaVersion": 2, "config": descriptor(&config), "layers": layers_text});
        Made::new(IMAGE, text.to_string(), [vec![config], layers.to_vec()].concat())
    }

    fn index(children: &[&Made]) -> Made {
        let named = |(number, child): (usize, &&Made)| Named {
            digest: child.manifest.digest.clone(),
            size: child.manifest.bytes.len() as u64,
            is_manifest: true,
            // The last of three has none, as some attestations.
            platform: (number < 2).then(|| format!("linux/a{number}")),
        };
        let children: Vec<Named> = children.iter().enumerate().map(named).collect();
        let entry = |named: &Named| {
            let mut entry = json!({"mediaType": IMAGE, "digest": named.digest.to_string(), "size": named.size});
            if let Some(platform) = &named.platform {
                entry["platform"] = json!({"os": "linux", "architecture": platform.strip_prefix("linux/")});
            }
            entry
        };
        let entries: Vec<Value> = children.iter().map(entry).collect();
        Made::new(INDEX, json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string(), children)
    }
}

/// An image as the lists name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    repository: &'static str,
    tag: Option<&'static str>,
    digest: Digest,
}

impl Entry {
    fn name(&self) -> String {
        match self.tag {
            Some(tag) => format!("docker.io/{}:{tag}", self.repository),
            None => format!("docker.io/{}@{}", self.repository, self.digest),
        }
    }
}

/// What the answers must be, from what was made, what was named, and which files there are.
#[derive(Default)]
struct Model {
    made: BTreeMap<Digest, Made>,
    tags: BTreeMap<(&'static str, &'static str), Digest>,
    /// Manifests that a repository is known to have. After a restart it is known of those that are there.
    known: BTreeSet<(&'static str, Digest)>,
    /// What repositories have by their files, known or not.
    members: BTreeSet<(&'static str, Digest)>,
}

type Files = BTreeMap<Digest, u64>;

impl Model {
    fn children(&self, files: &Files, digest: &Digest) -> &[Named] {
        let made = self.made.get(digest).filter(|_| files.contains_key(digest));
        made.map_or(&[], |made| &made.children)
    }

    /// All that an object leads to, itself included.
    fn reach(&self, files: &Files, digest: &Digest) -> BTreeSet<Digest> {
        let (mut reached, mut todo) = (BTreeSet::new(), vec![digest.clone()]);
        while let Some(digest) = todo.pop() {
            todo.extend(self.children(files, &digest).iter().map(|child| child.digest.clone()));
            reached.insert(digest);
        }
        reached
    }

    /// The sizes that are claimed of what an object leads to.
    fn claims(&self, files: &Files, digest: &Digest, claimed: u64) -> BTreeMap<Digest, u64> {
        let mut claims = BTreeMap::from([(digest.clone(), claimed)]);
        for named in self.reach(files, digest).iter().flat_map(|digest| self.children(files, digest)) {
            claims.insert(named.digest.clone(), named.size);
        }
        claims
    }

    /// Bytes named, bytes here, and whether all is.
    fn measure(&self, files: &Files, digest: &Digest, claimed: u64) -> (u64, u64, bool) {
        let reached = self.reach(files, digest);
        let claims = self.claims(files, digest, claimed);
        let size = reached.iter().map(|digest| files.get(digest).unwrap_or(&claims[digest])).sum();
        let here = reached.iter().filter_map(|digest| files.get(digest)).sum();
        (size, here, reached.iter().all(|digest| files.contains_key(digest)))
    }

    /// Tags, and what is known of a repository and is part of no image of it.
    fn images(&self, files: &Files) -> Vec<Entry> {
        let mut images = Vec::new();
        for repository in REPOSITORIES {
            let tags = self.tags.iter().filter(|((of, _), _)| *of == repository);
            let tags = tags.map(|((_, tag), digest)| Entry { repository, tag: Some(tag), digest: digest.clone() });
            let tagged: Vec<Entry> = tags.collect();
            let known = self.known.iter().filter(|(of, digest)| *of == repository && files.contains_key(digest));
            let known: Vec<&Digest> = known.map(|(_, digest)| digest).collect();
            let is_part = |digest: &Digest| {
                let mut others = tagged
                    .iter()
                    .map(|image| &image.digest)
                    .chain(known.iter().copied().filter(|other| *other != digest));
                others.any(|other| self.reach(files, other).contains(digest))
            };
            let untagged = known.iter().filter(|digest| !is_part(digest));
            let untagged: Vec<Entry> =
                untagged.map(|digest| Entry { repository, tag: None, digest: (*digest).clone() }).collect();
            images.extend(tagged);
            images.extend(untagged);
        }
        images
    }

    /// What other images than this one need too.
    fn shared(&self, files: &Files, images: &[Entry], image: &Entry) -> BTreeSet<Digest> {
        let others = images.iter().filter(|other| *other != image);
        let needed: BTreeSet<Digest> = others.flat_map(|other| self.reach(files, &other.digest)).collect();
        self.reach(files, &image.digest).intersection(&needed).cloned().collect()
    }

    fn entry(&self, files: &Files, images: &[Entry], image: &Entry) -> Value {
        let (size, here, complete) = self.measure(files, &image.digest, 0);
        let shared = self.shared(files, images, image);
        let children = self.children(files, &image.digest);
        let platform = |child: &Named| {
            let (size, here, complete) = self.measure(files, &child.digest, child.size);
            json!({"platform": child.platform, "digest": child.digest.to_string(), "complete": complete, "size": size, "here": here})
        };
        let platforms: Vec<Value> = children.iter().filter(|child| child.is_manifest).map(platform).collect();
        let claims = self.claims(files, &image.digest, 0);
        let object = |digest: &Digest| {
            json!({
                "digest": digest.to_string(),
                "size": files.get(digest).unwrap_or(&claims[digest]),
                "here": files.contains_key(digest),
                "shared": shared.contains(digest),
            })
        };
        let reached = self.reach(files, &image.digest);
        let mut objects: Vec<Value> = reached.iter().filter(|digest| **digest != image.digest).map(object).collect();
        objects.sort_by_key(|object| object["digest"].to_string());
        json!({
            "name": image.name(),
            "tag": image.tag,
            "digest": image.digest.to_string(),
            "complete": complete,
            "size": size,
            "here": here,
            "platforms": platforms,
            "shared": shared.iter().filter_map(|digest| files.get(digest)).sum::<u64>(),
            "objects": objects,
        })
    }

    /// What these images have together.
    fn summary<'a>(
        &self,
        files: &Files,
        images: impl Iterator<Item = &'a Entry>,
    ) -> (BTreeSet<&'static str>, u64, u64) {
        let (mut repositories, mut count, mut reached) = (BTreeSet::new(), 0, BTreeSet::new());
        for image in images {
            repositories.insert(image.repository);
            count += 1;
            reached.extend(self.reach(files, &image.digest));
        }
        (repositories, count, reached.iter().filter_map(|digest| files.get(digest)).sum())
    }
}

/// A Weir that answers from a directory, without an upstream.
struct Running {
    store: Store,
    mirror: Mirror,
    admin: std::net::SocketAddr,
    serving: Serving,
}

impl Running {
    async fn start(root: &Path) -> Running {
        let settings = Settings {
            root: root.to_owned(),
            capacity: CAPACITY,
            // What is removed is removed while a writer waits for it, and nothing at another time.
            high_watermark: 1.0,
            low_watermark: 1.0,
            ..Settings::default()
        };
        let store = Store::open(settings).unwrap();
        let mirror = over(&store, "http://127.0.0.1:9".parse().unwrap(), &Change::default());
        let (admin, serving) =
            listen(mirror.clone(), Limits::in_memory(LimitsConfig::default()), <_>::default(), |_| ());
        while !store.images.is_complete() {
            tokio::task::yield_now().await;
        }
        Running { store, mirror, admin, serving }
    }

    async fn stop(self) {
        self.serving.stop().await;
        self.mirror.close().await;
        self.store.close().await;
    }

    fn get(&self, path: &str) -> Value {
        let (status, _, body) = ask(self.admin, "GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn put(&self, digest: &Digest, bytes: &Bytes) {
        let mut writer = self.store.blobs.write(digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes.slice(writer.written() as usize..)).await.unwrap();
        writer.commit().await.unwrap();
    }
}

/// Every object that is a file: its place and its size.
fn objects(root: &Path) -> BTreeMap<Digest, (PathBuf, u64)> {
    let mut found = BTreeMap::new();
    for kind in ["blobs", "manifests"] {
        for shard in std::fs::read_dir(root.join(kind).join("sha256")).into_iter().flatten() {
            for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                found.insert(format!("sha256:{name}").parse().unwrap(), (file.path(), file.metadata().unwrap().len()));
            }
        }
    }
    found
}

fn source(repository: &str) -> Source {
    let repository = repository.parse().unwrap();
    Source { upstream: "docker.io".into(), credential: Source::ANONYMOUS.into(), repository }
}

/// The fields of an answer that the model speaks of.
fn known(answer: &Value, fields: &[&str]) -> Value {
    let absent = |key: &str| if key == "platforms" { json!([]) } else { Value::Null };
    let field = |key: &&str| ((*key).to_owned(), answer.get(*key).cloned().unwrap_or_else(|| absent(key)));
    Value::Object(fields.iter().map(field).collect())
}

const LISTED: [&str; 8] = ["name", "tag", "digest", "complete", "size", "here", "platforms", "shared"];
const SHOWN: [&str; 9] = ["name", "tag", "digest", "complete", "size", "here", "platforms", "shared", "objects"];

fn names(page: &Value) -> BTreeSet<String> {
    page["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

/// Every answer is what the model says.
fn check(what: &str, running: &Running, root: &Path, model: &Model) {
    let files: Files = objects(root).into_iter().map(|(digest, (_, size))| (digest, size)).collect();
    let images = model.images(&files);
    let page = running.get("/api/v1/cache?n=1000");
    let mut listed: Vec<Value> = page["images"].as_array().unwrap().iter().map(|image| known(image, &LISTED)).collect();
    let mut expected: Vec<Value> = images.iter().map(|image| model.entry(&files, &images, image)).collect();
    listed.sort_by_key(|image| image["name"].to_string());
    expected.sort_by_key(|image| image["name"].to_string());
    let of_list: Vec<Value> = expected.iter().map(|image| known(image, &LISTED)).collect();
    assert_eq!(json!(listed), json!(of_list), "{what}: the list");
    for (image, expected) in images.iter().map(|image| (image, model.entry(&files, &images, image))) {
        let reference = image.tag.map_or_else(|| image.digest.to_string(), str::to_owned);
        let path = format!("/api/v1/cache/image?repository=docker.io/{}&reference={reference}", image.repository);
        // A digest that a tag names too is shown as that tag's.
        if image.tag.is_some() || !model.tags.values().any(|digest| *digest == image.digest) {
            let mut shown = running.get(&path);
            shown["objects"].as_array_mut().unwrap().sort_by_key(|object| object["digest"].to_string());
            assert_eq!(known(&shown, &SHOWN), expected, "{what}: {path}");
        }
    }
    for (query, wanted) in [("complete=true", true), ("complete=false", false)] {
        let of_model: BTreeSet<String> = expected
            .iter()
            .filter(|image| image["complete"] == wanted)
            .map(|image| image["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names(&running.get(&format!("/api/v1/cache?n=1000&{query}"))), of_model, "{what}: {query}");
    }
    let has_platform = |image: &&Value| {
        image["platforms"].as_array().unwrap().iter().any(|platform| platform["platform"] == "linux/a1")
    };
    let of_model: BTreeSet<String> =
        expected.iter().filter(has_platform).map(|image| image["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names(&running.get("/api/v1/cache?n=1000&platform=linux/a1")), of_model, "{what}: a platform");

    let (repositories, count, bytes) = model.summary(&files, images.iter());
    let of_all =
        json!([{"registry": "docker.io", "repositories": repositories.len(), "images": count, "bytes": bytes}]);
    let of_all = if images.is_empty() { json!([]) } else { of_all };
    assert_eq!(running.get("/api/v1/cache/registries")["registries"], of_all, "{what}: the registries");
    let of_each: Vec<Value> = repositories
        .iter()
        .map(|repository| {
            let (_, count, bytes) =
                model.summary(&files, images.iter().filter(|image| image.repository == *repository));
            json!({"name": format!("docker.io/{repository}"), "images": count, "bytes": bytes})
        })
        .collect();
    let page = running.get("/api/v1/cache/repositories?n=1000");
    let listed: Vec<Value> =
        page["repositories"].as_array().unwrap().iter().map(|it| known(it, &["name", "images", "bytes"])).collect();
    assert_eq!(listed, of_each, "{what}: the repositories");
}

/// The graph of a seed, and the blobs it names.
fn make(random: &mut Random) -> (Model, Vec<Digest>, Vec<(Digest, Bytes)>) {
    let blobs: Vec<(Digest, Bytes)> = (0..10)
        .map(|number| {
            let bytes = random.bytes(100 + number * 300);
            (Algorithm::Sha256.digest(&bytes), bytes)
        })
        .collect();
    let plain: Vec<Made> = (0..6).map(|_| Made::image(random, &blobs)).collect();
    let mut indexes: Vec<Made> = (0..3).map(|n| Made::index(&[&plain[n], &plain[n + 1], &plain[n + 2]])).collect();
    indexes.push(Made::index(&[&indexes[0], &plain[5]]));
    indexes.push(Made::index(&[&indexes[3], &indexes[1], &plain[0]]));
    let made: BTreeMap<Digest, Made> =
        plain.into_iter().chain(indexes).map(|made| (made.manifest.digest.clone(), made)).collect();
    let tops = made.keys().cloned().collect();
    (Model { made, ..Model::default() }, tops, blobs)
}

/// A pull of a part: some platforms of an index, some blobs of a platform.
async fn pull(random: &mut Random, running: &Running, model: &mut Model, tops: &[Digest], blobs: &[(Digest, Bytes)]) {
    let (repository, top) = (REPOSITORIES[random.below(3)], &tops[random.below(tops.len())]);
    let source = source(repository);
    let mut todo = vec![top.clone()];
    while let Some(digest) = todo.pop() {
        let made = &model.made[&digest];
        running.store.cache.manifests.put(&made.manifest).await.unwrap();
        running.store.cache.members.add(&source, std::slice::from_ref(&digest)).await.unwrap();
        for child in &made.children {
            match child.is_manifest {
                true if random.chance() => todo.push(child.digest.clone()),
                false if random.below(3) > 0 => {
                    let (digest, bytes) = blobs.iter().find(|(digest, _)| *digest == child.digest).unwrap();
                    running.put(digest, bytes).await;
                    running.store.cache.members.add(&source, std::slice::from_ref(digest)).await.unwrap();
                }
                _ => {}
            }
        }
        model.known.insert((repository, digest.clone()));
        model.members.insert((repository, digest));
    }
    if random.below(4) > 0 {
        let tag = TAGS[random.below(2)];
        let Manifest { digest, media_type, bytes } = &model.made[top].manifest;
        let record = TagRecord {
            digest: digest.clone(),
            media_type: media_type.clone(),
            size: bytes.len() as u64,
            checked_at: SystemTime::now(),
        };
        running.store.cache.tags.put(&source, &tag.parse().unwrap(), &record).await.unwrap();
        model.tags.insert((repository, tag), top.clone());
    }
}

async fn run(seed: u64) {
    let mut random = Random(seed);
    let (mut model, tops, blobs) = make(&mut random);
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut running = Running::start(root).await;
    for number in 0..OPERATIONS {
        let what = match random.below(10) {
            0..=3 => {
                pull(&mut random, &running, &mut model, &tops, &blobs).await;
                "a pull"
            }
            4 => {
                for _ in 0..2 {
                    let bytes = random.bytes(FILLER);
                    running.put(&Algorithm::Sha256.digest(&bytes), &bytes).await;
                }
                "an eviction"
            }
            5 | 6 => {
                let there = objects(root);
                if let Some((digest, (path, size))) = there.iter().nth(random.below(there.len().max(1))) {
                    let mut bytes = std::fs::read(path).unwrap();
                    bytes[*size as usize - 1] ^= 1;
                    std::fs::write(path, bytes).unwrap();
                    let report = running.store.scrub.run(Repair::Corrupt, 0, Arc::default()).await.unwrap();
                    assert_eq!((report.damaged, &report.damages[0].digest), (1, digest), "seed {seed}");
                }
                "an object that rots"
            }
            7 => {
                let (repository, tag) = (REPOSITORIES[random.below(3)], TAGS[random.below(2)]);
                running.store.cache.tags.remove(&source(repository), &tag.parse().unwrap()).await.unwrap();
                model.tags.remove(&(repository, tag));
                "a tag that goes"
            }
            8 => {
                // A client asks by digest, of a repository that may have it.
                let (repository, digest) = (REPOSITORIES[random.below(3)], &tops[random.below(tops.len())]);
                let is_member = running.store.cache.members.load(&source(repository), digest).await.unwrap();
                assert_eq!(is_member, model.members.contains(&(repository, digest.clone())), "seed {seed}");
                let is_here = running.store.cache.manifests.load(digest).await.unwrap().is_some();
                if is_member && is_here {
                    model.known.insert((repository, digest.clone()));
                }
                "a pull by digest"
            }
            _ => {
                running.stop().await;
                let there = objects(root);
                if let Some((_, (path, _))) = there.iter().nth(random.below(2 * there.len() + 1)) {
                    std::fs::remove_file(path).unwrap();
                }
                if random.chance() {
                    std::fs::remove_dir_all(root.join("index")).unwrap();
                }
                running = Running::start(root).await;
                let there = objects(root);
                model.known = model.members.iter().filter(|(_, digest)| there.contains_key(digest)).cloned().collect();
                "a restart"
            }
        };
        check(&format!("seed {seed}, after operation {number}, {what}"), &running, root, &model);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_images_are_what_an_independent_model_says_whatever_was_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = number("WEIR_COMPLETENESS_SEEDS").unwrap_or(SEEDS);
    let seeds = number("WEIR_COMPLETENESS_SEED").map_or(0..seeds, |seed| seed..seed + 1);
    for seed in seeds {
        run(seed).await;
    }
}
