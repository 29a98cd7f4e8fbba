//! Whose signatures count, as clients meet it: what cosign, Notation and keyless signers push stands beside images of the hub, byte for
//! byte, and is looked up through the mirror.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use weir_conformance::hub::{Fault, Hub, Image, Kind, Manifest, Match, Spec, What};

use super::{Policed, outcome, report};
use crate::{cache::until, deploy::ask};

pub(super) const KEY: &str = "{ key = 'DIR/release.pub' }";
pub(super) const KEYLESS: &str =
    "{ issuer = 'https://issuer.example', subject = 'release@*', roots = 'DIR/trusted-root.json' }";
pub(super) const NOTATION: &str =
    "{ notation = 'DIR/notation-root.pem', identities = ['x509.subject: C=US, CN=signer'] }";

/// A manifest beside an image, and its blobs.
#[derive(Deserialize)]
struct Pushed {
    manifest: String,
    blobs: Vec<String>,
}

/// Pushes what has this name in `tests/signatures/beside.json` beside the manifest of this digest: as its referrer, or under its tag.
pub(super) fn push(hub: &Hub, repository: &str, name: &str, beside: &str) -> Manifest {
    let mut all: HashMap<String, Pushed> = serde_json::from_str(include_str!("../signatures/beside.json")).unwrap();
    let Pushed { manifest, blobs } = all.remove(name).unwrap_or_else(|| panic!("there is no {name}"));
    let mut document: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let mut bytes = Bytes::from(manifest);
    if document.get("subject").is_some_and(|subject| subject["digest"] != beside) {
        document["subject"]["digest"] = json!(beside);
        bytes = serde_json::to_vec(&document).unwrap().into();
    }
    let pushed = hub.push_manifest(repository, bytes, blobs.into_iter().map(Bytes::from).collect());
    if name.starts_with("tag-") {
        let end = if name.ends_with("sbom") { "att" } else { "sig" };
        hub.retag(repository, &format!("{}.{end}", beside.replace(':', "-")), &pushed.digest);
    }
    pushed
}

/// The image that the signatures are of.
fn app(hub: &Hub, repository: &str) -> Image {
    let image = hub.push(Spec::new(repository).single().seed(41).layers([1024])).unwrap();
    assert_eq!(image.digest(), "sha256:a7b756a3b338367f4b5d3be505ef133aa86b3e3dc743b73321b084f4616e35ab");
    image
}

pub(super) fn policy(mode: &str, rules: &str) -> String {
    let rules = rules.replace("DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signatures"));
    format!(
        "[[policy]]\nname = \"signed\"\nimages = [\"docker.io/signed/*\"]\nmode = \"{mode}\"\nunknown = \"deny\"\nwait = \"10s\"\n{rules}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_served_when_a_trusted_source_signed_its_digest_and_else_refused_with_what_is_wrong() {
    let all = format!("signed = [{KEY}, {KEYLESS}, {NOTATION}]");
    let policed = Policed::start(&policy("enforce", &all)).await;
    let hub = &policed.world.hub;
    let cases: [(&[&str], Option<&str>); 17] = [
        (&[], Some("has no signature")),
        (&["tag-release"], None),
        (&["bundle-release"], None),
        (&["keyless"], None),
        (&["notation"], None),
        (&["tag-other", "keyless-of-other", "bundle-release"], None),
        (&["tag-other"], Some("has a signature by another key than those that are trusted")),
        (&["bundle-other"], Some("has a signature by another key than those that are trusted")),
        (&["tag-of-other"], Some("has a signature that is of another digest")),
        (&["bundle-of-other"], Some("has a signature that is of another digest")),
        (&["tag-other", "tag-of-other"], Some("has a signature that is of another digest")),
        (&["bundle-sbom"], Some("has a signed statement that is no signature of an image")),
        (&["keyless-expired"], Some("has a signature by a certificate that has expired")),
        (&["keyless-untrusted"], Some("has a signature without a trusted time")),
        (&["notation-untrusted"], Some("has a signature by a certificate that the trusted roots did not issue")),
        (&["notation-expired"], Some("has a signature by a certificate that has expired")),
        (&["notation-rsa"], Some("has a signature by another identity than the trusted ones")),
    ];
    for (number, (beside, refusal)) in cases.into_iter().enumerate() {
        let image = app(hub, &format!("signed/case{number}"));
        beside.iter().for_each(|name| {
            push(hub, &image.repository, name, image.digest());
        });
        let (status, _, body) = policed.manifest("GET", &image, "latest");
        let Some(refusal) = refusal else {
            assert_eq!(status, 200, "{beside:?}: {body}");
            continue;
        };
        let sentence = format!(
            "docker.io/{}:latest is refused by the policy signed of this mirror: it {refusal} (signed)",
            image.repository
        );
        assert!(status == 403 && body.contains(&sentence), "{beside:?}: {status} {body}");
    }
    let wrong_issuer = KEYLESS.replace("issuer.example", "other.example");
    policed.reload(&policy("enforce", &format!("signed = [{wrong_issuer}]")));
    let image = app(hub, "signed/issuer");
    push(hub, &image.repository, "keyless", image.digest());
    let (status, _, body) = policed.manifest("GET", &image, "latest");
    assert!(status == 403 && body.contains("by an identity of another issuer than the trusted ones"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_of_an_index_covers_the_platform_that_is_asked_for_by_digest() {
    let policed = Policed::start(&policy("enforce", &format!("signed = [{KEY}]"))).await;
    let hub = &policed.world.hub;
    let push_index = |repository: &str| hub.push(Spec::new(repository).seed(42).layers([1024])).unwrap();
    for (repository, beside, expected) in [
        ("signed/tagged", Some("tag-index"), 200),
        ("signed/bundled", Some("bundle-index"), 200),
        ("signed/not", None, 403),
    ] {
        let image = push_index(repository);
        assert_eq!(image.digest(), "sha256:a9bf7189ef337897b694daa85e19ab7a369834455cfe35a8223946663963eea5");
        if let Some(beside) = beside {
            push(hub, repository, beside, image.digest());
        }
        assert_eq!(policed.manifest("GET", &image, "latest").0, 200, "which platform is wanted is not known yet");
        for platform in &image.platforms {
            let (status, _, body) = policed.manifest("GET", &image, &platform.manifest.digest);
            assert_eq!(status, expected, "{repository}: {body}");
        }
    }
    let signed = push_index("signed/tagged");
    let report = report(&policed.world, &signed);
    let (said, finding) = outcome(&report, 0, "signed");
    assert!(said == "pass" && finding.starts_with("is named by an index that is signed by the key "), "{finding}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_looked_up_once_in_the_class_bulk_and_only_where_a_policy_names_signers() {
    let policed = Policed::start(&policy("enforce", &format!("signed = [{KEY}]"))).await;
    let hub = &policed.world.hub;
    let (signed, unsigned) = (app(hub, "signed/app"), app(hub, "signed/unsigned"));
    let pushed = push(hub, "signed/app", "bundle-release", signed.digest());
    let report = attach(hub, &signed, "application/spdx+json", "application/spdx+json", 6, Bytes::from("a list"));
    assert_eq!(policed.manifest("GET", &signed, "latest").0, 200);
    assert_eq!(policed.manifest("GET", &unsigned, "latest").0, 403);
    let asked = hub.log().len();
    for _ in 0..3 {
        // A reload makes every decision anew.
        policed.reload(&policy("enforce", &format!("signed = [{KEY}]\nmax_size = \"1GiB\"")));
        assert_eq!(policed.manifest("GET", &signed, "latest").0, 200);
        assert_eq!(policed.manifest("GET", &unsigned, "latest").0, 403);
        policed.reload(&policy("enforce", &format!("signed = [{KEY}]")));
    }
    assert_eq!(hub.log().len(), asked, "what was found, and what was not, is remembered");
    let spends = policed.world.api("GET", "/api/v1/spends");
    let of_signature: Vec<_> = spends["spends"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|spend| spend.to_string().contains(&pushed.digest))
        .collect();
    assert_eq!(of_signature.len(), 1, "{spends}");
    assert!(of_signature[0]["class"] == "bulk" && of_signature[0]["client"] == "policy:signatures", "{spends}");
    assert_eq!(hub.count(|logged| logged.reference == report.digest), 0, "what is no signature costs a pull");
    // What is beside an image is never held to its policy.
    assert_eq!(policed.manifest("GET", &signed, &pushed.digest).0, 200);

    policed.reload(&policy("enforce", "non_root = false"));
    let plain = app(hub, "signed/plain");
    let asked = hub.log().len();
    assert_eq!(policed.manifest("GET", &plain, "latest").0, 200);
    let more = hub.log()[asked..].iter().map(|it| it.target.clone()).collect::<Vec<_>>();
    assert!(more.iter().all(|target| !target.contains("referrers") && !target.contains(".sig")), "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_audits_has_signatures_looked_up_for_the_report() {
    let policed = Policed::start(&policy("audit", &format!("signed = [{KEY}]\nattested = [\"sbom\"]"))).await;
    let hub = &policed.world.hub;
    let (signed, unsigned) = (app(hub, "signed/app"), app(hub, "signed/unsigned"));
    for name in ["bundle-release", "bundle-sbom", "tag-other"] {
        push(hub, "signed/app", name, signed.digest());
    }
    for image in [&signed, &unsigned] {
        policed.world.pull(image, 0);
        while outcome(&report(&policed.world, image), 0, "signed").0 == "unknown" {
            std::thread::yield_now();
        }
    }
    let (found, missing) = (report(&policed.world, &signed), report(&policed.world, &unsigned));
    assert!(outcome(&found, 0, "signed").1.starts_with("is signed by the key "), "{found}");
    assert_eq!(outcome(&found, 0, "attested"), ("pass", "has verified SBOM"));
    assert_eq!(outcome(&missing, 0, "signed"), ("fail", "has no signature"));
    assert_eq!(outcome(&missing, 0, "attested"), ("fail", "has no verified SBOM"));
    // The lists and the page of an image say the same.
    let findings = |outcome: &str| {
        let found = policed.world.api("GET", &format!("/api/v1/findings?rule=signed&outcome={outcome}"));
        let of = |finding: &serde_json::Value| (finding["name"].to_string(), finding["finding"].to_string());
        found["findings"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let [(name, finding)] = &findings("pass")[..] else { panic!("{:?}", findings("pass")) };
    assert!(name.contains("signed/app:latest") && finding.contains("is signed by the key "), "{name}: {finding}");
    assert_eq!(findings("fail"), [(r#""docker.io/signed/unsigned:latest""#.into(), r#""has no signature""#.into())]);
    for (page, expected) in [
        ("/policy?rule=signed", "Has no signature."),
        ("/image?repository=docker.io%2Fsigned%2Fapp&reference=latest", "Is signed by the key "),
    ] {
        let (status, _, body) = ask(policed.world.running.admin, "GET", page, "");
        assert!(status == 200 && body.contains(expected), "{page}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_counts_by_its_signer_or_by_the_signature_of_the_index_that_holds_it() {
    let policed = Policed::start(&policy("enforce", "attested = [\"sbom\"]")).await;
    let hub = &policed.world.hub;
    let [by_key, by_tag, none] =
        ["signed/by-key", "signed/by-tag", "signed/none"].map(|repository| app(hub, repository));
    push(hub, "signed/by-key", "bundle-sbom", by_key.digest());
    push(hub, "signed/by-tag", "tag-sbom", by_tag.digest());
    let inside = hub.push(Spec::new("signed/inside").attested(["https://spdx.dev/Document"])).unwrap();
    let platform = inside.platforms[0].manifest.digest.clone();
    assert_eq!(policed.manifest("GET", &inside, "latest").0, 200);
    let statuses = || {
        let of = |image: &Image| policed.manifest("GET", image, "latest").0;
        [of(&by_key), of(&by_tag), of(&none), policed.manifest("GET", &inside, &platform).0]
    };
    assert_eq!(statuses(), [200, 200, 403, 200], "that it is there is enough");
    policed.reload(&policy("enforce", &format!("signed = [{KEY}]\nattested = [\"sbom\"]")));
    // None of them is signed itself.
    assert_eq!(statuses(), [403; 4]);
    for repository in ["signed/by-key", "signed/by-tag", "signed/none"] {
        push(hub, repository, "tag-release", by_key.digest());
    }
    // What was found is remembered, until an operator purges something.
    assert_eq!(statuses(), [403; 4]);
    policed.world.command(&["purge", "docker.io/signed/none:latest"]);
    assert_eq!(statuses()[..3], [200, 200, 403]);
    let (_, _, body) = policed.manifest("GET", &none, "latest");
    assert!(body.contains("it has no verified SBOM (attested)"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_of_a_signed_image_does_not_count_by_another_maker_nor_in_an_index_that_is_not_signed() {
    let attested =
        |signers: &str, kind: &str| policy("enforce", &format!("signed = [{signers}]\nattested = [\"{kind}\"]"));
    let policed = Policed::start(&attested(KEY, "provenance")).await;
    let hub = &policed.world.hub;
    let by_identity = app(hub, "signed/by-identity");
    for name in ["tag-release", "keyless-provenance"] {
        push(hub, &by_identity.repository, name, by_identity.digest());
    }
    let (status, _, body) = policed.manifest("GET", &by_identity, "latest");
    assert!(status == 403 && body.contains("it has no verified provenance (attested)"), "{status} {body}");
    policed.reload(&attested(&format!("{KEY}, {KEYLESS}"), "provenance"));
    assert_eq!(policed.manifest("GET", &by_identity, "latest").0, 200);

    policed.reload(&attested(KEY, "sbom"));
    let inside = app(hub, "signed/unsigned-index");
    push(hub, &inside.repository, "tag-release", inside.digest());
    attest_in_index(hub, &inside);
    assert_eq!(policed.manifest("GET", &inside, "latest").0, 200, "which platform is wanted is not known yet");
    let (status, _, body) = policed.manifest("GET", &inside, inside.digest());
    assert!(status == 403 && body.contains("it has no verified SBOM (attested)"), "{status} {body}");
    // Without signers, that it is there is enough.
    policed.reload(&policy("enforce", "attested = [\"sbom\"]"));
    assert_eq!(policed.manifest("GET", &inside, inside.digest()).0, 200);
}

/// Has the tag of an image name an index of it and of an SBOM, as BuildKit writes one.
fn attest_in_index(hub: &Hub, image: &Image) {
    let statement =
        Bytes::from(format!(r#"{{"predicateType":"https://spdx.dev/Document","of":"{}"}}"#, image.digest()));
    let layer = json!({
        "mediaType": "application/vnd.in-toto+json", "size": statement.len(), "digest": sha256(&statement),
        "annotations": {"in-toto.io/predicate-type": "https://spdx.dev/Document"},
    });
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": sha256(b"{}")});
    let attestation =
        json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]}).to_string();
    let size = attestation.len();
    let attestation = hub.push_manifest(&image.repository, attestation.into(), vec![statement, Bytes::from("{}")]);
    let of = &image.platforms[0].manifest;
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"mediaType": manifest_type, "size": of.bytes.len(), "digest": of.digest,
             "platform": {"os": "linux", "architecture": "amd64"}},
            {"mediaType": manifest_type, "size": size, "digest": attestation.digest,
             "platform": {"os": "unknown", "architecture": "unknown"},
             "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.digest}},
        ],
    });
    let index = hub.push_manifest(&image.repository, index.to_string().into(), Vec::new());
    hub.retag(&image.repository, "latest", &index.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_up_is_unknown_and_hostile_artifacts_are_a_finding() {
    let policed = Policed::start(&policy("enforce", &format!("signed = [{KEY}]"))).await;
    let hub = &policed.world.hub;
    // More than are looked at, of which one is too large and the others are no bundles.
    let crowded = app(hub, "signed/crowded");
    let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    for number in 0..200_u32 {
        let content =
            Bytes::from(if number == 0 { "x".repeat(3 << 20) } else { format!("{}{number}", "[".repeat(9000)) });
        attach(hub, &crowded, bundle, bundle, content.len(), content);
    }
    // A client waits for some of the look-up, which goes on.
    let refused = || policed.manifest("GET", &crowded, "latest");
    until("it is looked up", || !refused().2.contains("not looked up"));
    let (status, _, body) = refused();
    assert!(status == 403 && body.contains("it has more signatures than are verified (signed)"), "{status} {body}");
    let fetched = hub.count(|logged| logged.repository == "signed/crowded" && logged.target.contains("/manifests/"));
    assert!(fetched < 80, "{fetched} manifests were asked for");

    // A failure is never mistaken for absence.
    hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::Referrers)));
    let cut_off = app(hub, "signed/cut-off");
    let (status, _, body) = policed.manifest("GET", &cut_off, "latest");
    let sentence = "it has no verified signature, and not all could be looked up (signed)";
    assert!(status == 403 && body.contains(sentence), "{status} {body}");
    let lenient = policy("enforce", &format!("signed = [{KEY}]")).replace("\"deny\"", "\"wait\"");
    policed.reload(&lenient);
    assert_eq!(policed.manifest("GET", &cut_off, "latest").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_not_verified_is_refused_with_its_reason_and_fetched_only_to_be_read() {
    let policed = Policed::start(&policy("enforce", &format!("signed = [{KEY}, {NOTATION}]"))).await;
    let hub = &policed.world.hub;
    let notation = "application/vnd.cncf.notary.signature";
    let large = (1 << 20) + 1;
    for (number, (media_type, claimed, size, fetched, refusal)) in [
        ("application/cose", 7, 7, 0, "has a signature in COSE, which Weir does not verify"),
        ("application/jose+json", large, large, 0, "has a signature that is too large to be verified"),
        ("application/jose+json", 7, large, 1, "has a signature that is too large to be verified"),
        ("application/jose+json", 7, 7, 1, "has a signature that is malformed"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = app(hub, &format!("signed/not-verified{number}"));
        let content = Bytes::from(format!("{number}").repeat(size));
        let digest = sha256(&content);
        attach(hub, &image, notation, media_type, claimed, content);
        let (status, _, body) = policed.manifest("GET", &image, "latest");
        assert!(status == 403 && body.contains(&format!("it {refusal} (signed)")), "{media_type}: {status} {body}");
        let asked = hub.count(|logged| logged.kind == Kind::BlobGet && logged.reference == digest);
        assert_eq!(asked, fetched, "{media_type}");
    }
}

/// Pushes a referrer of an image that holds one blob, whose size it claims to be this.
fn attach(hub: &Hub, image: &Image, artifact_type: &str, media_type: &str, size: usize, content: Bytes) -> Manifest {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": sha256(b"{}")},
        "layers": [{"mediaType": media_type, "size": size, "digest": sha256(&content)}],
        "subject": {"digest": image.digest()},
    });
    hub.push_manifest(&image.repository, manifest.to_string().into(), vec![content, Bytes::from("{}")])
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", weir::oci::Algorithm::Sha256.digest(bytes).hex())
}
