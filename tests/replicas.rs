//! Three Weirs over one bucket, one Redis and one upstream: what many clients of all three cost upstream, and what becomes of them when
//! a replica or Redis is gone. Starts redis-server: `cargo test --test replicas`.

mod fleet;

use std::{process::Command, time::Duration};

use weir_conformance::{
    bucket::Trouble,
    client::Request,
    hub::{self, Fault, Hub, Image, Kind, Match, Progress, What},
    redis::Redis,
};

use self::fleet::{Fleet, Replica, spec, tables};

const PASSWORD: &str = "canary-of-redis";

/// A fleet of three, and its Redis.
struct Three {
    fleet: Fleet,
    redis: Redis,
    replicas: [Replica; 3],
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
        // No test here is about a slow bucket, and the machine may be busy.
        let fleet = Fleet { timeout: "10s", ..Fleet::start(hub::Settings::default()).await };
        let redis = Redis::start(PASSWORD).unwrap();
        let password = fleet.directory.path().join("redis");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        let extra = format!(
            "[shared.redis]\nurl = \"{}\"\npassword_file = \"{}\"\ntimeout = \"1s\"\nfollow = \"25s\"\n",
            redis.url(),
            password.display()
        );
        let (a, b, c) = tokio::join!(fleet.replica(&extra), fleet.replica(&extra), fleet.replica(&extra));
        let three = Three { fleet, redis, replicas: [a, b, c] };
        three.all_show("weir_shared_up{engine=\"redis\"} 1").await;
        three
    }

    fn push(&self, name: &str, seed: u64) -> Image {
        self.fleet.hub.push(spec(&format!("library/{name}"), seed)).unwrap()
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

#[tokio::test]
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
    for point in ["manifest", "blob", "half a blob"] {
        let mut three = Three::start().await;
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
        let pulled = Request::get(owner.client.blob(&image.repository, &layer));
        let interrupted = async {
            let head = Request::head(owner.client.manifest(&image.repository, "latest")).accepting_manifests();
            owner.client.send(&head).await.unwrap();
            let root = Request::get(owner.client.manifest(&image.repository, "latest")).accepting_manifests();
            if owner.client.send(&root).await.is_ok() {
                // Its process ends in the midst.
                let _ = owner.client.send(&pulled).await;
            }
        };
        let killed = async {
            match &gate {
                Some(gate) => assert!(gate.started().await, "{point}"),
                None => {
                    let stalled = |logged: &hub::Logged| logged.progress == Progress::Stalled;
                    assert!(hub.wait_for(|log| log.iter().any(stalled)).await, "{point}");
                }
            }
        };
        tokio::select! {
            () = interrupted => panic!("{point}: it was not held"),
            () = killed => {}
        }
        let asked = three.fleet.bucket.requests();
        let survivors = async { tokio::join!(one.pull(&image), one.pull(&image), other.pull(&image)) };
        let end = async {
            // The others are under way by now, as they look into the bucket.
            while three.fleet.bucket.requests() < asked + 6 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            owner.process.kill().await.unwrap();
            if let Some(gate) = &gate {
                gate.open();
            }
        };
        tokio::join!(survivors, end);
        let (paid, fair) = (Cost::at(hub, &image), Cost::of(&image));
        let more = paid.manifests + paid.blobs - fair.manifests - fair.blobs;
        assert!(more <= 1, "{point}: {paid:?} for {fair:?}");
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
