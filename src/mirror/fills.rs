//! The fills under way, one per digest: who leads, and what those who follow may read.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Semaphore, watch};
use weir_storage::{Arriving, Reader, Source};

use crate::{
    oci::Digest,
    upstream::{Identity, Upstream},
};

/// Other sources that one fill remembers.
const SUPPLIERS: usize = 8;

/// Fills under way, by digest.
#[derive(Clone, Debug)]
pub(super) struct Fills {
    // A std mutex: it is held for a map operation and never across an await.
    under_way: Arc<Mutex<HashMap<Digest, Progress>>>,
    /// Fills that download at once.
    pub(super) slots: Arc<Semaphore>,
    at_once: usize,
    /// Ranges far ahead of one fill that are passed through at once.
    pub(super) ahead_ranges: usize,
}

/// A blob that arrives; every client whose source holds it may read it.
#[derive(Clone, Debug)]
pub(super) struct ArrivingBlob {
    pub(super) blob: Arriving,
    pub(super) size: u64,
    /// Whether what came was decoded: offsets in it are none upstream.
    pub(super) is_decoded: bool,
    /// Permits for ranges far ahead of the fill.
    pub(super) ahead: Arc<Semaphore>,
    /// Where the fill began to read it.
    pub(super) source: Source,
    /// The bucket that replicas share gives it in the source's place.
    pub(super) is_from_bucket: bool,
}

/// A fill under way, for the operator.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Of the blob.
    pub digest: Digest,
    /// What is known as soon as the head of the answer is in.
    pub begun: Option<Begun>,
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where it is read: the upstream, the identity and the repository, when it began.
    pub source: Source,
    /// The bucket that replicas share gives it in the source's place.
    pub is_from_bucket: bool,
    /// Bytes that clients may read.
    pub bytes: u64,
    /// Bytes of all of it.
    pub size: u64,
    /// Clients that wait for the next bytes at this moment.
    pub waiting: usize,
}

/// A source of a blob: a repository that holds it, and the identity that may read it there.
#[derive(Clone, Debug)]
pub(super) struct Supplier {
    pub(super) upstream: Upstream,
    pub(super) identity: Identity,
    pub(super) source: Source,
}

/// Other sources of a blob under way, to resume from when its own fails.
pub(super) type Suppliers = Arc<Mutex<Vec<Supplier>>>;

/// A fill under way, as those who follow it see it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The blob as soon as upstream's headers are in; closes when the fill ends.
    pub(super) arriving: watch::Receiver<Option<ArrivingBlob>>,
    suppliers: Suppliers,
}

impl Progress {
    /// The fill may go on from this source when its own fails. Cheap; each source is taken once, and few of them.
    pub(super) fn offer(&self, supplier: Supplier) {
        let mut suppliers = self.suppliers.lock().unwrap_or_else(PoisonError::into_inner);
        if suppliers.len() < SUPPLIERS && suppliers.iter().all(|known| known.source != supplier.source) {
            suppliers.push(supplier);
        }
    }
}

/// What a blob's flight gives to each of its waiters.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// It is here, and the source holds it: open it.
    Whole,
    /// It arrives.
    Arriving(ArrivingBlob),
    /// It cannot be kept: one waiter takes the stream that was opened, each other waiter opens its own.
    Uncached(Arc<Mutex<Option<Reader>>>),
}

impl Found {
    pub(super) fn uncached(reader: Reader) -> Found {
        Found::Uncached(Arc::new(Mutex::new(Some(reader))))
    }
}

/// The right to fill one digest. Dropping it frees the digest and wakes those who wait for it.
pub(super) struct Permit {
    pub(super) fills: Fills,
    digest: Digest,
    pub(super) progress: watch::Sender<Option<ArrivingBlob>>,
    pub(super) suppliers: Suppliers,
}

impl Fills {
    pub(super) fn new(slots: usize, ahead_ranges: usize) -> Fills {
        Fills { under_way: Arc::default(), slots: Arc::new(Semaphore::new(slots)), at_once: slots, ahead_ranges }
    }

    /// The right to start the fill of this digest.
    ///
    /// # Errors
    /// The progress of the fill that is under way.
    pub(super) fn enter(&self, digest: &Digest) -> Result<Permit, Progress> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = under_way.get(digest) {
            return Err(progress.clone());
        }
        let (progress, arriving) = watch::channel(None);
        let suppliers = Suppliers::default();
        under_way.insert(digest.clone(), Progress { arriving, suppliers: suppliers.clone() });
        Ok(Permit { fills: self.clone(), digest: digest.clone(), progress, suppliers })
    }

    /// The fill of this digest that is under way.
    pub(super) fn progress(&self, digest: &Digest) -> Option<Progress> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// The size of the blob, if a fill of it has come so far.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.get(digest)?.arriving.borrow().as_ref().map(|arriving| arriving.size)
    }

    /// Resolves when no fill of this digest is under way.
    pub(super) async fn ended(&self, digest: &Digest) {
        let Some(Progress { mut arriving, .. }) = self.progress(digest) else { return };
        while arriving.changed().await.is_ok() {}
    }

    /// At most so many of the fills under way, those first for which most clients wait. Clones under the lock, and looks after that.
    pub(super) fn under_way(&self, most: usize) -> Vec<UnderWay> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = |arriving: &ArrivingBlob| Begun {
            source: arriving.source.clone(),
            is_from_bucket: arriving.is_from_bucket,
            bytes: arriving.blob.readable(),
            size: arriving.size,
            waiting: arriving.blob.waiting(),
        };
        let fills = under_way.into_iter().map(|(digest, progress)| {
            let begun = progress.arriving.borrow().as_ref().map(begun);
            UnderWay { digest, begun }
        });
        let mut fills: Vec<_> = fills.collect();
        fills.sort_by_cached_key(|fill| {
            (Reverse(fill.begun.as_ref().map(|begun| begun.waiting)), fill.digest.to_string())
        });
        fills.truncate(most);
        fills
    }

    /// How many of them have no slot: nearly exact, as slots are taken while this counts.
    pub(super) fn waiting(&self) -> usize {
        self.count().saturating_sub(self.at_once.saturating_sub(self.slots.available_permits()))
    }

    /// How many fills are under way.
    pub(super) fn count(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.fills.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}
