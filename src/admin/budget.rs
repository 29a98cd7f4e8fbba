//! What is left upstream, what it was spent on, and why.

use std::time::SystemTime;

use actix_web::HttpResponse;
use serde_json::{Value, json};

use super::{
    json::{parameter, refuse, reply},
    name::located,
    state::State,
};
use crate::upstream::ledger::{Balance, Spend};

/// The most spends that one answer holds.
const MOST: usize = 10_000;
/// The most clients that are named for one identity.
const MOST_SPENDERS: usize = 100;

pub(super) fn budget(state: &State) -> Value {
    let floors = state.limits.config().budget.floors;
    let floors = json!({"critical": floors.critical, "standard": floors.standard, "bulk": floors.bulk});
    let mut identities = state.mirror.budget();
    identities.sort_by_key(|left| (left.identity.upstream.clone(), left.identity.account.clone()));
    let identities: Vec<Value> = identities.iter().map(|left| whole(state, left, &floors)).collect();
    let (saved, since) = state.mirror.saved();
    json!({"identities": identities, "saved": saved, "saved_since": humantime::format_rfc3339_seconds(since).to_string()})
}

/// An identity with who waits for its pulls, who spent them, and whether others spend, too.
fn whole(state: &State, left: &Balance, floors: &Value) -> Value {
    let mut json = identity(left, floors);
    state.limits.expire_spends(left, SystemTime::now());
    let spenders = state.limits.spenders(&left.identity).into_iter().take(MOST_SPENDERS);
    let spenders: Vec<Value> =
        spenders.map(|(client, spent)| json!({"client": client.to_string(), "spent": spent})).collect();
    json["waiting"] = state.limits.waiting(&left.identity).into();
    json["spenders"] = spenders.into();
    json["alert"] = match left.external {
        0 => Value::Null,
        count => format!("{}: {count} pulls within the window", left.identity.others()).into(),
    };
    json
}

fn identity(left: &Balance, floors: &Value) -> Value {
    json!({
        "upstream": &*left.identity.upstream,
        "identity": left.identity.name(),
        "limit": left.limit,
        "remaining": left.limit.and(left.remaining),
        "window_seconds": left.window.map(|window| window.as_secs()),
        "spent": left.spent,
        "external_spend": left.external,
        "unexplained": left.unexplained,
        "floors": floors,
        "metered": left.limit.is_some(),
        "next_at": left.next_at.map(at),
    })
}

pub(super) fn spends(state: &State, query: &str) -> HttpResponse {
    // Who asks for ten by another name would be given a hundred and never know.
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name != "n") {
        return refuse(400, "INVALID", "n is the only parameter here; write n=20 for the newest 20 spends");
    }
    let most = match parameter(query, "n").map(|n| n.parse::<usize>()) {
        None => 100,
        Some(Ok(most)) => most.min(MOST),
        Some(Err(_)) => return refuse(400, "INVALID", "n is no number; write n=20 for the newest 20 spends"),
    };
    let spends: Vec<Value> = state.mirror.spends(most).iter().map(spend).collect();
    reply(200, &json!({"spends": spends}))
}

pub(super) async fn explain(state: &State, query: &str) -> HttpResponse {
    let place = match located(&state.settings.routes.load(), query) {
        Ok(place) => place,
        Err(why) => return refuse(400, "NAME_INVALID", why),
    };
    let reference = parameter(query, "reference");
    let mut spends = state.mirror.explain(&place.upstream, &place.repository, reference.as_deref()).await;
    spends.truncate(MOST);
    let spends: Vec<Value> = spends.iter().map(spend).collect();
    reply(
        200,
        &json!({
            "upstream": &*place.upstream,
            "repository": place.repository.as_str(),
            "reference": reference,
            "spends": spends,
        }),
    )
}

fn spend(spend: &Spend) -> Value {
    json!({
        "at": at(spend.at),
        "upstream": &*spend.upstream,
        "identity": &*spend.identity,
        "repository": spend.repository.as_str(),
        "reference": spend.reference,
        "tag": spend.tag.as_deref(),
        "client": &*spend.client,
        "class": spend.class,
        "reason": spend.reason,
        "waiters": spend.waiters,
        // Charged to the first client; this is what each of those who shared it would owe.
        "split": 1.0 / (f64::from(spend.waiters) + 1.0),
        "remaining": spend.remaining,
    })
}

/// RFC 3339, in UTC and whole seconds.
pub(super) fn at(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::Identity;

    fn left(limit: Option<i64>) -> Balance {
        Balance {
            identity: Identity { upstream: "docker.io".into(), account: None },
            version: 0,
            unexplained: 0,
            limit,
            remaining: limit.map(|limit| limit - 25),
            window: limit.map(|_| Duration::from_secs(21_600)),
            spent: 20,
            external: 5,
            next_at: Some(SystemTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn an_identity_is_shown_as_the_contract_says() {
        let floors = json!({"critical": 0.0, "standard": 0.1, "bulk": 0.4});
        assert_eq!(
            identity(&left(Some(100)), &floors),
            json!({"upstream": "docker.io", "identity": "anonymous", "limit": 100, "remaining": 75, "window_seconds": 21600,
                   "spent": 20, "external_spend": 5, "unexplained": 0, "floors": floors, "metered": true, "next_at": "1970-01-01T00:00:00Z"})
        );
        let unmetered = identity(&left(None), &floors);
        assert_eq!(unmetered["metered"], false);
        assert!(
            unmetered["limit"].is_null() && unmetered["remaining"].is_null() && unmetered["window_seconds"].is_null()
        );
    }
}
