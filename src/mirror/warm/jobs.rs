//! All jobs, and what is to be done next: a state machine over values. Time is an argument; nothing here waits or writes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    fetch::{Failed, Got},
    job::{Item, Job, JobState, LONGEST, Outcome, Wanted},
    record::Record,
};

/// Jobs that are open, images of one job, and images of all open jobs at most: some 10 MiB of memory.
const MOST_OPEN: usize = 16;
pub(super) const MOST_IMAGES: usize = 5000;
const MOST_OPEN_IMAGES: usize = 20_000;
/// Ended jobs that are remembered.
const MOST_ENDED: usize = 20;
/// The longest reason that is kept of a failure, in bytes.
const LONGEST_WHY: usize = 500;

/// How often an image that fails is tried, and how long it rests after the first time; four times as long after each further one.
const TRIES: u32 = 4;
const REST: Duration = Duration::from_secs(30);
/// How soon an image is tried again that was refused for want of budget while a surplus was forecast, as when one account pays for it.
const REFUSED_REST: Duration = Duration::from_secs(10);

/// An image that is being fetched: its job, and its place there.
pub(super) type Task = (u64, usize);

/// Every job.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<u64, Job>,
    last: u64,
    running: HashSet<Task>,
    /// What is known of images that failed.
    tried: HashMap<Task, Tried>,
    /// Upstreams of which nothing may be fetched that needs a pull.
    gates: HashMap<Arc<str>, Gate>,
}

#[derive(Clone, Copy, Debug)]
struct Tried {
    failures: u32,
    not_before: SystemTime,
    needs_pull: bool,
}

/// Why an upstream's images wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    /// When a pull may be spent there, by forecast.
    pub(super) until: SystemTime,
    /// Whether upstream itself asked to wait until then; else it is a forecast.
    pub(super) is_limit: bool,
}

/// What a task does.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) task: Task,
    pub(super) image: Wanted,
    pub(super) platforms: Vec<String>,
    pub(super) by: String,
}

impl Jobs {
    /// What the journal says, oldest first. What cannot be read is skipped; gives how many were.
    pub(super) fn replay(records: &[bytes::Bytes]) -> (Jobs, usize) {
        let (mut jobs, mut unreadable) = (Jobs::default(), 0);
        for bytes in records {
            match serde_json::from_slice(bytes) {
                Ok(record) => jobs.take(record),
                Err(_) => unreadable += 1,
            }
        }
        for job in jobs.jobs.values_mut() {
            job.items
                .iter_mut()
                .filter(|item| !item.outcome.is_settled())
                .for_each(|item| item.outcome = Outcome::Pending);
        }
        (jobs, unreadable)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Job { job } => self.insert(job),
            Record::Room { job, bytes } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.room = Some(bytes);
                }
            }
            Record::Settled { job, item, outcome } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.set(item, outcome);
                }
            }
            Record::Ended { job, state, at } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    (job.state, job.ended_at) = (state, Some(at));
                }
            }
        }
    }

    /// Records that say all of it.
    pub(super) fn records(&self) -> Vec<Record> {
        self.jobs.values().map(|job| Record::Job { job: job.clone() }).collect()
    }

    /// A job that may be inserted; its number is taken.
    ///
    /// # Errors
    /// The sentence that says what there is too much of.
    pub(super) fn make(
        &mut self,
        images: Vec<Wanted>,
        platforms: Vec<String>,
        (by, reason): (String, String),
        now: SystemTime,
    ) -> Result<Job, String> {
        let (open, waiting) = self.open().fold((0, 0), |(jobs, images), job| (jobs + 1, images + job.items.len()));
        if open >= MOST_OPEN || waiting + images.len() > MOST_OPEN_IMAGES {
            return Err(format!(
                "{open} warms with {waiting} images are under way; cancel one, or wait until it is done"
            ));
        }
        let mut seen = HashSet::new();
        let items = images.into_iter().filter(|image| seen.insert(image.clone()));
        let items = items.map(|image| Item { image, outcome: Outcome::Pending, changed: 0 }).collect();
        self.last += 1;
        Ok(Job {
            id: self.last,
            by,
            reason,
            made_at: now,
            ended_at: None,
            platforms,
            state: JobState::Open,
            room: None,
            items,
            version: 0,
        })
    }

    pub(super) fn insert(&mut self, job: Job) {
        self.last = self.last.max(job.id);
        self.jobs.insert(job.id, job);
        let ended: Vec<u64> = self.jobs.values().filter(|job| job.state != JobState::Open).map(|job| job.id).collect();
        for id in &ended[..ended.len().saturating_sub(MOST_ENDED)] {
            self.jobs.remove(id);
        }
    }

    /// All of them, in the order of their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.get(&id)
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.state == JobState::Open)
    }

    /// Why images of an upstream wait.
    pub(super) fn gate(&self, upstream: &str) -> Option<Gate> {
        self.gates.get(upstream).copied()
    }

    /// The next image to be fetched, of the oldest job that has one. It is running from now on.
    pub(super) fn next(&mut self, now: SystemTime) -> Option<Start> {
        let may = |task: &Task, item: &Item| {
            let tried = self.tried.get(task);
            let is_due = tried.is_none_or(|tried| tried.not_before <= now);
            let gate = self.gates.get(&item.image.upstream);
            // One that was not tried yet may be here already, and then it needs no pull.
            let is_open = gate.is_none_or(|gate| !gate.is_limit && tried.is_none_or(|tried| !tried.needs_pull));
            !item.outcome.is_settled() && is_due && is_open && !self.running.contains(task)
        };
        let start = self.open().find_map(|job| {
            let number = job.items.iter().enumerate().position(|(number, item)| may(&(job.id, number), item))?;
            let image = job.items.get(number)?.image.clone();
            Some(Start { task: (job.id, number), image, platforms: job.platforms.clone(), by: job.by.clone() })
        })?;
        self.running.insert(start.task);
        Some(start)
    }

    /// An image was fetched or not. Gives what is to be journaled: [`Jobs::settle`] shows it then.
    pub(super) fn finish(&mut self, task: Task, got: Result<Got, Failed>, now: SystemTime) -> Option<Record> {
        self.running.remove(&task);
        let (id, number) = task;
        // What was cancelled meanwhile stays as it is.
        let job = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Open)?;
        let upstream = job.items.get(number)?.image.upstream.clone();
        let mut tried =
            self.tried.get(&task).copied().unwrap_or(Tried { failures: 0, not_before: now, needs_pull: false });
        let outcome = match got {
            Ok(Got { digest, bytes: 0, manifests: 0 }) => Outcome::Here { digest },
            Ok(Got { digest, bytes, manifests }) => Outcome::Fetched { digest, bytes, manifests },
            Err(Failed::Refused(why)) => Outcome::Refused { why: short(why) },
            Err(Failed::Budget(why)) => {
                (tried.needs_pull, tried.not_before) = (true, now + REFUSED_REST);
                let gate = Gate { until: now + REFUSED_REST, is_limit: false };
                let until = self.gates.entry(upstream).or_insert(gate).until;
                Outcome::Waiting { until, why: short(why), budget: true }
            }
            Err(Failed::Limited(why, wait)) => {
                tried.not_before = now + wait;
                self.gates.insert(upstream, Gate { until: now + wait, is_limit: true });
                Outcome::Waiting { until: now + wait, why: short(why), budget: false }
            }
            Err(Failed::Trouble(why)) => {
                tried.failures += 1;
                tried.not_before = now + REST * 4_u32.pow(tried.failures - 1);
                match tried.failures < TRIES {
                    true => Outcome::Waiting { until: tried.not_before, why: short(why), budget: false },
                    false => Outcome::Refused { why: short(format!("{why} ({TRIES} tries)")) },
                }
            }
        };
        if outcome.is_settled() {
            self.running.insert(task);
            return Some(Record::Settled { job: id, item: number, outcome });
        }
        job.set(number, outcome);
        self.tried.insert(task, tried);
        None
    }

    /// An image is settled, and the journal says so.
    pub(super) fn settle(&mut self, task: Task, record: Record) {
        self.running.remove(&task);
        self.tried.remove(&task);
        self.take(record);
    }

    /// Upstreams that are waited for and did not ask for it.
    pub(super) fn forecast_gates(&self, now: SystemTime) -> Vec<Arc<str>> {
        let is_forecast = |gate: &Gate| !gate.is_limit || gate.until <= now;
        self.gates.iter().filter(|(_, gate)| is_forecast(gate)).map(|(upstream, _)| upstream.clone()).collect()
    }

    /// From when pulls may be spent at an upstream; `None` is now.
    pub(super) fn set_gate(&mut self, upstream: &Arc<str>, until: Option<SystemTime>) {
        match until {
            None => drop(self.gates.remove(upstream)),
            Some(until) => drop(self.gates.insert(upstream.clone(), Gate { until, is_limit: false })),
        }
    }

    /// What waits too long is refused; gives what is to be journaled.
    pub(super) fn expire(&mut self, now: SystemTime) -> Vec<Record> {
        let mut records = Vec::new();
        let is_old = |job: &Job| now.duration_since(job.made_at).is_ok_and(|age| age > LONGEST);
        for job in self.jobs.values_mut().filter(|job| job.state == JobState::Open && is_old(job)) {
            for number in 0..job.items.len() {
                let why = match job.items.get(number).map(|item| &item.outcome) {
                    Some(Outcome::Waiting { why, .. }) => format!("it waited for a week: {why}"),
                    Some(Outcome::Pending) => "its turn did not come for a week".to_owned(),
                    _ => continue,
                };
                let outcome = Outcome::Refused { why: short(why) };
                job.set(number, outcome.clone());
                records.push(Record::Settled { job: job.id, item: number, outcome });
            }
        }
        records
    }

    /// Open jobs of which every image is settled.
    pub(super) fn settled(&self) -> Vec<u64> {
        let is_running = |id: u64| self.running.iter().any(|(job, _)| *job == id);
        let is_settled = |job: &&Job| job.items.iter().all(|item| item.outcome.is_settled()) && !is_running(job.id);
        self.open().filter(is_settled).map(|job| job.id).collect()
    }

    /// Corrects images of a job that were here and are not, or are to be tried again.
    pub(super) fn correct(&mut self, id: u64, numbers: &[usize], outcome: &Outcome) {
        if let Some(job) = self.jobs.get_mut(&id) {
            numbers.iter().for_each(|number| job.set(*number, outcome.clone()));
        }
    }

    /// A job may bring so many bytes.
    pub(super) fn set_room(&mut self, id: u64, bytes: u64) -> Record {
        let record = Record::Room { job: id, bytes };
        self.take(record.clone());
        record
    }

    /// Ends a job. What was not settled was not looked at to its end.
    pub(super) fn end(&mut self, id: u64, state: JobState, now: SystemTime) -> Option<Record> {
        let job = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Open)?;
        for number in 0..job.items.len() {
            if job.items.get(number).is_some_and(|item| !item.outcome.is_settled()) {
                job.set(number, Outcome::Pending);
            }
        }
        job.version += 1;
        (job.state, job.ended_at) = (state, Some(now));
        self.tried.retain(|(job, _), _| *job != id);
        Some(Record::Ended { job: id, state, at: now })
    }

    /// Whether a job goes on.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.state == JobState::Open)
    }
}

fn short(mut why: String) -> String {
    if why.len() > LONGEST_WHY {
        let end = (0..=LONGEST_WHY).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        why.truncate(end);
        why.push('…');
    }
    why
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::oci::Algorithm;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn wanted(upstream: &str, name: &str) -> Wanted {
        let (repository, reference) = (name.parse().unwrap(), "latest".parse().unwrap());
        Wanted { upstream: upstream.into(), repository, reference }
    }

    fn got(bytes: u64, manifests: u64) -> Result<Got, Failed> {
        Ok(Got { digest: Algorithm::Sha256.digest(b""), bytes, manifests })
    }

    fn with(images: &[Wanted]) -> Jobs {
        let mut jobs = Jobs::default();
        let job = jobs.make(images.to_vec(), Vec::new(), ("ops".into(), String::new()), at(0)).unwrap();
        jobs.insert(job);
        jobs
    }

    /// An image is finished, and what became of it journaled.
    fn finish(jobs: &mut Jobs, task: Task, got: Result<Got, Failed>, now: SystemTime) -> Option<Record> {
        let record = jobs.finish(task, got, now);
        record.iter().for_each(|record| jobs.settle(task, record.clone()));
        record
    }

    #[test]
    fn what_became_of_an_image_is_shown_once_it_is_in_the_journal() {
        let mut jobs = with(&[wanted("docker.io", "a")]);
        let task = jobs.next(at(0)).unwrap().task;
        let record = jobs.finish(task, got(7, 2), at(0)).unwrap();
        assert_eq!(jobs.get(1).unwrap().items[0].outcome, Outcome::Pending, "a kill would lose it");
        assert!(jobs.next(at(0)).is_none() && jobs.settled().is_empty(), "it is not fetched once more meanwhile");
        jobs.settle(task, record);
        assert_eq!(jobs.get(1).unwrap().items[0].outcome.word(), "fetched");
        assert_eq!(jobs.settled(), [1]);
    }

    #[test]
    fn an_image_without_budget_waits_with_those_of_its_upstream_that_need_a_pull_and_no_other() {
        let (a, b, c) = (wanted("docker.io", "a"), wanted("docker.io", "b"), wanted("ghcr.io", "c"));
        let mut jobs = with(&[a.clone(), a, b, c]);
        let first = jobs.next(at(0)).unwrap();
        assert_eq!(jobs.get(1).unwrap().items.len(), 3, "an image is wanted once");
        assert!(finish(&mut jobs, first.task, Err(Failed::Budget("short".into())), at(0)).is_none());
        let second = jobs.next(at(0)).unwrap();
        assert_eq!(second.image.to_string(), "docker.io/b:latest", "it may be here already");
        let record = finish(&mut jobs, second.task, got(0, 0), at(0));
        assert!(matches!(record, Some(Record::Settled { outcome: Outcome::Here { .. }, item: 1, .. })), "{record:?}");
        let third = jobs.next(at(0)).unwrap();
        assert_eq!(third.image.to_string(), "ghcr.io/c:latest");
        finish(&mut jobs, third.task, got(7, 2), at(0));
        assert!(jobs.next(at(1000)).is_none(), "the gate is closed");
        assert_eq!(jobs.forecast_gates(at(0)), [Arc::<str>::from("docker.io")]);
        jobs.set_gate(&"docker.io".into(), Some(at(5000)));
        assert_eq!(jobs.gate("docker.io").unwrap().until, at(5000));
        jobs.set_gate(&"docker.io".into(), None);
        assert!(jobs.next(at(9)).is_none(), "a forecast that was wrong is not asked in a loop");
        let again = jobs.next(at(10)).unwrap();
        assert_eq!(again.task, first.task);
        assert!(jobs.settled().is_empty());
        finish(&mut jobs, again.task, got(1, 1), at(10));
        assert_eq!(jobs.settled(), [1]);
    }

    #[test]
    fn trouble_is_tried_four_times_and_a_limit_holds_for_its_whole_upstream() {
        let mut jobs = with(&[wanted("docker.io", "a"), wanted("docker.io", "b")]);
        let mut now = 0;
        for rest in [30, 120, 480] {
            let task = jobs.next(at(now)).unwrap().task;
            assert_eq!(task, (1, 0));
            finish(&mut jobs, task, Err(Failed::Trouble("down".into())), at(now));
            let waits = Outcome::Waiting { until: at(now + rest), why: "down".into(), budget: false };
            assert_eq!(jobs.get(1).unwrap().items[0].outcome, waits);
            now += rest;
        }
        let task = jobs.next(at(now)).unwrap().task;
        let record = finish(&mut jobs, task, Err(Failed::Trouble("down".into())), at(now));
        assert!(matches!(record, Some(Record::Settled { outcome: Outcome::Refused { .. }, .. })), "{record:?}");
        let other = jobs.next(at(now)).unwrap().task;
        finish(&mut jobs, other, Err(Failed::Limited("429".into(), Duration::from_secs(40))), at(now));
        assert!(jobs.next(at(now + 39)).is_none() && jobs.forecast_gates(at(now + 39)).is_empty());
        assert_eq!(jobs.forecast_gates(at(now + 40)).len(), 1);
        jobs.set_gate(&"docker.io".into(), None);
        assert_eq!(jobs.next(at(now + 40)).unwrap().task, other);
    }

    #[test]
    fn a_replay_knows_what_was_settled_and_tries_the_rest_anew() {
        let images: Vec<Wanted> = ["a", "b", "c"].map(|name| wanted("docker.io", name)).to_vec();
        let mut jobs = with(&images);
        let mut journal: Vec<Record> = jobs.records();
        journal.push(jobs.set_room(1, 99));
        let first = jobs.next(at(0)).unwrap();
        journal.extend(finish(&mut jobs, first.task, got(5, 1), at(0)));
        let second = jobs.next(at(0)).unwrap();
        journal.extend(finish(&mut jobs, second.task, Err(Failed::Budget("short".into())), at(0)));
        jobs.next(at(0)).unwrap();
        let replay = |records: &[Record]| {
            let mut bytes: Vec<bytes::Bytes> = records.iter().map(|record| record.bytes().into()).collect();
            bytes.insert(1, "rubbish".into());
            Jobs::replay(&bytes)
        };
        for records in [journal.clone(), jobs.records()] {
            let (replayed, unreadable) = replay(&records);
            let job = replayed.get(1).unwrap();
            assert_eq!((unreadable, job.room, job.bytes(), job.state), (1, Some(99), 5, JobState::Open));
            let words: Vec<_> = job.items.iter().map(|item| item.outcome.word()).collect();
            assert_eq!(words, ["fetched", "pending", "pending"]);
        }
        journal.extend(jobs.end(1, JobState::Cancelled, at(9)));
        let (mut replayed, _) = replay(&journal);
        assert_eq!(replayed.get(1).unwrap().state, JobState::Cancelled);
        assert!(replayed.next(at(9)).is_none());
        let next = replayed.make(images, Vec::new(), ("ops".into(), String::new()), at(9)).unwrap();
        assert_eq!(next.id, 2, "a number is never given twice");
    }

    #[test]
    fn what_waits_for_a_week_is_refused_and_jobs_and_images_are_bounded() {
        let mut jobs = with(&[wanted("docker.io", "a"), wanted("docker.io", "b")]);
        let task = jobs.next(at(0)).unwrap().task;
        finish(&mut jobs, task, Err(Failed::Budget("short".into())), at(0));
        assert!(jobs.expire(at(7 * 86_400)).is_empty());
        assert_eq!(jobs.expire(at(7 * 86_400 + 1)).len(), 2);
        let why = Outcome::Refused { why: "it waited for a week: short".into() };
        assert_eq!(jobs.get(1).unwrap().items[0].outcome, why);
        for _ in 1..MOST_OPEN {
            let job = jobs.make(vec![wanted("a", "b")], Vec::new(), Default::default(), at(0)).unwrap();
            jobs.insert(job);
        }
        let full = jobs.make(vec![wanted("a", "b")], Vec::new(), Default::default(), at(0)).unwrap_err();
        assert!(full.contains("cancel one"), "{full}");
        for id in 1..=MOST_OPEN as u64 {
            jobs.end(id, JobState::Cancelled, at(0));
        }
        for _ in 0..MOST_ENDED + 5 {
            let job = jobs.make(vec![wanted("a", "b")], Vec::new(), Default::default(), at(0)).unwrap();
            let id = job.id;
            jobs.insert(job);
            jobs.end(id, JobState::Done, at(0));
        }
        assert!(jobs.all().count() <= MOST_ENDED + 1);
        assert_eq!(short("ü".repeat(400)).chars().count(), 251);
    }
}
