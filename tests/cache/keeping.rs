//! What stays: pinned images while everything else is displaced, a pull while its image is purged, and every answer while the index is lost.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use weir_conformance::hub::{self, Hub, Kind, Layer, Match, Spec};
use weir_storage::oci::Algorithm;

use super::{World, until};
use crate::deploy::{PATIENCE, Running, ask};

/// How long a purge may take, with pulls that read what it removes.
const LONGEST_PURGE: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// A GET whose body is read piece by piece.
struct Download {
    socket: BufReader<TcpStream>,
    length: usize,
    bytes: Vec<u8>,
}

impl Download {
    fn start(address: SocketAddr, path: &str) -> Download {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        Download { socket: BufReader::new(socket), length: 0, bytes: Vec::new() }
    }

    /// Reads the head and the first bytes of the body.
    fn begin(&mut self) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.socket.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        self.length = length.parse().unwrap();
        self.bytes.resize(1000, 0);
        self.socket.read_exact(&mut self.bytes).unwrap();
    }

    /// Reads the rest, and gives the digest of all of it.
    fn end(mut self) -> String {
        self.socket.read_to_end(&mut self.bytes).unwrap();
        assert_eq!(self.bytes.len(), self.length);
        Algorithm::Sha256.digest(&self.bytes).to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_frees_what_it_said_while_a_pull_of_it_goes_on_and_leaves_what_another_image_needs() {
    let world = World::start().await;
    world.counted();
    // So much does not fit between the two sockets: the end of it is read after the purge began.
    let common = Layer::Shared { seed: 5, size: 32 * MIB };
    let image = |name: &str, seed| Spec::new(name).seed(seed).single().layers([24 * MIB]).layer(common.clone());
    let gone = world.hub.push(image("acme/gone", 1)).unwrap();
    let stays = world.hub.push(image("acme/stays", 2)).unwrap();
    world.pull(&gone, 0);
    world.pull(&stays, 0);
    let layers = &gone.platforms[0].layers;
    let (own, shared) = (&layers[0].digest, &layers[1].digest);
    let mut downloads: Vec<Download> = [own, shared]
        .map(|digest| Download::start(world.running.registry, &format!("/v2/acme/gone/blobs/{digest}")))
        .into();
    downloads.iter_mut().for_each(Download::begin);

    let said = world.api("DELETE", "/api/v1/cache?repository=acme/gone&dry_run=true");
    let of_gone = gone.platforms[0].config.size + layers[0].size;
    let freed = said["freed"].as_u64().unwrap();
    assert!((of_gone..of_gone + layers[1].size).contains(&freed) && said["blobs"] == 2, "{said}");
    let begun = Instant::now();
    let admin = world.running.admin;
    let purge =
        std::thread::spawn(move || ask(admin, "DELETE", "/api/v1/cache?repository=acme/gone&reason=a%20test", ""));
    // Its name goes first. The pull is in the middle of the bytes then.
    until("its name is gone", || world.api("GET", "/api/v1/cache")["images"].as_array().unwrap().len() == 1);
    assert!(!purge.is_finished(), "a pull reads what it removes");
    for (download, digest) in downloads.into_iter().zip([own, shared]) {
        assert_eq!(download.end(), *digest, "the pull had the whole of it");
    }
    let (status, _, body) = purge.join().unwrap();
    assert!(begun.elapsed() < LONGEST_PURGE, "{:?}", begun.elapsed());
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, said));

    world.hub.clear_log();
    world.pull(&stays, 0);
    assert_eq!(world.hub.log().len(), 0, "the other image was not touched");
    let (status, ..) = ask(world.running.registry, "HEAD", &format!("/v2/acme/gone/blobs/{own}"), "");
    assert_eq!((status, world.hub.count(|logged| logged.kind == Kind::BlobHead)), (200, 1), "upstream alone has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_lets_a_pull_end_that_has_not_come_from_upstream_yet() {
    let world = World::start().await;
    world.counted();
    let image = world.hub.push(Spec::new("acme/slow").single().layers([MIB])).unwrap();
    let layer = &image.platforms[0].layers[0].digest;
    let status = ask(world.running.registry, "GET", "/v2/acme/slow/manifests/latest", "Accept: */*\r\n").0;
    assert_eq!(status, 200);
    let gate = world.hub.hold(Match::kind(Kind::BlobGet));
    let mut download = Download::start(world.running.registry, &format!("/v2/acme/slow/blobs/{layer}"));
    assert!(gate.started().await);
    let begun = Instant::now();
    let text = world.command(&["purge", "acme/slow"]);
    assert!(text.contains(" freed: 1 manifest and 0 blobs; 1 name forgotten"), "{text}");
    assert!(begun.elapsed() < LONGEST_PURGE, "{:?}", begun.elapsed());
    gate.open();
    download.begin();
    assert_eq!(download.end(), *layer);
    assert_eq!(world.api("GET", "/api/v1/cache")["images"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_there_after_ten_times_the_cache_was_pulled_and_pins_have_a_share() {
    // The least that there may be; half of it is the share of pins.
    let capacity = 64 * MIB;
    let world = World::start_with(&[("WEIR_STORAGE__CAPACITY", "64MiB"), ("WEIR_MIRROR__TAG_TTL", "1d")]).await;
    world.counted();
    let kept = world.hub.push(Spec::new("acme/kept").single().layers([12 * MIB])).unwrap();
    world.pull(&kept, 0);
    let text = world.command(&["pin", "docker.io/acme/kept", "--reason", "must start"]);
    assert!(text.contains("docker.io/acme/kept  operator") && text.contains(" of 33.6 MB are pinned"), "{text}");
    let (mut pulled, mut seed) = (0, 10);
    while pulled < 10 * capacity {
        let spec = Spec::new(format!("library/other{seed}")).seed(seed).single().layers([16 * MIB]);
        let image = world.hub.push(spec).unwrap();
        world.pull(&image, 0);
        world.hub.remove_repository(&image.repository);
        (pulled, seed) = (pulled + 16 * MIB, seed + 1);
    }
    let complete = |query: &str| -> Vec<bool> {
        let page = world.api("GET", &format!("/api/v1/cache?{query}"));
        page["images"].as_array().unwrap().iter().map(|image| image["complete"] == true).collect()
    };
    assert_eq!(complete("repository=acme/kept"), [true], "it was pinned");
    let others = complete("pattern=library/&n=1000");
    let left = others.iter().filter(|complete| **complete).count() as u64;
    assert!(left > 0 && left * 16 * MIB < capacity, "{left} of {} others are left", others.len());
    world.hub.clear_log();
    world.pull(&kept, 0);
    assert_eq!(world.hub.count(|logged| logged.kind != Kind::Ping), 0, "a pull of it asks upstream nothing");

    let text = world.command(&["pin", "docker.io/library/*"]);
    assert!(
        text.contains("weir answered 409: pinned images would have ") && text.contains("may have 32 MiB"),
        "{text}"
    );
    assert!(text.contains("(storage.pinned_share); unpin others or raise it"), "{text}");
    let pins = world.api("GET", "/api/v1/cache/pins");
    let patterns: Vec<&str> =
        pins["pins"].as_array().unwrap().iter().map(|pin| pin["pattern"].as_str().unwrap()).collect();
    assert_eq!(patterns, ["docker.io/acme/kept"]);
    assert!(pins["bytes"].as_u64().unwrap() <= pins["most_bytes"].as_u64().unwrap(), "{pins}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_and_every_image_is_the_same_after_the_index_was_deleted() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let (url, data) = (format!("http://{}", hub.registry_address()), root.path().join("data"));
    let start = || {
        let hosted = [("WEIR_HOSTED__NAMESPACES", "team/*"), ("WEIR_HOSTED__ANONYMOUS_PUSH", "true")];
        let own = [("WEIR_UPSTREAM__0__URL", &*url), ("WEIR_STORAGE__ROOT", data.to_str().unwrap())];
        Running::start(&[own, hosted].concat())
    };
    let world = World { hub, running: start() };
    world.counted();
    let layer = Layer::Shared { seed: 5, size: 5000 };
    let two = world.hub.push(Spec::new("library/two").tags(["1", "latest"]).layer(layer.clone())).unwrap();
    let one = world.hub.push(Spec::new("acme/one").seed(7).single().layer(layer)).unwrap();
    world.pull(&two, 0);
    world.pull(&one, 0);
    // By digest alone.
    let three = world.hub.push(Spec::new("acme/three").seed(8).single()).unwrap();
    let path = format!("/v2/acme/three/manifests/{}", three.digest());
    assert_eq!(ask(world.running.registry, "GET", &path, "Accept: */*\r\n").0, 200);
    world.host("team/app", "v1");
    world.command(&["pin", "docker.io/acme/*", "--reason", "a test"]);
    // A pull is in the record within a second.
    let pulled = || world.api("GET", "/api/v1/cache?pulled_within=1h")["images"].as_array().unwrap().len();
    until("every pull is in the record", || pulled() == 3);
    let paths = [
        "?n=1000",
        "?complete=true",
        "?complete=false",
        "?platform=linux/arm64",
        "?sort=size",
        "?sort=last_pull",
        "?sort=idle&hosted=false",
        "?pinned=true",
        "?stale=false",
        "/registries",
        "/repositories",
        "/repositories?registry=docker.io&n=1",
        "/image?repository=library/two&reference=1",
        "/image?repository=acme/one&reference=latest",
        "/image?repository=team/app&reference=v1",
        "/pins",
    ];
    let by_digest = format!("/image?repository=acme/three&reference={}", three.digest());
    let answers = |world: &World| -> Vec<(String, Value)> {
        let paths = paths.into_iter().map(str::to_owned).chain([by_digest.clone()]);
        paths.map(|path| (path.clone(), world.api("GET", &format!("/api/v1/cache{path}")))).collect()
    };
    let before = answers(&world);
    assert_eq!(before[0].1["images"].as_array().unwrap().len(), 4, "{:#}", before[0].1);
    let World { hub, running } = world;
    running.signal(Signal::TERM);
    until("what was noted is written", || running.log().contains("stopped"));
    drop(running);
    let index = data.join("index");
    assert!(index.is_dir());
    std::fs::remove_dir_all(&index).unwrap();
    let world = World { hub, running: start() };
    world.counted();
    for ((path, before), (_, after)) in before.into_iter().zip(answers(&world)) {
        assert_eq!(after, before, "{path}");
    }
}
