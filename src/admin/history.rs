//! The last 24 hours, minute by minute: what was served, fetched and refused, and what was left of each budget.
//!
//! # What this guarantees
//! Memory is fixed: [`MINUTES`] entries, each with at most [`BUDGETS`] budgets and [`UPSTREAMS`] upstreams. A reading costs one lock for a copy of the entries, and
//! no request takes the lock. Differences are taken over monotonic time; the wall clock only labels them.
//!
//! # What it refuses
//! A counter that went back (it cannot, within a process) counts as no change. Nothing is kept over a restart: the graphs begin anew, as the
//! process's counters do.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::limits::time::rfc3339;

/// Entries that are kept: a day.
pub(super) const MINUTES: usize = 24 * 60;
/// How long an entry is.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Budgets that an entry names; an installation has an account or two for each upstream.
const BUDGETS: usize = 8;
/// Upstreams that an entry names, those first that were asked most.
const UPSTREAMS: usize = 16;

/// What was counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests of registry clients.
    pub requests: u64,
    /// Those that were refused: with 429, or with 403 by a ban, `deny` or a policy.
    pub denied: u64,
    /// Those of them that were refused because the budget gave no pull.
    pub refused_by_budget: u64,
    /// Those of the requests that failed with 5xx.
    pub failed: u64,
    /// Manifests and blobs that were sent, by GET.
    pub answers: u64,
    /// Those of them for which no body was fetched: cached, fresh, confirmed or stale.
    pub from_cache: u64,
    /// Bytes of the bodies of what is mirrored, sent to clients.
    pub answer_bytes: u64,
    /// Those of them for which no body was fetched.
    pub from_cache_bytes: u64,
    /// Bytes of bodies sent to clients.
    pub sent_bytes: u64,
    /// Bytes of blobs received from upstreams.
    pub received_bytes: u64,
}

impl Totals {
    fn since(self, before: Totals) -> Totals {
        Totals {
            requests: self.requests.saturating_sub(before.requests),
            denied: self.denied.saturating_sub(before.denied),
            refused_by_budget: self.refused_by_budget.saturating_sub(before.refused_by_budget),
            failed: self.failed.saturating_sub(before.failed),
            answers: self.answers.saturating_sub(before.answers),
            from_cache: self.from_cache.saturating_sub(before.from_cache),
            answer_bytes: self.answer_bytes.saturating_sub(before.answer_bytes),
            from_cache_bytes: self.from_cache_bytes.saturating_sub(before.from_cache_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
        }
    }

    /// The share of answers that came from the cache, of 1; `None` before the first answer.
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.from_cache as f64 / self.answers as f64)
    }

    /// The share of their bytes that came from the cache, of 1; `None` before the first byte.
    pub(super) fn byte_hit_ratio(&self) -> Option<f64> {
        (self.answer_bytes > 0).then(|| self.from_cache_bytes as f64 / self.answer_bytes as f64)
    }
}

/// Reads the counters of the registry side, of the mirror and of the upstreams. `main` gives it.
pub type ReadTotals = Box<dyn Fn() -> Totals + Send + Sync>;

/// What is read at the end of each entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) totals: Totals,
    /// Pulls left, by upstream and identity.
    pub(super) remaining: BTreeMap<Arc<str>, i64>,
    /// Requests to each upstream since the start, and the sum of their times.
    pub(super) upstreams: Vec<(Arc<str>, (u64, Duration))>,
}

/// Requests to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Asked {
    pub(super) requests: u64,
    /// The sum of their times until the answer began.
    pub(super) seconds: f64,
}

/// One entry: about a minute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Minute {
    /// When it ended.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub(super) at: SystemTime,
    /// How long it was: longer than a minute when the process did not run meanwhile.
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) counted: Totals,
    /// Pulls left at its end, by upstream and identity.
    pub(super) remaining: BTreeMap<Arc<str>, i64>,
    /// The upstreams that were asked.
    pub(super) upstreams: BTreeMap<Arc<str>, Asked>,
}

/// The entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    last: Option<(Instant, Sample)>,
    minutes: VecDeque<Minute>,
}

impl History {
    /// Adds what was counted since the last call; the first call is where counting begins.
    pub(super) fn sample(&self, now: (Instant, SystemTime), sample: Sample) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, before)) = ring.last.replace((now.0, sample.clone())) {
            if ring.minutes.len() == MINUTES {
                ring.minutes.pop_front();
            }
            let seconds = now.0.saturating_duration_since(then).as_secs_f64();
            let upstreams = asked(&sample.upstreams, &before.upstreams);
            let remaining = sample.remaining.into_iter().take(BUDGETS).collect();
            let counted = sample.totals.since(before.totals);
            ring.minutes.push_back(Minute { at: now.1, seconds, counted, remaining, upstreams });
        }
    }

    /// What was counted since the last entry ended; nothing before the first call of [`History::sample`].
    pub(super) fn under_way(&self, totals: Totals) -> Totals {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last.as_ref().map(|(_, before)| totals.since(before.totals)).unwrap_or_default()
    }

    /// The newest entries, oldest first.
    pub(super) fn newest(&self, most: usize) -> Vec<Minute> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.minutes.iter().skip(ring.minutes.len().saturating_sub(most)).cloned().collect()
    }
}

/// The upstreams that were asked between two samples.
fn asked(now: &[(Arc<str>, (u64, Duration))], before: &[(Arc<str>, (u64, Duration))]) -> BTreeMap<Arc<str>, Asked> {
    let mut asked: Vec<_> = now
        .iter()
        .map(|(name, (requests, took))| {
            let before = before.iter().find(|(known, _)| known == name).map(|(_, before)| *before).unwrap_or_default();
            let requests = requests.saturating_sub(before.0);
            (name.clone(), Asked { requests, seconds: took.saturating_sub(before.1).as_secs_f64() })
        })
        .filter(|(_, asked)| asked.requests > 0)
        .collect();
    asked.sort_by_key(|(_, asked)| Reverse(asked.requests));
    asked.into_iter().take(UPSTREAMS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(requests: u64) -> Totals {
        Totals { requests, ..Totals::default() }
    }

    #[test]
    fn an_entry_holds_what_was_counted_since_the_one_before() {
        let (history, start, wall) = (History::default(), Instant::now(), SystemTime::UNIX_EPOCH);
        let left = |left| BTreeMap::from([("docker.io as anonymous".into(), left)]);
        let sample = |requests, pulls, asked: u64| Sample {
            totals: totals(requests),
            remaining: left(pulls),
            upstreams: vec![("docker.io".into(), (asked, Duration::from_millis(500) * asked as u32))],
        };
        history.sample((start, wall), sample(5, 100, 3));
        assert_eq!(history.newest(9), [], "what was counted before the first sample belongs to no minute");
        history.sample((start + MINUTE, wall + MINUTE), sample(12, 90, 7));
        // The wall clock jumps back, and the process stood still for a while.
        history.sample((start + 4 * MINUTE, wall), sample(12, 95, 7));
        let expected = |at, seconds, requests, pulls| {
            let upstreams = match requests {
                0 => BTreeMap::new(),
                _ => BTreeMap::from([("docker.io".into(), Asked { requests: 4, seconds: 2.0 })]),
            };
            Minute { at, seconds, counted: totals(requests), remaining: left(pulls), upstreams }
        };
        assert_eq!(history.newest(9), [expected(wall + MINUTE, 60.0, 7, 90), expected(wall, 180.0, 0, 95)]);
        assert_eq!(history.newest(1), [expected(wall, 180.0, 0, 95)]);
    }

    #[test]
    fn a_day_is_kept_and_few_budgets_are_named() {
        let (history, start, wall) = (History::default(), Instant::now(), SystemTime::UNIX_EPOCH);
        let many: BTreeMap<Arc<str>, i64> = (0..100).map(|number| (format!("{number}").into(), number)).collect();
        for minute in 0..MINUTES as u32 + 10 {
            // The last upstream is asked more than the others.
            let asked = |number: u64| (u64::from(minute) * (1 + number / 99), Duration::ZERO);
            let upstreams = (0..100).map(|number| (format!("{number}").into(), asked(number))).collect();
            let sample = Sample { totals: totals(minute.into()), remaining: many.clone(), upstreams };
            history.sample((start + minute * MINUTE, wall + minute * MINUTE), sample);
        }
        let kept = history.newest(usize::MAX);
        assert_eq!(kept.len(), MINUTES);
        assert_eq!(kept.last().unwrap().at, wall + (MINUTES as u32 + 9) * MINUTE);
        assert!(kept.iter().all(|minute| minute.remaining.len() == BUDGETS && minute.counted.requests == 1));
        assert!(kept.iter().all(|minute| minute.upstreams.len() == UPSTREAMS && minute.upstreams.contains_key("99")));
    }
}
