//! Bans by people: made, lifted, taken over; and by those who were banned: lifted, within bounds.

use super::*;
use crate::limits::{
    ban::{Event, New},
    ladder::Rung,
};

/// Own bans that an account may lift in a day.
const LIFTS_A_DAY: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a client has half its quota after it lifted its own ban.
const PROBATION: Duration = Duration::from_secs(3600);

/// A ban that an operator wants.
#[derive(Clone, Debug)]
pub struct Wish {
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
pub struct Lifted {
    /// It.
    pub record: Record,
    /// Until when its client has half its quota.
    pub probation: SystemTime,
    /// How many more this account may lift within a day.
    pub left_today: usize,
}

impl Limits {
    pub(super) fn add_ban(&self, wish: Wish, by: &Operator, now: SystemTime) -> Result<Record, Refused> {
        let new = New {
            client: wish.client,
            duration: wish.duration,
            rung: Rung::Client,
            rule: "admin".to_owned(),
            reason: wish.reason,
            evidence: Vec::new(),
            repositories: Vec::new(),
            strikes: 0,
            simulated: false,
        };
        let number = (self.inner.chance)();
        let event = self.in_book(|book| book.add_by(&by.name, by.from, new, wish.force, number, now));
        match event {
            Ok(event) => self.tell(event, by, now),
            Err(refused) => {
                self.refused(by, "ban", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    pub(super) fn end_ban(&self, id: &str, reason: &str, by: &Operator, now: SystemTime) -> Result<Record, Refused> {
        let event = self.in_book(|book| book.lift(id, &by.name, reason, now));
        match event {
            Ok(event) => {
                let record = self.tell(event, by, now)?;
                if let Some(client) = key_of(&record.client) {
                    lock(&self.inner.ladder).pardon(&client);
                }
                Ok(record)
            }
            Err(refused) => {
                self.refused(by, &format!("lift {id}"), &refused.to_string(), now);
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
    ) -> Result<Lifted, String> {
        let by = Operator::new(account, from);
        let refuse = |why: &str| {
            self.refused(&by, &format!("lift {id}"), why, now);
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
            if on_probation.len() < MOST_ON_PROBATION {
                on_probation.insert(client, probation);
                self.inner.on_probation.store(on_probation.len(), Ordering::Release);
            }
        }
        Ok(Lifted { record, probation, left_today: LIFTS_A_DAY - today - 1 })
    }

    pub(super) fn bans_of(&self, account: &str, now: SystemTime) -> Vec<Record> {
        let rulebook = self.rulebook();
        let Some(account) = rulebook.account(account) else { return Vec::new() };
        let own = |record: &&Record| record.self_service && !record.simulated && account.owns(record);
        lock(&self.inner.book).list(&Filter::default(), now).into_iter().filter(own).cloned().collect()
    }

    /// Own bans that this account lifted within a day. The reason tells them from what it lifted as an operator.
    fn own_lifts(&self, account: &str, now: SystemTime) -> usize {
        let audit = lock(&self.inner.audit);
        let today = audit.newest().take_while(|entry| now.duration_since(entry.at).unwrap_or_default() < DAY);
        let lifted = |entry: &&Entry| match &entry.what {
            What::Ban(event) => {
                matches!(&**event, Event::Lifted { record } if record.self_service && entry.by == account)
            }
            What::Other(_) => false,
        };
        today.filter(lifted).count()
    }

    pub(super) fn take_over(
        &self,
        json: &[u8],
        force: bool,
        by: &Operator,
        now: SystemTime,
    ) -> Result<Vec<Record>, Refused> {
        let number = (self.inner.chance)();
        match self.in_book(|book| book.import(json, &by.name, by.from, force, number, now)) {
            Ok(events) => events.into_iter().map(|event| self.tell(event, by, now)).collect(),
            Err(refused) => {
                self.refused(by, "import bans", &refused.to_string(), now);
                Err(refused)
            }
        }
    }

    fn in_book<R>(&self, work: impl FnOnce(&mut Book) -> R) -> R {
        let mut book = lock(&self.inner.book);
        let result = work(&mut book);
        self.inner.bans.store(book.len(), Ordering::Release);
        result
    }

    fn tell(&self, event: Event, by: &Operator, now: SystemTime) -> Result<Record, Refused> {
        self.note(by, What::Ban(Box::new(event.clone())), now);
        match event {
            Event::Banned { record } | Event::Lifted { record } => Ok(record),
            // The book gives back nothing else when a ban is made or lifted.
            Event::Expired { id, .. } => Err(Refused::Unknown(id)),
            Event::Refused { reason, .. } => Err(Refused::Import(reason)),
        }
    }
}

/// The client that is meant, when it is one.
fn key_of(target: &Target) -> Option<ClientKey> {
    match target {
        Target::Principal(name) => Some(ClientKey::Principal(name.as_str().into())),
        Target::Network(network) => {
            let key = ClientKey::Address(crate::limits::client::fold(network.addr()));
            (Target::of(&key) == *target).then_some(key)
        }
    }
}
