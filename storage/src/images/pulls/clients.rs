//! The clients of the record of pulls: each has a number, and a reference has the last five.

use std::collections::{HashMap, HashSet};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

/// The client of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Puller {
    /// Anonymous: the bits of its IPv6 address, into which that of IPv4 is mapped. Storage knows no network.
    Address(u128),
    /// The name of its account.
    Account(std::sync::Arc<str>),
}

/// The last clients that are remembered of a reference.
pub(super) const CLIENTS: usize = 5;
/// Clients that are known at once, of some 100 bytes each. The ones that pulled longest ago are forgotten.
const MOST: usize = 65_536;

/// The last clients of a reference, by number, and when each pulled in seconds since 1970. A number of zero is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last([(u32, u32); CLIENTS]);

impl Last {
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.into_iter().filter(|(number, _)| *number > 0)
    }

    /// A client pulled; the one that did so longest ago makes place for it.
    pub(super) fn add(&mut self, number: u32, at: u32) {
        if let Some((_, last)) = self.0.iter_mut().find(|(known, _)| *known == number) {
            *last = at.max(*last);
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|(number, last)| (*number > 0, *last))
            && (oldest.0 == 0 || oldest.1 <= at)
        {
            *oldest = (number, at);
        }
    }

    pub(super) fn retain(&mut self, stays: impl Fn(u32) -> bool) {
        for entry in &mut self.0 {
            if !stays(entry.0) {
                *entry = (0, 0);
            }
        }
    }
}

/// Which client has which number.
#[derive(Debug, Default)]
pub(super) struct Clients {
    numbers: HashMap<Puller, u32, RandomState>,
    /// By number, from one on.
    names: Vec<Option<Puller>>,
    free: Vec<u32>,
}

/// When each client pulled last, by number; zero when no record names it.
pub(super) struct Latest(Vec<u32>);

impl Latest {
    pub(super) fn note(&mut self, number: u32, at: u32) {
        if let Some(last) = self.0.get_mut(number as usize - 1) {
            // One that pulled at the epoch did pull.
            *last = at.max(*last).max(1);
        }
    }
}

impl Clients {
    /// Whether some are to be forgotten before another reference is recorded.
    pub(super) fn is_full(&self) -> bool {
        self.numbers.len() + CLIENTS > MOST
    }

    /// The number of a client, a new one when it has none; `None` when there is no space.
    pub(super) fn number(&mut self, client: &Puller) -> Option<u32> {
        if let Some(number) = self.numbers.get(client) {
            return Some(*number);
        }
        if self.numbers.len() >= MOST {
            return None;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.names.push(None);
                u32::try_from(self.names.len()).ok()?
            }
        };
        *self.names.get_mut(number as usize - 1)? = Some(client.clone());
        self.numbers.insert(client.clone(), number);
        Some(number)
    }

    /// The names of the last clients of a reference.
    pub(super) fn named(&self, last: &Last) -> Vec<(Puller, u32)> {
        let name = |(number, at): (u32, u32)| Some((self.names.get(number as usize - 1)?.clone()?, at));
        last.iter().filter_map(name).collect()
    }

    pub(super) fn never(&self) -> Latest {
        Latest(vec![0; self.names.len()])
    }

    /// Forgets those that no record names, and a sixteenth of all at least, those that pulled longest ago. Gives their numbers.
    pub(super) fn forget(&mut self, last: &Latest) -> HashSet<u32, RandomState> {
        let numbered = self.numbers.values().map(|number| (last.0[*number as usize - 1], *number));
        let mut by_age: Vec<(u32, u32)> = numbered.collect();
        by_age.sort_unstable();
        let unnamed = by_age.iter().take_while(|(last, _)| *last == 0).count();
        by_age.truncate(unnamed.max(MOST / 16));
        let gone: HashSet<u32, RandomState> = by_age.into_iter().map(|(_, number)| number).collect();
        self.numbers.retain(|_, number| !gone.contains(number));
        for number in &gone {
            self.names[*number as usize - 1] = None;
        }
        self.free.extend(&gone);
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Puller {
        Puller::Address(number.into())
    }

    #[test]
    fn the_last_five_clients_of_a_reference_stay() {
        let mut last = Last::default();
        for (number, at) in [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (2, 60), (6, 55), (7, 5)] {
            last.add(number, at);
        }
        let mut kept: Vec<_> = last.iter().collect();
        kept.sort();
        assert_eq!(kept, [(2, 60), (3, 30), (4, 40), (5, 50), (6, 55)]);
        last.retain(|number| number % 2 == 0);
        assert_eq!(last.iter().count(), 3);
    }

    #[test]
    fn there_is_space_for_a_new_client_and_the_last_ones_stay() {
        let mut clients = Clients::default();
        let most = MOST as u32;
        for number in 0..most {
            assert!(clients.number(&client(number)).is_some());
        }
        assert_eq!((clients.number(&client(most)), clients.number(&client(0))), (None, Some(1)));
        let mut last = clients.never();
        // The second half is named, the earlier the longer ago; of the first half none is.
        (most / 2..most).for_each(|number| last.note(number + 1, number));
        assert_eq!(clients.forget(&last).len(), MOST / 2);
        assert_eq!(clients.named(&Last([(most, 1), (1, 1), (0, 0), (0, 0), (0, 0)])), [(client(most - 1), 1)]);
        let mut last = clients.never();
        (most / 2..most).for_each(|number| last.note(number + 1, number));
        let gone = clients.forget(&last);
        assert!(gone.len() == MOST / 16 && gone.contains(&(most / 2 + 1)) && !gone.contains(&most));
        assert!(clients.number(&client(most)).is_some());
    }
}
