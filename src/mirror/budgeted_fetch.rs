//! The counted GET: who may send it, who pays for it, and who waits for a pull to come back.
//!
//! # The order
//!
//! The cache, and what a HEAD can tell, were tried before. Then: the identity with the most left pays, if the client's
//! class and share allow; else a stale answer, which is the caller's to find; else a place in the queue, when a pull is forecast within
//! `queue_max_wait`; else the refusal, at once. A flight that others have joined does not wait in the queue: they would wait for the turn of its leader.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use weir_storage::Source;

use super::{
    coalesce::{ShareScope, Waiters},
    error::Error,
    lookup::{Cost, Lookup},
    metrics::Metrics,
    names::Names,
    outcome::PullDecision,
    sources::Sources,
};
use crate::{
    client::{Class, OnExceed},
    clock,
    limits::{
        Limits,
        budget::{self, BudgetDecision, HeldPull, QueueStatus, RefusalReason, Ticket},
        permit::RequestInfo,
    },
    oci::{Digest, Manifest, Reference},
    upstream::{
        self, Identity, Ledger, Reservation, Upstream,
        ledger::{Attempt, Balance, Purpose, Reason},
    },
};

/// How often an identity that seems to have nothing left is probed by a HEAD, when a pull is wanted.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a waiting request asks whether it is its turn: a pull may come back unforecast.
const QUEUE_POLL: Duration = Duration::from_millis(250);
/// How finely, and how far, it is forecast when a warm may spend: a day in steps of ten minutes.
const SURPLUS_STEP: Duration = Duration::from_secs(600);
const SURPLUS_STEPS: u32 = 144;

/// Sends counted GETs. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct BudgetedFetch {
    sources: Sources,
    pub(super) ledger: Ledger,
    pub(super) limits: Limits,
    names: Names,
    metrics: Arc<Metrics>,
    /// When an identity that seemed to have nothing left was last probed by a HEAD.
    last_probes: Arc<Mutex<HashMap<Identity, Instant>>>,
}

impl BudgetedFetch {
    pub(super) fn new(
        sources: Sources,
        ledger: Ledger,
        limits: Limits,
        names: Names,
        metrics: Arc<Metrics>,
    ) -> BudgetedFetch {
        BudgetedFetch { sources, ledger, limits, names, metrics, last_probes: Arc::default() }
    }

    /// The counted GET, and whose answer it is. What anonymous may read is paid by the identity with the most left, the rest by its
    /// account. `source` is `None` when no HEAD told who may read it: then the GET does, as anonymous first, and each pays for itself.
    pub(super) async fn fetch(
        &self,
        lookup: &Lookup,
        source: Option<&Source>,
        reference: &Reference,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<(Source, Manifest), Error> {
        if let Some(denied) = &lookup.cached_only {
            return Err(Error::Throttled(denied.clone()));
        }
        let upstream = self.sources.upstream(&lookup.upstream)?;
        let now = clock::now();
        let name = reference.to_string();
        let about = RequestInfo { method: "GET", repository: lookup.repository.as_str(), reference: &name };
        // A warm is no client: what it may spend is what clients leave, and no throttle is for it.
        let is_throttled = !lookup.client.key.is_warm();
        if is_throttled {
            let admitted = self.limits.admit_upstream(&lookup.client, about, now);
            admitted.map_err(|denied| Error::Throttled(Arc::from(denied)))?;
        }
        let mut fetched = None;
        for reader in source.cloned().map_or_else(|| self.sources.readable(lookup).collect(), |source| vec![source]) {
            let payers = self.payers(&upstream, &reader, source.is_some());
            let manifest = self.fetch_admitted(&upstream, lookup, payers, reference, reason, waiters).await;
            let is_refused = manifest.as_ref().is_err_and(Error::is_absence);
            if !is_refused {
                fetched = Some(manifest.map(|manifest| (reader, manifest)));
                break;
            }
            fetched.get_or_insert(manifest.map(|manifest| (reader, manifest)));
        }
        let fetched = fetched.unwrap_or(Err(Error::NameUnknown));
        if let Ok((_, manifest)) = &fetched {
            self.names.learn_platforms(lookup, manifest);
        } else if is_throttled {
            self.limits.refund_upstream(&lookup.client, clock::now());
        }
        fetched
    }

    async fn fetch_admitted(
        &self,
        upstream: &Upstream,
        lookup: &Lookup,
        payers: Vec<(Identity, Balance)>,
        reference: &Reference,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<Manifest, Error> {
        let mut refusal: Option<(Balance, RefusalReason, Duration)> = None;
        let (mut limited, asked_at) = (None, clock::now());
        for (identity, mut left) in payers {
            if left.remaining.is_some_and(|remaining| remaining <= 0) {
                left = self.probe(upstream, &identity, lookup, reference, left).await;
            }
            let purpose = self.purpose(lookup, reference, reason, waiters);
            match self.reserve(&identity, &purpose, lookup, OnExceed::Stale).await {
                Ok(reservation) => match self.send(upstream, reservation, lookup, reference).await {
                    Ok(manifest) => return Ok(manifest),
                    // Another identity may have some left.
                    Err(error @ upstream::Error::PullLimit { .. }) => {
                        limited.get_or_insert(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown));
                    }
                    // Nor does it need the credential of an account that has none now.
                    Err(error @ upstream::Error::Unavailable { .. }) if upstream.has_no_credential(&identity) => {
                        limited.get_or_insert(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown));
                    }
                    Err(error) => return Err(Error::from_upstream(&lookup.upstream, error, Error::ManifestUnknown)),
                },
                Err(refused) => {
                    let sooner = refusal.as_ref().is_none_or(|(.., wait)| refused.wait < *wait);
                    if sooner {
                        refusal = Some((left, refused.why, refused.wait));
                    }
                }
            }
        }
        if let Some((left, why, _)) = &refusal
            && lookup.client.on_exceed == OnExceed::Queue
            && !waiters.has_stale
        {
            let identity = left.identity.clone();
            let purpose = self.purpose(lookup, reference, reason, waiters);
            // Upstream's clock is not ours: a pull that was forecast may come back a moment later than that.
            let deadline = Instant::now() + self.limits.config().budget.queue_max_wait;
            loop {
                match self.queue(&identity, &purpose, lookup, waiters, deadline).await {
                    Ok(reservation) => match self.send(upstream, reservation, lookup, reference).await {
                        Err(upstream::Error::PullLimit { .. }) if Instant::now() < deadline => {}
                        sent => {
                            if sent.is_ok() {
                                self.hold(lookup, identity, reference, *why, asked_at, true);
                            }
                            let absent = Error::ManifestUnknown;
                            return sent.map_err(|error| Error::from_upstream(&lookup.upstream, error, absent));
                        }
                    },
                    Err(Queued::RetryAlone) => {
                        return Err(spent(lookup, left, RefusalReason::Exhausted, Duration::ZERO, true));
                    }
                    Err(Queued::Refused) => break,
                }
            }
        }
        match refusal {
            Some((left, why, wait)) => {
                self.metrics.decided(lookup.client.class, PullDecision::Denied);
                self.hold(lookup, left.identity.clone(), reference, why, asked_at, false);
                Err(spent(lookup, &left, why, wait, false))
            }
            None => Err(limited.unwrap_or(Error::NameUnknown)),
        }
    }

    /// Who could pay, those with the most left first: anyone for what is known to be public, else the source's own identity. An account
    /// pays for its repositories alone.
    fn payers(&self, upstream: &Upstream, source: &Source, known: bool) -> Vec<(Identity, Balance)> {
        let now = clock::now();
        let accounts = &upstream.settings().accounts;
        let is_for = |name: &Arc<str>| {
            accounts.iter().any(|account| account.username == *name && account.is_for(&source.repository))
        };
        let mut payers: Vec<(Identity, Balance)> = upstream
            .identities()
            .into_iter()
            .filter(|identity| match &identity.account {
                Some(account) if known && &*source.credential == Source::ANONYMOUS => is_for(account),
                account => *source.credential == *account.as_deref().unwrap_or(Source::ANONYMOUS),
            })
            .map(|identity| (identity.clone(), self.ledger.balance(&identity, now)))
            .collect();
        payers.sort_by_key(|(identity, left)| {
            std::cmp::Reverse((left.remaining.unwrap_or(i64::MAX), identity.account.is_some()))
        });
        payers
    }

    /// Why this client could not pay now, so that a moved tag must not be announced.
    pub(super) fn cannot_fetch(
        &self,
        lookup: &Lookup,
        source: &Source,
        digest: &Digest,
        now: SystemTime,
    ) -> Option<Error> {
        if let Some(denied) = &lookup.cached_only {
            return Some(Error::Throttled(denied.clone()));
        }
        let payers = self
            .sources
            .upstream(&lookup.upstream)
            .map(|upstream| self.payers(&upstream, source, true))
            .unwrap_or_default();
        let mut refusal = None;
        for (identity, left) in payers {
            match self.limits.could_spend(&left, &lookup.client, now) {
                Ok(()) => return None,
                Err(why) => refusal = refusal.or(Some((identity, why))),
            }
        }
        if let Some((identity, why)) = refusal {
            self.hold(lookup, identity, &Reference::Digest(digest.clone()), why, now, false);
        }
        Some(Error::BudgetSpent {
            retry_after: Duration::ZERO,
            message: format!("it changed at {}, and no pull is left to fetch it", lookup.upstream).into(),
            rule: "budget_moved_tag",
            retry_alone: false,
        })
    }

    /// Remembers a pull that was not granted at once.
    fn hold(
        &self,
        lookup: &Lookup,
        identity: Identity,
        reference: &Reference,
        why: RefusalReason,
        at: SystemTime,
        granted: bool,
    ) {
        self.limits.record_held(HeldPull {
            at,
            identity,
            repository: lookup.repository.to_string(),
            reference: reference.to_string(),
            client: lookup.client.key.to_string().into(),
            class: lookup.client.class,
            why,
            granted,
            times: 1,
        });
    }

    /// Takes a pull if the budget's policy agrees with what is left, and decides again when that has changed meanwhile.
    async fn reserve(
        &self,
        identity: &Identity,
        purpose: &Purpose,
        lookup: &Lookup,
        on_exceed: OnExceed,
    ) -> Result<Reservation, Refused> {
        let mut balance = self.ledger.balance(identity, clock::now());
        loop {
            let expected =
                lookup.client.key.is_warm().then(|| expected(&self.demand(identity), &balance, clock::now()));
            let request = budget::SpendRequest { expected, ..spend_request(lookup, purpose, on_exceed) };
            match self.limits.try_spend(&balance, request, clock::now()) {
                BudgetDecision::Spend => {}
                BudgetDecision::Wait { ticket, .. } => {
                    let (why, place) = (RefusalReason::Exhausted, Some(ticket));
                    return Err(Refused { why, wait: Duration::ZERO, place });
                }
                BudgetDecision::Refuse { retry_after, why } => {
                    return Err(Refused { why, wait: retry_after, place: None });
                }
            }
            let attempt = self.ledger.try_spend(identity, balance.version, purpose.clone()).await;
            if !matches!(attempt, Attempt::Spent(_)) {
                self.limits.refund_spend(identity, &lookup.client.key);
            }
            match attempt {
                Attempt::Spent(reservation) => return Ok(reservation),
                Attempt::Changed(changed) => balance = *changed,
                Attempt::Exhausted(left) => {
                    let wait = left.retry_after(clock::now());
                    return Err(Refused { why: RefusalReason::Exhausted, wait, place: None });
                }
            }
        }
    }

    /// Waits for a pull, in the queue of this client. A clock that is set meanwhile makes the wait neither longer nor shorter.
    async fn queue(
        &self,
        identity: &Identity,
        purpose: &Purpose,
        lookup: &Lookup,
        waiters: &Waiters,
        deadline: Instant,
    ) -> Result<Reservation, Queued> {
        let ticket = match self.reserve(identity, purpose, lookup, OnExceed::Queue).await {
            Ok(reservation) => return Ok(reservation),
            Err(Refused { place: Some(place), .. }) => place,
            Err(_) => return Err(Queued::Refused),
        };
        self.metrics.decided(lookup.client.class, PullDecision::Queued);
        let _slot = QueueSlot { fetcher: self, identity, ticket, cost: &lookup.cost, since: Instant::now() };
        loop {
            let now = clock::now();
            let balance = self.ledger.balance(identity, now);
            match self.limits.poll_queue(&balance, ticket, &lookup.client.key, now) {
                QueueStatus::Granted => return self.spend_grant(balance, purpose, lookup).await,
                QueueStatus::Waiting if Instant::now() < deadline => {}
                QueueStatus::Waiting => return Err(Queued::Refused),
            }
            // A flight that others have joined must not make them wait for the turn of its leader.
            if waiters.scope == ShareScope::All && waiters.count.load(Ordering::Relaxed) > 0 {
                return Err(Queued::RetryAlone);
            }
            let next = balance.next_at.and_then(|at| at.duration_since(now).ok());
            tokio::time::sleep(next.unwrap_or(QUEUE_POLL).clamp(Duration::from_millis(10), QUEUE_POLL)).await;
        }
    }

    /// Takes the pull that the queue granted. Until the slot is left, what others may spend is less by it.
    async fn spend_grant(
        &self,
        mut balance: Balance,
        purpose: &Purpose,
        lookup: &Lookup,
    ) -> Result<Reservation, Queued> {
        let identity = balance.identity.clone();
        loop {
            match self.ledger.try_spend(&identity, balance.version, purpose.clone()).await {
                Attempt::Spent(reservation) => return Ok(reservation),
                Attempt::Changed(changed) => balance = *changed,
                Attempt::Exhausted(_) => {
                    self.limits.refund_spend(&identity, &lookup.client.key);
                    return Err(Queued::Refused);
                }
            }
        }
    }

    /// When clients above bulk spent of an identity.
    fn demand(&self, identity: &Identity) -> budget::Demand {
        let (spent, since) = self.ledger.spent_above(identity, Class::Bulk);
        budget::Demand { spent, since }
    }

    /// When a warm may spend a pull of this upstream, by forecast; `None` when it may now, or nothing is metered there.
    pub(super) fn surplus_at(&self, upstream: &str, now: SystemTime) -> Option<SystemTime> {
        let upstream = self.sources.upstream(upstream).ok()?;
        let policy = self.limits.config().budget.clone();
        let identities: Vec<_> =
            upstream.identities().into_iter().map(|identity| (self.demand(&identity), identity)).collect();
        let has_surplus = |time: SystemTime| {
            identities.iter().any(|(demand, identity)| {
                let left = self.ledger.balance(identity, time);
                let (_, needed) = policy.surplus_begins(limit_of(&left), expected(demand, &left, time));
                left.remaining.is_none_or(|left| u64::try_from(left).is_ok_and(|left| left > needed))
            })
        };
        let time = (0..SURPLUS_STEPS).map(|step| now + SURPLUS_STEP * step).find(|time| has_surplus(*time));
        let time = time.unwrap_or(now + SURPLUS_STEP * SURPLUS_STEPS);
        (time > now).then_some(time)
    }

    fn purpose(&self, lookup: &Lookup, reference: &Reference, reason: Reason, waiters: &Waiters) -> Purpose {
        Purpose {
            repository: lookup.repository.clone(),
            reference: reference.clone(),
            tag: match reference {
                Reference::Digest(digest) => self.names.of(lookup, digest),
                Reference::Tag(_) => None,
            },
            client: lookup.client.key.to_string().into(),
            class: lookup.client.class,
            reason,
            waiters: waiters.count.clone(),
        }
    }

    async fn send(
        &self,
        upstream: &Upstream,
        mut reservation: Reservation,
        lookup: &Lookup,
        reference: &Reference,
    ) -> Result<Manifest, upstream::Error> {
        let identity = reservation.identity().clone();
        let sent = upstream.get_manifest(&mut reservation, &lookup.repository, reference).await;
        let is_refunded = reservation.is_refunded();
        drop(reservation);
        if is_refunded {
            self.limits.refund_spend(&identity, &lookup.client.key);
        } else {
            self.metrics.decided(lookup.client.class, PullDecision::Spent);
            lookup.cost.paid(&identity);
        }
        sent
    }

    /// What is left, after a HEAD when the last answer is old: it is free, and pulls come back that no forecast knew of.
    ///
    /// Without it a digest that a fresh tag names would be refused until the forecast, though upstream would give it.
    async fn probe(
        &self,
        upstream: &Upstream,
        identity: &Identity,
        lookup: &Lookup,
        reference: &Reference,
        left: Balance,
    ) -> Balance {
        let now = Instant::now();
        {
            let mut last_probes = self.last_probes.lock().unwrap_or_else(PoisonError::into_inner);
            if last_probes.get(identity).is_some_and(|last| now.duration_since(*last) < PROBE_INTERVAL) {
                return left;
            }
            // As many entries as there are identities.
            last_probes.insert(identity.clone(), now);
        }
        match upstream.head_manifest(identity, &lookup.repository, reference).await {
            Ok(_) => self.ledger.balance(identity, clock::now()),
            Err(_) => left,
        }
    }
}

/// Why there was no pull.
struct Refused {
    why: RefusalReason,
    wait: Duration,
    place: Option<Ticket>,
}

enum Queued {
    /// Others wait for what this one leads.
    RetryAlone,
    Refused,
}

/// A place in the queue is given back however the wait ends.
struct QueueSlot<'a> {
    fetcher: &'a BudgetedFetch,
    identity: &'a Identity,
    ticket: Ticket,
    cost: &'a Cost,
    since: Instant,
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        self.cost.add_wait(waited);
        self.fetcher.metrics.budget_wait_seconds.observe(waited);
        self.fetcher.limits.leave_queue(self.identity, self.ticket);
    }
}

fn limit_of(left: &Balance) -> u64 {
    u64::try_from(left.limit.unwrap_or(0)).unwrap_or(0)
}

/// What clients above bulk are expected to need until the window ends; and others behind the address or account, of whom it is expected
/// that they go on as in the last window.
fn expected(demand: &budget::Demand, left: &Balance, now: SystemTime) -> u64 {
    let window = left.window.unwrap_or(budget::SpendLog::WINDOW);
    demand.expected(limit_of(left), window, now).saturating_add(left.external)
}

fn spend_request<'a>(lookup: &'a Lookup, purpose: &Purpose, on_exceed: OnExceed) -> budget::SpendRequest<'a> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut what = DefaultHasher::new();
    (&purpose.repository, &purpose.reference).hash(&mut what);
    let client = &lookup.client;
    budget::SpendRequest {
        client: &client.key,
        class: client.class,
        what: what.finish(),
        on_exceed,
        overrides: client.overrides,
        expected: None,
    }
}

/// The one sentence of a refusal for want of budget: who, until when, what is left, and what would help.
pub(super) fn spent(lookup: &Lookup, left: &Balance, why: RefusalReason, wait: Duration, retry_alone: bool) -> Error {
    let whole = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs().max(1)));
    let class = lookup.client.class.word();
    let of = match (left.limit, left.window) {
        (Some(limit), Some(window)) => {
            format!("{} of {limit} pulls per {} left", left.remaining.unwrap_or(0).max(0), whole(window))
        }
        _ => "no pulls left".to_owned(),
    };
    let (upstream, more) = (&left.identity.upstream, whole(wait));
    let rule = why.rule();
    let message = match why {
        RefusalReason::Exhausted => format!(
            "this mirror has {of} at {upstream} and does not have this image; more in about {more}; \
             an upstream account with more pulls would help"
        ),
        RefusalReason::Floor { kept, .. } => format!(
            "class {class} must wait about {more}: this mirror has {of} at {upstream} and keeps {kept} for higher \
             classes; cached images are served, a higher class would help"
        ),
        RefusalReason::Share { spent, share } => format!(
            "{} must wait about {more}: it spent {spent} pulls of {upstream}, and the share of one client (class \
             {class}) is {share}; this mirror has {of}; cached images are served",
            lookup.client.key
        ),
        RefusalReason::Forecast { kept, expected, .. } => format!(
            "this mirror has {of} at {upstream}, keeps {kept} of them for clients and expects clients to need {expected} \
             more within the window"
        ),
        RefusalReason::QueueFull => format!(
            "too many wait for the next pull of {upstream} (class {class}); this mirror has {of}; more in about {more}; \
             cached images are served"
        ),
    };
    Error::BudgetSpent { retry_after: wait, message: message.into(), rule, retry_alone }
}
