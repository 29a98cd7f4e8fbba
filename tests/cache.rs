//! `weir cache` and its API: what is here, what a purge frees, and what a pin keeps.

use serde_json::Value;
use weir_conformance::hub::{self, Hub, Image, Kind, Spec};

use crate::deploy::{Running, ask, weir};

struct World {
    hub: Hub,
    running: Running,
}

impl World {
    async fn start() -> World {
        let hub = Hub::start(hub::Settings::default()).await.unwrap();
        let url = format!("http://{}", hub.registry_address());
        let running = Running::start(&[("WEIR_UPSTREAM__0__URL", &url)]);
        World { hub, running }
    }

    /// Pulls the index and one platform's manifest and blobs, as a container engine does.
    fn pull(&self, image: &Image, platform: usize) {
        let platform = &image.platforms[platform];
        let manifests = [image.tags[0].as_str(), image.digest(), platform.manifest.digest.as_str()]
            .map(|it| format!("manifests/{it}"));
        let blobs: Vec<String> = platform.blobs().map(|blob| format!("blobs/{}", blob.digest)).collect();
        for path in manifests.iter().chain(&blobs) {
            let (status, ..) =
                ask(self.running.registry, "GET", &format!("/v2/{}/{path}", image.repository), "Accept: */*\r\n");
            assert_eq!(status, 200, "{path}");
        }
        // A client has the last bytes before the disk has them.
        while !ask(self.running.admin, "GET", "/metrics", "").2.contains("\nweir_fills_under_way 0\n") {
            std::thread::yield_now();
        }
    }

    fn api(&self, method: &str, path: &str) -> Value {
        let (status, _, body) = ask(self.running.admin, method, path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> String {
        let admin = format!("http://{}", self.running.admin);
        let output = weir(&[&["cache"], arguments, &["--admin", &admin]].concat()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    }

    fn blob_gets(&self) -> usize {
        self.hub.count(|logged| logged.kind == Kind::BlobGet)
    }

    /// What was there before the start is read: there is nothing.
    fn counted(&self) {
        while self.api("GET", "/api/v1/cache")["counted"] != true {
            std::thread::yield_now();
        }
    }
}

fn names(page: &Value) -> Vec<&str> {
    page["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_complete_by_platform_and_a_purge_frees_what_it_said() {
    let world = World::start().await;
    world.counted();
    let platforms = ["linux/amd64", "linux/arm64/v8"];
    let image = world.hub.push(Spec::new("library/two").platforms(platforms)).unwrap();
    let other = world.hub.push(Spec::new("acme/one").seed(7).single()).unwrap();
    world.pull(&image, 0);
    world.pull(&other, 0);
    let page = world.api("GET", "/api/v1/cache");
    assert_eq!(names(&page), ["docker.io/acme/one:latest", "docker.io/library/two:latest"]);
    let [one, two] = [0, 1].map(|at| &page["images"][at]);
    assert_eq!((&one["complete"], &two["complete"]), (&true.into(), &false.into()), "{page:#}");
    let states: Vec<_> =
        two["platforms"].as_array().unwrap().iter().map(|it| (&it["platform"], &it["complete"])).collect();
    assert_eq!(states, [(&platforms[0].into(), &true.into()), (&platforms[1].into(), &false.into())]);
    let first = world.api("GET", "/api/v1/cache?n=1");
    assert_eq!((names(&first)[0], &first["next"]), ("docker.io/acme/one:latest", &names(&first)[0].into()));
    assert_eq!(
        names(&world.api("GET", "/api/v1/cache?n=1&last=docker.io/acme/one:latest")),
        ["docker.io/library/two:latest"]
    );
    assert_eq!(names(&world.api("GET", "/api/v1/cache?complete=false")), ["docker.io/library/two:latest"]);
    assert_eq!(names(&world.api("GET", "/api/v1/cache?pattern=acme")), ["docker.io/acme/one:latest"]);
    let text = world.command(&["list"]);
    assert!(text.contains("docker.io/library/two:latest") && text.contains("1 of 2"), "{text}");
    world.pull(&image, 1);
    assert_eq!(world.api("GET", "/api/v1/cache?complete=false")["images"], Value::Array(Vec::new()));

    let (before, purge) = (world.blob_gets(), "/api/v1/cache?repository=two&reference=latest");
    let said = world.api("DELETE", &format!("{purge}&dry_run=true"));
    let expected: u64 = image.blobs().iter().map(|blob| blob.size).sum();
    assert!(said["freed"].as_u64().unwrap() > expected && said["manifests"] == 3, "{said}");
    let freed = world.api("DELETE", &format!("{purge}&reason=a%20test"));
    assert_eq!(freed, said);
    assert_eq!(names(&world.api("GET", "/api/v1/cache")), ["docker.io/acme/one:latest"]);
    world.pull(&other, 0);
    assert_eq!(world.blob_gets(), before, "the other image was not touched");
    world.pull(&image, 0);
    assert_eq!(world.blob_gets(), before + image.platforms[0].blobs().count(), "the bytes were gone");
    let audit = world.api("GET", "/api/v1/audit");
    let entry = &audit["audit"][0];
    assert_eq!(
        (&entry["event"], &entry["reason"], &entry["freed"]),
        (&"purged".into(), &"a test".into(), &said["freed"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_shows_pins_and_purges() {
    let world = World::start().await;
    world.counted();
    assert_eq!(world.command(&["list"]), "nothing is cached\n");
    let image = world.hub.push(Spec::new("library/one").single()).unwrap();
    world.pull(&image, 0);
    assert_eq!(world.command(&["list", "zzz"]), "nothing of it is cached\n");
    // A pull is in the record within a second.
    while world.api("GET", "/api/v1/cache")["images"][0]["pulls"] != 3 {
        std::thread::yield_now();
    }
    let entry = world.api("GET", "/api/v1/cache")["images"][0].take();
    assert!(
        entry["pulled_by"][0]["client"] == "127.0.0.1" && entry["last_pull"] == entry["pulled_by"][0]["at"],
        "{entry}"
    );
    let text = world.command(&["show", "one"]);
    assert!(text.contains("pulled 3 times, last ") && text.contains("; lately by 127.0.0.1\n"), "{text}");
    assert!(text.contains(": complete") && text.contains(&image.blobs()[0].digest), "{text}");
    assert_eq!(text, world.command(&["show", "docker.io/library/one:latest"]));
    assert_eq!(text, world.command(&["show", &format!("one@{}", image.digest())]));
    let text = world.command(&["show", "docker.io/library/none:1"]);
    assert_eq!(text, "weir: weir answered 404: no image of this name is cached\n");
    let text = world.command(&["pin", "docker.io/library/*", "--reason", "base images"]);
    assert!(text.starts_with("docker.io/library/*  operator") && text.contains("base images"), "{text}");
    assert_eq!(world.api("GET", "/api/v1/cache")["images"][0]["pinned"], true);
    assert_eq!(world.command(&["unpin", "docker.io/library/*"]), "nothing is pinned\n");
    assert!(world.command(&["unpin", "docker.io/library/*"]).contains("no pin has this pattern"));
    let text = world.command(&["purge", "--all", "--dry-run"]);
    assert!(text.contains("would be freed: 1 manifest and"), "{text}");
    let text = world.command(&["purge", "docker.io/lib*"]);
    assert!(text.contains(" freed: 1 manifest and"), "{text}");
    assert_eq!(world.command(&["purge", "docker.io/lib*"]), "nothing of it is cached\n");
    assert_eq!(world.command(&["list"]), "nothing is cached\n");
    for (query, why) in [
        ("", "name one of"),
        ("repository=one&all=true", "name one of"),
        ("digest=sha256:1", "this is no digest"),
        ("all=true&dry_run=maybe", "dry_run is true or false"),
        ("all=true&dryrun=true", "no parameter here; these are: repository, "),
    ] {
        let (status, _, body) = ask(world.running.admin, "DELETE", &format!("/api/v1/cache?{query}"), "");
        assert!(status == 400 && body.contains(why), "{query}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_asks_at_once_and_fetches_what_moved() {
    let world = World::start().await;
    world.counted();
    let platforms = ["linux/amd64", "linux/arm64/v8"];
    let push = |seed| world.hub.push(Spec::new("library/two").seed(seed).platforms(platforms)).unwrap();
    let old = push(1);
    world.pull(&old, 0);
    let asked = || [Kind::ManifestHead, Kind::ManifestGet].map(|kind| world.hub.count(|logged| logged.kind == kind));
    let named = || {
        let (status, head, _) =
            ask(world.running.registry, "HEAD", "/v2/library/two/manifests/latest", "Accept: */*\r\n");
        let digest = head.lines().find_map(|line| line.strip_prefix("docker-content-digest: "));
        (status, digest.unwrap_or_default().to_owned())
    };

    let before = asked();
    let text = world.command(&["refresh", "two"]);
    assert_eq!(text, format!("docker.io/library/two:latest is unchanged: {}\n", old.digest()));
    assert_eq!(asked(), [before[0] + 1, before[1]], "the tag was fresh, and was asked about");

    let new = push(2);
    let before = asked();
    assert_eq!(named(), (200, old.digest().to_owned()), "it is fresh");
    let text = world.command(&["refresh", "docker.io/library/two:latest", "--reason", "a release"]);
    let moved = format!("docker.io/library/two:latest moved from {} to {}", old.digest(), new.digest());
    assert_eq!(text, format!("{moved}; fetched with 1 of its platforms\n"));
    assert_eq!(asked(), [before[0] + 1, before[1] + 2], "the index, and the platform of which something was here");
    assert_eq!(named(), (200, new.digest().to_owned()));
    world.pull(&new, 0);
    assert_eq!(asked(), [before[0] + 1, before[1] + 2], "a pull needs no manifest any more");
    let audit = world.api("GET", "/api/v1/audit");
    let entry = &audit["audit"][0];
    assert_eq!(
        (&entry["event"], &entry["moved"], &entry["reason"]),
        (&"refreshed".into(), &true.into(), &"a release".into())
    );

    for (image, why) in [
        ("two:none", "weir answered 404: docker.io/library/two:none: no such manifest"),
        ("two@sha256:1", "weir answered 400: name a tag"),
        ("ghcr.io/x", "weir answered 400: no configured upstream"),
        ("UPPER", "weir answered 400: this is no repository name"),
    ] {
        let text = world.command(&["refresh", image]);
        assert!(text.contains(why), "{image}: {text}");
    }
    world.hub.down().await;
    let text = world.command(&["refresh", "two"]);
    assert!(text.contains("weir answered 503") && text.contains("cannot be reached"), "{text}");
    assert_eq!(named(), (200, new.digest().to_owned()), "what is cached stays");
    world.hub.up().await.unwrap();
    world.hub.remove("library/two", "latest");
    let text = world.command(&["refresh", "two"]);
    assert!(text.contains("weir answered 404"), "{text}");
    assert_eq!(named().0, 404, "it is gone upstream, and the operator has seen it");
}
