//! The files of an archive that is exported, and how they are sent: hashed on the way, in pieces, with a bound on what waits.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{sleep, timeout},
};
use weir_storage::Store;

use crate::{
    archive::{self, BLOCK, END, blob_path},
    oci::Digest,
};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// Pieces that may wait for the client: 1 MiB.
pub(super) const WAITING: usize = 4;
/// A client that takes no piece for so long has gone. Longer than any pause of a disk or of a tape that it writes to.
const STALL: Duration = Duration::from_secs(60);

/// How long the connection of an export that failed stays open, so that what came before the failure arrives.
const GRACE: Duration = Duration::from_secs(1);

/// A file of the archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    /// In bytes.
    pub(super) size: u64,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Bytes),
    Manifest(Digest),
    Blob(Digest),
}

impl Entry {
    pub(super) fn bytes(path: &str, bytes: Vec<u8>) -> Entry {
        Entry { path: path.to_owned(), size: bytes.len() as u64, content: Content::Bytes(bytes.into()) }
    }

    pub(super) fn manifest(digest: &Digest, size: u64) -> Entry {
        Entry { path: blob_path(digest), size, content: Content::Manifest(digest.clone()) }
    }

    pub(super) fn blob(digest: &Digest, size: u64) -> Entry {
        Entry { path: blob_path(digest), size, content: Content::Blob(digest.clone()) }
    }
}

/// Bytes of the archive that has these files.
pub(super) fn length(entries: &[Entry]) -> u64 {
    let files = entries.iter().map(|entry| BLOCK + entry.size.next_multiple_of(BLOCK));
    files.sum::<u64>() + END.len() as u64
}

/// Sends the archive. The channel ends without the end of the archive when an object is not what its digest says, is gone, or the client
/// takes nothing any more. `_permit` is held so long.
pub(super) async fn send(store: Store, entries: Vec<Entry>, to: mpsc::Sender<Bytes>, _permit: OwnedSemaphorePermit) {
    let archive = Archive { store, to, stall: STALL };
    match archive.send(&entries).await {
        Ok(()) => {}
        Err(Ended::Client) => tracing::info!("an export ended: the client took nothing any more"),
        Err(Ended::Object(path, why)) => {
            tracing::error!(%path, %why, "an export ended without its end");
            // What was handed over goes out while more is waited for, and not when the connection is cut: the header among it tells the
            // client which object it was.
            sleep(GRACE).await;
        }
    }
}

struct Archive {
    store: Store,
    to: mpsc::Sender<Bytes>,
    /// See [`STALL`].
    stall: Duration,
}

/// Why an archive has no end.
enum Ended {
    Client,
    Object(String, Arc<str>),
}

impl Archive {
    async fn send(&self, entries: &[Entry]) -> Result<(), Ended> {
        for entry in entries {
            let header = archive::header(&entry.path, entry.size);
            let header = header.map_err(|error| Ended::Object(entry.path.clone(), error.to_string().into()))?;
            self.put(Bytes::copy_from_slice(&header)).await?;
            match &entry.content {
                Content::Bytes(bytes) => self.put(bytes.clone()).await?,
                Content::Manifest(digest) => self.manifest(digest, entry).await?,
                Content::Blob(digest) => self.blob(digest, entry).await?,
            }
            self.put(Bytes::from(vec![0; archive::padding(entry.size) as usize])).await?;
        }
        self.put(Bytes::from_static(&END)).await
    }

    async fn put(&self, bytes: Bytes) -> Result<(), Ended> {
        if bytes.is_empty() {
            return Ok(());
        }
        match timeout(self.stall, self.to.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ended::Client),
        }
    }

    async fn manifest(&self, digest: &Digest, entry: &Entry) -> Result<(), Ended> {
        let ended = |why: &str| Ended::Object(entry.path.clone(), why.into());
        // What is read from the disk is compared with its digest there.
        match self.store.cache.manifests.load(digest).await {
            Ok(Some(manifest)) if manifest.bytes.len() as u64 == entry.size => self.put(manifest.bytes).await,
            Ok(_) => Err(ended("it is gone")),
            Err(error) => Err(ended(&error.to_string())),
        }
    }

    /// A piece goes out when the next one has been read, so that the last one waits for the digest.
    async fn blob(&self, digest: &Digest, entry: &Entry) -> Result<(), Ended> {
        let ended = |why: &str| Ended::Object(entry.path.clone(), why.into());
        let failed = |error: weir_storage::Error| ended(&error.to_string());
        let Some(mut reader) = self.store.blobs.load(digest).await.map_err(failed)? else {
            return Err(ended("it is gone"));
        };
        let (mut at, mut withheld, mut hasher) = (0, Bytes::new(), digest.algorithm().hasher());
        while at < entry.size {
            let extent = poll_fn(|cx| reader.poll_extent(cx, at, entry.size)).await;
            let extent = extent.map_err(|stopped| ended(&stopped.0))?;
            let bytes = self.store.blobs.copy(digest, extent, PIECE).await.map_err(failed)?;
            if bytes.is_empty() {
                return Err(ended("it is shorter than it was"));
            }
            hasher.update(&bytes);
            at += bytes.len() as u64;
            self.put(std::mem::replace(&mut withheld, bytes)).await?;
        }
        if hasher.finish() != *digest {
            return Err(ended("it does not match its digest; weir verify --repair removes it"));
        }
        self.put(withheld).await
    }
}

#[cfg(test)]
mod tests {
    use weir_storage::Settings;

    use super::*;

    #[tokio::test]
    async fn an_export_whose_client_takes_nothing_ends() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        // Open, and never read.
        let (to, _pieces) = mpsc::channel(WAITING);
        let archive = Archive { store, to, stall: Duration::from_millis(1) };
        let entries = vec![Entry::bytes("oci-layout", vec![0; 10]); 2 * WAITING];
        let ended = timeout(STALL, archive.send(&entries)).await.expect("it waits for ever");
        assert!(matches!(ended, Err(Ended::Client)));
    }
}
