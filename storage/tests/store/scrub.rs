//! Verification: everything is read again, in one pass or for ever, and what is damaged is named.

use std::{path::Path, sync::Arc, time::Duration};

use tempfile::tempdir;
use weir_storage::{
    Call, Error, Faults, Problem, Progress, Push, Repair, Report, Settings, Store,
    oci::{Algorithm, Digest, Name},
};

use crate::{
    EIO, blob_path, content, damage::filled, drain, names, open, open_faulty, put, settings, small::manifest, until,
};

async fn verify(store: &Store, repair: Repair) -> Report {
    store.scrub.run(repair, 0, Arc::new(Progress::default())).await.unwrap()
}

fn flip(path: &Path) {
    flip_at(path, 1, 1);
}

/// Flips a bit of the last byte of that part of the file.
fn flip_at(path: &Path, part: usize, of: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = (bytes.len() * part).div_ceil(of) - 1;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn manifest_path(root: &Path, digest: &Digest) -> std::path::PathBuf {
    root.join("manifests/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// A verification right after a start sees every object, and finds the one that is damaged each time.
#[tokio::test]
async fn a_verification_sees_everything_from_the_first_moment() {
    let root = tempdir().unwrap();
    let digests = filled(root.path()).await;
    assert_eq!(verify(&open(root.path()), Repair::Nothing).await.damaged, 0);
    for (round, digest) in digests.iter().enumerate() {
        let path = match round % 2 {
            0 => blob_path(root.path(), digest),
            _ => manifest_path(root.path(), &manifest(round as u64).digest),
        };
        // A bit anywhere, such as in the media type that stands before a manifest.
        flip_at(&path, round + 1, digests.len());
        let progress = Arc::new(Progress::default());
        let report = open(root.path()).scrub.run(Repair::Nothing, 0, progress.clone()).await.unwrap();
        assert_eq!((report.objects, report.damaged, report.damages.len()), (40, 1, 1), "round {round}");
        assert_eq!((progress.done(), progress.total().0), ((40, report.bytes), 40));
        assert_eq!(report.damages[0].problem, Problem::Corrupt);
        assert!(report.damages[0].repositories.is_empty());
        flip_at(&path, round + 1, digests.len());
    }
}

/// What reads the manifests at each start puts none aside, which a verification would not see then.
#[tokio::test]
async fn a_verification_after_the_inventory_was_read_names_what_is_damaged() {
    let root = tempdir().unwrap();
    filled(root.path()).await;
    let path = manifest_path(root.path(), &manifest(1).digest);
    flip(&path);
    let store = open(root.path());
    until("the inventory is read", || store.images.is_complete()).await;
    let report = verify(&store, Repair::Nothing).await;
    assert_eq!((report.objects, report.damaged), (40, 1), "{report:?}");
    assert!(path.exists());
    assert!(store.cache.manifests.load(&manifest(1).digest).await.unwrap().is_none(), "a client is not given it");
}

/// Nothing is changed unless it is asked for; then what is damaged is put aside and absent, and its readers stop.
#[tokio::test]
async fn only_a_repair_puts_aside_what_is_damaged() {
    let root = tempdir().unwrap();
    let (store, _) = open_faulty(root.path());
    let (digest, bytes) = content(1, 100_000);
    put(&store, &digest, &bytes).await.unwrap();
    store.cache.manifests.put(&manifest(1)).await.unwrap();
    // Opened before, it is read as it is.
    let mut reader = store.blobs.load(&digest).await.unwrap().unwrap();
    flip(&blob_path(root.path(), &digest));
    flip(&manifest_path(root.path(), &manifest(1).digest));
    assert_eq!(verify(&store, Repair::Nothing).await.damaged, 2);
    assert!(blob_path(root.path(), &digest).exists());
    assert_eq!(verify(&store, Repair::Corrupt).await.damaged, 2);
    assert!(drain(&mut reader).await.1.is_err());
    assert!(store.blobs.load(&digest).await.unwrap().is_none());
    assert!(store.cache.manifests.load(&manifest(1).digest).await.unwrap().is_none(), "also from memory");
    assert_eq!((store.usage().blobs, store.usage().manifests, store.usage().quarantined), (0, 0, 2));
    assert_eq!(names(root.path().join("quarantine")).len(), 2);
    let clean = verify(&store, Repair::Corrupt).await;
    assert_eq!((clean.objects, clean.damaged), (0, 0));
}

/// What cannot be read is named; it stays where it is unless the operator asks for more.
#[tokio::test]
async fn what_cannot_be_read_is_named_and_stays() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (digest, bytes) = content(1, 100_000);
    put(&store, &digest, &bytes).await.unwrap();
    faults.fail(Call::Read, 0, 2, EIO);
    let report = verify(&store, Repair::Corrupt).await;
    assert!(matches!(report.damages[0].problem, Problem::Unreadable(_)), "{report:?}");
    assert!(blob_path(root.path(), &digest).exists());
    assert_eq!(verify(&store, Repair::Unreadable).await.damaged, 1);
    assert!(!blob_path(root.path(), &digest).exists());
}

/// Of hosted content the report says which repositories lost it, also when there is no file at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_hosted_and_damaged_is_named_with_its_repositories() {
    let root = tempdir().unwrap();
    let settings = Settings { namespaces: vec!["local/*".into()], ..settings(root.path()) };
    let store = Store::open(settings).unwrap();
    let (corrupt, missing, pushed) = (content(1, 1000), content(2, 1000), manifest(3));
    let repositories = ["local/a", "local/b"].map(|name| name.parse::<Name>().unwrap());
    for (digest, bytes) in [&corrupt, &missing] {
        let upload = store.uploads.begin(&repositories[0], "", "", Algorithm::Sha256).await.unwrap();
        upload.append(vec![bytes.clone()]).await.unwrap();
        upload.commit(digest).await.unwrap();
    }
    assert!(store.repositories.mount(&repositories[1], &corrupt.0).await.unwrap());
    let push =
        Push { manifest: pushed.clone(), children: Vec::new(), may_lack_blobs: false, subject: None, tags: Vec::new() };
    store.repositories.put_manifest(&repositories[0], push).await.unwrap();
    assert_eq!(verify(&store, Repair::Nothing).await.damaged, 0);
    flip(&blob_path(root.path(), &corrupt.0));
    std::fs::remove_file(blob_path(root.path(), &missing.0)).unwrap();
    std::fs::remove_file(manifest_path(root.path(), &pushed.digest)).unwrap();
    let mut damages = verify(&store, Repair::Nothing).await.damages;
    damages.sort_by_key(|damage| damage.repositories.len());
    assert_eq!(damages.iter().filter(|damage| damage.problem == Problem::Missing).count(), 2);
    let last = damages.last().unwrap();
    assert_eq!((&last.digest, &last.problem), (&corrupt.0, &Problem::Corrupt));
    assert!(repositories.iter().all(|name| last.repositories.contains(name)));
}

/// Invariant: what rots in service is found by the scrub that goes round, and counted; a restart does not begin it anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_in_service_finds_what_rots() {
    let root = tempdir().unwrap();
    let settings = Settings { scrub: Duration::from_secs(1), ..settings(root.path()) };
    let store = Store::open(settings.clone()).unwrap();
    let (digest, bytes) = content(1, 100_000);
    put(&store, &digest, &bytes).await.unwrap();
    until("it came round", || store.scrub.scrubbed().passes > 0).await;
    assert_eq!(store.scrub.scrubbed().damaged, 0);
    flip(&blob_path(root.path(), &digest));
    until("it is found", || store.scrub.scrubbed().damaged == 1).await;
    assert_eq!(store.usage().quarantined, 1);
    assert!(!blob_path(root.path(), &digest).exists());
    assert!(root.path().join("scrub").exists(), "where it was is kept");
}

/// A verification in service runs beside everything else, one at a time, and its report can be read afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_in_service_is_one_at_a_time_and_is_reported() {
    let root = tempdir().unwrap();
    let digests = filled(root.path()).await;
    let store = open(root.path());
    flip(&blob_path(root.path(), &digests[7]));
    assert!(store.scrub.status().last.is_none());
    assert!(store.scrub.start(Repair::Corrupt).unwrap());
    until("it is done", || store.scrub.status().running.is_none()).await;
    let report = store.scrub.status().last.unwrap().unwrap();
    assert_eq!((report.objects, report.damaged), (40, 1));
    assert_eq!(report.damages[0].digest, digests[7]);
    assert!(store.scrub.start(Repair::Nothing).unwrap());
}

/// A directory that no store has made is refused, and not touched.
#[tokio::test]
async fn a_directory_that_is_no_store_is_not_made_one() {
    let root = tempdir().unwrap();
    for path in [root.path().to_owned(), root.path().join("none")] {
        let error = Store::open_existing(settings(&path)).unwrap_err();
        assert!(matches!(&error, Error::Unusable(text) if text.contains("no data directory")), "{error}");
    }
    assert!(names(root.path()).is_empty());
    drop(open(root.path()));
    Store::open_existing(settings(root.path())).unwrap();
}

/// A directory that cannot be listed is an error, and no clean report.
#[tokio::test]
async fn what_cannot_be_listed_is_not_called_sound() {
    let root = tempdir().unwrap();
    let faults = Faults::default();
    let store = Store::open_on(Settings { scrub: Duration::ZERO, ..settings(root.path()) }, faults.clone()).unwrap();
    until("the index is there", || store.usage().index_ready).await;
    faults.fail(Call::List, 0, u32::MAX, EIO);
    assert!(store.scrub.run(Repair::Nothing, 0, Arc::default()).await.is_err());
}
