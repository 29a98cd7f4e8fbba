//! What is remembered of manifests by their digest over restarts and purges: in memory, and in a journal.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use moka::{policy::EvictionPolicy, sync::Cache};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::runtime::Handle;
use weir_storage::{Error, Journal, Store};

use crate::oci::Digest;

/// Bytes that a journal grows by before what is not remembered any more is dropped from it.
const MOST_JOURNAL: usize = 16 << 20;

/// A record of a journal.
#[derive(Serialize, Deserialize)]
struct Record<T> {
    digest: Digest,
    #[serde(flatten)]
    fact: T,
}

/// Facts by the digest of a manifest; of more than may be remembered, those that were used least lately are forgotten. Cloning is cheap.
#[derive(Debug)]
pub(super) struct Remembered<T: Send + Sync + 'static>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T: Send + Sync + 'static> {
    store: Store,
    name: &'static str,
    known: Cache<Digest, Arc<T>>,
    journal: OnceLock<Journal>,
    written: AtomicUsize,
}

impl<T: Send + Sync + 'static> Clone for Remembered<T> {
    fn clone(&self) -> Remembered<T> {
        Remembered(self.0.clone())
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Remembered<T> {
    /// Facts that the journal of this name has, `most` of them.
    pub(super) fn new(store: Store, name: &'static str, most: u64) -> Remembered<T> {
        let known = Cache::builder().max_capacity(most).eviction_policy(EvictionPolicy::lru()).build();
        Remembered(Arc::new(Inner { store, name, known, journal: OnceLock::new(), written: AtomicUsize::new(0) }))
    }

    /// Takes up what earlier processes remembered.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(super) fn start(&self) -> Result<(), Error> {
        let journal = self.0.store.journals.open(self.0.name)?;
        for record in journal.replay()? {
            if let Ok(Record { digest, fact }) = serde_json::from_slice(&record) {
                self.0.known.insert(digest, Arc::new(fact));
            }
        }
        // Another call has set the same one.
        let _ = self.0.journal.set(journal);
        Ok(())
    }

    /// What is known of a manifest. No system call.
    pub(super) fn get(&self, manifest: &Digest) -> Option<Arc<T>> {
        self.0.known.get(manifest)
    }

    /// Remembers a fact. It is on the disk when this returns.
    ///
    /// # Errors
    /// As [`Journal::append`]; [`Error::Unusable`] before the start. It is in memory all the same.
    pub(super) async fn keep(&self, manifest: &Digest, fact: T) -> Result<(), Error> {
        let fact = Arc::new(fact);
        self.0.known.insert(manifest.clone(), fact.clone());
        self.write(manifest, &fact).await
    }

    /// Remembers a fact at once, and writes it down behind the answer; a failure is logged.
    pub(super) fn keep_behind(&self, manifest: &Digest, fact: T, runtime: &Handle) {
        let (this, manifest, fact) = (self.clone(), manifest.clone(), Arc::new(fact));
        self.0.known.insert(manifest.clone(), fact.clone());
        runtime.spawn(async move {
            if let Err(error) = this.write(&manifest, &fact).await {
                tracing::warn!(%error, journal = this.0.name, %manifest, "what is known of a manifest could not be kept");
            }
        });
    }

    async fn write(&self, manifest: &Digest, fact: &T) -> Result<(), Error> {
        let journal = self.0.journal.get().ok_or_else(|| Error::Unusable("the journal is not open".to_owned()))?;
        let record = encode(manifest, fact);
        let written = self.0.written.fetch_add(record.len(), Ordering::Relaxed);
        if written < MOST_JOURNAL {
            return journal.append(&record).await;
        }
        self.0.written.store(0, Ordering::Relaxed);
        let all = self.0.known.iter().map(|(digest, fact)| Bytes::from(encode(&digest, &*fact)));
        journal.compact(all.collect()).await
    }
}

fn encode<T: Serialize>(digest: &Digest, fact: T) -> Vec<u8> {
    serde_json::to_vec(&Record { digest: digest.clone(), fact }).unwrap_or_default()
}
