//! Warms: jobs that fetch images before a client asks. Taken, looked at and cancelled.

use std::time::{Duration, SystemTime};

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorize::Authorized,
    budget::at,
    changes::Refusal,
    json::{parameter, read, refuse, reply},
    state::State,
};
use crate::{
    limits::audit::{Actor, AdminEvent, Event},
    mirror::{
        StoreError,
        warm::{Item, Job, JobState, LONGEST_AGO, Order, Outcome, Wanted, WarmError},
    },
};

/// The longest body: 5,000 names as long as names are.
const MAX_ORDER: usize = 2 << 20;
/// The longest reason for the audit, in bytes, and the most platforms.
const LONGEST: usize = 500;
const MOST_PLATFORMS: usize = 50;

/// What is asked for, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NewWarm {
    pub(super) images: Vec<String>,
    pub(super) platforms: Vec<String>,
    pub(super) pinned: bool,
    pub(super) pulled_within: Option<String>,
    pub(super) reason: String,
}

/// Takes a job.
pub(super) async fn start(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let new: NewWarm = match read(payload, MAX_ORDER).await {
        Ok(new) => new,
        Err(refusal) => return refusal,
    };
    let begun = match order(state, &authorized.operator, new) {
        Ok(order) => begin(state, &authorized.operator, order).await,
        Err(refusal) => Err(refusal),
    };
    match begun {
        Ok(job) => reply(202, &describe(state, &job, Some(0))),
        Err(refusal) => refuse(refusal.status, refusal.code, &refusal.sentence),
    }
}

/// What is written, as an order that can be taken.
pub(super) fn order(state: &State, by: &Actor, new: NewWarm) -> Result<Order, Refusal> {
    if new.reason.len() > LONGEST || new.platforms.len() > MOST_PLATFORMS {
        let why = "write a reason of at most 500 bytes, and at most 50 platforms";
        return Err(Refusal::new(400, "INVALID", why));
    }
    let images = images(state, &new)?;
    let order = Order { images, platforms: new.platforms, by: by.name.clone(), reason: new.reason };
    state.mirror.warm.check(&order)?;
    Ok(order)
}

/// Takes an order. It is on disk and in the audit when this returns.
pub(super) async fn begin(state: &State, by: &Actor, order: Order) -> Result<Job, Refusal> {
    let reason = order.reason.clone();
    let job = state.mirror.warm.add(order).await?;
    let event = AdminEvent::Warmed { job: job.id, images: job.items.len() as u64, reason };
    state.limits.record_event(by, Event::Admin(event), SystemTime::now());
    Ok(job)
}

/// Ends a job, and says so in the audit.
pub(super) async fn end(state: &State, by: &Actor, job: u64, reason: String) -> Result<Job, Refusal> {
    let ended = state.mirror.warm.cancel(job).await?;
    let event = Event::Admin(AdminEvent::WarmCancelled { job, reason });
    state.limits.record_event(by, event, SystemTime::now());
    Ok(ended)
}

/// The images of an order.
fn images(state: &State, new: &NewWarm) -> Result<Vec<Wanted>, Refusal> {
    let refused = |why: String| Refusal::new(400, "INVALID", why);
    let mut images = Vec::new();
    for text in &new.images {
        let (place, reference) =
            state.settings.routes.load().image(text).map_err(|why| refused(format!("{text:?}: {why}")))?;
        images.push(Wanted { upstream: place.upstream, repository: place.repository, reference });
    }
    // A list that is made of a part of what is stored would be taken for the whole.
    if (new.pinned || new.pulled_within.is_some()) && !state.mirror.images().is_complete() {
        return Err(StoreError::Counting.into());
    }
    if let Some(text) = &new.pulled_within {
        let within = humantime::parse_duration(text).ok().filter(|within| *within <= LONGEST_AGO);
        let since = within.and_then(|within| SystemTime::now().checked_sub(within));
        let Some(since) = since else {
            return Err(refused(format!("pulled_within = {text:?}: write a time of at most 366 days, such as 7d")));
        };
        images.extend(state.mirror.warm.pulled(since));
        if images.is_empty() && !new.pinned {
            return Err(refused(format!("no client pulled an image of an upstream within {text}")));
        }
    }
    if new.pinned {
        images.extend(state.mirror.warm.pinned(&state.settings.routes.load()));
        if images.is_empty() {
            return Err(refused(
                "no pin names an image, and nothing is cached of what pins cover; weir cache pins".to_owned(),
            ));
        }
    }
    Ok(images)
}

/// Every job that is open, and those that ended last.
pub(super) fn list(state: &State) -> HttpResponse {
    let jobs: Vec<Value> = state.mirror.warm.jobs().iter().map(|job| describe(state, job, None)).collect();
    reply(200, &json!({"warms": jobs}))
}

/// One job, with what became of its images since a version of it.
pub(super) fn one(state: &State, id: &str, query: &str) -> HttpResponse {
    let Ok(since) = parameter(query, "since").map_or(Ok(0), |since| since.parse()) else {
        return refuse(400, "INVALID", "since is the version that an earlier answer had");
    };
    match id.parse().ok().and_then(|id| state.mirror.warm.job(id)) {
        Some(job) => reply(200, &describe(state, &job, Some(since))),
        None => unknown(),
    }
}

/// Ends a job.
pub(super) async fn cancel(state: &State, authorized: &Authorized, id: &str, query: &str) -> HttpResponse {
    let Ok(number) = id.parse() else { return unknown() };
    let reason = parameter(query, "reason").unwrap_or_default();
    match end(state, &authorized.operator, number, reason).await {
        Ok(job) => reply(200, &describe(state, &job, Some(0))),
        Err(refusal) => refuse(refusal.status, refusal.code, &refusal.sentence),
    }
}

/// Until when an image waits, as it is forecast now.
pub(super) fn waits_until(state: &State, item: &Item) -> Option<SystemTime> {
    match &item.outcome {
        Outcome::Waiting { until, budget, .. } => {
            let gate = state.mirror.warm.waits_until(&item.image.upstream).filter(|_| *budget);
            Some(gate.unwrap_or(*until))
        }
        _ => None,
    }
}

pub(super) fn word(state: JobState) -> &'static str {
    match state {
        JobState::Open => "open",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
    }
}

/// What was evicted from an image whose job ended.
pub(super) const EVICTED: &str = "some of it was evicted or purged before the job ended";

/// A job; with `since`, the images that changed after that version.
fn describe(state: &State, job: &Job, since: Option<u64>) -> Value {
    let waits = |item: &Item| waits_until(state, item);
    let counts = ["pending", "waiting", "here", "fetched", "refused", "evicted"];
    let counts = counts.map(|word| (word.to_owned(), Value::from(job.count(|outcome| outcome.word() == word))));
    let mut entry = json!({
        "id": job.id,
        "by": job.by,
        "reason": job.reason,
        "made_at": at(job.made_at),
        "ended_at": job.ended_at.map(at),
        "platforms": job.platforms,
        "state": word(job.state),
        "images": job.items.len(),
        "counts": Value::Object(counts.into_iter().collect()),
        "bytes": job.bytes(),
        "complete": job.is_complete(),
        "waits_until": job.items.iter().filter_map(waits).min().map(at),
        "version": job.version,
    });
    if let Some(since) = since {
        // Before the first change, every image is new.
        let is_new = |item: &&Item| since == 0 || item.changed > since;
        entry["results"] = job.items.iter().filter(is_new).map(|item| result(item, waits(item))).collect();
    }
    entry
}

fn result(item: &Item, until: Option<SystemTime>) -> Value {
    let mut entry = json!({"image": item.image.to_string(), "state": item.outcome.word()});
    if let Some(digest) = item.outcome.digest() {
        entry["digest"] = digest.to_string().into();
    }
    match &item.outcome {
        Outcome::Fetched { bytes, manifests, .. } => {
            entry["bytes"] = (*bytes).into();
            entry["manifests"] = (*manifests).into();
        }
        Outcome::Waiting { why, budget, .. } => {
            entry["until"] = until.map(|until| at(until.max(SystemTime::now() + Duration::from_secs(1)))).into();
            entry["why"] = why.as_str().into();
            entry["budget"] = (*budget).into();
        }
        Outcome::Refused { why } => entry["why"] = why.as_str().into(),
        Outcome::Evicted => entry["why"] = EVICTED.into(),
        Outcome::Pending | Outcome::Here { .. } => {}
    }
    entry
}

fn unknown() -> HttpResponse {
    let refusal = Refusal::from(WarmError::Unknown);
    refuse(refusal.status, refusal.code, &refusal.sentence)
}
