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
    jobs::MOST_IMAGES,
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

    /// What they are, and how names are read.
    pub(super) fn get(&self) -> (Vec<Schedule>, Routes) {
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
            // Before that it is not known what is pinned and what was pulled; what is due meanwhile begins a little later.
            if !self.images.is_complete() {
                continue;
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
        if !schedule.pulled_within.is_zero()
            && let Some(since) = clock::now().checked_sub(schedule.pulled_within)
        {
            images.extend(lists::pulled(&self.images, since));
        }
        if images.len() > MOST_IMAGES {
            tracing::warn!(
                by,
                images = images.len(),
                most = MOST_IMAGES,
                "a warm has too many images; the last ones are left out"
            );
            images.truncate(MOST_IMAGES);
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
    use std::time::UNIX_EPOCH;

    use weir_storage::{Pin, Puller, Repository, Settings, Source, Store, TagRecord};

    use super::*;
    use crate::{
        limits::LimitsConfig,
        mirror::warm::{job::JobState, jobs::Jobs, schedule::Table},
        oci::{Algorithm, Reference, Tag},
    };

    fn scheduler_of(store: &Store) -> Scheduler {
        let shared = Arc::new(Shared {
            jobs: Mutex::new(Jobs::default()),
            changed: tokio::sync::Notify::new(),
            journal: store.journals.open("warm").unwrap(),
            adding: tokio::sync::Mutex::default(),
            metrics: Arc::default(),
        });
        let (schedules, limits) = (Schedules::default(), Limits::in_memory(LimitsConfig::default()));
        Scheduler { shared, schedules, images: store.images.clone(), limits }
    }

    /// The images of a job.
    fn names(scheduler: &Scheduler, id: u64) -> Vec<String> {
        scheduler.shared.lock().get(id).unwrap().items.iter().map(|item| item.image.to_string()).collect()
    }

    #[tokio::test]
    async fn what_clients_pulled_lately_and_what_is_pinned_becomes_a_job_without_a_list() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        while !store.images.is_complete() {
            tokio::task::yield_now().await;
        }
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "acme/app".parse().unwrap(),
        };
        let (now, a_day) = (clock::now(), Duration::from_secs(86_400));
        for (tag, pulled) in [("old", Some(8)), ("used", Some(6)), ("idle", None), ("kept", None)] {
            let name: Tag = tag.parse().unwrap();
            let record = TagRecord {
                digest: Algorithm::Sha256.digest(tag.as_bytes()),
                media_type: "application/vnd.oci.image.index.v1+json".parse().unwrap(),
                size: 0,
                checked_at: UNIX_EPOCH,
            };
            store.cache.tags.put(&source, &name, &record).await.unwrap();
            if let Some(days) = pulled {
                let (place, at) = (Repository::from(&source), now - days * a_day);
                store.images.note_pull(place, Reference::Tag(name), &Puller::Address(1), at);
            }
        }
        // Takes what was noted into the record.
        store.close().await;
        let pattern = "docker.io/acme/app:kept".to_owned();
        store.images.pin(Pin { pattern, by: "ops".into(), reason: String::new(), at: now }).await.unwrap();
        let (scheduler, routes) = (scheduler_of(&store), Routes::new(Some("docker.io"), ["docker.io"]));
        let table = |more: &str| -> Schedule {
            let table: Table = toml::from_str(&format!("name = \"n\"\nat = \"02:00\"\n{more}")).unwrap();
            table.schedule(0, &[], &routes).unwrap()
        };
        for (id, more, expected) in [
            (1, "pulled_within = \"7d\"", &["used"][..]),
            (2, "pulled_within = \"9d\"", &["old", "used"]),
            (3, "pinned = true", &["kept"]),
            (4, "pinned = true\npulled_within = \"7d\"\nimages = [\"acme/app:used\"]", &["used", "kept"]),
        ] {
            scheduler.begin(&table(more), &routes).await;
            let expected: Vec<String> = expected.iter().map(|tag| format!("docker.io/acme/app:{tag}")).collect();
            assert_eq!(names(&scheduler, id), expected, "{more}");
            scheduler.shared.lock().end(id, JobState::Done, now);
        }
    }

    #[tokio::test]
    async fn a_list_that_is_due_becomes_a_job_unless_its_last_one_is_open() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        let scheduler = scheduler_of(&store);
        let (shared, limits) = (scheduler.shared.clone(), scheduler.limits.clone());
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
        assert_eq!(names(&scheduler, 1), ["docker.io/library/busybox:latest", "docker.io/acme/app:1"]);
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
