//! [`Limits`]: everything that is known of clients and decided about them, behind one value that all of Weir shares.
//!
//! # What it guarantees
//!
//! All of it answers from memory, at once, and reads no clock: time is an argument, randomness is given at the start. One [`LimitsConfig`] holds
//! what is configured; [`Limits::reload`] swaps it whole, and no client's account is lost by it. What happened to bans, throttles and the
//! allowlist goes to the [`AuditSink`] as entries of the audit, in the order in which it happened; [`Limits::records`] gives all of it again, for
//! a compaction, and [`Limits::new`] takes either.
//!
//! # The order in which a request is judged
//!
//! Bans before throttles; an operator's ban before the allowlist, a rule's ban after it. `GET /v2/` always passes. A denial consumes nothing,
//! and counts only towards the next penalty level. What a request led to is recorded afterwards: [`Limits::record_outcome`],
//! [`Limits::charge_bytes`].
//!
//! # What breaks if a line moves
//!
//! No lock here is held while another is taken, but for the changes of the configuration; the ledger asks for a budget's decision under its own
//! lock ([`Limits::try_spend`]), so nothing here may ask the ledger.
//!
//! # Files
//!
//! Requests are in `state/admission.rs`, pulls in `state/budget.rs`, bans by people in `state/operator_bans.rs`, what outlives the process in
//! `state/persisted.rs`, what people look at in `state/views.rs`.

mod admission;
mod budget;
mod operator_bans;
#[cfg(test)]
mod operator_tests;
mod persisted;
#[cfg(test)]
mod tests;
mod views;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use arc_swap::{ArcSwap, Guard};

pub use self::{
    operator_bans::{BanRequest, OwnLift},
    persisted::PersistedState,
    views::{ClientSummary, ClientView, ThrottleStatusView, ThrottleView},
};
use super::{
    abuse::AbuseTracker,
    allowlist::AllowlistEntry,
    audit::{Actor, AdminEvent, Audit, AuditFilter, AuditLog, AuditPage, AuditSink, Entry, Event},
    bans::{BanEvent, BanList, Bans},
    budget::{Budgets, HeldPulls},
    clock::SteadyClock,
    config::LimitsConfig,
    probation::Probation,
    recent::RecentClients,
    target::Target,
    throttle::{Mode, Rules, Table},
};

/// Where randomness comes from: any number at each call.
pub type RandomSource = Box<dyn Fn() -> u64 + Send + Sync>;

/// Everything about clients. Cloning shares it.
#[derive(Clone)]
pub struct Limits {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}

struct Inner {
    // Read several times for every request, on every core: a lock would be one cache line that all of them write.
    config: ArcSwap<LimitsConfig>,
    clock: SteadyClock,
    changes: Mutex<Changes>,
    throttles: Table,
    bans: Bans,
    abuse: Mutex<AbuseTracker>,
    budgets: Budgets,
    held: Mutex<HeldPulls>,
    probation: Probation,
    recent: RecentClients,
    audit: Audit,
    /// What [`Limits::usage`] said last, and when that was by the clock and in steady time.
    usage: Mutex<(Vec<u8>, (u64, u64))>,
    random: RandomSource,
}

/// What was changed by hand since the start, laid over what is configured.
#[derive(Default)]
struct Changes {
    configured: LimitsConfig,
    switched: Vec<(String, Mode)>,
    allowed: Vec<AllowlistEntry>,
}

impl Limits {
    /// Limits without any history. [`Limits::new`] takes up what an earlier process kept.
    fn assemble(
        config: LimitsConfig,
        bans: BanList,
        audit: AuditLog,
        sink: Arc<dyn AuditSink>,
        random: RandomSource,
    ) -> Limits {
        let inner = Inner {
            config: ArcSwap::from_pointee(config.clone()),
            clock: SteadyClock::default(),
            changes: Mutex::new(Changes { configured: config, ..Changes::default() }),
            throttles: Table::new(Table::MAX_CLIENTS),
            bans: Bans::new(bans),
            abuse: Mutex::default(),
            budgets: Budgets::default(),
            held: Mutex::default(),
            probation: Probation::default(),
            recent: RecentClients::default(),
            audit: Audit::new(audit, sink),
            usage: Mutex::default(),
            random,
        };
        Limits { inner: Arc::new(inner) }
    }

    /// Steady time for what is counted. A step of the clock moves the bans with it, which are judged and shown by `now` itself: so this comes
    /// before any look at them.
    fn steady(&self, now: SystemTime) -> SystemTime {
        self.inner.clock.read(now, |step| {
            self.inner.bans.change(|list| list.shift(step));
            self.inner.audit.rewrite();
        })
    }

    /// What is in force: what is configured, with what was changed by hand laid over.
    pub fn config(&self) -> Guard<Arc<LimitsConfig>> {
        self.inner.config.load()
    }

    /// Puts another configuration in force, whole. Throttles that were switched by hand stay switched, and no client starts anew.
    pub fn reload(&self, config: LimitsConfig, by: &Actor, now: SystemTime) {
        self.change(now, |changes| {
            let repositories = config.repositories.counting_on(&changes.configured.repositories);
            changes.configured = LimitsConfig { repositories, ..config };
        });
        self.record_event(by, Event::Admin(AdminEvent::Reloaded), now);
    }

    /// Switches the throttles that `selection` covers (a name, the beginning of names, `*`) until the next start, and says how many these
    /// are. For the day on which operators shut themselves out, and for the Enforce button.
    pub fn set_mode(&self, selection: &str, mode: Mode, reason: &str, by: &Actor, now: SystemTime) -> usize {
        let (_, count) = self.config().throttles.with_mode(selection, mode);
        if count > 0 {
            self.change(now, |changes| {
                changes.switched.retain(|(other, _)| other != selection);
                changes.switched.push((selection.to_owned(), mode));
            });
            let (selection, reason) = (selection.to_owned(), reason.to_owned());
            self.record_event(by, Event::Admin(AdminEvent::Switched { selection, mode, reason }), now);
        }
        count
    }

    /// Puts a client on the allowlist until `expires` (or the next start, whichever is first).
    pub fn allow(&self, client: Target, comment: &str, expires: SystemTime, by: &Actor, now: SystemTime) {
        let allowed = AllowlistEntry { client: client.clone(), comment: comment.to_owned(), expires: Some(expires) };
        self.change(now, |changes| {
            changes.allowed.retain(|entry| entry.expires.is_none_or(|expires| now < expires));
            changes.allowed.push(allowed);
        });
        let event = AdminEvent::Allowed { client, comment: comment.to_owned(), expires };
        self.record_event(by, Event::Admin(event), now);
    }

    fn change(&self, now: SystemTime, change: impl FnOnce(&mut Changes)) {
        let mut changes = lock(&self.inner.changes);
        change(&mut changes);
        let mut config = changes.configured.clone();
        for (selection, mode) in &changes.switched {
            config.throttles = Rules::with_mode(&config.throttles, selection, *mode).0;
        }
        config.allowlist.0.extend(changes.allowed.iter().cloned());
        self.inner.throttles.requota(&self.config().throttles, &config.throttles, self.steady(now));
        self.inner.config.store(Arc::new(config));
    }

    /// The newest entries of the audit, newest first.
    pub fn audit(&self, most: usize) -> Vec<Entry> {
        self.inner.audit.read(|audit| audit.newest().take(most).cloned().collect())
    }

    /// A page of the entries that are wanted, newest first: `most` at most, of those before this place.
    pub fn find_in_audit(&self, filter: &AuditFilter, before: Option<u64>, most: usize) -> AuditPage {
        self.inner.audit.read(|audit| audit.find(filter, before, most))
    }

    /// Records that an attempt was refused.
    pub fn record_refusal(&self, by: &Actor, attempt: &str, reason: &str, now: SystemTime) {
        let (attempt, reason) = (attempt.to_owned(), reason.to_owned());
        let event = BanEvent::Refused { attempt, reason };
        self.record_event(by, Event::Ban(Box::new(event)), now);
    }

    /// Records anything else that belongs in the audit.
    pub fn record_event(&self, by: &Actor, event: Event, now: SystemTime) {
        self.inner.audit.record(Entry { at: now, by: by.name.clone(), from: by.from, event });
    }

    /// Moves what ended by itself out of the way, and notices steps of the clock. To be called every few seconds from the first call on.
    pub fn tick(&self, now: SystemTime) {
        let steady = self.steady(now);
        self.inner.clock.expect_readings();
        let events = self.inner.bans.change(|list| list.expire(now));
        events.into_iter().for_each(|event| self.record_event(&Actor::auto(), Event::Ban(Box::new(event)), now));
        self.inner.bans.tidy();
        self.inner.probation.expire(steady);
    }
}

/// Held for a few lines, never across anything that waits.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
