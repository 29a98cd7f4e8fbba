//! Images as an operator sees them: completeness, purge and pins, against what the directory says.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tempfile::tempdir;
use weir_storage::{
    Faults, Image, Pin, Repository, Selection, Settings, Source, Store,
    oci::{Algorithm, Digest, Manifest, MediaType, Tag},
};

use crate::{EIO, content, drain, names, put, settings, small::record, source, until};

/// A generator that gives the same numbers in each run of a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % most
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn parsed(media_type: &str, text: String) -> Manifest {
    let bytes = Bytes::from(text);
    let media_type: MediaType = media_type.parse().unwrap();
    Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
}

/// A manifest of these blobs; the first is its config.
fn image(blobs: &[(Digest, Bytes)]) -> Manifest {
    let descriptor = |(digest, bytes): &(Digest, Bytes)| format!(r#"{{"digest":"{digest}","size":{}}}"#, bytes.len());
    let layers: Vec<String> = blobs[1..].iter().map(descriptor).collect();
    let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(&blobs[0]), layers.join(","));
    parsed("application/vnd.oci.image.manifest.v1+json", text)
}

fn index(children: &[&Manifest]) -> Manifest {
    let entry = |(n, child): (usize, &&Manifest)| {
        let (digest, size) = (&child.digest, child.bytes.len());
        format!(r#"{{"digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"a{n}"}}}}"#)
    };
    let entries: Vec<String> = children.iter().enumerate().map(entry).collect();
    parsed(
        "application/vnd.oci.image.index.v1+json",
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")),
    )
}

/// Waits until what was stored before the start is known.
async fn open(settings: Settings) -> Store {
    let store = Store::open(settings).unwrap();
    until("the inventory is read", || store.images.is_complete()).await;
    store
}

async fn add(store: &Store, source: &Source, manifest: &Manifest) {
    store.cache.manifests.put(manifest).await.unwrap();
    store.cache.members.add(source, std::slice::from_ref(&manifest.digest)).await.unwrap();
}

async fn tag(store: &Store, source: &Source, tag: &str, manifest: &Manifest) {
    store.cache.tags.put(source, &tag.parse().unwrap(), &record(&manifest.digest)).await.unwrap();
}

fn images(store: &Store) -> Vec<Image> {
    store.images.read().images(None).collect()
}

/// Every object that is a file, with its size.
fn objects(root: &Path) -> BTreeMap<Digest, u64> {
    let mut found = BTreeMap::new();
    for kind in ["blobs", "manifests"] {
        let directory = root.join(kind).join("sha256");
        for shard in names(&directory) {
            for name in names(directory.join(&shard)) {
                let size = std::fs::metadata(directory.join(&shard).join(&name)).unwrap().len();
                found.insert(format!("sha256:{name}").parse().unwrap(), size);
            }
        }
    }
    found
}

fn repository(name: &str) -> Repository {
    Repository { upstream: "docker.io".into(), name: name.parse().unwrap() }
}

/// What the files say of an image: bytes that are here, and whether all is.
fn on_disk(files: &BTreeMap<Digest, u64>, all: &BTreeMap<Digest, Manifest>, digest: &Digest) -> (u64, bool) {
    let (mut here, mut complete) = (0, true);
    let (mut todo, mut seen) = (vec![digest.clone()], HashSet::new());
    while let Some(digest) = todo.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        match files.get(&digest) {
            None => complete = false,
            Some(size) => {
                here += size;
                let children = all.get(&digest).map(|manifest| manifest.describe().unwrap().children);
                todo.extend(children.into_iter().flatten().map(|child| child.digest));
            }
        }
    }
    (here, complete)
}

/// The store and the files agree, and nothing is kept that no image reaches.
fn check(seed: u64, store: &Store, root: &Path, all: &BTreeMap<Digest, Manifest>) {
    let files = objects(root);
    let reading = store.images.read();
    let mut reached = HashSet::new();
    for image in reading.images(None) {
        let told = reading.completeness(&image.digest);
        assert_eq!(told.complete, reading.is_complete(&image.digest), "seed {seed}: {}", image.name());
        assert_eq!((told.here, told.complete), on_disk(&files, all, &image.digest), "seed {seed}: {}", image.name());
        for platform in &told.platforms {
            let child = on_disk(&files, all, &platform.digest);
            assert_eq!((platform.here, platform.complete), child, "seed {seed}: {}", image.name());
        }
        let mut todo = vec![image.digest];
        while let Some(digest) = todo.pop() {
            todo.extend(reading.objects(&digest).into_iter().map(|(child, _)| child.digest));
            reached.insert(digest);
        }
    }
    let idle: Vec<_> = files.keys().filter(|digest| !reached.contains(digest)).collect();
    assert!(idle.is_empty(), "seed {seed}: {idle:?} are of no image");
}

/// Against a model: the directory itself. `WEIR_SEED` replays one seed, `WEIR_SEEDS` runs so many.
#[tokio::test]
async fn an_image_is_complete_when_its_files_are_and_a_purge_frees_what_no_other_image_needs() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = number("WEIR_SEED").map_or(0..number("WEIR_SEEDS").unwrap_or(60), |seed| seed..seed + 1);
    for seed in seeds {
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let mut random = Random(seed);
    let blobs: Vec<_> = (0..8).map(|n| content(n, 100 + n as usize)).collect();
    let plain: Vec<Manifest> =
        (0..6).map(|_| image(&[0; 3].map(|_| blobs[random.below(8) as usize].clone()))).collect();
    let indexes: Vec<Manifest> = (0..3).map(|n| index(&[&plain[n], &plain[n + 1]])).collect();
    let all: BTreeMap<Digest, Manifest> =
        plain.iter().chain(&indexes).map(|manifest| (manifest.digest.clone(), manifest.clone())).collect();
    let root = tempdir().unwrap();
    let mut store = open(settings(root.path())).await;
    for _ in 0..12 {
        let name = ["a/b", "a/b/c", "library/d"][random.below(3) as usize];
        let tag_name = ["1", "2"][random.below(2) as usize];
        let source = source(name);
        match random.below(6) {
            0..=3 => {
                let top = match random.chance() {
                    true => &indexes[random.below(3) as usize],
                    false => &plain[random.below(6) as usize],
                };
                add(&store, &source, top).await;
                tag(&store, &source, tag_name, top).await;
                let mut pulled = vec![top.clone()];
                for child in top.describe().unwrap().children.iter().filter(|child| child.is_manifest) {
                    if random.chance() {
                        add(&store, &source, &all[&child.digest]).await;
                        pulled.push(all[&child.digest].clone());
                    }
                }
                for child in pulled.iter().flat_map(|manifest| manifest.describe().unwrap().children) {
                    if !child.is_manifest && random.below(3) > 0 {
                        let (digest, bytes) = blobs.iter().find(|(digest, _)| *digest == child.digest).unwrap();
                        put(&store, digest, bytes).await.unwrap();
                        store.cache.members.add(&source, std::slice::from_ref(digest)).await.unwrap();
                    }
                }
            }
            4 => {
                let before = images(&store);
                drop(store);
                if random.chance() {
                    std::fs::remove_dir_all(root.path().join("index")).unwrap();
                }
                store = open(settings(root.path())).await;
                assert_eq!(images(&store), before, "seed {seed}: after a restart");
            }
            _ => {
                let before = (images(&store), objects(root.path()));
                let selection = match (random.below(4), before.0.get(random.below(6) as usize)) {
                    (0, Some(image)) => Selection::Digest(image.digest.clone()),
                    (3, Some(image)) => Selection::Manifest(image.repository.clone(), image.digest.clone()),
                    (1, _) => Selection::Repository(repository(name)),
                    _ => Selection::Tag(repository(name), tag_name.parse().unwrap()),
                };
                purge(seed, &store, root.path(), &selection, before).await;
            }
        }
        check(seed, &store, root.path(), &all);
    }
    let (digest, bytes) = content(99, 1000);
    put(&store, &digest, &bytes).await.unwrap();
    let files = objects(root.path());
    let purged = store.images.purge(vec![Selection::All], false).await.unwrap();
    assert_eq!((purged.freed, purged.kept), (files.values().sum(), 0), "seed {seed}");
    assert!(objects(root.path()).is_empty() && images(&store).is_empty(), "seed {seed}: everything was purged");
    for name in ["a/b", "a/b/c", "library/d"] {
        let members = names(root.path().join("repositories/docker.io/anonymous").join(name).join("_members"));
        assert!(members.is_empty(), "seed {seed}: {name} is still known to have {members:?}");
    }
}

async fn purge(
    seed: u64,
    store: &Store,
    root: &Path,
    selection: &Selection,
    (images_before, files): (Vec<Image>, BTreeMap<Digest, u64>),
) {
    let is_selected = |image: &Image| match selection {
        Selection::Repository(repository) => image.repository == *repository,
        Selection::Tag(repository, tag) => image.repository == *repository && image.tag.as_ref() == Some(tag),
        Selection::Manifest(repository, digest) => image.repository == *repository && image.digest == *digest,
        Selection::Digest(digest) => image.digest == *digest,
        Selection::All => true,
    };
    let measure = |images: &[Image]| -> Vec<_> {
        let reading = store.images.read();
        images.iter().map(|image| (image.clone(), reading.completeness(&image.digest))).collect()
    };
    let others: Vec<Image> = images_before.into_iter().filter(|image| !is_selected(image)).collect();
    let untouched = measure(&others);
    let rehearsed = store.images.purge(vec![selection.clone()], true).await.unwrap();
    assert_eq!(objects(root), files, "seed {seed}: a dry run removed something");
    let purged = store.images.purge(vec![selection.clone()], false).await.unwrap();
    let after = objects(root);
    let freed = files.values().sum::<u64>() - after.values().sum::<u64>();
    assert_eq!(purged.freed, freed, "seed {seed}: {selection:?}");
    assert_eq!(purged.manifests + purged.blobs, (files.len() - after.len()) as u64, "seed {seed}: {selection:?}");
    assert_eq!(rehearsed, purged, "seed {seed}: {selection:?}");
    assert!(!images(store).iter().any(is_selected), "seed {seed}: {selection:?} is still there");
    if !matches!(selection, Selection::Digest(_)) {
        assert_eq!(measure(&others), untouched, "seed {seed}: {selection:?} took what another image needs");
        assert_eq!(images(store), others, "seed {seed}: {selection:?}");
    }
}

/// An index of indexes, each of which names the next a thousand times: a million million ways lead to its one manifest.
#[tokio::test]
async fn an_image_that_names_the_same_again_and_again_is_looked_through_once() {
    let root = tempdir().unwrap();
    let store = open(settings(root.path())).await;
    let blobs = [content(1, 100), content(2, 1000)];
    for (digest, bytes) in &blobs {
        put(&store, digest, bytes).await.unwrap();
    }
    let mut top = image(&blobs);
    for _ in 0..4 {
        add(&store, &source("a/b"), &top).await;
        top = index(&[&top; 1000]);
    }
    add(&store, &source("a/b"), &top).await;
    tag(&store, &source("a/b"), "1", &top).await;
    {
        let reading = store.images.read();
        let told = reading.completeness(&top.digest);
        assert!(reading.is_complete(&top.digest) && told.complete && told.platforms.len() == 1000);
    }
    assert_eq!(images(&store).len(), 1);
    store.images.pin(pin("docker.io/a/b")).await.unwrap();
    let purged = store.images.purge(vec![Selection::Repository(repository("a/b"))], false).await.unwrap();
    assert_eq!((purged.manifests, purged.blobs), (5, 2));
}

#[tokio::test]
async fn a_purge_waits_for_the_pull_that_reads_and_the_pull_ends_well() {
    let root = tempdir().unwrap();
    let store = open(settings(root.path())).await;
    let blobs = [content(1, 100), content(2, 200_000)];
    let manifest = image(&blobs);
    add(&store, &source("a/b"), &manifest).await;
    tag(&store, &source("a/b"), "1", &manifest).await;
    for (digest, bytes) in &blobs {
        put(&store, digest, bytes).await.unwrap();
    }
    let mut reader = store.blobs.load(&blobs[1].0).await.unwrap().unwrap();
    let selection = vec![Selection::Tag(repository("a/b"), "1".parse::<Tag>().unwrap())];
    let images = store.images.clone();
    let purge = tokio::spawn(async move { images.purge(selection, false).await.unwrap() });
    until("the small blob is gone", || !crate::blob_path(root.path(), &blobs[0].0).exists()).await;
    let (bytes, end) = drain(&mut reader).await;
    assert!(end.is_ok() && bytes == blobs[1].1);
    assert!(!purge.is_finished() && crate::blob_path(root.path(), &blobs[1].0).exists());
    drop(reader);
    let purged = purge.await.unwrap();
    assert_eq!((purged.blobs, purged.manifests, purged.kept), (2, 1, 0));
    assert!(!crate::blob_path(root.path(), &blobs[1].0).exists());
}

#[tokio::test]
async fn a_manifest_has_come_when_it_was_stored_also_after_a_restart() {
    let root = tempdir().unwrap();
    let store = open(settings(root.path())).await;
    let (old, new) = (image(&[content(1, 100)]), image(&[content(2, 100)]));
    let second = Duration::from_secs(1);
    let before = SystemTime::now() - second;
    for manifest in [&old, &new] {
        add(&store, &source("a/b"), manifest).await;
    }
    let arrived = |store: &Store, manifest: &Manifest| store.images.read().arrived(&manifest.digest);
    let at = arrived(&store, &new).unwrap();
    assert!(before <= at && at <= SystemTime::now(), "{at:?}");
    store.images.purge(vec![Selection::Digest(new.digest.clone())], false).await.unwrap();
    assert_eq!(arrived(&store, &new), None);
    drop(store);

    let hex = old.digest.hex();
    let path = root.path().join("manifests/sha256").join(&hex[..2]).join(hex);
    let written = SystemTime::UNIX_EPOCH + 1_700_000_000 * second;
    std::fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    let store = open(settings(root.path())).await;
    assert_eq!(arrived(&store, &old), Some(written));
}

#[tokio::test]
async fn what_a_pull_reads_for_longer_than_a_purge_waits_goes_after_it_unless_an_image_needs_it_again() {
    let root = tempdir().unwrap();
    let store = open(settings(root.path())).await;
    let blobs = [1, 2, 3, 4, 5].map(|seed| content(seed, if seed == 1 { 100 } else { 200_000 }));
    let manifest = image(&blobs[..4]);
    add(&store, &source("a/b"), &manifest).await;
    tag(&store, &source("a/b"), "1", &manifest).await;
    for (digest, bytes) in &blobs {
        put(&store, digest, bytes).await.unwrap();
    }
    let is_there = |blob: usize| crate::blob_path(root.path(), &blobs[blob].0).exists();
    let again = store.blobs.load(&blobs[1].0).await.unwrap().unwrap();
    let mut reader = store.blobs.load(&blobs[2].0).await.unwrap().unwrap();
    let last = store.blobs.load(&blobs[3].0).await.unwrap().unwrap();
    let by_digest = store.blobs.load(&blobs[4].0).await.unwrap().unwrap();
    let selected = vec![Selection::Repository(repository("a/b")), Selection::Digest(blobs[4].0.clone())];
    let purged = store.images.purge(selected, false).await.unwrap();
    assert_eq!((purged.blobs, purged.manifests, purged.kept, purged.reading), (1, 1, 4, 4));
    let other = image(&[blobs[0].clone(), blobs[1].clone(), blobs[4].clone()]);
    add(&store, &source("a/c"), &other).await;
    tag(&store, &source("a/c"), "1", &other).await;
    drop((again, by_digest));
    let (bytes, end) = drain(&mut reader).await;
    assert!(end.is_ok() && bytes == blobs[2].1 && is_there(2));
    drop(reader);
    until("what is read no more is gone", || !is_there(2)).await;
    // It goes at a later look, so that all that could go at the first one has gone.
    assert!(is_there(3));
    drop(last);
    until("the last one is gone", || !is_there(3)).await;
    assert!(is_there(1), "another image has come to need it");
    assert!(!is_there(4), "it was purged by its digest, whatever names it");
}

fn pin(pattern: &str) -> Pin {
    Pin { pattern: pattern.into(), by: "operator".into(), reason: "a test".into(), at: SystemTime::now() }
}

#[tokio::test]
async fn eviction_leaves_alone_what_is_pinned_and_pins_have_a_share() {
    let root = tempdir().unwrap();
    let small = Settings { capacity: 1 << 20, ..settings(root.path()) };
    let store = open(small.clone()).await;
    let blobs = [content(1, 100), content(2, 400_000)];
    let kept = image(&blobs);
    let large = image(&[blobs[0].clone(), content(3, 300_000)]);
    for (name, manifest) in [("acme/kept", &kept), ("acme/large", &large)] {
        add(&store, &source(name), manifest).await;
        tag(&store, &source(name), "1", manifest).await;
    }
    for (digest, bytes) in blobs.iter().chain([&content(3, 300_000)]) {
        put(&store, digest, bytes).await.unwrap();
    }
    store.images.pin(pin("docker.io/acme/kept:*")).await.unwrap();
    let refused = store.images.pin(pin("docker.io/acme/*")).await.unwrap_err().to_string();
    assert!(refused.contains("storage.pinned_share"), "{refused}");
    drop(store);
    let store = open(small).await;
    assert_eq!(store.images.pins().len(), 1);
    for seed in 10..40 {
        let (digest, bytes) = content(seed, 300_000);
        put(&store, &digest, &bytes).await.unwrap();
    }
    let complete = |manifest: &Manifest| store.images.read().completeness(&manifest.digest).complete;
    assert!(complete(&kept), "it was pinned");
    assert!(!complete(&large), "it was not");
    assert!(store.images.unpin("docker.io/acme/kept:*").await.unwrap());
    for seed in 40..60 {
        let (digest, bytes) = content(seed, 300_000);
        put(&store, &digest, &bytes).await.unwrap();
    }
    assert!(!complete(&kept), "it is not pinned any more");
}

#[tokio::test]
async fn what_no_client_asks_for_goes_in_time_and_what_is_asked_for_or_pinned_stays() {
    let root = tempdir().unwrap();
    let store = open(Settings { max_idle: Duration::from_secs(6), ..settings(root.path()) }).await;
    let blobs = [content(1, 100), content(2, 1000)];
    let kept = image(&blobs);
    add(&store, &source("acme/kept"), &kept).await;
    tag(&store, &source("acme/kept"), "1", &kept).await;
    store.images.pin(pin("docker.io/acme/kept")).await.unwrap();
    let (idle, used) = (content(3, 1000), content(4, 1000));
    for (digest, bytes) in blobs.iter().chain([&idle, &used]) {
        put(&store, digest, bytes).await.unwrap();
    }
    let is_here = |(digest, _): &(Digest, Bytes)| crate::blob_path(root.path(), digest).exists();
    while is_here(&idle) {
        assert!(store.blobs.load(&used.0).await.unwrap().is_some(), "it is asked for all the time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_here(&used), "it was asked for a moment ago");
    assert!(store.images.read().completeness(&kept.digest).complete, "it is pinned");
    assert!(store.images.unpin("docker.io/acme/kept").await.unwrap());
    until("what is not pinned any more is gone", || !is_here(&blobs[1])).await;
    until("no client asks for it any more", || !is_here(&used)).await;
}

/// A disk that fails for good while what is stored is read must not keep the process from ending.
#[test]
fn a_store_closes_though_what_is_stored_can_never_be_read() {
    let root = tempdir().unwrap();
    let store = loop {
        let faults = Faults::default();
        let store = Store::open_on(settings(root.path()), faults.clone()).unwrap();
        faults.fail_all(EIO);
        // Else it was read already.
        if !store.images.is_complete() {
            break store;
        }
    };
    let (closed, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(store);
        let _ = closed.send(());
    });
    assert!(end.recv_timeout(Duration::from_secs(30)).is_ok(), "a thread of the store does not end");
}
