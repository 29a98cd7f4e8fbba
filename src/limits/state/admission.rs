//! One request: who it is from, whether it may be answered, and what becomes of it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Limits, lock};
use crate::{
    client::{Client, ClientKey},
    limits::{
        Target,
        abuse::{Code, Failure, Outcome},
        address::key_address,
        audit::{Actor, Event},
        config::{Account, LimitsConfig},
        penalty::PenaltyLevel,
        permit::{AdmissionRequest, DenialCause, Denied, LogFields, Permit, RequestInfo, RequestKind},
        throttle::{BYTES_UNIT, Meter, Meters},
    },
};

impl Limits {
    /// The client as the budget sees it too: its class, how far its requests go, and whether it passes floors. `key` is a verified principal or
    /// an address.
    pub fn describe_client(&self, key: ClientKey, address: IpAddr, user_agent: &str) -> Client {
        let config = self.config();
        let account = config.account_of(&key);
        let (class, on_exceed) = config.classes.of(address, account.map(|account| &*account.name), user_agent);
        let patterns = |of: fn(&Account) -> &Arc<[String]>| account.map_or_else(|| Arc::from([]), |a| of(a).clone());
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

    /// Whether this request may be answered. A few look-ups; allocates only for what there is to say.
    ///
    /// # Errors
    /// The response that refuses it.
    pub fn admit(&self, request: &AdmissionRequest<'_>, now: SystemTime) -> Result<Permit, Box<Denied>> {
        let client = &request.client;
        let mut permit = Permit::unlimited(client.clone());
        if request.kind == RequestKind::Ping {
            return Ok(permit);
        }
        let config = self.config();
        let steady = self.steady(now);
        let listed = config.allowlist.find(&client.key, request.address(), now).map(|(_, safe)| safe);
        permit.safe = request.bypass.or(listed);
        let on_registry = matches!(request.kind, RequestKind::Pull | RequestKind::Registry);
        if on_registry && !self.inner.bans.is_empty() {
            self.meet_bans(&config, &mut permit, request, now)?;
        }
        if let Some(safe) = permit.safe {
            permit.notes.push(LogFields::safe(safe));
            return Ok(permit);
        }
        let take = request.kind.takes();
        permit.decision =
            self.inner.throttles.check(&config.throttles, &client.key, take, request.kind.looks_at(), steady);
        // What was too much took nothing, and a dry run lets it pass: then there is nothing to give back.
        let over = permit.decision.standings().filter(|standing| standing.over);
        permit.took = over.fold(take, |took, standing| took.without(standing.rule.meter()));
        if permit.decision.is_empty() {
            return Ok(permit);
        }
        permit.notes.extend(permit.decision.would_have_denied().map(|standing| LogFields::of(&standing, "track")));
        let text = &config.response_text;
        if let Some(denied) = Denied::throttled(&client.key, &permit.decision, request.kind, text, now) {
            if on_registry {
                self.record_failure(&config, client, request.about, 429, Outcome::Throttled, now);
            }
            return Err(Box::new(denied));
        }
        if self.inner.probation.holds(&client.key, steady) {
            // Half quota: what is taken is taken twice.
            self.charge_each(&config, client, take, steady);
        }
        Ok(permit)
    }

    fn meet_bans(
        &self,
        config: &LimitsConfig,
        permit: &mut Permit,
        request: &AdmissionRequest<'_>,
        now: SystemTime,
    ) -> Result<(), Box<Denied>> {
        let client = &request.client;
        let (found, simulated) = self.inner.bans.read(|list| {
            // Whom a rule banned and an operator trusts goes on; whom an operator banned does not.
            let found = match permit.safe {
                None => list.find(&client.key, request.address(), now),
                Some(_) => list.find_by_operator(&client.key, request.address(), now),
            };
            let simulated = list.find_simulated(&client.key, request.address(), now);
            (found.map(|ban| ban.0.clone()), simulated.map(|ban| LogFields::of_ban(ban.0, "track")))
        });
        permit.notes.extend(simulated);
        let Some(record) = found else { return Ok(()) };
        self.inner.bans.meet(&record.id);
        let url = &config.public_url;
        // A logged-in client reads of its address when that is what is banned: elsewhere its account is not.
        let address = ClientKey::Address(key_address(client.address));
        let banned = if matches!(record.client, Target::Network(_)) { &address } else { &client.key };
        let denied = Box::new(Denied::banned(&record, banned, url, config.abuse.code == Code::Denied, now));
        if record.level < PenaltyLevel::Client {
            permit.misses = Some(denied);
            return Ok(());
        }
        self.record_failure(config, client, request.about, 403, Outcome::Denied(record.level), now);
        Err(denied)
    }

    /// How long this client is to be answered with the cached 404 for this reference, if it missed it too often (level 1). `None`: upstream may
    /// be asked.
    pub fn miss_throttled(&self, client: &Client, about: RequestInfo<'_>, now: SystemTime) -> Option<Duration> {
        let config = self.config();
        lock(&self.inner.abuse).miss_throttled(
            &config.abuse,
            &client.key,
            about.repository,
            about.reference,
            self.steady(now),
        )
    }

    /// Whether a counted request may be sent upstream for this client. Takes one of its `upstream` throttle.
    ///
    /// # Errors
    /// The response that refuses it.
    pub fn admit_upstream(&self, client: &Client, about: RequestInfo<'_>, now: SystemTime) -> Result<(), Box<Denied>> {
        let config = self.config();
        if config.allowlist.find(&client.key, client.address, now).is_some() {
            return Ok(());
        }
        let take = Meter::Upstream.alone();
        let decision = self.inner.throttles.check(&config.throttles, &client.key, take, Meters::NONE, self.steady(now));
        match Denied::throttled(&client.key, &decision, RequestKind::Registry, &config.response_text, now) {
            None => Ok(()),
            Some(denied) => {
                self.record_failure(&config, client, about, 429, Outcome::UpstreamExceeded, now);
                Err(Box::new(denied))
            }
        }
    }

    /// Gives back what [`Limits::admit_upstream`] took: the request was not sent, or upstream did not count it.
    pub fn refund_upstream(&self, client: &Client, now: SystemTime) {
        self.inner.throttles.refund(&self.config().throttles, &client.key, Meter::Upstream, 1, self.steady(now));
    }

    /// Records that the request was answered with this status, which is not a success.
    pub fn record_outcome(&self, permit: &Permit, about: RequestInfo<'_>, status: u16, now: SystemTime) {
        let config = self.config();
        let client = &permit.client;
        // A pull that brought nothing is none, as on Docker Hub; the request was one.
        if permit.took.holds(Meter::Pulls) && status >= 400 {
            self.inner.throttles.refund(&config.throttles, &client.key, Meter::Pulls, 1, self.steady(now));
        }
        if permit.safe.is_some() {
            return;
        }
        match status {
            404 => {
                self.inner.throttles.charge(&config.throttles, &client.key, Meter::NotFound, 1, self.steady(now));
                self.record_failure(&config, client, about, status, Outcome::Missing, now);
            }
            403 | 429 => {
                // What level 2 or 3 held back counts towards level 4.
                if let Some(denied) = &permit.misses {
                    let level = if denied.cause == DenialCause::MissesHeld {
                        PenaltyLevel::Misses
                    } else {
                        PenaltyLevel::MissesBanned
                    };
                    self.record_failure(&config, client, about, status, Outcome::Denied(level), now);
                }
            }
            _ => {}
        }
    }

    /// Charges the bytes that were sent in answer.
    pub fn charge_bytes(&self, permit: &Permit, bytes: u64, now: SystemTime) {
        if permit.safe.is_some() || bytes == 0 {
            return;
        }
        let config = self.config();
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX);
        self.inner.throttles.charge(&config.throttles, &permit.client.key, Meter::Bytes, units, self.steady(now));
    }

    /// Records that the client offered credentials, which did or did not verify.
    pub fn record_login(&self, client: &Client, succeeded: bool, now: SystemTime) {
        let config = self.config();
        if config.allowlist.find(&client.key, client.address, now).is_some() {
            return;
        }
        let outcome = if succeeded { Outcome::AuthSucceeded } else { Outcome::AuthFailed };
        if !succeeded {
            self.inner.throttles.charge(&config.throttles, &client.key, Meter::Auth, 1, self.steady(now));
        }
        let about = RequestInfo { method: "", repository: "", reference: "" };
        self.record_failure(&config, client, about, 401, outcome, now);
    }

    /// Counts the failure against the client, and bans it when that reaches the next level.
    fn record_failure(
        &self,
        config: &LimitsConfig,
        client: &Client,
        about: RequestInfo<'_>,
        status: u16,
        outcome: Outcome,
        now: SystemTime,
    ) {
        let RequestInfo { method, repository, reference } = about;
        let failure =
            Failure { client: &client.key, address: client.address, method, repository, reference, status, outcome };
        let jitter = self.fraction() * 2.0 - 1.0;
        let escalation = lock(&self.inner.abuse).record_failure(&config.abuse, failure, now, self.steady(now), jitter);
        let Some(escalation) = escalation else { return };
        let number = (self.inner.random)();
        match self.inner.bans.change(|list| list.add_automatic(escalation.ban, number, now)) {
            Ok(event) => self.record_event(&Actor::auto(), Event::Ban(Box::new(event)), now),
            Err(refused) => self.record_refusal(&Actor::auto(), "ban", &refused.to_string(), now),
        }
    }

    /// A random number from 0 to 1.
    fn fraction(&self) -> f64 {
        ((self.inner.random)() >> 32) as f64 / f64::from(u32::MAX)
    }

    fn charge_each(&self, config: &LimitsConfig, client: &Client, meters: Meters, now: SystemTime) {
        for meter in Meter::ALL.into_iter().filter(|meter| meters.holds(*meter)) {
            self.inner.throttles.charge(&config.throttles, &client.key, meter, 1, now);
        }
    }
}
