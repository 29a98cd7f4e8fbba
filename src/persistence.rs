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

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use weir::{
    admin::Settle,
    limits::{
        Limits, LimitsConfig,
        audit::{AuditSink, Entry},
        state::PersistedState,
    },
    upstream::{
        Identity, Ledger,
        ledger::{LedgerStore, WriteFuture},
    },
};
use weir_storage::{Journal, Store};

/// How often what clients have used is written: a kill forgets at most so much of it.
const EVERY: Duration = Duration::from_secs(5);
/// Entries of the audit that wait for the disk; past it the whole is written anew.
const WAITING: usize = 4096;
/// Lines of the audit's journal past which it is compacted: twice what survives a compaction.
const LONG: usize = 20_000;

/// Keeps the ledger in a journal of the store: `upstream` knows no storage.
pub(crate) struct LedgerJournal(pub(crate) Journal);

impl LedgerStore for LedgerJournal {
    fn append_all(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        Box::pin(async move {
            // All are queued before the first is answered, so that the journal syncs once for all of them.
            let appended = join_all(records.iter().map(|record| journal.append(record))).await;
            appended.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())
        })
    }

    fn compact(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        let records = records.into_iter().map(Into::into).collect();
        Box::pin(async move { journal.compact(records).await.map_err(|error| error.to_string()) })
    }
}

enum Line {
    Entry(Vec<u8>),
    Settle(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// Takes entries as they happen; a full queue loses nothing, for then everything is written anew.
struct Queue {
    lines: mpsc::Sender<Line>,
    overflown: Arc<AtomicBool>,
}

impl AuditSink for Queue {
    fn append(&self, entry: &Entry) {
        if self.lines.try_send(Line::Entry(Limits::record(entry))).is_err() {
            self.overflown.store(true, Ordering::Release);
        }
    }
}

/// Writes what [`Limits`] tells.
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
        let (audit, usage) = (open("audit")?, open("usage")?);
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
        let writer = Writer {
            audit,
            usage,
            limits: limits.clone(),
            ledger: ledger.clone(),
            length,
            overflown,
            last: Vec::new(),
        };
        let writing = tokio::spawn(writer.run(queue));
        Ok((limits, Persistence { lines, writing }))
    }

    /// Resolves when what was decided so far is on disk.
    pub(crate) fn settle(&self) -> Settle {
        let lines = self.lines.clone();
        Box::new(move || {
            let lines = lines.clone();
            let settled: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                let (done, settled) = oneshot::channel();
                if lines.send(Line::Settle(done)).await.is_ok() {
                    // The writer that is gone has said so in the log.
                    let _ = settled.await;
                }
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
    audit: Journal,
    usage: Journal,
    limits: Limits,
    ledger: Ledger,
    length: usize,
    overflown: Arc<AtomicBool>,
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
                        // Whoever does not wait any more needs no answer.
                        let _ = done.send(());
                    }
                    Some(Line::Close(done)) => {
                        self.write_usage().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                _ = every.tick() => {
                    self.limits.tick(SystemTime::now());
                    self.write_usage().await;
                    self.ledger.persist().await;
                }
            }
            if self.length > LONG || self.overflown.swap(false, Ordering::AcqRel) {
                self.compact().await;
            }
        }
    }

    async fn append(&mut self, record: Vec<u8>) {
        self.length += 1;
        if let Err(error) = self.audit.append(&record).await {
            tracing::warn!(%error, "the audit cannot be written; bans are known in memory only");
            self.overflown.store(true, Ordering::Release);
        }
    }

    /// What waits in the queue is in memory already and is written with it; a replay does nothing twice.
    async fn compact(&mut self) {
        let records = self.limits.records();
        let length = records.len();
        match self.audit.compact(records.into_iter().map(Into::into).collect()).await {
            Ok(()) => self.length = length,
            Err(error) => tracing::warn!(%error, "the audit cannot be compacted"),
        }
    }

    async fn write_usage(&mut self) {
        let usage = self.limits.usage(SystemTime::now());
        if usage == self.last {
            return;
        }
        match self.usage.compact(vec![usage.clone().into()]).await {
            Ok(()) => self.last = usage,
            Err(error) => tracing::warn!(%error, "what clients have used cannot be written; a restart forgets it"),
        }
    }
}
