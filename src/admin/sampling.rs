//! The task that adds an entry to the history at each interval.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{history::Sample, state::State};

/// Samples so often, until it is aborted.
pub(super) fn start(state: Arc<State>, every: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let left = state.mirror.budget();
            let left = left
                .iter()
                .filter_map(|left| Some((left.identity.to_string().into(), left.limit.and(left.remaining)?)));
            let upstreams = state.mirror.upstream_times();
            let sample = Sample { totals: (state.totals)(), remaining: left.collect(), upstreams };
            state.history.sample((Instant::now(), SystemTime::now()), sample);
        }
    })
}
