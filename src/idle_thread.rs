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
}

/// Lets this thread have a tenth of what one has that serves: on busy cores an idle one takes several hundred times as long.
pub(crate) fn be_nice() {
    let _ = rustix::process::nice(NICE);
}

/// The time that this thread has had a core.
pub(crate) fn core_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
