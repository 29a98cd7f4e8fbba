//! What Weir says of images: the report of one, what a policy makes of it, and the corpus of images that each break one rule or none.

mod scanner;
mod signatures;
mod verdicts;

use std::time::SystemTime;

use serde_json::Value;
use weir_conformance::hub::{Artifact, Image, Layer, Spec, corpus};

use crate::{
    cache::{World, until},
    deploy::{ask, weir},
};

fn report(world: &World, image: &Image) -> Value {
    let name = format!("{}:{}", image.repository, image.tags[0]).replace('/', "%2F");
    world.api("GET", &format!("/api/v1/images/{name}?wait=55s"))
}

fn outcome<'a>(report: &'a Value, platform: usize, rule: &str) -> (&'a str, &'a str) {
    let verdicts = report["platforms"][platform]["verdicts"].as_array().unwrap();
    let verdict = verdicts.iter().find(|verdict| verdict["rule"] == rule).unwrap();
    (verdict["outcome"].as_str().unwrap(), verdict["finding"].as_str().unwrap())
}

/// The exit status and all that is printed.
fn command(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = format!("http://{}", world.running.admin);
    let output = weir(&[&["image"], arguments, &["--admin", &admin]].concat()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), printed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_is_wrong_and_how_to_mend_it_and_its_status_says_whether() {
    let world = World::start().await;
    let cases = corpus(SystemTime::now());
    let [sound, root] = ["sound", "root by number"]
        .map(|what| world.hub.push(cases.iter().find(|case| case.what == what).unwrap().spec.clone()).unwrap());
    [&sound, &root].iter().for_each(|image| world.pull(image, 0));
    let (status, printed) = command(&world, &[&sound.repository]);
    assert!(status == Some(0) && printed.contains("non_root") && !printed.contains("mend:"), "{status:?} {printed}");
    let (status, printed) = command(&world, &[&root.repository]);
    assert_eq!(status, Some(1), "{printed}");
    for expected in ["fail", "starts as root", "mend: end the Dockerfile with a USER", "1 rule is broken"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let (status, printed) = command(&world, &["corpus/absent"]);
    assert!(status == Some(2) && printed.contains("no image of this name is cached"), "{status:?} {printed}");
    let (status, json) = command(&world, &[&sound.repository, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["outcome"], &json["digest"]), (Some(0), &"unknown".into(), &sound.digest().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_judged_by_each_platform_and_what_was_not_pulled_is_unknown() {
    let world = World::start().await;
    let image = world.hub.push(Spec::new("library/two").platforms(["linux/amd64", "linux/arm64/v8"])).unwrap();
    world.pull(&image, 0);
    let found = report(&world, &image);
    assert_eq!(outcome(&found, 0, "non_root"), ("fail", "starts as root"));
    assert_eq!(outcome(&found, 1, "non_root").0, "unknown");
    for platform in ["linux/arm64/v8", "linux/arm64"] {
        let one = world.api("GET", &format!("/api/v1/images/library%2Ftwo:latest?platform={platform}"));
        assert_eq!(one["platforms"].as_array().unwrap().len(), 1, "{platform}");
        assert_eq!(one["platforms"][0]["digest"], image.platforms[1].manifest.digest.as_str());
    }
    let (status, _, body) = ask(world.running.admin, "GET", "/api/v1/images/library%2Ftwo?platform=linux/s390x", "");
    assert_eq!(status, 404, "{body}");
    // A platform that was pulled later is known.
    world.pull(&image, 1);
    assert_eq!(outcome(&report(&world, &image), 1, "non_root").0, "fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_the_cache_knows_of_is_named_and_not_taken_for_verified() {
    let world = World::start().await;
    let image = world.hub.push(Spec::new("library/signed")).unwrap();
    world.pull(&image, 0);
    assert_eq!(outcome(&report(&world, &image), 0, "signed"), ("unknown", "has no signature that the cache knows of"));
    world.hub.push_referrer(Artifact {
        repository: image.repository.clone(),
        subject: image.digest().to_owned(),
        artifact_type: "application/vnd.dev.sigstore.bundle.v0.3+json".to_owned(),
        annotations: Vec::new(),
        content: "{}".into(),
    });
    let path = format!("/v2/library/signed/referrers/{}", image.digest());
    assert_eq!(ask(world.running.registry, "GET", &path, "").0, 200);
    assert_eq!(outcome(&report(&world, &image), 0, "signed"), ("unknown", "has a signature, which was not verified"));
}

/// A weir with this configuration, which can be changed.
struct Policed {
    world: World,
    file: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Policed {
    async fn start(configuration: &str) -> Policed {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("weir.toml");
        std::fs::write(&file, configuration).unwrap();
        let world = World::start_with(&[("WEIR_CONFIG", file.to_str().unwrap())]).await;
        Policed { world, file, _directory: directory }
    }

    fn reload(&self, configuration: &str) {
        let said = self.world.running.log().len();
        std::fs::write(&self.file, configuration).unwrap();
        self.world.running.signal(rustix::process::Signal::HUP);
        while !self.world.running.log()[said..].contains(r#""message":"reloaded""#) {
            std::thread::yield_now();
        }
    }

    fn manifest(&self, method: &str, image: &Image, reference: &str) -> (u16, String, String) {
        let path = format!("/v2/{}/manifests/{reference}", image.repository);
        ask(self.world.running.registry, method, &path, "Accept: */*\r\n")
    }
}

fn policy(mode: &str, more: &str) -> String {
    format!(
        "[[policy]]\nname = \"strict\"\nimages = [\"docker.io/corpus/*\"]\nnon_root = true\nmode = \"{mode}\"\n{more}\n"
    )
}

fn spec(what: &str) -> Spec {
    corpus(SystemTime::now()).into_iter().find(|case| case.what == what).unwrap().spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_breaks_a_rule_is_refused_with_a_sentence_and_a_cached_one_costs_nothing() {
    let policed = Policed::start(&policy("enforce", "unknown = \"wait\"\ncontact = \"the platform team\"")).await;
    let hub = &policed.world.hub;
    let [sound, root] = ["sound", "root by number"].map(|what| hub.push(spec(what)).unwrap());
    assert_eq!(policed.manifest("GET", &sound, "latest").0, 200);
    // It is fetched to be looked at, and then refused.
    let (status, head, body) = policed.manifest("GET", &root, "latest");
    assert_eq!(status, 403, "{body}");
    let name = format!("docker.io/{}:latest", root.repository);
    let sentence = format!(
        "{name} is refused by the policy strict of this mirror: it starts as root (non_root); end the Dockerfile with a USER that is a \
         number, such as USER 65532:65532; ask the platform team"
    );
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["errors"][0]["code"], &body["errors"][0]["message"]), (&"DENIED".into(), &sentence.into()));
    assert!(head.starts_with("http/1.1 403 image refused by policy\r\n"), "{head}");
    let asked = hub.log().len();
    for reference in ["latest", root.digest()] {
        for method in ["GET", "HEAD"] {
            assert_eq!(policed.manifest(method, &root, reference).0, 403, "{method} {reference}");
            assert_eq!(
                policed.manifest(method, &sound, reference.replace(root.digest(), sound.digest()).as_str()).0,
                200
            );
        }
    }
    assert_eq!(hub.log().len(), asked, "upstream was asked");

    let matched = policed.world.api("GET", "/api/v1/policy")["policies"][0]["rules"][0].take();
    assert_eq!(matched, serde_json::json!({"rule": "non_root", "matched": 5}), "one for each refusal");
    let metrics = ask(policed.world.running.admin, "GET", "/metrics", "").2;
    let line = r#"weir_policy_matched_total{policy="strict",mode="enforce",rule="non_root"} 5"#;
    assert!(metrics.contains(line), "{metrics}");

    policed.reload(&policy("warn", ""));
    let (status, head, _) = policed.manifest("GET", &root, "latest");
    let warning =
        format!("\r\nwarning: 299 - \"{name} breaks the policy strict of this mirror: it starts as root (non_root);");
    assert!(status == 200 && head.contains(&warning), "{head}");
    assert!(!policed.manifest("GET", &sound, "latest").1.contains("warning:"));
    // What a worker keeps of a warning is of one image and one policy. More requests than there are workers, so that some meet what is kept.
    let another = hub.push(Spec { repository: "corpus/another".to_owned(), ..spec("root by number") }).unwrap();
    // An image that is not judged yet is served without a sentence.
    until("the other image is judged", || policed.manifest("GET", &another, "latest").1.contains("warning:"));
    for policy_name in ["strict", "stricter"] {
        policed.reload(&policy("warn", "").replace("strict", policy_name));
        for image in [&root, &another].into_iter().cycle().take(64) {
            let (_, head, _) = policed.manifest("GET", image, "latest");
            let breaks = format!("docker.io/{}:latest breaks the policy {policy_name} of", image.repository);
            assert!(head.contains(&breaks), "{breaks}: {head}");
        }
    }
    // An audit changes no answer, and counts what it would have refused.
    policed.reload(&policy("audit", ""));
    let counted = || policed.world.api("GET", "/api/v1/policy")["policies"][0]["rules"][0]["matched"].as_u64().unwrap();
    assert_eq!(policed.manifest("GET", &root, "latest").0, 200);
    until("the audit has judged behind the answer", || counted() == 1);
    assert_eq!(policed.manifest("HEAD", &sound, "latest").0, 200);
    assert_eq!(policed.manifest("GET", &root, "latest").0, 200);
    until("the audit has judged behind the second answer, too", || counted() >= 2);
    assert_eq!(counted(), 2, "the sound one is not counted");
    let exempt = "exempt = [{ image = \"*\", reason = \"a test\", expires = \"2100-01-01T00:00:00Z\" }]";
    for served in [policy("audit", ""), policy("enforce", exempt), String::new()] {
        policed.reload(&served);
        let (status, head, body) = policed.manifest("GET", &root, "latest");
        assert!(status == 200 && !head.contains("warning:"), "{served}: {head}{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_refused_by_the_platform_that_is_asked_for_and_whole_when_every_platform_is() {
    let enforce = policy("enforce", "unknown = \"wait\"");
    let policed = Policed::start(&enforce).await;
    let image = policed.world.hub.push(Spec::new("corpus/two")).unwrap();
    assert_eq!(policed.manifest("GET", &image, "latest").0, 200, "which platform is wanted is not known yet");
    for platform in &image.platforms {
        let (status, _, body) = policed.manifest("GET", &image, &platform.manifest.digest);
        assert!(status == 403 && body.contains("it starts as root"), "{body}");
    }
    // What was decided is kept for a minute, or until the policies change.
    policed.reload(&format!("{enforce}\n"));
    assert_eq!(policed.manifest("GET", &image, "latest").0, 403);
    assert_eq!(policed.manifest("HEAD", &image, image.digest()).0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_served_or_refused_as_the_policy_says_and_an_artifact_always_passes() {
    let policed = Policed::start(&policy("enforce", "unknown = \"deny\"")).await;
    let hub = &policed.world.hub;
    let named = hub.push(spec("a user by name")).unwrap();
    let (status, _, body) = policed.manifest("GET", &named, "latest");
    assert!(status == 403 && body.contains("starts as a user by name"), "{body}");
    let signature = hub.push_referrer(Artifact {
        repository: named.repository.clone(),
        subject: named.digest().to_owned(),
        artifact_type: "application/vnd.dev.sigstore.bundle.v0.3+json".to_owned(),
        annotations: Vec::new(),
        content: "{}".into(),
    });
    assert_eq!(policed.manifest("GET", &named, &signature.digest).0, 200);
    let attested = hub.push(spec("with an SBOM and provenance")).unwrap();
    let statement = attested.platforms.iter().find(|platform| platform.name == "unknown/unknown").unwrap();
    assert_eq!(policed.manifest("GET", &attested, &statement.manifest.digest).0, 200);

    policed.reload(&policy("enforce", "unknown = \"allow\""));
    assert_eq!(policed.manifest("GET", &named, "latest").0, 200);
    // The first client is not kept waiting; what it brought is known to the next.
    let root = hub.push(spec("root by name")).unwrap();
    assert_eq!(policed.manifest("GET", &root, "latest").0, 200);
    while policed.manifest("GET", &root, "latest").0 != 403 {
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_its_layers_is_looked_at_behind_the_refusal_and_is_in_the_audit() {
    let text = policy("enforce", "no_setuid = true\nunknown = \"deny\"");
    let policed = Policed::start(&text).await;
    let hub = &policed.world.hub;
    let [sound, armed] = ["sound", "a setuid file"].map(|what| hub.push(spec(what)).unwrap());
    for image in [&sound, &armed] {
        let (status, _, body) = policed.manifest("GET", image, "latest");
        assert!(status == 403 && body.contains("1 of 1 layers that were not looked at yet"), "{body}");
    }
    // No client asks for the layers.
    until("it is served", || policed.manifest("GET", &sound, "latest").0 == 200);
    let refused = || policed.manifest("GET", &armed, "latest").2;
    let finding = "has files that are setuid or setgid: usr/bin/su (no_setuid)";
    until("it is refused for what was found", || refused().contains(finding));
    let counted = hub.log().len();
    refused();
    assert_eq!(hub.log().len(), counted, "upstream was asked");
    let audit = policed.world.api("GET", "/api/v1/audit").to_string();
    let attempt = format!("pull docker.io/{}:latest", armed.repository);
    assert_eq!(audit.matches(&attempt).count(), 2, "one for each sentence: {audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_engines_run_is_held_to_the_rules_whatever_its_manifest_calls_it() {
    let policed = Policed::start(&policy("enforce", "unknown = \"deny\"")).await;
    let hub = &policed.world.hub;
    let with_config = |name: &str, of: &str| {
        let manifest = serde_json::json!({"artifactType": "x/y", "config": {"mediaType": of}, "layers": []});
        hub.push(Spec::new(format!("corpus/{name}")).single().manifest(manifest)).unwrap()
    };
    let chart = with_config("chart", "application/vnd.cncf.helm.config.v1+json");
    let other = with_config("other", "application/vnd.example.config.v1+json");
    let layers = serde_json::json!({"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "fsLayers": [{"blobSum": chart.platforms[0].layers[0].digest}]});
    let old = hub.push_manifest("corpus/other", layers.to_string().into(), Vec::new());
    let cases = [
        ("root with an artifact type", Some("it starts as root (non_root)")),
        ("root with a config of bytes in schema 2", Some("it starts as root (non_root)")),
        ("root with the config of a chart", Some("it starts as root (non_root)")),
        ("a manifest with two configs", Some("it has a manifest that is no evidence: ")),
        ("sound", None),
    ];
    let cases = cases.map(|(what, refusal)| (hub.push(spec(what)).unwrap(), "latest", refusal));
    let unclear = "it is neither a container image nor an artifact of a known kind";
    let schema_1 = "it is an image of schema 1, of which the cache knows nothing";
    let cases = cases.into_iter().chain([
        (chart, "latest", None),
        (other.clone(), "latest", Some(unclear)),
        (other.clone(), &*old.digest, Some(schema_1)),
    ]);
    for (image, reference, refusal) in cases {
        let (status, _, body) = policed.manifest("GET", &image, reference);
        match refusal {
            Some(refusal) => assert!(status == 403 && body.contains(refusal), "{refusal}: {status} {body}"),
            None => assert_eq!(status, 200, "{}: {body}", image.repository),
        }
    }
    policed.reload(&policy("enforce", "unknown = \"wait\""));
    for reference in ["latest", &old.digest] {
        assert_eq!(policed.manifest("GET", &other, reference).0, 200, "what is unknown is served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_purged_is_as_old_as_its_first_arrival() {
    let policed = Policed::start(&policy("enforce", "min_age = \"7d\"\nunknown = \"wait\"")).await;
    let [image, other] = ["sound", "a user in group 0"].map(|what| policed.world.hub.push(spec(what)).unwrap());
    let refused = |image: &Image| policed.manifest("GET", image, "latest");
    let young = "it came into the cache less than a minute ago, which is less than 7 days (min_age)";
    let first = refused(&image);
    assert!(first.0 == 403 && first.2.contains(young), "{first:?}");
    // The config came a month ago, says the disk.
    let hex = image.platforms[0].config.digest.trim_start_matches("sha256:");
    let name = std::process::Command::new("find").arg(policed.world.running.directory()).args(["-name", hex]).output();
    let path = String::from_utf8(name.unwrap().stdout).unwrap();
    let month = std::time::Duration::from_secs(30 * 86_400);
    let config = std::fs::File::options().write(true).open(path.trim()).unwrap();
    config.set_modified(SystemTime::now() - month).unwrap();
    policed.reload(&policy("enforce", "min_age = \"8d\"\nunknown = \"wait\""));
    assert_eq!(refused(&image).0, 200);
    let purge = format!("/api/v1/cache?repository={}&reason=a%20test", image.repository);
    let (status, _, body) = ask(policed.world.running.admin, "DELETE", &purge, "");
    assert_eq!(status, 200, "{body}");
    assert!(!std::path::Path::new(path.trim()).exists(), "the config is gone");
    let again = refused(&image);
    assert_eq!(again.0, 200, "{again:?}");
    assert_eq!(refused(&other).0, 403, "an image that was not here before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_on_the_layers_of_a_base_whose_tag_moved_on_has_a_stale_base() {
    let world = World::start_with(&[("WEIR_MIRROR__TAG_TTL", "0s")]).await;
    let shared = Layer::Shared { seed: 77, size: 100 };
    let base = |layer: Layer| Spec { layers: vec![layer], ..Spec::new("library/base").single().seed(1) };
    let old = world.hub.push(base(shared.clone())).unwrap();
    world.pull(&old, 0);
    let app = Spec { layers: vec![shared, Layer::Random(100)], ..Spec::new("library/app").single() };
    let app = world.hub.push(app).unwrap();
    world.pull(&app, 0);
    let name = "docker.io/library/base:latest";
    assert_eq!(outcome(&report(&world, &app), 0, "fresh_base"), ("pass", &*format!("is built on {name} as it is now")));
    let new = world.hub.push(base(Layer::Random(200))).unwrap();
    world.pull(&new, 0);
    let stale = format!("was built on {name}, which is another image by now");
    assert_eq!(outcome(&report(&world, &app), 0, "fresh_base"), ("fail", &*stale));
    // A tag that names it again is no stale one.
    world.hub.retag("library/base", "latest", old.digest());
    world.pull(&old, 0);
    assert_eq!(outcome(&report(&world, &app), 0, "fresh_base").0, "pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_layers_all_call_themselves_attestations_is_judged_by_what_they_hold() {
    let policed = Policed::start(&policy("enforce", "unknown = \"deny\"")).await;
    let hub = &policed.world.hub;
    let root = hub.push(spec("root by number")).unwrap();
    let renamed = |image: &Image, of: &str| {
        let mut manifest: Value = serde_json::from_slice(&image.platforms[0].manifest.bytes).unwrap();
        manifest["layers"].as_array_mut().unwrap().iter_mut().for_each(|layer| layer["mediaType"] = of.into());
        hub.push_manifest(&image.repository, manifest.to_string().into(), Vec::new())
    };
    let text = hub.push(Spec { layers: vec![Layer::Raw(b"{}".to_vec())], ..spec("root by absence") }).unwrap();
    for of in ["application/vnd.in-toto+json", "application/vnd.dev.cosign.simplesigning.v1+json"] {
        let (status, _, body) = policed.manifest("GET", &root, &renamed(&root, of).digest);
        assert!(status == 403 && body.contains("it starts as root (non_root)"), "{of}: {status} {body}");
        let (status, _, body) = policed.manifest("GET", &text, &renamed(&text, of).digest);
        assert_eq!(status, 200, "{of}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_the_thresholds_of_the_policy_that_is_for_the_image_and_names_it() {
    let policed = Policed::start(&policy("audit", "max_size = \"1B\"")).await;
    let image = policed.world.hub.push(spec("sound")).unwrap();
    policed.world.pull(&image, 0);
    let (status, printed) = command(&policed.world, &[&image.repository]);
    assert_eq!(status, Some(1), "{printed}");
    for expected in ["thresholds of the policy strict\n", " bytes in 1 layer, more than 1 byte\n"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    assert_eq!(report(&policed.world, &image)["policy"], "strict");
    policed.reload("");
    assert_eq!(command(&policed.world, &[&image.repository]).0, Some(0));
    assert!(report(&policed.world, &image)["policy"].is_null());
}
