//! What the ledger's journal holds, one JSON object a record.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Spend;
use crate::upstream::Identity;

/// One event. A journal that another version wrote is read as far as it is understood.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Record {
    /// Paid; without one of the next two it is spent.
    Reserved { number: u64, identity: Identity, spend: Spend },
    /// Sent.
    Committed { number: u64, waiters: u32, remaining: Option<i64> },
    /// Never sent.
    Refunded { number: u64 },
    /// A whole entry, in snapshots.
    Spent { spend: Spend },
    /// What upstream last said.
    Observed { identity: Identity, reading: Reading },
    /// Manifest GETs that cost nothing, and since when they are counted.
    Saved { count: u64, since: SystemTime },
    /// Others spent.
    External { identity: Identity, at: SystemTime, count: u64 },
}

/// What upstream said of a budget, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) limit: Option<i64>,
    pub(super) remaining: i64,
    pub(super) window: Option<Duration>,
    pub(super) at: SystemTime,
    /// The pull limit refused, and this is how long that holds unless a later answer says more.
    #[serde(default)]
    pub(super) closed_until: Option<SystemTime>,
}

impl Record {
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        // Only a time before 1970 fails, and such a record says nothing worth keeping.
        serde_json::to_vec(self).ok()
    }
}
