//! *What if*: the pulls that are remembered, decided once more with other floors, shares and limits, or with a cache that kept everything.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, SystemTime},
};

use actix_web::HttpResponse;
use serde_json::{Value, json};

use super::{
    budget::at,
    json::{parameter, refuse, reply},
    state::State,
};
use crate::{
    client::Class,
    limits::budget::{Floors, HeldPull, PastPull, Policy, Replayed, Shares, SpendLog, replay},
    upstream::{
        Identity,
        ledger::{Balance, Spend},
    },
};

/// Spends that are decided once more: all that the ledger remembers.
const SPENDS: usize = 10_000;
/// Pulls that were held back: all that are remembered.
const HELD: usize = 4096;
/// The most pulls in a window that may be asked about.
const MOST: u64 = 1_000_000;

/// Floors and shares by the names of their parameters.
pub(super) const FRACTIONS: [&str; 5] = ["bulk", "standard", "critical", "client_standard", "client_bulk"];

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) policy: Policy,
    /// Pulls in a window; `None` for what upstream says.
    pub(super) limit: Option<u64>,
    /// Whether the cache never lost anything.
    pub(super) keep: bool,
    /// One identity, as it is written, or all.
    pub(super) account: Option<String>,
}

/// What was written cannot be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Fraction,
    Limit,
}

impl Question {
    /// What a query asks, where what it leaves out is as `policy` has it.
    pub(super) fn read(query: &str, policy: &Policy) -> Result<Question, Wrong> {
        let Policy { floors, shares, .. } = policy;
        let mut read = [floors.bulk, floors.standard, floors.critical, shares.standard, shares.bulk];
        for (value, name) in read.iter_mut().zip(FRACTIONS) {
            if let Some(text) = parameter(query, name) {
                let fraction = text.trim().parse::<f64>().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
                *value = fraction.ok_or(Wrong::Fraction)?;
            }
        }
        let limit = parameter(query, "limit").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let limit = match limit {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|limit| *limit <= MOST).ok_or(Wrong::Limit)?),
        };
        let [bulk, standard, critical, client_standard, client_bulk] = read;
        let floors = Floors { critical, standard, bulk };
        let shares = Shares { standard: client_standard, bulk: client_bulk };
        let policy = Policy { floors, shares, ..policy.clone() };
        Ok(Question { policy, limit, keep: parameter(query, "keep").is_some(), account: parameter(query, "account") })
    }
}

/// What became of the pulls of one identity, and what would have.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) identity: Identity,
    pub(super) limit: u64,
    pub(super) window: Duration,
    /// The oldest pull.
    pub(super) since: Option<SystemTime>,
    /// Spends.
    pub(super) granted: u64,
    /// Spends that had waited in the queue.
    pub(super) queued: u64,
    /// Pulls that were refused.
    pub(super) refused: u64,
    /// Spends on what had been here.
    pub(super) twice: u64,
    pub(super) replayed: Replayed,
}

/// For each identity that has a limit or is given one.
pub(super) fn answers(state: &State, question: &Question) -> Vec<Answer> {
    let (spends, held) = (state.mirror.spends(SPENDS), state.mirror.held_pulls());
    let mut identities = state.mirror.budget();
    identities.sort_by_key(|left| (left.identity.upstream.clone(), left.identity.account.clone()));
    let is_meant =
        |left: &&Balance| question.account.as_ref().is_none_or(|account| *account == left.identity.to_string());
    identities.iter().filter(is_meant).filter_map(|left| decide(left, &spends, &held, question)).collect()
}

/// `spends` has the newest first, `held` the oldest.
fn decide(left: &Balance, spends: &[Spend], held: &[HeldPull], question: &Question) -> Option<Answer> {
    let known = left.limit.and_then(|limit| u64::try_from(limit).ok());
    let limit = question.limit.or(known)?;
    // Where one of the two has forgotten its oldest, the other would tell half of what happened.
    let spends_since = spends.last().filter(|_| spends.len() >= SPENDS).map(|spend| spend.at);
    let held_since = held.first().filter(|_| held.len() >= HELD).map(|pull| pull.at);
    let known_since = spends_since.max(held_since);
    let is_known = |at: SystemTime| known_since.is_none_or(|since| at >= since);

    let own = |spend: &&Spend| {
        spend.upstream == left.identity.upstream && &*spend.identity == left.identity.name() && is_known(spend.at)
    };
    let own: Vec<&Spend> = spends.iter().rev().filter(own).collect();
    // The bytes behind a digest never change: what was fetched twice had been evicted or purged.
    let mut seen = HashSet::new();
    let needed = own.iter().copied();
    let needed =
        needed.filter(|spend| !spend.reference.contains(':') || seen.insert((&spend.repository, &spend.reference)));
    let needed: Vec<&Spend> = needed.collect();
    let twice = (own.len() - needed.len()) as u64;
    let mut pulls: Vec<PastPull> =
        if question.keep { &needed } else { &own }.iter().map(|spend| granted(spend)).collect();

    let (mut queued, mut refused) = (0, 0);
    for pull in held.iter().filter(|pull| pull.identity == left.identity && is_known(pull.at)) {
        if pull.granted {
            queued += 1;
        } else {
            refused += 1;
            pulls.push(PastPull {
                at: pull.at,
                client: pull.key(),
                class: pull.class,
                what: what(&pull.repository, &pull.reference),
                was_refused: true,
            });
        }
    }
    pulls.sort_by_key(|pull| pull.at);
    let window = left.window.unwrap_or(SpendLog::WINDOW);
    Some(Answer {
        identity: left.identity.clone(),
        limit,
        window,
        since: pulls.first().map(|pull| pull.at),
        granted: own.len() as u64,
        queued,
        refused,
        twice,
        replayed: replay(&question.policy, limit, window, pulls),
    })
}

fn granted(spend: &Spend) -> PastPull {
    PastPull {
        at: spend.at,
        client: spend.client.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}),
        class: spend.class,
        what: what(spend.repository.as_str(), &spend.reference),
        was_refused: false,
    }
}

fn what(repository: &str, reference: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (repository, reference).hash(&mut hasher);
    hasher.finish()
}

/// `GET /api/v1/budget/what-if`.
pub(super) fn show(state: &State, query: &str) -> HttpResponse {
    let is_known = |name: &str| FRACTIONS.contains(&name) || ["limit", "account", "keep"].contains(&name);
    if let Some((name, _)) = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| !is_known(name)) {
        return refuse(400, "INVALID", &format!("{name:?} is no parameter here; /api/v1/openapi.json has them"));
    }
    match Question::read(query, &state.limits.config().budget) {
        Ok(question) => {
            let identities: Vec<Value> = answers(state, &question).iter().map(shown).collect();
            reply(200, &json!({"identities": identities}))
        }
        Err(Wrong::Fraction) => refuse(400, "INVALID", "a floor or a share is a fraction from 0 to 1, such as 0.25"),
        Err(Wrong::Limit) => refuse(400, "INVALID", "limit is a number of pulls, at most a million"),
    }
}

fn shown(answer: &Answer) -> Value {
    let Replayed { granted, gained, lost, spared, refused, exhausted, floor, share, least } = answer.replayed;
    let by_class: serde_json::Map<String, Value> =
        Class::ALL.iter().zip(refused).map(|(class, refused)| (class.word().to_owned(), refused.into())).collect();
    json!({
        "upstream": &*answer.identity.upstream,
        "identity": answer.identity.name(),
        "limit": answer.limit,
        "window_seconds": answer.window.as_secs(),
        "since": answer.since.map(at),
        "then": {
            "granted": answer.granted,
            "queued": answer.queued,
            "refused": answer.refused,
            "fetched_again": answer.twice,
        },
        "what_if": {
            "granted": granted,
            "gained": gained,
            "lost": lost,
            "spared": spared,
            "refused": {"exhausted": exhausted, "floor": floor, "share": share},
            "refused_by_class": by_class,
            "least_left": least,
        },
    })
}
