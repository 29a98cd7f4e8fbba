//! What goes into the ledger and what it answers, as values.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, SystemTime},
};

use crate::{
    client::Class,
    clock,
    oci::{Name, Reference},
    upstream::Identity,
};

/// How long a refused pull limit holds when neither window nor `Retry-After` is known.
pub(super) const BLIND_WAIT: Duration = Duration::from_secs(60);

/// Why upstream was asked for a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was cached.
    Cold,
    /// A HEAD named another digest than the cached one.
    Changed,
    /// Upstream answers no HEAD, so a GET stood in.
    HeadRefused,
    /// The tag schema that stands in for the referrers API.
    Referrers,
}

/// Who asks for what, and why; becomes a ledger entry.
#[derive(Clone, Debug)]
pub struct Purpose {
    /// As upstream names it.
    pub repository: Name,
    /// The tag or digest that is asked for.
    pub reference: Reference,
    /// The tag by which a digest became known, with the platform behind it.
    pub tag: Option<Arc<str>>,
    /// The client that came first.
    pub client: Arc<str>,
    /// How much its pulls matter.
    pub class: Class,
    /// Why the cache did not do.
    pub reason: Reason,
    /// How many requests this one spares besides the first; read when the spend is committed.
    pub waiters: Arc<AtomicU32>,
}

/// One counted request, as `/api/v1/spends` shows it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Spend {
    /// When it was reserved.
    pub at: SystemTime,
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// `anonymous`, or the account's user name.
    pub identity: Arc<str>,
    /// As upstream names it.
    pub repository: Name,
    /// The tag or digest.
    pub reference: String,
    /// The tag by which a digest became known, with the platform behind it: `latest (linux/amd64)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Arc<str>>,
    /// The client that came first.
    pub client: Arc<str>,
    /// How much its pulls matter.
    pub class: Class,
    /// Why the cache did not do.
    pub reason: Reason,
    /// Requests that this one spared.
    pub waiters: u32,
    /// As upstream said in answer; may be negative. `None` when it said nothing.
    pub remaining: Option<i64>,
}

impl Spend {
    pub(super) fn of(&self) -> Identity {
        let account = (&*self.identity != Identity::ANONYMOUS).then(|| self.identity.clone());
        Identity { upstream: self.upstream.clone(), account }
    }
}

/// What an identity may still spend, at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Whose budget.
    pub identity: Identity,
    /// Grows whenever less may be left than before; see [`super::Ledger::try_spend`].
    pub version: u64,
    /// Pulls per window; `None` while upstream never said a limit: unmetered.
    pub limit: Option<i64>,
    /// The newest `remaining` less what is in flight, by forecast when it is old; `None` when unmetered. Zero without a limit is an
    /// upstream that refused a pull and never said how many there are.
    pub remaining: Option<i64>,
    /// The length of the window.
    pub window: Option<Duration>,
    /// Our own spends within the window (within a day while no window is known).
    pub spent: u64,
    /// Drops of `remaining` that no spend of ours explains, within the window and within what upstream counts as used.
    pub external: u64,
    /// What upstream counts as used beyond `spent` and `external`: a drop that was never seen, as before the first answer or
    /// at a refusal. Negative when upstream counts fewer than `spent`. Zero while upstream names no limit.
    pub unexplained: i64,
    /// When the next pull comes back, by forecast; `None` when nothing is known to be out.
    pub next_at: Option<SystemTime>,
}

impl Balance {
    /// How long a caller waits for the next pull, at least a second; a minute when nothing can be forecast.
    pub fn retry_after(&self, now: SystemTime) -> Duration {
        let wait = self.next_at.map_or(BLIND_WAIT, |at| at.duration_since(now).unwrap_or_default());
        wait.max(Duration::from_secs(1))
    }
}

/// Nothing left; says when the next pull is forecast.
#[derive(Clone, Debug)]
pub struct Exhausted {
    /// At least a second.
    pub retry_after: Duration,
    /// What is left, which is nothing.
    pub left: Box<Balance>,
}

impl Exhausted {
    pub(super) fn new(left: Box<Balance>) -> Exhausted {
        Exhausted { retry_after: left.retry_after(clock::now()), left }
    }
}
