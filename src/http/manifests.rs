//! GET and HEAD of a manifest (end-3). The warm one is answered without an await, from headers that were built before.

use std::time::SystemTime;

use actix_http::{
    Response, StatusCode,
    header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue},
};

use super::{
    Registry,
    body::Body,
    error::Failure,
    exchange::{Answer, Exchange, Place},
    headers,
};
use crate::{
    limits::{dialect, throttle::Meter},
    mirror::{Facts, ManifestAnswer, ManifestHead, Mirror},
    oci::{Digest, MediaType, Reference},
};

pub(crate) fn answer(registry: &Registry, exchange: Exchange, place: Place, reference: Reference) -> Answer {
    let now = SystemTime::now();
    if exchange.turn.is_head() {
        if let Some(found) = registry.mirror.warm_head(&place.ask, &reference, now) {
            return Answer::now(head(exchange, &place, &registry.mirror, &found));
        }
    } else if let Some(found) = registry.mirror.warm_manifest(&place.ask, &reference, now) {
        return Answer::now(whole(exchange, &place, found));
    }
    let name = reference.to_string();
    if let Err(failure) = exchange.may_miss(&place, &name)
        && (matches!(failure, Failure::HeldBack(_)) || !registry.mirror.has(&place.ask, &reference))
    {
        return Answer::now(exchange.fail(&failure, Some(&place), Some(name)));
    }
    let mirror = registry.mirror.clone();
    Answer::later(async move {
        if exchange.turn.is_head() {
            match mirror.head_manifest(&place.ask, &reference).await {
                Ok(found) => head(exchange, &place, &mirror, &found),
                Err(error) => exchange.fail(&Failure::Mirror(error), Some(&place), Some(reference.to_string())),
            }
        } else {
            match mirror.manifest(&place.ask, &reference).await {
                Ok(found) => whole(exchange, &place, found),
                Err(error) => exchange.fail(&Failure::Mirror(error), Some(&place), Some(reference.to_string())),
            }
        }
    })
}

fn whole(mut exchange: Exchange, place: &Place, found: ManifestAnswer) -> Response<Body> {
    let manifest = found.manifest;
    let (all, modified) = described(&mut exchange, place, &manifest.digest, &manifest.media_type, &found.facts);
    if modified { exchange.bytes(StatusCode::OK, all, manifest.bytes) } else { exchange.not_modified(all) }
}

fn head(mut exchange: Exchange, place: &Place, mirror: &Mirror, found: &ManifestHead) -> Response<Body> {
    let (mut all, modified) = described(&mut exchange, place, &found.digest, &found.media_type, &found.facts);
    quota(&exchange, place, mirror, &mut all);
    if modified { exchange.promised(all, found.size) } else { exchange.not_modified(all) }
}

/// What the recipe of scanners' manuals reads off a HEAD, in Docker Hub's own fields: what the client has left of its pulls, and where no
/// throttle says anything, what its class may use of the upstream budget. Free, and nothing is counted.
fn quota(exchange: &Exchange, place: &Place, mirror: &Mirror, all: &mut HeaderMap) {
    let Some((permit, limits)) = exchange.turn.admission() else { return };
    let now = SystemTime::now();
    let client = &permit.client;
    if permit.safe.is_none() {
        let standing = limits.peek(&client.key, Meter::Pulls.alone(), now);
        if let Some(standing) = standing.acting().next() {
            return headers::fields(all, &dialect::docker_hub(&client.key, standing));
        }
    }
    let allowance = mirror.allowance(&place.ask.upstream, client, now);
    if let Some((limit, remaining, window)) = allowance {
        headers::fields(all, &dialect::docker_hub_budget(&client.key.to_string(), limit, remaining, window));
    }
}

/// The headers of a manifest, and whether the client has another one than this.
fn described(
    exchange: &mut Exchange,
    place: &Place,
    digest: &Digest,
    media_type: &MediaType,
    facts: &Facts,
) -> (HeaderMap, bool) {
    let mut all = exchange.headers(Some(place), Some(facts));
    let digest = headers::of_digest(digest);
    let modified = !headers::none_match(exchange.head().headers(), &digest.etag);
    if modified {
        let media_type = HeaderValue::from_str(media_type.as_str());
        all.insert(CONTENT_TYPE, media_type.unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream")));
    }
    all.insert(headers::DOCKER_CONTENT_DIGEST, digest.plain);
    all.insert(ETAG, digest.etag);
    (all, modified)
}
