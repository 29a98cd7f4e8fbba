//! Bans over JSON: list, make, lift, take along.

use std::time::SystemTime;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::{
    authorize::Authorized,
    json::{MAX_SMALL, body, parameter, read, refuse, reply},
    state::State,
};
use crate::limits::{
    Target,
    bans::{BanError, BanFilter, BanRecord, Origin},
    state::BanRequest,
};

/// The longest body of a request; an import of ten thousand bans with their evidence fits.
const MAX_IMPORT: usize = 64 << 20;

pub(super) fn list(state: &State, query: &str) -> HttpResponse {
    let client = match parameter(query, "client").map(|client| client.parse::<Target>()).transpose() {
        Ok(client) => client,
        Err(why) => return refuse(400, "INVALID", &why),
    };
    let ended = matches!(parameter(query, "ended").as_deref(), Some("1" | "true"));
    let filter = BanFilter { namespace: parameter(query, "namespace"), client, ended };
    reply(200, &json!({"bans": state.limits.bans(&filter, SystemTime::now())}))
}

pub(super) fn one(state: &State, id: &str) -> HttpResponse {
    match state.limits.get_ban(id) {
        Some(record) => reply(200, &json!(record)),
        None => refuse(404, "NOT_FOUND", "there is no such ban"),
    }
}

/// What a ban is made of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    client: Target,
    duration: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    force: bool,
}

pub(super) async fn add(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let new: New = match read(payload, MAX_SMALL).await {
        Ok(new) => new,
        Err(refusal) => return refusal,
    };
    let Ok(duration) = humantime::parse_duration(&new.duration) else {
        return refuse(400, "INVALID", "duration is a number and a unit, such as \"1h\"");
    };
    let now = SystemTime::now();
    let client = new.client.as_client();
    let filter = BanFilter { client: Some(client.clone()), ..BanFilter::default() };
    let is_replaced = |ban: &BanRecord| ban.client == client && ban.origin == Origin::Admin && !ban.simulated;
    let replaced: Vec<_> = state.limits.bans(&filter, now).into_iter().filter(is_replaced).collect();
    let request = BanRequest { client: client.clone(), duration, reason: new.reason, force: new.force };
    match state.limits.ban(request, &authorized.operator, now) {
        Ok(record) => {
            let mut json = json!(record);
            // An operator has one ban of a client; the last word counts, and says so.
            json["replaces"] = replaced.iter().map(|ban| json!({"id": ban.id, "until": json!(ban)["until"]})).collect();
            state.settled(reply(201, &json)).await
        }
        Err(why) => refused(&why),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

pub(super) async fn lift(state: &State, authorized: &Authorized, id: &str, payload: web::Payload) -> HttpResponse {
    let why: Why = match read(payload, MAX_SMALL).await {
        Ok(why) => why,
        Err(refusal) => return refusal,
    };
    match state.limits.lift(id, &why.reason, &authorized.operator, SystemTime::now()) {
        Ok(record) => state.settled(reply(200, &json!(record))).await,
        Err(why) => refused(&why),
    }
}

/// For another Weir's import: the array, as it stands.
pub(super) fn export(state: &State) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Content-Disposition", "attachment; filename=\"weir-bans.json\""))
        .body(state.limits.export())
}

pub(super) async fn import(state: &State, authorized: &Authorized, query: &str, payload: web::Payload) -> HttpResponse {
    let json = match body(payload, MAX_IMPORT).await {
        Ok(json) => json,
        Err(refusal) => return refusal,
    };
    let force = matches!(parameter(query, "force").as_deref(), Some("1" | "true"));
    match state.limits.import(&json, force, &authorized.operator, SystemTime::now()) {
        Ok(records) => state.settled(reply(200, &json!({"imported": records.len(), "bans": records}))).await,
        Err(why) => refused(&why),
    }
}

fn refused(why: &BanError) -> HttpResponse {
    let status = match why {
        BanError::Unknown(_) => 404,
        BanError::Full => 409,
        BanError::Wide(_) | BanError::Yourself(_) | BanError::Loopback(_) | BanError::UnknownAccount(_) => 422,
        BanError::Duration | BanError::Reason | BanError::Import(_) | BanError::NotAnAddress(_) => 400,
    };
    refuse(status, "INVALID", &why.to_string())
}
