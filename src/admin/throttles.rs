//! Throttles with what they matched, clients with what they used, and the audit.

use std::time::SystemTime;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::{
    authorize::Authorized,
    changes::LONGEST,
    json::{MAX_SMALL, count, parameter, read, refuse, reply},
    state::State,
};
use crate::limits::{
    audit::{AuditFilter, EVENTS, MAX_ENTRIES},
    throttle::Mode,
};

pub(super) fn list(state: &State) -> HttpResponse {
    let config = state.limits.config();
    let allowed = config.allowlist.0.iter().map(|entry| {
        let expires = entry.expires.map(super::budget::at);
        json!({"client": entry.client, "comment": entry.comment, "expires": expires})
    });
    let allowlist: Vec<_> = allowed.collect();
    reply(200, &json!({"throttles": state.limits.throttles(), "allowlist": allowlist}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    name: String,
    mode: Mode,
    #[serde(default)]
    reason: String,
}

pub(super) async fn switch(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let Switch { name, mode, reason } = match read(payload, MAX_SMALL).await {
        Ok(switch) => switch,
        Err(refusal) => return refusal,
    };
    if reason.len() > LONGEST {
        return refuse(400, "INVALID", "write a reason of at most 500 bytes");
    }
    if state.limits.set_mode(&name, mode, &reason, &authorized.operator, SystemTime::now()) == 0 {
        return refuse(404, "NOT_FOUND", "no throttle is configured by that name");
    }
    list(state)
}

pub(super) fn clients(state: &State, query: &str) -> HttpResponse {
    let now = SystemTime::now();
    state.mirror.budget().iter().for_each(|left| state.limits.expire_spends(left, now));
    match count(query, 100, 10_000) {
        Ok(most) => reply(200, &json!({"clients": state.limits.clients(most, now)})),
        Err(refusal) => *refusal,
    }
}

pub(super) fn audit(state: &State, query: &str) -> HttpResponse {
    let most = match count(query, 100, MAX_ENTRIES) {
        Ok(most) => most,
        Err(refusal) => return *refusal,
    };
    let Ok(before) = parameter(query, "before").map(|before| before.parse()).transpose() else {
        return refuse(400, "INVALID", "before is the number that the last page gave as next");
    };
    let filter = audit_filter(query);
    if !filter.event.is_empty() && !EVENTS.contains(&&*filter.event) {
        return refuse(400, "INVALID", &format!("event is one of {}", EVENTS.join(", ")));
    }
    let page = state.limits.find_in_audit(&filter, before, most);
    reply(200, &json!({"audit": page.entries, "next": page.next}))
}

/// The filter that a query names.
pub(super) fn audit_filter(query: &str) -> AuditFilter {
    let [event, by, text] = ["event", "by", "text"].map(|name| parameter(query, name).unwrap_or_default());
    AuditFilter { event, by: by.trim().to_owned(), text: text.trim().to_owned() }
}
