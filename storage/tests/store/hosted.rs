//! What lives in the store: it outlives the process, is never evicted, has its bound, and is given up when nothing names it.

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use weir_storage::{
    Call, Error, Faults, IsImmutable, Protection, Push, Settings, Store,
    oci::{Algorithm, Digest, Manifest, Name, Reference, Tag},
};

use crate::{EIO, blob_path, content, settings};

pub(crate) fn hosting(root: &std::path::Path) -> Settings {
    Settings { namespaces: vec!["local/*".into()], ..settings(root) }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) async fn push(store: &Store, repository: &str, digest: &Digest, bytes: &Bytes) -> Result<(), Error> {
    let upload = store.uploads.begin(&name(repository), "", "", Algorithm::Sha256).await?;
    for piece in bytes.chunks(100_000) {
        upload.append(vec![Bytes::copy_from_slice(piece)]).await?;
    }
    upload.commit(digest).await
}

pub(crate) fn manifest(blob: &Digest, size: usize, tag: &str) -> Push {
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{blob}","size":{size}}},"layers":[],"x":"{tag}"}}"#
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
    let digest = Algorithm::Sha256.digest(text.as_bytes());
    let manifest = Manifest { digest, media_type, bytes: text.into() };
    Push {
        children: manifest.describe().unwrap().children,
        manifest,
        may_lack_blobs: true,
        subject: None,
        tags: vec![(tag.parse().unwrap(), false)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_there_after_a_restart_and_without_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, bytes) = content(1, 300_000);
    let pushed = manifest(&digest, bytes.len(), "v1");
    {
        let store = Store::open(hosting(directory.path())).unwrap();
        let hosted = store.repositories.clone();
        push(&store, "local/a", &digest, &bytes).await.unwrap();
        hosted.put_manifest(&name("local/a"), pushed.clone()).await.unwrap();
        store.close().await;
    }
    let _ = std::fs::remove_dir_all(directory.path().join("index"));
    let store = Store::open(hosting(directory.path())).unwrap();
    let hosted = store.repositories.clone();
    let tag: Tag = "v1".parse().unwrap();
    let by_digest = Reference::Digest(pushed.manifest.digest.clone());
    assert_eq!(hosted.tag(&name("local/a"), &tag).await.unwrap().unwrap().digest, pushed.manifest.digest);
    assert_eq!(hosted.manifest(&name("local/a"), &by_digest).await.unwrap().unwrap(), pushed.manifest);
    assert_eq!(hosted.blob_size(&name("local/a"), &digest).await.unwrap(), Some(300_000));
    assert_eq!(hosted.names(), [name("local/a")]);
    // It is this repository's alone.
    assert_eq!(hosted.blob_size(&name("local/b"), &digest).await.unwrap(), None);
    assert!(hosted.manifest(&name("local/b"), &by_digest).await.unwrap().is_none());
}

/// A manifest that was pushed is synced; that the mirror sees the same one does not replace it by a file that is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_manifest_is_not_written_again_when_it_is_mirrored() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = Store::open_on(hosting(directory.path()), faults.clone()).unwrap();
    crate::until("the index is there", || store.usage().index_ready).await;
    let pushed = manifest(&content(1, 10).0, 10, "v1");
    store.repositories.clone().put_manifest(&name("local/a"), pushed.clone()).await.unwrap();
    faults.fail(Call::Create, 0, 1, EIO);
    store.cache.manifests.put(&pushed.manifest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_never_takes_what_is_hosted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(hosting(directory.path())).unwrap();
    let hosted = store.repositories.clone();
    let (kept, bytes) = content(1, 10 << 20);
    push(&store, "local/a", &kept, &bytes).await.unwrap();
    // Twice the capacity goes through the cache; what is hosted was asked for least of all.
    for seed in 2..14 {
        let (digest, bytes) = content(seed, 10 << 20);
        let mut writer = store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes).await.unwrap();
        writer.commit().await.unwrap();
        drop(store.blobs.load(&digest).await.unwrap());
    }
    assert!(store.usage().evicted > 0);
    assert_eq!(hosted.blob_size(&name("local/a"), &kept).await.unwrap(), Some(10 << 20));
    // Given up, it is a cached blob like any other.
    assert!(hosted.delete_blob(&name("local/a"), &kept, Protection::default()).await.unwrap());
    assert!(!hosted.delete_blob(&name("local/a"), &kept, Protection::default()).await.unwrap());
    for seed in 14..26 {
        let (digest, bytes) = content(seed, 10 << 20);
        let mut writer = store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes).await.unwrap();
        writer.commit().await.unwrap();
        store.blobs.load(&digest).await.unwrap();
        store.blobs.load(&digest).await.unwrap();
    }
    assert_eq!(store.blobs.size(&kept).await.unwrap(), None);
    // A push that cannot fit beside what stays is refused, and its bytes are given back.
    let before = store.usage().partial_bytes;
    for seed in 30..40 {
        let (digest, bytes) = content(seed, 10 << 20);
        if let Err(error) = push(&store, "local/a", &digest, &bytes).await {
            assert!(matches!(error, Error::Full { .. }), "{error}");
            assert!(seed > 33, "{seed}");
            assert!(store.usage().partial_bytes > before);
            return;
        }
    }
    panic!("more than the capacity was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_holds_what_it_may_and_counts_once_what_its_repositories_share() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { namespace_capacity: 1_000_000, ..hosting(directory.path()) }).unwrap();
    let hosted = store.repositories.clone();
    let (first, bytes) = content(1, 600_000);
    push(&store, "local/a", &first, &bytes).await.unwrap();
    assert!(hosted.mount(&name("local/b"), &first).await.unwrap());
    let (second, more) = content(2, 600_000);
    let refused = push(&store, "local/c", &second, &more).await;
    assert!(matches!(refused, Err(Error::Quota { capacity: 1_000_000, .. })), "{refused:?}");
    assert!(hosted.delete_blob(&name("local/a"), &first, Protection::default()).await.unwrap());
    assert!(push(&store, "local/c", &second, &more).await.is_err(), "another repository holds it still");
    assert!(hosted.delete_blob(&name("local/b"), &first, Protection::default()).await.unwrap());
    push(&store, "local/c", &second, &more).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_manifest_names_is_given_up_in_time_and_what_one_names_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { unnamed_ttl: Duration::ZERO, ..hosting(directory.path()) }).unwrap();
    let hosted = store.repositories.clone();
    let repository = name("local/a");
    let ((named, bytes), (unnamed, more)) = (content(1, 1000), content(2, 1000));
    push(&store, "local/a", &named, &bytes).await.unwrap();
    push(&store, "local/a", &unnamed, &more).await.unwrap();
    let pushed = manifest(&named, bytes.len(), "v1");
    hosted.put_manifest(&repository, pushed.clone()).await.unwrap();
    assert_eq!(hosted.collect().await.unwrap(), 1);
    assert!(hosted.blob_size(&repository, &named).await.unwrap().is_some());
    assert!(hosted.blob_size(&repository, &unnamed).await.unwrap().is_none());
    assert!(hosted.delete_manifest(&repository, &pushed.manifest.digest, Protection::default()).await.unwrap());
    assert!(hosted.tags(&repository).await.unwrap().is_empty());
    assert_eq!(hosted.collect().await.unwrap(), 1);
    assert!(!hosted.has(&repository));
    let usage = hosted.usage();
    assert_eq!((usage.collected, usage.collected_bytes), (2, 2000));
    assert_eq!(usage.namespaces, [("local/*".to_owned(), 0)]);

    // Not before its time, counted from when it was asked for last.
    let store = {
        drop((store, hosted));
        Store::open(Settings { unnamed_ttl: Duration::from_secs(3600), ..hosting(directory.path()) }).unwrap()
    };
    let hosted = store.repositories.clone();
    push(&store, "local/a", &unnamed, &more).await.unwrap();
    assert_eq!(hosted.collect().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_the_process_goes_on_where_it_was_and_expires() {
    let directory = tempfile::tempdir().unwrap();
    let (digest, bytes) = content(1, 300_000);
    let repository = name("local/a");
    let id = {
        let store = Store::open(hosting(directory.path())).unwrap();
        let upload = store.uploads.begin(&repository, "ann", "ann", Algorithm::Sha256).await.unwrap();
        upload.append(vec![bytes.slice(..100_000)]).await.unwrap();
        upload.id().to_owned()
    };
    let reopened = loop {
        // The handle of the last test is dropped by a thread that may still be at it.
        match Store::open(Settings { upload_sessions: 1, ..hosting(directory.path()) }) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let hosted = reopened.repositories.clone();
    assert!(
        reopened.uploads.get(&id, &repository, "bob").is_none()
            && reopened.uploads.get(&id, &name("local/b"), "ann").is_none()
    );
    let mut early = reopened.uploads.get(&id, &repository, "ann").unwrap();
    early.take_over().await;
    let mut late = reopened.uploads.get(&id, &repository, "ann").unwrap();
    late.take_over().await;
    assert_eq!(late.written(), 100_000);
    assert!(matches!(reopened.uploads.begin(&repository, "", "", Algorithm::Sha256).await, Err(Error::Busy)));
    assert!(matches!(early.append(vec![bytes.clone()]).await, Err(Error::Superseded)));
    late.append(vec![bytes.slice(100_000..)]).await.unwrap();
    late.commit(&digest).await.unwrap();
    assert_eq!(hosted.blob_size(&repository, &digest).await.unwrap(), Some(300_000));
    assert!(reopened.uploads.get(&id, &repository, "ann").is_none());
    drop((early, late, hosted, reopened));

    let settings = Settings { upload_ttl: Duration::from_millis(50), ..hosting(directory.path()) };
    let store = loop {
        match Store::open(settings.clone()) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let upload = store.uploads.begin(&repository, "", "", Algorithm::Sha256).await.unwrap();
    upload.append(vec![bytes.clone()]).await.unwrap();
    assert!(store.usage().partial_bytes > 0);
    while store.uploads.count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(upload.append(vec![bytes]).await, Err(Error::Superseded)));
    assert_eq!(store.usage().partial_bytes, 0);
    assert_eq!(std::fs::read_dir(directory.path().join("uploads")).unwrap().count(), 0);
}

/// A push is acknowledged when its bytes and every name on the way to them are synced, in this order.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_acknowledged_after_its_names_are_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = Store::open_on(hosting(directory.path()), faults.clone()).unwrap();
    crate::until("the index is there", || store.usage().index_ready).await;
    let (digest, bytes) = content(1, 1000);
    faults.record();
    push(&store, "local/a", &digest, &bytes).await.unwrap();
    let calls = faults.recorded();
    let root = directory.path();
    let at = |call: Call, path: &std::path::Path| calls.iter().rposition(|entry| *entry == (call, path.to_owned()));
    let shard = crate::blob_path(root, &digest).parent().unwrap().to_owned();
    let renamed =
        calls.iter().rposition(|(call, path)| *call == Call::Rename && path.starts_with(root.join("uploads")));
    assert!(calls[..renamed.unwrap()].iter().any(|(call, _)| *call == Call::Sync), "the bytes before the name");
    let held = root.join("hosted/local/a/_blobs");
    for path in [&shard, &root.join("blobs/sha256"), &root.join("blobs"), &held, &root.join("hosted/local/a")] {
        assert!(at(Call::Sync, path) > renamed, "{}", path.display());
    }
    assert!(
        at(Call::Sync, &held) > calls.iter().rposition(|(call, path)| *call == Call::Create && path.starts_with(&held))
    );

    let pushed = manifest(&digest, 1000, "v1");
    faults.record();
    store.repositories.put_manifest(&name("local/a"), pushed.clone()).await.unwrap();
    let calls = faults.recorded();
    for below in ["hosted/local/a/_manifests", "hosted/local/a/_tags"] {
        let last = calls.iter().rposition(|(call, _)| *call == Call::Rename).unwrap();
        let synced = calls.iter().rposition(|entry| *entry == (Call::Sync, root.join(below)));
        assert!(synced.is_some() && (below.ends_with("_manifests") || synced > Some(last)), "{below}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_blob_was_lost_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(hosting(directory.path())).unwrap();
    let (digest, bytes) = content(1, 1000);
    push(&store, "local/a", &digest, &bytes).await.unwrap();
    let pushed = Push { may_lack_blobs: false, ..manifest(&digest, bytes.len(), "v1") };
    std::fs::remove_file(blob_path(directory.path(), &digest)).unwrap();
    let refused = store.repositories.put_manifest(&name("local/a"), pushed.clone()).await;
    assert!(matches!(&refused, Err(Error::MissingBlobs { digest: lost, .. }) if **lost == digest), "{refused:?}");
    push(&store, "local/a", &digest, &bytes).await.unwrap();
    store.repositories.put_manifest(&name("local/a"), pushed).await.unwrap();
}

/// Whether it may go is decided under the lock that a push takes: the push waits, and is refused when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_and_a_delete_of_what_it_names_never_both_succeed() {
    for is_immutable in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let store = Store::open_on(hosting(directory.path()), faults.clone()).unwrap();
        let (digest, bytes) = content(1, 1000);
        push(&store, "local/a", &digest, &bytes).await.unwrap();
        let protection = Protection {
            is_immutable: is_immutable.then(|| Box::new(|_: &Tag| true) as IsImmutable),
            referenced: !is_immutable,
        };
        let (hosted, pushed) =
            (store.repositories.clone(), Push { may_lack_blobs: false, ..manifest(&digest, 1000, "v1") });
        let (send, put) = std::sync::mpsc::channel();
        let (sent, done) = std::sync::mpsc::channel();
        let runtime = Handle::current();
        // Between the decision and the removal a push comes.
        faults.before(Call::Remove, 0, move || {
            runtime.spawn(async move { send.send(hosted.put_manifest(&name("local/a"), pushed).await) });
            sent.send(put.recv_timeout(Duration::from_millis(500)).map_err(|_| put)).unwrap();
        });
        assert!(store.repositories.delete_blob(&name("local/a"), &digest, protection).await.unwrap());
        let put = done.recv().unwrap().unwrap_or_else(|waiting| waiting.recv().unwrap());
        assert!(matches!(put, Err(Error::MissingBlobs { .. })), "{put:?}");
    }
}

/// What is named again while it is about to be collected stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_touched_while_it_is_collected_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (named, unnamed) = (content(1, 1000), content(2, 1000));
    {
        let store = Store::open(hosting(directory.path())).unwrap();
        for (digest, bytes) in [&named, &unnamed] {
            push(&store, "local/a", digest, bytes).await.unwrap();
        }
        store.repositories.put_manifest(&name("local/a"), manifest(&named.0, 1000, "v1")).await.unwrap();
    }
    let marks = directory.path().join("hosted/local/a/_blobs");
    for mark in crate::names(&marks) {
        let file = std::fs::File::options().write(true).open(marks.join(mark)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(7 * 24 * 3600)).unwrap();
    }
    let faults = Faults::default();
    let store = Store::open_on(hosting(directory.path()), faults.clone()).unwrap();
    crate::until("the index is there", || store.usage().index_ready).await;
    // Its manifest is read after the first look at what is idle, and before what is idle goes.
    let (toucher, digest, runtime) = (store.repositories.clone(), unnamed.0.clone(), Handle::current());
    faults.before(Call::Read, 0, move || {
        assert!(runtime.block_on(toucher.blob_size(&name("local/a"), &digest)).unwrap().is_some());
    });
    assert_eq!(store.repositories.collect().await.unwrap(), 0);
    assert!(store.repositories.blob_size(&name("local/a"), &unnamed.0).await.unwrap().is_some());
}

/// One principal has a quarter of the sessions; its oldest empty one makes way, and what has bytes is never taken.
#[tokio::test(flavor = "multi_thread")]
async fn one_principal_does_not_take_every_upload_session() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { upload_sessions: 8, ..hosting(directory.path()) }).unwrap();
    let repository = name("local/a");
    let begin = async |principal: &str| store.uploads.begin(&repository, principal, principal, Algorithm::Sha256).await;
    let mut last = None;
    for _ in 0..60 {
        last = Some(begin("bob").await.unwrap());
    }
    assert_eq!(store.uploads.count(), 2);
    let last = last.unwrap();
    last.append(vec![content(1, 100).1]).await.unwrap();
    let other = begin("bob").await.unwrap();
    other.append(vec![content(1, 100).1]).await.unwrap();
    assert!(matches!(begin("bob").await, Err(Error::Busy)), "both have bytes");
    for principal in ["ci", "ann", "eve"] {
        begin(principal).await.unwrap();
        begin(principal).await.unwrap();
    }
    // As many as there may be: an empty one of those who have most makes way.
    begin("new").await.unwrap();
    assert_eq!(store.uploads.count(), 8);
    for upload in [last, other] {
        assert!(store.uploads.get(upload.id(), &repository, "bob").is_some());
    }
}

/// Clients that hold all sessions, and go on with each, keep none out that has few; nor do two clients without a name share one share.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_on_with_every_upload_session_keep_no_other_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { upload_sessions: 16, ..hosting(directory.path()) }).unwrap();
    let repository = name("local/a");
    let begin = async |client: &str| store.uploads.begin(&repository, "", client, Algorithm::Sha256).await;
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        for _ in 0..4 {
            let upload = begin(client).await.unwrap();
            upload.append(vec![content(1, 1).1]).await.unwrap();
            held.push(upload);
        }
        assert!(matches!(begin(client).await, Err(Error::Busy)), "{client} has its share");
    }
    assert_eq!(store.uploads.count(), 16);
    // The one that has waited for longest of those who have four, where the newcomer has none.
    let first = begin("198.51.100.1").await.unwrap();
    first.append(vec![content(1, 1).1]).await.unwrap();
    assert!(store.uploads.get(held[0].id(), &repository, "").is_none());
    assert_eq!(held.iter().filter(|upload| store.uploads.get(upload.id(), &repository, "").is_some()).count(), 15);
    // With one it has to wait, since four is not more than twice of two.
    assert!(matches!(begin("198.51.100.1").await, Err(Error::Busy)));
    assert!(store.uploads.get(first.id(), &repository, "").is_some());
    begin("198.51.100.2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_whose_power_was_cut_while_it_was_taken_can_be_taken_again() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(hosting(directory.path())).unwrap());
    for file in ["lock", "server"] {
        let length = std::fs::metadata(directory.path().join(file)).unwrap().len();
        std::fs::write(directory.path().join(file), vec![0; length as usize]).unwrap();
    }
    Store::open(hosting(directory.path())).unwrap();
}
