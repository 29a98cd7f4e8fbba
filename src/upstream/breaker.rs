//! When an upstream is not asked at all, and who asks first again. No I/O but a line in the log; time is an argument.
//!
//! Two things open it. The abuse limit (a 429 that is not the pull limit's) stops everything for as long as upstream asks, or for
//! 60 s that double to 10 min. Unavailability (failures to connect, silence, 5xx, five of them in a row, and not all of them 5xx of one
//! repository, which says nothing about others) stops
//! everything for 1 s that doubles to 30 s. When the time is over one request goes as a probe, and its answer decides for all.
//!
//! Nothing that an upstream answers knowingly opens it: 401, 403, 404, a wrong digest, a malformed body are answers. The pull limit is
//! not here either: it stops only what it counts, and lives in the ledger.
//!
//! A cache hides an outage: what it has, it goes on giving. So the first failure is logged with its reason, and that it is over, but one
//! outage a minute at most.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{error::Error, retry::jitter};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Neither upstream's `Retry-After` nor our doubling goes beyond ten minutes.
const ABUSE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// What is asked of those who come while the probe is out.
const PROBING: Duration = Duration::from_secs(1);
/// Outages that follow each other faster are logged once.
const TELL: Duration = Duration::from_secs(60);

/// One upstream's breaker. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    /// Whose it is, for the log.
    upstream: Arc<str>,
    // Held for a few lines, never across an await.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    failures: u32,
    /// The only repository whose requests failed; `None` when there was none, or the failure was not about one.
    failing: Option<Arc<str>>,
    /// Whether the failures are of several repositories, or of the registry as a whole.
    general: bool,
    /// How often the time has doubled, for each cause.
    down_steps: u32,
    abuse_steps: u32,
    probing: bool,
    /// When a failure was logged last.
    logged_at: Option<Instant>,
    /// It was, and not yet that it is over.
    outage_logged: bool,
}

#[derive(Clone, Debug)]
struct Open {
    until: Instant,
    abuse: bool,
    why: Arc<str>,
}

/// Permission to ask, once. What came of it is reported to the permit; a permit that is dropped without a report lets another probe go.
#[derive(Debug)]
pub(crate) struct BreakerPermit {
    breaker: Breaker,
    probe: bool,
    untracked: bool,
}

impl Breaker {
    /// A closed one for the upstream of this name.
    pub(crate) fn of(upstream: &str) -> Breaker {
        Breaker { upstream: upstream.into(), state: Arc::default() }
    }

    /// Whether upstream may be asked now.
    ///
    /// # Errors
    /// Why not, and for how long.
    pub(crate) fn admit(&self, now: Instant) -> Result<BreakerPermit, Error> {
        let mut state = self.lock();
        let Some(open) = &state.open else { return Ok(self.permit(false)) };
        let wait = open.until.saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(open.refusal(wait));
        }
        if state.probing {
            return Err(open.refusal(PROBING));
        }
        state.probing = true;
        Ok(self.permit(true))
    }

    /// Leave for a request that another one with leave depends on, such as that of its token: it goes while a probe may go.
    pub(crate) fn untracked(&self) -> BreakerPermit {
        let mut permit = self.permit(false);
        permit.untracked = true;
        permit
    }

    fn permit(&self, probe: bool) -> BreakerPermit {
        BreakerPermit { breaker: self.clone(), probe, untracked: false }
    }

    /// Until when it is open, and why; until `None` when the time is over and the next request is the probe, or one is out.
    pub(crate) fn open(&self, now: Instant) -> Option<(Option<SystemTime>, Arc<str>)> {
        let state = self.lock();
        let open = state.open.as_ref()?;
        let wait = open.until.saturating_duration_since(now);
        Some(((!wait.is_zero()).then(|| SystemTime::now() + wait), open.why.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BreakerPermit {
    /// Whether to go on after having waited: the breaker may have opened meanwhile.
    ///
    /// # Errors
    /// As [`Breaker::admit`].
    pub(crate) fn still(&self, now: Instant) -> Result<(), Error> {
        match &self.breaker.lock().open {
            Some(open) if !self.probe => match open.until.saturating_duration_since(now) {
                Duration::ZERO if self.untracked => Ok(()),
                Duration::ZERO => Err(open.refusal(PROBING)),
                wait => Err(open.refusal(wait)),
            },
            _ => Ok(()),
        }
    }

    /// Upstream answered, with whatever it meant to.
    pub(crate) fn answered(&mut self) {
        let mut state = self.breaker.lock();
        state.failures = 0;
        // What was sent before the abuse limit struck may still be answered; that proves nothing about the limit.
        let proves = |open: &Open| self.probe || !open.abuse;
        if state.open.as_ref().is_none_or(proves) {
            let State { logged_at, outage_logged, .. } = *state;
            *state = State { logged_at, ..State::default() };
            drop(state);
            if outage_logged {
                tracing::info!(upstream = %self.breaker.upstream, "upstream answers again");
            }
        }
        self.probe = false;
    }

    /// Upstream could not be reached or stayed silent.
    pub(crate) fn failed(&mut self, why: &Arc<str>, now: Instant) {
        self.fail(why, None, now);
    }

    /// Upstream answered 5xx to a request of one repository.
    pub(crate) fn server_error(&mut self, why: &Arc<str>, repository: &str, now: Instant) {
        self.fail(why, Some(repository), now);
    }

    fn fail(&mut self, why: &Arc<str>, repository: Option<&str>, now: Instant) {
        let breaker = self.breaker.clone();
        let mut state = breaker.lock();
        state.failures = state.failures.saturating_add(1);
        match (repository, &state.failing) {
            (Some(repository), None) => state.failing = Some(repository.into()),
            (Some(repository), Some(only)) if **only == *repository => {}
            _ => state.general = true,
        }
        let half_open = self.probe || state.open.as_ref().is_some_and(|open| open.until <= now);
        if half_open || state.open.is_none() && state.failures >= FAILURES && state.general {
            let steps = state.down_steps;
            state.down_steps = steps.saturating_add(1);
            // At least half of the step, so that jitter never makes it a busy loop.
            let wait = doubled(DOWN, steps);
            let until = now + wait / 2 + jitter(wait / 2);
            state.open = Some(Open { until, abuse: false, why: why.clone() });
        }
        self.done(&mut state);
        if state.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL) && !state.outage_logged {
            (state.logged_at, state.outage_logged) = (Some(now), true);
            drop(state);
            tracing::warn!(upstream = %breaker.upstream, %why, "upstream fails");
        }
    }

    /// The abuse limit struck. Returns how long everything stops.
    pub(crate) fn limited(&mut self, retry_after: Option<Duration>, why: &Arc<str>, now: Instant) -> Duration {
        let breaker = self.breaker.clone();
        let mut state = breaker.lock();
        let open_until = state.open.as_ref().filter(|open| open.abuse && open.until > now).map(|open| open.until);
        let wait = match (retry_after, open_until) {
            // A millisecond from ghcr means: not at once.
            (Some(asked), _) => asked.clamp(Duration::from_millis(100), ABUSE.1),
            // Those that were under way together are one offence.
            (None, Some(until)) => until.saturating_duration_since(now).max(PROBING),
            (None, None) => {
                let steps = state.abuse_steps;
                state.abuse_steps = steps.saturating_add(1);
                let wait = doubled(ABUSE, steps);
                wait.saturating_add(jitter(wait / 10)).min(ABUSE.1)
            }
        };
        let until = open_until.map_or(now + wait, |until| until.max(now + wait));
        state.open = Some(Open { until, abuse: true, why: why.clone() });
        self.done(&mut state);
        wait
    }

    fn done(&mut self, state: &mut State) {
        if std::mem::take(&mut self.probe) {
            state.probing = false;
        }
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.lock().probing = false;
        }
    }
}

impl Open {
    fn refusal(&self, wait: Duration) -> Error {
        match self.abuse {
            true => Error::AbuseLimit { retry_after: wait, message: self.why.clone() },
            false => Error::Unavailable { reason: self.why.clone(), retry_after: Some(wait) },
        }
    }
}

fn doubled((first, most): (Duration, Duration), steps: u32) -> Duration {
    first.saturating_mul(1 << steps.min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logged;

    fn why() -> Arc<str> {
        Arc::from("it is down")
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_one_probe_closes_it() {
        let breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..4 {
            breaker.admit(start).unwrap().failed(&why(), start);
        }
        breaker.admit(start).unwrap().answered();
        for _ in 0..5 {
            breaker.admit(start).unwrap().failed(&why(), start);
        }
        assert!(matches!(breaker.admit(start), Err(Error::Unavailable { retry_after: Some(_), .. })));
        let later = start + Duration::from_secs(1);
        let mut probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "one probe at a time");
        probe.answered();
        drop(probe);
        assert!(breaker.admit(later).is_ok() && breaker.admit(later).is_ok());
    }

    #[test]
    fn one_repository_that_answers_5xx_does_not_stop_the_others() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..50 {
            breaker.admit(now).unwrap().server_error(&why(), "a/broken", now);
        }
        assert!(breaker.admit(now).is_ok());
        breaker.admit(now).unwrap().server_error(&why(), "another", now);
        assert!(breaker.admit(now).is_err(), "two are no accident");
        let breaker = Breaker::default();
        for _ in 0..4 {
            breaker.admit(now).unwrap().server_error(&why(), "a/broken", now);
        }
        breaker.admit(now).unwrap().failed(&why(), now);
        assert!(breaker.admit(now).is_err(), "no connection is about no repository");
    }

    #[test]
    fn a_probe_that_fails_doubles_the_wait_up_to_thirty_seconds() {
        let breaker = Breaker::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            breaker.admit(now).unwrap().failed(&why(), now);
        }
        for _ in 0..10 {
            now += Duration::from_secs(30);
            breaker.admit(now).unwrap().failed(&why(), now);
        }
        assert!(breaker.admit(now + Duration::from_secs(14)).is_err());
        assert!(breaker.admit(now + Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn it_stays_open_until_an_answer_comes_and_says_when_the_next_request_is_the_probe() {
        let breaker = Breaker::default();
        let now = Instant::now();
        assert_eq!(breaker.open(now), None);
        for _ in 0..5 {
            breaker.admit(now).unwrap().failed(&why(), now);
        }
        let until = |at: Instant| breaker.open(at).map(|(until, why)| (until.is_some(), why));
        assert_eq!(until(now), Some((true, why())));
        let later = now + Duration::from_secs(1);
        assert_eq!(until(later), Some((false, why())), "the next request is the probe");
        let mut probe = breaker.admit(later).unwrap();
        assert_eq!(until(later), Some((false, why())), "the probe is out");
        probe.answered();
        assert_eq!(until(later), None);
    }

    #[test]
    fn a_probe_that_is_dropped_lets_another_go() {
        let breaker = Breaker::default();
        let now = Instant::now();
        breaker.admit(now).unwrap().limited(Some(Duration::from_secs(7)), &why(), now);
        let later = now + Duration::from_secs(7);
        drop(breaker.admit(later).unwrap());
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn the_abuse_limit_lasts_as_long_as_upstream_asks_but_ten_minutes_at_most() {
        for (asked, least, most) in [(7, 6, 7), (1_000_000_000, 599, 600)] {
            let breaker = Breaker::default();
            let now = Instant::now();
            breaker.admit(now).unwrap().limited(Some(Duration::from_secs(asked)), &why(), now);
            assert!(breaker.admit(now + Duration::from_secs(least)).is_err());
            assert!(breaker.admit(now + Duration::from_secs(most)).is_ok());
        }
        let breaker = Breaker::default();
        let now = Instant::now();
        let wait = breaker.admit(now).unwrap().limited(None, &why(), now);
        assert!((60..=66).contains(&wait.as_secs()));
    }

    #[test]
    fn many_at_once_are_one_offence_and_a_straggler_does_not_close_it() {
        let breaker = Breaker::default();
        let now = Instant::now();
        let mut together: Vec<_> = (0..4).map(|_| breaker.admit(now).unwrap()).collect();
        for permit in &mut together[..3] {
            permit.limited(None, &why(), now);
        }
        together[3].answered();
        assert!(together[3].still(now).is_err());
        assert!(breaker.admit(now + Duration::from_secs(59)).is_err());
        assert!(breaker.admit(now + Duration::from_secs(67)).is_ok());
    }

    #[test]
    fn an_outage_is_logged_when_it_begins_and_when_it_ends_and_one_a_minute_at_most() {
        let breaker = Breaker::of("ghcr.io");
        let start = Instant::now();
        let outage = |at: Duration| {
            logged(|| {
                for _ in 0..3 {
                    breaker.admit(start + at).unwrap().failed(&why(), start + at);
                }
                for _ in 0..3 {
                    breaker.admit(start + at).unwrap().answered();
                }
            })
        };
        for (after, logged) in [(0, 1), (59, 0), (60, 1)] {
            let log = outage(Duration::from_secs(after));
            let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
            assert_eq!(
                (lines("upstream fails"), lines("upstream answers again")),
                (logged, logged),
                "{after} s: {log}"
            );
            assert_eq!((lines("ghcr.io"), lines("it is down")), (2 * logged, logged), "{after} s: {log}");
        }
    }
}
