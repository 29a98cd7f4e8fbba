//! The corpus: images of the hub that each break one rule or none, signed ones among them, and what Weir says of each.

use std::time::SystemTime;

use weir_conformance::hub::{Case, Image, Spec, corpus};

use super::{
    Policed, outcome, report,
    signatures::{KEY, KEYLESS, NOTATION, policy, push},
};
use crate::cache::until;

/// Kinds of images that the corpus must have.
const KINDS: [&str; 21] = [
    "sound",
    "root by number",
    "root by absence",
    "root by name",
    "a user by name",
    "an official image's environment",
    "a secret that a later layer deletes",
    "a secret in a directory that a later layer deletes",
    "a reproducible build of 1970",
    "a base",
    "on a base that moved on",
    "from scratch",
    "a setuid file",
    "unsigned",
    "signed by another key",
    "with a signature of another digest",
    "of a signed index",
    "of an index that is not signed",
    "signed by a certificate that had expired",
    "signed by Notation in JWS",
    "signed by Notation, by a certificate that has expired",
];

/// What stands beside an image, by its name in `tests/signatures/beside.json`, and what the rule `signed` has to say.
const SIGNED: [(&str, &[&str], &str); 16] = [
    ("unsigned", &[], "fail"),
    ("signed under cosign's tag", &["tag-release"], "pass"),
    ("signed in a bundle", &["bundle-release"], "pass"),
    ("signed by an Ed25519 key under cosign's tag", &["tag-ed"], "pass"),
    ("signed by an Ed25519 key in a bundle", &["bundle-ed"], "pass"),
    ("signed by another key", &["tag-other"], "fail"),
    ("with a signature of another digest", &["tag-of-other"], "fail"),
    ("with one signature that counts", &["tag-of-other", "bundle-other", "bundle-release"], "pass"),
    ("with a signed SBOM alone", &["bundle-sbom"], "fail"),
    ("signed by an identity", &["keyless"], "pass"),
    ("signed by a certificate that had expired", &["keyless-expired"], "fail"),
    ("signed by an identity of another authority", &["keyless-untrusted"], "fail"),
    ("signed by Notation in JWS", &["notation"], "pass"),
    ("signed by Notation, by a certificate that has expired", &["notation-expired"], "fail"),
    ("signed by Notation, by another authority", &["notation-untrusted"], "fail"),
    ("signed by Notation, of another digest", &["notation-of-other"], "fail"),
];

/// Images of which the signatures are, and those of which only the index is signed. They start as root, and name no base.
fn signed() -> Vec<(Case, &'static [&'static str])> {
    let case = |what, spec: Spec, beside: &'static [&'static str], outcome| {
        let mut differs = vec![("non_root", "fail"), ("trusted_base", "unknown"), ("max_age", "fail")];
        differs.extend([("signed", outcome), ("attested", "fail")]);
        (Case { what, spec: spec.layers([1024]), differs }, beside)
    };
    let single = SIGNED.iter().enumerate().map(|(number, (what, beside, outcome))| {
        case(*what, Spec::new(format!("signed/image{number}")).single().seed(41), beside, *outcome)
    });
    let index = |name: &str| Spec::new(format!("signed/{name}")).seed(42);
    let of_index = [
        case("of a signed index", index("index"), &["tag-index"], "pass"),
        case("of an index that is not signed", index("plain"), &[], "fail"),
    ];
    single.chain(of_index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_image_of_the_corpus_is_judged_right() {
    let sources = format!("signed = [{KEY}, {}, {KEYLESS}, {NOTATION}]", KEY.replace("release", "ed"));
    let policed = Policed::start(&policy("audit", &sources)).await;
    let world = &policed.world;
    let mut cases: Vec<_> = corpus(SystemTime::now()).into_iter().map(|case| (case, &[][..])).collect();
    cases.extend(signed());
    let has = |kind: &&str| cases.iter().any(|(case, _)| case.what == *kind);
    assert!(cases.len() >= 40 && KINDS.iter().all(has), "{} images", cases.len());
    let images: Vec<Image> = cases.iter().map(|(case, _)| world.hub.push(case.spec.clone()).unwrap()).collect();
    for ((case, beside), image) in cases.iter().zip(&images) {
        for name in *beside {
            push(&world.hub, &image.repository, name, image.digest());
        }
        (0..image.platforms.len()).for_each(|platform| world.pull(image, platform));
        let is_known = || {
            let report = report(world, image);
            ["signed", "attested"].iter().all(|rule| !outcome(&report, 0, rule).1.contains("not looked up"))
        };
        until(case.what, is_known);
    }
    let spent = world.hub.log().len();
    for ((case, _), image) in cases.iter().zip(&images) {
        let report = report(world, image);
        for verdict in report["platforms"][0]["verdicts"].as_array().unwrap() {
            let rule = verdict["rule"].as_str().unwrap();
            let expected = case.expected(rule).unwrap_or_else(|| panic!("the corpus does not know {rule}"));
            assert_eq!(verdict["outcome"], expected, "{}: {rule}: {verdict}", case.what);
        }
        let said = report.to_string() + &world.running.log();
        assert!(!said.contains("aB3aB3") && !said.contains("correct-horse"), "{}: a value is shown", case.what);
    }
    let log = world.hub.log();
    assert_eq!(log.len(), spent, "a report asks upstream nothing: {:?}", &log[spent..]);
}
