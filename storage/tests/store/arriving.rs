//! Blobs while they arrive: what readers get, when, and what is left when it goes wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use tempfile::tempdir;
use weir_storage::{Call, Error, Extent, HOLD_BACK, Reader, Stopped};

use crate::{EIO, assert_every_blob_is_what_its_name_says, content, drain, names, next, open, open_faulty, put, until};

/// Invariant 2: what was put is whole, verified, and under its digest; nothing else is there.
#[tokio::test]
async fn a_blob_that_was_committed_is_in_the_store() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    for (seed, length) in [(1, 0), (2, 1), (3, HOLD_BACK as usize), (4, 300_000), (5, 9 << 20)] {
        let (digest, bytes) = content(seed, length);
        assert!(store.blobs.load(&digest).await.unwrap().is_none());
        put(&store, &digest, &bytes).await.unwrap();
        let mut reader = store.blobs.load(&digest).await.unwrap().unwrap();
        assert_eq!((reader.size(), store.blobs.size(&digest).await.unwrap()), (length as u64, Some(length as u64)));
        assert_eq!(drain(&mut reader).await.0, bytes);
        assert!(reader.is_whole());
    }
    assert_eq!(store.usage().blobs, 5);
    assert_eq!(store.usage().partial_bytes, 0);
    assert!(names(root.path().join("partial")).is_empty());
    assert_every_blob_is_what_its_name_says(root.path());
}

/// Invariant 1: the last bytes are withheld until the digest is verified, and then released.
#[tokio::test]
async fn the_last_bytes_wait_for_the_digest() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 1 << 20);
    let size = bytes.len() as u64;
    let mut writer = store.blobs.write(&digest, Some(size)).await.unwrap();
    let arriving = writer.arriving();
    let mut reader = writer.reader();
    writer.append(bytes.clone()).await.unwrap();
    until("all but the last bytes are readable", || reader.readable() == size - HOLD_BACK).await;
    assert!(!reader.is_whole());
    assert_eq!(next(&mut reader, 0, size).await.unwrap(), bytes[..bytes.len() - HOLD_BACK as usize]);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(reader.poll_extent(&mut cx, size - HOLD_BACK, size).is_pending());
    // A range is no way around it.
    assert!(writer.reader().poll_extent(&mut cx, size - 1, size).is_pending());
    writer.commit().await.unwrap();
    assert_eq!(next(&mut reader, size - 1, size).await.unwrap(), bytes[bytes.len() - 1..]);
    assert!(reader.is_whole() && arriving.readable() == size);
    assert_eq!(drain(&mut arriving.reader()).await.0, bytes);
}

/// Invariant 1, where upstream did not say how large it is: the newest bytes are withheld, and the end is known at last.
#[tokio::test]
async fn of_an_unknown_size_the_newest_bytes_wait() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 1 << 20);
    let mut writer = store.blobs.write(&digest, None).await.unwrap();
    let mut reader = writer.reader();
    assert_eq!(reader.size(), u64::MAX);
    writer.append(bytes.slice(..500_000)).await.unwrap();
    until("all but the newest are readable", || reader.readable() == 500_000 - HOLD_BACK).await;
    writer.append(bytes.slice(500_000..)).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(reader.size(), bytes.len() as u64);
    assert_eq!(drain(&mut reader).await.0, bytes);
    // Who asked for more learns that there is none.
    assert!(next(&mut reader, bytes.len() as u64, u64::MAX).await.unwrap().is_empty());
}

/// A follower has the first byte as soon as it is here, long before the fill is over.
#[tokio::test]
async fn readers_have_the_first_byte_at_once_and_go_at_their_own_pace() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 2 << 20);
    let size = bytes.len() as u64;
    let mut writer = store.blobs.write(&digest, Some(size)).await.unwrap();
    let (mut fast, mut slow) = (writer.reader(), writer.reader());
    let first = tokio::spawn(async move { (next(&mut fast, 0, size).await.unwrap(), fast) });
    tokio::task::yield_now().await;
    writer.append(bytes.slice(..1)).await.unwrap();
    let (piece, mut fast) = first.await.unwrap();
    assert_eq!(piece, bytes[..1]);
    for at in (1..bytes.len()).step_by(10_000) {
        writer.append(bytes.slice(at..bytes.len().min(at + 10_000))).await.unwrap();
    }
    let draining = tokio::spawn(async move { drain(&mut fast).await.0 });
    writer.commit().await.unwrap();
    assert_eq!(draining.await.unwrap(), bytes);
    assert_eq!(drain(&mut slow).await.0, bytes);
}

/// Invariants 1 and 2: bytes that do not match are never complete for any reader, and nothing is kept of them.
#[tokio::test]
async fn a_corrupt_blob_fails_its_readers_and_leaves_nothing() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 400_000);
    for flip in [0, 200_000, 399_999] {
        let mut bad = bytes.to_vec();
        bad[flip] ^= 1;
        let mut writer = store.blobs.write(&digest, Some(400_000)).await.unwrap();
        let mut reader = writer.reader();
        let reading = tokio::spawn(async move { drain(&mut reader).await });
        writer.append(bad.into()).await.unwrap();
        assert!(matches!(writer.commit().await, Err(Error::DigestMismatch { .. })));
        let (got, end) = reading.await.unwrap();
        assert!(end.is_err() && got.len() as u64 <= 400_000 - HOLD_BACK);
        assert!(store.blobs.load(&digest).await.unwrap().is_none());
        assert!(names(root.path().join("partial")).is_empty());
        assert_eq!(store.usage().partial_bytes, 0);
    }
    put(&store, &digest, &bytes).await.unwrap();
    assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
}

/// Invariant 1: a body of the wrong length is no blob, whichever way it is wrong.
#[tokio::test]
async fn more_or_fewer_bytes_than_announced_are_refused() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 100_000);
    let mut short = store.blobs.write(&digest, Some(100_001)).await.unwrap();
    short.append(bytes.clone()).await.unwrap();
    assert!(matches!(short.commit().await, Err(Error::WrongSize { expected: 100_001, actual: 100_000, .. })));
    let mut long = store.blobs.write(&digest, Some(99_999)).await.unwrap();
    let mut reader = long.reader();
    long.append(bytes.clone()).await.unwrap();
    assert!(drain(&mut reader).await.1.is_err());
    assert!(matches!(long.append(bytes.clone()).await, Err(Error::WrongSize { .. })));
    assert!(matches!(long.commit().await, Err(Error::WrongSize { .. })));
    let mut twice = store.blobs.write(&digest, Some(100_000)).await.unwrap();
    twice.announce(100_000).await.unwrap();
    assert!(matches!(twice.announce(5).await, Err(Error::WrongSize { .. })));
    let mut late = store.blobs.write(&digest, None).await.unwrap();
    late.announce(100_000).await.unwrap();
    late.append(bytes.slice(late.written() as usize..)).await.unwrap();
    late.commit().await.unwrap();
    assert!(store.blobs.load(&digest).await.unwrap().is_some());
}

/// Invariant 4: readers learn at once that the writer is gone, and what came is resumed by the next.
#[tokio::test]
async fn what_a_dropped_writer_left_is_resumed() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 1 << 20);
    let size = bytes.len() as u64;
    let mut writer = store.blobs.write(&digest, Some(size)).await.unwrap();
    let mut reader = writer.reader();
    writer.append(bytes.slice(..600_000)).await.unwrap();
    drop(writer);
    assert!(drain(&mut reader).await.1.is_err());
    until("the partial file waits", || store.usage().partial_bytes == 600_000).await;
    // A start in between changes nothing.
    drop((store, reader));
    let store = open(root.path());
    assert_eq!(store.usage().partial_bytes, 600_000);
    let mut writer = store.blobs.write(&digest, Some(size)).await.unwrap();
    assert_eq!(writer.written(), 600_000);
    // What is resumed is readable before a byte has come.
    assert_eq!(next(&mut writer.reader(), 0, size).await.unwrap(), bytes[..600_000]);
    // Another writer of the same digest begins at 0, and both may commit.
    let mut other = store.blobs.write(&digest, Some(size)).await.unwrap();
    assert_eq!(other.written(), 0);
    writer.append(bytes.slice(600_000..)).await.unwrap();
    other.append(bytes.clone()).await.unwrap();
    writer.commit().await.unwrap();
    other.commit().await.unwrap();
    assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
    assert_eq!((store.usage().blobs, store.usage().blob_bytes, store.usage().partial_bytes), (1, size, 0));
}

/// A partial file that rotted costs one attempt and nothing else.
#[tokio::test]
async fn a_partial_file_longer_than_the_blob_is_not_adopted() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 100_000);
    let mut writer = store.blobs.write(&digest, None).await.unwrap();
    writer.append(content(2, 300_000).1).await.unwrap();
    writer.abandon("cut".into(), true).await;
    let writer = store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
    assert_eq!(writer.written(), 0);
    drop(writer);
    put(&store, &digest, &bytes).await.unwrap();
}

#[tokio::test]
async fn a_bad_partial_file_is_not_resumed_twice() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 300_000);
    let mut writer = store.blobs.write(&digest, Some(300_000)).await.unwrap();
    writer.append(Bytes::from(vec![7; 200_000])).await.unwrap();
    writer.abandon("upstream broke".into(), true).await;
    let mut writer = store.blobs.write(&digest, Some(300_000)).await.unwrap();
    assert_eq!(writer.written(), 200_000);
    writer.append(bytes.slice(200_000..)).await.unwrap();
    assert!(matches!(writer.commit().await, Err(Error::DigestMismatch { .. })));
    put(&store, &digest, &bytes).await.unwrap();
}

/// Giving up tells the readers why; keeping the file is the caller's choice.
#[tokio::test]
async fn an_abandoned_blob_tells_its_readers_why() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 300_000);
    let mut writer = store.blobs.write(&digest, Some(300_000)).await.unwrap();
    let mut reader = writer.reader();
    writer.append(bytes.slice(..100_000)).await.unwrap();
    writer.abandon("upstream broke".into(), false).await;
    assert_eq!(&*drain(&mut reader).await.1.unwrap_err().0, "upstream broke");
    assert!(names(root.path().join("partial")).is_empty());
    assert_eq!(store.blobs.write(&digest, None).await.unwrap().written(), 0);
}

/// Invariant 2: a file appears under `blobs/` after its sync and not without it.
#[tokio::test]
async fn a_blob_that_cannot_be_synced_is_not_kept() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (digest, bytes) = content(1, 300_000);
    faults.fail(Call::Sync, 0, 1, EIO);
    let mut writer = store.blobs.write(&digest, Some(300_000)).await.unwrap();
    let mut reader = writer.reader();
    writer.append(bytes.clone()).await.unwrap();
    assert!(matches!(writer.commit().await, Err(Error::Io { call: "sync", .. })));
    // The bytes were right, so those who waited have them.
    assert_eq!(drain(&mut reader).await.0, bytes);
    assert!(store.blobs.load(&digest).await.unwrap().is_none());
    assert!(names(root.path().join("partial")).is_empty());
    put(&store, &digest, &bytes).await.unwrap();
}

/// Invariant 2: whichever call fails, what is under `blobs/` is whole, and the next attempt works.
#[tokio::test]
async fn whichever_call_fails_the_store_stays_sound() {
    let (digest, bytes) = content(1, 300_000);
    let calls = [
        Call::Create,
        Call::Write,
        Call::Sync,
        Call::Rename,
        Call::Reserve,
        Call::Space,
        Call::Truncate,
        Call::Remove,
        Call::MakeDirectory,
    ];
    for call in calls {
        for skip in 0..3 {
            let root = tempdir().unwrap();
            let (store, faults) = open_faulty(root.path());
            faults.fail(call, skip, 1, EIO);
            let failed = put(&store, &digest, &bytes).await.is_err();
            let there = store.blobs.load(&digest).await.unwrap().is_some();
            assert!(failed != there, "{call:?} {skip}: failed {failed}, there {there}");
            faults.heal();
            put(&store, &digest, &bytes).await.unwrap();
            assert_every_blob_is_what_its_name_says(root.path());
        }
    }
}

/// Invariant 5: a disk that fails is an error and not an absence.
#[tokio::test]
async fn a_failure_is_not_an_absence() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let (digest, _) = content(1, 10);
    let (source, tag) = (crate::source("a/b"), "latest".parse().unwrap());
    assert!(store.blobs.load(&digest).await.unwrap().is_none() && store.blobs.size(&digest).await.unwrap().is_none());
    faults.fail(Call::Open, 0, 100, EIO);
    faults.fail(Call::Stat, 0, 100, EIO);
    assert!(store.blobs.load(&digest).await.is_err());
    assert!(store.blobs.size(&digest).await.is_err());
    assert!(store.cache.manifests.load(&digest).await.is_err());
    assert!(store.cache.tags.load(&source, &tag).await.is_err());
    assert!(store.cache.listings.load(&source, "tags").await.is_err());
    assert!(store.cache.members.load(&source, &digest).await.is_err());
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Invariant 4: a thousand readers are woken a bounded number of times, however small the pieces are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_pieces_do_not_wake_a_thousand_readers_each() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let (digest, bytes) = content(1, 4 << 20);
    let size = bytes.len() as u64;
    let mut writer = store.blobs.write(&digest, Some(size)).await.unwrap();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut readers: Vec<Reader> = (0..1000).map(|_| writer.reader()).collect();
    let started = std::time::Instant::now();
    for at in (0..bytes.len()).step_by(4096) {
        for reader in &mut readers {
            let from = reader.readable();
            assert!(
                from == size
                    || reader.poll_extent(&mut Context::from_waker(&waker), from, size).is_pending()
                    || reader.readable() > from
            );
        }
        writer.append(bytes.slice(at..at + 4096)).await.unwrap();
    }
    writer.commit().await.unwrap();
    let most = started.elapsed().as_millis() as usize / 20 + 4;
    let woken = count.0.load(Ordering::SeqCst);
    assert!(woken <= most * 1000, "{woken} wake-ups for {most} intervals");
    for reader in &mut readers {
        assert!(reader.poll_extent(&mut Context::from_waker(&waker), size - 1, size).is_ready());
    }
}

/// Bytes that pass through come once, in order, and an early end is a failure.
#[tokio::test]
async fn what_passes_through_comes_in_order() {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut reader = Reader::passing(100, 10, receiver);
    sender.send(Ok(Bytes::from_static(b"0123456789"))).await.unwrap();
    sender.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
    assert_eq!(next(&mut reader, 10, 14).await.unwrap(), "0123");
    assert_eq!(next(&mut reader, 16, 100).await.unwrap(), "6789");
    assert!(next(&mut reader, 10, 14).await.is_err());
    assert_eq!(next(&mut reader, 20, 100).await.unwrap(), "abc");
    drop(sender);
    assert!(next(&mut reader, 23, 100).await.is_err());
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(Err(Stopped("gone".into()))).await.unwrap();
    let mut reader = Reader::passing(100, 0, receiver);
    match reader.poll_extent(&mut Context::from_waker(Waker::noop()), 0, 100) {
        Poll::Ready(Err(Stopped(why))) => assert_eq!(&*why, "gone"),
        Poll::Ready(Ok(Extent::File { .. } | Extent::Bytes(_))) | Poll::Pending => panic!("it stopped"),
    }
}

/// A process may end after the last byte and before the commit: what is here is all there is to fetch. More than that is another blob.
#[tokio::test]
async fn a_partial_that_has_every_byte_is_committed_and_one_that_has_more_is_not() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    for (seed, size, fits) in [(1, 300_000, true), (2, 299_999, false)] {
        let (digest, bytes) = content(seed, 300_000);
        let mut writer = store.blobs.write(&digest, None).await.unwrap();
        writer.append(bytes).await.unwrap();
        writer.abandon("the process ends".into(), true).await;
        let mut writer = store.blobs.write(&digest, None).await.unwrap();
        assert_eq!(writer.written(), 300_000);
        assert_eq!(writer.announce(size).await.is_ok(), fits, "{size}");
        if fits {
            writer.commit().await.unwrap();
            assert_eq!(store.blobs.size(&digest).await.unwrap(), Some(300_000));
        }
    }
}
