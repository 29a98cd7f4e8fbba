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
    lookup::Lookup,
    names::Names,
    sources::Sources,
};
use crate::{
    client::OnExceed,
    limits::{
        Limits,
        budget::{self, BudgetDecision, QueueStatus, RefusalReason, Ticket},
        permit::RequestInfo,
    },
    oci::{Manifest, Reference},
    upstream::{
        self, Identity, Ledger, Reservation, Upstream,
        ledger::{Attempt, Balance, Purpose, Reason},
    },
};

/// How often an identity that seems to have nothing left is probed by a HEAD, when a pull is wanted.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a waiting request asks whether it is its turn: a pull may come back unforecast.
const QUEUE_POLL: Duration = Duration::from_millis(250);

/// Sends counted GETs. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct BudgetedFetch {
    sources: Sources,
    pub(super) ledger: Ledger,
    limits: Limits,
    names: Names,
    /// When an identity that seemed to have nothing left was last probed by a HEAD.
    last_probes: Arc<Mutex<HashMap<Identity, Instant>>>,
}

impl BudgetedFetch {
    pub(super) fn new(sources: Sources, ledger: Ledger, limits: Limits, names: Names) -> BudgetedFetch {
        BudgetedFetch { sources, ledger, limits, names, last_probes: Arc::default() }
    }

    /// How long a request may wait for a pull to come back, as is configured at start.
    pub(super) fn queue_wait(&self) -> Duration {
        self.limits.config().budget.queue_max_wait
    }

    /// The counted GET. What anonymous may read is paid by the identity with the most left, the rest by its account.
    pub(super) async fn fetch(
        &self,
        lookup: &Lookup,
        source: &Source,
        reference: &Reference,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<Manifest, Error> {
        if let Some(denied) = &lookup.cached_only {
            return Err(Error::Throttled(denied.clone()));
        }
        let upstream = self.sources.upstream(&lookup.upstream)?;
        let now = SystemTime::now();
        let name = reference.to_string();
        let about = RequestInfo { method: "GET", repository: lookup.repository.as_str(), reference: &name };
        self.limits.admit_upstream(&lookup.client, about, now).map_err(|denied| Error::Throttled(Arc::from(denied)))?;
        let fetched = self.fetch_admitted(upstream, lookup, source, reference, reason, waiters).await;
        if let Ok(manifest) = &fetched {
            self.names.learn_platforms(lookup, manifest);
        } else {
            self.limits.refund_upstream(&lookup.client, SystemTime::now());
        }
        fetched
    }

    async fn fetch_admitted(
        &self,
        upstream: &Upstream,
        lookup: &Lookup,
        source: &Source,
        reference: &Reference,
        reason: Reason,
        waiters: &Waiters,
    ) -> Result<Manifest, Error> {
        let mut refusal: Option<(Balance, RefusalReason, Duration)> = None;
        let mut limited = None;
        for (identity, mut left) in self.payers(upstream, source) {
            if left.remaining.is_some_and(|remaining| remaining <= 0) {
                left = self.probe(upstream, &identity, lookup, reference, left).await;
            }
            let purpose = self.purpose(lookup, reference, reason, waiters);
            match self.reserve(&identity, &purpose, lookup, OnExceed::Stale).await {
                Ok(reservation) => match self.send(upstream, reservation, lookup, reference, &purpose).await {
                    Ok(manifest) => return Ok(manifest),
                    // Another identity may have some left.
                    Err(error @ upstream::Error::PullLimit { .. }) => {
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
        if let Some((left, ..)) = &refusal
            && lookup.client.on_exceed == OnExceed::Queue
            && !waiters.has_stale
        {
            let identity = left.identity.clone();
            let purpose = self.purpose(lookup, reference, reason, waiters);
            // Upstream's clock is not ours: a pull that was forecast may come back a moment later than that.
            let deadline = SystemTime::now() + self.limits.config().budget.queue_max_wait;
            loop {
                match self.queue(&identity, &purpose, lookup, waiters).await {
                    Ok(reservation) => match self.send(upstream, reservation, lookup, reference, &purpose).await {
                        Err(upstream::Error::PullLimit { .. }) if SystemTime::now() < deadline => {}
                        sent => {
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
            Some((left, why, wait)) => Err(spent(lookup, &left, why, wait, false)),
            None => Err(limited.unwrap_or(Error::NameUnknown)),
        }
    }

    /// Who could pay, those with the most left first.
    fn payers(&self, upstream: &Upstream, source: &Source) -> Vec<(Identity, Balance)> {
        let now = SystemTime::now();
        let mut payers: Vec<(Identity, Balance)> = upstream
            .identities()
            .into_iter()
            .filter(|identity| {
                &*source.credential == Source::ANONYMOUS || identity.account.as_ref() == Some(&source.credential)
            })
            .map(|identity| (identity.clone(), self.ledger.balance(&identity, now)))
            .collect();
        payers.sort_by_key(|(identity, left)| {
            std::cmp::Reverse((left.remaining.unwrap_or(i64::MAX), identity.account.is_some()))
        });
        payers
    }

    /// Why this client could not pay now, so that a moved tag must not be told of.
    pub(super) fn cannot_fetch(&self, lookup: &Lookup, source: &Source, now: SystemTime) -> Option<Error> {
        if let Some(denied) = &lookup.cached_only {
            return Some(Error::Throttled(denied.clone()));
        }
        let payers =
            self.sources.upstream(&lookup.upstream).map(|upstream| self.payers(upstream, source)).unwrap_or_default();
        let could = payers.iter().any(|(_, left)| self.limits.could_spend(left, &lookup.client, now));
        (!could).then(|| Error::BudgetSpent {
            retry_after: Duration::ZERO,
            message: format!("it changed at {}, and no pull is left to fetch it", lookup.upstream).into(),
            retry_alone: false,
        })
    }

    /// Takes a pull if the budget's policy agrees with what is left, and decides again when that has changed meanwhile.
    async fn reserve(
        &self,
        identity: &Identity,
        purpose: &Purpose,
        lookup: &Lookup,
        on_exceed: OnExceed,
    ) -> Result<Reservation, Refused> {
        let mut balance = self.ledger.balance(identity, SystemTime::now());
        loop {
            match self.limits.try_spend(&balance, spend_request(lookup, purpose, on_exceed), SystemTime::now()) {
                BudgetDecision::Spend => {}
                BudgetDecision::Wait { ticket, until, .. } => {
                    let place = Some((ticket, until));
                    return Err(Refused { why: RefusalReason::Exhausted, wait: Duration::ZERO, place });
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
                    let wait = left.retry_after(SystemTime::now());
                    return Err(Refused { why: RefusalReason::Exhausted, wait, place: None });
                }
            }
        }
    }

    /// Waits for a pull, in the queue of this client.
    async fn queue(
        &self,
        identity: &Identity,
        purpose: &Purpose,
        lookup: &Lookup,
        waiters: &Waiters,
    ) -> Result<Reservation, Queued> {
        let (ticket, until) = match self.reserve(identity, purpose, lookup, OnExceed::Queue).await {
            Ok(reservation) => return Ok(reservation),
            Err(Refused { place: Some(place), .. }) => place,
            Err(_) => return Err(Queued::Refused),
        };
        let _slot = QueueSlot { fetcher: self, identity, ticket };
        loop {
            let now = SystemTime::now();
            let balance = self.ledger.balance(identity, now);
            match self.limits.poll_queue(&balance, ticket, &lookup.client.key, now) {
                QueueStatus::Granted => return self.spend_grant(balance, purpose, lookup).await,
                QueueStatus::Waiting if now < until => {}
                QueueStatus::Waiting | QueueStatus::Expired => return Err(Queued::Refused),
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
            refunded: Arc::default(),
        }
    }

    async fn send(
        &self,
        upstream: &Upstream,
        reservation: Reservation,
        lookup: &Lookup,
        reference: &Reference,
        purpose: &Purpose,
    ) -> Result<Manifest, upstream::Error> {
        let identity = reservation.identity().clone();
        let sent = upstream.get_manifest(reservation, &lookup.repository, reference).await;
        if purpose.refunded.load(Ordering::Acquire) {
            self.limits.refund_spend(&identity, &lookup.client.key);
        }
        sent
    }

    /// What is left, after a HEAD when none told lately: it is free, and pulls come back that no forecast knew of.
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
            Ok(_) => self.ledger.balance(identity, SystemTime::now()),
            Err(_) => left,
        }
    }
}

/// Why there was no pull.
struct Refused {
    why: RefusalReason,
    wait: Duration,
    place: Option<(Ticket, SystemTime)>,
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
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.fetcher.limits.leave_queue(self.identity, self.ticket);
    }
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
        RefusalReason::QueueFull => format!(
            "too many wait for the next pull of {upstream} (class {class}); this mirror has {of}; more in about {more}; \
             cached images are served"
        ),
    };
    Error::BudgetSpent { retry_after: wait, message: message.into(), retry_alone }
}
