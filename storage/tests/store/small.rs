//! Manifests, tags, membership, listings and the catalog.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tempfile::tempdir;
use weir_storage::{
    Call, Error, Listing, Source, Store, TagRecord,
    oci::{Algorithm, Digest, Manifest},
};

use crate::{EIO, names, open, open_faulty, source, until};

pub(crate) fn manifest(seed: u64) -> Manifest {
    // Odd spacing and a duplicate key: what upstream signed is what it is.
    let bytes = Bytes::from(format!("{{ \"schemaVersion\":2,\n\n \"a\":1, \"a\":{seed} }}\n"));
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
    Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
}

pub(crate) fn record(digest: &Digest) -> TagRecord {
    let checked_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    TagRecord { digest: digest.clone(), media_type: manifest(0).media_type, size: 9, checked_at }
}

fn manifest_path(root: &std::path::Path, digest: &Digest) -> std::path::PathBuf {
    root.join("manifests/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// Invariant 6: a manifest is given as it was put, from memory and from disk, under either hash.
#[tokio::test]
async fn a_manifest_keeps_its_bytes() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let mut long = manifest(2);
    long.digest = Algorithm::Sha512.digest(&long.bytes);
    for manifest in [manifest(1), long] {
        assert_eq!(store.cache.manifests.load(&manifest.digest).await.unwrap(), None);
        store.cache.manifests.put(&manifest).await.unwrap();
        assert_eq!(store.cache.manifests.load(&manifest.digest).await.unwrap().as_ref(), Some(&manifest));
    }
    drop(store);
    let store = open(root.path());
    assert_eq!(store.cache.manifests.load(&manifest(1).digest).await.unwrap(), Some(manifest(1)));
    // From memory it is the same allocation.
    let (a, b) = (
        store.cache.manifests.load(&manifest(1).digest).await.unwrap(),
        store.cache.manifests.load(&manifest(1).digest).await.unwrap(),
    );
    assert_eq!(a.unwrap().bytes.as_ptr(), b.unwrap().bytes.as_ptr());
}

/// Invariants 2 and 5: what does not match its digest is not put, and when it rots it is quarantined and absent.
#[tokio::test]
async fn a_manifest_that_does_not_match_is_nowhere() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let good = manifest(1);
    let bad = Manifest { bytes: Bytes::from_static(b"{}"), ..good.clone() };
    assert!(matches!(store.cache.manifests.put(&bad).await, Err(Error::DigestMismatch { .. })));
    assert_eq!(store.cache.manifests.load(&good.digest).await.unwrap(), None);
    store.cache.manifests.put(&good).await.unwrap();
    drop(store);
    let path = manifest_path(root.path(), &good.digest);
    let whole = std::fs::read(&path).unwrap();
    for damage in [&whole[..whole.len() - 1], b"", b"text/html", &[0; 100][..]] {
        std::fs::write(&path, damage).unwrap();
        let store = open(root.path());
        assert_eq!(store.cache.manifests.load(&good.digest).await.unwrap(), None);
        assert_eq!(store.usage().quarantined, 1);
        assert!(!path.exists());
        assert!(!names(root.path().join("quarantine")).is_empty());
        store.cache.manifests.put(&good).await.unwrap();
        assert_eq!(store.cache.manifests.load(&good.digest).await.unwrap().as_ref(), Some(&good));
    }
}

/// Invariant 7: tags are remembered with when they were confirmed; a newer answer replaces an older one, on disk and in memory.
#[tokio::test]
async fn a_tag_is_what_it_was_last_seen_to_be() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (a, latest) = (source("library/busybox"), "latest".parse().unwrap());
    let private = Source { credential: "ann@example.com/..".into(), ..a.clone() };
    assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), None);
    for seed in 1..3 {
        store.cache.tags.put(&a, &latest, &record(&manifest(seed).digest)).await.unwrap();
        assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), Some(record(&manifest(seed).digest)));
    }
    store.cache.tags.put(&a, &"1.0".parse().unwrap(), &record(&manifest(1).digest)).await.unwrap();
    // What one credential saw is not for another.
    assert_eq!(store.cache.tags.load(&private, &latest).await.unwrap(), None);
    store.cache.tags.put(&private, &latest, &record(&manifest(9).digest)).await.unwrap();
    drop(store);
    let store = open(root.path());
    assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), Some(record(&manifest(2).digest)));
    assert_eq!(store.cache.tags.load(&private, &latest).await.unwrap(), Some(record(&manifest(9).digest)));
    assert_eq!(store.cache.tags.list(&a).await.unwrap(), ["1.0".parse().unwrap(), latest.clone()]);
    store.cache.tags.remove(&a, &latest).await.unwrap();
    assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), None);
    assert!(!root.path().parent().unwrap().join("example.com").exists());
}

/// Invariant 5: a torn record is no answer, is removed, and does not come back.
#[tokio::test]
async fn a_torn_record_is_absent() {
    let root = tempdir().unwrap();
    let (a, latest) = (source("a"), "latest".parse().unwrap());
    let listing =
        Listing { checked_at: record(&manifest(1).digest).checked_at, body: br#"["a"]"#.to_vec(), imported: false };
    let base = root.path().join("repositories/docker.io/anonymous/a");
    for cut in [0, 1, 20, 60] {
        let store = open(root.path());
        store.cache.tags.put(&a, &latest, &record(&manifest(1).digest)).await.unwrap();
        store.cache.listings.put(&a, "tags", &listing).await.unwrap();
        drop(store);
        for name in ["_tags/latest", "_listings/tags"] {
            let bytes = std::fs::read(base.join(name)).unwrap();
            std::fs::write(base.join(name), &bytes[..cut]).unwrap();
        }
        let store = open(root.path());
        assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), None);
        assert_eq!(store.cache.listings.load(&a, "tags").await.unwrap(), None);
        assert!(!base.join("_tags/latest").exists());
    }
}

/// Membership is per source and digest, survives a start, and can be taken back.
#[tokio::test]
async fn a_repository_has_the_members_that_were_added_to_it() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (a, b) = (source("a"), source("a/b"));
    let digests = [manifest(1).digest, Algorithm::Sha512.digest(b"x")];
    assert!(!store.cache.members.load(&a, &digests[0]).await.unwrap());
    store.cache.members.add(&a, &digests).await.unwrap();
    store.cache.members.add(&a, &digests).await.unwrap();
    let check = async |store: &Store| {
        for digest in &digests {
            assert!(store.cache.members.load(&a, digest).await.unwrap());
            assert!(!store.cache.members.load(&b, digest).await.unwrap());
        }
    };
    check(&store).await;
    drop(store);
    let store = open(root.path());
    check(&store).await;
    // Read before, they are answered without the disk.
    assert!(store.cache.members.now(&a, &digests[0]) && !store.cache.members.now(&b, &digests[0]));
}

/// Invariant 5: a write that failed has not replaced what was there, and leaves nothing behind.
#[tokio::test]
async fn a_write_that_fails_changes_nothing() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (a, latest) = (source("a"), "latest".parse().unwrap());
    store.cache.tags.put(&a, &latest, &record(&manifest(1).digest)).await.unwrap();
    for call in [Call::Create, Call::Write, Call::Rename] {
        faults.fail(call, 0, 1, EIO);
        assert!(store.cache.tags.put(&a, &latest, &record(&manifest(2).digest)).await.is_err());
        assert_eq!(store.cache.tags.load(&a, &latest).await.unwrap(), Some(record(&manifest(1).digest)));
        assert!(names(root.path().join("partial")).is_empty());
    }
}

/// The catalog has every source with a tag or a manifest, and nothing else; with the index and without.
#[tokio::test]
async fn the_catalog_is_what_is_cached() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    store.cache.manifests.put(&manifest(1)).await.unwrap();
    store.cache.tags.put(&source("b"), &"latest".parse().unwrap(), &record(&manifest(1).digest)).await.unwrap();
    store.cache.members.add(&source("a/c"), &[manifest(1).digest]).await.unwrap();
    store.cache.members.add(&source("only/asked"), &[manifest(2).digest]).await.unwrap();
    let expected = [source("a/c"), source("b")];
    // While the index is not there yet, and from it.
    assert_eq!(store.index.catalog().await.unwrap(), expected);
    until("the index is there", || store.usage().index_ready).await;
    assert_eq!(store.index.catalog().await.unwrap(), expected);
    store.close().await;
    assert_eq!(store.index.catalog().await.unwrap(), expected);
    drop(store);
    let store = open(root.path());
    until("the index is there", || store.usage().index_ready).await;
    assert_eq!(store.index.catalog().await.unwrap(), expected);
    assert_eq!(store.cache.forget("docker.io", &"b".parse().unwrap(), None).await.unwrap(), 1);
    assert_eq!(store.index.catalog().await.unwrap(), [source("a/c")]);
}

/// Forgetting a repository forgets all it said, under every credential, and nothing of its neighbours.
#[tokio::test]
async fn what_is_forgotten_is_gone() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (a, nested) = (source("a"), source("a/b"));
    let private = Source { credential: "ann".into(), ..a.clone() };
    let listing = Listing { checked_at: SystemTime::UNIX_EPOCH, body: b"[]".to_vec(), imported: false };
    for source in [&a, &nested, &private] {
        store.cache.tags.put(source, &"x".parse().unwrap(), &record(&manifest(1).digest)).await.unwrap();
        store.cache.tags.put(source, &"y".parse().unwrap(), &record(&manifest(1).digest)).await.unwrap();
        store.cache.members.add(source, &[manifest(1).digest]).await.unwrap();
        store.cache.listings.put(source, "tags", &listing).await.unwrap();
    }
    let name = a.repository.clone();
    assert_eq!(store.cache.forget("docker.io", &name, Some(&"x".parse().unwrap())).await.unwrap(), 2);
    assert_eq!(store.cache.forget("docker.io", &name, None).await.unwrap(), 6);
    assert_eq!(store.cache.forget("ghcr.io", &name, None).await.unwrap(), 0);
    for source in [&a, &private] {
        assert!(store.cache.tags.list(source).await.unwrap().is_empty());
        assert!(!store.cache.members.load(source, &manifest(1).digest).await.unwrap());
        assert_eq!(store.cache.listings.load(source, "tags").await.unwrap(), None);
    }
    assert_eq!(store.cache.tags.list(&nested).await.unwrap().len(), 2);
    assert!(store.cache.members.load(&nested, &manifest(1).digest).await.unwrap());
    assert!(store.cache.listings.load(&nested, "../../x").await.is_err());
}
