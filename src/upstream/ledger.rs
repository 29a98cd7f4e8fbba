//! What an identity has left upstream; a [`Reservation`] is the only way to send a counted GET.
//!
//! # What it guarantees
//!
//! A pull is paid before it is sent: [`Ledger::reserve`] takes one from what is left and waits until the record of that is on
//! disk. A process that is killed between the two has paid; it never sends what it did not pay. Of N who reserve the last pull one gets
//! it. A reservation that is dropped unsent is refunded, one that was sent is a [`Spend`] whatever came back.
//!
//! # What is believed
//!
//! Upstream alone knows what is left, and others behind our address spend from the same account. So nothing is configured: as long as
//! upstream says nothing the identity is unmetered; once it does, the newest `remaining` it gave, less what is in flight, is the truth,
//! upward too. Two answers that crossed on the way are the exception: which was counted first is not known, so the lower one
//! holds until a request that was sent after it is answered. A drop that our own sent requests do not explain was spent by others and
//! is kept as external spend.
//!
//! Between two answers the sliding log forecasts: what left the window since the last answer has come back, and a whole window after
//! it everything has but what we spent since. A 429 of the pull limit sets what is left to zero until that forecast, or until
//! a HEAD, which is free, says otherwise.
//!
//! # What breaks if a line moves
//!
//! The guard is made before the record is awaited: a caller that is cancelled while the disk is slow must refund. In-flight ends when
//! headers arrive, the entry is written when the reservation drops: `waiters` counts those who joined during the body.
//!
//! # Scope
//!
//! No policy: who may spend is decided in `limits/budget.rs` from a [`Balance`]. No storage: [`LedgerStore`] is given by `main`. A disk that
//! refuses does not stop the pulls; the log says so, and the next write that works replaces the whole journal, so nothing is lost
//! but in a crash in between.

mod account;
mod entry;
mod record;

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{identity::Identity, ratelimit::RateLimit};
use crate::client::Class;
use crate::clock;
use crate::oci::Name;
use account::Account;
pub use entry::{Balance, Exhausted, Purpose, Reason, Spend};
use record::Record;

/// What a [`LedgerStore`] promises.
pub type WriteFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Makes records durable. `main` implements it over a journal of the store, since upstream knows no storage.
///
/// A closure that appends is one as well; then nothing is ever compacted, which suits tests.
pub trait LedgerStore: Send + Sync {
    /// Resolves when all of the records are on disk, in this order, with one sync for all of them. A failure is text for the log.
    fn append_all(&self, records: Vec<Vec<u8>>) -> WriteFuture;
    /// Replaces everything appended so far, atomically. The ledger asks for it when its journal has grown long, and
    /// after an append that failed.
    fn compact(&self, records: Vec<Vec<u8>>) -> WriteFuture;
}

impl<F: Fn(Vec<Vec<u8>>) -> WriteFuture + Send + Sync> LedgerStore for F {
    fn append_all(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        self(records)
    }
    fn compact(&self, _: Vec<Vec<u8>>) -> WriteFuture {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How many spends are kept in memory and survive a compaction: two days of an account that pulls 200 an hour.
const NEWEST: usize = 10_000;
/// Records in the journal past which it is compacted: about three records are written for each spend.
const LONG_JOURNAL: usize = 4 * NEWEST;

/// The budget of every identity of every upstream. Cloning shares it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    // Held for a few lines, never across an await.
    state: Mutex<State>,
    store: Arc<dyn LedgerStore>,
    // Held while records are written, so that they are kept in the order in which they were made.
    writing: tokio::sync::Mutex<()>,
    /// Manifest GETs answered without one upstream. Apart, so that a warm answer costs one atomic increment.
    saved: AtomicU64,
}

struct State {
    accounts: HashMap<Identity, Account>,
    /// Newest last.
    spends: VecDeque<Spend>,
    /// Reserved and neither committed nor refunded, by number.
    pending: HashMap<u64, (Identity, Spend)>,
    next_number: u64,
    /// Records made and not yet written.
    outbox: Vec<Vec<u8>>,
    journaled: usize,
    /// A write failed: the journal lacks something that memory has.
    behind: bool,
    /// What the journal says was saved, and since when it is counted.
    saved: (u64, SystemTime),
}

impl Ledger {
    /// `records` is what was kept before, oldest first; what cannot be read of it is skipped and logged.
    pub fn new(records: Vec<bytes::Bytes>, store: Arc<dyn LedgerStore>) -> Ledger {
        let mut state = State::new(records.len());
        let mut unreadable = 0;
        for bytes in &records {
            match serde_json::from_slice(bytes) {
                Ok(record) => state.replay(record),
                Err(_) => unreadable += 1,
            }
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, "the ledger's journal holds records that cannot be read");
        }
        state.close_replay();
        let saved = AtomicU64::new(state.saved.0);
        Ledger {
            inner: Arc::new(Inner { state: Mutex::new(state), store, writing: tokio::sync::Mutex::default(), saved }),
        }
    }

    /// A ledger that forgets when the process ends, for tests and tools.
    pub fn unkept() -> Ledger {
        Ledger::new(Vec::new(), Arc::new(|_: Vec<Vec<u8>>| -> WriteFuture { Box::pin(std::future::ready(Ok(()))) }))
    }

    /// Takes one pull of this identity's budget, durably, or says that there is none. Costs one synced append.
    ///
    /// # Errors
    /// [`Exhausted`] when nothing is left.
    pub async fn reserve(&self, identity: &Identity, purpose: Purpose) -> Result<Reservation, Exhausted> {
        match self.take(identity, None, purpose, clock::now()) {
            Attempt::Spent(reservation) => {
                self.flush().await;
                Ok(reservation)
            }
            Attempt::Changed(balance) | Attempt::Exhausted(balance) => Err(Exhausted::new(balance)),
        }
    }

    /// As [`Ledger::reserve`], unless less may be left by now than at `version` of the balance. A policy decides on a
    /// [`Balance`] without any lock, tries, and decides again when the balance has changed, so that no two
    /// decisions spend the same pull. A ledger that several processes share can offer the same.
    pub async fn try_spend(&self, identity: &Identity, version: u64, purpose: Purpose) -> Attempt {
        match self.take(identity, Some(version), purpose, clock::now()) {
            Attempt::Spent(reservation) => {
                self.flush().await;
                Attempt::Spent(reservation)
            }
            refused => refused,
        }
    }

    /// What an identity has left. Costs a look through the spends that left the window since upstream last answered.
    pub fn balance(&self, identity: &Identity, now: SystemTime) -> Balance {
        let state = self.lock();
        match state.accounts.get(identity) {
            Some(account) => account.balance(identity, now),
            None => Account::default().balance(identity, now),
        }
    }

    /// Everyone who spent or was metered; in no order.
    pub fn identities(&self) -> Vec<Identity> {
        self.lock().accounts.keys().cloned().collect()
    }

    /// The newest spends, newest first; at most 10,000 are known.
    pub fn spends(&self, most: usize) -> Vec<Spend> {
        self.lock().spends.iter().rev().take(most).cloned().collect()
    }

    /// When clients of the classes above this one spent, oldest first, and from when on all of these are known.
    pub fn spent_above(&self, identity: &Identity, class: Class) -> (Vec<SystemTime>, SystemTime) {
        let state = self.lock();
        let name = identity.name();
        let is_meant =
            |spend: &&Spend| spend.class > class && spend.upstream == identity.upstream && &*spend.identity == name;
        let mut times: Vec<SystemTime> = state.spends.iter().filter(is_meant).map(|spend| spend.at).collect();
        // In the order in which they ended, and the clock may have been set meanwhile.
        times.sort_unstable();
        let oldest = state.spends.front().filter(|_| state.spends.len() >= NEWEST).map(|spend| spend.at);
        (times, oldest.unwrap_or(state.saved.1))
    }

    /// All that are known for a repository and, when given, a reference; newest first.
    pub fn explain(&self, repository: &Name, references: Option<&[String]>) -> Vec<Spend> {
        let wanted = |spend: &&Spend| {
            spend.repository == *repository && references.is_none_or(|references| references.contains(&spend.reference))
        };
        self.lock().spends.iter().rev().filter(wanted).cloned().collect()
    }

    /// Counts a manifest GET that was answered without one upstream.
    pub fn count_saved(&self) {
        self.inner.saved.fetch_add(1, Ordering::Relaxed);
    }

    /// Manifest GETs answered without one upstream, and since when they are counted. Survives restarts.
    pub fn saved(&self) -> (u64, SystemTime) {
        (self.inner.saved.load(Ordering::Relaxed), self.lock().saved.1)
    }

    /// Records that say everything the ledger knows; what [`LedgerStore::compact`] is given.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        self.lock().snapshot()
    }

    /// Writes what is not written yet: now and then, and when the process ends, so that refunds and the last entries are kept
    /// as they were.
    pub async fn persist(&self) {
        let count = self.inner.saved.load(Ordering::Relaxed);
        {
            let mut state = self.lock();
            if state.saved.0 != count {
                state.saved.0 = count;
                let since = state.saved.1;
                state.outbox.extend(Record::Saved { count, since }.bytes());
            }
        }
        self.flush().await;
    }

    /// A stamp for a request that is about to be sent; its answer is [`Ledger::observe`]d with it.
    pub(crate) fn stamp(&self, identity: &Identity) -> Stamp {
        Stamp(self.lock().accounts.get(identity).map_or(0, Account::version))
    }

    /// Reconciles with what upstream said in answer to a request stamped `stamp`.
    pub(crate) fn observe(&self, identity: &Identity, stamp: Stamp, reading: RateLimit) {
        self.reconcile(identity, false, stamp, Some(reading));
    }

    /// The same for an answer that may end what is in flight. Both are one step: in between, a pull would be neither in flight
    /// nor in what is left, and so be given twice, or be taken for external spend.
    fn reconcile(&self, identity: &Identity, ends: bool, stamp: Stamp, reading: Option<RateLimit>) {
        let now = clock::now();
        let mut state = self.lock();
        let State { accounts, outbox, .. } = &mut *state;
        let account = accounts.entry(identity.clone()).or_default();
        if ends {
            account.answered();
        }
        let observed = reading.and_then(|reading| account.observe(stamp.0, reading, now));
        let Some((reading, external)) = observed else { return };
        outbox.extend(Record::Observed { identity: identity.clone(), reading }.bytes());
        if external > 0 {
            outbox.extend(Record::External { identity: identity.clone(), at: now, count: external }.bytes());
            tracing::warn!(upstream = %identity.upstream, identity = %identity.name(), external, "{}", identity.others());
        }
        drop(state);
        self.flush_soon();
    }

    /// The pull limit answered 429: nothing is left until the forecast, or for as long as upstream asked.
    pub(crate) fn exhausted(&self, identity: &Identity, retry_after: Option<Duration>) -> Duration {
        let now = clock::now();
        let mut state = self.lock();
        let State { accounts, outbox, .. } = &mut *state;
        let account = accounts.entry(identity.clone()).or_default();
        let reading = account.exhaust(retry_after, now);
        outbox.extend(Record::Observed { identity: identity.clone(), reading }.bytes());
        let wait = account.balance(identity, now).retry_after(now);
        drop(state);
        self.flush_soon();
        wait
    }

    fn take(&self, identity: &Identity, version: Option<u64>, purpose: Purpose, now: SystemTime) -> Attempt {
        let mut state = self.lock();
        let account = state.accounts.entry(identity.clone()).or_default();
        let balance = account.balance(identity, now);
        if balance.remaining.is_some_and(|remaining| remaining < 1) {
            return Attempt::Exhausted(Box::new(balance));
        }
        // Where nothing is metered no decision can be out of date.
        if balance.remaining.is_some() && version.is_some_and(|version| version != balance.version) {
            return Attempt::Changed(Box::new(balance));
        }
        account.reserve(now);
        let spend = Spend {
            at: now,
            upstream: identity.upstream.clone(),
            identity: identity.name().into(),
            repository: purpose.repository.clone(),
            reference: purpose.reference.to_string(),
            tag: purpose.tag.clone(),
            client: purpose.client.clone(),
            class: purpose.class,
            reason: purpose.reason,
            waiters: 0,
            remaining: None,
        };
        let number = state.next_number;
        state.next_number += 1;
        state.outbox.extend(Record::Reserved { number, identity: identity.clone(), spend: spend.clone() }.bytes());
        state.pending.insert(number, (identity.clone(), spend));
        let identity = identity.clone();
        let (ledger, progress) = (self.clone(), Progress::Unsent);
        Attempt::Spent(Reservation { ledger, number, identity, purpose, progress, is_repeated: false })
    }

    /// Ends a reservation, as a refund or as a spend.
    fn settle(&self, number: u64, progress: Progress, purpose: &Purpose) {
        let waiters = purpose.waiters.load(Ordering::Relaxed);
        let mut state = self.lock();
        let Some((identity, mut spend)) = state.pending.remove(&number) else { return };
        let State { accounts, outbox, .. } = &mut *state;
        let account = accounts.entry(identity).or_default();
        let record = match progress {
            Progress::Unsent => {
                account.refund(spend.at);
                Record::Refunded { number }
            }
            Progress::Sent | Progress::Answered(_) => {
                if progress == Progress::Sent {
                    account.answered();
                }
                spend.waiters = waiters;
                spend.remaining = match progress {
                    Progress::Answered(remaining) => remaining,
                    _ => None,
                };
                Record::Committed { number, waiters, remaining: spend.remaining }
            }
        };
        outbox.extend(record.bytes());
        if progress != Progress::Unsent {
            state.remember(spend);
        }
        drop(state);
        self.flush_soon();
    }

    /// Writes what is in the outbox, when there is a runtime to do so; else the next reservation does. A refund
    /// that is lost in a crash counts as a spend, which errs to the safe side.
    fn flush_soon(&self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let ledger = self.clone();
            runtime.spawn(async move { ledger.flush().await });
        }
    }

    /// Writes the outbox. Those who come while it is written share the next write.
    async fn flush(&self) {
        let _writing = self.inner.writing.lock().await;
        let (records, snapshot) = self.lock().due();
        let outcome = match snapshot {
            Some(snapshot) => self.inner.store.compact(snapshot).await,
            // Another request's records took these along.
            None if records.is_empty() => Ok(()),
            None => self.inner.store.append_all(records).await,
        };
        if let Err(error) = outcome {
            self.lock().behind = true;
            tracing::warn!(error, "the ledger's journal cannot be written; spends are known in memory only");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is under the lock is valid at every line, so a panic elsewhere leaves nothing half done.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl State {
    fn new(journaled: usize) -> State {
        State {
            accounts: HashMap::new(),
            spends: VecDeque::new(),
            pending: HashMap::new(),
            next_number: 0,
            outbox: Vec::new(),
            journaled,
            behind: false,
            saved: (0, clock::now()),
        }
    }

    fn remember(&mut self, spend: Spend) {
        if self.spends.len() == NEWEST {
            self.spends.pop_front();
        }
        self.spends.push_back(spend);
    }

    /// What is to be written now: these records, or a snapshot in place of everything.
    fn due(&mut self) -> (Vec<Vec<u8>>, Option<Vec<Vec<u8>>>) {
        let records = std::mem::take(&mut self.outbox);
        if !records.is_empty() && (self.behind || self.journaled + records.len() > LONG_JOURNAL) {
            let snapshot = self.snapshot();
            (self.behind, self.journaled) = (false, snapshot.len());
            return (Vec::new(), Some(snapshot));
        }
        self.journaled += records.len();
        (records, None)
    }

    fn snapshot(&self) -> Vec<Vec<u8>> {
        let accounts = self.accounts.iter().flat_map(|(identity, account)| account.records(identity));
        let spends = self.spends.iter().map(|spend| Record::Spent { spend: spend.clone() });
        let pending = self.pending.iter().map(|(number, (identity, spend))| Record::Reserved {
            number: *number,
            identity: identity.clone(),
            spend: spend.clone(),
        });
        let saved = Record::Saved { count: self.saved.0, since: self.saved.1 };
        accounts.chain(spends).chain(pending).chain([saved]).filter_map(|record| record.bytes()).collect()
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Reserved { number, identity, spend } => {
                self.next_number = self.next_number.max(number + 1);
                self.accounts.entry(identity.clone()).or_default().reserve(spend.at);
                // A number that is taken again is of an earlier process that was killed: it counts as spent.
                if let Some((_, orphan)) = self.pending.insert(number, (identity, spend)) {
                    self.remember(orphan);
                }
            }
            Record::Committed { number, waiters, remaining } => {
                if let Some((identity, spend)) = self.pending.remove(&number) {
                    self.accounts.entry(identity).or_default().answered();
                    self.remember(Spend { waiters, remaining, ..spend });
                }
            }
            Record::Refunded { number } => {
                if let Some((identity, spend)) = self.pending.remove(&number) {
                    self.accounts.entry(identity).or_default().refund(spend.at);
                }
            }
            Record::Spent { spend } => {
                self.accounts.entry(spend.of()).or_default().spent_at(spend.at);
                self.remember(spend);
            }
            Record::Saved { count, since } => self.saved = (count, since.min(clock::now())),
            Record::Observed { identity, reading } => self.accounts.entry(identity).or_default().restore(reading),
            Record::External { identity, at, count } => {
                self.accounts.entry(identity).or_default().external_at(at, count);
            }
        }
    }

    /// What was reserved when the process died may have been sent: it is spent.
    fn close_replay(&mut self) {
        let mut orphans: Vec<_> = self.pending.drain().collect();
        orphans.sort_by_key(|(number, _)| *number);
        for (number, (identity, spend)) in orphans {
            self.accounts.entry(identity).or_default().answered();
            self.outbox.extend(Record::Committed { number, waiters: 0, remaining: None }.bytes());
            self.remember(spend);
        }
    }
}

/// What became of an attempt to spend.
#[derive(Debug)]
pub enum Attempt {
    /// One pull is taken, durably.
    Spent(Reservation),
    /// Less may be left than the decision was made on: decide again, on this.
    Changed(Box<Balance>),
    /// Nothing is left.
    Exhausted(Box<Balance>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Unsent,
    Sent,
    Answered(Option<i64>),
}

/// A pull that is paid for and not sent yet. Dropping it unsent refunds it; once sent, dropping it writes the entry.
#[derive(Debug)]
pub struct Reservation {
    ledger: Ledger,
    number: u64,
    identity: Identity,
    purpose: Purpose,
    progress: Progress,
    /// Another pull was spent on the same purpose before.
    is_repeated: bool,
}

impl Reservation {
    /// Who pays.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether a drop gives back all that was spent on its purpose, since nothing was sent.
    pub fn is_refunded(&self) -> bool {
        self.progress == Progress::Unsent && !self.is_repeated
    }

    /// The request is on its way, or may be: from now on it is spent.
    pub(crate) fn sent(&mut self) {
        if self.progress == Progress::Unsent {
            self.progress = Progress::Sent;
        }
    }

    /// It is certain that it costs nothing, since not a byte of it left or nothing was served: a drop refunds it again.
    pub(crate) fn unsent(&mut self) {
        if self.progress == Progress::Sent {
            self.progress = Progress::Unsent;
        }
    }

    /// The headers of the answer to a request stamped `stamp` are here, and what they say is reconciled as by
    /// [`Ledger::observe`].
    pub(crate) fn answered(&mut self, stamp: Stamp, reading: Option<RateLimit>) {
        self.ledger.reconcile(&self.identity, self.progress == Progress::Sent, stamp, reading);
        self.progress = Progress::Answered(reading.and_then(|reading| reading.remaining));
    }

    /// Pays for sending it once more. Nothing to do when it was not sent.
    pub(crate) async fn again(&mut self) -> Result<(), Exhausted> {
        if self.progress != Progress::Unsent {
            let mut next = self.ledger.reserve(&self.identity, self.purpose.clone()).await?;
            next.is_repeated = true;
            *self = next;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.settle(self.number, self.progress, &self.purpose);
    }
}

/// When a request was sent, in the ledger's own order of events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp(u64);

#[cfg(test)]
mod tests;
