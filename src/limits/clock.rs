//! Steady time, out of readings of a clock that may step.
//!
//! Throttles, failures and probation are counted in steady time: it goes on as fast as the clock does and never steps with it, so that a clock
//! that is set shuts no client out and gives none a second quota. Bans are shown and kept by the clock on the wall; when that steps they are
//! moved by as much.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::time::nanos;

/// Threads read the clock a little before they get here, so that readings may come in another order.
const JITTER: u64 = 1_000_000_000;
/// The newest reading is noted this often, so that requests seldom write to what all of them read.
const GRAIN: u64 = 100_000_000;
/// Readings that are further apart are a step, once they come regularly (see [`SteadyClock::expect_readings`]).
const MAX_GAP: u64 = 60_000_000_000;

/// All times are nanoseconds.
#[derive(Debug)]
pub(super) struct SteadyClock {
    /// Odd while a step is taken in.
    version: AtomicU64,
    /// The newest reading since 1970; 0 before the first.
    last: AtomicU64,
    /// The readings less steady time.
    offset: AtomicI64,
    max_gap: AtomicU64,
    step: Mutex<()>,
}

impl Default for SteadyClock {
    fn default() -> SteadyClock {
        SteadyClock {
            version: AtomicU64::new(0),
            last: AtomicU64::new(0),
            offset: AtomicI64::new(0),
            max_gap: AtomicU64::new(u64::MAX),
            step: Mutex::new(()),
        }
    }
}

impl SteadyClock {
    /// From now on a reading comes every few seconds, so that a long gap is a step of the clock.
    pub(super) fn expect_readings(&self) {
        self.max_gap.store(MAX_GAP, Ordering::Relaxed);
    }

    /// The steady time of this reading. `stepped` is called with a step, in nanoseconds, before any other reading is judged after it.
    pub(super) fn read(&self, reading: SystemTime, stepped: impl FnOnce(i64)) -> SystemTime {
        let reading = nanos(reading).max(1);
        let version = self.version.load(Ordering::Acquire);
        let (last, offset) = (self.last.load(Ordering::Acquire), self.offset.load(Ordering::Acquire));
        if version.is_multiple_of(2) && self.follows(last, reading) && self.version.load(Ordering::Acquire) == version {
            if reading > last.saturating_add(GRAIN) {
                self.last.fetch_max(reading, Ordering::AcqRel);
            }
            return steady(reading, offset);
        }
        let _step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last.load(Ordering::Acquire);
        if !self.follows(last, reading) {
            let step = i64::try_from(i128::from(reading) - i128::from(last)).unwrap_or(i64::MAX);
            self.version.fetch_add(1, Ordering::AcqRel);
            self.last.store(reading, Ordering::Release);
            let offset = self.offset.load(Ordering::Acquire).saturating_add(step);
            self.offset.store(offset, Ordering::Release);
            stepped(step);
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        steady(reading, self.offset.load(Ordering::Acquire))
    }

    fn follows(&self, last: u64, reading: u64) -> bool {
        let gap = self.max_gap.load(Ordering::Relaxed);
        last == 0 || reading.saturating_add(JITTER) >= last && reading.saturating_sub(last) <= gap
    }
}

fn steady(reading: u64, offset: i64) -> SystemTime {
    let nanos = u64::try_from(i128::from(reading) - i128::from(offset)).unwrap_or_default();
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// This time, moved by a step of the clock.
pub(super) fn moved(time: SystemTime, step: i64) -> SystemTime {
    let by = Duration::from_nanos(step.unsigned_abs());
    let moved = if step < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    moved.unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_time_goes_on_and_never_steps() {
        let clock = SteadyClock::default();
        let at = |millis: u64| UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_millis(millis);
        let read = |time| {
            let mut step = None;
            (clock.read(time, |by| step = Some(by / 1_000_000)), step)
        };
        assert_eq!(read(at(0)), (at(0), None));
        assert_eq!(read(at(3_600_000)), (at(3_600_000), None), "no reading of that hour was promised");
        clock.expect_readings();
        assert_eq!(read(at(3_605_000)), (at(3_605_000), None));
        assert_eq!(read(at(3_604_500)), (at(3_604_500), None), "another thread");
        assert_eq!(read(at(5_000)), (at(3_605_000), Some(-3_600_000)));
        assert_eq!(read(at(10_000)), (at(3_610_000), None));
        assert_eq!(read(at(7_210_000)), (at(3_610_000), Some(7_200_000)));
        assert_eq!(read(at(7_215_000)), (at(3_615_000), None));
        assert_eq!(read(UNIX_EPOCH).0, at(3_615_000));
    }
}
