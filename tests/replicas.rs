//! Three Weirs over one bucket, one Redis and one upstream: what many clients of all three cost upstream, and what becomes of them when
//! a replica or Redis is gone. Starts redis-server: `cargo test --test replicas`.

#[path = "replicas/asked_once.rs"]
mod asked_once;
mod fleet;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use weir_conformance::{
    bucket::Trouble,
    client::{Client, Request},
    hub::{self, Fault, Hub, Image, Kind, Match, Progress, What},
    mirror::process::free_address,
    redis::Redis,
};

use tokio::sync::{
    Barrier,
    mpsc::{UnboundedReceiver, unbounded_channel},
};
use weir_storage::oci::Algorithm;

use self::fleet::{Fleet, Replica, pull, shows, spec, tables};

const PASSWORD: &str = "canary-of-redis";

/// A fleet of three, and its Redis.
struct Three {
    fleet: Fleet,
    redis: Redis,
    replicas: [Replica; 3],
    /// Where each of them listens for the others, when they give one another what arrives.
    peers: [SocketAddr; 3],
}

/// What listens in place of a replica that fetches blobs. Its thread ends with the test's process.
struct Imitation {
    address: SocketAddr,
    /// One for each request.
    asked: UnboundedReceiver<()>,
}

impl Imitation {
    /// Each connection is given to `answer` when its request has been read.
    fn start(answer: impl Fn(&mut TcpStream) + Send + 'static) -> Imitation {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, asked) = unbounded_channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let _ = socket.read(&mut [0; 4096]);
                let _ = requests.send(());
                answer(&mut socket);
            }
        });
        Imitation { address, asked }
    }
}

/// A blob of this size, which no digest is of.
fn send_zeros(socket: &mut TcpStream, size: usize) {
    let _ = write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
    let _ = socket.write_all(&vec![0; size]);
}

fn is_stalled(logged: &hub::Logged) -> bool {
    logged.progress == Progress::Stalled
}

/// Reads a layer of 9 MiB, waits for `half` when nearly half of it has come, and gives the digest of the whole.
async fn read(replica: &Replica, repository: &str, layer: &str, half: impl AsyncFnOnce()) -> String {
    let mut connection = replica.client.connect().await.unwrap();
    let mut incoming = connection.start(&Request::get(replica.client.blob(repository, layer))).await.unwrap();
    let mut hasher = Algorithm::Sha256.hasher();
    while incoming.got() < 4 << 20 {
        assert!(incoming.piece(|bytes| hasher.update(bytes)).await.unwrap());
    }
    half().await;
    while incoming.piece(|bytes| hasher.update(bytes)).await.unwrap() {}
    hasher.finish().to_string()
}

/// What an image cost upstream: counted requests for manifests, and requests for blobs that were answered with bytes.
#[derive(Debug, PartialEq)]
struct Cost {
    manifests: usize,
    blobs: usize,
}

impl Cost {
    /// What one Weir asks for a cold image.
    fn of(image: &Image) -> Cost {
        Cost { manifests: image.platforms.len() + 1, blobs: image.blobs().len() }
    }

    /// What upstream was asked for its repository.
    fn at(hub: &Hub, image: &Image) -> Cost {
        let count = |wanted: Kind| {
            hub.count(|logged| {
                // Without a token the answer is 401.
                logged.repository == image.repository && logged.kind == wanted && logged.status != 401
            })
        };
        Cost { manifests: count(Kind::ManifestGet), blobs: count(Kind::BlobGet) }
    }
}

impl Three {
    async fn start() -> Three {
        Three::start_with(false).await
    }

    async fn start_with(has_peers: bool) -> Three {
        Three::start_with_settings(has_peers, "").await
    }

    async fn start_with_settings(has_peers: bool, settings: &str) -> Three {
        // No test here is about a slow bucket, and the machine may be busy.
        let fleet = Fleet { timeout: "10s", ..Fleet::start(hub::Settings::default()).await };
        let redis = Redis::start(PASSWORD).unwrap();
        let password = fleet.directory.path().join("redis");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        let extra = format!(
            "{settings}[shared.redis]\nurl = \"{}\"\npassword_file = \"{}\"\ntimeout = \"1s\"\nfollow = \"25s\"\n",
            redis.url(),
            password.display()
        );
        let secret = fleet.directory.path().join("secret");
        std::fs::write(&secret, "canary of the peers, 32 bytes long").unwrap();
        let peers = [(); 3].map(|()| free_address().unwrap());
        let [a, b, c] = peers.map(|address| {
            let table = format!(
                "[shared.peers]\nlisten = \"{address}\"\nurl = \"http://{address}\"\nsecret_file = {secret:?}\n"
            );
            format!("{extra}{}", if has_peers { table } else { String::new() })
        });
        let (a, b, c) = tokio::join!(fleet.replica(&a), fleet.replica(&b), fleet.replica(&c));
        let three = Three { fleet, redis, replicas: [a, b, c], peers };
        three.all_show("weir_shared_up{engine=\"redis\"} 1").await;
        three
    }

    fn push(&self, name: &str, seed: u64) -> Image {
        self.fleet.hub.push(spec(&format!("library/{name}"), seed)).unwrap()
    }

    /// Gives the lease of a blob to this one.
    fn lease(&self, digest: &str, owner: &Imitation) {
        self.command(&format!("SET weir:flight:blob:{digest} \"another http://{}\" PX 60000", owner.address));
    }

    fn free(&self, digest: &str) {
        self.command(&format!("DEL weir:flight:blob:{digest}"));
    }

    /// Sends a command to Redis.
    fn command(&self, command: &str) {
        let mut socket = TcpStream::connect(self.redis.address).unwrap();
        write!(socket, "AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n").unwrap();
        let mut replies = String::new();
        socket.read_to_string(&mut replies).unwrap();
        assert!(!replies.contains("-ERR"), "{command}: {replies}");
    }

    async fn all_show(&self, line: &str) {
        for replica in &self.replicas {
            replica.shows(line).await;
        }
    }

    /// So many clients of each replica pull an image at once, and look at each byte.
    async fn pull(&self, image: &Image, clients: usize) {
        let pulls = self.replicas.iter().flat_map(|replica| (0..clients).map(|_| replica.pull(image)));
        futures_util::future::join_all(pulls).await;
    }
}

// Thirty clients that hash what they read on one thread would keep the hub and the bucket from sending it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_clients_of_three_replicas_want_at_once_costs_what_one_replica_pays() {
    let three = Three::start().await;
    for seed in 1..4 {
        let image = three.push(&format!("crowd{seed}"), seed);
        three.pull(&image, 10).await;
        assert_eq!(Cost::at(&three.fleet.hub, &image), Cost::of(&image));
        three.fleet.holds(&image).await;
    }
}

#[tokio::test]
async fn what_is_still_on_its_way_to_the_bucket_is_waited_for_by_other_replicas() {
    let three = Three::start().await;
    let image = three.push("underway", 1);
    three.fleet.bucket.trouble(Trouble::LateWrites(Duration::from_millis(300)));
    let [one, other, another] = &three.replicas;
    one.pull(&image).await;
    tokio::join!(other.pull(&image), another.pull(&image));
    assert_eq!(Cost::at(&three.fleet.hub, &image), Cost::of(&image));
}

#[tokio::test]
async fn a_replica_that_is_killed_while_it_fetches_costs_one_more_request_and_no_client_of_another() {
    for (point, has_peers) in [("manifest", false), ("blob", false), ("half a blob", false), ("blob", true)] {
        let mut three = Three::start_with(has_peers).await;
        let image = three.push("killed", 1);
        let layer = image.platforms[0].layers.last().unwrap().digest.clone();
        let on = match point {
            "manifest" => Match::kind(Kind::ManifestGet).reference(image.digest()),
            _ => Match::kind(Kind::BlobGet).reference(layer.as_str()),
        };
        let hub = &three.fleet.hub;
        let gate = (point != "half a blob").then(|| hub.hold(on.clone()));
        if gate.is_none() {
            hub.fault(Fault::once(What::Stall(0.5)).on(on));
        }
        let [owner, one, other] = &mut three.replicas;
        let root = |replica: &Replica| {
            Request::get(replica.client.manifest(&image.repository, "latest")).accepting_manifests()
        };
        let wanted = |replica: &Replica| match point {
            "manifest" => root(replica),
            _ => Request::get(replica.client.blob(&image.repository, &layer)),
        };
        for replica in [&*owner, one, other] {
            let head = Request::head(replica.client.manifest(&image.repository, "latest")).accepting_manifests();
            assert_eq!(replica.send(head).await.status(), 200);
            if point != "manifest" {
                assert_eq!(replica.send(root(replica)).await.status(), 200);
            }
        }
        let killed = async {
            match &gate {
                Some(gate) => assert!(gate.started().await, "{point}"),
                None => assert!(hub.wait_for(|log| log.iter().any(is_stalled)).await, "{point}"),
            }
        };
        tokio::select! {
            _ = owner.send(wanted(owner)) => panic!("{point}: it was not held"),
            () = killed => {}
        }
        let survives = async |replica: &Replica| {
            let (first, second) = tokio::join!(replica.send(wanted(replica)), replica.send(wanted(replica)));
            for answer in [first, second] {
                assert!(answer.status() == 200 && answer.complete(), "{point}: {}", answer.describe());
            }
            replica.pull(&image).await;
        };
        let end = async {
            // Each of the others is under way: the second of its clients found the flight of the first.
            let flight = if point == "manifest" { "manifest" } else { "blob" };
            let joined = format!("weir_flights_joined_total{{flight=\"{flight}\"}} 1");
            tokio::join!(one.shows(&joined), other.shows(&joined));
            owner.process.kill().await.unwrap();
            if let Some(gate) = &gate {
                gate.open();
            }
        };
        tokio::join!(survives(one), survives(other), end);
        let (paid, fair) = (Cost::at(hub, &image), Cost::of(&image));
        let more = paid.manifests + paid.blobs - fair.manifests - fair.blobs;
        assert!(more <= 1, "{point}: {paid:?} for {fair:?}");
    }
}

#[tokio::test]
async fn when_the_replica_that_fetches_a_blob_is_killed_one_other_asks_for_the_rest_and_all_go_on() {
    let mut three = Three::start_with(true).await;
    let image = three.push("orphaned", 1);
    let layer = image.platforms[0].layers.last().unwrap().digest.clone();
    let hub = &three.fleet.hub;
    hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::BlobGet).reference(layer.as_str())));
    let [owner, one, other] = &mut three.replicas;
    tokio::select! {
        _ = owner.blob(&image.repository, &layer) => panic!("it was not held"),
        is_held = hub.wait_for(|log| log.iter().any(is_stalled)) => assert!(is_held),
    }
    let have_half = Barrier::new(3);
    let reads = async |replica: &Replica| {
        let half = async || {
            have_half.wait().await;
        };
        assert_eq!(read(replica, &image.repository, &layer, half).await, layer);
    };
    let killed = async {
        have_half.wait().await;
        owner.process.kill().await.unwrap();
    };
    tokio::join!(reads(one), reads(other), killed);
    let asked = |logged: &hub::Logged| logged.kind == Kind::BlobGet && logged.status != 401;
    let for_the_rest = hub.count(|logged| asked(logged) && logged.range.is_some());
    assert_eq!((hub.count(asked), for_the_rest), (2, 1));
}

#[tokio::test]
async fn the_bytes_of_a_blob_reach_clients_of_every_replica_while_upstream_still_sends_them() {
    let three = Three::start_with(true).await;
    let image = three.push("streamed", 1);
    let layer = image.platforms[0].layers.last().unwrap().digest.clone();
    let hub = &three.fleet.hub;
    hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::BlobGet).reference(layer.as_str())));
    let have_half = Barrier::new(three.replicas.len());
    let reads = three.replicas.iter().map(async |replica| {
        let half = async || {
            if have_half.wait().await.is_leader() {
                hub.release();
            }
        };
        assert_eq!(read(replica, &image.repository, &layer, half).await, layer);
    });
    futures_util::future::join_all(reads).await;
    let asked = hub.count(|logged| logged.kind == Kind::BlobGet && logged.status != 401);
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn the_peer_listener_serves_blobs_and_answers_to_replicas_that_know_the_secret_and_nothing_else() {
    let three = Three::start_with(true).await;
    let image = three.push("listed", 1);
    let [one, ..] = &three.replicas;
    one.pull(&image).await;
    let listener = Client::new(three.peers[0], "");
    let path = format!("/v1/blobs/{}", image.blobs()[0].digest);
    let seconds = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let forged = format!("Weir-Peer {seconds}.{}", "0".repeat(64));
    for (request, status) in [
        (Request::get(&path), 401),
        (Request::get(&path).with("authorization", &forged), 401),
        (Request::get(&path).with("authorization", "Bearer canary of the peers, 32 bytes long"), 401),
        (Request::get("/v1/answers/0a/1b"), 401),
        (Request::get("/v1/answers/0a/1b").with("weir-nonce", "2c").with("authorization", &forged), 401),
        (Request::head("/v1/answers/0a/1b"), 404),
        (Request::get("/v1/answers/0a"), 404),
        (Request::head(&path), 404),
        (Request::new("POST", &path), 404),
        (Request::get("/v2/"), 404),
        (Request::get("/metrics"), 404),
        (Request::get(one.client.blob(&image.repository, &image.blobs()[0].digest)), 404),
    ] {
        assert_eq!(listener.send(&request).await.unwrap().status(), status, "{request:?}");
    }
}

#[tokio::test]
async fn a_replica_that_sends_wrong_bytes_is_not_believed_and_not_followed_again() {
    let three = Three::start_with(true).await;
    let image = three.push("wrong", 1);
    let layer = image.platforms[0].layers.last().unwrap();
    let size = usize::try_from(layer.size).unwrap();
    let mut wrong = Imitation::start(move |socket| send_zeros(socket, size));
    three.lease(&layer.digest, &wrong);
    let [one, ..] = &three.replicas;
    let answer = one.blob(&image.repository, &layer.digest).await;
    assert!(answer.status() != 200 || !answer.complete(), "{}", answer.describe());
    assert!(wrong.asked.try_recv().is_ok());
    let again = one.blob(&image.repository, &layer.digest);
    let freed = async {
        one.shows("weir_shared_flights_total{outcome=\"streamed\"} 1").await;
        three.free(&layer.digest);
    };
    let (answer, ()) = tokio::join!(again, freed);
    assert!(answer.complete() && answer.sha256 == layer.digest, "{}", answer.describe());
    assert!(wrong.asked.try_recv().is_err(), "it was followed again");
}

#[tokio::test]
async fn a_blob_that_another_replica_announces_with_a_size_that_no_manifest_names_is_not_taken_from_there() {
    let three = Three::start_with(true).await;
    let image = three.push("announced", 1);
    let platform = &image.platforms[0];
    let layer = platform.layers.last().unwrap();
    let size = usize::try_from(layer.size).unwrap() + 1;
    let mut wrong = Imitation::start(move |socket| send_zeros(socket, size));
    three.lease(&layer.digest, &wrong);
    let [one, ..] = &three.replicas;
    assert_eq!(one.manifest(&image.repository, &platform.manifest.digest).await.status(), 200);
    let freed = async {
        wrong.asked.recv().await.unwrap();
        three.free(&layer.digest);
    };
    let (answer, ()) = tokio::join!(one.blob(&image.repository, &layer.digest), freed);
    assert!(answer.complete() && answer.sha256 == layer.digest, "{}", answer.describe());
}

#[tokio::test]
async fn a_replica_that_does_not_begin_to_send_a_blob_keeps_no_other_blob_waiting() {
    let three = Three::start_with_settings(true, "[mirror]\nfills = 1\n").await;
    let image = three.push("silent", 1);
    let layers = &image.platforms[0].layers;
    let gave_up = Arc::new(AtomicBool::new(false));
    let ended = gave_up.clone();
    let mut silent = Imitation::start(move |socket| {
        while socket.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        ended.store(true, Ordering::SeqCst);
    });
    three.lease(&layers[0].digest, &silent);
    let [one, ..] = &three.replicas;
    let other_blob = async {
        silent.asked.recv().await.unwrap();
        let answer = one.blob(&image.repository, &layers[1].digest).await;
        assert!(answer.complete() && answer.sha256 == layers[1].digest, "{}", answer.describe());
        assert!(!gave_up.load(Ordering::SeqCst), "it came when the replica was given up");
    };
    tokio::select! {
        answer = one.blob(&image.repository, &layers[0].digest) => panic!("{}", answer.describe()),
        () = other_blob => {}
    }
}

#[tokio::test]
async fn without_redis_each_replica_asks_for_itself_and_no_client_notices() {
    let mut three = Three::start().await;
    let images: Vec<Image> = (1..7).map(|seed| three.push(&format!("engine{seed}"), seed)).collect();
    let up = |is_up: u8| format!("weir_shared_up{{engine=\"redis\"}} {is_up}");
    // Killed, and noticed by the pulls themselves.
    three.redis.kill().unwrap();
    three.pull(&images[0], 2).await;
    three.all_show(&up(0)).await;
    three.pull(&images[1], 2).await;
    // Restarted empty.
    three.redis.restart().unwrap();
    three.all_show(&up(1)).await;
    three.pull(&images[2], 2).await;
    assert_eq!(Cost::at(&three.fleet.hub, &images[2]), Cost::of(&images[2]));
    // It takes what is sent, and answers nothing.
    three.redis.pause().unwrap();
    three.pull(&images[3], 2).await;
    three.all_show(&up(0)).await;
    three.pull(&images[4], 2).await;
    three.redis.resume().unwrap();
    three.all_show(&up(1)).await;
    three.pull(&images[5], 2).await;
    assert_eq!(Cost::at(&three.fleet.hub, &images[5]), Cost::of(&images[5]));
    for image in &images {
        let paid = Cost::at(&three.fleet.hub, image);
        let fair = Cost::of(image);
        assert!(paid.manifests <= 3 * fair.manifests && paid.blobs <= 3 * fair.blobs, "{paid:?} for {fair:?}");
    }
}

#[tokio::test]
async fn a_redis_that_refuses_is_named_by_a_check_and_at_the_start_without_the_password() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let redis = Redis::start(PASSWORD).unwrap();
    let directory = fleet.directory.path();
    let (config, password, root) = (directory.join("weir.toml"), directory.join("redis"), directory.join("data"));
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[storage]\nroot = {root:?}\n{}[shared.redis]\nurl = \"{}\"\npassword_file = {password:?}\n",
        tables(&fleet.bucket, directory, "10s"),
        redis.url(),
    );
    std::fs::write(&config, text).unwrap();
    let run = async |command: &'static str, secret: &'static str| {
        std::fs::write(&password, secret).unwrap();
        let config = config.clone();
        let run =
            move || Command::new(env!("CARGO_BIN_EXE_weir")).arg(command).arg("--config").arg(config).output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run("check", PASSWORD).await;
    assert!(code == Some(0) && said.contains("agrees with other replicas who asks upstream over redis://"), "{said}");
    for command in ["check", "serve"] {
        let (code, said) = run(command, "canary-of-another").await;
        let named = format!("shared.redis.url = \"{}\": Redis refuses", redis.url());
        assert!(code == Some(1) && said.contains(&named), "{command}: {said}");
        assert!(!said.contains("canary"), "{command}: {said}");
    }
}

#[tokio::test]
async fn the_replicas_of_the_compose_example_pay_once_and_its_nginx_leaves_out_one_that_is_killed() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let directory = fleet.directory.path();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/compose");
    let text = |file: &str| std::fs::read_to_string(format!("{example}/{file}")).unwrap();
    let made = Command::new("sh").arg(format!("{example}/secrets.sh")).current_dir(directory).status().unwrap();
    assert!(made.success());
    let password = std::fs::read_to_string(directory.join("secrets/redis")).unwrap();
    let redis = Redis::start(password.trim()).unwrap();
    let (compose, settings) = (text("compose.yaml"), text("weir.toml"));
    for service in ["weir-1", "weir-2", "redis", "s3", "nginx"] {
        assert!(compose.contains(&format!("\n  {service}:\n")), "{service}");
    }
    for line in settings.lines().filter(|line| line.contains("/run/secrets/") || line.starts_with("trusted_proxies")) {
        let value = line.split('"').nth(1).unwrap();
        let secret = value.strip_prefix("/run/secrets/").map(|name| format!("\n  {name}: {{file: secrets/{name}}}\n"));
        assert!(compose.contains(&secret.unwrap_or_else(|| format!("subnet: {value}"))), "{line}");
    }
    let with = |text: &str, changes: &[(&str, String)]| {
        changes.iter().fold(text.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        })
    };
    let start = |program: &str, file: &str, text: &str| {
        let file = directory.join(file);
        std::fs::write(&file, text).unwrap();
        let mut command = tokio::process::Command::new(program);
        command.kill_on_drop(true);
        (command, file)
    };
    let [one, other, nginx, admin, other_admin, peer, other_peer] = [(); 7].map(|()| free_address().unwrap());
    let replica = |name: &str, [listen, admin, peer]: [SocketAddr; 3]| {
        let url = format!("WEIR_SHARED__PEERS__URL: \"http://{name}:5002\"");
        assert!(compose.contains(&url), "{url}");
        let changed = with(
            &settings,
            &[
                ("0.0.0.0:5000", listen.to_string()),
                ("127.0.0.1:5001", admin.to_string()),
                ("0.0.0.0:5002", peer.to_string()),
                ("\"/data\"", format!("{:?}", directory.join(format!("data-{name}")))),
                ("http://s3:7070", format!("http://{}", fleet.bucket.address)),
                ("redis://redis:6379", redis.url()),
                ("/run/secrets", directory.join("secrets").display().to_string()),
            ],
        );
        let hub = fleet.hub.registry_address();
        let upstream = format!("[[upstream]]\nname = \"docker.io\"\nurl = \"http://{hub}\"\ndefault = true\n");
        let (mut command, file) = start(env!("CARGO_BIN_EXE_weir"), name, &format!("{changed}{upstream}"));
        command.args(["serve", "--config"]).arg(file).env("WEIR_SHARED__PEERS__URL", format!("http://{peer}"));
        // The machine may be busy.
        let times = [("S3__TIMEOUT", "20s"), ("REDIS__TIMEOUT", "2s"), ("REDIS__FOLLOW", "25s")];
        let times = times.map(|(name, time)| (format!("WEIR_SHARED__{name}"), time));
        command.envs(times).env("WEIR_LOG__FILTER", "warn").spawn().unwrap()
    };
    let mut killed = replica("weir-1", [one, admin, peer]);
    let _other = replica("weir-2", [other, other_admin, other_peer]);
    let admins = [admin, other_admin].map(|address| Client::new(address, ""));
    for admin in &admins {
        shows(admin, "weir_shared_up{engine=\"redis\"} 1").await;
        shows(admin, "weir_shared_up{engine=\"s3\"} 1").await;
    }
    let changed = with(
        &text("nginx.conf"),
        &[
            ("listen 5000", format!("listen {nginx}")),
            ("weir-1:5000", one.to_string()),
            ("weir-2:5000", other.to_string()),
            ("/tmp/", format!("{}/", directory.display())),
        ],
    );
    let (mut command, file) = start("nginx", "nginx.conf", &changed);
    command.args(["-g", "daemon off; master_process off;", "-e"]).arg(directory.join("errors")).arg("-c").arg(file);
    let mut proxy = command.spawn().unwrap();
    while TcpStream::connect(nginx).is_err() {
        let errors = || std::fs::read_to_string(directory.join("errors"));
        assert!(proxy.try_wait().unwrap().is_none(), "{:?}", errors());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (client, hub) = (Client::new(nginx, ""), &fleet.hub);
    let image = hub.push(spec("library/composed", 1)).unwrap();
    futures_util::future::join_all((0..12).map(|_| pull(&client, &image))).await;
    assert_eq!(Cost::at(hub, &image), Cost::of(&image));
    for admin in &admins {
        let metrics = admin.send(&Request::get("/metrics")).await.unwrap().text();
        let mut answers = metrics.lines().filter(|line| line.starts_with("weir_answers_total{"));
        assert!(answers.any(|line| !line.ends_with(" 0")), "a replica got no request");
    }
    killed.kill().await.unwrap();
    let image = hub.push(spec("library/left", 2)).unwrap();
    pull(&client, &image).await;
}
