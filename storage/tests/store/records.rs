//! Records of what was pushed, which no upstream can say again: a damaged one is an error and never absence.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::{TempDir, tempdir};
use weir_storage::{
    DamagedRecord, Error, IsImmutable, Progress, Protection, Push, RecordKind, ReferrersPage, Repair, Report, Store,
    oci::{Algorithm, Digest, Manifest, Reference, Tag},
};

use crate::{
    content,
    hosted::{hosting, name, push},
    names,
};

const REPOSITORY: &str = "local/a";

/// A manifest that says itself what it is, under a tag that may not be moved.
fn manifest(blob: &Digest, subject: Option<&Digest>, tag: &str) -> Push {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let of = subject.map_or_else(String::new, |subject| {
        format!(r#","subject":{{"mediaType":"{media_type}","digest":"{subject}","size":1}}"#)
    });
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"a/b","digest":"{blob}","size":9}},"layers":[]{of}}}"#
    );
    let digest = Algorithm::Sha256.digest(text.as_bytes());
    let manifest = Manifest { digest, media_type: media_type.parse().unwrap(), bytes: text.into() };
    let described = manifest.describe().unwrap();
    let referrer = described.referrer(&manifest.media_type, &manifest.digest, manifest.bytes.len());
    Push {
        children: described.children,
        subject: described.subject.map(|subject| (subject, referrer)),
        manifest,
        may_lack_blobs: true,
        tags: vec![(tag.parse().unwrap(), true)],
    }
}

/// The image `v1` and `sig`, which refers to it.
async fn pushed() -> (TempDir, Push, Push) {
    let root = tempdir().unwrap();
    let store = Store::open(hosting(root.path())).unwrap();
    let (blob, bytes) = content(1, 9);
    push(&store, REPOSITORY, &blob, &bytes).await.unwrap();
    let image = manifest(&blob, None, "v1");
    let signature = manifest(&blob, Some(&image.manifest.digest), "sig");
    for push in [&image, &signature] {
        store.repositories.put_manifest(&name(REPOSITORY), push.clone()).await.unwrap();
    }
    store.close().await;
    (root, image, signature)
}

fn directory(root: &Path, of: &str) -> PathBuf {
    root.join("hosted").join(REPOSITORY).join(of)
}

/// The only file there whose name begins so.
fn file(directory: &Path, begin: &str) -> PathBuf {
    let found: Vec<_> = names(directory).into_iter().filter(|name| name.starts_with(begin)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    directory.join(&found[0])
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn verify(store: &Store, repair: Repair) -> Report {
    store.scrub.run(repair, 0, Arc::new(Progress::default())).await.unwrap()
}

fn flat(digest: &Digest) -> String {
    digest.to_string().replace(':', "-")
}

fn is_damaged<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::DamagedRecord(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_tag_is_an_error_stays_taken_and_protects_what_it_may_name() {
    let (root, image, signature) = pushed().await;
    let path = directory(root.path(), "_tags").join("v1");
    let name = name(REPOSITORY);
    let v1: Tag = "v1".parse().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for damage in [&b""[..], b"{}", &whole[..whole.len() - 1]] {
        std::fs::write(&path, damage).unwrap();
        let store = Store::open(hosting(root.path())).unwrap();
        let hosted = &store.repositories;
        assert!(is_damaged(hosted.tag(&name, &v1).await));
        assert!(is_damaged(hosted.manifest(&name, &Reference::Tag(v1.clone())).await));
        assert_eq!(hosted.tags(&name).await.unwrap(), ["sig".parse().unwrap(), v1.clone()]);
        let other = Push { tags: image.tags.clone(), ..signature.clone() };
        assert!(is_damaged(hosted.put_manifest(&name, other).await));
        let is_immutable: IsImmutable = Box::new(|_| true);
        let protection = Protection { is_immutable: Some(is_immutable), referenced: false };
        assert!(is_damaged(hosted.delete_manifest(&name, &image.manifest.digest, protection).await));
        // A pass in service names it, and decides nothing.
        let report = verify(&store, Repair::Corrupt).await;
        let record = DamagedRecord {
            kind: RecordKind::Tag,
            repository: Some(name.clone()),
            reference: "v1".into(),
            restored: false,
        };
        assert_eq!((report.damaged, report.damages.len(), &report.records[..]), (1, 0, &[record][..]));
        assert_eq!(std::fs::read(&path).unwrap(), damage);
        store.close().await;
    }
    // The operator decides; then the name is free.
    let store = Store::open(hosting(root.path())).unwrap();
    assert_eq!(verify(&store, Repair::Unreadable).await.damaged, 1);
    assert_eq!(verify(&store, Repair::Nothing).await.damaged, 0);
    assert!(names(root.path().join("quarantine")).iter().any(|name| name.starts_with("record.tag.v1.")));
    assert!(store.repositories.tag(&name, &v1).await.unwrap().is_none());
    store.repositories.put_manifest(&name, image.clone()).await.unwrap();
    assert_eq!(store.repositories.tag(&name, &v1).await.unwrap().unwrap().digest, image.manifest.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_a_manifest_is_made_anew_from_the_manifest() {
    let (root, image, signature) = pushed().await;
    let held = file(&directory(root.path(), "_manifests"), &flat(&image.manifest.digest));
    let subject = directory(root.path(), "_referrers").join(flat(&image.manifest.digest));
    let referrer = subject.join(flat(&signature.manifest.digest));
    let whole = [&held, &referrer].map(|path| std::fs::read(path).unwrap());
    let name = name(REPOSITORY);
    let page = || ReferrersPage { artifact_type: None, last: None, most: 10, most_bytes: 1 << 20 };
    for by_scrub in [true, false] {
        [&held, &referrer].into_iter().for_each(|path| flip(path));
        let store = Store::open(hosting(root.path())).unwrap();
        let report = verify(&store, Repair::Nothing).await;
        let found: Vec<_> = report.records.iter().map(|record| (record.kind, record.restored)).collect();
        assert_eq!(found, [(RecordKind::Manifest, false), (RecordKind::Referrer, false)]);
        if by_scrub {
            let report = verify(&store, Repair::Corrupt).await;
            assert!(report.damaged == 2 && report.records.iter().all(|record| record.restored), "{report:?}");
        } else {
            let by_digest = Reference::Digest(image.manifest.digest.clone());
            let manifest = store.repositories.manifest(&name, &by_digest).await.unwrap();
            assert_eq!(manifest.as_ref(), Some(&image.manifest));
            let (list, _) =
                store.repositories.referrers(&name, &image.manifest.digest, Vec::new(), page()).await.unwrap();
            assert_eq!(list, [signature.subject.clone().unwrap().1]);
        }
        assert_eq!([&held, &referrer].map(|path| std::fs::read(path).unwrap()), whole);
        assert_eq!(verify(&store, Repair::Nothing).await.damaged, 0);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_does_not_say_what_it_is_is_an_error_when_its_record_is_damaged() {
    let root = tempdir().unwrap();
    let store = Store::open(hosting(root.path())).unwrap();
    let name = name(REPOSITORY);
    let image = crate::hosted::manifest(&content(1, 9).0, 9, "v1");
    store.repositories.put_manifest(&name, image.clone()).await.unwrap();
    let held = file(&directory(root.path(), "_manifests"), &flat(&image.manifest.digest));
    flip(&held);
    let by_digest = Reference::Digest(image.manifest.digest.clone());
    assert!(is_damaged(store.repositories.manifest(&name, &by_digest).await));
    let report = verify(&store, Repair::Unreadable).await;
    assert!(report.damaged == 1 && !report.records[0].restored && held.exists(), "{report:?}");
    // Pushed again it is whole.
    store.repositories.put_manifest(&name, image.clone()).await.unwrap();
    assert_eq!(store.repositories.manifest(&name, &by_digest).await.unwrap(), Some(image.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pins_are_named_and_stop_no_start() {
    let root = tempdir().unwrap();
    std::fs::write(root.path().join("pins"), "weir1 00000000\n[]").unwrap();
    for (repair, damaged) in [(Repair::Corrupt, 1), (Repair::Unreadable, 1), (Repair::Nothing, 0)] {
        let store = Store::open(hosting(root.path())).unwrap();
        let report = verify(&store, repair).await;
        assert_eq!((report.damaged, report.records.len() as u64), (damaged, damaged));
        assert!(report.records.iter().all(|record| record.kind == RecordKind::Pins));
        store.close().await;
    }
    assert!(names(root.path().join("quarantine")).iter().any(|name| name.starts_with("record.pins.")));
}
