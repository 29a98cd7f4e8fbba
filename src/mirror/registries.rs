//! What each registry has here, counted at most once a minute when there is much of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use weir_storage::{Images, Repository, Summary};

/// How old a count may be: with a million objects one takes about half a second.
const AGE: Duration = Duration::from_secs(60);
/// Images of which a count takes some milliseconds, so that it is not kept.
const FEW: u64 = 2000;

type Counted = Arc<[(Arc<str>, Summary)]>;

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Registries {
    // Held while it is counted, so that of many visitors one counts.
    last: Mutex<Option<(SystemTime, Counted)>>,
}

impl Registries {
    pub(super) fn get(&self, images: &Images, now: SystemTime) -> Counted {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counted)) = &*last
            && now.duration_since(*at).is_ok_and(|age| age < AGE)
        {
            return counted.clone();
        }
        let reading = images.read();
        let all: Vec<&Repository> = reading.repositories(None).collect();
        let by_upstream = all.chunk_by(|one, other| one.upstream == other.upstream);
        let counted: Counted =
            by_upstream.map(|of_one| (of_one[0].upstream.clone(), reading.summary(of_one.iter().copied()))).collect();
        let total: u64 = counted.iter().map(|(_, summary)| summary.images).sum();
        *last = (total > FEW).then(|| (now, counted.clone()));
        counted
    }
}
