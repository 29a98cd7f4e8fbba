//! A manifest: GET and HEAD (end-3), and where it lives here PUT (end-7) and DELETE (end-9). The warm one is answered without an await, from headers that were built before.

use std::time::SystemTime;

use actix_http::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LOCATION},
};

use crate::http::{
    Registry,
    body::Body,
    error::ApiError,
    headers, path, query,
    request_context::{RequestContext, ResponseFuture, TargetRepository},
    uploads,
};
use crate::{
    hosted::{self, MOST_BYTES, Right},
    limits::{headers as limit_headers, throttle::Meter},
    mirror::{CacheFacts, ManifestAnswer, ManifestHead, Mirror},
    oci::{Digest, Invalid, MediaType, Reference, Tag},
};

pub(crate) fn answer(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    reference: Reference,
) -> ResponseFuture {
    let now = SystemTime::now();
    if exchange.turn.is_head() {
        if let Some(found) = registry.mirror.manifests.cached_head(&place.ask, &reference, now) {
            return ResponseFuture::now(head(exchange, &place, &registry.mirror, &found));
        }
    } else if let Some(found) = registry.mirror.manifests.cached(&place.ask, &reference, now) {
        return ResponseFuture::now(whole(exchange, &place, found));
    }
    let name = reference.to_string();
    if let Err(failure) = exchange.may_miss(&place, &name)
        && (matches!(failure, ApiError::MissThrottled(_))
            || !registry.mirror.manifests.is_cached(&place.ask, &reference))
    {
        return ResponseFuture::now(exchange.fail(&failure, Some(&place), Some(name)));
    }
    let mirror = registry.mirror.clone();
    ResponseFuture::later(async move {
        if exchange.turn.is_head() {
            match mirror.manifests.head(&place.ask, &reference).await {
                Ok(found) => head(exchange, &place, &mirror, &found),
                Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), Some(reference.to_string())),
            }
        } else {
            match mirror.manifests.get(&place.ask, &reference).await {
                Ok(found) => whole(exchange, &place, found),
                Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), Some(reference.to_string())),
            }
        }
    })
}

/// A manifest that lives here: GET, HEAD, PUT (end-7), DELETE (end-9).
pub(crate) fn hosted(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    reference: Reference,
) -> ResponseFuture {
    let (client, name) = (&place.ask.client, &place.ask.repository);
    let hosted = registry.hosted.clone();
    let may = |right| hosted.may(client, right, name);
    match *exchange.request.method() {
        Method::GET | Method::HEAD => ResponseFuture::now(match hosted.manifest(client, name, &reference) {
            Ok(found) if exchange.turn.is_head() => head(exchange, &place, &registry.mirror, &found.head()),
            Ok(found) => whole(exchange, &place, found),
            Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), Some(reference.to_string())),
        }),
        Method::PUT => match may(Right::Push) {
            Ok(()) => put(registry, exchange, place, reference),
            Err(error) => ResponseFuture::now(exchange.fail(&ApiError::Hosted(error), Some(&place), None)),
        },
        Method::DELETE => match may(Right::Delete) {
            Ok(()) => ResponseFuture::later(async move {
                match hosted.delete_manifest(&place.ask.repository, &reference).await {
                    Ok(()) => exchange.empty(&place, StatusCode::ACCEPTED),
                    Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), Some(reference.to_string())),
                }
            }),
            Err(error) => ResponseFuture::now(exchange.fail(&ApiError::Hosted(error), Some(&place), None)),
        },
        _ => ResponseFuture::now(exchange.fail(&ApiError::NotAllowed("GET, HEAD, PUT, DELETE"), Some(&place), None)),
    }
}

fn put(registry: &Registry, exchange: RequestContext, place: TargetRepository, reference: Reference) -> ResponseFuture {
    let asked = Pushing::of(&exchange);
    let (hosted, stall, documents) = (registry.hosted.clone(), registry.body_stall, registry.documents.clone());
    ResponseFuture::later(async move {
        let Pushing { media_type, tags } = match asked {
            Ok(asked) => asked,
            Err(failure) => return exchange.fail(&failure, Some(&place), None),
        };
        // Closed by nobody; were it, the bound would be gone and nothing else.
        let _turn = documents.acquire().await;
        let (exchange, received) = uploads::document(exchange, stall, MOST_BYTES).await;
        let bytes = match received {
            Ok(bytes) => bytes,
            Err(failure) => return exchange.fail(&failure, Some(&place), None),
        };
        let name = &place.ask.repository;
        match hosted.put_manifest(name, &reference, media_type, tags.clone(), bytes).await {
            Ok(pushed) => {
                exchange.turn.pushed(None);
                let mut response = exchange.empty(&place, StatusCode::CREATED);
                let all = response.headers_mut();
                let mut set = |header, value: String| {
                    if let Ok(value) = HeaderValue::try_from(value) {
                        all.append(header, value);
                    }
                };
                set(LOCATION, format!("/v2/{name}/manifests/{}", pushed.digest));
                set(headers::DOCKER_CONTENT_DIGEST, pushed.digest.to_string());
                tags.iter().for_each(|tag| set(headers::OCI_TAG, tag.to_string()));
                if let Some(subject) = pushed.subject {
                    set(headers::OCI_SUBJECT, subject.to_string());
                }
                response
            }
            Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), Some(reference.to_string())),
        }
    })
}

/// What goes along with a pushed manifest.
struct Pushing {
    media_type: Option<MediaType>,
    tags: Vec<Tag>,
}

impl Pushing {
    fn of(exchange: &RequestContext) -> Result<Pushing, ApiError> {
        let invalid = |why: &str| ApiError::Hosted(hosted::Error::ManifestInvalid(why.to_owned()));
        let media_type = exchange.head().headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let media_type = media_type.map(str::parse).transpose();
        let mut tags = Vec::new();
        for text in query::values(exchange.query(), "tag").map_err(ApiError::Query)? {
            let tag: Tag = text.parse().map_err(|bad: Invalid| ApiError::Path(path::PathError::Reference(bad)))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(Pushing { media_type: media_type.map_err(|()| invalid("its Content-Type is no media type"))?, tags })
    }
}

fn whole(mut exchange: RequestContext, place: &TargetRepository, found: ManifestAnswer) -> Response<Body> {
    let manifest = found.manifest;
    let (all, modified) = described(&mut exchange, place, &manifest.digest, &manifest.media_type, &found.facts);
    if modified { exchange.bytes(StatusCode::OK, all, manifest.bytes) } else { exchange.not_modified(all) }
}

fn head(
    mut exchange: RequestContext,
    place: &TargetRepository,
    mirror: &Mirror,
    found: &ManifestHead,
) -> Response<Body> {
    let (mut all, modified) = described(&mut exchange, place, &found.digest, &found.media_type, &found.facts);
    quota(&exchange, place, mirror, &mut all);
    if modified { exchange.promised(all, found.size) } else { exchange.not_modified(all) }
}

/// What the recipe of scanners' manuals reads off a HEAD, in Docker Hub's own fields: what the client has left of its pulls, and where no
/// throttle says anything, what its class may use of the upstream budget. Free, and nothing is counted.
fn quota(exchange: &RequestContext, place: &TargetRepository, mirror: &Mirror, all: &mut HeaderMap) {
    let Some((permit, limits)) = exchange.turn.admission() else { return };
    let now = SystemTime::now();
    let client = &permit.client;
    if permit.safe.is_none() {
        let standing = limits.peek(&client.key, Meter::Pulls.alone(), now);
        if let Some(standing) = standing.acting().next() {
            return headers::fields(all, &limit_headers::docker_hub(&client.key, &standing));
        }
    }
    let allowance = mirror.allowance(&place.ask.upstream, client, now);
    if let Some((limit, remaining, window)) = allowance {
        headers::fields(all, &limit_headers::docker_hub_budget(&client.key.to_string(), limit, remaining, window));
    }
}

/// The headers of a manifest, and whether the client has another one than this.
fn described(
    exchange: &mut RequestContext,
    place: &TargetRepository,
    digest: &Digest,
    media_type: &MediaType,
    facts: &CacheFacts,
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
