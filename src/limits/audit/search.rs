//! Which entries of the audit an operator looks for, a page of them at a time.

use super::{AdminEvent, AuditLog, Entry, Event};
use crate::limits::bans::{BanEvent, BanRecord};

/// The names of all events, as the API and the filter of the page have them.
pub const EVENTS: [&str; 17] = [
    "allowed",
    "banned",
    "end_moved",
    "expired",
    "exported",
    "imported",
    "lifted",
    "logged_in",
    "pinned",
    "purged",
    "refreshed",
    "refused",
    "reloaded",
    "switched",
    "unpinned",
    "warm_cancelled",
    "warmed",
];

/// Which entries are wanted. What is empty wants all.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// One of [`EVENTS`].
    pub event: String,
    /// A part of the name of who did it.
    pub by: String,
    /// A part of what it says: a client, an address, an image, the ID of a ban, a reason.
    pub text: String,
}

impl AuditFilter {
    fn wants(&self, entry: &Entry) -> bool {
        (self.event.is_empty() || entry.event.name() == self.event)
            && entry.by.contains(&self.by)
            && (self.text.is_empty() || entry.mentions(&self.text))
    }
}

/// Entries, newest first.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// As many as were wanted, at most.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` when this is the last one.
    pub next: Option<u64>,
}

impl AuditLog {
    /// The newest `most` of the entries that are wanted, of those before this place.
    pub(in crate::limits) fn find(&self, filter: &AuditFilter, before: Option<u64>, most: usize) -> AuditPage {
        let number = |index: usize| self.dropped + index as u64;
        let numbered = self.entries.iter().enumerate().rev().map(|(index, entry)| (number(index), entry));
        let earlier = numbered.filter(|(number, _)| before.is_none_or(|before| *number < before));
        let mut wanted = earlier.filter(|(_, entry)| filter.wants(entry)).peekable();
        let page: Vec<_> = wanted.by_ref().take(most).collect();
        let next = wanted.peek().and(page.last()).map(|(number, _)| *number);
        AuditPage { entries: page.into_iter().map(|(_, entry)| entry.clone()).collect(), next }
    }
}

impl Event {
    /// Its name, one of [`EVENTS`].
    pub fn name(&self) -> &'static str {
        match self {
            Event::Ban(event) => match &**event {
                BanEvent::Banned { .. } => "banned",
                BanEvent::Lifted { .. } => "lifted",
                BanEvent::EndMoved { .. } => "end_moved",
                BanEvent::Expired { .. } => "expired",
                BanEvent::Refused { .. } => "refused",
            },
            Event::Admin(event) => match event {
                AdminEvent::Switched { .. } => "switched",
                AdminEvent::Allowed { .. } => "allowed",
                AdminEvent::Purged { .. } => "purged",
                AdminEvent::Refreshed { .. } => "refreshed",
                AdminEvent::Warmed { .. } => "warmed",
                AdminEvent::WarmCancelled { .. } => "warm_cancelled",
                AdminEvent::Exported { .. } => "exported",
                AdminEvent::Imported { .. } => "imported",
                AdminEvent::Pinned { .. } => "pinned",
                AdminEvent::Unpinned { .. } => "unpinned",
                AdminEvent::Reloaded => "reloaded",
                AdminEvent::LoggedIn => "logged_in",
            },
        }
    }
}

impl Entry {
    /// Whether the address, or what is said of the event, has this part.
    fn mentions(&self, part: &str) -> bool {
        let has = |texts: &[&str]| texts.iter().any(|text| text.contains(part));
        self.from.is_some_and(|from| from.to_string().contains(part))
            || match &self.event {
                Event::Ban(event) => of_ban(event, &has),
                Event::Admin(event) => of_admin(event, &has),
            }
    }
}

fn of_ban(event: &BanEvent, has: &dyn Fn(&[&str]) -> bool) -> bool {
    let of = |BanRecord { id, client, rule, reason, .. }: &BanRecord| has(&[id, &client.to_string(), rule, reason]);
    match event {
        BanEvent::Banned { record } => of(record),
        BanEvent::Lifted { record } => of(record) || record.lifted.as_ref().is_some_and(|lift| has(&[&lift.reason])),
        BanEvent::EndMoved { record, reason, .. } => of(record) || has(&[reason]),
        BanEvent::Expired { id, client } => has(&[id, &client.to_string()]),
        BanEvent::Refused { attempt, reason } => has(&[attempt, reason]),
    }
}

fn of_admin(event: &AdminEvent, has: &dyn Fn(&[&str]) -> bool) -> bool {
    match event {
        AdminEvent::Allowed { client, comment, .. } => has(&[&client.to_string(), comment]),
        AdminEvent::Refreshed { image, reason, .. } => has(&[image, reason]),
        AdminEvent::Warmed { job, reason, .. } | AdminEvent::WarmCancelled { job, reason } => {
            has(&[&job.to_string(), reason])
        }
        AdminEvent::Switched { selection, reason, .. }
        | AdminEvent::Purged { selection, reason, .. }
        | AdminEvent::Exported { selection, reason, .. }
        | AdminEvent::Imported { selection, reason, .. } => has(&[selection, reason]),
        AdminEvent::Pinned { pattern, reason } | AdminEvent::Unpinned { pattern, reason } => has(&[pattern, reason]),
        AdminEvent::Reloaded | AdminEvent::LoggedIn => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::limits::audit::MAX_ENTRIES;

    #[test]
    fn pages_follow_each_other_while_entries_are_added_and_the_oldest_are_dropped() {
        let mut log = AuditLog::default();
        let entry = |number: u64| {
            let event = AdminEvent::Pinned { pattern: format!("image-{number}-"), reason: String::new() };
            let by = if number.is_multiple_of(2) { "even" } else { "odd" };
            let at = UNIX_EPOCH + Duration::from_secs(number);
            Entry { at, by: by.to_owned(), from: None, event: Event::Admin(event) }
        };
        let all = MAX_ENTRIES as u64;
        (0..all).for_each(|number| log.add(entry(number)));
        let odd = AuditFilter { by: "odd".into(), ..AuditFilter::default() };
        let numbers = |page: &AuditPage| -> Vec<u64> {
            page.entries.iter().map(|entry| entry.at.duration_since(UNIX_EPOCH).unwrap().as_secs()).collect()
        };
        let first = log.find(&odd, None, 3);
        assert_eq!(numbers(&first), [all - 1, all - 3, all - 5]);
        (all..all + 7).for_each(|number| log.add(entry(number)));
        let second = log.find(&odd, first.next, 3);
        assert_eq!(numbers(&second), [all - 7, all - 9, all - 11]);
        let one = AuditFilter { text: format!("image-{}-", all - 20), ..AuditFilter::default() };
        let found = log.find(&one, second.next, 3);
        assert_eq!((numbers(&found), found.next), (vec![all - 20], None));
        let oldest = log.find(&AuditFilter::default(), Some(9), 3);
        assert_eq!((numbers(&oldest), oldest.next), (vec![8, 7], None), "seven were dropped");
        assert_eq!(log.find(&AuditFilter { event: "purged".into(), ..odd }, None, 3).entries, []);
    }
}
