//! What was done to whom, by whom and why: append-only, the newest in memory, all of it with whoever keeps it.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{bans::BanEvent, target::Target, throttle::Mode, time::rfc3339};

/// Entries that are shown and survive a compaction (10,000). Older ones are in the log that each entry leaves.
pub const MAX_ENTRIES: usize = 10_000;

/// Whoever acts.
#[derive(Clone, Debug, PartialEq)]
pub struct Actor {
    /// The account, `operator` for who needs no login, `auto` for a rule.
    pub name: String,
    /// From where, when from somewhere.
    pub from: Option<IpAddr>,
}

impl Actor {
    /// A rule, or the passing of time.
    pub fn auto() -> Actor {
        Actor { name: "auto".to_owned(), from: None }
    }

    /// A person, at an address or at the local socket.
    pub fn new(name: impl Into<String>, from: Option<IpAddr>) -> Actor {
        Actor { name: name.into(), from }
    }
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// Who.
    pub by: String,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// What; its `event` is the name.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// To a ban: `banned`, `lifted`, `expired`, `refused`.
    Ban(Box<BanEvent>),
    /// To something else.
    Admin(AdminEvent),
}

/// What happens besides bans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AdminEvent {
    /// A throttle was switched by hand.
    Switched {
        /// A name, the beginning of names, or `*`.
        selection: String,
        /// To what.
        mode: Mode,
    },
    /// A client was put on the allowlist by hand, until a restart or for good in the file.
    Allowed {
        /// Whom.
        client: Target,
        /// Why.
        comment: String,
        /// Until when.
        #[serde(with = "rfc3339")]
        expires: SystemTime,
    },
    /// The configuration was replaced.
    Reloaded,
    /// Somebody logged in to the pages.
    LoggedIn,
}

/// Makes the audit durable. `main` implements it over a journal of the store.
pub trait AuditSink: Send + Sync {
    /// Takes an entry, in the order of events, and must not block.
    fn append(&self, entry: &Entry);
}

impl<F: Fn(&Entry) + Send + Sync> AuditSink for F {
    fn append(&self, entry: &Entry) {
        self(entry);
    }
}

/// The audit: its newest entries in memory, every entry in the sink.
pub(super) struct Audit {
    newest: Mutex<AuditLog>,
    sink: Arc<dyn AuditSink>,
}

impl Audit {
    pub(super) fn new(newest: AuditLog, sink: Arc<dyn AuditSink>) -> Audit {
        Audit { newest: Mutex::new(newest), sink }
    }

    pub(super) fn record(&self, entry: Entry) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // Written under the lock, so that the journal has the order of the audit.
        self.sink.append(&entry);
        newest.add(entry);
    }

    pub(super) fn read<R>(&self, work: impl FnOnce(&AuditLog) -> R) -> R {
        work(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The newest entries.
#[derive(Debug, Default)]
pub(super) struct AuditLog(VecDeque<Entry>);

impl AuditLog {
    pub(super) fn add(&mut self, entry: Entry) {
        if self.0.len() >= MAX_ENTRIES {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    /// Newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().rev()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        for event in [
            Event::Ban(Box::new(BanEvent::Expired { id: "1".into(), client: "10.0.0.7".parse().unwrap() })),
            Event::Admin(AdminEvent::Switched { selection: "*".into(), mode: Mode::Off }),
            Event::Admin(AdminEvent::Reloaded),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(1);
            let entry = Entry { at, by: "ann".into(), from: Some([10, 0, 0, 1].into()), event };
            let json = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry, "{json}");
        }
    }
}
