//! What one client has used of one throttle, and the two ways to judge it: governor's gcra, and GitLab's fixed window.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use serde::{Deserialize, Serialize};

/// How a window moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// What was used comes back evenly; denied requests consume nothing.
    #[default]
    Gcra,
    /// Starts anew with every period of the epoch, and counts denied requests, as GitLab's.
    FixedWindow,
}

/// 16 bytes for each client and throttle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// gcra: the time (nanoseconds since 1970) at which everything that was used has come back.
    pub(super) due: u64,
    /// The end (seconds since 1970) of the window that `count` is of.
    pub(super) window_end: u32,
    /// Requests in that window, denied ones included.
    pub(super) count: u32,
}

/// A limit in the form that is judged by: of a client, or of its network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) algorithm: Algorithm,
    pub(super) limit: u32,
    pub(super) period: u32,
    quota: Quota,
    /// Nanoseconds in which one unit comes back.
    each: u64,
    /// Nanoseconds in which a whole burst comes back.
    capacity: u64,
}

/// What an account says at a moment, after it was charged or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) over: bool,
    pub(super) observed: u32,
    pub(super) remaining: u32,
    pub(super) more_in: Duration,
    pub(super) reset_in: Duration,
}

/// Governor reads no time from us: what it is given is how much a client owes now, and now is always zero.
struct Still;

impl Clock for Still {
    type Instant = Nanos;
    fn now(&self) -> Nanos {
        Nanos::from(0)
    }
}

/// One account as a store of governor's. Nothing is written when governor denies.
struct Owed<'a> {
    due: &'a Cell<u64>,
    now: u64,
    most: u64,
}

impl StateStore for Owed<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let owed = owed(self.due.get(), self.now, self.most);
        let (outcome, owed) = judge(Some(Nanos::from(owed)))?;
        self.due.set(self.now.saturating_add(owed.into()));
        Ok(outcome)
    }
}

/// Bounded, so that neither a clock that jumps back nor a debt without end shuts a client out for long.
fn owed(due: u64, now: u64, most: u64) -> u64 {
    due.saturating_sub(now).min(most)
}

const SECOND: u64 = 1_000_000_000;

impl Window {
    /// `None` when a whole burst would take longer to come back than can be counted in nanoseconds.
    pub(super) fn new(algorithm: Algorithm, limit: u32, period: u32, burst: u32) -> Option<Window> {
        let (limit, period) = (limit.max(1), period.max(1));
        let burst = burst.clamp(1, limit);
        // Rounded up: a nanosecond too few for each would let one more through in the worst window. A burst of the whole limit leaves
        // nothing to come back during the period, so then one comes back at its end.
        let refill = u64::from((limit - burst).max(1));
        let each = (u64::from(period) * SECOND).div_ceil(refill);
        let capacity = each.checked_mul(u64::from(burst)).filter(|capacity| *capacity < u64::MAX >> 3)?;
        let quota = Quota::with_period(Duration::from_nanos(each))?.allow_burst(NonZeroU32::new(burst)?);
        Some(Window { algorithm, limit, period, quota, each, capacity })
    }

    /// The same for a network of many clients, `factor` times as wide; as wide as can be counted when that is too wide.
    pub(super) fn widened(&self, factor: u32) -> Window {
        let (limit, burst) = (self.limit.saturating_mul(factor), self.quota.burst_size().get().saturating_mul(factor));
        Window::new(self.algorithm, limit, self.period, burst).unwrap_or_else(|| self.clone())
    }

    pub(super) fn burst(&self) -> u32 {
        self.quota.burst_size().get()
    }

    /// Counts one request and says whether it is too much.
    pub(super) fn take(&self, account: &mut Account, now: u64) -> bool {
        self.turn_over(account, now);
        account.count = account.count.saturating_add(1);
        match self.algorithm {
            Algorithm::FixedWindow => account.count > self.limit,
            Algorithm::Gcra => {
                let store = Owed { due: Cell::from_mut(&mut account.due), now, most: self.most() };
                RateLimiter::<_, _, _, NoOpMiddleware<Nanos>>::new(self.quota, store, Still).check().is_err()
            }
        }
    }

    /// Says whether the next request would be too much, and counts nothing.
    pub(super) fn look(&self, account: &mut Account, now: u64) -> bool {
        self.turn_over(account, now);
        match self.algorithm {
            Algorithm::FixedWindow => account.count >= self.limit,
            Algorithm::Gcra => owed(account.due, now, self.most()) > self.capacity - self.each,
        }
    }

    /// Counts what has happened already: never denied, but owed, up to one period beyond the burst.
    pub(super) fn charge(&self, account: &mut Account, units: u32, now: u64) {
        self.turn_over(account, now);
        account.count = account.count.saturating_add(units);
        let more = self.each.saturating_mul(u64::from(units));
        let owed = owed(account.due, now, self.most()).saturating_add(more).min(self.most());
        account.due = now.saturating_add(owed);
    }

    /// Gives back what was taken and not used, never more than is owed.
    pub(super) fn refund(&self, account: &mut Account, units: u32, now: u64) {
        self.turn_over(account, now);
        account.count = account.count.saturating_sub(units);
        account.due = account.due.saturating_sub(self.each.saturating_mul(u64::from(units))).max(now);
    }

    /// Reads what was used under another limit as if it had been used under this one: as many requests as it was, not as much time.
    pub(super) fn take_over(&self, account: &mut Account, old: &Window, now: u64) {
        let owed = u128::from(owed(account.due, now, old.most()));
        if owed > 0 && old.each != self.each {
            let owed = owed * u128::from(self.each) / u128::from(old.each.max(1));
            account.due = now.saturating_add(u64::try_from(owed).unwrap_or(u64::MAX).min(self.most()));
        }
        if old.period != self.period {
            // The windows begin elsewhere now.
            account.window_end = 0;
        }
    }

    /// Whether an account tells no more than a fresh one would.
    pub(super) fn is_idle(&self, account: &Account, now: u64) -> bool {
        match self.algorithm {
            Algorithm::Gcra => account.due <= now,
            Algorithm::FixedWindow => account.count == 0 || u64::from(account.window_end) * SECOND <= now,
        }
    }

    /// Where the account stands. It was judged at the same moment, with this outcome.
    pub(super) fn read(&self, account: &Account, now: u64, over: bool) -> Reading {
        let observed = account.count;
        match self.algorithm {
            Algorithm::FixedWindow => {
                // GitLab's `period - now % period`, in whole seconds: never zero.
                let left = u64::from(account.window_end).saturating_sub(now / SECOND);
                let end = Duration::from_secs(left.clamp(1, u64::from(self.period)));
                Reading { over, observed, remaining: self.limit.saturating_sub(observed), more_in: end, reset_in: end }
            }
            Algorithm::Gcra => {
                let owed = owed(account.due, now, self.most());
                let free = self.capacity.saturating_sub(owed);
                let remaining = free / self.each;
                // One more unit is there when what is owed has fallen to what leaves room for it.
                let room = self.capacity.saturating_sub((remaining + 1) * self.each);
                let more_in = if owed == 0 { 0 } else { owed - room.min(owed) };
                Reading {
                    over,
                    observed,
                    remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
                    more_in: Duration::from_nanos(more_in),
                    reset_in: Duration::from_nanos(owed),
                }
            }
        }
    }

    fn turn_over(&self, account: &mut Account, now: u64) {
        // What was kept under another clock is no debt without end.
        account.due = account.due.min(now.saturating_add(self.most()));
        let (period, end) = (u64::from(self.period), u64::from(account.window_end));
        // Nearly always it is still the same window, and no division is needed to see that.
        if now / SECOND < end && end <= now / SECOND + period {
            return;
        }
        let end = u32::try_from((now / SECOND / period + 1) * period).unwrap_or(u32::MAX);
        if account.window_end != end {
            (account.window_end, account.count) = (end, 0);
        }
    }

    /// The most that can be owed: a burst and one period.
    fn most(&self) -> u64 {
        self.capacity + u64::from(self.period) * SECOND
    }
}
