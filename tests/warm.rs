//! `weir cache warm` and its API: what it brings, what it costs, when it waits, and what a crash leaves of it.

mod hour;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use weir::mirror::{
    Selection,
    warm::{Job, JobState, Order, Wanted},
};
use weir_conformance::hub::{self, Fault, Hub, Image, Kind, Limit, Match, Spec, What};

use crate::{
    deploy::{PATIENCE, Running, ask, weir},
    mirror::support::{Bench, Change},
};

/// A Weir in front of a hub, whose directory outlives it.
struct World {
    hub: Hub,
    root: tempfile::TempDir,
    environment: Vec<(String, String)>,
    running: Running,
}

fn run(hub: &Hub, root: &tempfile::TempDir, environment: &[(String, String)]) -> Running {
    let (url, root) = (format!("http://{}", hub.registry_address()), root.path().join("data"));
    let root = root.to_str().unwrap();
    let mut all = vec![("WEIR_UPSTREAM__0__URL", &*url), ("WEIR_STORAGE__ROOT", root)];
    all.extend(environment.iter().map(|(name, value)| (&**name, &**value)));
    Running::start(&all)
}

impl World {
    async fn start(settings: hub::Settings, environment: &[(&str, &str)]) -> World {
        let hub = Hub::start(settings).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(own).collect();
        let running = run(&hub, &root, &environment);
        World { hub, root, environment, running }
    }

    /// Kills Weir where it stands, and starts it on what it left.
    fn kill(self) -> World {
        let World { hub, root, environment, running } = self;
        drop(running);
        let running = run(&hub, &root, &environment);
        World { hub, root, environment, running }
    }

    fn api(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, _, body) = ask(self.running.admin, method, path, "");
        (status, serde_json::from_str(&body).unwrap())
    }

    fn post(&self, body: &Value) -> (u16, Value) {
        post(self.running.admin, "/api/v1/cache/warm", &body.to_string())
    }

    fn job(&self, id: u64) -> Value {
        let (status, job) = self.api("GET", &format!("/api/v1/cache/warm/{id}"));
        assert_eq!(status, 200, "{job}");
        job
    }

    /// Waits until a job is as it is wanted.
    fn until(&self, id: u64, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id);
            if is_so(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "{job:#}\n{}", self.running.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let admin = format!("http://{}", self.running.admin);
        let output = weir(&[&["cache"], arguments, &["--admin", &admin]].concat()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Pulls one platform, as a container engine does.
    fn pull(&self, image: &Image, platform: usize) {
        let platform = &image.platforms[platform];
        let mut paths = vec![format!("manifests/{}", image.tags[0]), format!("manifests/{}", platform.manifest.digest)];
        paths.extend(platform.blobs().map(|blob| format!("blobs/{}", blob.digest)));
        for path in paths {
            let path = format!("/v2/{}/{path}", image.repository);
            assert_eq!(ask(self.running.registry, "GET", &path, "Accept: */*\r\n").0, 200, "{path}");
        }
    }

    fn counted(&self) -> usize {
        self.hub.count(|logged| logged.kind == Kind::ManifestGet && logged.counted)
    }
}

fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (kind, length) = ("Content-Type: application/json", body.len());
    write!(socket, "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn limited(pulls: u32) -> hub::Settings {
    hub::Settings { limit: Some(Limit::hub(pulls)), ..hub::Settings::default() }
}

/// The states of a job's images, in order.
fn states(job: &Value) -> Vec<&str> {
    job["results"].as_array().unwrap().iter().map(|result| result["state"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_brings_the_wanted_platforms_and_a_second_one_costs_nothing() {
    let world = World::start(limited(200), &[]).await;
    let two = world.hub.push(Spec::new("library/two").platforms(["linux/amd64", "linux/arm64"])).unwrap();
    let one = world.hub.push(Spec::new("acme/one").seed(7).single()).unwrap();
    let (done, text) =
        world.command(&["warm", "two", "acme/one:latest", "two", "--platform", "linux/amd64", "--reason", "tonight"]);
    assert!(done, "{text}");
    assert!(text.contains("fetched  docker.io/library/two:latest: ") && text.contains("in 2 manifests"), "{text}");
    assert!(text.contains("warm 1 is done: of 2 images 2 fetched; "), "{text}");
    assert_eq!(world.counted(), 3, "an index, its manifest, and a manifest");
    let spends = world.api("GET", "/api/v1/spends").1;
    assert_eq!(
        (&spends["spends"][0]["client"], &spends["spends"][0]["class"]),
        (&json!("warm:operator"), &json!("bulk"))
    );
    let image = world.api("GET", "/api/v1/cache/image?repository=two").1;
    let complete: Vec<_> =
        image["platforms"].as_array().unwrap().iter().map(|platform| &platform["complete"]).collect();
    assert_eq!(complete, [&json!(true), &json!(false)]);

    world.hub.clear_log();
    let list = world.root.path().join("list");
    std::fs::write(&list, "two # the base\n\n# nothing\n  acme/one:latest\n").unwrap();
    let (done, text) = world.command(&["warm", "--file", list.to_str().unwrap(), "--platform=linux/amd64"]);
    assert!(done && text.contains("here     docker.io/acme/one:latest was here already"), "{text}");
    world.pull(&two, 0);
    // A pull is known to the lists within a second.
    while world.post(&json!({"pulled_within": "1h", "platforms": ["linux/amd64"]})).0 != 202 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let job = world.until(3, |job| job["state"] == "done");
    assert_eq!(
        job["results"],
        json!([{"image": "docker.io/library/two:latest", "state": "here", "digest": two.digest()}])
    );
    world.pull(&one, 0);
    assert_eq!(world.hub.log().len(), 0, "nothing was asked upstream, by the second warm or by the clients");

    let (done, text) = world.command(&["warm", "two"]);
    assert!(done && text.contains("in 1 manifest and its layers"), "without a platform it is all of them: {text}");
    let (done, text) = world.command(&["warm", "two", "--platform", "linux/s390x"]);
    assert!(!done && text.contains("it has no linux/s390x; it has linux/amd64, linux/arm64"), "{text}");
    assert!(text.ends_with("weir: not every image is here\n"), "{text}");
    let (done, text) = world.command(&["warm-status"]);
    assert!(done && text.lines().count() == 6 && text.contains("5     done   0 of 1"), "{text}");
    assert!(world.command(&["warm-status", "1"]).0 && !world.command(&["warm-status", "5"]).0);
    let audit = world.api("GET", "/api/v1/audit").1;
    let first = audit["audit"].as_array().unwrap().last().unwrap();
    assert_eq!((&first["event"], &first["images"], &first["reason"]), (&json!("warmed"), &json!(2), &json!("tonight")));
    let metrics = ask(world.running.admin, "GET", "/metrics", "").2;
    assert!(metrics.contains("weir_warm_images_total{result=\"fetched\"} 3\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_waits_for_pulls_that_clients_are_expected_to_need_and_goes_on_when_more_are_left() {
    // Of 20 pulls the floor keeps 8, and as no day is known, 8 are expected to be needed.
    let world = World::start(limited(20), &[("WEIR_MIRROR__TAG_TTL", "0s"), ("WEIR_MIRROR__WARM_IMAGES", "1")]).await;
    let names: Vec<String> = (0..6).map(|number| format!("acme/app{number}")).collect();
    for (seed, name) in (1..).zip(&names) {
        world.hub.push(Spec::new(name).seed(seed).single()).unwrap();
    }
    let other = world.hub.push(Spec::new("library/other").seed(99).single()).unwrap();
    let (status, job) = world.post(&json!({"images": names}));
    assert_eq!((status, &job["state"]), (202, &json!("open")));
    let job = world.until(1, |job| job["counts"]["pending"] == 0 && job["counts"]["waiting"] == 2);
    assert_eq!(job["counts"]["fetched"], 4, "{job:#}");
    assert_eq!(world.counted(), 4);
    let waits = job["results"].as_array().unwrap().iter().find(|result| result["state"] == "waiting").unwrap();
    let why = waits["why"].as_str().unwrap();
    assert!(
        why.contains("16 of 20 pulls per 6h left at docker.io, keeps 8") && why.contains("to need 8 more"),
        "{why}"
    );
    assert!(waits["budget"] == true && job["waits_until"] == waits["until"] && waits["until"].is_string(), "{job:#}");
    let (done, text) = world.command(&["warm-status", "1"]);
    assert!(!done && text.contains(" waits for budget until 20"), "{text}");
    world.pull(&other, 0);
    assert_eq!(world.counted(), 5, "a client had its pull meanwhile");
    world.hub.set_budget(20);
    // A HEAD says what is left.
    world.pull(&other, 0);
    let job = world.until(1, |job| job["state"] == "done");
    assert_eq!((&job["counts"]["fetched"], &job["complete"]), (&json!(6), &json!(true)));
    assert_eq!(world.counted(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_that_a_schedule_names_is_read_again_when_it_changes() {
    let lists = tempfile::tempdir().unwrap();
    let list = lists.path().join("list");
    std::fs::write(&list, "first # of two\n").unwrap();
    let environment = [
        ("WEIR_WARM__0__NAME", "night"),
        ("WEIR_WARM__0__AT", "02:00"),
        ("WEIR_WARM__0__FILE", list.to_str().unwrap()),
    ];
    let world = World::start(hub::Settings::default(), &environment).await;
    let shown = || ask(world.running.admin, "GET", "/warm?list=night", "").2;
    let page = shown();
    assert!(page.contains(">docker.io/library/first:latest</textarea>"), "{page}");
    std::fs::write(&list, "first\n\nacme/second:2\n").unwrap();
    let until = Instant::now() + PATIENCE;
    while !shown().contains(">docker.io/library/first:latest\ndocker.io/acme/second:2</textarea>") {
        assert!(Instant::now() < until, "{}", world.running.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_the_middle_every_result_is_right_and_no_pull_is_paid_twice() {
    // The image that is held has not failed when the others have come, however long that takes.
    let patience = [("WEIR_UPSTREAM__0__FIRST_BYTE_TIMEOUT", "1h"), ("WEIR_MIRROR__FILL_TIMEOUT", "1h")];
    let world = World::start(limited(1000), &[&[("WEIR_MIRROR__WARM_IMAGES", "2")], &patience[..]].concat()).await;
    let names: Vec<String> = (0..10).map(|number| format!("acme/app{number}")).collect();
    for (seed, name) in (1..).zip(&names) {
        world.hub.push(Spec::new(name).seed(seed)).unwrap();
    }
    let gate = world.hub.hold(Match::kind(Kind::BlobGet).repository("acme/app4"));
    assert_eq!(world.post(&json!({"images": names, "platforms": ["linux/amd64"]})).0, 202);
    assert!(gate.started().await);
    // The other one of two goes on.
    let before = world.until(1, |job| job["counts"]["fetched"] == 9);
    assert_eq!(states(&before)[4], "pending");
    let world = world.kill();
    drop(gate);
    let after = world.until(1, |job| job["state"] == "done");
    assert_eq!(states(&after), ["fetched"; 10], "{after:#}");
    let results = |job: &Value| {
        job["results"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != 4)
            .map(|(_, it)| it.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(results(&after), results(&before), "what was settled before is as it was");
    assert_eq!(world.counted(), 20);
    let (_, images) = world.api("GET", "/api/v1/cache");
    assert_eq!(images["images"].as_array().unwrap().len(), 10);
    let (done, text) = world.command(&["warm", "acme/app4", "--platform", "linux/amd64"]);
    assert!(done && text.contains("here already") && text.contains("warm 2"), "{text}");
    assert_eq!(world.counted(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_warm_ends_at_once_and_what_is_wrong_is_told() {
    let world = World::start(hub::Settings::default(), &[("WEIR_UPSTREAM__0__DENY", "acme/secret")]).await;
    for name in ["acme/slow", "acme/secret"] {
        world.hub.push(Spec::new(name).single()).unwrap();
    }
    let gate = world.hub.hold(Match::kind(Kind::BlobGet));
    let (done, text) = world.command(&["warm", "acme/slow", "acme/secret", "acme/none", "--detach"]);
    assert_eq!((done, &*text), (true, "1\n"));
    assert!(gate.started().await);
    let job = world.until(1, |job| job["counts"]["refused"] == 2);
    assert_eq!(states(&job), ["pending", "refused", "refused"]);
    let why = job["results"][1]["why"].as_str().unwrap();
    assert!(why.contains("its operator denies acme/secret"), "{why}");
    let (done, text) = world.command(&["warm-cancel", "1", "--reason", "too slow"]);
    assert!(done && text.contains("warm 1 is cancelled: of 3 images 1 pending, 2 refused"), "{text}");
    gate.open();
    let (done, text) = world.command(&["warm", "acme/slow"]);
    assert!(done, "the next one is not held up: {text}");
    assert_eq!(states(&world.job(1))[0], "pending", "what comes later changes nothing");
    let audit = world.api("GET", "/api/v1/audit").1;
    assert_eq!(
        (&audit["audit"][1]["event"], &audit["audit"][1]["reason"]),
        (&json!("warm_cancelled"), &json!("too slow"))
    );

    for (body, status, why) in [
        (json!({}), 400, "there is no image to warm"),
        (json!({"images": ["UPPER"]}), 400, "no image; write it as docker pull takes it"),
        (json!({"images": ["ghcr.io/a"]}), 400, "no configured upstream"),
        (json!({"images": ["a"], "platforms": ["linux"]}), 400, "write os/architecture"),
        (json!({"pulled_within": "7"}), 400, "write a time of at most 366 days, such as 7d"),
        (json!({"pulled_within": "7d"}), 400, "no client pulled an image"),
        (json!({"pinned": true}), 400, "no pin names an image"),
        (json!({"image": ["a"]}), 400, "unknown field"),
        (json!({"images": vec!["a"; 5001]}), 400, "at most 5000"),
    ] {
        let (said, answer) = world.post(&body);
        assert!(said == status && answer.to_string().contains(why), "{body}: {said} {answer}");
    }
    for (method, path, status) in
        [("GET", "9", 404), ("GET", "x", 404), ("GET", "1?since=x", 400), ("DELETE", "9", 404), ("DELETE", "1", 409)]
    {
        assert_eq!(world.api(method, &format!("/api/v1/cache/warm/{path}")).0, status, "{method} {path}");
    }
    let (done, text) = world.command(&["warm", "--file", "/nonexistent"]);
    assert!(!done && text.contains("name a readable list of images"), "{text}");

    let empty = world.root.path().join("empty");
    std::fs::write(&empty, "# nothing\n").unwrap();
    let empty = empty.to_str().unwrap();
    let (done, text) = world.command(&["warm", "--file", empty]);
    assert!(!done && text.contains("it names no image; write one a line"), "{text}");
    let (done, text) = world.command(&["warm", "--file", empty, "--pulled-within", "7d"]);
    assert!(!done && text.contains("no client pulled an image of an upstream within 7d"), "{text}");

    let (done, text) = world.command(&["pin", "docker.io/acme/slow:latest"]);
    assert!(done, "{text}");
    assert!(world.command(&["purge", "acme/slow"]).0);
    let (done, text) = world.command(&["warm", "--pinned"]);
    assert!(done && text.contains("fetched  docker.io/acme/slow:latest"), "what is pinned comes back: {text}");
    let (done, text) = world.command(&["warm", "--pinned", "--pulled-within", "7d"]);
    assert!(done && text.contains("1 here"), "that no client pulled anything leaves what is pinned: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_sends_wrong_bytes_or_breaks_costs_a_warm_an_image_and_not_the_rest() {
    let world = World::start(hub::Settings::default(), &[]).await;
    for (seed, name) in [(1, "acme/bad"), (2, "acme/good")] {
        world.hub.push(Spec::new(name).seed(seed).single()).unwrap();
    }
    world.hub.fault(Fault::always(What::Corrupt(hub::At::Last)).on(Match::kind(Kind::BlobGet).repository("acme/bad")));
    assert_eq!(world.post(&json!({"images": ["acme/bad", "acme/good"]})).0, 202);
    let job = world.until(1, |job| job["counts"]["waiting"] == 1 && job["counts"]["fetched"] == 1);
    let why = job["results"][0]["why"].as_str().unwrap();
    assert!(why.contains("a layer did not arrive whole") && job["results"][0]["budget"] == false, "{why}");
    assert_eq!(job["state"], "open");
}

fn wanted(name: &str) -> Wanted {
    Wanted { upstream: "docker.io".into(), repository: name.parse().unwrap(), reference: "latest".parse().unwrap() }
}

async fn ended(bench: &Bench, id: u64) -> Job {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = bench.mirror.warm.job(id).unwrap();
        if job.state != JobState::Open {
            return job;
        }
        assert!(Instant::now() < deadline, "{job:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn words(job: &Job) -> Vec<&'static str> {
    job.items.iter().map(|item| item.outcome.word()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_and_displaces_nothing_and_what_was_purged_meanwhile_is_told_too() {
    // Each image has some 199 KiB, and 973 KiB are below the mark.
    let mut change = Change { capacity: 1 << 20, ..Change::default() };
    change.mirror.warm_images = 1;
    let bench = Bench::start(hub::Settings::default(), change).await;
    let names: Vec<String> = (0..8).map(|number| format!("acme/app{number}")).collect();
    for (seed, name) in (1..).zip(&names) {
        bench.hub.push(Spec::new(name).seed(seed).single()).unwrap();
    }
    let order = |names: &[String]| Order {
        images: names.iter().map(|name| wanted(name)).collect(),
        by: "ops".into(),
        ..Order::default()
    };
    assert!(bench.mirror.warm.add(order(&names)).await.is_err(), "nothing runs that was not started");
    bench.mirror.warm.start().unwrap();
    let id = bench.mirror.warm.add(order(&names)).await.unwrap().id;
    let job = ended(&bench, id).await;
    let mut expected = vec!["fetched"; 4];
    expected.extend(["refused"; 4]);
    assert_eq!(words(&job), expected, "{job:#?}");
    assert!(format!("{:?}", job.items[4].outcome).contains("it does not fit: 199 KiB"), "{job:?}");
    assert_eq!((bench.store.usage().evicted, job.is_complete()), (0, false));

    bench.mirror.purge(vec![Selection::All], false).await.unwrap();
    let gate = bench.hub.hold(Match::kind(Kind::BlobGet).repository("acme/app1"));
    let id = bench.mirror.warm.add(order(&names[..2])).await.unwrap().id;
    assert!(gate.started().await);
    assert_eq!(words(&bench.mirror.warm.job(id).unwrap()), ["fetched", "pending"]);
    let image = bench.mirror.images().read().images(None).find(|image| image.name().contains("app0")).unwrap();
    let tag = Selection::Tag(image.repository.clone(), image.tag.clone().unwrap());
    bench.mirror.purge(vec![tag], false).await.unwrap();
    gate.open();
    let job = ended(&bench, id).await;
    assert_eq!(words(&job), ["evicted", "fetched"], "{job:#?}");

    let bench = bench.restart().await;
    bench.mirror.warm.start().unwrap();
    assert_eq!(bench.mirror.warm.job(id), Some(Job { version: 0, items: unversioned(&job), ..job }));
}

/// As a restart knows them: versions begin anew.
fn unversioned(job: &Job) -> Vec<weir::mirror::warm::Item> {
    job.items.iter().map(|item| weir::mirror::warm::Item { changed: 0, ..item.clone() }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_warm_that_want_the_same_share_one_request_and_the_client_has_it_as_it_comes() {
    let world = World::start(limited(100), &[]).await;
    let image = world.hub.push(Spec::new("acme/app").single()).unwrap();
    let gate = world.hub.hold(Match::kind(Kind::ManifestGet));
    let (_, job) = world.post(&json!({"images": ["docker.io/acme/app"]}));
    assert!(gate.started().await);
    let (registry, admin) = (world.running.registry, world.running.admin);
    let get = move || ask(registry, "GET", "/v2/acme/app/manifests/latest", "Accept: */*\r\n");
    let client = std::thread::spawn(get);
    let joined = "weir_flights_joined_total{flight=\"manifest\"} 1";
    let deadline = Instant::now() + PATIENCE;
    while !ask(admin, "GET", "/metrics", "").2.lines().any(|line| line == joined) {
        assert!(Instant::now() < deadline, "the client asks for itself: {:?}", world.hub.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    gate.open();
    let (status, head, _) = client.join().unwrap();
    assert!(status == 200 && head.contains(image.digest()), "{head}");
    let job = world.until(job["id"].as_u64().unwrap(), |job| job["state"] == "done");
    assert_eq!((states(&job), world.counted()), (vec!["fetched"], 1), "{job:#}");
}
