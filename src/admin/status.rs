//! Whether all is well, in a word and a sentence, with the figures that an operator looks at first.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_web::HttpResponse;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    budget::{at, budget},
    history::{Asked, MINUTE, MINUTES, Minute, Totals},
    json::{count, reply},
    state::{Reload, State},
};
use crate::mirror::{Balance, Begun, Check, Mirror, Source, UnderWay};

/// Minutes of an hour, as the history keeps them.
const HOUR: usize = 60;
/// Minutes that the latency of an upstream is of: a failure shows, and an upstream that is seldom asked has some.
pub(super) const LATELY: usize = 15;

/// Blobs that arrive and are listed; the others are counted.
pub(super) const ARRIVING: usize = 20;

/// How Weir is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// All that it needs is well.
    Healthy,
    /// Cached content is served; something else is not well.
    Degraded,
    /// It drains, or no upstream answers: what is not cached cannot be pulled.
    Down,
}

impl Health {
    pub(super) fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }
}

/// What is known at one moment.
pub(super) struct Status {
    pub(super) health: Health,
    /// Why, for the operator; one sentence for each reason.
    pub(super) reasons: Vec<String>,
    pub(super) totals: Totals,
    pub(super) last_hour: LastHour,
    pub(super) upstreams: Vec<UpstreamStatus>,
    pub(super) uptime: Duration,
    pub(super) reload: Option<Reload>,
}

/// What was refused in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LastHour {
    /// Requests that were refused, as [`Totals::denied`] counts them; those of the minute under way, too.
    pub(super) denied: u64,
    /// Bans that began, simulated ones aside.
    pub(super) bans: usize,
}

/// An upstream.
pub(super) struct UpstreamStatus {
    pub(super) name: Arc<str>,
    /// Until when it is not asked, when that is known, and why.
    pub(super) failing: Option<(Option<SystemTime>, Arc<str>)>,
    /// What was asked of it in the last [`LATELY`] minutes that are over.
    pub(super) asked: Asked,
}

impl UpstreamStatus {
    /// The mean time until an answer began; `None` when nothing was asked.
    pub(super) fn mean(&self) -> Option<Duration> {
        let Asked { requests, seconds } = self.asked;
        (requests > 0).then(|| Duration::try_from_secs_f64(seconds / requests as f64).unwrap_or_default())
    }
}

/// Looks at all of it. One small file is written, at most once a second; no request is sent.
pub(super) async fn status(state: &State) -> Status {
    let checks = state.mirror.health().await;
    let reload = state.reloads.last();
    let minutes = state.history.newest(HOUR);
    let an_hour_ago = SystemTime::now() - MINUTE * HOUR as u32;
    let (totals, mut balances) = ((state.totals)(), state.mirror.budget());
    // What was spent by an account that is no longer configured refuses nobody.
    let clients = state.mirror.upstream_clients();
    balances.retain(|left| clients.iter().any(|upstream| upstream.identities().contains(&left.identity)));
    let now = state.history.under_way(totals);
    let denied = now.denied + minutes.iter().map(|minute| minute.counted.denied).sum::<u64>();
    let lately = minutes.iter().rev().take(LATELY).map(|minute| minute.counted.refused_by_budget);
    let spent = Spent { balances, refused: now.refused_by_budget + lately.sum::<u64>() };
    let (health, reasons) = judge(&checks, &spent, state.draining.has_begun(), reload.as_ref());
    Status {
        health,
        reasons,
        totals,
        last_hour: LastHour { denied, bans: state.limits.count_banned(an_hour_ago) },
        upstreams: upstreams(&state.mirror, &minutes),
        uptime: state.started.elapsed(),
        reload,
    }
}

fn upstreams(mirror: &Mirror, minutes: &[Minute]) -> Vec<UpstreamStatus> {
    let lately = &minutes[minutes.len().saturating_sub(LATELY)..];
    let mut failing = mirror.breakers();
    let of = |name: Arc<str>| {
        let asked = lately.iter().filter_map(|minute| minute.upstreams.get(&name)).fold(
            Asked::default(),
            |Asked { requests, seconds }, more| Asked {
                requests: requests + more.requests,
                seconds: seconds + more.seconds,
            },
        );
        let at = failing.iter().position(|(failing, ..)| *failing == name);
        let failing = at.map(|at| failing.swap_remove(at)).map(|(_, until, why)| (until, why));
        UpstreamStatus { name, failing, asked }
    };
    mirror.upstreams().into_iter().map(of).collect()
}

fn judge(checks: &[Check], spent: &Spent, draining: bool, reload: Option<&Reload>) -> (Health, Vec<String>) {
    let mut reasons = Vec::new();
    if draining {
        reasons.push("It drains: it is about to stop.".to_owned());
    }
    // No answer waits for the index, which is rebuilt after each unclean end.
    let needed = checks.iter().filter(|check| check.name != "index");
    let problem = |check: &Check| check.problem.as_ref().map(|problem| format!("{}: {problem}.", check.name));
    reasons.extend(needed.filter_map(problem));
    reasons.extend(spent.reasons());
    if let Some(problem) = reload.and_then(|reload| reload.problem.as_ref()) {
        reasons.push(format!("The configuration that is written now is not used: {problem}."));
    }
    let mut upstreams = checks.iter().filter(|check| check.name.starts_with("upstream ")).peekable();
    let health = match reasons.is_empty() {
        true => Health::Healthy,
        _ if draining => Health::Down,
        _ if upstreams.peek().is_some() && upstreams.all(|check| check.problem.is_some()) => Health::Down,
        _ => Health::Degraded,
    };
    (health, reasons)
}

/// What the budget has, and what it refused.
#[derive(Default)]
struct Spent {
    /// Of the identities that are configured.
    balances: Vec<Balance>,
    /// Requests that were refused for want of a pull in the last [`LATELY`] minutes and the one under way.
    refused: u64,
}

impl Spent {
    fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.balances.iter().filter_map(spent).collect();
        let refused = match self.refused {
            0 => return reasons,
            1 => "1 request was".to_owned(),
            count => format!("{count} requests were"),
        };
        reasons.push(format!(
            "{refused} refused for want of a pull in the last {LATELY} minutes; the access log has the rule of each."
        ));
        reasons
    }
}

/// Why what is not cached cannot be pulled in the name of an identity that has nothing left.
fn spent(left: &Balance) -> Option<String> {
    left.remaining.filter(|remaining| *remaining <= 0)?;
    let whose = &left.identity;
    let of = left.limit.map_or_else(|| "no pull is left".to_owned(), |limit| format!("none of {limit} pulls is left"));
    let next = left.next_at.map_or_else(
        || "nothing says when one comes back".to_owned(),
        |next| format!("the next one comes back at {} by forecast", at(next)),
    );
    Some(format!("{whose}: {of}, so that what is not cached waits or is refused; {next}."))
}

/// `GET /api/v1/status`.
pub(super) async fn show(state: &State) -> HttpResponse {
    let status = status(state).await;
    let usage = state.mirror.usage();
    let (acting, simulated) = state.limits.count_bans(SystemTime::now());
    let mut body = json!({
        "health": status.health.word(),
        "reasons": status.reasons,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": status.uptime.as_secs(),
        "totals": status.totals,
        "hit_ratio": status.totals.hit_ratio(),
        "byte_hit_ratio": status.totals.byte_hit_ratio(),
        "fills": state.mirror.blobs.fills(),
        "arriving": state.mirror.blobs.under_way(ARRIVING).iter().map(arriving).collect::<Vec<_>>(),
        "storage": {
            "capacity_bytes": usage.capacity,
            "used_bytes": usage.used(),
            "blobs": usage.blobs,
            "manifests": usage.manifests,
        },
        "bans": {"active": acting, "simulated": simulated},
        "last_hour": status.last_hour,
        "upstreams": status.upstreams.iter().map(|upstream| json!({
            "name": upstream.name,
            "problem": upstream.failing.as_ref().map(|(_, why)| why),
            "requests": upstream.asked.requests,
            "mean_seconds": upstream.mean().map(|mean| mean.as_secs_f64()),
        })).collect::<Vec<_>>(),
        "reload": status.reload.map(|reload| json!({
            "at": at(reload.at), "problem": reload.problem, "waits_for_restart": reload.waits_for_restart,
        })),
    });
    if let (Value::Object(body), Value::Object(budget)) = (&mut body, budget(state)) {
        body.insert("budget".to_owned(), budget["identities"].clone());
        body.insert("saved".to_owned(), budget["saved"].clone());
        body.insert("saved_since".to_owned(), budget["saved_since"].clone());
    }
    reply(200, &body)
}

/// A blob that arrives.
fn arriving(fill: &UnderWay) -> Value {
    let begun = fill.begun.as_ref();
    json!({
        "digest": fill.digest.to_string(),
        "repository": begun.map(|begun| repository(&begun.source)),
        "from": begun.map(source),
        "bytes": begun.map(|begun| begun.bytes),
        "size": begun.map(|begun| begun.size),
        "waiting": begun.map(|begun| begun.waiting),
    })
}

/// The repository of a source, with its registry.
pub(super) fn repository(source: &Source) -> String {
    format!("{}/{}", source.upstream, source.repository)
}

/// From where a blob arrives: the upstream's name, or `bucket`.
pub(super) fn source(begun: &Begun) -> &str {
    if begun.is_from_bucket { "bucket" } else { &begun.source.upstream }
}

/// `GET /api/v1/history`: the newest `n` minutes, oldest first.
pub(super) fn history(state: &State, query: &str) -> HttpResponse {
    match count(query, 60, MINUTES) {
        Ok(most) => reply(200, &json!({"minutes": state.history.newest(most)})),
        Err(refusal) => *refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, problem: Option<&str>) -> Check {
        Check { name: name.to_owned(), problem: problem.map(str::to_owned) }
    }

    #[test]
    fn it_is_down_when_no_upstream_answers_and_degraded_when_one_of_several_does_not() {
        let well = [check("disk", None), check("upstream docker.io", None), check("upstream ghcr.io", None)];
        assert_eq!(judge(&well, &Spent::default(), false, None), (Health::Healthy, Vec::new()));
        let rebuilding = [check("index", Some("it is being rebuilt"))];
        assert_eq!(
            judge(&rebuilding, &Spent::default(), false, None),
            (Health::Healthy, Vec::new()),
            "no answer waits for the index"
        );
        let mut one = well.clone();
        one[1].problem = Some("not asked until noon".to_owned());
        let sentence = vec!["upstream docker.io: not asked until noon.".to_owned()];
        assert_eq!(judge(&one, &Spent::default(), false, None), (Health::Degraded, sentence));
        let mut all = one.clone();
        all[2].problem = Some("connection refused".to_owned());
        assert_eq!(judge(&all, &Spent::default(), false, None).0, Health::Down);
        let disk = [check("disk", Some("it is full"))];
        assert_eq!(
            judge(&disk, &Spent::default(), false, None).0,
            Health::Degraded,
            "without an upstream there is none to be down"
        );
    }

    #[test]
    fn a_drain_and_a_configuration_that_is_refused_are_said() {
        assert_eq!(judge(&[], &Spent::default(), true, None).0, Health::Down);
        let refused = Reload {
            at: SystemTime::UNIX_EPOCH,
            problem: Some("line 3 is no TOML".to_owned()),
            waits_for_restart: false,
        };
        let (health, reasons) = judge(&[], &Spent::default(), false, Some(&refused));
        assert_eq!(health, Health::Degraded);
        assert_eq!(reasons, ["The configuration that is written now is not used: line 3 is no TOML."]);
    }
}
