//! Counted pulls that were not granted at once: a ring of the newest, for a replay under another policy. Nothing is decided by it. Pure.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::policy::RefusalReason;
use crate::{
    client::{Class, ClientKey},
    upstream::Identity,
};

/// A pull that the budget held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPull {
    /// When it was first asked for.
    pub at: SystemTime,
    /// Whose budget it would have been: of several that of which a pull would have come back first.
    pub identity: Identity,
    /// As upstream names it.
    pub repository: String,
    /// The tag or digest.
    pub reference: String,
    /// Who asked, as [`ClientKey`] prints it.
    pub client: Arc<str>,
    /// As it was then.
    pub class: Class,
    /// Why it was not granted at once.
    pub why: RefusalReason,
    /// Whether it was granted after a wait in the queue; a spend of the ledger is the same pull then.
    pub granted: bool,
    /// How often the client has asked for it so far; at least once.
    pub times: u32,
}

impl HeldPull {
    /// The client as a key.
    pub fn key(&self) -> ClientKey {
        self.client.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
    }

    /// The same for what one client asks of one budget, again and again.
    fn wish(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.identity, &self.repository, &self.reference, &self.client).hash(&mut hasher);
        hasher.finish()
    }
}

/// The newest of them, oldest first.
#[derive(Debug, Default)]
pub struct HeldPulls {
    pulls: VecDeque<HeldPull>,
    /// By wish, the number of its newest entry, where the first that ever was has number 0.
    newest: HashMap<u64, u64>,
    /// Entries that were forgotten.
    forgotten: u64,
    /// Entries from this number on are not on disk.
    unkept: u64,
}

impl HeldPulls {
    /// Entries that are remembered: of about 300 bytes each, 1.2 MiB.
    pub const MOST: usize = 4096;
    /// A client that asks again within this time asks for the same pull: clients try again for minutes.
    const SAME: Duration = Duration::from_secs(600);

    /// A pull that was held back. That of a client that asked for the same a moment ago is counted with that one.
    pub fn add(&mut self, pull: HeldPull) {
        let wish = pull.wish();
        if let Some(same) = self.newest.get(&wish).and_then(|number| self.index(*number))
            && let Some(known) = self.pulls.get_mut(same)
            && !known.granted
            && pull.at.duration_since(known.at).is_ok_and(|passed| passed < Self::SAME)
        {
            known.times = known.times.saturating_add(1);
            known.granted = pull.granted;
            return;
        }
        if self.pulls.len() >= Self::MOST
            && let Some(oldest) = self.pulls.pop_front()
        {
            let wish = oldest.wish();
            if self.newest.get(&wish) == Some(&self.forgotten) {
                self.newest.remove(&wish);
            }
            self.forgotten += 1;
        }
        self.newest.insert(wish, self.end());
        self.pulls.push_back(pull);
    }

    /// All that are remembered, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &HeldPull> {
        self.pulls.iter()
    }

    /// Those that were added since the last call, oldest first: what a journal lacks. A retry that is counted later is not among them.
    pub fn take_unkept(&mut self) -> Vec<HeldPull> {
        let from = self.index(self.unkept).unwrap_or(self.pulls.len());
        self.unkept = self.end();
        self.pulls.iter().skip(from).cloned().collect()
    }

    /// All that are remembered, as what the journal is to hold.
    pub fn take_all(&mut self) -> Vec<HeldPull> {
        self.unkept = self.end();
        self.pulls.iter().cloned().collect()
    }

    /// The number of the next entry.
    fn end(&self) -> u64 {
        self.forgotten + self.pulls.len() as u64
    }

    /// Where an entry is; the first when it was forgotten, nothing when it is yet to come.
    fn index(&self, number: u64) -> Option<usize> {
        let index = usize::try_from(number.saturating_sub(self.forgotten)).ok()?;
        (index < self.pulls.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn pull(seconds: u64, client: u64, reference: u64) -> HeldPull {
        HeldPull {
            at: UNIX_EPOCH + Duration::from_secs(seconds),
            identity: Identity { upstream: "docker.io".into(), account: None },
            repository: "library/a".into(),
            reference: reference.to_string(),
            client: format!("10.0.{}.{}", client / 256, client % 256).into(),
            class: Class::Standard,
            why: RefusalReason::Exhausted,
            granted: false,
            times: 1,
        }
    }

    #[test]
    fn retries_of_a_client_are_one_pull_and_those_of_another_client_or_of_later_are_not() {
        let mut held = HeldPulls::default();
        for (seconds, client, reference) in [(0, 1, 1), (5, 1, 1), (6, 2, 1), (7, 1, 2), (599, 1, 1), (600, 1, 1)] {
            held.add(pull(seconds, client, reference));
        }
        held.add(HeldPull { granted: true, ..pull(601, 1, 1) });
        held.add(pull(602, 1, 1));
        let all: Vec<_> = held.all().map(|pull| (&*pull.client, &*pull.reference, pull.times, pull.granted)).collect();
        let expected = [
            ("10.0.0.1", "1", 3, false),
            ("10.0.0.2", "1", 1, false),
            ("10.0.0.1", "2", 1, false),
            ("10.0.0.1", "1", 2, true),
            ("10.0.0.1", "1", 1, false),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn the_ring_has_a_bound_and_each_entry_is_kept_once() {
        let mut held = HeldPulls::default();
        held.add(pull(0, 0, 0));
        assert_eq!((held.take_unkept().len(), held.take_unkept().len()), (1, 0));
        for number in 1..=2 * HeldPulls::MOST as u64 {
            held.add(pull(number, number, number));
        }
        assert_eq!((held.all().count(), held.newest.len()), (HeldPulls::MOST, HeldPulls::MOST));
        assert_eq!(held.all().next(), Some(&pull(4097, 4097, 4097)), "the oldest are forgotten");
        assert_eq!((held.take_unkept().len(), held.take_unkept().len()), (HeldPulls::MOST, 0));
        held.add(pull(9000, 1, 1));
        assert_eq!(held.take_unkept(), [pull(9000, 1, 1)]);
        // What was forgotten and is asked for again is a pull of its own.
        held.add(pull(9001, 0, 0));
        assert_eq!(held.all().last(), Some(&pull(9001, 0, 0)));
    }
}
