//! What a push may use, what it gets back when it is refused, and how what was pushed is listed.

use weir_storage::{
    Error, Protection, Push, ReferrersPage, Settings, Store,
    oci::{Algorithm, Digest},
};

use crate::{
    content,
    hosted::{hosting, manifest, name, push},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_namespace_refuses_no_push_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let namespaces = vec!["local/*".into(), "other/*".into()];
    let settings = Settings { namespaces, namespace_capacity: 1000, ..hosting(directory.path()) };
    let store = Store::open(settings).unwrap();
    let ((first, bytes), (second, more), (third, rest)) = (content(1, 900), content(2, 800), content(3, 200));
    push(&store, "local/a", &first, &bytes).await.unwrap();
    assert!(matches!(push(&store, "local/a", &second, &more).await, Err(Error::Quota { .. })));
    push(&store, "other/a", &second, &more).await.unwrap();
    // To the last byte, and not one more.
    push(&store, "other/b", &third, &rest).await.unwrap();
    assert_eq!(store.repositories.usage().namespaces, [("local/*".to_owned(), 900), ("other/*".to_owned(), 1000)]);
    let (last, byte) = content(4, 1);
    assert!(matches!(push(&store, "other/a", &last, &byte).await, Err(Error::Quota { .. })));
    assert!(store.repositories.delete_blob(&name("other/b"), &third, Protection::default()).await.unwrap());
    assert_eq!(store.repositories.usage().namespaces[1], ("other/*".to_owned(), 800));
}

/// What a request brought and could not be taken whole is given back, on disk and in the accounts, and the upload goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_rolled_back_goes_on_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(hosting(directory.path())).unwrap();
    let (digest, bytes) = content(1, 300_000);
    for offset in [0, 100_000] {
        let upload = store.uploads.begin(&name("local/a"), "", "", Algorithm::Sha256).await.unwrap();
        upload.roll_back(0).await.unwrap();
        upload.append(vec![bytes.slice(..100_000)]).await.unwrap();
        upload.append(vec![vec![7; 5_000_000].into()]).await.unwrap();
        assert!(store.usage().partial_bytes > 5_000_000);
        upload.roll_back(offset).await.unwrap();
        assert_eq!(upload.written(), offset);
        assert!(store.usage().partial_bytes < 5_000_000);
        let file = directory.path().join("uploads").join(upload.id());
        assert_eq!(std::fs::metadata(file).unwrap().len(), offset);
        upload.append(vec![bytes.slice(usize::try_from(offset).unwrap()..)]).await.unwrap();
        upload.commit(&digest).await.unwrap();
        assert!(store.repositories.delete_blob(&name("local/a"), &digest, Protection::default()).await.unwrap());
    }
}

/// The bytes are here: a client that makes room need not send them again.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_its_namespace_refuses_can_be_committed_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { namespace_capacity: 1000, ..hosting(directory.path()) }).unwrap();
    let ((first, bytes), (second, more)) = (content(1, 600), content(2, 600));
    let upload = store.uploads.begin(&name("local/a"), "", "", Algorithm::Sha256).await.unwrap();
    upload.append(vec![more]).await.unwrap();
    push(&store, "local/a", &first, &bytes).await.unwrap();
    assert!(matches!(upload.commit(&second).await, Err(Error::Quota { .. })));
    assert!(store.repositories.delete_blob(&name("local/a"), &first, Protection::default()).await.unwrap());
    upload.commit(&second).await.unwrap();
    assert_eq!(store.repositories.blob_size(&name("local/a"), &second).await.unwrap(), Some(600));
}

/// How long it was not asked for is known after a restart as well: from when its file was last written.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_pushed_before_a_restart_is_not_collected_before_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let ((young, bytes), (old, more)) = (content(1, 1000), content(2, 1000));
    {
        let store = Store::open(hosting(directory.path())).unwrap();
        push(&store, "local/a", &old, &more).await.unwrap();
        let marks = directory.path().join("hosted/local/a/_blobs");
        for mark in crate::names(&marks) {
            let file = std::fs::File::options().write(true).open(marks.join(mark)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7 * 24 * 3600)).unwrap();
        }
        push(&store, "local/a", &young, &bytes).await.unwrap();
        store.close().await;
    }
    let store = Store::open(hosting(directory.path())).unwrap();
    assert_eq!(store.repositories.collect().await.unwrap(), 1);
    assert!(store.repositories.has(&name("local/a")));
    assert!(store.repositories.blob_size(&name("local/a"), &young).await.unwrap().is_some());
    assert!(store.repositories.blob_size(&name("local/a"), &old).await.unwrap().is_none());
}

/// A page ends at its number of descriptors or at its bytes, and holds one at least; the next one goes on after the digest that it gives.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_referrers_give_each_once_whatever_ends_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(hosting(directory.path())).unwrap();
    let (subject, repository) = (content(9, 9).0, name("local/a"));
    let ((config, bytes), mut pushed) = (content(1, 10), Vec::new());
    push(&store, "local/a", &config, &bytes).await.unwrap();
    for number in 0..6 {
        let image = manifest(&config, 10, &format!("v{number}"));
        let digest = image.manifest.digest.clone();
        let kind = if number < 3 { "a/sbom" } else { "a/signature" };
        let descriptor = serde_json::json!({ "digest": digest.to_string(), "artifactType": kind });
        let subject = Some((subject.clone(), descriptor.clone()));
        store.repositories.put_manifest(&repository, Push { subject, ..image }).await.unwrap();
        pushed.push((digest, descriptor));
    }
    pushed.sort_by(|one, other| one.0.cmp(&other.0));
    let size = pushed[0].1.to_string().len() + 5;
    let walk = async |artifact_type: Option<&str>, most: usize, most_bytes: usize| {
        let (mut pages, mut last): (Vec<Vec<serde_json::Value>>, Option<Digest>) = (Vec::new(), None);
        loop {
            let page = ReferrersPage { artifact_type: artifact_type.map(str::to_owned), last, most, most_bytes };
            let (found, more) = store.repositories.referrers(&repository, &subject, Vec::new(), page).await.unwrap();
            pages.push(found);
            last = match more {
                Some(more) => Some(more),
                None => return pages,
            };
        }
    };
    let all: Vec<_> = pushed.iter().map(|(_, descriptor)| descriptor.clone()).collect();
    for (most, most_bytes, lengths) in [
        (10, 10_000, vec![6]),
        (6, 10_000, vec![6]),
        (4, 10_000, vec![4, 2]),
        (10, 2 * size, vec![2, 2, 2]),
        (10, 1, vec![1; 6]),
    ] {
        let pages = walk(None, most, most_bytes).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "{most} {most_bytes}");
        assert_eq!(pages.concat(), all);
    }
    let signatures: Vec<_> = all.iter().filter(|found| found["artifactType"] == "a/signature").cloned().collect();
    assert_eq!(walk(Some("a/signature"), 2, 10_000).await.concat(), signatures);
}
