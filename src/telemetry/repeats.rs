//! Which of many equal lines are written: the first few of each period, and with the next one how many were left out.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How long lines are counted together.
const PERIOD: Duration = Duration::from_secs(10);
/// Lines that are counted apart, of 40 bytes each; what comes after them within a period is counted together.
const KEYS: usize = 4096;

/// `log.refusal_lines`; 0 writes all.
static LINES: AtomicU32 = AtomicU32::new(5);

/// Lines of the access log about refusals, by client, status and rule.
pub(crate) static REFUSALS: LazyLock<Repeats> = LazyLock::new(Repeats::default);
/// Lines about throttles and bans, by client and rule.
pub(crate) static DENIALS: LazyLock<Repeats> = LazyLock::new(Repeats::default);

/// From now on so many equal lines of a period are written; 0 writes all.
pub(super) fn set_lines(lines: u32) {
    LINES.store(lines, Ordering::Relaxed);
}

/// Counts lines that are alike.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, Seen>>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Repeats {
    /// Whether one more line of this kind is written, and then how many were left out since the last one was; `None` when it is not.
    pub(crate) fn judge(&self, kind: impl Hash, now: Instant) -> Option<u64> {
        self.judge_within(LINES.load(Ordering::Relaxed), kind, now)
    }

    fn judge_within(&self, most: u32, kind: impl Hash, now: Instant) -> Option<u64> {
        if most == 0 {
            return Some(0);
        }
        let is_over = |seen: &Seen| now.duration_since(seen.since) >= PERIOD;
        let mut key = self.hasher.hash_one(kind);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= KEYS && !seen.contains_key(&key) {
            seen.retain(|_, seen| !is_over(seen));
            if seen.len() >= KEYS {
                key = 0;
            }
        }
        let entry = seen.entry(key).or_insert(Seen { since: now, lines: 0, left_out: 0 });
        if is_over(entry) {
            (entry.since, entry.lines) = (now, 0);
        }
        if entry.lines < most {
            entry.lines += 1;
            return Some(std::mem::take(&mut entry.left_out));
        }
        entry.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_period_are_written_and_the_next_one_counts_the_rest() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let judge = |kind: &str, seconds| repeats.judge_within(2, kind, start + Duration::from_secs(seconds));
        assert_eq!([judge("a", 0), judge("a", 1), judge("a", 2), judge("a", 9)], [Some(0), Some(0), None, None]);
        assert_eq!(judge("b", 9), Some(0), "another client's line");
        assert_eq!([judge("a", 10), judge("a", 10), judge("a", 11)], [Some(2), Some(0), None]);
        assert!((0..100).all(|_| repeats.judge_within(0, "a", start) == Some(0)), "0 writes all");
    }

    #[test]
    fn a_flood_of_many_clients_writes_a_bounded_number_of_lines() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let written = (0..100_000).filter(|client| repeats.judge_within(5, client, start).is_some()).count();
        assert_eq!(written, KEYS + 5);
        assert!(repeats.seen.lock().unwrap().len() <= KEYS + 1);
        assert!(repeats.judge_within(5, 100_000, start + PERIOD).is_some(), "the next period is another");
    }
}
