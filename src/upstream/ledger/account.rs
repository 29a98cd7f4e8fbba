//! One identity's budget: what upstream said, what is in flight, and the sliding log. Pure; time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::{
    Balance,
    entry::BLIND_WAIT,
    record::{Reading, Record},
};
use crate::upstream::{identity::Identity, ratelimit::RateLimit};

/// How far back spends are counted while no window is known.
const A_DAY: Duration = Duration::from_secs(86_400);
/// Spends remembered for the forecast; more of them in one window count as spent, but are not forecast one by one.
const LONGEST_LOG: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Account {
    reading: Option<Reading>,
    /// Grows whenever the reading changes, so that an answer is distinguished from one that crossed it.
    version: u64,
    /// The version at which the reading last went up.
    raised: u64,
    /// Grows whenever less may be left than before.
    decreases: u64,
    in_flight: i64,
    /// Requests of ours sent since the last reading, which may explain a drop.
    unexplaining: i64,
    /// When we spent, oldest first, so that counting is a binary search.
    spent: VecDeque<SystemTime>,
    /// When others did, and how much.
    external: VecDeque<(SystemTime, u64)>,
}

impl Account {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn reserve(&mut self, at: SystemTime) {
        self.decreases += 1;
        self.in_flight += 1;
        self.unexplaining += 1;
        self.spent_at(at);
    }

    pub(super) fn refund(&mut self, at: SystemTime) {
        self.in_flight -= 1;
        self.unexplaining = (self.unexplaining - 1).max(0);
        let index = self.spent.partition_point(|spent| *spent < at);
        if self.spent.get(index) == Some(&at) {
            self.spent.remove(index);
        }
    }

    pub(super) fn answered(&mut self) {
        self.in_flight -= 1;
    }

    pub(super) fn spent_at(&mut self, at: SystemTime) {
        if self.spent.len() == LONGEST_LOG {
            self.spent.pop_front();
        }
        // Nearly always the end; not when the clock was set back.
        self.spent.insert(self.spent.partition_point(|spent| *spent <= at), at);
    }

    pub(super) fn external_at(&mut self, at: SystemTime, count: u64) {
        if self.external.len() == LONGEST_LOG {
            self.external.pop_front();
        }
        self.external.push_back((at, count));
    }

    pub(super) fn restore(&mut self, reading: Reading) {
        self.reading = Some(reading);
        self.version += 1;
        // As in `observe`: what is answered already is within this reading.
        self.unexplaining = self.unexplaining.min(self.in_flight);
    }

    /// Takes what upstream said to a request that was sent at `asked`, a former [`Account::version`]. Returns the new reading if
    /// it differs from the last one, and how much others were found to have spent.
    pub(super) fn observe(&mut self, asked: u64, said: RateLimit, now: SystemTime) -> Option<(Reading, u64)> {
        self.prune(now);
        let mut remaining = said.remaining?;
        let mut external = 0;
        let before = self.reading;
        if let Some(reading) = before {
            let crossed = asked < self.version;
            if crossed {
                remaining = remaining.min(reading.remaining);
            }
            let drop = reading.remaining.saturating_sub(remaining).max(0);
            let ours = drop.min(self.unexplaining);
            self.unexplaining -= ours;
            // An answer that is older than a rise is lower for that reason alone. And after a refusal
            // nothing is known of what was left before it.
            if drop > ours && asked >= self.raised && reading.closed_until.is_none() {
                external = (drop - ours).unsigned_abs();
                self.external_at(now, external);
            }
        }
        self.unexplaining = self.unexplaining.min(self.in_flight);
        let limit = said.limit.or(before.and_then(|reading| reading.limit));
        let window = said.window.or(before.and_then(|reading| reading.window));
        let closed_until = before.and_then(|reading| reading.closed_until).filter(|_| remaining < 1);
        let reading = Reading { limit, remaining, window, at: now, closed_until };
        let same = |old: Reading| Reading { at: now, ..old } == reading;
        let changed = !before.is_some_and(same);
        self.reading = Some(reading);
        if changed {
            self.version += 1;
            self.decreases += 1;
        }
        if before.is_some_and(|before| before.remaining < remaining) {
            self.raised = self.version;
        }
        changed.then_some((reading, external))
    }

    /// The pull limit refused: nothing is left.
    pub(super) fn exhaust(&mut self, retry_after: Option<Duration>, now: SystemTime) -> Reading {
        self.prune(now);
        let before = self.reading;
        let limit = before.and_then(|reading| reading.limit);
        let window = before.and_then(|reading| reading.window);
        let remaining = before.map_or(0, |reading| reading.remaining.min(0));
        self.reading = Some(Reading { limit, remaining, window, at: now, closed_until: None });
        let forecast = self.next_at(now).filter(|_| window.is_some());
        // After a window everything is back, whatever upstream asks for.
        let asked = retry_after.map(|wait| now + wait.min(self.window()));
        let until = asked.or(forecast).unwrap_or(now + BLIND_WAIT);
        let reading = Reading { limit, remaining, window, at: now, closed_until: Some(until) };
        self.reading = Some(reading);
        self.version += 1;
        self.decreases += 1;
        self.unexplaining = self.unexplaining.min(self.in_flight);
        reading
    }

    pub(super) fn balance(&self, identity: &Identity, now: SystemTime) -> Balance {
        let since = before(now, self.window());
        let (limit, remaining) = (self.reading.and_then(|reading| reading.limit), self.remaining(now));
        let spent = self.spent_between(since, None) as u64;
        let external: u64 = self.external.iter().filter(|(at, _)| *at > since).map(|(_, count)| count).sum();
        let used = limit.zip(remaining).map(|(limit, remaining)| limit.saturating_sub(remaining));
        let others = used.map(|used| used.saturating_sub(i64::try_from(spent).unwrap_or(i64::MAX)));
        // Upstream may have counted less since: then the drops that were seen are not within what it counts now.
        let external = others.map_or(external, |others| external.min(u64::try_from(others).unwrap_or(0)));
        Balance {
            identity: identity.clone(),
            version: self.decreases,
            limit,
            remaining,
            window: self.reading.and_then(|reading| reading.window),
            spent,
            external,
            unexplained: others.map_or(0, |others| others.saturating_sub_unsigned(external)),
            next_at: self.next_at(now),
        }
    }

    /// What a snapshot needs to know besides the spends.
    pub(super) fn records(&self, identity: &Identity) -> Vec<Record> {
        let external = self.external.iter().map(|(at, count)| Record::External {
            identity: identity.clone(),
            at: *at,
            count: *count,
        });
        let observed = self.reading.map(|reading| Record::Observed { identity: identity.clone(), reading });
        external.chain(observed).collect()
    }

    fn remaining(&self, now: SystemTime) -> Option<i64> {
        let reading = self.reading?;
        if let Some(until) = reading.closed_until {
            if now < until {
                return Some(reading.remaining.min(0));
            }
            // Upstream never said how many there are: after its refusal has run out we are where we began.
            reading.limit?;
        }
        let left = match reading.window {
            Some(window) if age(reading.at, now) >= window => {
                let spent = self.spent_between(before(now, window), None);
                // What is in flight is among them, and is taken off below.
                reading.limit.unwrap_or(reading.remaining) - spent as i64 + self.in_flight
            }
            Some(window) => {
                let back = self.returned(reading.at, now, window);
                // A refusal that has run out is worth one try, even if the log knows of nothing that came back.
                let back = if reading.closed_until.is_some() { back.max(1) } else { back };
                reading.remaining.saturating_add(back)
            }
            None if reading.closed_until.is_some() => reading.remaining.max(0) + 1,
            None => reading.remaining,
        };
        let left = reading.limit.map_or(left, |limit| left.min(limit));
        Some(left.saturating_sub(self.in_flight))
    }

    /// How many left the window between two moments.
    fn returned(&self, from: SystemTime, to: SystemTime, window: Duration) -> i64 {
        // What was spent after the reading is not in it, and so cannot come back to it.
        let (first, last) = (before(from, window), before(to, window).min(from));
        let ours = self.spent_between(first, Some(last)) as i64;
        let came_back = |at: SystemTime| at > first && at <= last;
        let theirs: u64 = self.external.iter().filter(|(at, _)| came_back(*at)).map(|(_, count)| count).sum();
        ours.saturating_add(i64::try_from(theirs).unwrap_or(i64::MAX))
    }

    fn next_at(&self, now: SystemTime) -> Option<SystemTime> {
        let reading = self.reading?;
        if let Some(until) = reading.closed_until.filter(|until| now < *until) {
            return Some(until);
        }
        let window = reading.window?;
        if reading.limit.is_some_and(|limit| reading.remaining >= limit) && self.in_flight == 0 {
            return None;
        }
        let since = before(now, window);
        let ours = self.spent.get(self.spent.partition_point(|at| *at <= since)).copied();
        let theirs = self.external.iter().map(|(at, _)| *at).find(|at| *at > since);
        let coming = ours.into_iter().chain(theirs).filter_map(|at| at.checked_add(window));
        // What was out already at the reading, by whomever, is back a window after it.
        let all = reading.at.checked_add(window).filter(|back| *back > now);
        coming.chain(all).min()
    }

    /// How many of ours lie after `first`, up to `last` and with it.
    fn spent_between(&self, first: SystemTime, last: Option<SystemTime>) -> usize {
        let end = last.map_or(self.spent.len(), |last| self.spent.partition_point(|at| *at <= last));
        end.saturating_sub(self.spent.partition_point(|at| *at <= first))
    }

    fn window(&self) -> Duration {
        self.reading.and_then(|reading| reading.window).unwrap_or(A_DAY)
    }

    /// Forgets what can no longer matter to a count or to a forecast.
    fn prune(&mut self, now: SystemTime) {
        let since = before(now, self.window().max(A_DAY));
        while self.spent.front().is_some_and(|at| *at < since) {
            self.spent.pop_front();
        }
        while self.external.front().is_some_and(|(at, _)| *at < since) {
            self.external.pop_front();
        }
    }
}

fn before(now: SystemTime, length: Duration) -> SystemTime {
    now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How long ago `at` was; nothing when the clock was set back since.
fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}
