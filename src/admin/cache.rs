//! What is cached and hosted: lists, one image, purge, pins.

use std::{collections::HashSet, time::SystemTime};

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorize::Authorized,
    budget::at,
    changes::{self, Many, Refusal, Selected},
    images::{self, FILTERS, Filter, flag, span},
    json::{MAX_SMALL, count, parameter, read, refuse, reply},
    name,
    state::State,
};
use crate::{
    limits::repositories::RepositoryRule,
    mirror::{Image, Pin, Reading, Selection, Source, client_of},
    oci::{Digest, Reference},
};

fn answer(refusal: &Refusal) -> HttpResponse {
    refuse(refusal.status, refusal.code, &refusal.sentence)
}

fn invalid(why: &str) -> HttpResponse {
    refuse(400, "INVALID", why)
}

/// How the bytes of an image's objects are told, and where it stands.
fn image(state: &State, reading: &Reading<'_>, image: &Image, shared: &HashSet<Digest>, pins: &[Pin]) -> Value {
    let is_hosted = image.repository.is_hosted();
    let pulled = state.mirror.images().pulled(image);
    let clients = pulled.iter().flat_map(|pulled| &pulled.clients);
    let clients: Vec<Value> =
        clients.map(|(client, last)| json!({"client": client_of(client).to_string(), "at": at(*last)})).collect();
    let mut entry = json!({
        "name": image.name(),
        "registry": image.repository.upstream,
        "repository": image.repository.name.as_str(),
        "hosted": is_hosted,
        "tag": image.tag.as_ref().map(|tag| tag.as_str()),
        "digest": image.digest.to_string(),
        "arrived": reading.arrived(&image.digest).map(at),
        "checked_at": state.mirror.confirmed(image).map(at),
        "fresh_until": state.mirror.fresh_until(image).map(at),
        "denied": images::is_denied(state, image),
        "account": (*image.credential != *Source::ANONYMOUS).then_some(&*image.credential),
        "imported": state.mirror.imported(image).map(|mark| json!({"at": at(mark.at), "by": mark.by})),
        "pinned": is_hosted || pins.iter().any(|pin| pin.covers(image)),
        "last_pull": pulled.as_ref().map(|pulled| at(pulled.last)),
        "pulls": pulled.as_ref().map_or(0, |pulled| pulled.pulls),
        "pulled_by": clients,
        "shared": reading.stored(shared),
    });
    let completeness = serde_json::to_value(reading.completeness(&image.digest)).unwrap_or_default();
    if let (Value::Object(entry), Value::Object(more)) = (&mut entry, completeness) {
        entry.extend(more);
    }
    entry
}

/// Refuses what is no parameter here: who mistypes `dry_run` must not purge.
pub(super) fn only(query: &str, known: &[&str]) -> Result<(), Box<HttpResponse>> {
    match url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| !known.contains(&&**name)) {
        None => Ok(()),
        Some((name, _)) => {
            let why = format!("{name:?} is no parameter here; these are: {}", known.join(", "));
            Err(Box::new(invalid(&why)))
        }
    }
}

/// What is cached and hosted, a page of it.
pub(super) fn list(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &[&FILTERS[..], &["n", "last"]].concat()) {
        return *refusal;
    }
    let most = match count(query, 100, 1000) {
        Ok(most) => most.max(1),
        Err(refusal) => return *refusal,
    };
    let reading = state.mirror.images().read();
    let last = parameter(query, "last");
    let page = Filter::parse(state, query)
        .and_then(|filter| filter.find(state, &reading, most, last.as_deref(), SystemTime::now()));
    let page = match page {
        Ok(page) => page,
        Err(why) => return invalid(&why),
    };
    let (pins, shared) = (state.mirror.images().pins(), reading.shared(&page.images));
    let entries = page.images.iter().zip(&shared);
    let entries: Vec<Value> = entries.map(|(entry, shared)| image(state, &reading, entry, shared, &pins)).collect();
    reply(200, &json!({"images": entries, "next": page.next, "counted": state.mirror.images().is_complete()}))
}

/// The registries of which something is here, and what is hosted, with their repositories and images.
pub(super) fn registries(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &[]) {
        return *refusal;
    }
    let registries: Vec<Value> = state
        .mirror
        .images()
        .summaries()
        .registries
        .iter()
        .map(|(registry, summary)| {
            json!({
                "registry": registry,
                "repositories": summary.repositories,
                "images": summary.images,
                "bytes": summary.bytes,
            })
        })
        .collect();
    reply(200, &json!({"registries": registries, "counted": state.mirror.images().is_complete()}))
}

/// The repositories of a registry, or of all, a page of them.
pub(super) fn repositories(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["registry", "pattern", "n", "last"]) {
        return *refusal;
    }
    let most = match count(query, 100, 1000) {
        Ok(most) => most.max(1),
        Err(refusal) => return *refusal,
    };
    let reading = state.mirror.images().read();
    let (registry, pattern) = (parameter(query, "registry"), parameter(query, "pattern").unwrap_or_default());
    let last = parameter(query, "last");
    let Ok((page, next)) = images::repositories(&reading, registry.as_deref(), &pattern, most, last.as_deref()) else {
        return invalid("last is the name of a repository, as in the last page");
    };
    let summaries = state.mirror.images().summaries();
    let entries: Vec<Value> = page
        .into_iter()
        .map(|repository| {
            let summary = summaries.of(repository).unwrap_or_default();
            json!({
                "name": repository.full_name(),
                "registry": repository.upstream,
                "repository": repository.name.as_str(),
                "hosted": repository.is_hosted(),
                "images": summary.images,
                "bytes": summary.bytes,
            })
        })
        .collect();
    reply(200, &json!({"repositories": entries, "next": next, "counted": state.mirror.images().is_complete()}))
}

/// One image: its platforms and objects, and how much of it others share.
pub(super) fn show(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["repository", "reference"]) {
        return *refusal;
    }
    let text = parameter(query, "repository").ok_or("name a repository: ?repository=docker.io/library/busybox");
    let repository = match text.and_then(|text| name::cached(&state.settings.routes.load(), &text)) {
        Ok(repository) => repository,
        Err(why) => return refuse(400, "NAME_INVALID", why),
    };
    let reference = parameter(query, "reference").unwrap_or_else(|| "latest".to_owned());
    let Ok(reference) = reference.parse::<Reference>() else {
        return refuse(400, "TAG_INVALID", "this is neither a tag nor a digest");
    };
    let pins = state.mirror.images().pins();
    let reading = state.mirror.images().read();
    let Some(found) = images::one(&reading, &repository, &reference) else {
        return refuse(404, "MANIFEST_UNKNOWN", "no image of this name is cached");
    };
    let shared = reading.shared(std::slice::from_ref(&found)).pop().unwrap_or_default();
    let objects: Vec<Value> = images::objects(&reading, &found.digest)
        .iter()
        .map(|(child, stored)| {
            json!({
                "digest": child.digest.to_string(),
                "size": stored.unwrap_or(child.size),
                "here": stored.is_some(),
                "shared": shared.contains(&child.digest),
            })
        })
        .collect();
    let mut entry = image(state, &reading, &found, &shared, &pins);
    entry["objects"] = objects.into();
    reply(200, &entry)
}

/// What a purge selects: `repository` with or without `reference`; `digest`; any of those of [`Many`]; or `all=true`.
fn selected(state: &State, query: &str) -> Result<Selected, Refusal> {
    let [repository, digest, all] = ["repository", "digest", "all"].map(|key| parameter(query, key));
    let bad = |why: &str| Refusal::new(400, "INVALID", why);
    let many = Many {
        pattern: parameter(query, "pattern"),
        registry: parameter(query, "registry"),
        older_than: span(query, "older_than").map_err(|why| bad(&why))?,
        not_arrived_within: span(query, "not_arrived_within").map_err(|why| bad(&why))?,
    };
    let is_many = many.is_any();
    match (repository, digest, all) {
        (Some(repository), None, None) if !is_many => {
            changes::select_one(state, &repository, parameter(query, "reference").as_deref())
        }
        (None, Some(words), None) if !is_many => match words.parse() {
            Ok(digest) => Ok(Selected { selections: vec![Selection::Digest(digest)], words }),
            Err(_) => {
                let why = "this is no digest; write sha256: and 64 hexadecimal digits";
                Err(Refusal::new(400, "DIGEST_INVALID", why))
            }
        },
        (None, None, None) if is_many => Ok(changes::select_many(state, &many)),
        (None, None, Some(all)) if all == "true" && !is_many => {
            Ok(Selected { selections: vec![Selection::All], words: "everything".to_owned() })
        }
        _ => Err(bad("name one of repository (with or without reference), digest, all=true, or any of pattern, \
                      registry, older_than and not_arrived_within")),
    }
}

pub(super) async fn purge(state: &State, authorized: &Authorized, query: &str) -> HttpResponse {
    let one = ["repository", "reference", "digest", "all", "dry_run", "reason"];
    let many = ["pattern", "registry", "older_than", "not_arrived_within"];
    if let Err(refusal) = only(query, &[&one[..], &many].concat()) {
        return *refusal;
    }
    let dry_run = match flag(query, "dry_run") {
        Ok(dry_run) => dry_run.unwrap_or(false),
        Err(why) => return invalid(&why),
    };
    let selected = match selected(state, query) {
        Ok(selected) => selected,
        Err(refusal) => return answer(&refusal),
    };
    let reason = parameter(query, "reason").unwrap_or_default();
    match changes::purge(state, &authorized.operator, selected, dry_run, reason).await {
        Ok(purged) => reply(200, &json!(purged)),
        Err(refusal) => answer(&refusal),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    repository: String,
    #[serde(default = "latest")]
    reference: String,
    #[serde(default)]
    reason: String,
}

fn latest() -> String {
    "latest".to_owned()
}

/// Asks upstream what a tag names now, and fetches that when it moved.
pub(super) async fn refresh(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let Wanted { repository, reference, reason } = match read(payload, MAX_SMALL).await {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    match changes::refresh(state, &authorized.operator, (&repository, &reference), reason).await {
        Ok((image, refreshed)) => {
            let body = json!({
                "name": image,
                "before": refreshed.before.as_ref().map(ToString::to_string),
                "digest": refreshed.digest.to_string(),
                "moved": refreshed.before.as_ref() != Some(&refreshed.digest),
                "platforms": refreshed.platforms,
            });
            reply(200, &body)
        }
        Err(refusal) => answer(&refusal),
    }
}

/// The pins, and the bytes that they keep and may keep.
pub(super) fn pins(state: &State) -> HttpResponse {
    reply(200, &all_pins(state))
}

fn all_pins(state: &State) -> Value {
    let (pins, (bytes, most)) = (state.mirror.images().pins(), state.mirror.images().pinned_bytes());
    let pins: Vec<Value> = pins
        .iter()
        .map(|pin| json!({"pattern": pin.pattern, "by": pin.by, "reason": pin.reason, "at": at(pin.at)}))
        .collect();
    json!({"pins": pins, "bytes": bytes, "most_bytes": most})
}

/// Which repositories are not mirrored, and how many requests each rule refused.
pub(super) fn rules(state: &State) -> HttpResponse {
    let config = state.limits.config();
    let rule = |rule: &RepositoryRule| {
        json!({
            "upstream": *rule.upstream,
            "rule": rule.verdict.word(),
            "patterns": rule.patterns,
            "refused": rule.refused(),
        })
    };
    let rules: Vec<Value> = config.repositories.all().iter().map(rule).collect();
    reply(200, &json!({"rules": rules}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPin {
    pattern: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn pin(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let NewPin { pattern, reason } = match read(payload, MAX_SMALL).await {
        Ok(pin) => pin,
        Err(refusal) => return refusal,
    };
    match changes::pin(state, &authorized.operator, pattern, reason).await {
        Ok(covered) => {
            let mut answer = all_pins(state);
            answer["covered"] = covered.into();
            reply(200, &answer)
        }
        Err(refusal) => answer(&refusal),
    }
}

pub(super) async fn unpin(state: &State, authorized: &Authorized, query: &str) -> HttpResponse {
    let Some(pattern) = parameter(query, "pattern") else {
        return invalid("name the pattern: ?pattern=docker.io/library/*");
    };
    let reason = parameter(query, "reason").unwrap_or_default();
    match changes::unpin(state, &authorized.operator, pattern, reason).await {
        Ok(()) => pins(state),
        Err(refusal) => answer(&refusal),
    }
}
