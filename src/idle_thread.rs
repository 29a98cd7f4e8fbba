//! Work that gives way to what serves: the priority of its thread.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// By how much a thread gives way to others, where it does not run on idle cores alone. Ten is a tenth of the weight of a thread that
/// serves: while all cores are busy, its work takes ten times as long.
const NICE: i32 = 10;

/// Lets this thread run on cores that nothing else wants. A thread of the policy `SCHED_IDLE` leaves its core at once to another that
/// wakes, where a nice one keeps it to the end of its slice of about 3 ms, and a pull would wait for that. It never regains its priority.
pub(crate) fn give_way() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle).is_err() {
        // Where that is forbidden, it competes with what serves.
        be_nice();
    }
    // The kernel takes the core from a thread that changes its policy no sooner than at the next tick, 4 ms later with 250 a second, and one that
    // yields may keep the rest of its slice. One that sleeps, however briefly, leaves the core to what waits for it.
    std::thread::sleep(Duration::from_nanos(1));
}

/// Lets this thread have a tenth of what one has that serves: on busy cores an idle one takes several hundred times as long.
pub(crate) fn be_nice() {
    let _ = rustix::process::nice(NICE);
}

/// The time that this thread has had a core.
pub(crate) fn core_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    /// Keeps this thread to one of the cores that it may have, the same for all.
    fn stay_on_one_core() {
        let allowed = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap());
        sched_setaffinity(None, &one).unwrap();
    }

    #[test]
    fn a_thread_that_waits_for_the_core_has_it_before_the_one_that_gives_way_goes_on() {
        let (turns, over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stay_on_one_core();
                while !over.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            });
            let gives_way = scope.spawn(|| {
                stay_on_one_core();
                while turns.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                let before = turns.load(Ordering::Relaxed);
                give_way();
                let after = turns.load(Ordering::Relaxed);
                over.store(true, Ordering::Relaxed);
                (before, after)
            });
            let (before, after) = gives_way.join().unwrap();
            assert!(after > before, "{before} turns before and after");
        });
    }
}
