//! Who spent how much in the window: a sliding log of a few hundred entries.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::client::ClientKey;

/// What clients spent of one identity, oldest first.
#[derive(Clone, Debug, Default)]
pub struct SpendLog {
    log: VecDeque<(SystemTime, ClientKey)>,
    /// The same by client.
    by_client: HashMap<ClientKey, VecDeque<SystemTime>>,
    /// The same of warms, which are no clients.
    by_warm: HashMap<ClientKey, VecDeque<SystemTime>>,
    /// The window, as last aged by.
    window: Duration,
}

impl SpendLog {
    /// Docker Hub's, until upstream says another.
    pub const WINDOW: Duration = Duration::from_secs(6 * 3600);
    /// Entries that are kept: past it the oldest are forgotten, which can only favour a client.
    const MOST: usize = 20_000;

    /// One pull.
    pub fn add(&mut self, client: &ClientKey, now: SystemTime) {
        if self.log.len() >= Self::MOST {
            self.forget_oldest();
        }
        self.log.push_back((now, client.clone()));
        self.times(client).entry(client.clone()).or_default().push_back(now);
    }

    /// Not a pull after all.
    pub fn remove(&mut self, client: &ClientKey) {
        if let Some(at) = self.log.iter().rposition(|(_, spender)| spender == client) {
            self.log.remove(at);
            self.uncount(client, VecDeque::pop_back);
        }
    }

    /// Forgets what left the window.
    pub fn age(&mut self, window: Duration, now: SystemTime) {
        self.window = window;
        // Spends in the future were booked before the clock was set back: they keep their distance from each other.
        if let Some(ahead) = self.log.back().and_then(|(newest, _)| newest.duration_since(now).ok()) {
            let spenders = self.by_client.values_mut().chain(self.by_warm.values_mut());
            let times = self.log.iter_mut().map(|(at, _)| at).chain(spenders.flatten());
            times.for_each(|at| *at = at.checked_sub(ahead).unwrap_or(UNIX_EPOCH));
        }
        while self.log.front().is_some_and(|(at, _)| now.duration_since(*at).is_ok_and(|age| age >= window)) {
            self.forget_oldest();
        }
    }

    /// What this client spent.
    pub fn of(&self, client: &ClientKey) -> u32 {
        let times = self.by_client.get(client).or_else(|| self.by_warm.get(client));
        times.map_or(0, |times| u32::try_from(times.len()).unwrap_or(u32::MAX))
    }

    /// What all spent.
    pub fn total(&self) -> usize {
        self.log.len()
    }

    /// What warms spent.
    pub fn warmed(&self) -> u64 {
        self.by_warm.values().map(|times| times.len() as u64).sum()
    }

    /// What each client spent, the most first.
    pub fn all(&self) -> Vec<(ClientKey, u32)> {
        let spenders = self.by_client.keys().chain(self.by_warm.keys());
        let mut all: Vec<_> = spenders.map(|client| (client.clone(), self.of(client))).collect();
        all.sort_by_key(|(_, spent)| std::cmp::Reverse(*spent));
        all
    }

    /// Whether another client spent; a warm is none.
    pub fn others(&self, client: &ClientKey) -> bool {
        self.by_client.len() > usize::from(self.by_client.contains_key(client))
    }

    /// When the oldest pull of this client leaves the window.
    pub fn frees_at(&self, client: &ClientKey) -> Option<SystemTime> {
        self.by_client.get(client)?.front().map(|at| *at + self.window)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, client)) = self.log.pop_front() {
            self.uncount(&client, VecDeque::pop_front);
        }
    }

    fn uncount(&mut self, client: &ClientKey, pop: fn(&mut VecDeque<SystemTime>) -> Option<SystemTime>) {
        let spenders = self.times(client);
        if let Some(times) = spenders.get_mut(client) {
            pop(times);
            if times.is_empty() {
                spenders.remove(client);
            }
        }
    }

    fn times(&mut self, client: &ClientKey) -> &mut HashMap<ClientKey, VecDeque<SystemTime>> {
        if client.is_warm() { &mut self.by_warm } else { &mut self.by_client }
    }
}
