//! Bans by people: made, lifted, taken over; and by those who were banned: lifted, within bounds.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::{Limits, lock};
use crate::{
    client::ClientKey,
    limits::{
        address::key_address,
        audit::{Actor, Entry, Event},
        bans::{BanError, BanEvent, BanFilter, BanList, BanRecord, NewBan},
        penalty::PenaltyLevel,
        target::Target,
    },
};

/// Own bans that an account may lift in a day.
const LIFTS_A_DAY: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a client has half its quota after it lifted its own ban.
pub(super) const PROBATION: Duration = Duration::from_secs(3600);

/// A ban that an operator wants.
#[derive(Clone, Debug)]
pub struct BanRequest {
    /// Whom.
    pub client: Target,
    /// For how long.
    pub duration: Duration,
    /// Why.
    pub reason: String,
    /// Though it is wide, covers loopback or the operator, or means an account that is not configured.
    pub force: bool,
}

/// An own ban that was lifted.
#[derive(Clone, Debug)]
pub struct OwnLift {
    /// It.
    pub record: BanRecord,
    /// Until when its client has half its quota.
    pub probation: SystemTime,
    /// How many more this account may lift within a day.
    pub left_today: usize,
}

impl Limits {
    /// A ban by an operator.
    ///
    /// # Errors
    /// What needs `force`, and a duration out of bounds.
    pub fn ban(&self, wish: BanRequest, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.steady(now);
        let checked = self.check_account(&wish.client, wish.force);
        let new = NewBan {
            client: wish.client,
            duration: wish.duration,
            level: PenaltyLevel::Client,
            rule: "admin".to_owned(),
            reason: wish.reason,
            evidence: Vec::new(),
            repositories: Vec::new(),
            strikes: 0,
            simulated: false,
        };
        let number = (self.inner.random)();
        let event = checked
            .and_then(|()| self.inner.bans.change(|list| list.add_by(&by.name, by.from, new, wish.force, number, now)));
        match event {
            Ok(event) => self.record_ban(event, by, now),
            Err(refused) => {
                self.record_refusal(by, "ban", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    /// A ban of an account that is not configured stops no client. Mostly it is a mistyped address.
    fn check_account(&self, client: &Target, force: bool) -> Result<(), BanError> {
        match client {
            Target::Principal(name) if self.config().account(name).is_none() => match client.looks_like_address() {
                true => Err(BanError::NotAnAddress(client.clone())),
                false if force => Ok(()),
                false => Err(BanError::UnknownAccount(client.clone())),
            },
            _ => Ok(()),
        }
    }

    /// A lift by an operator; a reason is required.
    ///
    /// # Errors
    /// No such ban, or no reason.
    pub fn lift(&self, id: &str, reason: &str, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.steady(now);
        let event = self.inner.bans.change(|list| list.lift(id, &by.name, reason, now));
        match event {
            Ok(event) => {
                let record = self.record_ban(event, by, now)?;
                if let Some(client) = key_of(&record.client) {
                    lock(&self.inner.abuse).forget_failures(&client);
                }
                Ok(record)
            }
            Err(refused) => {
                self.record_refusal(by, &format!("lift {id}"), &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    /// Lets a ban end so long from now, by an operator; a reason is required.
    ///
    /// # Errors
    /// No such ban, a duration out of bounds, or no reason.
    pub fn move_end(
        &self,
        id: &str,
        duration: Duration,
        reason: &str,
        by: &Actor,
        now: SystemTime,
    ) -> Result<BanRecord, BanError> {
        self.steady(now);
        match self.inner.bans.change(|list| list.move_end(id, duration, reason, now)) {
            Ok(event) => self.record_ban(event, by, now),
            Err(refused) => {
                self.record_refusal(by, &format!("move the end of {id}"), &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    /// How many requests met this ban since the start of the process.
    pub fn met(&self, id: &str) -> u64 {
        self.inner.bans.met(id)
    }

    /// An account lifts a ban that is its own to lift: of its networks, namespaces or itself, three a day, followed by an hour at
    /// half quota. A refusal is an entry of the audit.
    ///
    /// # Errors
    /// Why it may not, for a person to read.
    pub fn lift_own(&self, id: &str, account: &str, from: Option<IpAddr>, now: SystemTime) -> Result<OwnLift, String> {
        let by = Actor::new(account, from);
        let refuse = |why: &str| {
            self.record_refusal(&by, &format!("lift {id}"), why, now);
            Err(why.to_owned())
        };
        // A visitor who may not see a ban gets the answer for one that does not exist.
        let Some(record) = self.own_bans(account, now).into_iter().find(|record| record.id == id) else {
            return refuse("there is no such ban that is yours to lift");
        };
        let today = self.own_lifts(account, now);
        if today >= LIFTS_A_DAY {
            return refuse("three bans a day may be lifted; ask the operator");
        }
        let reason = "lifted by its owner";
        let record = self.lift(&record.id, reason, &by, now).map_err(|refused| refused.to_string())?;
        let probation = now + PROBATION;
        if let Some(client) = key_of(&record.client) {
            self.inner.probation.begin(client, self.steady(now) + PROBATION);
        }
        Ok(OwnLift { record, probation, left_today: LIFTS_A_DAY - today - 1 })
    }

    /// Bans that this account may lift itself, newest first; whether it may do so today is another question.
    pub fn own_bans(&self, account: &str, now: SystemTime) -> Vec<BanRecord> {
        self.steady(now);
        let config = self.config();
        let Some(account) = config.account(account) else { return Vec::new() };
        let own = |record: &&BanRecord| record.self_service && !record.simulated && account.owns(record);
        self.inner.bans.read(|list| list.list(&BanFilter::default(), now).into_iter().filter(own).cloned().collect())
    }

    /// Own bans that this account lifted within a day. The reason tells them from what it lifted as an operator.
    fn own_lifts(&self, account: &str, now: SystemTime) -> usize {
        let is_own = |entry: &&Entry| match &entry.event {
            Event::Ban(event) => {
                matches!(&**event, BanEvent::Lifted { record } if record.self_service && entry.by == account)
            }
            Event::Admin(_) => false,
        };
        self.inner.audit.read(|audit| {
            let today = audit.newest().filter(|entry| now.duration_since(entry.at).is_ok_and(|age| age < DAY));
            today.filter(is_own).count()
        })
    }

    /// Takes over live bans of another Weir.
    ///
    /// # Errors
    /// What cannot be read, and without `force` what [`Limits::ban`] refuses; then nothing was taken over.
    pub fn import(&self, json: &[u8], force: bool, by: &Actor, now: SystemTime) -> Result<Vec<BanRecord>, BanError> {
        let number = (self.inner.random)();
        match self.inner.bans.change(|list| list.import(json, &by.name, by.from, force, number, now)) {
            Ok(events) => events.into_iter().map(|event| self.record_ban(event, by, now)).collect(),
            Err(refused) => {
                self.record_refusal(by, "import bans", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    /// Bans, newest first.
    pub fn bans(&self, filter: &BanFilter, now: SystemTime) -> Vec<BanRecord> {
        self.steady(now);
        self.inner.bans.read(|list| list.list(filter, now).into_iter().cloned().collect())
    }

    /// How many are in force, and how many are simulated.
    pub fn count_bans(&self, now: SystemTime) -> (usize, usize) {
        self.steady(now);
        self.inner.bans.read(|list| list.count(now))
    }

    /// Bans that began since then, simulated ones aside, as far back as the audit is in memory.
    pub fn count_banned(&self, since: SystemTime) -> usize {
        let is_one = |entry: &&Entry| {
            let Event::Ban(event) = &entry.event else { return false };
            entry.at >= since && matches!(&**event, BanEvent::Banned { record } if !record.simulated)
        };
        self.inner.audit.read(|audit| audit.newest().filter(is_one).count())
    }

    /// One ban, in force or ended.
    pub fn get_ban(&self, id: &str) -> Option<BanRecord> {
        self.inner.bans.read(|list| list.get(id).cloned())
    }

    /// The ban that this client would meet now, simulated ones aside.
    pub fn ban_of(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<BanRecord> {
        self.steady(now);
        self.inner.bans.read(|list| list.find(client, address, now).map(|ban| ban.0.clone()))
    }

    /// All bans as JSON, for another Weir.
    pub fn export(&self) -> Vec<u8> {
        self.inner.bans.read(BanList::export)
    }

    fn record_ban(&self, event: BanEvent, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.record_event(by, Event::Ban(Box::new(event.clone())), now);
        match event {
            BanEvent::Banned { record } | BanEvent::Lifted { record } | BanEvent::EndMoved { record, .. } => Ok(record),
            // The book gives back nothing else when a ban is made or lifted.
            BanEvent::Expired { id, .. } => Err(BanError::Unknown(id)),
            BanEvent::Refused { reason, .. } => Err(BanError::Import(reason)),
        }
    }
}

/// The client that is meant, when it is one.
fn key_of(target: &Target) -> Option<ClientKey> {
    match target {
        Target::Principal(name) => Some(ClientKey::Principal(name.as_str().into())),
        Target::Network(network) => {
            let key = ClientKey::Address(key_address(network.addr()));
            (Target::of(&key) == *target).then_some(key)
        }
    }
}
