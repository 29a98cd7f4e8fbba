//! Bans by people: made, lifted, taken over; and by those who were banned: lifted, within bounds.

use super::*;
use crate::limits::{
    abuse::PenaltyLevel,
    bans::{BanEvent, NewBan},
};

/// Own bans that an account may lift in a day.
const LIFTS_A_DAY: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a client has half its quota after it lifted its own ban.
const PROBATION: Duration = Duration::from_secs(3600);

/// A ban that an operator wants.
#[derive(Clone, Debug)]
pub struct BanRequest {
    /// Whom.
    pub client: Target,
    /// For how long.
    pub duration: Duration,
    /// Why.
    pub reason: String,
    /// Though it is wide, or covers loopback or the operator.
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
    pub(super) fn add_ban(&self, wish: BanRequest, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
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
        let event = self.in_book(|book| book.add_by(&by.name, by.from, new, wish.force, number, now));
        match event {
            Ok(event) => self.tell(event, by, now),
            Err(refused) => {
                self.record_refusal(by, "ban", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    pub(super) fn end_ban(&self, id: &str, reason: &str, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        let event = self.in_book(|book| book.lift(id, &by.name, reason, now));
        match event {
            Ok(event) => {
                let record = self.tell(event, by, now)?;
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

    pub(super) fn end_own_ban(
        &self,
        id: &str,
        account: &str,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<OwnLift, String> {
        let by = Actor::new(account, from);
        let refuse = |why: &str| {
            self.record_refusal(&by, &format!("lift {id}"), why, now);
            Err(why.to_owned())
        };
        // Whoever may not know of a ban is told no more than that there is none.
        let Some(record) = self.bans_of(account, now).into_iter().find(|record| record.id == id) else {
            return refuse("there is no such ban that is yours to lift");
        };
        let today = self.own_lifts(account, now);
        if today >= LIFTS_A_DAY {
            return refuse("three bans a day may be lifted; ask the operator");
        }
        let reason = "lifted by its owner";
        let record = self.end_ban(&record.id, reason, &by, now).map_err(|refused| refused.to_string())?;
        let probation = now + PROBATION;
        if let Some(client) = key_of(&record.client) {
            let mut on_probation = lock(&self.inner.probation);
            if on_probation.len() < MAX_ON_PROBATION {
                on_probation.insert(client, probation);
                self.inner.on_probation.store(on_probation.len(), Ordering::Release);
            }
        }
        Ok(OwnLift { record, probation, left_today: LIFTS_A_DAY - today - 1 })
    }

    pub(super) fn bans_of(&self, account: &str, now: SystemTime) -> Vec<BanRecord> {
        let config = self.config();
        let Some(account) = config.account(account) else { return Vec::new() };
        let own = |record: &&BanRecord| record.self_service && !record.simulated && account.owns(record);
        lock(&self.inner.bans).list(&BanFilter::default(), now).into_iter().filter(own).cloned().collect()
    }

    /// Own bans that this account lifted within a day. The reason tells them from what it lifted as an operator.
    fn own_lifts(&self, account: &str, now: SystemTime) -> usize {
        let audit = lock(&self.inner.audit);
        let today = audit.newest().take_while(|entry| now.duration_since(entry.at).unwrap_or_default() < DAY);
        let lifted = |entry: &&Entry| match &entry.event {
            Event::Ban(event) => {
                matches!(&**event, BanEvent::Lifted { record } if record.self_service && entry.by == account)
            }
            Event::Admin(_) => false,
        };
        today.filter(lifted).count()
    }

    pub(super) fn take_over(
        &self,
        json: &[u8],
        force: bool,
        by: &Actor,
        now: SystemTime,
    ) -> Result<Vec<BanRecord>, BanError> {
        let number = (self.inner.random)();
        match self.in_book(|book| book.import(json, &by.name, by.from, force, number, now)) {
            Ok(events) => events.into_iter().map(|event| self.tell(event, by, now)).collect(),
            Err(refused) => {
                self.record_refusal(by, "import bans", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    fn in_book<R>(&self, work: impl FnOnce(&mut BanList) -> R) -> R {
        let mut book = lock(&self.inner.bans);
        let result = work(&mut book);
        self.inner.ban_count.store(book.len(), Ordering::Release);
        result
    }

    fn tell(&self, event: BanEvent, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.record_event(by, Event::Ban(Box::new(event.clone())), now);
        match event {
            BanEvent::Banned { record } | BanEvent::Lifted { record } => Ok(record),
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
            let key = ClientKey::Address(crate::limits::client::key_address(network.addr()));
            (Target::of(&key) == *target).then_some(key)
        }
    }
}
