//! From failures to consequences: the smallest thing that stops the harm, for the shortest time, and only when failures are many and different.
//!
//! # The rungs
//!
//! | rung | whom it concerns | what it does | when |
//! |---|---|---|---|
//! | 0 | a reference | the negative cache answers | it does not exist |
//! | 1 | a client and a reference | the cached 404, never upstream, `Retry-After` grows | more than 30 misses of it in 5 min |
//! | 2 | a client's misses | 429; what is cached is served | more than 40 different missing references in 10 min, or its upstream quota exceeded three times |
//! | 3 | a client's misses | 403; what is cached is served | rung 2 again before the strike has faded, or 30 failed logins in 3 min |
//! | 4 | a client | 403 | more than 600 denied requests in 5 min, or an operator |
//!
//! # What it guarantees
//!
//! A client that retries is not a client that attacks: identical requests within 2 s are one. A denial never feeds the counter that caused
//! it, so nobody is held by his own retries; denials of a lower rung are counted towards rung 4 and nothing else. Strikes fade by half in a
//! day. Loopback, trusted proxies, admin networks and the allowlist are never touched. Rungs 2 to 4 come as a [`Escalation`], which the caller makes a
//! ban of; in dry run the same steps come, marked as simulated.
//!
//! Memory is bounded: so many clients that failed lately are watched, and the one with the least to its name makes room for another.

mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    bans::{Evidence, MAX_DURATION, MIN_DURATION, NewBan},
    target::Target,
    throttle::Mode,
};
use crate::{
    client::ClientKey,
    setting::{ConfigError, Span},
};
use history::History;

/// How far somebody is. A number in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum PenaltyLevel {
    /// 0: the negative cache.
    Reference,
    /// 1: this client and this reference.
    ClientReference,
    /// 2: this client's misses: 429.
    Misses,
    /// 3: this client's misses: 403.
    MissesBanned,
    /// 4: this client.
    Client,
}

impl From<PenaltyLevel> for u8 {
    fn from(level: PenaltyLevel) -> u8 {
        level as u8
    }
}

impl TryFrom<u8> for PenaltyLevel {
    type Error = String;

    fn try_from(number: u8) -> Result<PenaltyLevel, String> {
        let all = [
            PenaltyLevel::Reference,
            PenaltyLevel::ClientReference,
            PenaltyLevel::Misses,
            PenaltyLevel::MissesBanned,
            PenaltyLevel::Client,
        ];
        all.get(usize::from(number)).copied().ok_or_else(|| format!("there is no rung {number}"))
    }
}

/// What went wrong, or right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It does not exist, said by upstream or by the negative cache.
    Missing,
    /// Its credentials did not verify.
    AuthFailed,
    /// They did: earlier failures were typing errors.
    AuthSucceeded,
    /// Its `upstream` throttle denied it.
    UpstreamExceeded,
    /// Another throttle denied it.
    Throttled,
    /// This rung denied it, or answered in upstream's stead.
    Denied(PenaltyLevel),
}

/// One failure, or one login.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Whose.
    pub client: &'a ClientKey,
    /// From where.
    pub address: IpAddr,
    /// `GET`, `HEAD`, …
    pub method: &'a str,
    /// As the client named it.
    pub repository: &'a str,
    /// Tag or digest.
    pub reference: &'a str,
    /// What was answered.
    pub status: u16,
    /// What it was.
    pub outcome: Outcome,
}

/// `[ban]`: when automatic bans are made. Bans by an operator always act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Of levels 2 to 4; `dry_run` unless configured. Levels 0 and 1 always act.
    pub mode: Mode,
    /// The error code of a 403 for a ban.
    pub code: Code,
    /// Level 1: misses of one reference (30) within 5 min that are still answered as any other.
    pub same_reference: u32,
    /// Level 2: different missing references (40, at most 1,000) within 10 min.
    pub different_references: u32,
    /// Level 2: times (3) that the `_upstream` throttle is exceeded within 10 min.
    pub upstream_exceeded: u32,
    /// Level 3: failed logins (30) within 3 min.
    pub failed_logins: u32,
    /// Level 4: denied requests (600) within 5 min.
    pub denied_requests: u32,
    /// How long a ban lasts: the first, the next and so on (5 min, 15 min, 1 h, 4 h); spread by a tenth.
    pub durations: [Span; 4],
    /// Networks that are never banned by a rule: trusted proxies and those of administrators. Loopback is exempt anyway.
    #[serde(skip)]
    pub exempt: Vec<IpNet>,
}

/// The error code of a ban on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// Every client prints its message.
    #[default]
    TooManyRequests,
    /// docker wraps it into words of its own.
    Denied,
}

/// No client fails so often in ten minutes.
const MAX_COUNT: u32 = 1_000_000;

impl Default for Settings {
    fn default() -> Settings {
        const MINUTE: u64 = 60;
        Settings {
            mode: Mode::DryRun,
            code: Code::default(),
            same_reference: 30,
            different_references: 40,
            upstream_exceeded: 3,
            failed_logins: 30,
            denied_requests: 600,
            durations: [5, 15, 60, 240].map(|minutes| Span::seconds(minutes * MINUTE)),
            exempt: Vec::new(),
        }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `ban`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let counts = [
            ("same_reference", self.same_reference),
            ("different_references", self.different_references),
            ("upstream_exceeded", self.upstream_exceeded),
            ("failed_logins", self.failed_logins),
            ("denied_requests", self.denied_requests),
        ];
        for (key, count) in counts {
            let fix = match count {
                0 => r#"would act on the first failure; write at least 1, or ban.mode = "off""#,
                1..=MAX_COUNT => continue,
                _ => r#"is never reached; write at most 1000000, or ban.mode = "off""#,
            };
            errors.push(ConfigError::new(format!("ban.{key}"), count, fix));
        }
        if self.different_references > MAX_DIFFERENT {
            let fix = format!("no more than {MAX_DIFFERENT} are told apart; write at most that");
            errors.push(ConfigError::new("ban.different_references", self.different_references, fix));
        }
        let [first, .., last] = self.durations;
        if !self.durations.is_sorted() || first.0 < MIN_DURATION || last.0 > MAX_DURATION {
            let written = self.durations.map(|span| span.to_string());
            let fix = r#"write four spans, each at least as long as the one before, from "1s" to "30d""#;
            errors.push(ConfigError::new("ban.durations", written, fix));
        }
        errors
    }

    fn exempts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.exempt.iter().any(|network| network.contains(&address))
    }
}

/// A client went up to rung 2, 3 or 4: to be made a ban of.
#[derive(Clone, Debug)]
pub struct Escalation {
    /// Who.
    pub client: ClientKey,
    /// What for, how long and why.
    pub ban: NewBan,
}

/// All clients that failed lately.
#[derive(Debug)]
pub struct AbuseTracker {
    max_clients: usize,
    watched: HashMap<ClientKey, History>,
    /// For finding somebody who makes room; in the order in which they came.
    order: VecDeque<ClientKey>,
}

/// Clients that are compared when one must make room.
const COMPARED: usize = 16;

/// Clients that are tracked at once.
const MAX_TRACKED: usize = 4096;

/// Different missing references of one client that are told apart, at most.
const MAX_DIFFERENT: u32 = 1000;

impl Default for AbuseTracker {
    fn default() -> AbuseTracker {
        AbuseTracker { max_clients: MAX_TRACKED, watched: HashMap::new(), order: VecDeque::new() }
    }
}

impl AbuseTracker {
    /// Takes note of a failure. `jitter` is from -1 to 1 and spreads the duration by a tenth. At most one step comes of it, and none while an
    /// equal or higher one is running.
    pub fn note(
        &mut self,
        settings: &Settings,
        failure: Failure<'_>,
        now: SystemTime,
        jitter: f64,
    ) -> Option<Escalation> {
        if settings.mode == Mode::Off && failure.outcome != Outcome::Missing || settings.exempts(failure.address) {
            return None;
        }
        if failure.outcome == Outcome::AuthSucceeded {
            if let Some(watched) = self.watched.get_mut(failure.client) {
                watched.logged_in();
            }
            return None;
        }
        let watched = self.watch(failure.client, now);
        let (level, rule, reason) = watched.note(settings, &failure, now)?;
        if settings.mode == Mode::Off {
            return None;
        }
        let (strikes, duration) = watched.strike(settings.durations.map(|span| span.0), now);
        // A ban that nobody accepts would let the worst go free.
        let duration = duration.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0)).clamp(MIN_DURATION, MAX_DURATION);
        watched.running = Some((level, now + duration));
        let ban = NewBan {
            client: Target::of(failure.client),
            duration,
            level,
            rule: rule.to_owned(),
            reason,
            evidence: watched.evidence.iter().cloned().collect(),
            repositories: watched.repositories.clone(),
            strikes,
            simulated: settings.mode != Mode::Enforce,
        };
        Some(Escalation { client: failure.client.clone(), ban })
    }

    /// Rung 1: whether this client has missed this reference too often, and how long it should stay away. Then the cached 404 is the answer and
    /// upstream is not asked.
    pub fn holds(
        &self,
        settings: &Settings,
        client: &ClientKey,
        repository: &str,
        reference: &str,
        now: SystemTime,
    ) -> Option<Duration> {
        let misses = self.watched.get(client)?.misses_of(hash(&(repository, reference)), now);
        let beyond = misses.checked_sub(settings.same_reference.saturating_add(1))?;
        // 15 s, doubled with every further 30, to 5 min: podman and skopeo sleep at most a minute of it.
        let doublings = (beyond / settings.same_reference.max(1)).min(5);
        Some(Duration::from_secs((15 << doublings).min(300)))
    }

    /// An operator lifted it: what led to it is forgotten, the strikes are not.
    pub fn forget_failures(&mut self, client: &ClientKey) {
        if let Some(watched) = self.watched.get_mut(client) {
            watched.forget_failures();
        }
    }

    /// How many are watched.
    pub fn watched(&self) -> usize {
        self.watched.len()
    }

    fn watch(&mut self, client: &ClientKey, now: SystemTime) -> &mut History {
        if !self.watched.contains_key(client) {
            if self.watched.len() >= self.max_clients {
                self.make_room(now);
            }
            self.order.push_back(client.clone());
        }
        self.watched.entry(client.clone()).or_default()
    }

    /// The one with the least to its name among the first few goes; the others go to the end of the order.
    fn make_room(&mut self, now: SystemTime) {
        let compared: Vec<ClientKey> = (0..COMPARED).map_while(|_| self.order.pop_front()).collect();
        let weight = |client: &ClientKey| self.watched.get(client).map_or(0, |watched| watched.weight(now));
        let least = (0..compared.len()).min_by_key(|at| weight(&compared[*at]));
        for (at, client) in compared.into_iter().enumerate() {
            if Some(at) == least {
                self.watched.remove(&client);
            } else {
                self.order.push_back(client);
            }
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Failure<'_> {
    fn evidence(&self, now: SystemTime) -> Evidence {
        // Names come from the client: bounded, so that evidence is.
        let short = |text: &str| text.chars().take(256).collect();
        Evidence {
            at: now,
            method: short(self.method),
            repository: short(self.repository),
            reference: short(self.reference),
            status: self.status,
        }
    }
}
