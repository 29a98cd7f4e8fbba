//! Retries as one event: clients repeat a refused request by themselves (containerd 6 times in 2 ms, podman 20 times), which is no sign of anything.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

/// The last few different events of one client. Bounded; an event that fell out is counted anew, which errs on the strict side by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Retries {
    seen: VecDeque<(u64, SystemTime)>,
}

/// Different events that are remembered for each client: more than the different references that lead to level 2, or a client that goes
/// round them would count as many times as it asks.
const REMEMBERED: usize = 128;

impl Retries {
    /// Identical events within so long are one (2 s).
    pub(super) const WITHIN: Duration = Duration::from_secs(2);

    /// Whether this event (a hash of method, reference and outcome) counts. A client that
    /// keeps repeating counts once in that time.
    pub(super) fn is_new(&mut self, event: u64, now: SystemTime) -> bool {
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        self.seen.retain(|(_, at)| since(*at) < Self::WITHIN);
        if self.seen.iter().any(|(seen, _)| *seen == event) {
            return false;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((event, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn identical_events_within_two_seconds_are_one() {
        let mut retries = Retries::default();
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let counted = |retries: &mut Retries, event, times: &[u64]| {
            times.iter().filter(|time| retries.is_new(event, at(**time))).count()
        };
        // containerd's six, and podman's twenty over 35 s in groups of five.
        assert_eq!(counted(&mut retries, 1, &[0, 0, 1, 1, 2, 2]), 1);
        assert_eq!(counted(&mut retries, 1, &[1999, 2000, 3999, 4000]), 2);
        assert_eq!(counted(&mut retries, 2, &[4000]), 1);
        for event in 0..100_000 {
            retries.is_new(event, at(9000));
        }
        assert!(retries.seen.len() <= REMEMBERED);
    }
}
