//! `weir cache` and its API: what is here, what a purge frees, and what a pin keeps.

mod completeness;
mod keeping;

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use weir_conformance::hub::{self, Hub, Image, Kind, Spec};

use crate::deploy::{PATIENCE, Running, ask, weir};

pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) running: Running,
}

impl World {
    pub(crate) async fn start() -> World {
        World::start_with(&[]).await
    }

    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> World {
        let hub = Hub::start(hub::Settings::default()).await.unwrap();
        let url = format!("http://{}", hub.registry_address());
        let running = Running::start(&[&[("WEIR_UPSTREAM__0__URL", &*url)], environment].concat());
        World { hub, running }
    }

    /// Pulls the index and one platform's manifest and blobs, as a container engine does.
    pub(crate) fn pull(&self, image: &Image, platform: usize) {
        let platform = &image.platforms[platform];
        let manifests = [image.tags[0].as_str(), image.digest(), platform.manifest.digest.as_str()]
            .map(|it| format!("manifests/{it}"));
        let blobs: Vec<String> = platform.blobs().map(|blob| format!("blobs/{}", blob.digest)).collect();
        for path in manifests.iter().chain(&blobs) {
            let (status, ..) =
                ask(self.running.registry, "GET", &format!("/v2/{}/{path}", image.repository), "Accept: */*\r\n");
            assert_eq!(status, 200, "{path}");
        }
        self.kept();
    }

    /// A client has the last bytes before the disk has them.
    pub(crate) fn kept(&self) {
        while !ask(self.running.admin, "GET", "/metrics", "").2.contains("\nweir_fills_under_way 0\n") {
            std::thread::yield_now();
        }
    }

    pub(crate) fn api(&self, method: &str, path: &str) -> Value {
        let (status, _, body) = ask(self.running.admin, method, path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let admin = format!("http://{}", self.running.admin);
        let output = weir(&[&["cache"], arguments, &["--admin", &admin]].concat()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    }

    /// Pushes an index that lists nothing.
    pub(crate) fn host(&self, repository: &str, tag: &str) {
        let body = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let head = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let (status, _, answer) =
            ask(self.running.registry, "PUT", &format!("/v2/{repository}/manifests/{tag}"), &request);
        assert_eq!(status, 201, "{answer}");
    }

    fn blob_gets(&self) -> usize {
        self.hub.count(|logged| logged.kind == Kind::BlobGet)
    }

    /// What was there before the start is read: there is nothing.
    pub(crate) fn counted(&self) {
        while self.api("GET", "/api/v1/cache")["counted"] != true {
            std::thread::yield_now();
        }
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(10));
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
    assert!(world.command(&["list", "--pinned"]).contains("docker.io/library/one:latest"));
    assert_eq!(world.command(&["unpin", "docker.io/library/*"]), "nothing is pinned\n");
    assert_eq!(world.command(&["list", "--pinned"]), "nothing of it is cached\n");
    assert_eq!(world.command(&["list", "--stale"]), "nothing of it is cached\n");
    let text = world.command(&["pin", "one:latest"]);
    assert!(text.starts_with("docker.io/library/one:latest  operator"), "a short name is pinned in full: {text}");
    assert_eq!(world.command(&["unpin", "one:latest"]), "nothing is pinned\n");
    assert!(world.command(&["unpin", "docker.io/library/*"]).contains("no pin has this pattern"));
    for selection in [&["--all"][..], &["--registry", "docker.io"], &["one", "--not-arrived-within", "0s"]] {
        let text = world.command(&[&["purge", "--dry-run"], selection].concat());
        assert!(text.contains("would be freed: 1 manifest and"), "{selection:?}: {text}");
    }
    assert_eq!(world.command(&["purge", "--dry-run", "--registry", "quay.io"]), "nothing of it is cached\n");
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

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_summed_up_and_hosted_images_are_in_them() {
    let world =
        World::start_with(&[("WEIR_HOSTED__NAMESPACES", "team/*"), ("WEIR_HOSTED__ANONYMOUS_PUSH", "true")]).await;
    world.counted();
    let platforms = ["linux/amd64", "linux/arm64/v8"];
    let two = world.hub.push(Spec::new("library/two").platforms(platforms)).unwrap();
    let one = world.hub.push(Spec::new("acme/one").seed(7).single()).unwrap();
    world.pull(&two, 0);
    world.pull(&one, 0);
    world.host("team/app", "v1");
    let list = |query: &str| -> Vec<String> {
        names(&world.api("GET", &format!("/api/v1/cache?{query}"))).into_iter().map(str::to_owned).collect()
    };
    let (hub_one, hub_two, hosted) = ("docker.io/acme/one:latest", "docker.io/library/two:latest", "team/app:v1");
    while list("pulled_within=1h").len() < 2 {
        std::thread::yield_now();
    }
    for (query, expected) in [
        ("", &[hub_one, hub_two, hosted][..]),
        ("hosted=true", &[hosted]),
        ("hosted=false", &[hub_one, hub_two]),
        ("registry=hosted", &[hosted]),
        ("registry=docker.io&complete=true", &[hub_one]),
        ("repository=two", &[hub_two]),
        ("repository=team/app", &[hosted]),
        ("platform=linux/arm64/v8", &[hub_two]),
        ("platform=linux/arm64", &[hub_two]),
        ("platform=linux/arm", &[]),
        ("complete=true", &[hub_one, hosted]),
        ("complete=false", &[hub_two]),
        ("complete=false&repository=acme/one", &[]),
        ("complete=false&registry=hosted", &[]),
        ("complete=true&pattern=app", &[hosted]),
        ("stale=false", &[hub_one, hub_two, hosted]),
        ("stale=true", &[]),
        ("pinned=true", &[hosted]),
        ("pulled_within=1h", &[hub_one, hub_two]),
        ("not_pulled_within=1h", &[]),
        ("not_pulled_within=0s&pattern=one", &[hub_one]),
        ("not_arrived_within=1h", &[]),
        ("not_arrived_within=0s&pattern=one", &[hub_one]),
        ("sort=size&n=2", &[hub_two, hub_one]),
        ("sort=idle&n=1&hosted=true", &[hosted]),
        ("last=docker.io/library/two:latest", &[hosted]),
        ("last=team/app:v1", &[]),
    ] {
        assert_eq!(list(query), expected, "{query}");
    }
    // The config of an image without an index says its platform, and is looked at for a report of it.
    world.api("GET", "/api/v1/images/acme%2Fone");
    assert_eq!(list("platform=linux/amd64"), [hub_one, hub_two]);
    for (query, why) in [
        ("stale=maybe", "stale is true or false"),
        ("pulled_within=soon", "pulled_within is a duration such as 12h or 30d"),
        ("sort=age", "sort is name, size, last_pull or idle"),
        ("repository=ghcr.io/x", "no configured upstream"),
        ("last=docker.io", "last is the name of an image"),
        ("order=name", "no parameter here"),
    ] {
        let (status, _, body) = ask(world.running.admin, "GET", &format!("/api/v1/cache?{query}"), "");
        assert!(status == 400 && body.contains(why), "{query}: {body}");
    }
    let lines = |limit: &str| world.command(&["list", "--limit", limit]).lines().count();
    assert_eq!(["1", "2", "9"].map(lines), [2, 3, 4], "images and a heading");
    let registries = world.api("GET", "/api/v1/cache/registries");
    let counts = |at: usize| {
        let registry = &registries["registries"][at];
        (
            registry["registry"].as_str().unwrap().to_owned(),
            registry["repositories"].clone(),
            registry["images"].clone(),
        )
    };
    assert_eq!(counts(0), ("docker.io".to_owned(), 2.into(), 2.into()), "{registries:#}");
    assert_eq!(counts(1), ("hosted".to_owned(), 1.into(), 1.into()), "{registries:#}");
    let first = world.api("GET", "/api/v1/cache/repositories?n=1");
    assert_eq!(
        (&first["repositories"][0]["name"], &first["next"]),
        (&"docker.io/acme/one".into(), &"docker.io/acme/one".into())
    );
    let rest = world.api("GET", "/api/v1/cache/repositories?last=docker.io/acme/one");
    assert_eq!((&rest["repositories"][1]["name"], &rest["next"]), (&"team/app".into(), &Value::Null), "{rest:#}");
    let here: u64 = registries["registries"][0]["bytes"].as_u64().unwrap();
    let of_two = rest["repositories"][0]["bytes"].as_u64().unwrap();
    assert_eq!(here, first["repositories"][0]["bytes"].as_u64().unwrap() + of_two, "nothing is shared");
    let text = world.command(&["repositories", "hosted"]);
    assert!(text.contains("team/app    1 "), "{text}");
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let arrived = world.api("GET", "/api/v1/cache?pattern=one")["images"][0]["arrived"].as_str().unwrap().to_owned();
    let since = humantime::parse_rfc3339(&arrived).unwrap();
    assert!(now - hour < since && since <= now, "{arrived}");
    let text = world.command(&["show", "acme/one"]);
    assert!(text.contains(&format!("  here since {arrived}\n")), "{text}");
    let text = world.command(&["list", "acme"]);
    assert!(text.contains(" SINCE ") && text.contains(&arrived[..10]), "{text}");
    let text = world.command(&["show", "team/app:v1"]);
    assert!(text.contains("hosted here") && text.contains("no pull of it is remembered"), "{text}");

    for (arguments, why) in [
        (&["purge", "team/app:v1"][..], "weir answered 409: team/app is hosted here"),
        (&["refresh", "team/app:v1"], "weir answered 409: team/app is hosted here"),
        (&["pin", "team/app:v1"], "weir answered 409: team/app is hosted here; nothing of it is ever evicted"),
        (&["export", "team/app:v1", "--output", "/nowhere/app.tar"], "team/app:v1 is hosted here, and an export is of"),
        (&["purge", "--older-than", "soon"], "older_than is a duration"),
        (&["purge", "--older-than", "30d"], "nothing of it is cached"),
        (&["purge", "--not-arrived-within", "30d"], "nothing of it is cached"),
    ] {
        let text = world.command(arguments);
        assert!(text.contains(why), "{arguments:?}: {text}");
    }
    let text = world.command(&["purge", "docker.io/acme/*", "--older-than", "0s"]);
    assert!(text.contains(" freed: 1 manifest"), "{text}");
    world.command(&["purge", "--all"]);
    assert_eq!(list(""), [hosted], "what is hosted stays");
    let (status, ..) = ask(world.running.registry, "DELETE", "/v2/team/app/manifests/v1", "");
    let left = list("");
    assert!(status == 202 && left.len() == 1 && left[0].starts_with("team/app@sha256:"), "the tag is gone: {left:?}");
}
