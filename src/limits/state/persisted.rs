//! What outlives the process: the audit with its bans, and what clients have used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Limits, RandomSource};
use crate::{
    client::ClientKey,
    limits::{
        audit::{AuditLog, AuditSink, Entry, Event},
        bans::{BanList, BanRecord},
        config::LimitsConfig,
        throttle::{Rules, Snapshot, Throttle},
        time::nanos,
    },
};

/// What was kept of an earlier process.
#[derive(Clone, Debug, Default)]
pub struct PersistedState {
    /// What the [`AuditSink`] was given, or [`Limits::records`] said, oldest first, as JSON.
    pub records: Vec<Vec<u8>>,
    /// What [`Limits::usage`] said last, as JSON; nothing when absent.
    pub usage: Option<Vec<u8>>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Entry(Box<Entry>),
    /// All bans; stands for every entry before it.
    #[serde(rename = "book")]
    Bans(Vec<BanRecord>),
}

/// What clients have used.
#[derive(Serialize, Deserialize)]
struct Usage {
    throttles: Snapshot,
    /// Under which limits.
    #[serde(default)]
    rules: Vec<Throttle>,
    /// (client, nanoseconds since 1970)
    #[serde(default)]
    probation: Vec<(String, u64)>,
}

impl Limits {
    /// Takes up what was kept. What cannot be read of it is skipped, and the number of such records is returned.
    pub fn new(
        config: LimitsConfig,
        kept: &PersistedState,
        sink: Arc<dyn AuditSink>,
        random: RandomSource,
        now: SystemTime,
    ) -> (Limits, usize) {
        let (mut bans, mut audit, mut unreadable) = (BanList::default(), AuditLog::default(), 0);
        for record in &kept.records {
            match serde_json::from_slice(record) {
                Ok(Line::Entry(entry)) => {
                    if let Event::Ban(event) = &entry.event {
                        bans.replay(event, now);
                    }
                    audit.add(*entry);
                }
                Ok(Line::Bans(records)) => bans = BanList::of(records, now),
                Err(_) => unreadable += 1,
            }
        }
        let limits = Limits::assemble(config, bans, audit, sink, random);
        if let Some(usage) = &kept.usage {
            match serde_json::from_slice::<Usage>(usage) {
                Ok(usage) => limits.restore(usage, now),
                Err(_) => unreadable += 1,
            }
        }
        (limits, unreadable)
    }

    /// Limits that are not kept, for tests and tools.
    pub fn in_memory(config: LimitsConfig) -> Limits {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = AtomicU64::new(STEP);
        let random = move || number.fetch_add(STEP, Ordering::Relaxed);
        let sink = Arc::new(|_: &Entry| ());
        Limits::assemble(config, BanList::default(), AuditLog::default(), sink, Box::new(random))
    }

    /// An entry as a line of the journal.
    pub fn record(entry: &Entry) -> Vec<u8> {
        // Entries hold nothing that JSON cannot.
        serde_json::to_vec(&Line::Entry(Box::new(entry.clone()))).unwrap_or_default()
    }

    /// Lines that say everything the audit and the bans know.
    pub fn records(&self) -> Vec<Vec<u8>> {
        let mut records: Vec<_> = self.inner.audit.read(|audit| audit.all().map(Limits::record).collect());
        let bans = self.inner.bans.read(|list| list.all().cloned().collect());
        records.extend(serde_json::to_vec(&Line::Bans(bans)));
        records
    }

    /// What clients have used, as JSON: kept every few seconds and at the end.
    pub fn usage(&self, now: SystemTime) -> Vec<u8> {
        let rules = self.config().throttles.clone();
        let throttles = self.inner.throttles.snapshot(&rules, now);
        let probation = self.inner.probation.all().into_iter();
        let probation = probation.map(|(client, until)| (client.to_string(), nanos(until))).collect();
        serde_json::to_vec(&Usage { throttles, rules: rules.settings(), probation }).unwrap_or_default()
    }

    fn restore(&self, usage: Usage, now: SystemTime) {
        self.inner.throttles.restore(&usage.throttles);
        if let Ok(before) = Rules::new(&usage.rules, &[], Rules::CEILING) {
            self.inner.throttles.requota(&before, &self.config().throttles, now);
        }
        for (client, until) in usage.probation {
            let Ok(client) = client.parse::<ClientKey>();
            self.inner.probation.begin(client, SystemTime::UNIX_EPOCH + Duration::from_nanos(until));
        }
    }
}
