//! What scanners said of images: kept by the digest of a platform's manifest, in memory and in a journal.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_storage::{Error, Journal, Store};

use crate::{oci::Digest, policy::Vulnerabilities};

/// Images of which a verdict is remembered: some 4 MiB.
const REMEMBERED: u64 = 10_000;
/// Bytes that the journal grows by before what is not remembered any more is dropped from it.
const MOST_JOURNAL: usize = 16 << 20;

/// A verdict in the journal.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    /// Seconds since the epoch.
    at: u64,
    found: Vulnerabilities,
}

/// What was found, and when.
pub type Scanned = Arc<(SystemTime, Vulnerabilities)>;

/// What scanners said. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Scans(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    known: moka::sync::Cache<Digest, Scanned>,
    journal: OnceLock<Journal>,
    written: AtomicUsize,
}

impl Scans {
    pub(super) fn new(store: Store) -> Scans {
        let known = moka::sync::Cache::new(REMEMBERED);
        Scans(Arc::new(Inner { store, known, journal: OnceLock::new(), written: AtomicUsize::new(0) }))
    }

    /// Takes up what was said in earlier processes.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn start(&self) -> Result<(), Error> {
        let journal = self.0.store.journals.open("scans")?;
        for record in journal.replay()? {
            if let Ok(Record { digest, at, found }) = serde_json::from_slice(&record) {
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
                self.0.known.insert(digest, Arc::new((at, found)));
            }
        }
        // Another call has set the same one.
        let _ = self.0.journal.set(journal);
        Ok(())
    }

    /// What was found in the image of this manifest, and when. No system call.
    pub fn known(&self, manifest: &Digest) -> Option<Scanned> {
        self.0.known.get(manifest)
    }

    /// Keeps what a scanner found in the image of this manifest. It is on the disk when this returns.
    ///
    /// # Errors
    /// As [`Journal::append`]; [`Error::Unusable`] before the start.
    pub async fn keep(&self, manifest: &Digest, found: Vulnerabilities, now: SystemTime) -> Result<(), Error> {
        let journal = self.0.journal.get().ok_or_else(|| Error::Unusable("the journal is not open".to_owned()))?;
        self.0.known.insert(manifest.clone(), Arc::new((now, found.clone())));
        let record = encode(manifest, now, found);
        let written = self.0.written.fetch_add(record.len(), Ordering::Relaxed);
        if written < MOST_JOURNAL {
            return journal.append(&record).await;
        }
        self.0.written.store(0, Ordering::Relaxed);
        let all = self.0.known.iter().map(|(digest, scanned)| {
            let (at, found) = &*scanned;
            Bytes::from(encode(&digest, *at, found.clone()))
        });
        journal.compact(all.collect()).await
    }
}

fn encode(digest: &Digest, at: SystemTime, found: Vulnerabilities) -> Vec<u8> {
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    serde_json::to_vec(&Record { digest: digest.clone(), at, found }).unwrap_or_default()
}
