//! What the journal of the warms holds.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::job::{Job, JobState, Outcome};

/// One record. What waits is not among them, for after a restart it is tried anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Record {
    /// A job was made, or this is all that is known of it.
    Job { job: Job },
    /// How many bytes a job may bring.
    Room { job: u64, bytes: u64 },
    /// An image of a job is settled.
    Settled { job: u64, item: usize, outcome: Outcome },
    /// A job ended.
    Ended { job: u64, state: JobState, at: SystemTime },
}

impl Record {
    /// As the journal holds it. Nothing in it can fail to be written as JSON; if it did, the log says so.
    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| {
            tracing::error!(%error, "a record of a warm cannot be written");
            Vec::new()
        })
    }
}
