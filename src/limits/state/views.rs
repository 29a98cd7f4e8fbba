//! What people look at: throttles with what they matched, clients with what they used.

use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use super::{Limits, lock};
use crate::{
    client::ClientKey,
    limits::throttle::{Algorithm, Meter, Meters, Mode, Rule, Tally},
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
        let meters = Meter::ALL.into_iter().fold(Meters::NONE, Meters::and);
        let mut clients: Vec<_> = spent.into_iter().collect();
        clients.sort_by_cached_key(|(client, spent)| (std::cmp::Reverse(*spent), client.to_string()));
        clients.truncate(most);
        let (config, steady) = (self.config(), self.steady(now));
        let view = |(client, upstream_spent): (ClientKey, u32)| {
            let decision = self.inner.throttles.peek(&config.throttles, &client, meters, steady);
            let throttles =
                decision.standings().filter(|standing| standing.observed > 0).map(|standing| ThrottleStatusView {
                    name: standing.rule.name().to_owned(),
                    limit: standing.limit,
                    observed: standing.observed,
                    remaining: standing.remaining,
                });
            let address = match &client {
                ClientKey::Address(address) => *address,
                // No network ban is meant: where it asks from is not known here.
                ClientKey::Principal(_) => IpAddr::from([0, 0, 0, 0]),
            };
            let ban = self.ban_of(&client, address, now).map(|record| record.id);
            ClientView { client: client.to_string(), upstream_spent, throttles: throttles.collect(), ban }
        };
        clients.into_iter().map(view).collect()
    }
}
