//! What upstream lately said does not exist, so that asking again and again costs it nothing.
//!
//! An entry lives for `negative_ttl` at first; that of a digest, each time upstream confirms the absence after that, twice as long,
//! up to five minutes. A tag may be pushed at any moment, so its absence never lasts longer. A success forgets it, and so does a
//! manifest that names the digest. Only a 404 and a refusal come here: a failure is never mistaken for absence.
//! The memory is bounded; what falls out of it costs one more HEAD, which is free.

use std::time::{Duration, Instant};

use super::{
    error::Error,
    lookup::{Key, Object},
};
use crate::oci::Reference;

/// The longest an absence is believed without asking again.
const LONGEST: Duration = Duration::from_secs(300);

/// How long an entry is remembered beyond its end, so that the next confirmation lasts longer.
const MEMORY: Duration = Duration::from_secs(600);

/// Absences by what was lookup.
#[derive(Debug)]
pub(super) struct NegativeCache {
    entries: moka::sync::Cache<Key, Absence>,
    first: Duration,
}

#[derive(Clone, Debug)]
struct Absence {
    error: Error,
    lasts: Duration,
    until: Instant,
}

impl NegativeCache {
    /// Nothing is absent yet. At most `entries` are remembered; the first confirmation lasts `first`.
    pub(super) fn new(entries: u64, first: Duration) -> NegativeCache {
        let entries = moka::sync::Cache::builder().max_capacity(entries).time_to_live(LONGEST + MEMORY).build();
        NegativeCache { entries, first }
    }

    /// # Errors
    /// What upstream lately said, when that was that this does not exist.
    pub(super) fn check(&self, key: &Key) -> Result<(), Error> {
        self.get(key, Instant::now()).map_or(Ok(()), Err)
    }

    /// The work of a flight, with its outcome learned before the flight ends; not done when an earlier flight learned an absence.
    ///
    /// An earlier flight may end between a lookup's [`NegativeCache::check`] and its own flight. Were the outcome learned by the lookups
    /// that wait for it, a flight that starts before one of them runs again would send the same request.
    pub(super) async fn run<T>(
        &self,
        key: &Key,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        self.check(key)?;
        self.learn(key, work.await)
    }

    /// Keeps or drops the memory of an absence by what upstream said now.
    pub(super) fn learn<T>(&self, key: &Key, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            Ok(_) => self.forget(key),
            Err(error) if error.is_absence() => self.remember(key.clone(), error.clone(), Instant::now()),
            Err(_) => {}
        }
        outcome
    }

    /// What to answer without asking upstream, if anything.
    fn get(&self, key: &Key, now: Instant) -> Option<Error> {
        self.entries.get(key).filter(|absence| now < absence.until).map(|absence| absence.error)
    }

    /// Upstream said (again) that it does not exist.
    fn remember(&self, key: Key, error: Error, now: Instant) {
        // A tag that a client asked for too early is pushed sooner or later, and must be seen then. Of digests that is not to be
        // expected, and what names one ends its absence.
        let grows = !matches!(key.object, Object::Manifest(Reference::Tag(_)));
        let lasts = match self.entries.get(&key) {
            // Two who asked at once are one confirmation.
            Some(absence) if now < absence.until => return,
            Some(absence) if grows => absence.lasts.saturating_mul(2).min(LONGEST),
            Some(_) | None => self.first,
        };
        self.entries.insert(key, Absence { error, lasts, until: now + lasts });
    }

    /// It exists after all.
    pub(super) fn forget(&self, key: &Key) {
        // The look spares the hot path a write; an absence is rare.
        if self.entries.contains_key(key) {
            self.entries.invalidate(key);
        }
    }

    /// Forgets everything, as a purge by an operator asks.
    pub(super) fn clear(&self) {
        self.entries.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_lasts_twice_as_long_each_time_it_is_confirmed_and_a_success_ends_it() {
        let negative = NegativeCache::new(10, Duration::from_secs(15));
        let key = Key {
            upstream: "docker.io".into(),
            repository: "library/none".parse().unwrap(),
            private: false,
            object: Object::Manifest(format!("sha256:{}", "0".repeat(64)).parse().unwrap()),
        };
        let mut now = Instant::now();
        for lasts in [15, 30, 60, 120, 240, 300, 300] {
            assert!(negative.get(&key, now).is_none());
            negative.remember(key.clone(), Error::ManifestUnknown, now);
            assert!(negative.get(&key, now + Duration::from_secs(lasts - 1)).is_some(), "{lasts}");
            now += Duration::from_secs(lasts);
        }
        negative.remember(key.clone(), Error::ManifestUnknown, now);
        negative.forget(&key);
        assert!(negative.get(&key, now).is_none());

        let tag = Key { object: Object::Manifest("latest".parse().unwrap()), ..key };
        for _ in 0..3 {
            negative.remember(tag.clone(), Error::ManifestUnknown, now);
            assert!(negative.get(&tag, now + Duration::from_secs(14)).is_some());
            now += Duration::from_secs(15);
            assert!(negative.get(&tag, now).is_none(), "a tag may be pushed at any moment");
        }
    }
}
