//! The task that works on the jobs. It alone starts, records and ends anything, so that all of that happens in one order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use weir_storage::{Error, Journal, Store};

use super::{
    fetch::{Failed, Fetcher, Got, Room},
    job::{Job, JobState, Outcome},
    jobs::{Jobs, Start, Task},
    metrics::Metrics,
    platforms::Platforms,
    record::Record,
};
use crate::{client::Client, clock, mirror::budgeted_fetch::BudgetedFetch};

/// How often it is looked whether a surplus has come, or a rest is over.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether what was stored before the start is known.
const COUNTING: Duration = Duration::from_millis(100);

/// What the task shares with those who ask for jobs.
#[derive(Debug)]
pub(super) struct Shared {
    // Held for a look at the jobs, and never across an await.
    pub(super) jobs: Mutex<Jobs>,
    /// A job came or was cancelled.
    pub(super) changed: Notify,
    pub(super) journal: Journal,
    /// Held while a new job is in the journal and not yet in memory: a snapshot of memory must not replace the journal then.
    pub(super) adding: tokio::sync::Mutex<()>,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When it may not be on disk.
    pub(super) async fn write(&self, record: &Record) -> Result<(), Error> {
        self.journal.append(&record.bytes()).await
    }

    pub(super) fn count_jobs(&self) {
        self.metrics.jobs.set(i64::try_from(self.lock().open().count()).unwrap_or(i64::MAX));
    }
}

/// Works on the jobs until it is stopped.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) fetcher: Fetcher,
    pub(super) budget: BudgetedFetch,
    pub(super) store: Store,
    /// Images that are fetched at once.
    pub(super) at_once: usize,
    /// The share of the capacity of which a job may displace what is cached.
    pub(super) displaces: f64,
}

type Fetched = Result<Got, Failed>;

impl Runner {
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !self.fetcher.images.is_complete() {
            tokio::select! {
                () = tokio::time::sleep(COUNTING) => {}
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            }
        }
        self.look_again();
        let (mut running, mut tasks, mut rooms) = (JoinSet::new(), HashMap::new(), HashMap::new());
        loop {
            self.look(clock::now()).await;
            while running.len() < self.at_once {
                let next = self.shared.lock().next(clock::now());
                let Some(start) = next else { break };
                self.start(start, &mut running, &mut tasks, &mut rooms).await;
            }
            let ended = tokio::select! {
                // What it gives is a lock, which must not be held over an await.
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                Some(ended) = running.join_next_with_id() => Some(ended),
                () = self.shared.changed.notified() => None,
                () = tokio::time::sleep(LOOK) => None,
            };
            match ended {
                Some(ended) => self.finish(ended, &mut tasks).await,
                None => self.abort_cancelled(&tasks),
            }
            self.end_settled().await;
            rooms.retain(|job, _| self.shared.lock().is_open(*job));
        }
        // Fills under way end by themselves, in a way that can be resumed.
        running.shutdown().await;
    }

    fn abort_cancelled(&self, tasks: &HashMap<Id, (Task, AbortHandle)>) {
        let jobs = self.shared.lock();
        tasks.values().filter(|((job, _), _)| !jobs.is_open(*job)).for_each(|(_, handle)| handle.abort());
    }

    /// After a restart: what was here before may not have survived a crash of the machine.
    fn look_again(&self) {
        let jobs: Vec<Job> = self.shared.lock().open().cloned().collect();
        for job in jobs {
            let gone = self.gone(&job);
            self.shared.lock().correct(job.id, &gone, &Outcome::Pending);
        }
        self.shared.count_jobs();
    }

    /// Images of a job that were here and are not.
    fn gone(&self, job: &Job) -> Vec<usize> {
        let platforms = Platforms(job.platforms.clone());
        let reading = self.fetcher.images.read();
        let is_gone = |outcome: &Outcome| outcome.digest().is_some_and(|digest| !platforms.are_here(&reading, digest));
        job.items.iter().enumerate().filter(|(_, item)| is_gone(&item.outcome)).map(|(number, _)| number).collect()
    }

    /// Opens what may go on, and refuses what has waited too long.
    async fn look(&self, now: SystemTime) {
        let waiting = self.shared.lock().forecast_gates(now);
        for upstream in waiting {
            let until = self.budget.surplus_at(&upstream, now);
            self.shared.lock().set_gate(&upstream, until);
        }
        let expired = self.shared.lock().expire(now);
        for record in expired {
            self.keep(&record).await;
        }
    }

    async fn start(
        &self,
        start: Start,
        running: &mut JoinSet<Fetched>,
        tasks: &mut HashMap<Id, (Task, AbortHandle)>,
        rooms: &mut HashMap<u64, Room>,
    ) {
        let (id, _) = start.task;
        let room = match rooms.get(&id) {
            Some(room) => room.clone(),
            None => {
                let room = self.room(id).await;
                rooms.entry(id).or_insert(room).clone()
            }
        };
        let (fetcher, client) = (self.fetcher.clone(), Arc::new(Client::warm(&start.by)));
        let work = async move {
            let platforms = Platforms(start.platforms);
            fetcher.fetch(&client, &start.image, &platforms, &room).await
        };
        let handle = running.spawn(work);
        tasks.insert(handle.id(), (start.task, handle));
    }

    /// What a job may bring: what is free below the mark at which eviction begins, and a share of what others have there.
    async fn room(&self, id: u64) -> Room {
        let (known, brought) = self.shared.lock().get(id).map_or((None, 0), |job| (job.room, job.bytes()));
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let usage = self.store.usage();
                let used = usage.used();
                let displaced = ((usage.capacity as f64 * self.displaces) as u64).min(used);
                let bytes = usage.high.saturating_sub(used).saturating_add(displaced);
                let record = self.shared.lock().set_room(id, bytes);
                self.keep(&record).await;
                bytes
            }
        };
        Room::new(bytes.saturating_sub(brought))
    }

    async fn finish(&self, ended: Result<(Id, Fetched), JoinError>, tasks: &mut HashMap<Id, (Task, AbortHandle)>) {
        let (id, fetched) = match ended {
            Ok((id, fetched)) => (id, fetched),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "the fetching of an image for a warm panicked");
                }
                (error.id(), Err(Failed::Trouble("internal error".to_owned())))
            }
        };
        let Some((task, _)) = tasks.remove(&id) else { return };
        let record = self.shared.lock().finish(task, fetched, clock::now());
        if let Some(record) = record {
            // In the journal first: what an operator has read of an image, a kill does not change.
            self.keep(&record).await;
            self.shared.lock().settle(task, record);
        }
    }

    /// Ends jobs of which every image is settled. The inventory is asked once more: what came first may have had to go for what came last.
    async fn end_settled(&self) {
        let settled = self.shared.lock().settled();
        for id in settled {
            let Some(job) = self.shared.lock().get(id).cloned() else { continue };
            let gone = self.gone(&job);
            self.shared.lock().correct(id, &gone, &Outcome::Evicted);
            gone.iter().for_each(|_| self.shared.metrics.settled(&Outcome::Evicted));
            let record = self.shared.lock().end(id, JobState::Done, clock::now());
            tracing::info!(job = id, by = job.by, images = job.items.len(), evicted = gone.len(), "a warm is done");
            // The ended job as a whole replaces the records that led to it.
            let _adding = self.shared.adding.lock().await;
            let records = self.shared.lock().records();
            let records = records.iter().map(|record| record.bytes().into()).collect();
            if let (Err(error), Some(record)) = (self.shared.journal.compact(records).await, record) {
                tracing::warn!(%error, "the journal of the warms cannot be compacted");
                self.keep(&record).await;
            }
            self.shared.count_jobs();
        }
    }

    /// A disk that fails costs a result its place in the journal: after a restart the image is looked at again.
    async fn keep(&self, record: &Record) {
        if let Record::Settled { outcome, .. } = record {
            self.shared.metrics.settled(outcome);
        }
        if let Err(error) = self.shared.write(record).await {
            tracing::warn!(%error, "what became of a warm cannot be journaled");
        }
    }
}
