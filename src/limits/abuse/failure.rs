//! One request that failed, as far as abuse is judged by it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::SystemTime,
};

use crate::{
    client::ClientKey,
    limits::{bans::Evidence, penalty::PenaltyLevel},
};

/// What went wrong, or right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It does not exist, said by upstream or by the negative cache.
    Missing,
    /// Its credentials did not verify.
    AuthFailed,
    /// They did: earlier failures were typing errors.
    AuthSucceeded,
    /// Its `upstream` throttle denied it.
    UpstreamExceeded,
    /// Another throttle denied it.
    Throttled,
    /// This level denied it, or answered in upstream's stead.
    Denied(PenaltyLevel),
}

/// One failure, or one login.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Whose.
    pub client: &'a ClientKey,
    /// From where.
    pub address: IpAddr,
    /// `GET`, `HEAD`, …
    pub method: &'a str,
    /// As the client named it.
    pub repository: &'a str,
    /// Tag or digest.
    pub reference: &'a str,
    /// What was answered.
    pub status: u16,
    /// What it was.
    pub outcome: Outcome,
}

impl Failure<'_> {
    pub(super) fn evidence(&self, now: SystemTime) -> Evidence {
        // Names come from the client: bounded, so that evidence is.
        let short = |text: &str| text.chars().take(256).collect();
        Evidence {
            at: now,
            method: short(self.method),
            repository: short(self.repository),
            reference: short(self.reference),
            status: self.status,
        }
    }
}

/// For telling requests apart; not kept beyond the process.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
