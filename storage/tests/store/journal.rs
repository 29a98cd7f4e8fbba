//! Journals: what was appended is there after a crash, and only that.

use bytes::Bytes;
use tempfile::tempdir;
use weir_storage::{Call, Store};

use crate::{EIO, open, open_faulty};

fn reopened(root: &std::path::Path) -> (Store, Vec<Bytes>) {
    let store = open(root);
    let records = store.journals.open("ledger").unwrap().replay().unwrap();
    (store, records)
}

/// Invariant 8: what is in a journal is a file, in order, and there after a start.
#[tokio::test]
async fn records_come_back_in_order() {
    let root = tempdir().unwrap();
    let store = open(root.path());
    let journal = store.journals.open("ledger").unwrap();
    assert!(journal.replay().unwrap().is_empty());
    for n in 0..100 {
        journal.append(format!("record {n}").as_bytes()).await.unwrap();
    }
    journal.append(b"").await.unwrap();
    assert_eq!(store.journals.open("ledger").unwrap().replay().unwrap().len(), 101);
    assert!(store.journals.open("bans").unwrap().replay().unwrap().is_empty());
    assert!(store.journals.open("../x").is_err());
    drop((store, journal));
    let (_store, records) = reopened(root.path());
    assert_eq!((records.len(), &*records[42], &*records[100]), (101, &b"record 42"[..], &b""[..]));
}

/// Many who append at once share their syncs and lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_append_at_once_share_a_sync() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let journal = store.journals.open("ledger").unwrap();
    // Were each append a sync of its own, the hundredth would fail.
    faults.fail(Call::Sync, 100, u32::MAX, EIO);
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.append(format!("{n}").as_bytes()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    faults.heal();
    assert_eq!(journal.replay().unwrap().len(), 400);
}

/// A torn tail is dropped, wherever it is torn, and what comes after it is appended to what is sound.
#[tokio::test]
async fn a_torn_tail_is_dropped_and_the_rest_goes_on() {
    let root = tempdir().unwrap();
    let path = root.path().join("journals/ledger");
    let store = open(root.path());
    let journal = store.journals.open("ledger").unwrap();
    for record in [&b"one"[..], b"two", b"three"] {
        journal.append(record).await.unwrap();
    }
    drop((store, journal));
    let whole = std::fs::read(&path).unwrap();
    let second = whole.len() - (8 + 5);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut longer = whole.clone();
    longer.extend([0; 4096]);
    let mut absurd = whole.clone();
    absurd.extend([0xff; 12]);
    let cases = [
        (whole[..whole.len() - 1].to_vec(), 2),
        (whole[..second + 3].to_vec(), 2),
        (flipped, 2),
        (absurd, 3),
        (whole.clone(), 3),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let (store, records) = reopened(root.path());
        assert_eq!(records.len(), expected);
        let journal = store.journals.open("ledger").unwrap();
        journal.append(b"after").await.unwrap();
        drop((store, journal));
        let (_store, records) = reopened(root.path());
        assert_eq!((records.len(), &records.last().unwrap()[..]), (expected + 1, &b"after"[..]));
    }
    // Zeros are what a power cut leaves; an empty record of checksum zero is not a record.
    std::fs::write(&path, longer).unwrap();
    assert_eq!(reopened(root.path()).1.len(), 3);
}

/// What cannot be read as a journal at all is put aside and not written over.
#[tokio::test]
async fn what_is_no_journal_is_put_aside() {
    let root = tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("journals")).unwrap();
    std::fs::write(root.path().join("journals/ledger"), b"something else, and long enough for a first line......")
        .unwrap();
    let (store, records) = reopened(root.path());
    assert!(records.is_empty());
    assert!(root.path().join("journals/ledger.bad").exists());
    store.journals.open("ledger").unwrap().append(b"one").await.unwrap();
}

/// Compaction replaces all or nothing.
#[tokio::test]
async fn compaction_replaces_everything_at_once() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let journal = store.journals.open("ledger").unwrap();
    for n in 0..10 {
        journal.append(&[n]).await.unwrap();
    }
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
        faults.fail(call, 0, 1, EIO);
        assert!(journal.compact(vec![Bytes::from_static(b"sum")]).await.is_err(), "{call:?}");
        assert_eq!(journal.replay().unwrap().len(), 10);
    }
    journal.append(&[10]).await.unwrap();
    assert_eq!(journal.replay().unwrap().len(), 11);
    journal.compact(vec![Bytes::from_static(b"sum")]).await.unwrap();
    journal.append(b"after").await.unwrap();
    drop((store, journal));
    let (_store, records) = reopened(root.path());
    assert_eq!(records, ["sum", "after"]);
}

/// What is appended after a compaction that renamed its file and could not sync the directory is in the file of that name.
#[tokio::test]
async fn an_append_after_a_compaction_that_failed_halfway_is_not_lost() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let journal = store.journals.open("ledger").unwrap();
    journal.append(b"one").await.unwrap();
    // The first sync is that of the data, the second that of the directory.
    faults.fail(Call::Sync, 1, 1, EIO);
    assert!(journal.compact(vec![Bytes::from_static(b"sum")]).await.is_err());
    journal.append(b"after").await.unwrap();
    drop((store, journal));
    let (_store, records) = reopened(root.path());
    assert_eq!(records, ["sum", "after"]);
}

/// A failed append is an error, and does not spoil what comes before or after it.
#[tokio::test]
async fn a_failed_append_is_an_error_and_leaves_the_journal_sound() {
    let root = tempdir().unwrap();
    let (store, faults) = open_faulty(root.path());
    let journal = store.journals.open("ledger").unwrap();
    journal.append(b"one").await.unwrap();
    faults.fail(Call::Write, 0, 1, EIO);
    assert!(journal.append(b"lost").await.is_err());
    faults.fail(Call::Sync, 0, 1, EIO);
    assert!(journal.append(b"doubtful").await.is_err());
    journal.append(b"two").await.unwrap();
    drop((store, journal));
    let (_store, records) = reopened(root.path());
    assert_eq!(records.first().unwrap(), "one");
    assert_eq!(records.last().unwrap(), "two");
    assert!(!records.contains(&Bytes::from_static(b"lost")));
}
