//! Capacity, eviction, and disks that are full.

use std::time::Duration;

use tempfile::tempdir;
use weir_storage::{Call, Error, Faults, Settings, Store};

use crate::{
    ENOSPC, assert_every_blob_is_what_its_name_says, blob_path, content, drain, names, open, open_faulty, put,
    settings, small::manifest, source, until,
};

const MIB: u64 = 1 << 20;

fn narrow(root: &std::path::Path) -> Store {
    Store::open(Settings { capacity: 10 * MIB, ..settings(root) }).unwrap()
}

/// Neither a file nor the room that was kept for it; which goes first does not matter.
fn nothing_partial(store: &Store, root: &std::path::Path) -> bool {
    names(root.join("partial")).is_empty() && store.usage().partial_bytes == 0
}

/// Invariant 7: space removes blobs, down to the bound, and what is asked for most stays.
#[tokio::test]
async fn the_capacity_is_kept_and_what_is_asked_for_stays() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    let (loved, bytes) = content(0, MIB as usize);
    put(&store, &loved, &bytes).await.unwrap();
    for seed in 1..40 {
        for _ in 0..3 {
            assert!(store.blobs.load(&loved).await.unwrap().is_some(), "it went at {seed}");
        }
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
        let usage = store.usage();
        assert!(usage.blob_bytes + usage.partial_bytes <= usage.capacity);
    }
    assert!(store.usage().evicted >= 28);
    assert_every_blob_is_what_its_name_says(root.path());
}

/// Invariant 7: a blob that is being read, or that arrives, is not evicted, even when there is no room for another.
#[tokio::test]
async fn what_is_in_use_is_never_evicted() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    let mut readers = Vec::new();
    for seed in 0..6 {
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
        readers.push((store.blobs.load(&digest).await.unwrap().unwrap(), digest, bytes));
    }
    let (arriving, _) = content(100, 3 * MIB as usize);
    let writer = store.blobs.write(&arriving, Some(3 * MIB)).await.unwrap();
    let (more, bytes) = content(101, 2 * MIB as usize);
    for _ in 0..2 {
        assert!(matches!(put(&store, &more, &bytes).await, Err(Error::Full { .. })));
    }
    assert_eq!((store.usage().full, store.usage().evicted), (2, 0));
    for (mut reader, digest, bytes) in readers {
        assert!(blob_path(root.path(), &digest).exists());
        assert_eq!(drain(&mut reader).await.0, bytes);
    }
    // It is not read any more: the same write finds room.
    put(&store, &more, &bytes).await.unwrap();
    assert!(blob_path(root.path(), &more).exists());
    drop(writer);
}

/// A disk that hangs in an eviction keeps no reader waiting that needs no disk, not even one of the same blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_in_an_eviction_holds_no_lock() {
    let root = tempdir().unwrap();
    let faults = Faults::default();
    let store = Store::open_on(Settings { capacity: 10 * MIB, ..settings(root.path()) }, faults.clone()).unwrap();
    until("the index is there", || store.usage().index_ready).await;
    let mut blobs = Vec::new();
    for seed in 0..8 {
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
        blobs.push(digest);
    }
    let (enter, mut entered) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    faults.before(Call::Rename, 0, move || {
        enter.send(()).unwrap();
        let _ = released.recv();
    });
    let (digest, bytes) = content(9, 3 * MIB as usize);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { put(&store, &digest, &bytes).await }
    });
    entered.recv().await.unwrap();
    let looking = tokio::task::spawn_blocking({
        let store = store.clone();
        move || blobs.iter().filter(|digest| store.blobs.now(digest).is_some()).count()
    });
    let looked = tokio::time::timeout(Duration::from_secs(10), looking).await;
    release.send(()).unwrap();
    assert_eq!(looked.expect("a look in memory waits for the disk").unwrap(), 0);
    writing.await.unwrap().unwrap();
    assert!(store.usage().evicted > 0);
}

/// What can never fit evicts nothing.
#[tokio::test]
async fn a_blob_larger_than_the_capacity_evicts_nothing() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    let (digest, bytes) = content(0, MIB as usize);
    put(&store, &digest, &bytes).await.unwrap();
    let (huge, _) = content(1, 1);
    assert!(
        matches!(store.blobs.write(&huge, Some(11 * MIB)).await, Err(Error::Full { needed }) if needed == 11 * MIB)
    );
    assert!(blob_path(root.path(), &digest).exists());
    assert!(names(root.path().join("partial")).is_empty());
}

/// Manifests are what Hub bills: no number of blobs displaces one.
#[tokio::test]
async fn blobs_never_displace_manifests() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    for seed in 0..50 {
        store.cache.manifests.put(&manifest(seed)).await.unwrap();
    }
    for seed in 0..30 {
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
    }
    assert!(store.usage().evicted > 0);
    assert_eq!(store.usage().manifests, 50);
    for seed in 0..50 {
        assert!(store.cache.manifests.load(&manifest(seed).digest).await.unwrap().is_some(), "{seed}");
    }
}

/// Manifests in turn have a tenth of the capacity and no more.
#[tokio::test]
async fn manifests_keep_to_their_share() {
    let root = tempdir().unwrap();
    let store = Store::open(Settings { capacity: 100_000, ..settings(root.path()) }).unwrap();
    for seed in 0..500 {
        store.cache.manifests.put(&manifest(seed)).await.unwrap();
    }
    until("the housekeeper has been", || store.usage().manifest_bytes <= 10_000).await;
    assert!(store.usage().manifests > 50);
}

/// What is not being filled goes before what may be asked for.
#[tokio::test]
async fn partial_files_go_first() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    let (kept, bytes) = content(0, 4 * MIB as usize);
    put(&store, &kept, &bytes).await.unwrap();
    let (broken, bytes) = content(1, 4 * MIB as usize);
    let mut writer = store.blobs.write(&broken, Some(4 * MIB)).await.unwrap();
    writer.append(bytes.slice(..3 << 20)).await.unwrap();
    writer.abandon("upstream broke".into(), true).await;
    assert_eq!(store.usage().partial_bytes, 3 * MIB);
    let (next, bytes) = content(2, 4 * MIB as usize);
    put(&store, &next, &bytes).await.unwrap();
    assert!(blob_path(root.path(), &kept).exists());
    assert_eq!(store.usage().partial_bytes, 0);
    assert!(names(root.path().join("partial")).is_empty());
}

/// Once the size is known no more is reserved than that, and what cannot fit is refused then.
#[tokio::test]
async fn an_announced_size_is_what_is_reserved() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    let (digest, bytes) = content(0, 1000);
    let mut writer = store.blobs.write(&digest, None).await.unwrap();
    writer.announce(1000).await.unwrap();
    assert_eq!(store.usage().partial_bytes, 1000);
    writer.append(bytes).await.unwrap();
    writer.commit().await.unwrap();
    let (huge, _) = content(1, 1);
    let mut writer = store.blobs.write(&huge, None).await.unwrap();
    assert!(matches!(writer.announce(11 * MIB).await, Err(Error::Full { .. })));
    drop(writer);
    until("nothing is left of it", || nothing_partial(&store, root.path())).await;
    assert_eq!(store.usage().blobs, 1);
}

/// A full disk shows before the first byte, is no panic and no absence, and heals by itself.
#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (old, bytes) = content(0, MIB as usize);
    put(&store, &old, &bytes).await.unwrap();
    let (digest, bytes) = content(1, MIB as usize);
    faults.fail(Call::Reserve, 0, 100, ENOSPC);
    assert!(matches!(store.blobs.write(&digest, Some(MIB)).await, Err(Error::Full { .. })));
    // The first refusal made room; here that did not help.
    assert_eq!((store.usage().full, store.usage().evicted), (1, 1));
    assert!(names(root.path().join("partial")).is_empty());
    faults.heal();
    put(&store, &digest, &bytes).await.unwrap();
    // One refusal that eviction does help is not noticed.
    faults.fail(Call::Reserve, 0, 1, ENOSPC);
    let (digest, bytes) = content(2, MIB as usize);
    put(&store, &digest, &bytes).await.unwrap();
    assert_eq!(store.usage().full, 1);
}

/// A disk that others fill up in the middle of a blob costs an eviction and not the blob.
#[tokio::test]
async fn a_disk_that_fills_up_for_a_moment_stops_no_reader() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (digest, bytes) = content(1, MIB as usize);
    let mut writer = store.blobs.write(&digest, Some(MIB)).await.unwrap();
    let mut reader = writer.reader();
    faults.fail(Call::Write, 0, 1, ENOSPC);
    writer.append(bytes.clone()).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(drain(&mut reader).await.0, bytes);
}

/// A disk that fills up in the middle stops the readers and keeps nothing.
#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_gives_its_bytes_back() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (digest, bytes) = content(1, MIB as usize);
    let mut writer = store.blobs.write(&digest, Some(MIB)).await.unwrap();
    let mut reader = writer.reader();
    // One failure is made good by an eviction, two are not.
    faults.fail(Call::Write, 0, 2, ENOSPC);
    writer.append(bytes.clone()).await.unwrap();
    assert!(drain(&mut reader).await.1.is_err());
    assert!(matches!(writer.append(bytes.clone()).await, Err(Error::Full { .. })));
    drop(writer);
    until("nothing is left of it", || nothing_partial(&store, root.path())).await;
    assert_eq!(store.usage().full, 1);
    // Small files make room and are tried again.
    faults.fail(Call::Write, 0, 1, ENOSPC);
    store.cache.manifests.put(&manifest(1)).await.unwrap();
    faults.fail(Call::Write, 0, 2, ENOSPC);
    assert!(matches!(store.cache.manifests.put(&manifest(2)).await, Err(Error::Full { .. })));
    faults.fail(Call::Create, 0, 2, ENOSPC);
    assert!(matches!(
        store.cache.members.add(&source("a"), std::slice::from_ref(&digest)).await,
        Err(Error::Full { .. })
    ));
    put(&store, &digest, &bytes).await.unwrap();
}

/// After a start everything is counted again, and what was not asked for in the last run goes first.
#[tokio::test]
async fn eviction_remembers_across_a_start() {
    let root = tempdir().unwrap();
    let store = narrow(root.path());
    for seed in 0..8 {
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
    }
    let (loved, _) = content(0, MIB as usize);
    for _ in 0..50 {
        store.blobs.load(&loved).await.unwrap().unwrap();
    }
    until("the index is there", || store.usage().index_ready).await;
    store.close().await;
    drop(store);
    let store = narrow(root.path());
    until("the index is there", || store.usage().index_ready).await;
    assert_eq!((store.usage().blobs, store.usage().blob_bytes), (8, 8 * MIB));
    for seed in 20..30 {
        let (digest, bytes) = content(seed, MIB as usize);
        put(&store, &digest, &bytes).await.unwrap();
    }
    assert!(store.blobs.load(&loved).await.unwrap().is_some());
}

/// A partial file past its time is swept at start, and so is what was on its way.
#[tokio::test]
async fn old_leftovers_are_swept_at_start() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 100_000);
    let mut writer = store.blobs.write(&digest, Some(100_000)).await.unwrap();
    writer.append(bytes.slice(..50_000)).await.unwrap();
    writer.abandon("upstream broke".into(), true).await;
    drop(store);
    std::fs::write(root.path().join("partial/record.7"), b"x").unwrap();
    std::fs::write(root.path().join("partial/what is this"), b"x").unwrap();
    let store = open(root.path());
    assert_eq!(names(root.path().join("partial")).len(), 1);
    drop(store);
    let hour = std::time::Duration::from_secs(3600);
    let file = std::fs::File::options()
        .write(true)
        .open(root.path().join("partial").join(&names(root.path().join("partial"))[0]));
    file.unwrap().set_modified(std::time::SystemTime::now() - 25 * hour).unwrap();
    let store = open(root.path());
    assert!(names(root.path().join("partial")).is_empty());
    assert_eq!(store.usage().partial_bytes, 0);
}
