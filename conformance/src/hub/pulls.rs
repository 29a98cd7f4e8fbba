//! The pull limit: who has how many pulls left, in a sliding window.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use super::content::digest;
use super::settings::Limit;

/// Whose limit a pull is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An IPv4 address, or the first address of an IPv6 /64.
    Address(IpAddr),
    Account(String),
}

impl Source {
    /// The source that an address belongs to.
    pub(super) fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Source::Address(IpAddr::from([a, b, c, d, 0, 0, 0, 0]))
            }
            v4 => Source::Address(v4),
        }
    }

    /// As `docker-ratelimit-source` shows it: the address, or a UUID for an account.
    pub(super) fn shown(&self) -> String {
        match self {
            Source::Address(address) => address.to_string(),
            Source::Account(name) => {
                let hash = digest(name.as_bytes());
                let hex = &hash["sha256:".len()..];
                format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30])
            }
        }
    }
}

/// The pulls of every source. Bounded by the sources of one machine's tests.
#[derive(Debug, Default)]
pub(super) struct Pulls(Mutex<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    of: HashMap<Source, Bucket>,
    /// What `set_addresses` added or took from the addresses not seen yet.
    unseen: i64,
}

impl Buckets {
    fn get(&mut self, source: &Source) -> &mut Bucket {
        let adjustment = if matches!(source, Source::Address(_)) { self.unseen } else { 0 };
        self.of.entry(source.clone()).or_insert_with(|| Bucket { spent: VecDeque::new(), adjustment })
    }
}

#[derive(Debug)]
struct Bucket {
    spent: VecDeque<Instant>,
    /// What `set_budget` added or took.
    adjustment: i64,
}

impl Bucket {
    fn remaining(&mut self, limit: Limit, now: Instant) -> i64 {
        while self.spent.front().is_some_and(|at| now.duration_since(*at) >= limit.window) {
            self.spent.pop_front();
        }
        i64::from(limit.pulls) - self.spent.len() as i64 + self.adjustment
    }
}

impl Pulls {
    /// What is left to that source.
    pub(super) fn remaining(&self, source: &Source, limit: Limit, now: Instant) -> i64 {
        self.0.lock().unwrap().get(source).remaining(limit, now)
    }

    /// Charges one pull, if there is one left, and returns what is left then.
    pub(super) fn spend(&self, source: &Source, limit: Limit, now: Instant) -> Result<i64, OutOfPulls> {
        let mut buckets = self.0.lock().unwrap();
        let bucket = buckets.get(source);
        let remaining = bucket.remaining(limit, now);
        if remaining <= 0 {
            return Err(OutOfPulls);
        }
        bucket.spent.push_back(now);
        Ok(remaining - 1)
    }

    /// Sets what is left to that source.
    pub(super) fn set(&self, source: &Source, limit: Limit, remaining: i64, now: Instant) {
        let mut buckets = self.0.lock().unwrap();
        let bucket = buckets.get(source);
        bucket.adjustment += remaining - bucket.remaining(limit, now);
    }

    /// Sets what is left to every address, those included that come later.
    pub(super) fn set_addresses(&self, limit: Limit, remaining: i64, now: Instant) {
        let mut buckets = self.0.lock().unwrap();
        buckets.unseen = remaining - i64::from(limit.pulls);
        for (_, bucket) in buckets.of.iter_mut().filter(|(source, _)| matches!(source, Source::Address(_))) {
            bucket.adjustment += remaining - bucket.remaining(limit, now);
        }
    }
}

/// No pull is left.
#[derive(Debug)]
pub(super) struct OutOfPulls;
