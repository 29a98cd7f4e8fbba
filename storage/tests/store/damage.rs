//! Files that rot, and an index that is hurt: found, put aside, and made good.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::tempdir;
use weir_storage::{Call, Error, HOLD_BACK, Settings, Store, oci::Digest};

use crate::{
    EIO, blob_path, content, drain, names, next, open, open_faulty, put, settings,
    small::{manifest, record},
    source, until,
};

pub(crate) async fn filled(root: &Path) -> Vec<Digest> {
    let store = open(root);
    let mut digests = Vec::new();
    for seed in 0..20 {
        let (digest, bytes) = content(seed, 2000);
        put(&store, &digest, &bytes).await.unwrap();
        digests.push(digest);
        store.cache.manifests.put(&manifest(seed)).await.unwrap();
        let source = source(&format!("library/r{seed:02}"));
        store.cache.tags.put(&source, &"latest".parse().unwrap(), &record(&manifest(seed).digest)).await.unwrap();
    }
    until("the index is there", || store.usage().index_ready).await;
    store.close().await;
    digests
}

async fn check(root: &Path, digests: &[Digest], what: &str) {
    let store = open(root);
    // Answers do not wait for the index.
    for (seed, digest) in digests.iter().enumerate() {
        assert!(store.blobs.load(digest).await.unwrap().is_some(), "{what}");
        let source = source(&format!("library/r{seed:02}"));
        assert_eq!(
            store.cache.tags.load(&source, &"latest".parse().unwrap()).await.unwrap(),
            Some(record(&manifest(seed as u64).digest))
        );
    }
    assert_eq!(store.index.catalog().await.unwrap().len(), digests.len(), "{what}");
    until("the index is there", || store.usage().index_ready).await;
    assert_eq!(store.index.catalog().await.unwrap().len(), digests.len(), "{what}");
    assert_eq!((store.usage().blobs, store.usage().manifests), (20, 20), "{what}");
    store.close().await;
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in names(path) {
        let path = path.join(name);
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn files_of(path: &Path) -> Vec<PathBuf> {
    files(path)
}

/// Invariant 8: however sled is damaged, nothing panics out, nothing is lost, and the index comes back.
#[tokio::test]
async fn losing_the_index_loses_nothing() {
    let root = tempdir().unwrap();
    let digests = filled(root.path()).await;
    check(root.path(), &digests, "unhurt").await;
    assert!(!names(root.path()).iter().any(|name| name.starts_with("index.bad-")), "it was trusted");
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("a flipped bit at the front", |bytes| flip(bytes, 1, 20)),
        ("a flipped bit in the middle", |bytes| flip(bytes, 1, 2)),
        ("a flipped bit at the back", |bytes| flip(bytes, 19, 20)),
        ("a zeroed page", |bytes| {
            let end = bytes.len().min(4096);
            bytes[..end].fill(0);
        }),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", |bytes| bytes.clear()),
    ];
    for (what, damage) in damages {
        for path in files(&root.path().join("index")) {
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
        }
        check(root.path(), &digests, what).await;
    }
    for path in files(&root.path().join("index")) {
        std::fs::remove_file(path).unwrap();
    }
    check(root.path(), &digests, "its files are gone").await;
    std::fs::remove_dir_all(root.path().join("index")).unwrap();
    check(root.path(), &digests, "it is gone").await;
    std::fs::write(root.path().join("index.sentinel"), b"weir9 00000000\n{}").unwrap();
    check(root.path(), &digests, "its sentinel is of the future").await;
    let bad = names(root.path()).iter().filter(|name| name.starts_with("index.bad-")).count();
    assert_eq!(bad, 1, "one is kept to look at, not all");
}

/// An index that opens, and has fewer entries than it must have, is not trusted: sled opens a file that was cut as empty.
#[tokio::test]
async fn an_index_that_lost_entries_is_made_anew() {
    let root = tempdir().unwrap();
    let digests = filled(root.path()).await;
    let path = root.path().join("index.sentinel");
    let sealed = std::fs::read_to_string(&path).unwrap();
    let mut sentinel: serde_json::Value = serde_json::from_str(sealed.split_once('\n').unwrap().1).unwrap();
    for count in ["objects", "sources"] {
        sentinel[count] = (sentinel[count].as_u64().unwrap() + 1).into();
        let json = sentinel.to_string();
        std::fs::write(&path, format!("weir1 {:08x}\n{json}", crc32fast::hash(json.as_bytes()))).unwrap();
        check(root.path(), &digests, count).await;
        let bad = names(root.path()).into_iter().find(|name| name.starts_with("index.bad-"));
        std::fs::remove_dir_all(root.path().join(bad.expect(count))).unwrap();
        let sealed = std::fs::read_to_string(&path).unwrap();
        sentinel = serde_json::from_str(sealed.split_once('\n').unwrap().1).unwrap();
    }
}

/// What is here and not in the index, since the process was killed before it was written, is written after the next start.
#[tokio::test]
async fn an_index_takes_up_what_is_here_and_not_in_it() {
    let root = tempdir().unwrap();
    let digests = filled(root.path()).await;
    let sentinel = || -> serde_json::Value {
        let sealed = std::fs::read_to_string(root.path().join("index.sentinel")).unwrap();
        serde_json::from_str(sealed.split_once('\n').unwrap().1).unwrap()
    };
    let before = sentinel()["objects"].as_u64().unwrap();
    let (digest, bytes) = content(100, 2000);
    let path = blob_path(root.path(), &digest);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let store = open(root.path());
    until("the index is there", || store.usage().index_ready).await;
    store.close().await;
    assert_eq!((before, sentinel()["objects"].as_u64()), (2 * digests.len() as u64, Some(before + 1)));
}

fn flip(bytes: &mut [u8], part: usize, of: usize) {
    let at = bytes.len() * part / of;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
}

/// Invariant 1: what rotted between two runs is never complete for any reader; it is put aside and absent, and can be put again.
#[tokio::test]
async fn a_blob_that_rotted_is_never_given_whole() {
    for (length, at) in [(1000, 0), (1000, 999), (HOLD_BACK as usize + 1, 0), (3 << 20, 5), (3 << 20, (3 << 20) - 1)] {
        let root = tempdir().unwrap();
        let (digest, bytes) = content(1, length);
        let store = open(root.path());
        put(&store, &digest, &bytes).await.unwrap();
        drop(store);
        let path = blob_path(root.path(), &digest);
        let mut rotten = bytes.to_vec();
        rotten[at] ^= 0x80;
        std::fs::write(&path, rotten).unwrap();
        let store = open(root.path());
        if let Some(mut reader) = store.blobs.load(&digest).await.unwrap() {
            let (got, end) = drain(&mut reader).await;
            assert!(end.is_err() && got.len() < length);
        }
        assert!(store.blobs.load(&digest).await.unwrap().is_none());
        assert_eq!(store.usage().quarantined, 1);
        put(&store, &digest, &bytes).await.unwrap();
        assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
    }
}

/// A read that failed says nothing of the bytes: the reader gets the error, the file stays, and the next reading has it.
#[tokio::test]
async fn a_read_error_quarantines_nothing() {
    for length in [1000, 3 << 20] {
        let root = tempdir().unwrap();
        let (digest, bytes) = content(1, length);
        put(&open(root.path()), &digest, &bytes).await.unwrap();
        let (store, faults) = open_faulty(root.path());
        faults.fail(Call::Read, 0, 1, EIO);
        match store.blobs.load(&digest).await {
            Ok(reader) => assert!(drain(&mut reader.unwrap()).await.1.is_err()),
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        assert_eq!(store.usage().quarantined, 0);
        let mut reader = store.blobs.load(&digest).await.unwrap().unwrap();
        assert_eq!(drain(&mut reader).await.0, bytes);
    }
}

/// A sound blob of an earlier run is whole for all who ask for it at once, and hashed once.
#[tokio::test]
async fn a_blob_of_an_earlier_run_is_verified_once() {
    let root = tempdir().unwrap();
    let (digest, bytes) = content(1, 3 << 20);
    let store = open(root.path());
    put(&store, &digest, &bytes).await.unwrap();
    drop(store);
    let store = open(root.path());
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(store.blobs.load(&digest).await.unwrap().unwrap());
    }
    for reader in &mut readers {
        assert_eq!(drain(reader).await.0, bytes);
    }
    drop(readers);
    assert!(store.blobs.load(&digest).await.unwrap().unwrap().is_whole());
    // Who does not want it has it whole at once.
    drop(store);
    let store = Store::open(Settings { verify_on_first_read: false, ..settings(root.path()) }).unwrap();
    assert!(store.blobs.load(&digest).await.unwrap().unwrap().is_whole());
}

/// A file that was changed while the store runs is not given whole: cut, flipped, swapped for another, or gone.
#[tokio::test]
async fn a_file_that_was_changed_in_service_is_not_given_whole() {
    type Damage = fn(&Path, Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("cut", |path, bytes| std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap()),
        ("longer", |path, bytes| std::fs::write(path, [&bytes[..], b"x"].concat()).unwrap()),
        ("emptied", |path, _| std::fs::write(path, b"").unwrap()),
        ("gone", |path, _| std::fs::remove_file(path).unwrap()),
        ("flipped", |path, mut bytes| {
            bytes[5] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("swapped", |path, mut bytes| {
            bytes[5] ^= 1;
            let other = path.with_extension("other");
            std::fs::write(&other, bytes).unwrap();
            std::fs::rename(other, path).unwrap();
        }),
    ];
    for length in [1000, 300_000] {
        for (what, damage) in damages {
            let root = tempdir().unwrap();
            let (store, _) = open_faulty(root.path());
            let (digest, bytes) = content(1, length);
            put(&store, &digest, &bytes).await.unwrap();
            assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
            damage(&blob_path(root.path(), &digest), bytes.to_vec());
            if let Some(mut reader) = store.blobs.load(&digest).await.unwrap() {
                assert_eq!(reader.size(), length as u64, "{what}");
                let (got, end) = drain(&mut reader).await;
                assert!(end.is_err() && got.len() < length, "{what}");
            }
            assert!(store.blobs.load(&digest).await.unwrap().is_none(), "{what}");
            put(&store, &digest, &bytes).await.unwrap();
            assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes, "{what}");
        }
    }
}

/// A blob that is never without a reader is opened again now and then, and its change is seen by its size or its stamp.
#[tokio::test]
async fn a_file_that_changes_under_a_reader_that_never_leaves_is_found_before_the_scrub() {
    for truncated in [false, true] {
        let root = tempdir().unwrap();
        let store = Store::open(Settings { look_again: Duration::ZERO, ..settings(root.path()) }).unwrap();
        let (digest, bytes) = content(1, 300_000);
        put(&store, &digest, &bytes).await.unwrap();
        let mut first = store.blobs.load(&digest).await.unwrap().unwrap();
        let size = first.size();
        assert_eq!(drain(&mut first).await.0, bytes);
        // As long as it is what it was, no reader is disturbed.
        assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
        assert!(next(&mut first, 0, size).await.is_ok());

        let mut changed = bytes.to_vec();
        changed[200_000] ^= 1;
        let length = if truncated { 100_000 } else { changed.len() };
        std::fs::write(blob_path(root.path(), &digest), &changed[..length]).unwrap();
        if let Some(mut second) = store.blobs.load(&digest).await.unwrap() {
            assert!(drain(&mut second).await.1.is_err());
        }
        until("it is put aside", || store.usage().quarantined == 1).await;
        // All who read it still are stopped where they are, a moment after it is put aside.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while next(&mut first, 0, size).await.is_ok() {
            assert!(std::time::Instant::now() < deadline, "the first reader goes on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.blobs.load(&digest).await.unwrap().is_none());
    }
}

/// Files of the store that this process has open.
fn open_files(root: &Path) -> usize {
    let targets = names("/proc/self/fd")
        .into_iter()
        .filter_map(|fd| std::fs::read_link(Path::new("/proc/self/fd").join(fd)).ok());
    targets.filter(|target| target.starts_with(root.join("blobs"))).count()
}

/// After a start every first reading waits to be verified. Those whose readers have left wait without an open file.
#[tokio::test]
async fn blobs_whose_readers_left_before_they_were_verified_hold_no_open_file() {
    let root = tempdir().unwrap();
    let all: Vec<_> = (0..100).map(|seed| content(seed, HOLD_BACK as usize + 1)).collect();
    let store = open(root.path());
    for (digest, bytes) in &all {
        put(&store, digest, bytes).await.unwrap();
    }
    drop(store);
    let (store, faults) = open_faulty(root.path());
    // The threads that verify are held up by a slow disk.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    for number in 0..4 {
        let gate = gate.clone();
        faults.before(Call::Read, number, move || _ = gate.lock().unwrap().recv());
    }
    for (digest, _) in &all {
        drop(store.blobs.load(digest).await.unwrap().unwrap());
    }
    let open = open_files(root.path());
    assert!(open <= 4, "{open} files are open without a reader");
    drop(go);
    for (digest, bytes) in &all {
        assert_eq!(&drain(&mut store.blobs.load(digest).await.unwrap().unwrap()).await.0, bytes);
    }
}

/// A directory of another layout is refused with what to do, and not touched.
#[tokio::test]
async fn a_directory_of_another_version_is_refused() {
    let root = tempdir().unwrap();
    std::fs::write(root.path().join("lock"), "weir layout 2\nprocess 1\n").unwrap();
    let error = Store::open(settings(root.path())).unwrap_err();
    assert!(matches!(&error, Error::Unusable(text) if text.contains("another version")), "{error}");
    assert_eq!(names(root.path()), ["lock"]);
}
