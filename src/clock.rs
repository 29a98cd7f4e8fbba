//! The time of day, read in one place, so that a simulation can set the clock.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

thread_local! {
    /// Seconds by which the clock of this thread was set forward, or back.
    static STEP: Cell<i64> = const { Cell::new(0) };
}

/// The time of day.
pub(crate) fn now() -> SystemTime {
    moved(SystemTime::now(), STEP.get())
}

/// Sets the clock of this thread to so many seconds after, or before, the machine's. For simulations, which run on one thread.
#[doc(hidden)]
pub fn set(step: i64) {
    STEP.set(step);
}

fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    moved.unwrap_or(time)
}
