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
    mirror::{Facts, ManifestAnswer, ManifestHead},
    oci::{Digest, MediaType, Reference},
};

pub(crate) fn answer(registry: &Registry, exchange: Exchange, place: Place, reference: Reference) -> Answer {
    let now = SystemTime::now();
    if exchange.turn.is_head() {
        if let Some(found) = registry.mirror.warm_head(&place.ask, &reference, now) {
            return Answer::now(head(exchange, &place, &found));
        }
    } else if let Some(found) = registry.mirror.warm_manifest(&place.ask, &reference, now) {
        return Answer::now(whole(exchange, &place, found));
    }
    let mirror = registry.mirror.clone();
    Answer::later(async move {
        if exchange.turn.is_head() {
            match mirror.head_manifest(&place.ask, &reference).await {
                Ok(found) => head(exchange, &place, &found),
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

fn head(mut exchange: Exchange, place: &Place, found: &ManifestHead) -> Response<Body> {
    let (all, modified) = described(&mut exchange, place, &found.digest, &found.media_type, &found.facts);
    if modified { exchange.promised(all, found.size) } else { exchange.not_modified(all) }
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
