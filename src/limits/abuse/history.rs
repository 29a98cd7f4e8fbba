//! What is remembered of one client that failed lately.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::{
    failure::{Failure, Outcome, hash},
    retries::Retries,
    settings::Settings,
};
use crate::limits::{
    bans::{Evidence, MAX_EVIDENCE, MAX_REPOSITORIES},
    penalty::PenaltyLevel,
    time::nanos,
};

const MINUTE: u64 = 60;
/// References whose misses are counted for each client; past it the one missed longest ago is forgotten.
const MOST_REFERENCES: usize = 64;
/// Different references that are distinguished; more than any sensible setting.
const MOST_DIFFERENT: usize = 1024;
/// A strike is half a strike after so long.
const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub(super) struct History {
    retries: Retries,
    /// (hash, last miss, misses), the one missed longest ago first.
    references: VecDeque<(u64, SystemTime, Counter<{ 5 * MINUTE }>)>,
    /// (hash, last miss) within 10 min.
    different: VecDeque<(u64, SystemTime)>,
    failed_logins: Counter<{ 3 * MINUTE }>,
    denied: Counter<{ 5 * MINUTE }>,
    exceeded: Counter<{ 10 * MINUTE }>,
    pub(super) evidence: VecDeque<Evidence>,
    pub(super) repositories: Vec<String>,
    strikes: f64,
    struck_at: Option<SystemTime>,
    /// The last step and when it ends.
    pub(super) running: Option<(PenaltyLevel, SystemTime)>,
}

impl History {
    /// Which level it led to, by which rule, and the sentence for people.
    pub(super) fn note(
        &mut self,
        settings: &Settings,
        failure: &Failure<'_>,
        wall: SystemTime,
        now: SystemTime,
    ) -> Option<(PenaltyLevel, &'static str, String)> {
        let what = hash(&(failure.repository, failure.reference));
        if !self.retries.is_new(hash(&(failure.method, what, failure.outcome)), now) {
            return None;
        }
        self.keep_evidence(failure, wall);
        let step = match failure.outcome {
            Outcome::Missing => {
                self.missed(what, now);
                let count = self.different.len() as u32;
                let repeated =
                    if self.strikes_at(now).round() >= 1.0 { PenaltyLevel::MissesBanned } else { PenaltyLevel::Misses };
                let reason = || format!("asked for {count} different things that do not exist within 10 minutes");
                (count > settings.different_references).then(|| (repeated, "not_found_enumeration", reason()))
            }
            Outcome::UpstreamExceeded => {
                let count = self.exceeded.add(now);
                let repeated =
                    if self.strikes_at(now).round() >= 1.0 { PenaltyLevel::MissesBanned } else { PenaltyLevel::Misses };
                let reason = || format!("exceeded its upstream quota {count} times within 10 minutes");
                (count >= settings.upstream_exceeded).then(|| (repeated, "upstream_quota_exceeded", reason()))
            }
            Outcome::AuthFailed => {
                let count = self.failed_logins.add(now);
                let reason = || format!("failed to log in {count} times within 3 minutes");
                (count >= settings.failed_logins).then(|| (PenaltyLevel::MissesBanned, "auth_failures", reason()))
            }
            // What level 4 denies must not keep the client at level 4.
            Outcome::Denied(PenaltyLevel::Client) | Outcome::AuthSucceeded => None,
            Outcome::Denied(_) | Outcome::Throttled => {
                let count = self.denied.add(now);
                let reason = || format!("went on after {count} denied requests within 5 minutes");
                (count > settings.denied_requests).then(|| (PenaltyLevel::Client, "denied_requests", reason()))
            }
        };
        let (level, rule, reason) = step?;
        if self.running.is_some_and(|(running, until)| running >= level && now < until) {
            return None;
        }
        self.forget_counts();
        Some((level, rule, reason))
    }

    fn missed(&mut self, what: u64, now: SystemTime) {
        let at = self.references.iter().position(|(reference, ..)| *reference == what);
        let (_, _, mut misses) =
            at.and_then(|at| self.references.remove(at)).unwrap_or((what, now, Counter::default()));
        misses.add(now);
        if self.references.len() >= MOST_REFERENCES {
            self.references.pop_front();
        }
        self.references.push_back((what, now, misses));

        let recent = |at: SystemTime| now.duration_since(at).unwrap_or_default() < Duration::from_secs(10 * MINUTE);
        self.different.retain(|(reference, at)| *reference != what && recent(*at));
        if self.different.len() >= MOST_DIFFERENT {
            self.different.pop_front();
        }
        self.different.push_back((what, now));
    }

    pub(super) fn misses_of(&self, what: u64, now: SystemTime) -> u32 {
        let found = self.references.iter().find(|(reference, ..)| *reference == what);
        found.map_or(0, |(_, _, misses)| misses.read(now))
    }

    /// The strikes before this one, and how long it lasts.
    pub(super) fn strike(&mut self, durations: [Duration; 4], now: SystemTime) -> (u32, Duration) {
        let before = self.strikes_at(now);
        (self.strikes, self.struck_at) = (before + 1.0, Some(now));
        // To the nearest: a strike counts as one for a day.
        let before = before.round() as u32;
        (before, durations[(before as usize).min(durations.len() - 1)])
    }

    fn strikes_at(&self, now: SystemTime) -> f64 {
        let since = self.struck_at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
        self.strikes * 0.5_f64.powf(since.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    pub(super) fn logged_in(&mut self) {
        self.failed_logins = Counter::default();
    }

    pub(super) fn forget_failures(&mut self) {
        self.forget_counts();
        self.running = None;
        self.references.clear();
    }

    fn forget_counts(&mut self) {
        self.different.clear();
        self.failed_logins = Counter::default();
        self.denied = Counter::default();
        self.exceeded = Counter::default();
    }

    /// How much would be lost with it.
    pub(super) fn weight(&self, now: SystemTime) -> u64 {
        let counts = self.denied.read(now) + self.failed_logins.read(now) + self.exceeded.read(now);
        (self.strikes_at(now) * 1000.0) as u64 + self.different.len() as u64 * 10 + u64::from(counts)
    }

    fn keep_evidence(&mut self, failure: &Failure<'_>, now: SystemTime) {
        if self.evidence.len() >= MAX_EVIDENCE {
            self.evidence.pop_front();
        }
        let evidence = failure.evidence(now);
        if !evidence.repository.is_empty() && !self.repositories.contains(&evidence.repository) {
            if self.repositories.len() >= MAX_REPOSITORIES {
                self.repositories.remove(0);
            }
            self.repositories.push(evidence.repository.clone());
        }
        self.evidence.push_back(evidence);
    }
}

/// Events within the last so many seconds, counted by tenths of that: 48 bytes instead of a list.
#[derive(Clone, Copy, Debug, Default)]
struct Counter<const SECONDS: u64> {
    /// The tenth that counting is at.
    at: u64,
    tenths: [u32; 10],
}

impl<const SECONDS: u64> Counter<SECONDS> {
    /// One more; how many there are.
    fn add(&mut self, now: SystemTime) -> u32 {
        let at = Self::tenth(now);
        for gone in self.at + 1..=at.min(self.at + 10) {
            self.tenths[(gone % 10) as usize] = 0;
        }
        self.at = self.at.max(at);
        let tenth = &mut self.tenths[(self.at % 10) as usize];
        *tenth = tenth.saturating_add(1);
        self.tenths.iter().sum()
    }

    fn read(&self, now: SystemTime) -> u32 {
        let at = Self::tenth(now);
        let live = (0..10).filter(|back| self.at >= *back && self.at - back + 10 > at);
        live.map(|back| self.tenths[((self.at - back) % 10) as usize]).sum()
    }

    fn tenth(now: SystemTime) -> u64 {
        nanos(now) / (SECONDS * 100_000_000)
    }
}
