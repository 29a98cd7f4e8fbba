//! Warming: images that are to be here before a client asks, fetched with what no client needs.
//!
//! # What it guarantees
//!
//! A warm spends a counted pull only while more is left than the floor of bulk and what clients above bulk are expected to need until the
//! window ends (`limits/budget`). It waits otherwise, says until when by forecast, and goes on by itself; what it spent changes no client's
//! share of the rest. It asks through the flights and fills of clients: an object that a client and a warm want comes once, a client that joins a
//! warm's flight and finds it refused asks again for itself, and the first byte goes to the client as it comes.
//!
//! An image is said to be here when the inventory says so: its manifests and blobs, of each wanted platform. That is looked at once more when
//! the job ends, so that what was evicted or purged meanwhile is reported. Each result is in the journal when it is shown; after a crash the job
//! goes on with what was not settled, and looks at what was. What is here costs nothing again: a fresh tag asks no upstream, an expired one
//! costs a HEAD. `[[warm]]` makes a job of a list when its hour comes, unless its last one is still open.
//!
//! # What it refuses
//!
//! More than a share of what clients have (`mirror.warm_displaces`) is displaced by no job: what does not fit is reported. What `allow` or `deny` of
//! an upstream refuses, what upstream refuses, and platforms that an image does not have are refused with a sentence. Upstreams that fail
//! are tried four times, over ten minutes; a wait for budget ends after a week. No stale answer stands in for a tag that cannot be confirmed.
//!
//! # What breaks if a line is moved
//!
//! A job is journaled before it is in memory, and a result is in memory before its record is written, by the one task that writes: a result that
//! a crash loses is found again for nothing, a job that was answered for is never lost. The journal is opened, and the task started, by
//! [`Warm::start`] and not with the mirror: then nothing runs that a test or a command did not ask for.

mod fetch;
mod job;
mod jobs;
mod lists;
mod metrics;
mod order;
mod platforms;
mod record;
mod runner;
mod schedule;
mod scheduler;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
};
use weir_storage::Store;

use self::{
    fetch::Fetcher,
    jobs::Jobs,
    metrics::Metrics,
    runner::{Runner, Shared},
    scheduler::{Scheduler, Schedules},
};
pub use self::{
    job::{Item, Job, JobState, Outcome, Wanted},
    order::{Order, WarmError},
    schedule::{LONGEST_AGO, Schedule, Table},
};
use super::{blobs::Blobs, budgeted_fetch::BudgetedFetch, manifests::Manifests, settings::Settings};
use crate::{clock, route::Routes};

/// How long a stopping mirror waits for each task. It ends within one append to the journal; the bound is for a disk that hangs.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The warms of a mirror.
#[derive(Debug)]
pub struct Warm {
    fetcher: Fetcher,
    budget: BudgetedFetch,
    store: Store,
    at_once: usize,
    displaces: f64,
    metrics: Arc<Metrics>,
    runtime: Handle,
    shared: OnceLock<Arc<Shared>>,
    schedules: Schedules,
    stop: watch::Sender<bool>,
    /// The runner and the scheduler.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Warm {
    pub(super) fn new(
        settings: &Settings,
        (manifests, blobs): (Arc<Manifests>, Arc<Blobs>),
        store: Store,
        runtime: Handle,
    ) -> Warm {
        let budget = manifests.fetcher().clone();
        let (images, limits) = (store.images.clone(), budget.limits.clone());
        Warm {
            fetcher: Fetcher { manifests, blobs, images, limits },
            budget,
            store,
            at_once: settings.warm_images,
            displaces: settings.warm_displaces,
            metrics: Arc::default(),
            runtime,
            shared: OnceLock::new(),
            schedules: Schedules::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
        }
    }

    /// Takes up what an earlier process left, and works on it from now on.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn start(&self) -> Result<(), weir_storage::Error> {
        let journal = self.store.journals.open("warm")?;
        let (jobs, unreadable) = Jobs::replay(&journal.replay()?);
        if unreadable > 0 {
            tracing::warn!(unreadable, "the journal of the warms holds records that cannot be read");
        }
        let (jobs, changed, metrics) = (Mutex::new(jobs), Notify::new(), self.metrics.clone());
        let adding = tokio::sync::Mutex::default();
        let shared = self.shared.get_or_init(|| Arc::new(Shared { jobs, changed, journal, adding, metrics }));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_empty() {
            let runner = Runner {
                shared: shared.clone(),
                fetcher: self.fetcher.clone(),
                budget: self.budget.clone(),
                store: self.store.clone(),
                at_once: self.at_once,
                displaces: self.displaces,
            };
            let scheduler = Scheduler {
                shared: shared.clone(),
                schedules: self.schedules.clone(),
                images: self.store.images.clone(),
                limits: self.budget.limits.clone(),
            };
            tasks.push(self.runtime.spawn(runner.run(self.stop.subscribe())));
            tasks.push(self.runtime.spawn(scheduler.run(self.stop.subscribe())));
        }
        Ok(())
    }

    /// Whether a job can be taken, as far as its order alone says.
    ///
    /// # Errors
    /// [`WarmError::Invalid`].
    pub fn check(&self, order: &Order) -> Result<(), WarmError> {
        order::check(order)
    }

    /// Takes a job. It is on disk when this returns.
    ///
    /// # Errors
    /// See [`WarmError`].
    pub async fn add(&self, order: Order) -> Result<Job, WarmError> {
        order::take(self.shared()?, order).await
    }

    /// The jobs that are open, and those that ended last; by number.
    pub fn jobs(&self) -> Vec<Job> {
        self.shared.get().map(|shared| shared.lock().all().cloned().collect()).unwrap_or_default()
    }

    /// One job.
    pub fn job(&self, id: u64) -> Option<Job> {
        self.shared.get()?.lock().get(id).cloned()
    }

    /// Until when images of an upstream wait that need a pull, as it is forecast now; `None` when they need not wait.
    pub fn waits_until(&self, upstream: &str) -> Option<SystemTime> {
        self.shared.get()?.lock().gate(upstream).map(|gate| gate.until)
    }

    /// Ends a job. What came stays; a layer that arrives goes on arriving.
    ///
    /// # Errors
    /// [`WarmError::Unknown`], [`WarmError::Ended`], [`WarmError::Journal`].
    pub async fn cancel(&self, id: u64) -> Result<Job, WarmError> {
        let shared = self.shared()?;
        if shared.lock().get(id).is_none() {
            return Err(WarmError::Unknown);
        }
        let record = shared.lock().end(id, JobState::Cancelled, clock::now()).ok_or(WarmError::Ended)?;
        shared.changed.notify_one();
        shared.count_jobs();
        shared.write(&record).await.map_err(|error| WarmError::Journal(error.to_string()))?;
        self.job(id).ok_or(WarmError::Unknown)
    }

    /// The images that pins name, and those that are cached of what their patterns cover.
    pub fn pinned(&self, routes: &Routes) -> Vec<Wanted> {
        lists::pinned(&self.store.images, routes)
    }

    /// The mirrored images that clients pulled at this time or later; of more than one warm takes, those that were pulled last.
    pub fn pulled(&self, since: SystemTime) -> Vec<Wanted> {
        lists::pulled(&self.store.images, since)
    }

    /// What is warmed by itself.
    pub fn schedules(&self) -> Vec<Schedule> {
        self.schedules.get().0
    }

    /// What is warmed by itself, from now on, and how names are read.
    pub fn schedule(&self, schedules: Vec<Schedule>, routes: Routes) {
        self.schedules.set(schedules, routes);
    }

    /// Puts what warms count into the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Stops the tasks. What they were at goes on after the next start.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // One that does not end is left to the end of the runtime.
            let _ = tokio::time::timeout(STOP_WAIT, task).await;
        }
    }

    fn shared(&self) -> Result<&Arc<Shared>, WarmError> {
        self.shared.get().ok_or_else(|| WarmError::Journal("it is not open".to_owned()))
    }
}
