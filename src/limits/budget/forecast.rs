//! What clients above bulk are expected to need until a window ends: a function of the times when such clients spent before.
//!
//! A pull that is spent now comes back after one window. So the need of that whole window counts, and not only the need of this
//! moment. People and their machines keep hours: the same hours of the days before say more than the hours just past.

use std::time::{Duration, SystemTime};

/// Days that are looked back: a week, so that a day of the last week that was like the next one is among them.
const DAYS: u32 = 7;
const A_DAY: Duration = Duration::from_secs(86_400);
/// The share of the limit that is expected to be needed while no day is known, at least. With the floor of bulk it leaves a warm a fifth.
const UNKNOWN: f64 = 0.4;

/// When clients above bulk spent, as far as it is known.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Their pulls, oldest first.
    pub spent: Vec<SystemTime>,
    /// All pulls from this moment on are among these.
    pub since: SystemTime,
}

impl Demand {
    /// How many pulls of `limit` are expected to be spent from `now` until `window` later.
    ///
    /// It is the most that was spent in these hours of any of the seven days before, as far back as is known; while no day is known, what was
    /// spent within the last window, and no less than a share of the limit.
    pub fn expected(&self, limit: u64, window: Duration, now: SystemTime) -> u64 {
        let past = |day: u32| now.checked_sub(A_DAY * day).filter(|then| *then >= self.since);
        let days = (1..=DAYS).map_while(past).map(|then| self.between(then, then.checked_add(window).unwrap_or(now)));
        let last = || now.checked_sub(window).map_or(0, |then| self.between(then, now));
        days.max().unwrap_or_else(|| last().max((limit as f64 * UNKNOWN) as u64))
    }

    /// How many came after `first`, up to `last` and with it.
    fn between(&self, first: SystemTime, last: SystemTime) -> u64 {
        let until = |time: SystemTime| self.spent.partition_point(|at| *at <= time);
        u64::try_from(until(last).saturating_sub(until(first))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(6 * 3600);

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hours * 3600)
    }

    #[test]
    fn the_busiest_of_these_hours_of_the_days_before_is_expected() {
        // Day 0 has 3 pulls at 9 o'clock, day 1 has 5, day 2 has 1; and 7 on day 1 at 20 o'clock.
        let mut spent = vec![at(1)];
        spent.extend([at(9); 3]);
        spent.extend([at(24 + 9); 5]);
        spent.extend([at(24 + 20); 7]);
        spent.push(at(48 + 9));
        let demand = Demand { spent, since: at(0) };
        let expected = |hour: u64| demand.expected(100, WINDOW, at(72 + hour));
        assert_eq!(expected(8), 5);
        assert_eq!(expected(3), 5, "they come at the very end of the window");
        assert_eq!(expected(2), 0, "they come after it");
        assert_eq!(expected(16), 7);
        assert_eq!(expected(22), 0);
    }

    #[test]
    fn before_a_day_is_known_the_last_window_or_a_share_of_the_limit_is_expected() {
        let demand = Demand { spent: vec![at(1), at(7), at(8), at(8)], since: at(1) };
        assert_eq!(demand.expected(5, WINDOW, at(9)), 3);
        assert_eq!(demand.expected(100, WINDOW, at(9)), 40);
        assert_eq!(demand.expected(100, WINDOW, at(24)), 40);
        assert_eq!(demand.expected(100, WINDOW, at(24 + 6)), 3, "a day is known");
        let none = Demand { spent: Vec::new(), since: at(1) };
        assert_eq!([24, 25].map(|hour| none.expected(100, WINDOW, at(hour))), [40, 0]);
    }

    #[test]
    fn what_is_older_than_a_week_is_not_expected_again() {
        let demand = Demand { spent: vec![at(9); 4], since: at(0) };
        assert_eq!([7, 8].map(|day| demand.expected(100, WINDOW, at(day * 24 + 8))), [4, 0]);
    }
}
