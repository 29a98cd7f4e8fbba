//! What people look at: throttles with what they matched, clients with what they used.

use std::{collections::HashMap, net::IpAddr, time::SystemTime};

use serde::Serialize;

use super::{Limits, lock};
use crate::{
    client::{Class, ClientKey},
    limits::{
        recent::{ClientRecord, RecentRequest},
        throttle::{Algorithm, Meter, Meters, Mode, Rule, Tally},
    },
};

/// One throttle.
#[derive(Clone, Debug, Serialize)]
pub struct ThrottleView {
    /// Its configured name.
    pub name: String,
    /// Requests in a period.
    pub requests_per_period: u32,
    /// Seconds.
    pub period_in_seconds: u32,
    /// How many may come at once; nothing for a fixed window.
    pub burst: Option<u32>,
    /// How the window moves.
    pub algorithm: Algorithm,
    /// Whether it acts.
    pub mode: Mode,
    /// Whether that was switched by hand.
    pub switched: bool,
    /// What it matched since the start.
    #[serde(flatten)]
    pub matches: Tally,
}

/// One client.
#[derive(Clone, Debug, Serialize)]
pub struct ClientView {
    /// An address, a /64, or an account.
    pub client: String,
    /// Pulls that it spent upstream within the window, of all identities.
    pub upstream_spent: u32,
    /// Where it stands with each throttle that has seen it.
    pub throttles: Vec<ThrottleStatusView>,
    /// The ban in force.
    pub ban: Option<String>,
}

/// One client of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSummary {
    /// An address, a /64, or an account.
    pub client: ClientKey,
    /// Pulls that it spent upstream within the window, of all identities.
    pub upstream_spent: u32,
    /// Requests since it is remembered.
    pub requests: u64,
    /// Bytes sent to it in answer.
    pub bytes: u64,
}

/// Where a client stands with a throttle.
#[derive(Clone, Debug, Serialize)]
pub struct ThrottleStatusView {
    /// Which.
    pub name: String,
    /// Requests in a period.
    pub limit: u32,
    /// Requests seen in it.
    pub observed: u32,
    /// How many more may come at once.
    pub remaining: u32,
}

impl Limits {
    /// All throttles, with what they matched.
    pub fn throttles(&self) -> Vec<ThrottleView> {
        let configured = lock(&self.inner.changes).configured.throttles.clone();
        let was = |name: &str| configured.iter().find(|rule| rule.name() == name).map(|rule| rule.mode());
        let view = |rule: &Rule| ThrottleView {
            name: rule.name().to_owned(),
            requests_per_period: rule.limit(),
            period_in_seconds: rule.period(),
            burst: (rule.algorithm() == Algorithm::Gcra).then(|| rule.burst()),
            algorithm: rule.algorithm(),
            mode: rule.mode(),
            switched: was(rule.name()).is_some_and(|mode| mode != rule.mode()),
            matches: self.inner.throttles.tally(rule),
        };
        self.config().throttles.iter().map(view).collect()
    }

    /// Clients that asked lately, those that spent most upstream first.
    pub fn clients(&self, most: usize, now: SystemTime) -> Vec<ClientView> {
        let mut spent = self.inner.budgets.spenders();
        for client in self.inner.throttles.clients() {
            spent.entry(client).or_default();
        }
        let mut clients: Vec<_> = spent.into_iter().collect();
        clients.sort_by_cached_key(|(client, spent)| (std::cmp::Reverse(*spent), client.to_string()));
        clients.truncate(most);
        clients.iter().map(|(client, spent)| self.client(client, *spent, now)).collect()
    }

    /// One client, with what it `spent` upstream.
    fn client(&self, client: &ClientKey, spent: u32, now: SystemTime) -> ClientView {
        let meters = Meter::ALL.into_iter().fold(Meters::NONE, Meters::and);
        let (config, steady) = (self.config(), self.steady(now));
        let decision = self.inner.throttles.peek(&config.throttles, client, meters, steady);
        let throttles =
            decision.standings().filter(|standing| standing.observed > 0).map(|standing| ThrottleStatusView {
                name: standing.rule.name().to_owned(),
                limit: standing.limit,
                observed: standing.observed,
                remaining: standing.remaining,
            });
        let ban = self.ban_of(client, address_of(client), now).map(|record| record.id);
        ClientView { client: client.to_string(), upstream_spent: spent, throttles: throttles.collect(), ban }
    }

    /// One client, whether or not it asked anything.
    pub fn client_view(&self, client: &ClientKey, now: SystemTime) -> ClientView {
        let spent = self.inner.budgets.spenders().get(client).copied().unwrap_or_default();
        self.client(client, spent, now)
    }

    /// Its class, as the rules say without a user agent.
    pub fn class_of(&self, client: &ClientKey) -> Class {
        self.describe_client(client.clone(), address_of(client), "").class
    }

    /// Clients that are remembered, that a throttle has seen, or that spent upstream: those that spent most first, then those that asked
    /// most. At most some thousands.
    pub fn client_summaries(&self) -> Vec<ClientSummary> {
        let mut spent = self.inner.budgets.spenders();
        let mut asked: HashMap<ClientKey, (u64, u64)> = HashMap::new();
        for (client, requests, bytes) in self.inner.recent.all() {
            asked.insert(client.clone(), (requests, bytes));
            spent.entry(client).or_default();
        }
        for client in self.inner.throttles.clients() {
            spent.entry(client).or_default();
        }
        let summary = |(client, upstream_spent): (ClientKey, u32)| {
            let (requests, bytes) = asked.get(&client).copied().unwrap_or_default();
            ClientSummary { client, upstream_spent, requests, bytes }
        };
        let mut clients: Vec<_> = spent.into_iter().map(summary).collect();
        clients.sort_by_cached_key(|client| {
            (std::cmp::Reverse((client.upstream_spent, client.requests)), client.client.to_string())
        });
        clients
    }

    /// A request of a client has ended. `image` is what it asked a manifest by.
    pub fn record_request(&self, client: &ClientKey, request: RecentRequest, image: Option<&str>) {
        self.inner.recent.record(client, request, image);
    }

    /// What a client asked lately; nothing when it is not remembered.
    pub fn recent(&self, client: &ClientKey) -> Option<ClientRecord> {
        self.inner.recent.get(client)
    }
}

/// Where a client asks from. Of an account that is not known here, so no ban of a network is meant.
fn address_of(client: &ClientKey) -> IpAddr {
    match client {
        ClientKey::Address(address) => *address,
        ClientKey::Principal(_) => IpAddr::from([0, 0, 0, 0]),
    }
}
