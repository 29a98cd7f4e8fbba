//! The task that makes a job of each `[[warm]]` when it is due.
//!
//! A time that passes while Weir is stopped is not made up for. While the job of a schedule is still open, its next time makes no second one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use weir_storage::Images;

use super::{
    lists,
    order::{Order, take},
    runner::Shared,
    schedule::Schedule,
};
use crate::{
    clock,
    limits::{
        Limits,
        audit::{Actor, AdminEvent, Event},
    },
    route::Routes,
};

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(1);

/// What is warmed when. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedules(Arc<Mutex<(Vec<Schedule>, Routes)>>);

impl Schedules {
    /// From now on it is these.
    pub(super) fn set(&self, schedules: Vec<Schedule>, routes: Routes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (schedules, routes);
    }

    fn get(&self) -> (Vec<Schedule>, Routes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes jobs until it is stopped.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) shared: Arc<Shared>,
    pub(super) schedules: Schedules,
    pub(super) images: Images,
    pub(super) limits: Limits,
}

impl Scheduler {
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut looked = clock::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            }
            let now = clock::now();
            let (schedules, routes) = self.schedules.get();
            // A clock that is set back makes one due again, which costs nothing where all of it is here.
            for schedule in schedules.iter().filter(|schedule| schedule.next_after(looked) <= now) {
                self.begin(schedule, &routes).await;
            }
            looked = now;
        }
    }

    async fn begin(&self, schedule: &Schedule, routes: &Routes) {
        let by = format!("schedule {}", schedule.name);
        let is_open = self.shared.lock().open().any(|job| job.by == by);
        if is_open {
            tracing::warn!(by, "a warm is due, and its last one is not done; it goes on, and no second one begins");
            return;
        }
        let mut images = schedule.images.clone();
        if schedule.pinned {
            images.extend(lists::pinned(&self.images, routes));
        }
        let order = Order { images, platforms: schedule.platforms.clone(), by: by.clone(), reason: String::new() };
        match take(&self.shared, order).await {
            Ok(job) => {
                let event = AdminEvent::Warmed { job: job.id, images: job.items.len() as u64, reason: String::new() };
                self.limits.record_event(&Actor::new(by, None), Event::Admin(event), clock::now());
            }
            Err(error) => tracing::warn!(by, %error, "a warm is due and does not begin"),
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_storage::{Settings, Store};

    use super::*;
    use crate::{
        limits::LimitsConfig,
        mirror::warm::{job::JobState, jobs::Jobs, schedule::Table},
    };

    #[tokio::test]
    async fn a_list_that_is_due_becomes_a_job_unless_its_last_one_is_open() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        let shared = Arc::new(Shared {
            jobs: Mutex::new(Jobs::default()),
            changed: tokio::sync::Notify::new(),
            journal: store.journals.open("warm").unwrap(),
            adding: tokio::sync::Mutex::default(),
            metrics: Arc::default(),
        });
        let limits = Limits::in_memory(LimitsConfig::default());
        let scheduler = Scheduler {
            shared: shared.clone(),
            schedules: Schedules::default(),
            images: store.images.clone(),
            limits: limits.clone(),
        };
        let routes = Routes::new(Some("docker.io"), ["docker.io"]);
        let table: Table =
            toml::from_str("name = \"night\"\nimages = [\"busybox\"]\nplatforms = [\"linux/arm64\"]\nat = \"02:00\"")
                .unwrap();
        let listed = ["acme/app:1".to_owned()];
        let schedule = table.schedule(0, &listed, &routes).unwrap();
        scheduler.begin(&schedule, &routes).await;
        scheduler.begin(&schedule, &routes).await;
        let job = {
            let jobs = shared.lock();
            assert_eq!(jobs.all().count(), 1);
            jobs.get(1).unwrap().clone()
        };
        let images: Vec<_> = job.items.iter().map(|item| item.image.to_string()).collect();
        assert_eq!(images, ["docker.io/library/busybox:latest", "docker.io/acme/app:1"]);
        assert_eq!((&*job.by, &*job.platforms), ("schedule night", &["linux/arm64".to_owned()][..]));
        let entry = limits.audit(1).remove(0);
        let warmed = AdminEvent::Warmed { job: 1, images: 2, reason: String::new() };
        assert_eq!((&*entry.by, entry.event), ("schedule night", Event::Admin(warmed)));
        assert_eq!(store.journals.open("warm").unwrap().replay().unwrap().len(), 1);
        shared.lock().end(1, JobState::Done, clock::now());
        scheduler.begin(&schedule, &routes).await;
        assert_eq!(shared.lock().all().count(), 2);
    }
}
