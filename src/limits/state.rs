//! [`Limits`]: everything that is known of clients and decided about them, behind one value that every room shares.
//!
//! # What it guarantees
//!
//! All of it answers from memory, at once, and reads no clock: time is an argument, chance is given at the start. One [`LimitsConfig`] holds what is
//! configured; [`Limits::reload`] swaps it whole, and no account of a client is lost by it. What happened to bans, throttles and the
//! allowlist is told to [`AuditSink`] as entries of the audit, in the order in which it happened; [`Limits::records`] says all of it again, for a
//! compaction, and [`Limits::new`] takes either.
//!
//! # The order in which a request is judged
//!
//! Bans before throttles, an operator's before the allowlist, a rule's after it. `GET /v2/` always passes. A denial consumes nothing and feeds
//! the ladder only towards the next rung. What a request led to is told afterwards: [`Limits::record_outcome`], [`Limits::charge_bytes`].
//!
//! # What breaks if a line moves
//!
//! No lock here is held while another is taken, but for the changes of the config; the ledger asks for a budget's decision under its own
//! lock ([`Limits::try_spend`]), so nothing here may ask the ledger.

mod budget;
mod judge;
mod operator_bans;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use serde::{Deserialize, Serialize};

pub use self::{
    budget::QueueStatus,
    operator_bans::{BanRequest, OwnLift},
    view::{ClientView, ThrottleView},
};
use super::{
    abuse::AbuseTracker,
    allowlist::AllowlistEntry,
    audit::{Actor, AdminEvent, AuditLog, Entry, Event},
    bans::{self, BanError, BanFilter, BanList, BanRecord},
    budget as sharing,
    config::LimitsConfig,
    permit::{AdmissionRequest, Denied, Permit, RequestInfo},
    target::Target,
    throttle::{self, Mode, Rules, Snapshot, Table, Throttle},
};
use crate::{
    client::{Client, ClientKey},
    upstream::{Identity, ledger::Balance},
};

/// Makes the audit durable. `main` implements it over a journal of the store.
pub trait AuditSink: Send + Sync {
    /// Takes an entry, in the order of events, and must not block.
    fn append(&self, entry: &Entry);
}

impl<F: Fn(&Entry) + Send + Sync> AuditSink for F {
    fn append(&self, entry: &Entry) {
        self(entry);
    }
}

/// Where chance comes from: any number at each call.
pub type RandomSource = Box<dyn Fn() -> u64 + Send + Sync>;

/// What was kept of an earlier process.
#[derive(Clone, Debug, Default)]
pub struct PersistedState {
    /// What [`AuditSink`] was given, or [`Limits::records`] said, oldest first, as JSON.
    pub records: Vec<Vec<u8>>,
    /// What [`Limits::usage`] said last, as JSON; nothing when absent.
    pub usage: Option<Vec<u8>>,
}

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
    changes: Mutex<Changes>,
    table: Table,
    bans: Mutex<BanList>,
    /// Bans, simulated ones too: while there are none nobody looks for one.
    ban_count: AtomicUsize,
    abuse: Mutex<AbuseTracker>,
    audit: Mutex<AuditLog>,
    queues: Mutex<HashMap<Identity, budget::BudgetQueue>>,
    probation: Mutex<HashMap<ClientKey, SystemTime>>,
    on_probation: AtomicUsize,
    sink: Arc<dyn AuditSink>,
    random: RandomSource,
}

/// What was changed by hand since the start, laid over what is configured.
#[derive(Default)]
struct Changes {
    configured: LimitsConfig,
    switched: Vec<(String, Mode)>,
    allowed: Vec<AllowlistEntry>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Entry(Box<Entry>),
    /// All bans; stands for every entry before it.
    #[serde(rename = "book")]
    Bans(Vec<BanRecord>),
}

/// What clients have used.
#[derive(Serialize, Deserialize)]
struct Usage {
    throttles: Snapshot,
    /// Under which limits.
    #[serde(default)]
    rules: Vec<Throttle>,
    #[serde(default)]
    probation: Vec<(String, u64)>,
}

/// Clients on probation at once (1,000); past it a lift brings none.
const MAX_ON_PROBATION: usize = 1000;

impl Limits {
    /// Takes up what was kept; what cannot be read of it is skipped, and the number of such records is returned.
    pub fn new(
        config: LimitsConfig,
        kept: &PersistedState,
        sink: Arc<dyn AuditSink>,
        random: RandomSource,
        now: SystemTime,
    ) -> (Limits, usize) {
        let (mut book, mut audit, mut unreadable) = (BanList::default(), AuditLog::default(), 0);
        for record in &kept.records {
            match serde_json::from_slice(record) {
                Ok(Line::Entry(entry)) => {
                    if let Event::Ban(event) = &entry.event {
                        book.replay(event, now);
                    }
                    audit.add(*entry);
                }
                Ok(Line::Bans(records)) => book = BanList::of(records, now),
                Err(_) => unreadable += 1,
            }
        }
        let inner = Inner {
            config: ArcSwap::from_pointee(config.clone()),
            changes: Mutex::new(Changes { configured: config, ..Changes::default() }),
            table: Table::new(Table::MAX_CLIENTS),
            ban_count: AtomicUsize::new(book.len()),
            bans: Mutex::new(book),
            abuse: Mutex::default(),
            audit: Mutex::new(audit),
            queues: Mutex::default(),
            probation: Mutex::default(),
            on_probation: AtomicUsize::new(0),
            sink,
            random,
        };
        let limits = Limits { inner: Arc::new(inner) };
        if let Some(usage) = &kept.usage {
            match serde_json::from_slice::<Usage>(usage) {
                Ok(usage) => limits.restore(usage, now),
                Err(_) => unreadable += 1,
            }
        }
        (limits, unreadable)
    }

    /// Limits that nobody keeps, for tests and tools.
    pub fn in_memory(config: LimitsConfig) -> Limits {
        let chance = std::sync::atomic::AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        let next = move || chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        Limits::new(
            config,
            &PersistedState::default(),
            Arc::new(|_: &Entry| ()),
            Box::new(next),
            SystemTime::UNIX_EPOCH,
        )
        .0
    }

    // ---- The config ----

    /// What is in force: what is configured, with what was changed by hand laid over.
    pub fn config(&self) -> Guard<Arc<LimitsConfig>> {
        self.inner.config.load()
    }

    /// Puts another configuration in force, whole. Throttles that were switched by hand stay switched, and nobody starts anew.
    pub fn reload(&self, config: LimitsConfig, by: &Actor, now: SystemTime) {
        self.change(now, |changes| changes.configured = config);
        self.record_event(by, Event::Admin(AdminEvent::Reloaded), now);
    }

    /// Switches the throttles that `selection` covers (a name, the beginning of names, `*`) until the next start, and says how many these
    /// are. For the day on which an operator shut out themselves, and for the Enforce button.
    pub fn set_mode(&self, selection: &str, mode: Mode, by: &Actor, now: SystemTime) -> usize {
        let (_, count) = self.config().throttles.with_mode(selection, mode);
        if count > 0 {
            self.change(now, |changes| {
                changes.switched.retain(|(other, _)| other != selection);
                changes.switched.push((selection.to_owned(), mode));
            });
            let selection = selection.to_owned();
            self.record_event(by, Event::Admin(AdminEvent::Switched { selection, mode }), now);
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
        self.record_event(by, Event::Admin(AdminEvent::Allowed { client, comment: comment.to_owned(), expires }), now);
    }

    // ---- Requests: see `judge.rs` ----

    /// Who this is to the budget, too: its class, how far it goes, and whether it overrides. `account` is of a verified principal.
    pub fn describe_client(&self, key: ClientKey, address: IpAddr, user_agent: &str) -> Client {
        self.describe(key, address, user_agent)
    }

    /// May this request be answered? A few look-ups; allocates for what there is to say.
    ///
    /// # Errors
    /// The words to refuse it with.
    pub fn admit(&self, request: &AdmissionRequest<'_>, now: SystemTime) -> Result<Permit, Box<Denied>> {
        self.judge(request, now)
    }

    /// May upstream be asked for this in the client's name? For what is not cached: rung 1 (`Ok` with a wait: answer the cached 404).
    pub fn miss_throttled(&self, client: &Client, about: RequestInfo<'_>, now: SystemTime) -> Option<Duration> {
        let config = self.config();
        let ladder = lock(&self.inner.abuse);
        ladder.holds(&config.abuse, &client.key, about.repository, about.reference, now)
    }

    /// May a counted request be sent upstream in this client's name? Takes one of its `upstream` throttle.
    ///
    /// # Errors
    /// The words to refuse it with.
    pub fn admit_upstream(&self, client: &Client, about: RequestInfo<'_>, now: SystemTime) -> Result<(), Box<Denied>> {
        self.judge_upstream(client, about, now)
    }

    /// Gives back what [`Limits::admit_upstream`] took: it was not sent, or not counted.
    pub fn refund_upstream(&self, client: &Client, now: SystemTime) {
        let rules = self.config();
        self.inner.table.refund(&rules.throttles, &client.key, throttle::Meter::Upstream, 1, now);
    }

    /// The request was answered with this status, which is not a success.
    pub fn record_outcome(&self, permit: &Permit, about: RequestInfo<'_>, status: u16, now: SystemTime) {
        self.settle(permit, about, status, now);
    }

    /// So many bytes were sent in answer.
    pub fn charge_bytes(&self, permit: &Permit, bytes: u64, now: SystemTime) {
        self.add_bytes(permit, bytes, now);
    }

    /// Somebody at this address offered credentials, and they did or did not verify.
    pub fn record_login(&self, client: &Client, succeeded: bool, now: SystemTime) {
        self.judge_login(client, succeeded, now);
    }

    /// Where a client stands with its throttles, counting nothing.
    pub fn peek(&self, client: &ClientKey, meters: throttle::Meters, now: SystemTime) -> throttle::ThrottleDecision {
        self.inner.table.peek(&self.config().throttles, client, meters, now)
    }

    // ---- The budget: see `budget.rs` ----

    /// Decides for a counted request, given what is left. A [`sharing::BudgetDecision::Spend`] is booked on the client at once. Asked under the
    /// ledger's lock.
    pub fn try_spend(
        &self,
        left: &Balance,
        ask: sharing::SpendRequest<'_>,
        now: SystemTime,
    ) -> sharing::BudgetDecision {
        self.decide(left, ask, now)
    }

    /// Whether this client might spend now; books nothing.
    pub fn could_spend(&self, left: &Balance, client: &Client, now: SystemTime) -> bool {
        let config = self.config();
        self.with_queue(&left.identity, |line| line.admission.could(&config.budget, left, client, now))
    }

    /// Whether it is this one's turn now; then it is booked as in [`Limits::try_spend`].
    pub fn poll_queue(
        &self,
        left: &Balance,
        ticket: sharing::Ticket,
        client: &ClientKey,
        now: SystemTime,
    ) -> QueueStatus {
        self.turn(left, ticket, client, now)
    }

    /// Gives a place in the queue back.
    pub fn leave_queue(&self, identity: &Identity, ticket: sharing::Ticket) {
        self.leave(identity, ticket);
    }

    /// Takes a booking back: it was not sent, or not counted.
    pub fn refund_spend(&self, identity: &Identity, client: &ClientKey) {
        self.with_queue(identity, |line| line.admission.refund(client));
    }

    /// Books what the ledger remembers of an earlier process, oldest first.
    pub fn restore_spend(&self, identity: &Identity, client: &str, at: SystemTime) {
        let Ok(client) = client.parse::<ClientKey>();
        self.with_queue(identity, |line| line.admission.spend(&client, at));
    }

    /// Forgets what left an identity's window, for those who look without asking for a pull.
    pub fn expire_spends(&self, left: &Balance, now: SystemTime) {
        self.with_queue(&left.identity, |line| line.admission.look(left, now));
    }

    /// How many wait for a pull of this identity.
    pub fn waiting(&self, identity: &Identity) -> usize {
        self.with_queue(identity, |line| line.admission.waiting())
    }

    /// What clients spent of this identity within the window, the most first.
    pub fn spenders(&self, identity: &Identity) -> Vec<(ClientKey, u32)> {
        self.with_queue(identity, |line| line.admission.spenders())
    }

    // ---- Bans: see `bans.rs` ----

    /// An operator's ban.
    ///
    /// # Errors
    /// What needs `force`, and a duration out of bounds.
    pub fn ban(&self, wish: BanRequest, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.add_ban(wish, by, now)
    }

    /// An operator lifts a ban; a reason is required.
    ///
    /// # Errors
    /// No such ban, or no reason.
    pub fn lift(&self, id: &str, reason: &str, by: &Actor, now: SystemTime) -> Result<BanRecord, BanError> {
        self.end_ban(id, reason, by, now)
    }

    /// An account lifts a ban that is its own to lift: of its networks, namespaces or itself, three a day, followed by an hour at
    /// half quota. A refusal is an entry of the audit.
    ///
    /// # Errors
    /// Why it may not, for a person to read.
    pub fn lift_own(&self, id: &str, account: &str, from: Option<IpAddr>, now: SystemTime) -> Result<OwnLift, String> {
        self.end_own_ban(id, account, from, now)
    }

    /// Bans that this account may lift itself, newest first; whether it may do so today is another question.
    pub fn own_bans(&self, account: &str, now: SystemTime) -> Vec<BanRecord> {
        self.bans_of(account, now)
    }

    /// Bans, newest first.
    pub fn bans(&self, filter: &BanFilter, now: SystemTime) -> Vec<BanRecord> {
        lock(&self.inner.bans).list(filter, now).into_iter().cloned().collect()
    }

    /// One ban, in force or ended.
    pub fn get_ban(&self, id: &str) -> Option<BanRecord> {
        lock(&self.inner.bans).get(id).cloned()
    }

    /// The ban that this client would meet now, simulated ones aside.
    pub fn ban_of(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<BanRecord> {
        lock(&self.inner.bans).find(client, address, now).map(|ban| ban.0.clone())
    }

    /// All bans as JSON, for another Weir.
    pub fn export(&self) -> Vec<u8> {
        lock(&self.inner.bans).export()
    }

    /// Takes over live bans of another Weir.
    ///
    /// # Errors
    /// What cannot be read, and without `force` what [`Limits::ban`] refuses; then nothing was taken over.
    pub fn import(&self, json: &[u8], force: bool, by: &Actor, now: SystemTime) -> Result<Vec<BanRecord>, BanError> {
        self.take_over(json, force, by, now)
    }

    // ---- The audit ----

    /// The newest entries, newest first.
    pub fn audit(&self, most: usize) -> Vec<Entry> {
        lock(&self.inner.audit).newest().take(most).cloned().collect()
    }

    /// Somebody tried what they may not.
    pub fn record_refusal(&self, by: &Actor, attempt: &str, reason: &str, now: SystemTime) {
        let (attempt, reason) = (attempt.to_owned(), reason.to_owned());
        let event = bans::BanEvent::Refused { by: by.name.clone(), attempt, reason };
        self.record_event(by, Event::Ban(Box::new(event)), now);
    }

    /// Anything else that belongs in the audit.
    pub fn record_event(&self, by: &Actor, event: Event, now: SystemTime) {
        let entry = Entry { at: now, by: by.name.clone(), from: by.from, event };
        let mut audit = lock(&self.inner.audit);
        // Written under the lock, so that the journal has the order of the audit.
        self.inner.sink.append(&entry);
        audit.add(entry);
    }

    /// What ended by itself is moved out of the way. Called every few seconds.
    pub fn tick(&self, now: SystemTime) {
        let events = {
            let mut book = lock(&self.inner.bans);
            let events = book.expire(now);
            self.inner.ban_count.store(book.len(), Ordering::Release);
            events
        };
        events.into_iter().for_each(|event| self.record_event(&Actor::auto(), Event::Ban(Box::new(event)), now));
        let mut probation = lock(&self.inner.probation);
        probation.retain(|_, until| now < *until);
        self.inner.on_probation.store(probation.len(), Ordering::Release);
    }

    // ---- What outlives the process ----

    /// An entry as a line of the journal.
    pub fn record(entry: &Entry) -> Vec<u8> {
        // Entries hold nothing that JSON cannot.
        serde_json::to_vec(&Line::Entry(Box::new(entry.clone()))).unwrap_or_default()
    }

    /// Lines that say everything the audit and the bans know.
    pub fn records(&self) -> Vec<Vec<u8>> {
        let mut records: Vec<_> = lock(&self.inner.audit).all().map(Limits::record).collect();
        let book: Vec<BanRecord> = lock(&self.inner.bans).all().cloned().collect();
        records.extend(serde_json::to_vec(&Line::Bans(book)));
        records
    }

    /// What clients have used, as JSON: kept every few seconds and at the end.
    pub fn usage(&self, now: SystemTime) -> Vec<u8> {
        let rules = self.config().throttles.clone();
        let throttles = self.inner.table.snapshot(&rules, now);
        let probation = lock(&self.inner.probation);
        let probation = probation.iter().map(|(client, until)| (client.to_string(), super::nanos(*until))).collect();
        serde_json::to_vec(&Usage { throttles, rules: rules.settings(), probation }).unwrap_or_default()
    }

    fn restore(&self, usage: Usage, now: SystemTime) {
        self.inner.table.restore(&usage.throttles);
        if let Ok(before) = Rules::new(&usage.rules, &[], Rules::CEILING) {
            self.inner.table.requota(&before, &self.config().throttles, now);
        }
        let mut probation = lock(&self.inner.probation);
        for (client, until) in usage.probation.into_iter().take(MAX_ON_PROBATION) {
            let Ok(client) = client.parse::<ClientKey>();
            probation.insert(client, SystemTime::UNIX_EPOCH + Duration::from_nanos(until));
        }
        self.inner.on_probation.store(probation.len(), Ordering::Release);
    }

    // ---- Views ----

    /// All throttles, with what they matched.
    pub fn throttles(&self) -> Vec<ThrottleView> {
        self.view_throttles()
    }

    /// Clients that asked lately, those who spent most upstream first.
    pub fn clients(&self, most: usize, now: SystemTime) -> Vec<ClientView> {
        self.view_clients(most, now)
    }

    fn change(&self, now: SystemTime, change: impl FnOnce(&mut Changes)) {
        let mut changes = lock(&self.inner.changes);
        change(&mut changes);
        let mut config = changes.configured.clone();
        for (selection, mode) in &changes.switched {
            config.throttles = Rules::with_mode(&config.throttles, selection, *mode).0;
        }
        config.allowlist.0.extend(changes.allowed.iter().cloned());
        self.inner.table.requota(&self.config().throttles, &config.throttles, now);
        self.inner.config.store(Arc::new(config));
    }

    fn with_queue<R>(&self, identity: &Identity, work: impl FnOnce(&mut budget::BudgetQueue) -> R) -> R {
        let mut queues = lock(&self.inner.queues);
        if !queues.contains_key(identity) {
            queues.insert(identity.clone(), budget::BudgetQueue::default());
        }
        work(queues.entry(identity.clone()).or_default())
    }
}

/// Held for a few lines, never across anything that waits.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
