//! The check itself: one client, the throttles that its request counts for, and the decision.

mod snapshot;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

pub use self::snapshot::Snapshot;
use super::{
    account::{Account, Reading, Window},
    account_table::{AccountTable, Accounts},
    rules::{Meter, Meters, Mode, Rule, Rules},
    tally::{Count, Tally},
};
use crate::{
    client::ClientKey,
    limits::{address::network_of, time::nanos},
};

/// Whose account a throttle speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The client's own.
    Client,
    /// That of the /24 or /48 it is in, or of all for whom there was no room.
    Network,
}

/// Where a client stands with one throttle.
#[derive(Clone, Copy, Debug)]
pub struct ThrottleStatus<'a> {
    /// Which throttle.
    pub rule: &'a Rule,
    /// Whose account.
    pub scope: Scope,
    /// Whether this request is too much.
    pub over: bool,
    /// Requests in a period; more than the rule's for a network.
    pub limit: u32,
    /// Requests in the window of the epoch that now is in, this one and denied ones included.
    pub observed: u32,
    /// How many more may come at once.
    pub remaining: u32,
    /// When one more than `remaining` may come. For who is over it is the time to wait.
    pub more_in: Duration,
    /// When everything will have come back.
    pub reset_in: Duration,
}

/// What became of a request. The default is that of a request without a limit.
#[derive(Clone, Debug, Default)]
pub struct ThrottleDecision {
    /// By whose leave it was judged: shared once for all of `judged`, since every worker counts its references to the same rules, and
    /// cores that count on one cache line wait for each other.
    rules: Option<Arc<[Rule]>>,
    /// By index of the rule.
    judged: Vec<(u8, Scope, Reading)>,
    /// What a throttle counts for this client.
    counted: Meters,
    denied: bool,
}

impl ThrottleDecision {
    /// Every throttle that was judged, the lowest rate first. When one denied it is the last. Those that a request was only to be looked at
    /// for, and of which the client has used nothing, have nothing to say and are not among them.
    pub fn standings(&self) -> impl DoubleEndedIterator<Item = ThrottleStatus<'_>> {
        let rules = self.rules.as_deref().unwrap_or_default();
        self.judged.iter().filter_map(|(index, scope, reading)| {
            let rule = rules.get(usize::from(*index))?;
            let Reading { over, observed, remaining, more_in, reset_in } = *reading;
            let limit = if *scope == Scope::Client { rule.own.limit } else { rule.network.limit };
            Some(ThrottleStatus { rule, scope: *scope, over, limit, observed, remaining, more_in, reset_in })
        })
    }

    /// Whether no throttle has anything to say.
    pub fn is_empty(&self) -> bool {
        self.judged.is_empty()
    }

    /// Whether a throttle counts this for the client.
    pub fn counts(&self, meter: Meter) -> bool {
        self.counted.holds(meter)
    }

    /// The throttle that denies, if one does: 429.
    pub fn denied(&self) -> Option<ThrottleStatus<'_>> {
        self.standings().next_back().filter(|_| self.denied)
    }

    /// Throttles in dry run that would have denied; each is a line in the log.
    pub fn would_have_denied(&self) -> impl Iterator<Item = ThrottleStatus<'_>> {
        self.standings().filter(|standing| standing.over && standing.rule.mode() == Mode::DryRun)
    }

    /// Of the throttles that act, the one with the least left for its limit: the one a client should read of.
    pub fn tightest(&self) -> Option<ThrottleStatus<'_>> {
        let part =
            |of: &ThrottleStatus<'_>, other: &ThrottleStatus<'_>| u64::from(of.remaining) * u64::from(other.limit);
        self.denied().or_else(|| self.acting().min_by(|one, other| part(one, other).cmp(&part(other, one))))
    }

    /// All that act.
    pub fn acting(&self) -> impl Iterator<Item = ThrottleStatus<'_>> {
        self.standings().filter(|standing| standing.rule.mode() == Mode::Enforce)
    }
}

/// The accounts of all clients. Outlives reloads of the rules; shared by reference.
pub struct Table {
    pub(super) clients: AccountTable<ClientKey>,
    // Principals are few and configured: addresses that take all seats take none of theirs.
    pub(super) principals: AccountTable<ClientKey>,
    pub(super) networks: AccountTable<IpNet>,
    // For whom there is neither room of their own nor of their network's. Held for a few lines.
    crowd: Mutex<Accounts>,
    /// By audience and meter.
    counts: [[Count; 8]; 2],
}

impl Table {
    /// Clients that have an account of their own (65,536; 200 bytes each), and as many networks.
    pub const MAX_CLIENTS: usize = 65_536;

    /// An empty one, with room for about so many clients and as many networks.
    pub fn new(most_clients: usize) -> Table {
        Table {
            clients: AccountTable::new(most_clients),
            principals: AccountTable::new(most_clients),
            networks: AccountTable::new(most_clients),
            crowd: Mutex::default(),
            counts: Default::default(),
        }
    }

    /// Counts a request for the meters in `take`, unless a throttle of one of them or of those in `look` denies it. `look` is for what
    /// is charged afterwards: bytes, misses, failed logins.
    ///
    /// Takes no lock when no rule applies; else a hash and a lock for the client and for its network.
    pub fn check(
        &self,
        rules: &Rules,
        client: &ClientKey,
        take: Meters,
        look: Meters,
        now: SystemTime,
    ) -> ThrottleDecision {
        let wanted = take.or(look);
        let all = rules.of(client);
        let counted = of_meters(all, wanted).fold(Meters::NONE, |all, (_, rule)| all.and(rule.meter));
        if counted == Meters::NONE {
            return ThrottleDecision::default();
        }
        let now = nanos(now);
        let rules_of = Some(all.clone());
        let mut decision = ThrottleDecision { rules: rules_of, judged: Vec::with_capacity(4), counted, denied: false };
        self.with(rules, client, now, |own, network| {
            // What is put back when a throttle denies after others have counted.
            let before = (own.as_deref().map(due), network.as_deref().map(due));
            let (mut own, mut network) = (own, network);
            for (index, rule) in of_meters(all, counted) {
                let took = take.holds(rule.meter);
                if !took && is_unused(rule, own.as_deref(), network.as_deref(), now) {
                    continue;
                }
                let (scope, reading) = judge(rule, own.as_deref_mut(), network.as_deref_mut(), took, now);
                decision.judged.push((index, scope, reading));
                if reading.over && rule.mode == Mode::Enforce {
                    decision.denied = true;
                    put_back(own, before.0);
                    put_back(network, before.1);
                    return;
                }
            }
        });
        for standing in decision.standings().filter(|standing| standing.over) {
            let count = self.count(client, standing.rule.meter);
            match standing.rule.mode {
                Mode::Enforce => count.denied(client),
                _ => count.would_have_denied(client),
            }
        }
        decision
    }

    /// Where the client stands, counting nothing: what a HEAD is answered with.
    pub fn peek(&self, rules: &Rules, client: &ClientKey, meters: Meters, now: SystemTime) -> ThrottleDecision {
        let now = nanos(now);
        let all = rules.of(client);
        let mut decision = ThrottleDecision { rules: Some(all.clone()), ..ThrottleDecision::default() };
        let mut own = self.seats(client).lock(client).find().copied().unwrap_or_default();
        let network = network_key(rules, client);
        let mut wide = network.and_then(|network| self.networks.lock(&network).find().copied());
        for (index, rule) in of_meters(all, meters) {
            let (scope, reading) = judge(rule, Some(&mut own), wide.as_mut(), false, now);
            decision.judged.push((index, scope, reading));
        }
        decision
    }

    /// Counts what has happened: bytes that were sent, misses, failed logins. Never denies; what is too much is owed.
    pub fn charge(&self, rules: &Rules, client: &ClientKey, meter: Meter, units: u32, now: SystemTime) {
        self.adjust(rules, client, meter, now, |window, account, now| window.charge(account, units, now));
    }

    /// Gives back what was counted for something that did not happen: a pull that upstream did not bill, a request that was cut off.
    pub fn refund(&self, rules: &Rules, client: &ClientKey, meter: Meter, units: u32, now: SystemTime) {
        self.adjust(rules, client, meter, now, |window, account, now| window.refund(account, units, now));
    }

    /// How often the throttle of this name denied or would have denied, since the start.
    pub fn tally(&self, rule: &Rule) -> Tally {
        self.counts[usize::from(rule.authenticated)][rule.meter as usize].read()
    }

    /// Clients and networks that have an account.
    pub fn seated(&self) -> (usize, usize) {
        (self.clients.len() + self.principals.len(), self.networks.len())
    }

    /// Lets what was used under `old` count as so much used under `new`: half of a small quota is the same few requests
    /// of a large one. Walks all accounts, one shard at a time.
    pub fn requota(&self, old: &Rules, new: &Rules, now: SystemTime) {
        let now = nanos(now);
        let pairs = |key: &ClientKey| {
            let before = |rule: &Rule| old.of(key).iter().find(|before| before.meter == rule.meter).cloned();
            new.of(key).iter().filter_map(|rule| Some((rule.clone(), before(rule)?))).collect::<Vec<_>>()
        };
        let any_address = ClientKey::Address(std::net::IpAddr::from([0, 0, 0, 0]));
        let addresses = pairs(&any_address);
        let principals = pairs(&ClientKey::Principal("".into()));
        for (seats, pairs) in [(&self.clients, &addresses), (&self.principals, &principals)] {
            for mut shard in seats.each() {
                for (_, accounts) in shard.iter_mut() {
                    pairs
                        .iter()
                        .for_each(|(rule, old)| rule.own.take_over(&mut accounts[rule.meter as usize], &old.own, now));
                }
            }
        }
        for mut shard in self.networks.each() {
            for (_, accounts) in shard.iter_mut() {
                for (rule, old) in &addresses {
                    rule.network.take_over(&mut accounts[rule.meter as usize], &old.network, now);
                }
            }
        }
    }

    /// Clients that have an account, with where they stand. Locks one shard at a time; for people, not for requests.
    pub fn clients(&self) -> Vec<ClientKey> {
        let shards = self.principals.each().chain(self.clients.each());
        shards.flat_map(|shard| shard.iter().map(|(client, _)| client.clone()).collect::<Vec<_>>()).collect()
    }

    fn adjust(
        &self,
        rules: &Rules,
        client: &ClientKey,
        meter: Meter,
        now: SystemTime,
        change: impl Fn(&Window, &mut Account, u64),
    ) {
        let Some(rule) = rules.of(client).iter().find(|rule| rule.meter == meter && rule.mode != Mode::Off) else {
            return;
        };
        let now = nanos(now);
        self.with(rules, client, now, |own, network| {
            if let Some(own) = own {
                change(&rule.own, &mut own[meter as usize], now);
            }
            if let Some(network) = network {
                change(&rule.network, &mut network[meter as usize], now);
            }
        });
    }

    /// Hands out the client's accounts and its network's, as far as there is room for them.
    fn with(
        &self,
        rules: &Rules,
        client: &ClientKey,
        now: u64,
        work: impl FnOnce(Option<&mut Accounts>, Option<&mut Accounts>),
    ) {
        let mut shard = self.seats(client).lock(client);
        let own = shard.seat(client, now, |key, accounts| is_idle(rules.of(key), accounts, false, now));
        let network = network_key(rules, client);
        let mut wide = network.as_ref().map(|network| self.networks.lock(network));
        let of_network = network.as_ref().zip(wide.as_mut()).and_then(|(network, shard)| {
            shard.seat(network, now, |_, accounts| is_idle(rules.of(client), accounts, true, now))
        });
        if own.is_some() || of_network.is_some() {
            return work(own, of_network);
        }
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        work(None, Some(&mut crowd));
    }

    pub(super) fn seats(&self, client: &ClientKey) -> &AccountTable<ClientKey> {
        match client {
            ClientKey::Address(_) => &self.clients,
            ClientKey::Principal(_) => &self.principals,
        }
    }

    fn count(&self, client: &ClientKey, meter: Meter) -> &Count {
        &self.counts[usize::from(matches!(client, ClientKey::Principal(_)))][meter as usize]
    }
}

fn network_key(rules: &Rules, client: &ClientKey) -> Option<IpNet> {
    match client {
        ClientKey::Address(address) if rules.has_ceilings => Some(network_of(*address)),
        _ => None,
    }
}

/// The rules that are awake and count one of these meters, with their index. There are no more of them than meters.
fn of_meters(rules: &[Rule], meters: Meters) -> impl Iterator<Item = (u8, &Rule)> {
    (0..).zip(rules).filter(move |(_, rule)| rule.mode != Mode::Off && meters.holds(rule.meter))
}

/// The narrow limit first. A request that its network's ceiling denies has not used the client's own share.
fn judge(
    rule: &Rule,
    own: Option<&mut Accounts>,
    network: Option<&mut Accounts>,
    take: bool,
    now: u64,
) -> (Scope, Reading) {
    let at = rule.meter as usize;
    let step = |window: &Window, accounts: &mut Accounts| match take {
        true => window.take(&mut accounts[at], now),
        false => window.look(&mut accounts[at], now),
    };
    let mut own = own;
    let before = own.as_ref().map(|own| own[at].due);
    if let Some(own) = own.as_deref_mut()
        && step(&rule.own, own)
    {
        return (Scope::Client, rule.own.read(&own[at], now, true));
    }
    if let Some(network) = network {
        let over = step(&rule.network, network);
        if over || own.is_none() {
            if let (true, Some(own), Some(due)) = (over, own, before) {
                own[at].due = due;
            }
            return (Scope::Network, rule.network.read(&network[at], now, over));
        }
    }
    // There is always one or the other: a client without a seat is counted with the crowd.
    let account = own.map_or_else(Account::default, |own| own[at]);
    (Scope::Client, rule.own.read(&account, now, false))
}

fn due(accounts: &Accounts) -> [u64; 8] {
    accounts.map(|account| account.due)
}

fn put_back(accounts: Option<&mut Accounts>, before: Option<[u64; 8]>) {
    if let (Some(accounts), Some(before)) = (accounts, before) {
        accounts.iter_mut().zip(before).for_each(|(account, due)| account.due = due);
    }
}

/// Whether a throttle has nothing against a client, and nothing to tell it either: most clients miss nothing and log in the first time.
fn is_unused(rule: &Rule, own: Option<&Accounts>, network: Option<&Accounts>, now: u64) -> bool {
    let at = rule.meter as usize;
    own.is_none_or(|own| rule.own.is_idle(&own[at], now))
        && network.is_none_or(|network| rule.network.is_idle(&network[at], now))
}

/// Whether accounts say no more than fresh ones would, to these rules.
pub(super) fn is_idle(rules: &[Rule], accounts: &Accounts, of_network: bool, now: u64) -> bool {
    rules.iter().all(|rule| {
        let window = if of_network { &rule.network } else { &rule.own };
        window.is_idle(&accounts[rule.meter as usize], now)
    })
}
