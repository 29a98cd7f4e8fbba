//! What a Weir is brought into before a browser looks at it: a spent budget, warms, settings that wait.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::task::JoinSet;
use weir::{
    config::{Config, effective},
    mirror::warm::{Order, Table, Wanted},
    route::Routes,
};
use weir_conformance::hub::{Fault, Kind, Match, Spec, What};
use weir_storage::{
    ImportMark, Push, Source, TagRecord,
    oci::{Algorithm, Manifest, MediaType, Tag},
};

use super::{
    harness::Harness,
    support::{Bench, lookup, pull, read},
};

/// Spends all that upstream gives.
pub(crate) async fn exhaust(harness: &Harness) {
    for number in 0..=100_u64 {
        let repository = format!("library/many-{number}");
        harness.bench.hub.push(Spec::new(&repository).seed(number)).unwrap();
        // The last are refused, for want of a pull.
        let _ = harness.bench.mirror.manifests.get(&lookup(&repository, &[]), &"latest".parse().unwrap()).await;
    }
}

/// Takes the upstream away, and asks it until its failure is known. How long it is not asked is short at first, so each page needs this anew.
pub(crate) async fn fail(harness: &Harness) {
    harness.bench.hub.down().await;
    let mut number = 0_u64;
    while !harness
        .bench
        .mirror
        .breakers()
        .iter()
        .any(|(_, until, _)| until.is_some_and(|until| until > SystemTime::now() + SHOWN))
    {
        number += 1;
        let repository = format!("library/absent-{number}");
        let _ = harness.bench.mirror.manifests.get(&lookup(&repository, &[]), &"latest".parse().unwrap()).await;
    }
}

/// A page is there within this, though the machine is busy.
const SHOWN: Duration = Duration::from_millis(700);

/// Begins a warm, and a list that is warmed at night.
pub(crate) async fn warm(harness: &Harness, images: &[&str]) {
    let routes = Routes::new(Some("docker.io"), ["docker.io"]);
    let wanted = images.iter().map(|image| {
        let (place, reference) = routes.image(image).unwrap();
        Wanted { upstream: place.upstream, repository: place.repository, reference }
    });
    let order = Order { images: wanted.collect(), by: "ops".into(), reason: "the release".into(), ..Order::default() };
    harness.bench.mirror.warm.add(order).await.unwrap();
    let table = "name = \"night\"\nimages = [\"alpine:3\"]\npinned = true\nat = \"02:00\"";
    let schedule = toml::from_str::<Table>(table).unwrap().schedule(0, &[], &routes).unwrap();
    harness.bench.mirror.warm.schedule(vec![schedule], routes);
}

/// Lets three clients wait for a layer of which half has come, until the hub is released.
pub(crate) async fn arrive(harness: &Harness) -> JoinSet<()> {
    let Bench { hub, mirror, .. } = &harness.bench;
    let image = hub.push(Spec::new("library/arrives").layers([4 << 20]).single()).unwrap();
    let layer = image.platforms[0].blobs().max_by_key(|blob| blob.size).unwrap();
    let (lookup, digest, size) = (lookup("library/arrives", &[]), layer.digest.parse().unwrap(), layer.size);
    mirror.manifests.get(&lookup, &"latest".parse().unwrap()).await.unwrap();
    hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::CdnGet)));
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let mut reader = mirror.blobs.get(&lookup, &digest, None).await.unwrap().reader;
        clients.spawn(async move { drop(read(&mut reader, 0, size).await.unwrap()) });
    }
    clients
}

/// The settings of a file, one of which waits for a restart.
pub(crate) fn show_settings(harness: &Harness) {
    let read = |text: &str| Config::read(text, Vec::new()).unwrap();
    let (started, fresh) = (read("[mirror]\nfills = 7"), read("[mirror]\nfills = 9\ntag_ttl = \"90s\""));
    harness.reloads.show_settings(effective(&started, &fresh));
}

/// Brings an image whole, so that there are findings.
pub(crate) async fn bring(harness: &Harness, repository: &str) {
    harness.bench.mirror.layers.start().unwrap();
    pull(&harness.bench.hub, &harness.bench.mirror, Spec::new(repository).single()).await;
}

/// Marks a cached image as one that an operator imported.
pub(crate) async fn import(harness: &Harness, repository: &str) {
    let source = Source {
        upstream: "docker.io".into(),
        credential: Source::ANONYMOUS.into(),
        repository: repository.parse().unwrap(),
    };
    let mark = ImportMark { at: SystemTime::now(), by: "the operator of the other site".into() };
    harness.bench.store.cache.imports.mark(&source, &"latest".parse().unwrap(), mark).await.unwrap();
}

/// Puts so many images into the store, as tags of a thousand repositories, each of which has one manifest.
pub(crate) async fn fill(harness: &Harness, images: usize) {
    let cache = &harness.bench.store.cache;
    for number in 0..REPOSITORIES {
        let layers = json!([{"digest": Algorithm::Sha256.digest(&number.to_le_bytes()).to_string(), "size": 1000}]);
        let bytes = Bytes::from(json!({"schemaVersion": 2, "layers": layers}).to_string());
        let (digest, size) = (Algorithm::Sha256.digest(&bytes), bytes.len() as u64);
        let media_type: MediaType = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        cache.manifests.put(&Manifest { digest: digest.clone(), media_type: media_type.clone(), bytes }).await.unwrap();
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: format!("team{number}/a-service-with-a-name-that-is-rather-long").parse().unwrap(),
        };
        cache.members.add(&source, std::slice::from_ref(&digest)).await.unwrap();
        let record = TagRecord { digest, media_type, size, checked_at: SystemTime::now() };
        let tags = (number..images).step_by(REPOSITORIES).map(|tag| format!("v{tag}").parse().unwrap());
        let tags: Vec<Tag> = tags.collect();
        try_join_all(tags.iter().map(|tag| cache.tags.put(&source, tag, &record))).await.unwrap();
    }
}

const REPOSITORIES: usize = 1000;

/// Pushes an image of nothing but its manifest.
pub(crate) async fn host(harness: &Harness, repository: &str) {
    let bytes = Bytes::from_static(br#"{"schemaVersion":2,"layers":[]}"#);
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
    let push = Push {
        manifest: Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes },
        children: Vec::new(),
        may_lack_blobs: false,
        subject: None,
        tags: vec![("v1".parse().unwrap(), false)],
    };
    harness.bench.store.repositories.put_manifest(&repository.parse().unwrap(), push).await.unwrap();
}
