//! All clients that failed lately, and which of them is to be banned.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use super::{
    failure::{Failure, Outcome, hash},
    history::History,
    settings::Settings,
};
use crate::{
    client::ClientKey,
    limits::{
        bans::{MAX_DURATION, MIN_DURATION, NewBan},
        target::Target,
        throttle::Mode,
    },
};

/// A client went up to level 2, 3 or 4: to be made a ban of.
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
    pub(super) max_clients: usize,
    pub(super) watched: HashMap<ClientKey, History>,
    /// For finding a client that makes room; in the order in which they came.
    pub(super) order: VecDeque<ClientKey>,
}

/// Clients that are compared when one must make room.
const COMPARED: usize = 16;

/// Clients that are tracked at once.
const MAX_TRACKED: usize = 4096;

impl Default for AbuseTracker {
    fn default() -> AbuseTracker {
        AbuseTracker { max_clients: MAX_TRACKED, watched: HashMap::new(), order: VecDeque::new() }
    }
}

impl AbuseTracker {
    /// Takes note of a failure. `now` is steady time, and `wall` what evidence shows. `jitter` is from -1 to 1 and spreads the duration by a tenth. At most one step comes of it, and none while an
    /// equal or higher one is running.
    pub fn record_failure(
        &mut self,
        settings: &Settings,
        failure: Failure<'_>,
        wall: SystemTime,
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
        let (level, rule, reason) = watched.note(settings, &failure, wall, now)?;
        if settings.mode == Mode::Off {
            return None;
        }
        let (strikes, duration) = watched.strike(settings.durations.map(|span| span.0), now);
        // A ban with a duration that the list refuses would let the worst client go free.
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

    /// Level 1: whether this client has missed this reference too often, and how long it should stay away. Then the cached 404 is the answer and
    /// upstream is not asked.
    pub fn miss_throttled(
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
