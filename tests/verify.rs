//! `weir verify`, and the same of a running weir by its admin API.

use std::{path::Path, process::Output};

use rustix::process::Signal;
use weir_storage::{
    Settings, Store,
    oci::{Algorithm, Digest, Manifest},
};

use crate::deploy::{Running, ask, weir};

/// A cold start has as many to hash as this.
const OBJECTS: u64 = 40;

fn manifest(seed: u64) -> Manifest {
    let bytes = bytes::Bytes::from(format!("{{\"schemaVersion\":2,\"a\":{seed}}}"));
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
    Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
}

async fn filled(root: &Path) {
    let store = Store::open(Settings { root: root.to_owned(), ..Settings::default() }).unwrap();
    for seed in 0..OBJECTS {
        store.cache.manifests.put(&manifest(seed)).await.unwrap();
    }
    store.close().await;
}

fn flip(root: &Path, digest: &Digest) {
    let path = root.join("manifests/sha256").join(&digest.hex()[..2]).join(digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn verify(root: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        weir(&[&["verify"], arguments].concat()).env("WEIR_STORAGE__ROOT", root).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Every object is hashed on a cold start; what is damaged is named, and the exit status says so.
#[tokio::test]
async fn verify_names_what_is_damaged_and_repairs_when_asked_to() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let (status, text, _) = verify(root.path(), &[]);
    assert!(text.starts_with("40 objects, ") && text.ends_with("every one matches its digest\n"), "{text}");
    assert_eq!(status, Some(0));
    let digest = manifest(7).digest;
    flip(root.path(), &digest);
    for arguments in [&[][..], &["--repair"]] {
        let (status, text, error) = verify(root.path(), arguments);
        assert_eq!((status, error.as_str()), (Some(1), "weir: 1 object is damaged\n"));
        assert!(text.contains(&format!("manifest {digest} does not match its digest: ")), "{text}");
    }
    let (status, text, _) = verify(root.path(), &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &report["objects"], &report["damaged"]), (Some(0), &(OBJECTS - 1).into(), &0.into()));
}

/// What cannot be looked at is not called sound, and nothing is made of it.
#[tokio::test]
async fn verify_refuses_what_is_no_data_directory_and_what_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("none");
    let (status, _, error) = verify(&root, &[]);
    assert_eq!(status, Some(2));
    assert!(error.contains("is no data directory of Weir"), "{error}");
    assert!(!root.exists());
    filled(&root).await;
    let _held = Store::open(Settings { root: root.clone(), ..Settings::default() }).unwrap();
    let (status, _, error) = verify(&root, &[]);
    assert_eq!(status, Some(2));
    assert!(error.contains("is in use by process"), "{error}");
}

/// A running weir verifies beside its service.
#[tokio::test]
async fn a_running_weir_verifies_by_its_admin_api() {
    let root = tempfile::tempdir().unwrap();
    filled(root.path()).await;
    let running = Running::start(&[("WEIR_STORAGE__ROOT", root.path().to_str().unwrap())]);
    // The inventory reads every manifest after a start, and would put the damaged one aside before it is verified.
    while !running.log().contains("read the inventory of what is stored") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    flip(root.path(), &manifest(3).digest);
    let (status, _, body) = ask(running.admin, "POST", "/api/v1/verify?repair=maybe", "");
    assert_eq!(status, 400, "{body}");
    let (status, _, body) = ask(running.admin, "POST", "/api/v1/verify", "");
    assert_eq!(status, 202, "{body}");
    let report = loop {
        let (_, _, body) = ask(running.admin, "GET", "/api/v1/verify", "");
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        if !status["last"].is_null() {
            break status["last"].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!((&report["objects"], &report["damaged"]), (&OBJECTS.into(), &1.into()));
    assert_eq!(report["damages"][0]["digest"], manifest(3).digest.to_string());
    running.signal(Signal::TERM);
}

/// A tag that was pushed is no other's, and not absent, when what it names was damaged on the disk.
#[tokio::test]
async fn a_damaged_record_of_an_immutable_tag_is_named_and_no_other_image_takes_its_place() {
    let root = tempfile::tempdir().unwrap();
    let environment = [
        ("WEIR_STORAGE__ROOT", root.path().to_str().unwrap()),
        ("WEIR_HOSTED__NAMESPACES", "local/*"),
        ("WEIR_HOSTED__ANONYMOUS_PUSH", "true"),
        ("WEIR_HOSTED__IMMUTABLE_TAGS", "local/*:v*"),
    ];
    let push = |running: &Running, note: &str| {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[],"annotations":{{"note":"{note}"}}}}"#
        );
        let head = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{index}", index.len());
        ask(running.registry, "PUT", "/v2/local/app/manifests/v1", &head)
    };
    let pull = |running: &Running| ask(running.registry, "GET", "/v2/local/app/manifests/v1", "");
    let running = Running::start(&environment);
    assert_eq!(push(&running, "first").0, 201);
    drop(running);
    let path = root.path().join("hosted/local/app/_tags/v1");
    let mut record = std::fs::read(&path).unwrap();
    record[20] ^= 1;
    std::fs::write(&path, &record).unwrap();

    let (status, text, error) = verify(root.path(), &[]);
    assert_eq!((status, error.as_str()), (Some(1), "weir: 1 object is damaged\n"), "{text}");
    assert!(
        text.contains("tag v1 of local/app: the record is damaged: the tag answers with an error until "),
        "{text}"
    );
    let running = Running::start(&environment);
    for (status, _, body) in [pull(&running), push(&running, "second")] {
        assert_eq!(status, 500, "{body}");
        assert!(body.contains("what this registry knows of that name is damaged"), "{body}");
    }
    drop(running);
    assert_eq!(std::fs::read(&path).unwrap(), record);

    let (status, text, _) = verify(root.path(), &["--repair"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("tag v1 of local/app: the record is damaged: put aside; push the tag again"), "{text}");
    assert_eq!(verify(root.path(), &[]).0, Some(0));
    let running = Running::start(&environment);
    assert_eq!(pull(&running).0, 404);
    assert_eq!(push(&running, "first").0, 201);
    assert_eq!(pull(&running).0, 200);
}
