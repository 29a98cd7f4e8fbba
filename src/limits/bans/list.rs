//! All bans: made, found, lifted, expired, exported.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use super::record::{
    Ban, BanEvent, BanRecord, Lift, MAX_DURATION, MAX_EVIDENCE, MAX_REPOSITORIES, MIN_DURATION, NewBan, Origin,
};
use crate::{
    client::ClientKey,
    limits::{clock::moved, penalty::PenaltyLevel, target::Target},
};

/// Bans that are in force at once (10,000); past it automatic ones are not made and the operator gets an error.
pub const MAX_BANS: usize = 10_000;
/// Ended bans that are remembered (10,000); the oldest are forgotten, the audit has them still.
pub const MAX_ENDED: usize = 10_000;

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// Wider than a /24 or /48.
    #[error("{0} is wider than a /24 (or /48); force it if that is meant")]
    Wide(Target),
    /// The caller is in it.
    #[error("{0} contains the address that you ask from; force it if that is meant")]
    Yourself(Target),
    /// Loopback.
    #[error("{0} contains this machine itself; force it if that is meant")]
    Loopback(Target),
    /// Mistyped.
    #[error("{0} is not an address; write an address, a CIDR such as 10.0.0.0/24, or the name of an account")]
    NotAnAddress(Target),
    /// Not configured.
    #[error("there is no account {0}; force it if it is yet to come")]
    UnknownAccount(Target),
    /// Zero, or above 30 days.
    #[error("a ban lasts from a second to 30 days")]
    Duration,
    /// No room.
    #[error("{MAX_BANS} bans are in force; lift some first")]
    Full,
    /// There is no such ban in force.
    #[error("there is no ban {0} in force")]
    Unknown(String),
    /// A lift without one.
    #[error("say why")]
    Reason,
    /// A file that cannot be read.
    #[error("not an export of bans: {0}")]
    Import(String),
}

/// Which bans to list.
#[derive(Clone, Debug, Default)]
pub struct BanFilter {
    /// Caused by requests to repositories in this namespace.
    pub namespace: Option<String>,
    /// That this client would meet.
    pub client: Option<Target>,
    /// Also those that ended.
    pub ended: bool,
}

/// The bans. All questions are answered from memory.
#[derive(Clone, Debug, Default)]
pub struct BanList {
    /// In force or simulated, by id.
    live: HashMap<String, BanRecord>,
    /// Ids, by whom they are of: at most one in force and one simulated each.
    networks: HashMap<IpNet, Vec<String>>,
    principals: HashMap<String, Vec<String>>,
    /// Prefix lengths in use, so that a look-up tries no others: (is IPv6, length) to how many.
    lengths: HashMap<(bool, u8), usize>,
    /// The same, longest first.
    order: BTreeSet<(bool, std::cmp::Reverse<u8>)>,
    /// Oldest first.
    ended: VecDeque<BanRecord>,
    /// All ids that are remembered.
    ids: HashSet<String>,
}

impl BanList {
    /// The ban that this client meets: the one that stops most, and of these its own before that of the narrowest network. `None` almost
    /// always, after a look at a length.
    pub fn find(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<Ban<'_>> {
        highest(self.search(client, address, now).filter(|record| !record.simulated))
    }

    /// The same for one whom rules spare.
    pub fn find_by_operator(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<Ban<'_>> {
        highest(self.search(client, address, now).filter(|record| !record.simulated && record.origin != Origin::Auto))
    }

    /// The simulated ban that would have met it.
    pub fn find_simulated(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<Ban<'_>> {
        self.search(client, address, now).find(|record| record.simulated).map(Ban)
    }

    fn search(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> impl Iterator<Item = &BanRecord> {
        let address = address.to_canonical();
        let principal = match client {
            ClientKey::Principal(name) => self.principals.get(&**name),
            ClientKey::Address(_) => None,
        };
        let is_anonymous = matches!(client, ClientKey::Address(_));
        let lengths = self.order.iter().filter(move |(is_v6, _)| *is_v6 == address.is_ipv6());
        let networks = lengths.filter_map(move |(_, length)| {
            let network = IpNet::new(address, length.0).ok()?.trunc();
            self.networks.get(&network)
        });
        let ids = principal.into_iter().chain(networks).flatten();
        ids.filter_map(|id| self.live.get(id)).filter(move |record| {
            let is_meant =
                is_anonymous || record.origin != Origin::Auto || matches!(record.client, Target::Principal(_));
            is_meant && record.is_live(now)
        })
    }

    /// A ban by a rule. `number` is random and becomes the id. A live ban of the same client is replaced: it ended in a longer one.
    ///
    /// # Errors
    /// [`BanError::Wide`], [`BanError::Loopback`] and [`BanError::Full`]; a rule cannot insist.
    pub fn add_automatic(&mut self, new: NewBan, number: u64, now: SystemTime) -> Result<BanEvent, BanError> {
        check(&new, None)?;
        self.add(new, Origin::Auto, String::new(), number, now)
    }

    /// A ban by the operator `by`, who asks from `from`.
    ///
    /// # Errors
    /// What needs `force`, and a duration or a number of bans out of bounds.
    pub fn add_by(
        &mut self,
        by: &str,
        from: Option<IpAddr>,
        new: NewBan,
        force: bool,
        number: u64,
        now: SystemTime,
    ) -> Result<BanEvent, BanError> {
        if !force {
            check(&new, from)?;
        }
        self.add(NewBan { simulated: false, ..new }, Origin::Admin, by.to_owned(), number, now)
    }

    fn add(
        &mut self,
        mut new: NewBan,
        origin: Origin,
        by: String,
        number: u64,
        now: SystemTime,
    ) -> Result<BanEvent, BanError> {
        new.client = new.client.as_client();
        if !(MIN_DURATION..=MAX_DURATION).contains(&new.duration) {
            return Err(BanError::Duration);
        }
        let replaced: Vec<String> = self
            .ids(&new.client)
            .iter()
            .filter(|id| self.live.get(*id).is_some_and(|it| it.simulated == new.simulated && it.origin == origin))
            .cloned()
            .collect();
        if self.live.len() >= MAX_BANS + replaced.len() {
            return Err(BanError::Full);
        }
        for id in replaced {
            self.end(&id);
        }
        let NewBan { client, duration, level, rule, reason, mut evidence, mut repositories, strikes, simulated } = new;
        evidence.drain(..evidence.len().saturating_sub(MAX_EVIDENCE));
        repositories.truncate(MAX_REPOSITORIES);
        let record = BanRecord {
            id: self.free_id(number),
            client,
            created: whole(now),
            until: whole(now + duration),
            level,
            rule,
            origin,
            reason,
            created_by: by,
            evidence,
            repositories,
            strikes,
            simulated,
            self_service: origin == Origin::Auto && level < PenaltyLevel::Client,
            lifted: None,
        };
        self.insert(record.clone());
        Ok(BanEvent::Banned { record })
    }

    /// Ends a ban early; whether this user may is decided before.
    ///
    /// # Errors
    /// [`BanError::Unknown`], and [`BanError::Reason`] when none is given.
    pub fn lift(&mut self, id: &str, by: &str, reason: &str, now: SystemTime) -> Result<BanEvent, BanError> {
        if reason.trim().is_empty() {
            return Err(BanError::Reason);
        }
        let unknown = || BanError::Unknown(id.to_owned());
        let record = self.live.get_mut(id).filter(|record| record.is_live(now)).ok_or_else(unknown)?;
        record.lifted = Some(Lift { at: now, by: by.to_owned(), reason: reason.to_owned() });
        let record = record.clone();
        self.end(id);
        Ok(BanEvent::Lifted { record })
    }

    /// Lets a ban end so long from now, sooner or later than it would have; whether this user may is decided before.
    ///
    /// # Errors
    /// [`BanError::Unknown`], [`BanError::Duration`], and [`BanError::Reason`] when none is given.
    pub fn move_end(
        &mut self,
        id: &str,
        duration: Duration,
        reason: &str,
        now: SystemTime,
    ) -> Result<BanEvent, BanError> {
        if reason.trim().is_empty() {
            return Err(BanError::Reason);
        }
        if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
            return Err(BanError::Duration);
        }
        let unknown = || BanError::Unknown(id.to_owned());
        let record = self.live.get_mut(id).filter(|record| record.is_live(now)).ok_or_else(unknown)?;
        let before = std::mem::replace(&mut record.until, whole(now + duration));
        Ok(BanEvent::EndMoved { record: record.clone(), before, reason: reason.to_owned() })
    }

    /// Moves what ended by itself out of the way. Bans end without it; it is for the audit and for room.
    pub fn expire(&mut self, now: SystemTime) -> Vec<BanEvent> {
        let over = self.live.values().filter(|record| now >= record.until);
        let over: Vec<_> = over.map(|record| (record.id.clone(), record.client.clone())).collect();
        over.into_iter()
            .map(|(id, client)| {
                self.end(&id);
                BanEvent::Expired { id, client }
            })
            .collect()
    }

    /// Moves the times of bans that are in force by a step of the clock, in nanoseconds.
    pub(in crate::limits) fn shift(&mut self, step: i64) {
        for record in self.live.values_mut() {
            record.created = whole(moved(record.created, step));
            record.until = whole(moved(record.until, step));
        }
    }

    /// One ban, in force or ended.
    pub fn get(&self, id: &str) -> Option<&BanRecord> {
        self.live.get(id).or_else(|| self.ended.iter().rev().find(|record| record.id == id))
    }

    /// Those that the filter wants, newest first.
    pub fn list(&self, filter: &BanFilter, now: SystemTime) -> Vec<&BanRecord> {
        let ended = self.ended.iter().filter(|_| filter.ended);
        let mut found: Vec<_> = self
            .live
            .values()
            .chain(ended)
            .filter(|record| filter.ended || record.is_live(now))
            .filter(|record| filter.namespace.as_ref().is_none_or(|namespace| record.concerns(namespace)))
            .filter(|record| filter.client.as_ref().is_none_or(|client| meets(&record.client, client)))
            .collect();
        found.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        found
    }

    /// How many are in force, and how many are simulated.
    pub fn count(&self, now: SystemTime) -> (usize, usize) {
        let live = self.live.values().filter(|record| record.is_live(now));
        live.fold(
            (0, 0),
            |(acting, simulated), record| {
                if record.simulated { (acting, simulated + 1) } else { (acting + 1, simulated) }
            },
        )
    }

    /// Everything, as JSON: for another Weir, for a file, and for the next start of this one.
    pub fn export(&self) -> Vec<u8> {
        let all: Vec<&BanRecord> = self.ended.iter().chain(self.live.values()).collect();
        // Records hold nothing that JSON cannot.
        serde_json::to_vec(&all).unwrap_or_default()
    }

    /// A book of these records.
    pub(crate) fn of(records: Vec<BanRecord>, now: SystemTime) -> BanList {
        let mut book = BanList::default();
        for record in records.into_iter().map(|record| record.clamped(now)) {
            match record.is_live(now) && book.live.len() < MAX_BANS {
                true => book.insert(record),
                false => book.remember(record),
            }
        }
        book
    }

    /// Every record, those that ended first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &BanRecord> {
        self.ended.iter().chain(self.live.values())
    }

    /// Bans that did not end yet, simulated ones too.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Takes over live bans of another Weir as imported ones; ids that are taken get new ones from `number`.
    ///
    /// # Errors
    /// [`BanError::Import`], and without `force` what [`BanList::add_by`] refuses; then nothing was taken over.
    pub fn import(
        &mut self,
        json: &[u8],
        by: &str,
        from: Option<IpAddr>,
        force: bool,
        number: u64,
        now: SystemTime,
    ) -> Result<Vec<BanEvent>, BanError> {
        let records: Vec<_> = parse(json)?.into_iter().filter(|record| record.is_live(now)).collect();
        if self.live.len() + records.len() > MAX_BANS {
            return Err(BanError::Full);
        }
        for record in records.iter().filter(|_| !force) {
            check_target(&record.client, from)?;
        }
        let imported = records.into_iter().enumerate().map(|(step, mut record)| {
            let number = number.wrapping_add((step as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            record.id = self.free_id(number);
            record.origin = Origin::Imported;
            record.created_by = by.to_owned();
            record.client = record.client.as_client();
            record.until = record.until.min(now + MAX_DURATION);
            self.insert(record.clone());
            BanEvent::Banned { record }
        });
        Ok(imported.collect())
    }

    /// Does again what was done before: an entry of the audit, in its order.
    pub fn replay(&mut self, event: &BanEvent, now: SystemTime) {
        match event {
            BanEvent::Banned { record } if !self.ids.contains(&record.id) => {
                let record = record.clone().clamped(now);
                let replaced = self.ids(&record.client).iter().filter(|id| {
                    let same = |it: &BanRecord| it.simulated == record.simulated && it.origin == record.origin;
                    self.live.get(*id).is_some_and(|it| record.origin != Origin::Imported && same(it))
                });
                let replaced: Vec<String> = replaced.cloned().collect();
                replaced.iter().for_each(|id| self.end(id));
                match record.is_live(now) && self.live.len() < MAX_BANS {
                    true => self.insert(record),
                    false => self.remember(record),
                }
            }
            BanEvent::Lifted { record } => {
                if let Some(live) = self.live.get_mut(&record.id) {
                    live.lifted.clone_from(&record.lifted);
                    self.end(&record.id);
                } else if let Some(ended) = self.ended.iter_mut().rev().find(|ended| ended.id == record.id) {
                    ended.lifted.clone_from(&record.lifted);
                }
            }
            BanEvent::EndMoved { record, .. } => {
                // A clock that was ahead gives no ban more than the longest time.
                let until = record.until.min(now + MAX_DURATION);
                if let Some(live) = self.live.get_mut(&record.id) {
                    live.until = until;
                } else if let Some(at) = self.ended.iter().position(|ended| ended.id == record.id)
                    && let Some(ended) = self.ended.remove(at)
                {
                    // It had ended by its first end before it was read.
                    let record = BanRecord { until, ..ended };
                    if record.is_live(now) && self.live.len() < MAX_BANS {
                        self.insert(record)
                    } else {
                        self.remember(record)
                    }
                }
            }
            BanEvent::Expired { id, .. } => self.end(id),
            BanEvent::Banned { .. } | BanEvent::Refused { .. } => {}
        }
    }

    fn ids(&self, target: &Target) -> &[String] {
        let ids = match target {
            Target::Network(network) => self.networks.get(network),
            Target::Principal(name) => self.principals.get(name),
        };
        ids.map_or(&[], Vec::as_slice)
    }

    fn free_id(&self, number: u64) -> String {
        let numbers = (0..).map(|step| number.wrapping_add(step) & 0xffff_ffff);
        let mut ids = numbers.map(|number| format!("{number:08x}"));
        ids.find(|id| !self.ids.contains(id)).unwrap_or_default()
    }

    fn insert(&mut self, record: BanRecord) {
        match &record.client {
            Target::Principal(name) => self.principals.entry(name.clone()).or_default().push(record.id.clone()),
            Target::Network(network) => {
                let (is_v6, length) = (network.addr().is_ipv6(), network.prefix_len());
                *self.lengths.entry((is_v6, length)).or_default() += 1;
                self.order.insert((is_v6, std::cmp::Reverse(length)));
                self.networks.entry(*network).or_default().push(record.id.clone());
            }
        }
        self.ids.insert(record.id.clone());
        self.live.insert(record.id.clone(), record);
    }

    fn end(&mut self, id: &str) {
        let Some(record) = self.live.remove(id) else { return };
        match &record.client {
            Target::Principal(name) => forget(&mut self.principals, name, id),
            Target::Network(network) => {
                forget(&mut self.networks, network, id);
                let (is_v6, length) = (network.addr().is_ipv6(), network.prefix_len());
                let count = self.lengths.entry((is_v6, length)).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.lengths.remove(&(is_v6, length));
                    self.order.remove(&(is_v6, std::cmp::Reverse(length)));
                }
            }
        }
        self.remember(record);
    }

    fn remember(&mut self, record: BanRecord) {
        let is_full = self.ended.len() >= MAX_ENDED;
        if let Some(forgotten) = self.ended.pop_front_if(|_| is_full) {
            self.ids.remove(&forgotten.id);
        }
        self.ids.insert(record.id.clone());
        self.ended.push_back(record);
    }
}

/// In whole seconds, as a record is written: it is the same after a restart.
fn whole(at: SystemTime) -> SystemTime {
    std::time::UNIX_EPOCH + Duration::from_secs(at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn highest<'a>(records: impl Iterator<Item = &'a BanRecord>) -> Option<Ban<'a>> {
    records.reduce(|best, record| if record.level > best.level { record } else { best }).map(Ban)
}

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<String>>, key: &K, id: &str) {
    if let Some(ids) = map.get_mut(key) {
        ids.retain(|other| other != id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

fn parse(json: &[u8]) -> Result<Vec<BanRecord>, BanError> {
    let refuse = |reason: String| BanError::Import(reason);
    let json: serde_json::Value =
        serde_json::from_slice(json).map_err(|error| refuse(format!("it is not JSON ({error})")))?;
    let serde_json::Value::Array(bans) = json else {
        return Err(refuse("write the list that `weir ban export` prints".to_owned()));
    };
    let read = |(index, ban): (usize, serde_json::Value)| {
        serde_path_to_error::deserialize(ban).map_err(|error| {
            let key = error.path().to_string();
            // A key that is missing is named by the sentence.
            let key = if key == "." { String::new() } else { format!(", {key}") };
            refuse(format!("ban {} of it{key}: {}", index + 1, error.inner()))
        })
    };
    bans.into_iter().enumerate().map(read).collect()
}

fn check(new: &NewBan, from: Option<IpAddr>) -> Result<(), BanError> {
    check_target(&new.client, from)
}

fn check_target(target: &Target, from: Option<IpAddr>) -> Result<(), BanError> {
    let Target::Network(network) = target else { return Ok(()) };
    let loopback: [IpNet; 2] = [IpAddr::from([127, 0, 0, 0]), IpAddr::from([0_u16, 0, 0, 0, 0, 0, 0, 1])]
        .map(|address| IpNet::new(address, if address.is_ipv4() { 8 } else { 128 }).unwrap_or(address.into()));
    // Yourself before this machine: an operator at the console should read what concerns them.
    if from.is_some_and(|from| network.contains(&from.to_canonical())) {
        return Err(BanError::Yourself(target.clone()));
    }
    if loopback.iter().any(|loopback| network.contains(loopback) || loopback.contains(network)) {
        return Err(BanError::Loopback(target.clone()));
    }
    if target.is_wide() {
        return Err(BanError::Wide(target.clone()));
    }
    Ok(())
}

fn meets(banned: &Target, client: &Target) -> bool {
    match (banned, client) {
        (Target::Network(banned), Target::Network(client)) => banned.contains(client),
        _ => banned == client,
    }
}
