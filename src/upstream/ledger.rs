//! stub: what an identity has left upstream; a [`Reservation`] is the only way to send a counted GET.
#![allow(missing_docs, unused_variables, dead_code, clippy::todo, reason = "replaced by the real modules")]

use std::{
    pin::Pin,
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, SystemTime},
};

use super::Identity;
use crate::{
    asker::Class,
    oci::{Name, Reference},
};

/// Makes a record durable. `main` gives one that appends to a journal of the store, since upstream knows no storage.
pub type Keep = Arc<dyn Fn(Vec<u8>) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Why upstream was asked for a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Cold,
    Changed,
    HeadRefused,
    Referrers,
}

/// Who asks for what, and why; becomes a ledger entry.
#[derive(Clone, Debug)]
pub struct Purpose {
    pub repository: Name,
    pub reference: Reference,
    pub client: Arc<str>,
    pub class: Class,
    pub reason: Reason,
    /// How many requests this one spares besides the first; read when the spend is committed.
    pub waiters: Arc<AtomicU32>,
}

/// One counted request, as `/api/v1/spends` shows it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Spend {
    pub at: SystemTime,
    pub upstream: Arc<str>,
    pub identity: Arc<str>,
    pub repository: Name,
    pub reference: Reference_,
    pub client: Arc<str>,
    pub class: Class,
    pub reason: Reason,
    pub waiters: u32,
    /// As upstream said in answer; may be negative.
    pub remaining: Option<i64>,
}
pub type Reference_ = String;

/// What an identity may still spend, at `now`.
#[derive(Clone, Debug)]
pub struct Left {
    pub identity: Identity,
    /// `None` while upstream never said a limit: unmetered.
    pub limit: Option<i64>,
    /// The newest `remaining` less what is in flight; `None` when unmetered.
    pub remaining: Option<i64>,
    pub window: Option<Duration>,
    /// Our own spends within the window.
    pub spent: u64,
    /// Drops of `remaining` that no spend of ours explains, within the window.
    pub external: u64,
    /// When the next pull comes back, by forecast.
    pub next_at: Option<SystemTime>,
}

/// Nothing left; says when the next pull is forecast.
#[derive(Clone, Debug)]
pub struct Exhausted {
    pub retry_after: Duration,
    pub left: Left,
}

#[derive(Clone, Debug)]
pub struct Ledger;
impl Ledger {
    /// `records` is what was kept before, oldest first.
    pub fn new(records: Vec<bytes::Bytes>, keep: Keep) -> Ledger {
        todo!()
    }
    /// Takes one pull of this identity's budget, durably, or says that there is none.
    pub async fn reserve(&self, identity: &Identity, purpose: Purpose) -> Result<Reservation, Exhausted> {
        todo!()
    }
    pub fn left(&self, identity: &Identity, now: SystemTime) -> Left {
        todo!()
    }
    pub fn identities(&self) -> Vec<Identity> {
        todo!()
    }
    /// Newest first.
    pub fn spends(&self, most: usize) -> Vec<Spend> {
        todo!()
    }
    /// All there are for a repository and, when given, a reference; newest first.
    pub fn explain(&self, repository: &Name, reference: Option<&str>) -> Vec<Spend> {
        todo!()
    }
    /// Records that `Keep` may be asked to replace everything by, when the journal has grown long.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        todo!()
    }
}

/// A pull that is paid for and not sent yet. Dropping it unsent refunds it.
#[derive(Debug)]
pub struct Reservation;
impl Reservation {
    pub fn identity(&self) -> &Identity {
        todo!()
    }
}
