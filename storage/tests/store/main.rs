//! The store through its front door, on real directories, with disks that fail and processes that die.

mod arriving;
mod crash;
mod damage;
mod hosted;
mod images;
mod journal;
mod model;
mod pushes;
mod records;
mod room;
mod scrub;
mod small;

use std::{future::poll_fn, os::unix::fs::FileExt, path::Path, time::Duration};

use bytes::Bytes;
use weir_storage::{
    Error, Extent, Faults, Reader, Settings, Source, Stopped, Store,
    oci::{Algorithm, Digest},
};

/// `errno` of a full disk, and of a broken one.
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;

pub(crate) fn settings(root: &Path) -> Settings {
    Settings { root: root.to_owned(), capacity: 64 << 20, ..Settings::default() }
}

pub(crate) fn open(root: &Path) -> Store {
    Store::open(settings(root)).unwrap()
}

/// With the index open, so that only the test writes: a fault armed earlier could meet the sentinel instead.
pub(crate) fn open_faulty(root: &Path) -> (Store, Faults) {
    let faults = Faults::default();
    let store = Store::open_on(settings(root), faults.clone()).unwrap();
    while !store.usage().index_ready {
        std::thread::yield_now();
    }
    (store, faults)
}

/// `length` bytes that look like no others.
pub(crate) fn content(seed: u64, length: usize) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    (Algorithm::Sha256.digest(&bytes), bytes.into())
}

pub(crate) fn source(repository: &str) -> Source {
    Source {
        upstream: "docker.io".into(),
        credential: Source::ANONYMOUS.into(),
        repository: repository.parse().unwrap(),
    }
}

/// Puts a whole blob.
pub(crate) async fn put(store: &Store, digest: &Digest, bytes: &Bytes) -> Result<(), Error> {
    let mut writer = store.blobs.write(digest, Some(bytes.len() as u64)).await?;
    writer.append(bytes.slice(writer.written() as usize..)).await?;
    writer.commit().await
}

/// The next extent's bytes.
pub(crate) async fn next(reader: &mut Reader, offset: u64, end: u64) -> Result<Bytes, Stopped> {
    match poll_fn(|cx| reader.poll_extent(cx, offset, end)).await? {
        Extent::Bytes(bytes) => Ok(bytes),
        Extent::File { file, offset, length } => {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset).unwrap();
            Ok(bytes.into())
        }
    }
}

/// All bytes from 0 on until the end or the failure, and how it ended.
pub(crate) async fn drain(reader: &mut Reader) -> (Vec<u8>, Result<(), Stopped>) {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < reader.size() {
        match next(reader, bytes.len() as u64, reader.size()).await {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(stopped) => return (bytes, Err(stopped)),
        }
    }
    (bytes, Ok(()))
}

/// Waits until the store says so, at most ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to this: {what}");
}

/// The names in a directory of the store.
pub(crate) fn names(path: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn blob_path(root: &Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    root.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// Walks `blobs/` and hashes everything: what a store believes is no proof.
pub(crate) fn assert_every_blob_is_what_its_name_says(root: &Path) {
    for shard in names(root.join("blobs/sha256")) {
        for name in names(root.join("blobs/sha256").join(&shard)) {
            let bytes = std::fs::read(root.join("blobs/sha256").join(&shard).join(&name)).unwrap();
            assert_eq!(Algorithm::Sha256.digest(&bytes).hex(), name);
        }
    }
}
