//! One request: who it is from, whether it may be answered, and what becomes of it.

use super::*;
use crate::limits::{
    ladder::{Failure, Outcome, Rung},
    permit::{Cause, Kind, Note},
    throttle::{BYTES_UNIT, Decision, Meter, Meters},
};

impl Limits {
    pub(super) fn describe(&self, key: ClientKey, address: IpAddr, user_agent: &str) -> Client {
        let rulebook = self.rulebook();
        let account = rulebook.account_of(&key);
        let (class, on_exceed) = rulebook.classes.of(address, account.map(|account| &*account.name), user_agent);
        let patterns = |of: fn(&crate::limits::Account) -> &Arc<[String]>| {
            account.map_or_else(|| Arc::from([]), |a| of(a).clone())
        };
        Client {
            pull: patterns(|account| &account.pull),
            push: patterns(|account| &account.push),
            delete: patterns(|account| &account.delete),
            overrides: account.is_some_and(|account| account.budget_override),
            key,
            class,
            address,
            on_exceed,
        }
    }

    pub(super) fn judge(&self, request: &Request<'_>, now: SystemTime) -> Result<Permit, Box<Denied>> {
        let client = &request.client;
        let mut permit = Permit::free(client.clone());
        if request.kind == Kind::Ping {
            return Ok(permit);
        }
        let rulebook = self.rulebook();
        let listed = rulebook.allowlist.find(&client.key, request.address(), now).map(|(_, safe)| safe);
        permit.safe = request.bypass.or(listed);
        let on_registry = matches!(request.kind, Kind::Pull | Kind::Registry);
        if on_registry && self.inner.bans.load(Ordering::Acquire) > 0 {
            self.meet_bans(&rulebook, &mut permit, request, now)?;
        }
        if let Some(safe) = permit.safe {
            permit.notes.push(Note::safe(safe));
            return Ok(permit);
        }
        let take = request.kind.takes();
        permit.decision = self.inner.table.check(&rulebook.throttles, &client.key, take, request.kind.looks_at(), now);
        // What was too much took nothing, and a dry run lets it pass: then there is nothing to give back.
        let over = permit.decision.standings().filter(|standing| standing.over);
        permit.took = over.fold(take, |took, standing| took.without(standing.rule.meter()));
        if permit.decision.is_empty() {
            return Ok(permit);
        }
        permit.notes.extend(permit.decision.would_have_denied().map(|standing| Note::of(&standing, "track")));
        let text = &rulebook.response_text;
        if let Some(denied) = Denied::throttled(&client.key, &permit.decision, request.kind, text, now) {
            if on_registry {
                self.climb(&rulebook, client, request.about, 429, Outcome::Throttled, now);
            }
            return Err(Box::new(denied));
        }
        if self.is_on_probation(&client.key, now) {
            // Half quota: what is taken is taken twice.
            self.charge_each(&rulebook, client, take, now);
        }
        Ok(permit)
    }

    fn meet_bans(
        &self,
        rulebook: &Rulebook,
        permit: &mut Permit,
        request: &Request<'_>,
        now: SystemTime,
    ) -> Result<(), Box<Denied>> {
        let client = &request.client;
        let (found, simulated) = {
            let book = lock(&self.inner.book);
            // Whom a rule banned and an operator trusts goes on; whom an operator banned does not.
            let found = match permit.safe {
                None => book.find(&client.key, request.address(), now),
                Some(_) => book.find_by_people(&client.key, request.address(), now),
            };
            (
                found.map(|ban| ban.0.clone()),
                book.find_simulated(&client.key, request.address(), now).map(|ban| Note::of_ban(ban.0, "track")),
            )
        };
        permit.notes.extend(simulated);
        let Some(record) = found else { return Ok(()) };
        let url = &rulebook.public_url;
        let denied = Box::new(Denied::banned(&record, &client.key, url, rulebook.bans_are_denied, now));
        if record.rung < Rung::Client {
            permit.misses = Some(denied);
            return Ok(());
        }
        self.climb(rulebook, client, request.about, 403, Outcome::Denied(record.rung), now);
        Err(denied)
    }

    pub(super) fn judge_upstream(&self, client: &Client, about: About<'_>, now: SystemTime) -> Result<(), Box<Denied>> {
        let rulebook = self.rulebook();
        if rulebook.allowlist.find(&client.key, client.address, now).is_some() {
            return Ok(());
        }
        let take = Meter::Upstream.alone();
        let decision = self.inner.table.check(&rulebook.throttles, &client.key, take, Meters::NONE, now);
        match Denied::throttled(&client.key, &decision, Kind::Registry, &rulebook.response_text, now) {
            None => Ok(()),
            Some(denied) => {
                self.climb(&rulebook, client, about, 429, Outcome::UpstreamExceeded, now);
                Err(Box::new(denied))
            }
        }
    }

    pub(super) fn settle(&self, permit: &Permit, about: About<'_>, status: u16, now: SystemTime) {
        let rulebook = self.rulebook();
        let client = &permit.client;
        // A pull that brought nothing is none, as on Docker Hub; the request was one.
        if permit.took.holds(Meter::Pulls) && status >= 400 {
            self.inner.table.refund(&rulebook.throttles, &client.key, Meter::Pulls, 1, now);
        }
        if permit.safe.is_some() {
            return;
        }
        match status {
            404 => {
                self.inner.table.charge(&rulebook.throttles, &client.key, Meter::NotFound, 1, now);
                self.climb(&rulebook, client, about, status, Outcome::Missing, now);
            }
            403 | 429 => {
                // What rung 2 or 3 held back counts towards rung 4.
                if let Some(denied) = &permit.misses {
                    let rung = if denied.cause == Cause::MissesHeld { Rung::Misses } else { Rung::MissesBanned };
                    self.climb(&rulebook, client, about, status, Outcome::Denied(rung), now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn charge_bytes(&self, permit: &Permit, bytes: u64, now: SystemTime) {
        if permit.safe.is_some() || bytes == 0 {
            return;
        }
        let rulebook = self.rulebook();
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX);
        self.inner.table.charge(&rulebook.throttles, &permit.client.key, Meter::Bytes, units, now);
    }

    pub(super) fn judge_login(&self, client: &Client, succeeded: bool, now: SystemTime) {
        let rulebook = self.rulebook();
        if rulebook.allowlist.find(&client.key, client.address, now).is_some() {
            return;
        }
        let outcome = if succeeded { Outcome::AuthSucceeded } else { Outcome::AuthFailed };
        if !succeeded {
            self.inner.table.charge(&rulebook.throttles, &client.key, Meter::Auth, 1, now);
        }
        let about = About { method: "", repository: "", reference: "" };
        self.climb(&rulebook, client, about, 401, outcome, now);
    }

    /// Tells the ladder, and makes a ban of the step that comes of it.
    pub(super) fn climb(
        &self,
        rulebook: &Rulebook,
        client: &Client,
        about: About<'_>,
        status: u16,
        outcome: Outcome,
        now: SystemTime,
    ) {
        let About { method, repository, reference } = about;
        let failure =
            Failure { client: &client.key, address: client.address, method, repository, reference, status, outcome };
        let jitter = self.chance() * 2.0 - 1.0;
        let step = lock(&self.inner.ladder).note(&rulebook.ladder, failure, now, jitter);
        let Some(step) = step else { return };
        let number = (self.inner.chance)();
        let event = {
            let mut book = lock(&self.inner.book);
            let event = book.add_automatic(step.ban, number, now);
            self.inner.bans.store(book.len(), Ordering::Release);
            event
        };
        match event {
            Ok(event) => self.note(&Operator::auto(), What::Ban(Box::new(event)), now),
            Err(refused) => self.refused(&Operator::auto(), "ban", &refused.to_string(), now),
        }
    }

    /// From 0 to 1.
    fn chance(&self) -> f64 {
        ((self.inner.chance)() >> 32) as f64 / f64::from(u32::MAX)
    }

    fn is_on_probation(&self, client: &ClientKey, now: SystemTime) -> bool {
        self.inner.on_probation.load(Ordering::Acquire) > 0
            && lock(&self.inner.probation).get(client).is_some_and(|until| now < *until)
    }

    fn charge_each(&self, rulebook: &Rulebook, client: &Client, meters: Meters, now: SystemTime) {
        for meter in Meter::ALL.into_iter().filter(|meter| meters.holds(*meter)) {
            self.inner.table.charge(&rulebook.throttles, &client.key, meter, 1, now);
        }
    }

    /// Where a client stands, for those who look at it.
    pub(super) fn standing(&self, rulebook: &Rulebook, client: &ClientKey, now: SystemTime) -> Decision {
        let all = Meter::ALL.into_iter().fold(Meters::NONE, Meters::and);
        self.inner.table.peek(&rulebook.throttles, client, all, now)
    }
}
