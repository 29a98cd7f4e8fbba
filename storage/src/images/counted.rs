//! When what each registry and repository has is counted: on a request when that is little, else beside the requests.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    completeness::{Reading, Summaries},
    pins::Pinned,
};

/// Tags and memberships of which a count takes some milliseconds.
const FEW: u64 = 4000;
/// A count is followed by so many times as long without one: counting takes a fiftieth of a core at most.
const PAUSE: u32 = 50;
/// How old a count of what changed is at least before the next.
const LEAST: Duration = Duration::from_secs(5);

/// The last count.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    summaries: Arc<Summaries>,
    /// What it was a count of.
    of: Option<(u64, u64, u64)>,
    next: Option<Instant>,
}

impl Counted {
    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is so much that it is counted beside the requests.
    pub(super) fn is_much(reading: &Reading<'_>) -> bool {
        reading.state.names() > FEW
    }

    /// What there is, or what was last counted when there is much.
    pub(super) fn get(&self, reading: &Reading<'_>) -> Arc<Summaries> {
        if Counted::is_much(reading) { self.lock().summaries.clone() } else { Arc::new(reading.summaries()) }
    }

    /// Counts what is here and what is pinned, when that is much, when it changed, and when the last count was long enough ago. `now` is
    /// another value after each change.
    pub(super) fn count(&self, reading: &Reading<'_>, pinned: &Pinned, now: (u64, u64, u64)) {
        let begun = Instant::now();
        let is_due = {
            let last = self.lock();
            last.of != Some(now) && last.next.is_none_or(|next| begun >= next)
        };
        if !is_due || !Counted::is_much(reading) {
            return;
        }
        let summaries = Arc::new(reading.summaries());
        pinned.count();
        let next = Some(Instant::now() + (begun.elapsed() * PAUSE).max(LEAST));
        *self.lock() = Last { summaries, of: Some(now), next };
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Settings, Source, Store, cache::Repository, files::Kind, images::Pin, oci::Algorithm};

    #[tokio::test]
    async fn what_is_much_is_counted_beside_the_requests() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        while !store.images.is_complete() {
            tokio::task::yield_now().await;
        }
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "a/b".parse().unwrap(),
        };
        let add = |from: u64, to: u64| {
            for number in from..to {
                let digest = Algorithm::Sha256.digest(&number.to_le_bytes());
                let tag = format!("v{number}").parse().unwrap();
                store.cache.inventory.tag(&source, &tag, &digest, SystemTime::UNIX_EPOCH, false);
            }
        };
        let images = || store.images.summaries().of(&Repository::from(&source)).map(|summary| summary.images);
        add(0, FEW);
        assert_eq!(images(), Some(FEW), "what is little is counted at once");
        add(FEW, FEW + 1);
        while images() != Some(FEW + 1) {
            std::thread::yield_now();
        }
        // Nothing counts before its time.
        store.images.counted.lock().next = Some(Instant::now() + Duration::from_secs(3600));
        add(FEW + 1, FEW + 2);
        store.images.count();
        assert_eq!(images(), Some(FEW + 1), "a request counted");
        store.images.counted.lock().next = None;
        store.images.count();
        assert_eq!(images(), Some(FEW + 2));

        // So are the bytes that are pinned, but for a change of the pins.
        let next = |at: Option<Instant>| store.images.counted.lock().next = at;
        let size = |bytes| {
            let digest = Algorithm::Sha256.digest(&0_u64.to_le_bytes());
            store.images.capacity.insert(Kind::Manifest, &digest, bytes);
            store.images.count();
            store.images.pinned_bytes().0
        };
        next(Some(Instant::now() + Duration::from_secs(3600)));
        size(10);
        let pattern = "docker.io/a/b:v0".to_owned();
        let pin = Pin { pattern: pattern.clone(), by: "ops".into(), reason: String::new(), at: SystemTime::now() };
        store.images.pin(pin).await.unwrap();
        assert_eq!((store.images.pinned_bytes().0, size(20)), (10, 10));
        next(None);
        assert_eq!(size(30), 30);
        assert!(store.images.unpin(&pattern).await.unwrap());
        assert_eq!(store.images.pinned_bytes().0, 0);
    }
}
