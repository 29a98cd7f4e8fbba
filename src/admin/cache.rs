//! What is cached: lists, one image, purge, pins.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorize::Authorized,
    budget::at,
    json::{MAX_SMALL, count, parameter, read, refuse, reply},
    name::{located, named},
    state::State,
};
use crate::{
    client::{Client, ClientKey},
    limits::{
        audit::{Actor, AdminEvent, Event},
        repositories::RepositoryRule,
    },
    mirror::{self, Image, Lookup, Pin, Reading, Refreshed, Repository, Selection, Source, StoreError, client_of},
    oci::{Reference, matches},
};

/// The longest pattern, and the longest reason for the audit, in bytes.
const LONGEST: usize = 500;

/// How the bytes of an image's objects are told, and where it stands.
fn image(state: &State, reading: &Reading<'_>, image: &Image, pins: &[Pin]) -> Value {
    let name = image.name();
    let mut entry = json!({
        "name": name,
        "registry": image.repository.upstream,
        "repository": image.repository.name.as_str(),
        "tag": image.tag.as_ref().map(|tag| tag.as_str()),
        "digest": image.digest.to_string(),
        "checked_at": image.checked_at.map(at),
        "fresh_until": state.mirror.fresh_until(image).map(at),
        "account": (*image.credential != *Source::ANONYMOUS).then_some(&*image.credential),
        "pinned": pins.iter().any(|pin| pin.covers(image)),
    });
    let pulled = state.mirror.images().pulled(image);
    entry["last_pull"] = pulled.as_ref().map(|pulled| at(pulled.last)).into();
    entry["pulls"] = pulled.as_ref().map_or(0, |pulled| pulled.pulls).into();
    let clients = pulled.iter().flat_map(|pulled| &pulled.clients);
    entry["pulled_by"] =
        clients.map(|(client, last)| json!({"client": client_of(client).to_string(), "at": at(*last)})).collect();
    let completeness = serde_json::to_value(reading.completeness(&image.digest)).unwrap_or_default();
    if let (Value::Object(entry), Value::Object(more)) = (&mut entry, completeness) {
        entry.extend(more);
    }
    entry
}

/// Whether an image is looked for: a pattern when it has a star, else a part of the name.
fn is_wanted(pattern: &str, name: &str) -> bool {
    if pattern.contains('*') { matches(pattern, name) } else { name.contains(pattern) }
}

/// Refuses what is no parameter here: who mistypes `dry_run` must not purge.
fn only(query: &str, known: &[&str]) -> Result<(), Box<HttpResponse>> {
    match url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| !known.contains(&&**name)) {
        None => Ok(()),
        Some((name, _)) => {
            let why = format!("{name:?} is no parameter here; these are: {}", known.join(", "));
            Err(Box::new(refuse(400, "INVALID", &why)))
        }
    }
}

/// A boolean parameter; `None` when it is not there.
fn flag(query: &str, key: &str) -> Result<Option<bool>, Box<HttpResponse>> {
    match parameter(query, key).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Box::new(refuse(400, "INVALID", &format!("{key} is true or false")))),
    }
}

/// The place of an image in the list of its repository: tags come before digests.
fn place(image: &Image) -> (bool, String) {
    (image.tag.is_none(), image.name())
}

/// The repository of an image's full name, and the place of the image in it.
fn cursor(name: &str) -> Option<(Repository, (bool, String))> {
    let (path, has_tag) = match name.split_once('@') {
        Some((path, _)) => (path, false),
        None => (name.rsplit_once(':')?.0, true),
    };
    let (upstream, repository) = path.split_once('/')?;
    let repository = Repository { upstream: upstream.into(), name: repository.parse().ok()? };
    Some((repository, (!has_tag, name.to_owned())))
}

/// What is cached, a page of it: `pattern`, `complete`, `n`, `last`.
pub(super) fn list(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["pattern", "complete", "n", "last"]) {
        return *refusal;
    }
    let (most, complete) = match (count(query, 100, 1000), flag(query, "complete")) {
        (Ok(most), Ok(complete)) => (most.max(1), complete),
        (Err(refusal), _) | (_, Err(refusal)) => return *refusal,
    };
    let pattern = parameter(query, "pattern").unwrap_or_default();
    let after = match parameter(query, "last").map(|last| cursor(&last)) {
        Some(None) => return refuse(400, "INVALID", "last is the name of an image, as in the last page"),
        after => after.flatten(),
    };
    let pins = state.mirror.images().pins();
    let reading = state.mirror.images().read();
    let is_after = |image: &Image| {
        after.as_ref().is_none_or(|(repository, last)| image.repository != *repository || place(image) > *last)
    };
    let mut images = reading.images(after.as_ref().map(|(repository, _)| repository)).filter(|image| {
        is_after(image)
            && is_wanted(&pattern, &image.name())
            && complete.is_none_or(|complete| reading.is_complete(&image.digest) == complete)
    });
    let mut page: Vec<Image> = images.by_ref().take(most).collect();
    let mut next = images.next();
    // A name that several accounts have is not cut in two: the next page begins after the name.
    while let Some(same) = next.take_if(|next| page.last().is_some_and(|last| last.name() == next.name())) {
        page.push(same);
        next = images.next();
    }
    let next = next.and(page.last()).map(Image::name);
    let page: Vec<Value> = page.iter().map(|entry| image(state, &reading, entry, &pins)).collect();
    reply(200, &json!({"images": page, "next": next, "counted": state.mirror.images().is_complete()}))
}

/// One image: its platforms and objects, and how much of it others share.
pub(super) fn show(state: &State, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["repository", "reference"]) {
        return *refusal;
    }
    let repository = match located(&state.settings.routes, query) {
        Ok(place) => Repository { upstream: place.upstream, name: place.repository },
        Err(why) => return refuse(400, "NAME_INVALID", why),
    };
    let reference = parameter(query, "reference").unwrap_or_else(|| "latest".to_owned());
    let Ok(reference) = reference.parse::<Reference>() else {
        return refuse(400, "TAG_INVALID", "this is neither a tag nor a digest");
    };
    let is_meant = |image: &Image| match &reference {
        Reference::Tag(tag) => image.tag.as_ref() == Some(tag),
        Reference::Digest(digest) => image.digest == *digest,
    };
    let pins = state.mirror.images().pins();
    let reading = state.mirror.images().read();
    let Some(found) = reading.images_of(&repository).into_iter().find(is_meant) else {
        return refuse(404, "MANIFEST_UNKNOWN", "no image of this name is cached");
    };
    let objects = reading.objects(&found.digest);
    let shared = reading.shared(&found.digest);
    let objects: Vec<Value> = objects
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
    let mut entry = image(state, &reading, &found, &pins);
    entry["objects"] = objects.into();
    reply(200, &entry)
}

/// What a purge selects, and the words for it: `repository` with or without `reference`, `digest`, `pattern`, or `all=true`.
fn selected(state: &State, query: &str) -> Result<(Vec<Selection>, String), Box<HttpResponse>> {
    let refused = |code: &str, why: &str| Err(Box::new(refuse(400, code, why)));
    let parameters = ["repository", "digest", "pattern", "all"].map(|key| parameter(query, key));
    match parameters {
        [Some(_), None, None, None] => {
            let place = match located(&state.settings.routes, query) {
                Ok(place) => place,
                Err(why) => return refused("NAME_INVALID", why),
            };
            let repository = Repository { upstream: place.upstream.clone(), name: place.repository.clone() };
            let words = format!("{}/{}", repository.upstream, repository.name);
            match parameter(query, "reference").map(|reference| reference.parse()) {
                None => Ok((vec![Selection::Repository(repository)], words)),
                Some(Ok(Reference::Tag(tag))) => {
                    let words = format!("{words}:{tag}");
                    Ok((vec![Selection::Tag(repository, tag)], words))
                }
                Some(Ok(Reference::Digest(digest))) => {
                    let words = format!("{words}@{digest}");
                    Ok((vec![Selection::Manifest(repository, digest)], words))
                }
                Some(Err(_)) => refused("TAG_INVALID", "this is no tag"),
            }
        }
        [None, Some(digest), None, None] => match digest.parse() {
            Ok(selection) => Ok((vec![Selection::Digest(selection)], digest)),
            Err(_) => refused("DIGEST_INVALID", "this is no digest; write sha256: and 64 hexadecimal digits"),
        },
        [None, None, Some(pattern), None] => {
            let reading = state.mirror.images().read();
            let images = reading.images(None).filter(|image| matches(&pattern, &image.name()));
            let select = |image: Image| match image.tag {
                Some(tag) => Selection::Tag(image.repository, tag),
                None => Selection::Manifest(image.repository, image.digest),
            };
            Ok((images.map(select).collect(), pattern))
        }
        [None, None, None, Some(all)] if all == "true" => Ok((vec![Selection::All], "everything".to_owned())),
        _ => refused("INVALID", "name one of repository (with or without reference), digest, pattern, or all=true"),
    }
}

pub(super) async fn purge(state: &State, authorized: &Authorized, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["repository", "reference", "digest", "pattern", "all", "dry_run", "reason"]) {
        return *refusal;
    }
    let (selections, words, dry_run) = match (selected(state, query), flag(query, "dry_run")) {
        (Ok((selections, words)), Ok(dry_run)) => (selections, words, dry_run.unwrap_or(false)),
        (Err(refusal), _) | (_, Err(refusal)) => return *refusal,
    };
    match state.mirror.purge(selections, dry_run).await {
        Ok(purged) => {
            if !dry_run {
                tracing::info!(target: "weir::admin", selection = %words, ?purged, "purged");
                let reason = parameter(query, "reason").unwrap_or_default();
                let event = AdminEvent::Purged { selection: words, freed: purged.freed, reason };
                state.limits.record_event(&authorized.operator, Event::Admin(event), SystemTime::now());
            }
            reply(200, &json!(purged))
        }
        Err(error) => failure(&error),
    }
}

fn failure(error: &StoreError) -> HttpResponse {
    match error {
        StoreError::Counting => refuse(503, "UNAVAILABLE", &error.to_string()),
        StoreError::Unusable(why) => refuse(409, "DENIED", why),
        error => refuse(500, "UNKNOWN", &error.to_string()),
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
    let place = match named(&state.settings.routes, &repository) {
        Ok(place) => place,
        Err(why) => return refuse(400, "NAME_INVALID", why),
    };
    let Ok(Reference::Tag(tag)) = reference.parse() else {
        return refuse(400, "TAG_INVALID", "name a tag; what a digest names never changes");
    };
    if reason.len() > LONGEST {
        return refuse(400, "INVALID", "write a reason of at most 500 bytes");
    }
    if let Some(sentence) = state.limits.config().repositories.refuse(&place.upstream, &place.repository) {
        return refuse(403, "DENIED", &sentence);
    }
    let (by, now) = (&authorized.operator, SystemTime::now());
    let lookup = Lookup {
        upstream: place.upstream,
        repository: place.repository,
        client: Arc::new(operator(by)),
        cached_only: None,
    };
    let image = format!("{}/{}:{tag}", lookup.upstream, lookup.repository);
    match state.mirror.manifests.refresh(&lookup, &tag).await {
        Ok(Refreshed { before, digest, platforms }) => {
            let moved = before.as_ref() != Some(&digest);
            let event = AdminEvent::Refreshed { image: image.clone(), moved, reason };
            state.limits.record_event(by, Event::Admin(event), now);
            let before = before.map(|before| before.to_string());
            let digest = digest.to_string();
            let body =
                json!({"name": image, "before": before, "digest": digest, "moved": moved, "platforms": platforms});
            reply(200, &body)
        }
        Err(error) => {
            let status = match &error {
                mirror::Error::NameUnknown | mirror::Error::ManifestUnknown | mirror::Error::BlobUnknown => 404,
                mirror::Error::BudgetSpent { .. }
                | mirror::Error::Throttled(_)
                | mirror::Error::UpstreamLimited { .. } => 429,
                mirror::Error::UpstreamUnavailable { .. } => 503,
                mirror::Error::UpstreamMalformed { .. } => 502,
                mirror::Error::Internal => 500,
            };
            refuse(status, "UNKNOWN", &format!("{image}: {error}"))
        }
    }
}

/// An operator as a client, who may have what only an account of ours may read.
fn operator(actor: &Actor) -> Client {
    let address = actor.from.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    Client {
        key: ClientKey::Principal(actor.name.as_str().into()),
        pull: Arc::from(["*".to_owned()]),
        ..Client::anonymous(address, address)
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
    let is_pattern = !pattern.is_empty() && !pattern.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_pattern || pattern.len() > LONGEST || reason.len() > LONGEST {
        let why = "write an image, a repository or a pattern of images, such as docker.io/library/*, and a reason, \
                   of at most 500 bytes each";
        return refuse(400, "INVALID", why);
    }
    let (by, now) = (&authorized.operator, SystemTime::now());
    let pin = Pin { pattern: pattern.clone(), by: by.name.clone(), reason: reason.clone(), at: now };
    let covered = state.mirror.images().read().images(None).filter(|image| pin.covers(image)).count();
    if let Err(error) = state.mirror.images().pin(pin).await {
        return failure(&error);
    }
    state.limits.record_event(by, Event::Admin(AdminEvent::Pinned { pattern, reason }), now);
    let mut answer = all_pins(state);
    answer["covered"] = covered.into();
    reply(200, &answer)
}

pub(super) async fn unpin(state: &State, authorized: &Authorized, query: &str) -> HttpResponse {
    let Some(pattern) = parameter(query, "pattern") else {
        return refuse(400, "INVALID", "name the pattern: ?pattern=docker.io/library/*");
    };
    match state.mirror.images().unpin(&pattern).await {
        Ok(false) => refuse(404, "NOT_FOUND", "no pin has this pattern; GET /api/v1/cache/pins lists them"),
        Ok(true) => {
            let reason = parameter(query, "reason").unwrap_or_default();
            let event = Event::Admin(AdminEvent::Unpinned { pattern, reason });
            state.limits.record_event(&authorized.operator, event, SystemTime::now());
            pins(state)
        }
        Err(error) => failure(&error),
    }
}
