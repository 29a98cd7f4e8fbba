//! Whether a counted request may be sent: what an identity has left and who asks, to spend, wait or refuse.
//!
//! # What it guarantees
//!
//! The pulls that an upstream grants are shared so that nobody starves who matters more. Each class leaves a floor to those above it; while
//! several clients spend and it is getting scarce, one client has a share. What cannot be spent now and is forecast soon is waited for in one
//! first-come line per client, the clients in turn, the higher classes first; else the refusal comes at once and says why and
//! when.
//!
//! A floor binds only when somebody above it is configured, a share only while several spend: a lone docker may use every pull there is.
//!
//! # Scope
//!
//! [`Policy::decide`] is the rule, a function of values. [`Admission`] is the state of one identity: who spent how much in the window, and who
//! waits. It knows no clock and wakes nobody: whoever holds it asks for [`Admission::turn`] when a pull comes back, a place is left, or the
//! first one's time is up. The ledger alone knows what is left, and refuses again if two decide on the same last pull.

mod queue;
#[cfg(test)]
mod simulation;
mod spend_log;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use queue::{Queue, QueueFull, Ticket};
pub use spend_log::SpendLog;

use super::class::Classes;
use crate::{
    client::{Class, Client, ClientKey, OnExceed},
    setting::{ConfigError, Span},
    upstream::ledger::Balance,
};

/// `[budget]`. The budget itself is never configured: upstream states it with every answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What each class must leave to those above it.
    pub floors: Floors,
    /// What one client of a class may take.
    pub client_share: Shares,
    /// How long a request may wait for a pull that is forecast (10 s; dockerd waits 15 s for an answer).
    pub queue_max_wait: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { floors: Floors::default(), client_share: Shares::default(), queue_max_wait: Span::seconds(10) }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `budget`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (key, share) in [
            ("budget.floors.critical", self.floors.critical),
            ("budget.floors.standard", self.floors.standard),
            ("budget.floors.bulk", self.floors.bulk),
            ("budget.client_share.standard", self.client_share.standard),
            ("budget.client_share.bulk", self.client_share.bulk),
        ] {
            if !(0.0..=1.0).contains(&share) {
                errors.push(ConfigError::new(key, share, "write a fraction of the limit, 0.0 to 1.0"));
            }
        }
        if self.queue_max_wait > Span::seconds(25) {
            errors.push(ConfigError::new(
                "budget.queue_max_wait",
                self.queue_max_wait.to_string(),
                r#"write at most "25s": containerd gives up on a mirror that is silent for 30 s"#,
            ));
        }
        errors
    }
}

/// The share of the limit that each class leaves to those above it, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floors {
    /// What production leaves.
    pub critical: f64,
    /// What everybody else leaves to production.
    pub standard: f64,
    /// What scanners leave to all others.
    pub bulk: f64,
}

impl Default for Floors {
    fn default() -> Floors {
        Floors { critical: 0.0, standard: 0.10, bulk: 0.40 }
    }
}

/// What one client may spend of the limit in a window, from 0 to 1. Production has none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Of everybody else.
    pub standard: f64,
    /// Of scanners.
    pub bulk: f64,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { standard: 0.25, bulk: 0.30 }
    }
}

/// `[budget]`, and which classes there are. Immutable; a reload makes another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Who leaves how much to whom.
    pub floors: Floors,
    /// Who may have how much.
    pub shares: Shares,
    /// Shares are lifted while more than this part of the limit is left (0.6).
    pub plenty: f64,
    /// Whether anybody is above bulk, standard, critical; see [`Classes::is_anyone_above`].
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
    /// Whether others spent in the window, too.
    pub others: bool,
}

impl Spender {
    /// One who has spent nothing and is alone.
    pub fn alone(class: Class) -> Spender {
        Spender { class, overrides: false, spent: 0, frees_at: None, others: false }
    }
}

/// Why a pull was not granted, for the sentence that the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum RefusalReason {
    /// Nothing is left for anybody.
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
    /// It would come back soon, but too many wait for it.
    QueueFull,
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
            RefusalReason::QueueFull => f.write_str("too many wait for the next upstream pull"),
        }
    }
}

/// What to do about a counted request.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetDecision {
    /// Reserve it and send it.
    Spend,
    /// Wait for one's turn, not longer than this.
    Wait {
        /// Held while waiting; [`Admission::leave`] gives the place back.
        ticket: Ticket,
        /// When to give up.
        until: SystemTime,
        /// How many come before.
        position: usize,
    },
    /// Say no.
    Refuse {
        /// At least a second.
        retry_after: Duration,
        /// For the message.
        why: RefusalReason,
    },
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
    pub fn decide(&self, left: &Balance, asker: &Spender, now: SystemTime) -> Result<(), (RefusalReason, Duration)> {
        let Some(remaining) = left.remaining else { return Ok(()) };
        let limit = u64::try_from(left.limit.unwrap_or(0)).unwrap_or(0);
        if remaining <= 0 {
            return Err((RefusalReason::Exhausted, self.returns(left, remaining.unsigned_abs() + 1, now)));
        }
        if asker.overrides {
            return Ok(());
        }
        let kept = self.kept(asker.class, limit);
        let remaining = remaining.unsigned_abs();
        if remaining <= kept {
            return Err((
                RefusalReason::Floor { kept, left: remaining },
                self.returns(left, kept - remaining + 1, now),
            ));
        }
        let share = self.share(asker.class, limit);
        let is_plenty = remaining as f64 > limit as f64 * self.plenty;
        if let Some(share) = share.filter(|share| asker.others && !is_plenty && asker.spent >= *share) {
            let wait = asker.frees_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
            return Err((RefusalReason::Share { spent: asker.spent, share }, wait.max(Duration::from_secs(1))));
        }
        Ok(())
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
        // At least one pull, or a tiny limit would be nobody's.
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

/// The state of one identity's budget: who spent, and who waits. Bounded by the policy.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    spent: SpendLog,
    queue: Queue,
}

/// A request for a pull.
#[derive(Clone, Copy, Debug)]
pub struct SpendRequest<'a> {
    /// Who asks.
    pub client: &'a ClientKey,
    /// How much its pulls matter.
    pub class: Class,
    /// A hash of repository and reference: a client's retry of what it waits for already takes no second place.
    pub what: u64,
    /// Whether it waits at all.
    pub on_exceed: OnExceed,
    /// The right `budget_override`.
    pub overrides: bool,
}

impl Admission {
    /// Decides for one request. After [`BudgetDecision::Spend`] and a reservation comes [`Admission::spend`].
    pub fn ask(&mut self, policy: &Policy, left: &Balance, ask: SpendRequest<'_>, now: SystemTime) -> BudgetDecision {
        self.age(left, now);
        let asker = self.asker(ask.client, ask.class, ask.overrides);
        let judged = policy.decide(left, &asker, now);
        // Nobody overtakes those who wait and matter as much, or the line would never move.
        let first = left.remaining.is_none() || ask.overrides || !self.queue.holds(ask.class);
        let (why, wait) = match judged {
            Ok(()) if first => return BudgetDecision::Spend,
            Ok(()) => (RefusalReason::Exhausted, Duration::ZERO),
            Err(refused) => refused,
        };
        let retry_after = wait.max(Duration::from_secs(1));
        if ask.on_exceed != OnExceed::Queue || wait > policy.queue_max_wait {
            return BudgetDecision::Refuse { retry_after, why };
        }
        let until = now + policy.queue_max_wait;
        match self.queue.enter(ask, until, policy.queue_per_client, policy.queue) {
            Ok((ticket, position)) => BudgetDecision::Wait { ticket, until, position },
            Err(QueueFull) => BudgetDecision::Refuse { retry_after, why: RefusalReason::QueueFull },
        }
    }

    /// Whether this client might spend now; nobody is put in a line.
    pub fn could(&mut self, policy: &Policy, left: &Balance, client: &Client, now: SystemTime) -> bool {
        self.age(left, now);
        policy.decide(left, &self.asker(&client.key, client.class, client.overrides), now).is_ok()
    }

    /// Whose turn it is: the first who may spend now, who leaves the queue by it. Ask again until there is none.
    pub fn turn(&mut self, policy: &Policy, left: &Balance, now: SystemTime) -> Option<Ticket> {
        self.age(left, now);
        let spent = &self.spent;
        self.queue.next(|client, class, overrides| {
            let asker = asker(spent, client, class, overrides);
            policy.decide(left, &asker, now).is_ok()
        })
    }

    /// Those whose time is up; they left the queue and are to be refused.
    pub fn expired(&mut self, now: SystemTime) -> Vec<Ticket> {
        self.queue.expire(now)
    }

    /// Gives a place back: its client left.
    pub fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// Books a pull on the client who came first; whoever joined it pays nothing.
    pub fn spend(&mut self, client: &ClientKey, now: SystemTime) {
        self.spent.add(client, now);
    }

    /// Takes the newest pull of this client back: it was not sent, or not counted.
    pub fn refund(&mut self, client: &ClientKey) {
        self.spent.remove(client);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What this client spent in the window.
    pub fn spent_by(&self, client: &ClientKey) -> u32 {
        self.spent.of(client)
    }

    /// What each client spent in the window, the most first.
    pub fn spenders(&self) -> Vec<(ClientKey, u32)> {
        self.spent.all()
    }

    fn asker(&self, client: &ClientKey, class: Class, overrides: bool) -> Spender {
        asker(&self.spent, client, class, overrides)
    }

    /// Forgets what left the window, for those who look without asking.
    pub fn look(&mut self, left: &Balance, now: SystemTime) {
        self.age(left, now);
    }

    fn age(&mut self, left: &Balance, now: SystemTime) {
        self.spent.age(left.window.unwrap_or(SpendLog::WINDOW), now);
    }
}

fn asker(spent: &SpendLog, client: &ClientKey, class: Class, overrides: bool) -> Spender {
    let overrides = overrides || class == Class::Exempt;
    Spender {
        class,
        overrides,
        spent: spent.of(client),
        frees_at: spent.frees_at(client),
        others: spent.others(client),
    }
}

#[cfg(test)]
mod tests;
