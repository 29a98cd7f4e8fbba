//! What Weir says of images: the report of one, and the corpus of images that each break one rule or none.

use std::time::SystemTime;

use serde_json::Value;
use weir_conformance::hub::{Artifact, Image, Spec, corpus};

use crate::{
    cache::World,
    deploy::{ask, weir},
};

fn report(world: &World, image: &Image) -> Value {
    let name = format!("{}:{}", image.repository, image.tags[0]).replace('/', "%2F");
    world.api("GET", &format!("/api/v1/images/{name}"))
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
async fn every_image_of_the_corpus_is_judged_right() {
    let world = World::start().await;
    let cases = corpus(SystemTime::now());
    let images: Vec<Image> = cases.iter().map(|case| world.hub.push(case.spec.clone()).unwrap()).collect();
    images.iter().for_each(|image| (0..image.platforms.len()).for_each(|platform| world.pull(image, platform)));
    let spent = world.hub.log().len();
    for (case, image) in cases.iter().zip(&images) {
        let report = report(&world, image);
        for verdict in report["platforms"][0]["verdicts"].as_array().unwrap() {
            let rule = verdict["rule"].as_str().unwrap();
            let expected = case.expected(rule).unwrap_or_else(|| panic!("the corpus does not know {rule}"));
            assert_eq!(verdict["outcome"], expected, "{}: {rule}: {verdict}", case.what);
        }
        let said = report.to_string() + &world.running.log();
        assert!(!said.contains("aB3aB3") && !said.contains("correct-horse"), "{}: a value is shown", case.what);
    }
    assert_eq!(world.hub.log().len(), spent, "a report asks upstream nothing");
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
    let path = "/api/v1/images/library%2Ftwo:latest?platform=linux/arm64/v8";
    let one = world.api("GET", path);
    assert_eq!(one["platforms"].as_array().unwrap().len(), 1);
    assert_eq!(one["platforms"][0]["digest"], image.platforms[1].manifest.digest.as_str());
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
