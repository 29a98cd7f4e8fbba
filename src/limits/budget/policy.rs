//! The rule by which a pull is granted: a function of values.

use std::time::{Duration, SystemTime};

use super::settings::{Floors, Settings, Shares};
use crate::{client::Class, limits::class::Classes, upstream::ledger::Balance};

/// `[budget]`, and which classes there are. Immutable; a reload makes another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Who leaves how much to whom.
    pub floors: Floors,
    /// Who may have how much.
    pub shares: Shares,
    /// Shares are lifted while more than this part of the limit is left (0.6).
    pub plenty: f64,
    /// Whether a client may be above bulk, standard, critical; see [`Classes::is_anyone_above`].
    pub above: [bool; 3],
    /// How long a request may wait for a pull (10 s; below the 15 s that dockerd waits for an answer).
    pub queue_max_wait: Duration,
    /// Requests of one client that may wait at once (20).
    pub queue_per_client: usize,
    /// Requests that may wait at once for one identity (256).
    pub queue: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            floors: Floors::default(),
            shares: Shares::default(),
            plenty: 0.6,
            above: [false; 3],
            queue_max_wait: Duration::from_secs(10),
            queue_per_client: 20,
            queue: 256,
        }
    }
}

/// Who asks, as far as the budget cares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spender {
    /// How much its pulls matter.
    pub class: Class,
    /// It may pass floors and shares (the right `budget_override`).
    pub overrides: bool,
    /// What it spent in the window.
    pub spent: u32,
    /// When the oldest of these leaves the window.
    pub frees_at: Option<SystemTime>,
    /// Whether other clients spent in the window, too. A warm is no client.
    pub others: bool,
    /// What warms spent in the window.
    pub warmed: u64,
    /// For a warm, what clients above bulk are expected to need until the window ends: it leaves that, and the floor of bulk.
    pub expected: Option<u64>,
}

impl Spender {
    /// One who has spent nothing and is alone.
    pub fn alone(class: Class) -> Spender {
        Spender { class, overrides: false, spent: 0, frees_at: None, others: false, warmed: 0, expected: None }
    }
}

/// Why a pull was not granted, for the sentence that the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum RefusalReason {
    /// Nothing is left.
    Exhausted,
    /// What is left is kept for classes above.
    Floor {
        /// How many pulls are kept.
        kept: u64,
        /// How many are left.
        left: u64,
    },
    /// The client has had its share of the window.
    Share {
        /// What it spent.
        spent: u32,
        /// What it may.
        share: u32,
    },
    /// What is left is kept for clients, which are expected to need it. Only a warm is refused so.
    Forecast {
        /// How many are left.
        left: u64,
        /// How many the floor of bulk keeps.
        kept: u64,
        /// How many clients above bulk are expected to need until the window ends.
        expected: u64,
    },
    /// It would come back soon, but too many wait for it.
    QueueFull,
}

impl RefusalReason {
    /// What the access log calls it, as a rule that refused.
    pub fn rule(&self) -> &'static str {
        match self {
            RefusalReason::Exhausted => "budget_exhausted",
            RefusalReason::Floor { .. } => "budget_floor",
            RefusalReason::Share { .. } => "budget_share",
            RefusalReason::Forecast { .. } => "budget_forecast",
            RefusalReason::QueueFull => "budget_queue_full",
        }
    }
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RefusalReason::Exhausted => f.write_str("no upstream pulls are left"),
            RefusalReason::Floor { kept, left } => {
                write!(f, "{left} upstream pulls are left and {kept} are kept for higher classes")
            }
            RefusalReason::Share { spent, share } => {
                write!(f, "this client spent {spent} upstream pulls and its share is {share}")
            }
            RefusalReason::Forecast { left, kept, expected } => write!(
                f,
                "{left} upstream pulls are left, {kept} are kept for clients, and clients are expected to need {expected} more"
            ),
            RefusalReason::QueueFull => f.write_str("too many wait for the next upstream pull"),
        }
    }
}

impl Policy {
    /// The settings, with the classes that are configured.
    pub fn new(settings: &Settings, classes: &Classes) -> Policy {
        let above = [Class::Bulk, Class::Standard, Class::Critical].map(|class| classes.is_anyone_above(class));
        let Settings { floors, client_share, queue_max_wait } = *settings;
        Policy { floors, shares: client_share, above, queue_max_wait: queue_max_wait.0, ..Policy::default() }
    }

    /// Decides for one request whether it may be sent now; if not, why, and how long until it may by forecast.
    ///
    /// An identity that upstream does not meter may always spend.
    ///
    /// # Errors
    /// The reason and the wait, at least a second.
    pub fn decide(&self, left: &Balance, spender: &Spender, now: SystemTime) -> Result<(), (RefusalReason, Duration)> {
        let Some(remaining) = left.remaining else { return Ok(()) };
        let limit = u64::try_from(left.limit.unwrap_or(0)).unwrap_or(0);
        if remaining <= 0 {
            return Err((RefusalReason::Exhausted, self.returns(left, remaining.unsigned_abs() + 1, now)));
        }
        if spender.overrides {
            return Ok(());
        }
        let remaining = remaining.unsigned_abs();
        if let Some(expected) = spender.expected {
            let (kept, needed) = self.surplus_begins(limit, expected);
            let refused = || RefusalReason::Forecast { left: remaining, kept, expected };
            return match remaining > needed {
                true => Ok(()),
                false => Err((refused(), self.returns(left, needed - remaining + 1, now))),
            };
        }
        let kept = self.kept(spender.class, limit);
        if remaining <= kept {
            return Err((
                RefusalReason::Floor { kept, left: remaining },
                self.returns(left, kept - remaining + 1, now),
            ));
        }
        let share = self.share(spender.class, limit);
        // Shares bind no sooner because a warm spent: no client was to need that.
        let is_plenty = remaining.saturating_add(spender.warmed) as f64 > limit as f64 * self.plenty;
        if let Some(share) = share.filter(|share| spender.others && !is_plenty && spender.spent >= *share) {
            let wait = spender.frees_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
            return Err((RefusalReason::Share { spent: spender.spent, share }, wait.max(Duration::from_secs(1))));
        }
        Ok(())
    }

    /// What a warm leaves of `limit` to clients: the floor of bulk, and that with what clients above bulk are expected to need. Every
    /// client is above a warm, so the floor counts without any `[[class]]`.
    pub fn surplus_begins(&self, limit: u64, expected: u64) -> (u64, u64) {
        let kept = (limit as f64 * self.floors.bulk) as u64;
        (kept, kept.saturating_add(expected))
    }

    /// How many pulls of `limit` this class leaves alone.
    pub fn kept(&self, class: Class, limit: u64) -> u64 {
        let [bulk, standard, critical] = self.above;
        let floor = match class {
            Class::Bulk if bulk => self.floors.bulk,
            Class::Standard if standard => self.floors.standard,
            Class::Critical if critical => self.floors.critical,
            _ => 0.0,
        };
        (limit as f64 * floor) as u64
    }

    fn share(&self, class: Class, limit: u64) -> Option<u32> {
        let share = match class {
            Class::Bulk => self.shares.bulk,
            Class::Standard => self.shares.standard,
            Class::Critical | Class::Exempt => return None,
        };
        // At least one pull, or no client could use a tiny limit.
        Some(((limit as f64 * share) as u32).max(1))
    }

    /// When `more` pulls will have come back: the first by the ledger's forecast, each other one as they would if evenly spent.
    fn returns(&self, left: &Balance, more: u64, now: SystemTime) -> Duration {
        let each = match (left.window, left.limit) {
            (Some(window), Some(limit @ 1..)) => window.div_f64(limit as f64),
            _ => Duration::ZERO,
        };
        let others = u32::try_from(more.saturating_sub(1)).unwrap_or(u32::MAX);
        left.retry_after(now).saturating_add(each.saturating_mul(others)).min(left.window.unwrap_or(Duration::MAX))
    }
}
