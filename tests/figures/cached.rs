//! Lists and searches of a hundred thousand images of a million objects: how long an answer takes, and what the process has in memory.

use std::{
    fs::{File, create_dir_all},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use weir_conformance::{client::Request, hub::Hub};
use weir_storage::{
    Puller, Repository, Settings, Source, Store, TagRecord,
    oci::{Algorithm, Digest, Manifest, Reference, Tag},
};

use crate::support::{Weir, number, object};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYERS: u64 = 9;
const REPOSITORIES: u64 = 1000;
/// Pulls that are noted before they are taken into the record.
const NOTED: u64 = 5000;
const PAGE: Duration = Duration::from_millis(100);
const SEARCH: Duration = Duration::from_millis(200);
/// MiB more than with as many blobs of which no image is known: each object has an account and an entry of the index, whether or not images
/// are listed.
const MEMORY: f64 = 150.0;
/// Of each kind of answer the median of so many.
const TIMES: usize = 9;

fn blob(number: u64) -> Digest {
    Algorithm::Sha256.digest(&number.to_le_bytes())
}

/// The layers of so many images, nine of each: files without blocks.
fn fill_blobs(root: &Path, images: u64) {
    for layer in (0..images * LAYERS).map(blob) {
        let path = object(root, "blobs", &layer.to_string());
        let file = File::create(&path).or_else(|_| {
            create_dir_all(path.parent().unwrap())?;
            File::create(&path)
        });
        file.unwrap().set_len(1000).unwrap();
    }
}

/// Images of one manifest and nine layers, as they stand in a store that pulled them.
async fn fill(root: &Path, images: u64) {
    let store = Store::open(Settings { root: root.to_owned(), capacity: 1 << 50, ..Settings::default() }).unwrap();
    while !store.images.is_complete() {
        tokio::task::yield_now().await;
    }
    for number in 0..images {
        let layers = (number * LAYERS..(number + 1) * LAYERS).map(blob);
        let layers: Vec<Value> = layers.map(|layer| json!({"digest": layer.to_string(), "size": 1000})).collect();
        let bytes = Bytes::from(json!({"schemaVersion": 2, "layers": layers}).to_string());
        let (digest, media_type) = (Algorithm::Sha256.digest(&bytes), MANIFEST.parse().unwrap());
        let record =
            TagRecord { digest: digest.clone(), media_type, size: bytes.len() as u64, checked_at: SystemTime::now() };
        let manifest = Manifest { digest: digest.clone(), media_type: record.media_type.clone(), bytes };
        let repository = format!("team{}/app", number % REPOSITORIES).parse().unwrap();
        let source = Source { upstream: "docker.io".into(), credential: Source::ANONYMOUS.into(), repository };
        let tag: Tag = format!("v{number}").parse().unwrap();
        store.cache.manifests.put(&manifest).await.unwrap();
        store.cache.members.add(&source, &[digest]).await.unwrap();
        store.cache.tags.put(&source, &tag, &record).await.unwrap();
        let client = Puller::Address(u128::from(number % 50));
        store.images.note_pull(Repository::from(&source), Reference::Tag(tag), &client, SystemTime::now());
        if number % NOTED == NOTED - 1 {
            store.close().await;
        }
    }
    store.close().await;
}

/// The median time of an answer, and the images that it has.
async fn ask(weir: &Weir, query: &str) -> (Duration, usize) {
    let (mut times, mut count) = (Vec::new(), 0);
    for _ in 0..TIMES {
        let begun = Instant::now();
        let answer = weir.admin.send(&Request::get(format!("/api/v1/cache{query}"))).await.unwrap();
        times.push(begun.elapsed());
        assert_eq!(answer.status(), 200, "{}", answer.describe());
        let page: Value = serde_json::from_str(&answer.text()).unwrap();
        let list = ["images", "repositories", "registries", "pins"].into_iter().find_map(|key| page[key].as_array());
        count = list.unwrap().len();
    }
    times.sort();
    (times[TIMES / 2], count)
}

/// Starts on what is stored and waits until all of it is known; how long that took.
async fn restart(weir: &mut Weir) -> Duration {
    let begun = Instant::now();
    weir.restart().await;
    loop {
        let answer = weir.admin.send(&Request::get("/api/v1/cache?n=1")).await.unwrap();
        if answer.text().contains("\"counted\":true") {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "they are never counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_100_000_images_of_a_million_objects_are_answered_at_once() {
    let images = number("WEIR_CACHED_IMAGES", 100_000);
    let hub = Hub::start(Default::default()).await.unwrap();
    let mut weir = Weir::start(hub.registry(), "capacity = \"1000TiB\"", "").await;
    let (empty, _) = weir.measure();
    weir.stop();
    fill_blobs(&weir.data(), images);
    restart(&mut weir).await;
    // Once more, with the index that the first one wrote.
    weir.end();
    restart(&mut weir).await;
    let (blobs, _) = weir.measure();
    weir.end();
    let begun = Instant::now();
    fill(&weir.data(), images).await;
    println!("{images} images of {} objects were made in {:.0?}", images * (LAYERS + 1), begun.elapsed());
    println!("they were read {:.1?} after the start", restart(&mut weir).await);
    let (read, _) = weir.measure();
    let last = images - 1;
    // All is measured and printed before anything of it is too much.
    let mut wrong = Vec::new();
    for (query, found, most) in [
        (String::new(), 100, PAGE),
        ("?last=docker.io/team500/app:v500".to_owned(), 100, PAGE),
        (format!("/repositories?last=docker.io/team{}/app", 100), 100, PAGE),
        (format!("?pattern=:v{last}"), 1, SEARCH),
        (format!("?pattern=*/app:v{last}"), 1, SEARCH),
        ("?pattern=nothing".to_owned(), 0, SEARCH),
        ("?complete=false".to_owned(), 0, SEARCH),
        ("?platform=linux/s390x".to_owned(), 0, SEARCH),
        ("?not_pulled_within=30d".to_owned(), 0, SEARCH),
        ("?sort=last_pull".to_owned(), 100, SEARCH),
        ("?sort=size".to_owned(), 100, SEARCH),
    ] {
        let (took, count) = ask(&weir, &query).await;
        println!("/api/v1/cache{query}: {took:.1?}");
        if count != found || took >= most {
            wrong.push(format!("{query}: {count} of {found} in {took:?}, of {most:?}"));
        }
    }
    // All that is here is pinned, and bytes of it are counted beside the requests.
    assert!(weir.command(&["cache", "pin", "docker.io/*"]).0);
    let (took, pins) = ask(&weir, "/pins").await;
    println!("/api/v1/cache/pins: {took:.1?}");
    if pins != 1 || took >= PAGE {
        wrong.push(format!("pins: {pins} in {took:?}"));
    }
    let begun = Instant::now();
    let (_, registries) = ask(&weir, "/registries").await;
    if registries != 1 {
        wrong.push(format!("registries: {registries}"));
    }
    println!("/api/v1/cache/registries, {TIMES} times: {:.1?}", begun.elapsed());
    let (full, _) = weir.measure();
    println!(
        "resident: {empty:.0} MiB with an empty cache, {blobs:.0} MiB with the blobs alone, {read:.0} MiB with the images, {full:.0} MiB after all these answers"
    );
    if full - blobs >= MEMORY {
        wrong.push(format!("memory: {:.0} MiB more, of {MEMORY} MiB", full - blobs));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
