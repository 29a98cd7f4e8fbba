//! What was done to whom, by whom and why: append-only, the newest in memory, all of it with whoever keeps it.

use std::{collections::VecDeque, net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    ban::{self, Target},
    throttle::Mode,
};

/// Entries that are shown and survive a compaction (10,000). Older ones are in the log that each entry leaves.
pub const MOST_ENTRIES: usize = 10_000;

/// Whoever acts.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    /// The account, `operator` for who needs no login, `auto` for a rule.
    pub name: String,
    /// From where, when from somewhere.
    pub from: Option<IpAddr>,
}

impl Operator {
    /// A rule, or the passing of time.
    pub fn auto() -> Operator {
        Operator { name: "auto".to_owned(), from: None }
    }

    /// A person, at an address or at the local socket.
    pub fn new(name: impl Into<String>, from: Option<IpAddr>) -> Operator {
        Operator { name: name.into(), from }
    }
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    #[serde(with = "ban::time")]
    pub at: SystemTime,
    /// Who.
    pub by: String,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// What; its `event` is the name.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum What {
    /// To a ban: `banned`, `lifted`, `expired`, `refused`.
    Ban(Box<ban::Event>),
    /// To something else.
    Other(Other),
}

/// What happens besides bans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Other {
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
        #[serde(with = "ban::time")]
        expires: SystemTime,
    },
    /// The configuration was replaced.
    Reloaded,
    /// Somebody logged in to the pages.
    LoggedIn,
}

/// The newest entries.
#[derive(Debug, Default)]
pub(super) struct Audit(VecDeque<Entry>);

impl Audit {
    pub(super) fn add(&mut self, entry: Entry) {
        if self.0.len() >= MOST_ENTRIES {
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
        for what in [
            What::Ban(Box::new(ban::Event::Expired { id: "1".into(), client: "10.0.0.7".parse().unwrap() })),
            What::Other(Other::Switched { selection: "*".into(), mode: Mode::Off }),
            What::Other(Other::Reloaded),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(1);
            let entry = Entry { at, by: "ann".into(), from: Some([10, 0, 0, 1].into()), what };
            let json = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry, "{json}");
        }
    }
}
