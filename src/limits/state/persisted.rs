//! What outlives the process: the audit with its bans, and what clients have used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Limits, RandomSource, lock, operator_bans::PROBATION};
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

const SECOND: u64 = 1_000_000_000;

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
    /// When this was kept, by the clock and in steady time, in nanoseconds since 1970. The accounts are in steady time.
    #[serde(default)]
    at: Option<(u64, u64)>,
    throttles: Snapshot,
    /// Under which limits.
    #[serde(default)]
    rules: Vec<Throttle>,
    /// (client, nanoseconds since 1970)
    #[serde(default)]
    probation: Vec<(String, u64)>,
}

/// Earlier versions wrote the actor of a refusal twice. A struct cannot be read from that; a map can.
fn read_line(record: &[u8]) -> serde_json::Result<Line> {
    serde_json::from_slice(record)
        .or_else(|_| serde_json::from_slice::<serde_json::Value>(record).and_then(serde_json::from_value))
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
            match read_line(record) {
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
        let steady = self.steady(now);
        let throttles = self.inner.throttles.snapshot(&rules, steady);
        let probation = self.inner.probation.all().into_iter();
        let probation = probation.map(|(client, until)| (client.to_string(), nanos(until))).collect();
        let mut usage = Usage { at: None, throttles, rules: rules.settings(), probation };
        // The same bytes while nothing changed, so that nothing is written.
        let offset = (nanos(now) / SECOND).wrapping_sub(nanos(steady) / SECOND);
        let unchanged = serde_json::to_vec(&(offset, &usage)).unwrap_or_default();
        let mut last = lock(&self.inner.usage);
        if last.0 != unchanged {
            *last = (unchanged, (nanos(now), nanos(steady)));
        }
        usage.at = Some(last.1);
        serde_json::to_vec(&usage).unwrap_or_default()
    }

    /// Steady time begins anew as what the clock says. When that is earlier than what was kept, no time has passed.
    fn restore(&self, usage: Usage, now: SystemTime) {
        let now = self.steady(now);
        let shift = usage.at.map_or(0, |(wall, steady)| {
            i64::try_from(i128::from(wall.min(nanos(now))) - i128::from(steady)).unwrap_or_default()
        });
        self.inner.throttles.restore(&usage.throttles.shifted(shift));
        if let Ok(before) = Rules::new(&usage.rules, &[], Rules::CEILING) {
            self.inner.throttles.requota(&before, &self.config().throttles, now);
        }
        for (client, until) in usage.probation {
            let Ok(client) = client.parse::<ClientKey>();
            let until = SystemTime::UNIX_EPOCH + Duration::from_nanos(until.saturating_add_signed(shift));
            self.inner.probation.begin(client, until.min(now + PROBATION));
        }
    }
}
