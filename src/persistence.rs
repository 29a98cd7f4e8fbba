//! What outlives the process: the ledger, the audit with its bans, and what clients have used, each in a journal of the store.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use weir::{
    admin::Settle,
    limits::{
        Limits, LimitsConfig,
        audit::{AuditSink, Entry, Event},
        bans::BanEvent,
        budget::HeldPulls,
        state::PersistedState,
    },
    record_journal::RecordJournal,
    upstream::{Identity, Ledger, ledger::LedgerStore},
};
use weir_storage::{Journal, Store};

/// How often what clients have used is written: a kill forgets at most so much of it.
const EVERY: Duration = Duration::from_secs(5);
/// Entries of the audit that wait for the disk; past it the whole is written anew.
const WAITING: usize = 4096;
/// Records of the pulls that were held back past which their journal is compacted.
const LONG_HELD: usize = 4 * HeldPulls::MOST;
/// Lines of the audit's journal past which it is compacted: twice what survives a compaction.
const LONG: usize = 20_000;

/// Whether what was decided is on disk; the reason when it is not.
type Settled = Result<(), String>;

enum Line {
    Entry(Vec<u8>),
    Settle(oneshot::Sender<Settled>),
    Close(oneshot::Sender<()>),
}

/// Takes entries as they happen. A full queue loses nothing, for then everything is written anew.
struct Queue {
    lines: mpsc::Sender<Line>,
    overflown: Arc<AtomicBool>,
}

impl AuditSink for Queue {
    fn append(&self, entry: &Entry) {
        log(entry);
        if self.lines.try_send(Line::Entry(Limits::record(entry))).is_err() {
            self.rewrite();
        }
    }

    fn rewrite(&self) {
        self.overflown.store(true, Ordering::Release);
    }
}

/// A line for each ban, lift, expiry and refused attempt.
fn log(entry: &Entry) {
    let Event::Ban(event) = &entry.event else { return };
    let by = &*entry.by;
    match &**event {
        BanEvent::Banned { record } => {
            let until = humantime::format_rfc3339_seconds(record.until);
            let (level, simulated) = (u8::from(record.level), record.simulated);
            tracing::info!(target: "weir::ban", ban = record.id, client = %record.client, rule = record.rule, level,
                %until, by, simulated, "banned");
        }
        BanEvent::Lifted { record } => {
            let reason = record.lifted.as_ref().map(|lift| &*lift.reason);
            tracing::info!(target: "weir::ban", ban = record.id, client = %record.client, rule = record.rule, by, reason,
                "ban lifted");
        }
        BanEvent::EndMoved { record, reason, .. } => {
            let until = humantime::format_rfc3339_seconds(record.until);
            tracing::info!(target: "weir::ban", ban = record.id, client = %record.client, %until, by, reason, "end of a ban moved");
        }
        BanEvent::Expired { id, client } => tracing::info!(target: "weir::ban", ban = id, %client, "ban ended"),
        BanEvent::Refused { attempt, reason } => {
            let from = entry.from.map(|from| from.to_string());
            tracing::info!(target: "weir::ban", by, from, attempt, reason, "attempt refused");
        }
    }
}

/// Writes what [`Limits`] gives to its sink.
pub(crate) struct Persistence {
    lines: mpsc::Sender<Line>,
    writing: JoinHandle<()>,
}

impl Persistence {
    /// Takes up what was kept and keeps what comes. Must be called within a runtime.
    pub(crate) fn start(
        store: &Store,
        rulebook: LimitsConfig,
        ledger: &Ledger,
    ) -> Result<(Limits, Persistence), String> {
        let open = |name: &'static str| store.journals.open(name).map_err(|error| error.to_string());
        let (audit, usage, held) = (open("audit")?, open("usage")?, open("held-pulls")?);
        let read = |journal: &Journal| journal.replay().map_err(|error| error.to_string());
        let records: Vec<Vec<u8>> = read(&audit)?.iter().map(|record| record.to_vec()).collect();
        let length = records.len();
        let kept = PersistedState { records, usage: read(&usage)?.last().map(|record| record.to_vec()) };
        let (lines, queue) = mpsc::channel(WAITING);
        let overflown = Arc::new(AtomicBool::new(false));
        let keep = Queue { lines: lines.clone(), overflown: overflown.clone() };
        let (limits, unreadable) =
            Limits::new(rulebook, &kept, Arc::new(keep), Box::new(weir::random::number), SystemTime::now());
        if unreadable > 0 {
            tracing::warn!(unreadable, "the audit's journal holds records that cannot be read");
        }
        let mut spends = ledger.spends(usize::MAX);
        spends.reverse();
        for spend in spends {
            let account = (&*spend.identity != Identity::ANONYMOUS).then(|| spend.identity.clone());
            limits.restore_spend(&Identity { upstream: spend.upstream.clone(), account }, &spend.client, spend.at);
        }
        let pulls: Vec<Vec<u8>> = read(&held)?.iter().map(|record| record.to_vec()).collect();
        let unreadable = limits.restore_held(&pulls);
        if unreadable > 0 {
            tracing::warn!(unreadable, "the journal of pulls that were held back holds records that cannot be read");
        }
        let (audit, usage) = (Box::new(RecordJournal(audit)), Box::new(RecordJournal(usage)));
        let writer = Writer {
            audit,
            usage,
            held: Box::new(RecordJournal(held)),
            held_length: pulls.len(),
            limits: limits.clone(),
            ledger: ledger.clone(),
            length,
            overflown,
            failure: None,
            last: Vec::new(),
        };
        let writing = tokio::spawn(writer.run(queue));
        Ok((limits, Persistence { lines, writing }))
    }

    /// Resolves when what was decided so far is on disk, or cannot be written.
    pub(crate) fn settle(&self) -> Settle {
        let lines = self.lines.clone();
        Box::new(move || {
            let lines = lines.clone();
            let settled: Pin<Box<dyn Future<Output = Settled>>> = Box::pin(async move {
                let (done, settled) = oneshot::channel();
                let ended = |_| "the writer has ended".to_owned();
                lines.send(Line::Settle(done)).await.map_err(|_| ended(()))?;
                settled.await.map_err(|_| ended(()))?
            });
            settled
        })
    }

    /// Writes everything there is, and ends.
    pub(crate) async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.lines.send(Line::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        let _ = self.writing.await;
    }
}

struct Writer {
    audit: Box<dyn LedgerStore>,
    usage: Box<dyn LedgerStore>,
    held: Box<dyn LedgerStore>,
    held_length: usize,
    limits: Limits,
    ledger: Ledger,
    length: usize,
    overflown: Arc<AtomicBool>,
    /// Why the journal lacks something; the next compaction that succeeds mends it.
    failure: Option<String>,
    last: Vec<u8>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Line>) {
        let mut every = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                line = queue.recv() => match line {
                    Some(Line::Entry(record)) => self.append(record).await,
                    Some(Line::Settle(done)) => {
                        self.catch_up().await;
                        // A caller that does not wait any more needs no answer.
                        let _ = done.send(self.failure.clone().map_or(Ok(()), Err));
                    }
                    Some(Line::Close(done)) => {
                        self.catch_up().await;
                        self.write_usage().await;
                        self.write_held().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                _ = every.tick() => {
                    self.limits.tick(SystemTime::now());
                    self.write_usage().await;
                    self.write_held().await;
                    self.ledger.persist().await;
                    self.catch_up().await;
                }
            }
            // After a failure the next tick tries again, and not every entry.
            if self.failure.is_none() {
                self.catch_up().await;
            }
        }
    }

    async fn append(&mut self, record: Vec<u8>) {
        self.length += 1;
        if let Err(error) = self.audit.append_all(vec![record]).await {
            tracing::warn!(%error, "the audit cannot be written; bans are known in memory only");
            self.failure = Some(error);
            self.overflown.store(true, Ordering::Release);
        }
    }

    /// Writes everything anew when the journal is long or lacks something.
    async fn catch_up(&mut self) {
        if self.length > LONG || self.overflown.swap(false, Ordering::AcqRel) {
            self.compact().await;
        }
    }

    /// What waits in the queue is in memory already and is written with it; a replay does nothing twice.
    async fn compact(&mut self) {
        let records = self.limits.records();
        let length = records.len();
        match self.audit.compact(records).await {
            Ok(()) => (self.length, self.failure) = (length, None),
            Err(error) => {
                tracing::warn!(%error, "the audit cannot be compacted");
                self.failure = Some(error);
                self.overflown.store(true, Ordering::Release);
            }
        }
    }

    async fn write_usage(&mut self) {
        let usage = self.limits.usage(SystemTime::now());
        if usage == self.last {
            return;
        }
        match self.usage.compact(vec![usage.clone()]).await {
            Ok(()) => self.last = usage,
            Err(error) => tracing::warn!(%error, "what clients have used cannot be written; a restart forgets it"),
        }
    }

    /// What a disk that is full does not take is lost to a what-if after a restart, and to nothing else.
    async fn write_held(&mut self) {
        let is_long = self.held_length > LONG_HELD;
        let records = self.limits.take_held(is_long);
        if records.is_empty() {
            return;
        }
        let length = records.len();
        let written = if is_long { self.held.compact(records).await } else { self.held.append_all(records).await };
        match written {
            Ok(()) if is_long => self.held_length = length,
            Ok(()) => self.held_length += length,
            Err(error) => tracing::warn!(%error, "pulls that were held back cannot be written; a restart forgets them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use weir::{
        limits::{audit::Actor, state::BanRequest},
        upstream::ledger::WriteFuture,
    };

    use super::*;

    /// A disk that is full, or not.
    #[derive(Clone, Default)]
    struct Disk {
        is_full: Arc<AtomicBool>,
        records: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Disk {
        fn write(&self, work: impl FnOnce(&mut Vec<Vec<u8>>)) -> WriteFuture {
            if self.is_full.load(Ordering::Relaxed) {
                return Box::pin(std::future::ready(Err("no space left on device".to_owned())));
            }
            work(&mut self.records.lock().unwrap());
            Box::pin(std::future::ready(Ok(())))
        }
    }

    impl LedgerStore for Disk {
        fn append_all(&self, all: Vec<Vec<u8>>) -> WriteFuture {
            self.write(|records| records.extend(all))
        }

        fn compact(&self, all: Vec<Vec<u8>>) -> WriteFuture {
            self.write(|records| *records = all)
        }
    }

    #[tokio::test]
    async fn a_ban_on_a_full_disk_is_reported_as_not_kept_and_is_written_when_there_is_room() {
        let disk = Disk::default();
        let (lines, queue) = mpsc::channel(WAITING);
        let overflown = Arc::new(AtomicBool::new(false));
        let sink = Arc::new(Queue { lines: lines.clone(), overflown: overflown.clone() });
        let start = |kept: &PersistedState, sink| {
            Limits::new(LimitsConfig::default(), kept, sink, Box::new(|| 7), SystemTime::now()).0
        };
        let limits = start(&PersistedState::default(), sink);
        let writer = Writer {
            audit: Box::new(disk.clone()),
            usage: Box::new(disk.clone()),
            held: Box::new(disk.clone()),
            held_length: 0,
            limits: limits.clone(),
            ledger: Ledger::unkept(),
            length: 0,
            overflown,
            failure: None,
            last: limits.usage(SystemTime::now()),
        };
        let persistence = Persistence { lines, writing: tokio::spawn(writer.run(queue)) };
        let settle = persistence.settle();
        disk.is_full.store(true, Ordering::Relaxed);
        let client = "192.0.2.7".parse().unwrap();
        let wish = BanRequest { client, duration: Duration::from_secs(60), reason: String::new(), force: false };
        let ban = limits.ban(wish, &Actor::new("ops", None), SystemTime::now()).unwrap();
        assert_eq!(settle().await, Err("no space left on device".to_owned()));
        assert_eq!(settle().await, Err("no space left on device".to_owned()), "and it is not forgotten");
        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(settle().await, Ok(()));
        let records = disk.records.lock().unwrap().clone();
        let restarted = start(&PersistedState { records, usage: None }, Arc::new(|_: &Entry| ()));
        assert_eq!(restarted.get_ban(&ban.id).unwrap().client, ban.client);
    }
}
