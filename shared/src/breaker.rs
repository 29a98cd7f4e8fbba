//! Whether an engine answers: after some failures in a row nothing is asked of it until a probe succeeds.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

/// Failures in a row after which the engine is away: one may be a connection that was closed meanwhile, three are not.
const FAILURES: u32 = 3;

/// The state of one engine. A line is logged when it goes and when it comes back.
#[derive(Debug)]
pub(crate) struct Breaker {
    engine: &'static str,
    up: watch::Sender<bool>,
    failures: AtomicU32,
    // Held to copy or set one value.
    since: Mutex<Instant>,
    shown: OnceLock<Gauge>,
}

impl Breaker {
    /// Away, until the first probe succeeds.
    pub(crate) fn new(engine: &'static str) -> Breaker {
        Breaker {
            engine,
            up: watch::Sender::new(false),
            failures: AtomicU32::new(0),
            since: Mutex::new(Instant::now()),
            shown: OnceLock::new(),
        }
    }

    /// From now on the gauge is 1 while it is up, else 0.
    pub(crate) fn show(&self, gauge: Gauge) {
        self.shown.get_or_init(|| gauge).set(i64::from(self.is_up()));
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Resolves when it is up.
    pub(crate) async fn risen(&self) {
        // The sender is this one's own.
        let _ = self.up.subscribe().wait_for(|up| *up).await;
    }

    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, why: &str) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES && self.turn(false).is_some() {
            tracing::warn!(engine = self.engine, why, "not asked until it answers again; the disk and upstream go on");
        }
    }

    /// A probe succeeded.
    pub(crate) fn rise(&self) {
        self.succeeded();
        if let Some(away) = self.turn(true) {
            tracing::info!(engine = self.engine, away = ?away, "answers");
        }
    }

    /// Gives how long it was otherwise, when this changes it.
    fn turn(&self, to: bool) -> Option<Duration> {
        let changed = self.up.send_if_modified(|up| std::mem::replace(up, to) != to);
        if let Some(gauge) = self.shown.get() {
            gauge.set(i64::from(self.is_up()));
        }
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        changed.then(|| std::mem::replace(&mut *since, Instant::now()).elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_away_after_failures_in_a_row_and_back_with_a_probe() {
        let breaker = Breaker::new("s3");
        assert!(!breaker.is_up(), "nothing is known of it yet");
        breaker.rise();
        breaker.failed("x");
        breaker.failed("x");
        breaker.succeeded();
        breaker.failed("x");
        breaker.failed("x");
        assert!(breaker.is_up(), "a success lay between");
        breaker.failed("x");
        assert!(!breaker.is_up());
        // A request that was under way ends well: that is no probe.
        breaker.succeeded();
        assert!(!breaker.is_up());
        breaker.rise();
        assert!(breaker.is_up());
    }
}
