//! Archives on their way: two at once, one that breaks off, one that does not fit, and what one may leave out and what comes along.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weir::{
    archive::{END, VERSION},
    mirror::ImportTarget,
};
use weir_conformance::hub::{self, Artifact, Hub, Spec};
use weir_storage::{
    Listing, Settings, Source, Store, TagRecord,
    oci::{Algorithm, Digest, Manifest},
};

use super::{Site, files, layout, pack, packed, world};
use crate::{
    cache::{World, until},
    deploy::{PATIENCE, ask},
    mirror::support::{Change, lookup, over},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An import of which a half was sent.
struct Half(TcpStream);

impl Half {
    fn send(site: &Site, tar: &[u8]) -> Half {
        let mut socket = TcpStream::connect_timeout(&site.0.admin, PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let kind = "Content-Type: application/x-tar\r\nConnection: close";
        let length = tar.len();
        write!(
            socket,
            "POST /api/v1/cache/import HTTP/1.1\r\nHost: {}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n",
            site.0.admin
        )
        .unwrap();
        socket.write_all(&tar[..length / 2]).unwrap();
        Half(socket)
    }

    fn end(mut self, tar: &[u8]) -> String {
        self.0.write_all(&tar[tar.len() / 2..]).unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_transfers_go_on_at_once_a_third_is_refused_and_one_that_breaks_off_makes_room() {
    let (world, _, _) = world().await;
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    world.command(&["export", "acme/one", "--output", &at("one")]);
    world.command(&["export", "acme/one", "--output", &at("one.tar")]);
    let tar = packed(&layout(&out.path().join("one")));
    let site = Site::start(&[]);
    let (first, second) = (Half::send(&site, &tar), Half::send(&site, &tar));
    // Each has its place once its first objects are being stored.
    let busy = "weir answered 503: two exports or imports are under way; try again when one of them has ended";
    until("a third is refused", || site.import(&[&at("one.tar")], None).contains(busy));
    let (status, _, body) = ask(site.0.admin, "GET", "/api/v1/cache/export?name=docker.io/acme/one", "");
    assert!(status == 503 && body.contains("two exports or imports are under way"), "{status} {body}");
    drop(first);
    let answer = second.end(&tar);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""imported":true"#), "{answer}");
    let text = site.import(&[&at("one.tar")], None);
    assert!(text.contains("docker.io/acme/one:1: imported"), "the places are free again: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_breaks_off_leaves_nothing() {
    let (world, _, _) = world().await;
    let out = tempfile::tempdir().unwrap();
    world.command(&["export", "acme/one", "--output", out.path().join("one").to_str().unwrap()]);
    let tar = packed(&layout(&out.path().join("one")));
    let site = Site::start(&[]);
    let half = Half::send(&site, &tar);
    until("something was stored", || site.blobs() > 0);
    drop(half);
    until("nothing of it is left", || {
        site.blobs() == 0 && !files(site.0.directory()).iter().any(|path| path.starts_with("weir-data/partial"))
    });
    assert_eq!(site.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_which_a_part_is_evicted_while_the_rest_comes_is_refused_as_a_whole() {
    let world = World::start().await;
    world.counted();
    let large = world.hub.push(Spec::new("acme/large").single().layers([16 << 20; 5])).unwrap();
    let small = world.hub.push(Spec::new("acme/small").seed(9).single()).unwrap();
    world.pull(&large, 0);
    world.pull(&small, 0);
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    world.command(&["export", "acme/large", "--output", &at("large.tar")]);
    world.command(&["export", "acme/small", "--output", &at("small.tar")]);
    // 80 MiB come into the least that there may be.
    let site = Site::start(&[("WEIR_STORAGE__CAPACITY", "64MiB")]);
    let text = site.import(&[&at("large.tar")], None);
    let why = "was evicted before all of the archive was read: the archive does not fit into storage.capacity";
    assert!(text.contains("docker.io/acme/large:latest: refused: sha256:") && text.contains(why), "{text}");
    assert_eq!((site.names(), site.blobs()), (Vec::new(), 0), "what came of it was removed again");
    let text = site.import(&[&at("small.tar")], None);
    assert!(text.contains("docker.io/acme/small:latest: imported"), "{text}");
}

fn manifest(text: String) -> Manifest {
    let bytes = Bytes::from(text);
    Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type: MANIFEST.parse().unwrap(), bytes }
}

/// An archive that names one image and has its manifest alone.
fn archive_without_blobs(name: &str, manifest: &Manifest) -> Vec<u8> {
    let listed = json!({
        "mediaType": MANIFEST,
        "digest": manifest.digest.to_string(),
        "size": manifest.bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": name},
    });
    let index = json!({"schemaVersion": 2, "manifests": [listed]}).to_string();
    let path = format!("blobs/sha256/{}", manifest.digest.hex());
    let files = [("oci-layout", VERSION.as_bytes()), ("index.json", index.as_bytes()), (&path, &manifest.bytes)];
    [pack(&files), END.to_vec()].concat()
}

/// Puts a manifest and its one blob under a credential, as a pull does.
async fn cache(store: &Store, credential: &str, manifest: &Manifest, (digest, bytes): (&Digest, &Bytes)) {
    let source = Source {
        upstream: "docker.io".into(),
        credential: credential.into(),
        repository: "acme/held".parse().unwrap(),
    };
    if store.blobs.size(digest).await.unwrap().is_none() {
        let mut writer = store.blobs.write(digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes.clone()).await.unwrap();
        writer.commit().await.unwrap();
    }
    store.cache.manifests.put(manifest).await.unwrap();
    store.cache.members.add(&source, &[manifest.digest.clone(), digest.clone()]).await.unwrap();
    let record = TagRecord {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        size: manifest.bytes.len() as u64,
        checked_at: SystemTime::now(),
    };
    store.cache.tags.put(&source, &"1".parse().unwrap(), &record).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_lacks_is_taken_from_what_is_public_and_never_from_what_belongs_to_an_account() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
    let mirror = over(&store, "http://127.0.0.1:9".parse().unwrap(), &Change::default());
    let secret = Bytes::from_static(b"what only an account may read");
    let digest = Algorithm::Sha256.digest(&secret);
    let layer = json!({"digest": digest.to_string(), "size": secret.len()});
    let held = manifest(json!({"schemaVersion": 2, "config": layer, "layers": []}).to_string());
    let forged =
        manifest(json!({"schemaVersion": 2, "config": layer, "layers": [], "annotations": {"a": "b"}}).to_string());
    let tar = archive_without_blobs("docker.io/acme/forged:1", &forged);
    let import = async || {
        let (to, pieces) = mpsc::channel(1);
        to.send(Ok(Bytes::from(tar.clone()))).await.unwrap();
        drop(to);
        let target = |_: &str| {
            let (upstream, repository) = (Arc::from("docker.io"), "acme/forged".parse().unwrap());
            Ok(ImportTarget { upstream, repository, reference: "1".parse().unwrap() })
        };
        let mut imported = mirror.imports.run(pieces, None, "ops".into(), Box::new(target)).await.unwrap();
        imported.images.remove(0)
    };
    cache(&store, "acme", &held, (&digest, &secret)).await;
    let image = import().await;
    let why = image.refused.unwrap_or_default();
    assert!(
        why.contains(&format!("{digest}, which ")) && why.ends_with("is neither in the archive nor public here"),
        "{why}"
    );
    let names = || mirror.images().read().images(None).map(|image| image.name()).collect::<Vec<_>>();
    assert_eq!(names(), ["docker.io/acme/held:1"]);
    cache(&store, Source::ANONYMOUS, &held, (&digest, &secret)).await;
    let image = import().await;
    assert_eq!((image.imported, image.refused), (true, None));
    assert!(names().contains(&"docker.io/acme/forged:1".to_owned()), "{:?}", names());
}

fn artifact(subject: &str, content: &'static str) -> Artifact {
    Artifact {
        repository: "acme/one".into(),
        subject: subject.into(),
        artifact_type: "application/vnd.example".into(),
        annotations: Vec::new(),
        content: content.into(),
    }
}

/// The status of a list of referrers, whether it stands as imported, and what it has.
fn referrers(site: &Site, subject: &str) -> (u16, bool, Value) {
    let path = format!("/v2/acme/one/referrers/{subject}");
    let (status, head, body) = ask(site.0.registry, "GET", &path, "Accept: */*\r\n");
    (status, head.contains("listing was imported"), serde_json::from_str(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cached_list_of_referrers_names_is_exported_with_its_image_and_pulled_at_the_other_site() {
    let (world, _, one) = world().await;
    let refer = |subject: &str, content: &'static str| world.hub.push_referrer(artifact(subject, content));
    let signed = refer(one.digest(), "an SBOM");
    let of_it = refer(&signed.digest, "a signature of the SBOM");
    let never = refer(one.digest(), "what no client pulled");
    let get = |path: &str| {
        let (status, _, body) = ask(world.running.registry, "GET", &format!("/v2/acme/one/{path}"), "Accept: */*\r\n");
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let fetch = |digest: &str| {
        let manifest: Value = serde_json::from_str(&get(&format!("manifests/{digest}"))).unwrap();
        let blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        blobs.for_each(|blob| drop(get(&format!("blobs/{}", blob["digest"].as_str().unwrap()))));
    };
    fetch(&signed.digest);
    fetch(&of_it.digest);
    world.kept();
    let out = tempfile::tempdir().unwrap();
    let export = |name: &str| {
        let path = out.path().join(name).to_str().unwrap().to_owned();
        (world.command(&["export", "acme/one:1", "--output", &path]), path)
    };
    let (text, _) = export("none");
    assert!(text.contains("1 exported"), "no list says that they belong to it: {text}");
    get(&format!("referrers/{}", one.digest()));
    get(&format!("referrers/{}", signed.digest));
    let (text, path) = export("all");
    assert!(text.contains("3 exported"), "{text}");
    assert!(text.contains(&signed.digest) && text.contains(&of_it.digest) && !text.contains(&never.digest), "{text}");
    let site = Site::start(&[]);
    let text = site.import(&[&path], None);
    assert!(text.contains(&format!("docker.io/acme/one@{}: imported", signed.digest)), "{text}");
    for digest in [&signed.digest, &of_it.digest] {
        let path = format!("/v2/acme/one/manifests/{digest}");
        assert_eq!(ask(site.0.registry, "GET", &path, "Accept: */*\r\n").0, 200);
    }
    // The lists of what refers to them are there too, with what was brought and nothing else.
    let referrers = |site: &Site, subject: &str| {
        let (status, is_imported, listed) = referrers(site, subject);
        assert_eq!((status, is_imported), (200, true), "{listed}");
        listed["manifests"].as_array().unwrap().clone()
    };
    for (subject, referrer) in [(one.digest(), &signed.digest), (&signed.digest, &of_it.digest)] {
        let listed = referrers(&site, subject);
        assert_eq!((listed.len(), &listed[0]["digest"]), (1, &Value::from(&**referrer)));
        assert_eq!(listed[0]["artifactType"], "application/vnd.example");
    }
    // Neither a second import nor a list that is old changes that.
    site.import(&[&path], None);
    assert_eq!(referrers(&site, one.digest()).len(), 1);
    let old = Site::start(&[("WEIR_MIRROR__LISTING_TTL", "0s"), ("WEIR_MIRROR__STALE_IF_ERROR", "0s")]);
    old.import(&[&path], None);
    let (status, _, body) = ask(old.0.registry, "GET", &format!("/v2/acme/one/referrers/{}", one.digest()), "");
    assert!(status == 200 && body.contains(&signed.digest), "{status} {body}");
}

/// An archive of `acme/one:1` with an artifact that refers to it, and that artifact's digest.
fn with_referrer(world: &World, subject: &str, path: &str) -> String {
    let referrer = world.hub.push_referrer(artifact(subject, "an SBOM"));
    for wanted in [format!("manifests/{}", referrer.digest), format!("referrers/{subject}")] {
        let path = format!("/v2/acme/one/{wanted}");
        assert_eq!(ask(world.running.registry, "GET", &path, "Accept: */*\r\n").0, 200);
    }
    let manifest: Value = serde_json::from_slice(&referrer.bytes).unwrap();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let path = format!("/v2/acme/one/blobs/{}", blob["digest"].as_str().unwrap());
        assert_eq!(ask(world.running.registry, "GET", &path, "").0, 200);
    }
    world.kept();
    let text = world.command(&["export", "acme/one:1", "--output", path]);
    assert!(text.contains("2 exported"), "{text}");
    referrer.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_list_of_referrers_ends_when_upstream_has_none_or_refuses_the_repository() {
    let (world, _, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("one").to_str().unwrap().to_owned();
    let referrer = with_referrer(&world, one.digest(), &path);
    // The same image where nothing refers to it, and a registry that refuses it, as Docker Hub refuses what it has not.
    for has_image in [true, false] {
        let hub = Hub::start(<_>::default()).await.unwrap();
        if has_image {
            let same = hub.push(Spec::new("acme/one").seed(7).tags(["1", "2"]).single()).unwrap();
            assert_eq!(same.digest(), one.digest());
        }
        hub.down().await;
        let url = format!("http://{}", hub.registry_address());
        // Else the cache of absences would answer, for as long as the test looks.
        let uncached = ["WEIR_MIRROR__LISTING_TTL", "WEIR_MIRROR__NEGATIVE_TTL"].map(|ttl| (ttl, "0s"));
        let site = Site::start(&[&[("WEIR_UPSTREAM__0__URL", &*url)], &uncached[..]].concat());
        assert!(site.import(&[&path], None).contains("docker.io/acme/one:1: imported"));
        let (status, is_imported, listed) = referrers(&site, one.digest());
        assert_eq!((status, is_imported, &listed["manifests"][0]["digest"]), (200, true, &Value::from(&*referrer)));

        hub.up().await.unwrap();
        // Each request asks in the background, until the breaker forgot the outage and upstream answers.
        until("upstream's word stands", || !referrers(&site, one.digest()).1);
        let word = |(status, is_imported, listed): (u16, bool, Value)| {
            (status, is_imported, listed["manifests"].as_array().map(Vec::len))
        };
        let expected = if has_image { (200, false, Some(0)) } else { (404, false, None) };
        assert_eq!(word(referrers(&site, one.digest())), expected);
        hub.down().await;
        let (_, is_imported, listed) = referrers(&site, one.digest());
        assert!(!is_imported && !listed.to_string().contains(&referrer), "an outage brings it back: {listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_list_of_referrers_gives_way_to_what_upstream_gives_an_account() {
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", "secret")], ..hub::Settings::default() };
    let hub = Hub::start(settings).await.unwrap();
    let one = hub.push(Spec::new("acme/one").single().private()).unwrap();
    let referrer = hub.push_referrer(artifact(one.digest(), "an SBOM"));
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
    let mirror = over(&store, hub.registry(), &Change { accounts: vec![("robot", "secret")], ..Change::default() });
    let subject: Digest = one.digest().parse().unwrap();
    let lookup = lookup("acme/one", &["acme/*"]);
    let public = Source {
        upstream: lookup.upstream.clone(),
        credential: Source::ANONYMOUS.into(),
        repository: lookup.repository.clone(),
    };
    let kind = format!("referrers-sha256-{}", subject.hex());
    let listing = Listing { checked_at: SystemTime::now(), body: b"[]".to_vec(), imported: true };
    store.cache.listings.put(&public, &kind, &listing).await.unwrap();
    let first = mirror.listings.referrers(&lookup, &subject).await.unwrap();
    assert!(first.descriptors.is_empty() && first.facts.warning.is_some());
    let begun = Instant::now();
    loop {
        let answer = mirror.listings.referrers(&lookup, &subject).await.unwrap();
        if let Some(descriptor) = answer.descriptors.first() {
            assert_eq!((&descriptor["digest"], answer.facts.warning), (&Value::from(&*referrer.digest), None));
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the imported list is answered for ever");
    }
}
