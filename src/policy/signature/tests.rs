//! What of signatures is verified, by those that cosign, Notation and keyless signers made: `tests/signatures/make.py`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Deserialize;

use super::*;
use crate::oci::{Algorithm, Digest};

const BESIDE: &str = include_str!("../../../tests/signatures/beside.json");
const APP: &str = "sha256:a7b756a3b338367f4b5d3be505ef133aa86b3e3dc743b73321b084f4616e35ab";
const INDEX: &str = "sha256:a9bf7189ef337897b694daa85e19ab7a369834455cfe35a8223946663963eea5";
const KEY: &str = "{ key = 'release.pub' }";
const KEYLESS: &str = "{ issuer = 'https://issuer.example', subject = '*@example.com', roots = 'trusted-root.json' }";
const NOTATION: &str =
    "{ notation = 'notation-root.pem', identities = ['x509.subject: C=US, O=Acme\\, Inc., CN=signer'] }";

/// A manifest beside an image, and its blobs: the config first.
#[derive(Deserialize)]
struct Pushed {
    manifest: String,
    blobs: Vec<String>,
}

#[derive(Deserialize)]
struct Table {
    signed: Vec<SignedBy>,
}

fn signers(sources: &str) -> Result<Signers, (usize, String, String)> {
    let table: Table = toml::from_str(&format!("signed = [{sources}]")).unwrap();
    assert!(table.signed.iter().all(|source| source.fix().is_none()), "{sources}");
    Signers::read(&table.signed, |file| match file {
        "release.pub" => Ok(include_bytes!("../../../tests/signatures/release.pub").to_vec()),
        "ed.pub" => Ok(include_bytes!("../../../tests/signatures/ed.pub").to_vec()),
        "rsa.pub" => Ok(include_bytes!("../../../tests/signatures/rsa.pub").to_vec()),
        "trusted-root.json" => Ok(include_bytes!("../../../tests/signatures/trusted-root.json").to_vec()),
        "early-root.json" => Ok(include_bytes!("../../../tests/signatures/early-root.json").to_vec()),
        "roots-without-authority" => Ok(roots(|roots| roots["certificateAuthorities"] = serde_json::json!([]))),
        "roots-without-time" => Ok(roots(|roots| {
            roots["tlogs"] = serde_json::json!([]);
            roots["timestampAuthorities"] = serde_json::json!([]);
        })),
        "roots-without-log" => Ok(roots(|roots| roots["tlogs"] = serde_json::json!([]))),
        "roots-of-another-log" => Ok(roots(|roots| {
            let key =
                include_str!("../../../tests/signatures/release.pub").lines().filter(|line| !line.starts_with('-'));
            roots["tlogs"][0]["publicKey"]["rawBytes"] = key.collect::<String>().into();
        })),
        // Any key does for a log that has nothing.
        "roots-with-certificate-log" => Ok(roots(|roots| roots["ctlogs"] = roots["tlogs"].clone())),
        "notation-root.pem" => Ok(include_bytes!("../../../tests/signatures/notation-root.pem").to_vec()),
        "no-key" => Ok(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec()),
        file => Err(format!("{file} is not here")),
    })
}

/// The trusted root with a change.
fn roots(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut roots = serde_json::from_str(include_str!("../../../tests/signatures/trusted-root.json")).unwrap();
    change(&mut roots);
    roots.to_string().into_bytes()
}

/// What a manifest of this name holds, with its bytes changed.
fn evidence(name: &str, change: impl Fn(String) -> String) -> Vec<Evidence> {
    let mut all: HashMap<String, Pushed> = serde_json::from_str(BESIDE).unwrap();
    let Pushed { manifest, blobs } = all.remove(name).unwrap_or_else(|| panic!("there is no {name}"));
    let layers = Layer::read(manifest.as_bytes()).unwrap();
    assert!(!layers.is_empty() && layers.len() + 1 == blobs.len(), "{name}");
    let blobs = blobs.into_iter().skip(1).map(|blob| Bytes::from(change(blob)));
    layers.into_iter().zip(blobs).map(|(layer, bytes)| layer.evidence(bytes)).collect()
}

fn beside(evidence: Vec<Evidence>, digests: &[&str]) -> Beside {
    Beside {
        digests: digests.iter().map(|digest| digest.parse().unwrap()).collect(),
        repository: "docker.io/signed/app".to_owned(),
        found: vec![evidence.into()],
        looked_up: LookedUp::Wholly,
    }
}

/// What is said of what is beside the image by that name: nothing when it counts.
fn finding(sources: &str, name: &str) -> Option<Finding> {
    said(sources, evidence(name, |blob| blob))
}

fn said(sources: &str, evidence: Vec<Evidence>) -> Option<Finding> {
    let checked = beside(evidence, &[APP]).check(&signers(sources).unwrap(), SystemTime::now());
    assert_eq!(checked.by.is_some(), checked.nearest.is_none(), "{checked:?}");
    assert!(!checked.by_index);
    checked.nearest
}

#[test]
fn a_signature_by_a_key_counts_for_its_digest_and_its_key_alone_in_both_forms_of_cosign() {
    for (name, key) in [("release", "release"), ("rsa", "rsa"), ("ed", "ed")] {
        for form in ["tag", "bundle"] {
            let trusted = format!("{{ key = '{key}.pub' }}");
            assert_eq!(finding(&trusted, &format!("{form}-{name}")), None, "{form}-{name}");
        }
    }
    for (name, expected) in [
        ("tag-other", Finding::OtherKey),
        ("tag-rsa", Finding::OtherKey),
        ("bundle-other", Finding::OtherKey),
        ("bundle-ed", Finding::OtherKey),
        ("tag-of-other", Finding::OtherDigest),
        ("bundle-of-other", Finding::OtherDigest),
        ("tag-index", Finding::OtherDigest),
        ("keyless", Finding::OtherKind),
        ("notation", Finding::OtherKind),
        ("tag-sbom", Finding::OtherStatement),
        ("bundle-sbom", Finding::OtherStatement),
    ] {
        assert_eq!(finding(KEY, name), Some(expected), "{name}");
    }
    // One of several is enough, and a key may stand in the configuration itself.
    assert_eq!(finding(&format!("{{ key = 'rsa.pub' }}, {KEY}"), "tag-release"), None);
    // Of what does not count, that which lacks least is said, whichever comes last.
    assert_eq!(finding(&format!("{KEY}, {{ key = 'rsa.pub' }}"), "tag-of-other"), Some(Finding::OtherDigest));
    let several = ["tag-of-other", "tag-other"].map(|name| evidence(name, |blob| blob)).concat();
    assert_eq!(said(KEY, several), Some(Finding::OtherDigest));
    let inline = format!("{{ key = '''{}''' }}", include_str!("../../../tests/signatures/release.pub"));
    assert_eq!(finding(&inline, "bundle-release"), None);
}

#[test]
fn a_repository_that_the_payload_names_matters_where_the_source_says_so() {
    let same = "{ key = 'release.pub', same_repository = true }";
    assert_eq!(finding(same, "tag-release"), None);
    assert_eq!(finding(same, "tag-elsewhere"), Some(Finding::OtherRepository));
    assert_eq!(finding(same, "bundle-release"), Some(Finding::OtherRepository), "a statement names none");
    assert_eq!(finding(KEY, "tag-elsewhere"), None);
}

#[test]
fn a_signature_of_an_index_covers_what_it_names() {
    for name in ["tag-index", "bundle-index"] {
        let covered = beside(evidence(name, |blob| blob), &[APP, INDEX]);
        let checked = covered.check(&signers(KEY).unwrap(), SystemTime::now());
        assert!(checked.by.is_some() && checked.by_index, "{name}: {checked:?}");
    }
}

#[test]
fn an_envelope_is_a_statement_and_of_its_signatures_the_first_eight_are_tried() {
    let other_type = |blob: String| blob.replace("application/vnd.in-toto+json", "application/json");
    assert_eq!(said(KEY, evidence("bundle-release", other_type)), Some(Finding::OtherStatement));
    for (before, expected) in [(7, Finding::OtherStatement), (8, Finding::OtherKey)] {
        let crowd = |blob: String| {
            let mut envelope: serde_json::Value = serde_json::from_str(&blob).unwrap();
            let signatures = envelope["signatures"].as_array_mut().unwrap();
            signatures.splice(0..0, vec![serde_json::json!({"sig": "AAAA"}); before]);
            envelope.to_string()
        };
        assert_eq!(said(KEY, evidence("tag-sbom", crowd)), Some(expected), "{before}");
    }
}

#[test]
fn an_attestation_that_is_signed_says_what_it_is() {
    for name in ["tag-sbom", "bundle-sbom"] {
        let attested = beside(evidence(name, |blob| blob), &[APP]);
        let predicates = vec!["https://spdx.dev/Document".to_owned()];
        assert_eq!(attested.claims(), predicates, "{name}");
        let checked = |sources| attested.check(&signers(sources).unwrap(), SystemTime::now());
        assert_eq!((checked(KEY).predicates, checked(KEY).by), (predicates, None), "{name}");
        assert_eq!(checked("{ key = 'rsa.pub' }").predicates, Vec::<String>::new(), "{name}");
        let of_another = beside(evidence(name, |blob| blob), &[INDEX]);
        assert_eq!(of_another.claims(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_keyless_signature_counts_by_its_issuer_its_identity_its_roots_its_time_and_its_log() {
    assert_eq!(finding(KEYLESS, "keyless"), None);
    for (name, expected) in [
        ("keyless-expired", Finding::ExpiredCertificate),
        // The time is looked at first, and the authority of timestamps is another one too.
        ("keyless-untrusted", Finding::NoTime),
        ("keyless-of-other", Finding::OtherDigest),
        ("keyless-provenance", Finding::OtherStatement),
        ("bundle-release", Finding::OtherKind),
        ("tag-release", Finding::OtherKind),
    ] {
        assert_eq!(finding(KEYLESS, name), Some(expected), "{name}");
    }
    let of = |issuer: &str, subject: &str| {
        let source = format!("{{ issuer = '{issuer}', subject = '{subject}', roots = 'trusted-root.json' }}");
        finding(&source, "keyless")
    };
    assert_eq!(of("https://issuer.example", "release@example.com"), None);
    assert_eq!(of("https://issuer.example/", "release@example.com"), Some(Finding::OtherIssuer));
    assert_eq!(of("https://issuer.example", "release@example.co"), Some(Finding::OtherIdentity));
    assert_eq!(of("https://*", "*"), Some(Finding::OtherIssuer), "an issuer is no pattern");

    // What the roots name is asked for, and nothing else.
    let by_roots = |roots: &str| KEYLESS.replace("trusted-root.json", roots);
    let without = |pointers: &'static [&str]| {
        move |blob: String| {
            let mut bundle: serde_json::Value = serde_json::from_str(&blob).unwrap();
            for pointer in pointers {
                *bundle.pointer_mut(pointer).unwrap() = serde_json::json!([]);
            }
            bundle.to_string()
        }
    };
    const ENTRIES: &str = "/verificationMaterial/tlogEntries";
    const TIMES: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";
    let early = finding(&by_roots("early-root.json"), "keyless-early");
    assert_eq!(early, Some(Finding::EarlyCertificate), "it was signed before the certificate was valid");
    let unlogged = by_roots("roots-without-log");
    assert_eq!(said(&unlogged, evidence("keyless", without(&[ENTRIES]))), None);
    assert_eq!(said(KEYLESS, evidence("keyless", without(&[ENTRIES]))), Some(Finding::NotLogged));
    assert!(said(&unlogged, evidence("keyless", without(&[ENTRIES, TIMES]))).is_some(), "no time");
    assert_eq!(finding(&by_roots("roots-of-another-log"), "keyless"), Some(Finding::NotLogged));
    assert!(finding(&by_roots("roots-with-certificate-log"), "keyless").is_some());

    let changed = |pointer: &str, value: serde_json::Value| {
        let change = |blob: String| {
            let mut bundle: serde_json::Value = serde_json::from_str(&blob).unwrap();
            *bundle.pointer_mut(pointer).unwrap() = value.clone();
            bundle.to_string()
        };
        said(KEYLESS, evidence("keyless", change))
    };
    let entry = "/verificationMaterial/tlogEntries/0";
    for (pointer, value) in [
        // No entry of the log that the roots name, one of something else, and one that no checkpoint has.
        ("/verificationMaterial/tlogEntries".to_owned(), serde_json::json!([])),
        (format!("{entry}/canonicalizedBody"), "e30=".into()),
        (format!("{entry}/inclusionProof/checkpoint/envelope"), "rekor.localhost\n1\nAAAA\n\n".into()),
        // No trusted time.
        ("/verificationMaterial/timestampVerificationData/rfc3161Timestamps".to_owned(), serde_json::json!([])),
        ("/dsseEnvelope/signatures/0/sig".to_owned(), "MEUCIQ==".into()),
        ("/dsseEnvelope/payload".to_owned(), "e30=".into()),
    ] {
        assert!(changed(&pointer, value).is_some(), "{pointer}");
    }
}

#[test]
fn a_signature_of_notation_counts_by_its_roots_its_identity_and_its_times() {
    assert_eq!(finding(NOTATION, "notation"), None);
    let any = "{ notation = 'notation-root.pem', identities = ['*'] }";
    assert_eq!(finding(any, "notation-rsa"), None, "PS256, and an end that is to come");
    for (name, expected) in [
        ("notation-rsa", Finding::OtherIdentity),
        ("notation-expired", Finding::ExpiredCertificate),
        ("notation-over", Finding::Expired),
        ("notation-untrusted", Finding::OtherRoots),
        ("notation-of-other", Finding::OtherDigest),
        ("tag-release", Finding::OtherKind),
    ] {
        assert_eq!(finding(NOTATION, name), Some(expected), "{name}");
    }
    let later = SystemTime::now() + Duration::from_secs(200 * 365 * 86_400);
    let checked = beside(evidence("notation", |blob| blob), &[APP]).check(&signers(NOTATION).unwrap(), later);
    assert_eq!(checked.nearest, Some(Finding::ExpiredCertificate), "a certificate must be valid now");
    let broken = |blob: String| blob.replacen("\"signature\":\"", "\"signature\":\"AAAA", 1);
    assert_eq!(said(NOTATION, evidence("notation", broken)), Some(Finding::Broken));
}

#[test]
fn whatever_bytes_stand_there_are_a_finding() {
    let all = format!("{KEY}, {KEYLESS}, {NOTATION}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let keyed_deep = format!("{{\"dsseEnvelope\":{deep}}}");
    let many = format!("[{}]", vec!["{}"; 100_000].join(","));
    for bytes in ["", "{", "{}", "[]", "null", "\"a\"", "\u{0}", &deep, &keyed_deep, &many] {
        for name in ["tag-release", "bundle-release", "tag-sbom", "keyless", "notation"] {
            let hostile = evidence(name, |_| bytes.to_owned());
            assert!(said(&all, hostile).is_some(), "{name}: {}", &bytes[..bytes.len().min(20)]);
        }
    }
    // Of a payload, no byte can be changed; of the others, some are of no account, and none must do harm.
    for name in ["tag-release", "bundle-release", "keyless", "notation"] {
        let length = evidence(name, |blob| blob)[0].size();
        for place in (0..length).step_by(if name == "tag-release" { 1 } else { 37 }) {
            let flip = |blob: String| {
                let mut bytes = blob.into_bytes();
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = if *byte == b'A' { b'B' } else { b'A' };
                }
                String::from_utf8(bytes).unwrap()
            };
            let checked = beside(evidence(name, flip), &[APP]).check(&signers(&all).unwrap(), SystemTime::now());
            let is_payload = name == "tag-release" && evidence(name, flip) != evidence(name, |blob| blob);
            assert!(!is_payload || checked.by.is_none(), "{name}: {place}");
        }
    }
    assert!(Layer::read(deep.as_bytes()).is_err() && Layer::read(b"7").is_err());
}

#[test]
fn what_is_not_read_is_a_finding_too() {
    let digest = Algorithm::Sha256.digest(b"");
    let layers = |media_type: &str, size: u64| {
        let manifest =
            serde_json::json!({"layers": [{"mediaType": media_type, "digest": digest.to_string(), "size": size}]});
        Layer::read(manifest.to_string().as_bytes()).unwrap()
    };
    let unread = |media_type, size| layers(media_type, size).first().and_then(Layer::unread);
    assert_eq!(unread("application/cose", 1), Some(Evidence::Unread(Finding::Cose)));
    assert_eq!(unread("application/jose+json", MOST_SIGNATURE_BYTES), None);
    assert_eq!(unread("application/jose+json", MOST_SIGNATURE_BYTES + 1), Some(Evidence::Unread(Finding::TooLarge)));
    assert_eq!(layers("application/vnd.oci.image.layer.v1.tar+gzip", 1), []);
    assert_eq!(said(KEY, vec![Evidence::Unread(Finding::Cose)]), Some(Finding::Cose));
    for artifact_type in ["application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.cncf.notary.signature"] {
        assert!(is_signature(artifact_type));
    }
    assert!(!is_signature("application/spdx+json"));
}

#[test]
fn a_key_or_root_that_cannot_be_used_is_refused_with_what_would_be_right() {
    for (source, expected) in [
        ("{ key = 'absent.pub' }", "absent.pub is not here; name a readable file"),
        ("{ key = 'no-key' }", "name a public key in PEM"),
        ("{ key = 'notation-root.pem' }", "name a public key in PEM"),
        ("{ issuer = 'a', subject = 'b', roots = 'release.pub' }", "name a trusted root of sigstore"),
        ("{ issuer = 'a', subject = 'b', roots = 'roots-without-authority' }", "names no certificate authority"),
        ("{ issuer = 'a', subject = 'b', roots = 'roots-without-time' }", "neither a transparency log nor"),
        ("{ notation = 'release.pub', identities = ['*'] }", "name a file with certificates"),
        ("{ notation = 'notation-root.pem', identities = ['Acme'] }", "write \"x509.subject:"),
    ] {
        let (place, _, fix) = signers(&format!("{KEY}, {source}")).unwrap_err();
        assert!(place == 1 && fix.contains(expected), "{source}: {fix}");
    }
    assert!(signers("").unwrap().is_empty());
    let digest: Digest = APP.parse().unwrap();
    assert_eq!(digest.to_string(), APP);
}
