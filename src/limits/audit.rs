//! What was done to whom, by whom and why: append-only, the newest in memory, all of it in the sink that keeps it.

mod search;

pub use self::search::{AuditFilter, AuditPage, EVENTS};

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

/// The one who acts.
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
    /// To a ban: `banned`, `lifted`, `end_moved`, `expired`, `refused`.
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
        /// Why; empty when that was not said.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
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
    /// Content was removed from the cache.
    Purged {
        /// What was selected.
        selection: String,
        /// Bytes that were freed.
        freed: u64,
        /// Why.
        reason: String,
    },
    /// Upstream was asked what a tag names now.
    Refreshed {
        /// The image.
        image: String,
        /// Whether it names something else than before.
        moved: bool,
        /// Why.
        reason: String,
    },
    /// Images are to be fetched before a client asks.
    Warmed {
        /// The number of the job.
        job: u64,
        /// How many images.
        images: u64,
        /// Why.
        reason: String,
    },
    /// A job that fetches images was ended.
    WarmCancelled {
        /// The number of the job.
        job: u64,
        /// Why.
        reason: String,
    },
    /// Cached images were given out as an archive.
    Exported {
        /// What was asked for.
        selection: String,
        /// How many images.
        images: u64,
        /// Bytes of the archive.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// Images were taken in from an archive.
    Imported {
        /// Their names, as many as fit.
        selection: String,
        /// How many images.
        images: u64,
        /// How many were refused.
        refused: u64,
        /// Why.
        reason: String,
    },
    /// A pattern of images was kept from eviction.
    Pinned {
        /// The pattern.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// A pattern is no longer kept from eviction.
    Unpinned {
        /// The pattern.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// The configuration was replaced.
    Reloaded,
    /// A person logged in to the pages.
    LoggedIn,
}

/// Makes the audit durable. `main` implements it over a journal of the store.
pub trait AuditSink: Send + Sync {
    /// Takes an entry, in the order of events, and must not block.
    fn append(&self, entry: &Entry);

    /// Asks for a compaction: times of what was kept have changed.
    fn rewrite(&self) {}
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

    pub(super) fn rewrite(&self) {
        self.sink.rewrite();
    }

    pub(super) fn read<R>(&self, work: impl FnOnce(&AuditLog) -> R) -> R {
        work(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The newest entries.
#[derive(Debug, Default)]
pub(super) struct AuditLog {
    entries: VecDeque<Entry>,
    /// How many were older and are not kept: the number of the oldest that is. A page begins at a number, which does not change while
    /// entries come and go; it does with a restart, which counts anew.
    dropped: u64,
}

impl AuditLog {
    pub(super) fn add(&mut self, entry: Entry) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }

    /// Newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::limits::{
        bans::{BanRecord, Evidence, Lift, Origin},
        penalty::PenaltyLevel,
    };

    fn time() -> impl Strategy<Value = SystemTime> {
        // To the second, until the year 9999.
        (0..253_402_300_799_u64).prop_map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn target() -> impl Strategy<Value = Target> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).to_string()),
            (any::<[u16; 8]>(), 32..=128_u8).prop_map(|(parts, length)| format!("{}/{length}", IpAddr::from(parts))),
            "[a-z][a-z0-9-]{0,30}",
        ]
        .prop_map(|text| text.parse().unwrap())
    }

    fn record() -> impl Strategy<Value = BanRecord> {
        let evidence = (time(), any::<String>(), any::<String>(), any::<String>(), any::<u16>()).prop_map(
            |(at, method, repository, reference, status)| Evidence { at, method, repository, reference, status },
        );
        let lift = (time(), any::<String>(), any::<String>()).prop_map(|(at, by, reason)| Lift { at, by, reason });
        let words = (any::<String>(), any::<String>(), any::<String>(), any::<String>());
        let origin = prop_oneof![Just(Origin::Auto), Just(Origin::Admin), Just(Origin::Imported)];
        let lists = (prop::collection::vec(evidence, 0..3), prop::collection::vec(any::<String>(), 0..3));
        let flags = (any::<u32>(), any::<bool>(), any::<bool>(), 0..5_u8);
        (words, target(), time(), time(), origin, lists, flags, prop::option::of(lift)).prop_map(
            |(words, client, created, until, origin, lists, flags, lifted)| BanRecord {
                id: words.0,
                client,
                created,
                until,
                level: PenaltyLevel::try_from(flags.3).unwrap(),
                rule: words.1,
                origin,
                reason: words.2,
                created_by: words.3,
                evidence: lists.0,
                repositories: lists.1,
                strikes: flags.0,
                simulated: flags.1,
                self_service: flags.2,
                lifted,
            },
        )
    }

    fn event() -> impl Strategy<Value = Event> {
        let mode = || prop_oneof![Just(Mode::Enforce), Just(Mode::DryRun), Just(Mode::Off)];
        let ban = prop_oneof![
            record().prop_map(|record| BanEvent::Banned { record }),
            record().prop_map(|record| BanEvent::Lifted { record }),
            (record(), time(), any::<String>()).prop_map(|(record, before, reason)| BanEvent::EndMoved {
                record,
                before,
                reason
            }),
            (any::<String>(), target()).prop_map(|(id, client)| BanEvent::Expired { id, client }),
            (any::<String>(), any::<String>()).prop_map(|(attempt, reason)| BanEvent::Refused { attempt, reason }),
        ];
        let admin = prop_oneof![
            (any::<String>(), mode(), any::<String>()).prop_map(|(selection, mode, reason)| AdminEvent::Switched {
                selection,
                mode,
                reason
            }),
            (target(), any::<String>(), time()).prop_map(|(client, comment, expires)| AdminEvent::Allowed {
                client,
                comment,
                expires
            }),
            (any::<String>(), any::<u64>(), any::<String>())
                .prop_map(|(selection, freed, reason)| AdminEvent::Purged { selection, freed, reason }),
            (any::<String>(), any::<bool>(), any::<String>())
                .prop_map(|(image, moved, reason)| AdminEvent::Refreshed { image, moved, reason }),
            (any::<u64>(), any::<u64>(), any::<String>()).prop_map(|(job, images, reason)| AdminEvent::Warmed {
                job,
                images,
                reason
            }),
            (any::<u64>(), any::<String>()).prop_map(|(job, reason)| AdminEvent::WarmCancelled { job, reason }),
            (any::<String>(), any::<String>()).prop_map(|(pattern, reason)| AdminEvent::Pinned { pattern, reason }),
            (any::<String>(), any::<String>()).prop_map(|(pattern, reason)| AdminEvent::Unpinned { pattern, reason }),
            (any::<String>(), any::<u64>(), any::<u64>(), any::<String>()).prop_map(
                |(selection, images, bytes, reason)| AdminEvent::Exported { selection, images, bytes, reason }
            ),
            (any::<String>(), any::<u64>(), any::<u64>(), any::<String>()).prop_map(
                |(selection, images, refused, reason)| AdminEvent::Imported { selection, images, refused, reason }
            ),
            Just(AdminEvent::Reloaded),
            Just(AdminEvent::LoggedIn),
        ];
        prop_oneof![ban.prop_map(|event| Event::Ban(Box::new(event))), admin.prop_map(Event::Admin)]
    }

    proptest! {
        #[test]
        fn every_entry_is_read_as_it_was_written(
            at in time(),
            by in any::<String>(),
            from in any::<Option<[u8; 4]>>(),
            event in event(),
        ) {
            let entry = Entry { at, by, from: from.map(IpAddr::from), event };
            let json = serde_json::to_string(&entry).unwrap();
            let name = serde_json::to_value(&entry.event).unwrap()["event"].take();
            prop_assert_eq!(name, entry.event.name());
            prop_assert!(EVENTS.contains(&entry.event.name()));
            prop_assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry, "{}", json);
        }
    }

    #[test]
    fn a_refusal_that_an_older_weir_wrote_with_two_names_is_still_read() {
        let old = r#"{"entry":{"at":"2026-11-28T20:00:00Z","by":"operator","from":"10.0.0.1","event":"refused","by":"operator","attempt":"log in as ops","reason":"wrong name or password"}}"#;
        let kept = crate::limits::state::PersistedState { records: vec![old.as_bytes().to_vec()], usage: None };
        let (limits, unreadable) = crate::limits::Limits::new(
            crate::limits::LimitsConfig::default(),
            &kept,
            Arc::new(|_: &Entry| ()),
            Box::new(|| 0),
            UNIX_EPOCH,
        );
        assert_eq!(unreadable, 0);
        let entry = limits.audit(1).remove(0);
        assert_eq!((&*entry.by, entry.from), ("operator", Some([10, 0, 0, 1].into())));
        assert!(
            matches!(&entry.event, Event::Ban(event) if matches!(&**event, BanEvent::Refused { attempt, .. } if attempt == "log in as ops"))
        );
    }
}
