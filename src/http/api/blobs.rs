//! A blob: GET and HEAD, whole or a range of it (end-2), and DELETE where it lives here (end-10).
//!
//! A blob that is still arriving is answered at once: its head goes out as soon as its size is known, and its bytes as they come.
//! Always `application/octet-stream`, for that is what scanners accept, and never with a `Content-Encoding`.

use actix_http::{
    Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE,
    },
};
use bytes::Bytes;

use crate::http::{
    Registry,
    body::{Body, with_headers},
    error::ApiError,
    headers::{self, DigestHeaders},
    range::{RangeOutcome, RangeSpec},
    request_context::{RequestContext, ResponseFuture, TargetRepository},
    sendfile::Transfer,
};
use crate::{
    hosted::Right,
    mirror::{BlobAnswer, CacheFacts},
    oci::Digest,
};

pub(crate) fn answer(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    digest: Digest,
) -> ResponseFuture {
    let named = headers::of_digest(&digest);
    let conditional = exchange.head().headers().contains_key(IF_NONE_MATCH);
    let had = conditional && headers::none_match(exchange.head().headers(), &named.etag);
    if !had && let Some(found) = registry.mirror.blobs.cached(&place.ask, &digest) {
        return ResponseFuture::now(send(exchange, &place, named, found));
    }
    if !exchange.turn.is_head()
        && !had
        && let Err(failure) = exchange.may_miss(&place, &digest.to_string())
    {
        return ResponseFuture::now(exchange.fail(&failure, Some(&place), None));
    }
    let mirror = registry.mirror.clone();
    ResponseFuture::later(async move {
        // Whoever has it asks only whether it is still there: no reason to bring it here.
        if had || exchange.turn.is_head() {
            return match mirror.blobs.head(&place.ask, &digest).await {
                Ok(found) => head(exchange, &place, named, found.size, &found.facts, had),
                Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), None),
            };
        }
        let hint = match asked(&exchange, &named) {
            Some(RangeSpec::From(start, end)) => Some((start, end)),
            Some(RangeSpec::Last(_) | RangeSpec::Reversed) | None => None,
        };
        match mirror.blobs.get(&place.ask, &digest, hint).await {
            Ok(found) => send(exchange, &place, named, found),
            Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), None),
        }
    })
}

/// A blob that lives here: GET, HEAD, DELETE (end-10).
pub(crate) fn hosted(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    digest: Digest,
) -> ResponseFuture {
    let (client, name) = (&place.ask.client, &place.ask.repository);
    let hosted = registry.hosted.clone();
    let named = headers::of_digest(&digest);
    match *exchange.request.method() {
        Method::GET | Method::HEAD => {
            let had = headers::none_match(exchange.head().headers(), &named.etag);
            let found = match had || exchange.turn.is_head() {
                true => hosted.head_blob(client, name, &digest).map(|found| (None, found.size, found.facts)),
                false => hosted.blob(client, name, &digest).map(|found| {
                    let (size, facts) = (found.reader.size(), found.facts.clone());
                    (Some(found), size, facts)
                }),
            };
            ResponseFuture::now(match found {
                Ok((Some(found), ..)) => send(exchange, &place, named, found),
                Ok((None, size, facts)) => head(exchange, &place, named, size, &facts, had),
                Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            })
        }
        Method::DELETE => match hosted.may(client, Right::Delete, name) {
            Ok(()) => ResponseFuture::later(async move {
                match hosted.delete_blob(&place.ask.repository, &digest).await {
                    Ok(()) => exchange.empty(&place, StatusCode::ACCEPTED),
                    Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
                }
            }),
            Err(error) => ResponseFuture::now(exchange.fail(&ApiError::Hosted(error), Some(&place), None)),
        },
        _ => ResponseFuture::now(exchange.fail(&ApiError::NotAllowed("GET, HEAD, DELETE"), Some(&place), None)),
    }
}

fn head(
    mut exchange: RequestContext,
    place: &TargetRepository,
    named: DigestHeaders,
    size: u64,
    facts: &CacheFacts,
    had: bool,
) -> Response<Body> {
    let all = described(&mut exchange, place, named, facts);
    if had { exchange.not_modified(all) } else { exchange.promised(all, size) }
}

fn send(
    mut exchange: RequestContext,
    place: &TargetRepository,
    named: DigestHeaders,
    found: BlobAnswer,
) -> Response<Body> {
    let BlobAnswer { mut reader, facts } = found;
    let size = reader.size();
    if exchange.turn.is_head() {
        return head(exchange, place, named, size, &facts, false);
    }
    let selected = asked(&exchange, &named).map_or(RangeOutcome::Whole, |asked| asked.select(size));
    let (status, part) = match selected {
        RangeOutcome::Unsatisfiable => return exchange.fail(&ApiError::Range(size), Some(place), None),
        RangeOutcome::Whole => (StatusCode::OK, 0..size),
        RangeOutcome::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
    };
    let mut all = described(&mut exchange, place, named, &facts);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        all.insert(
            CONTENT_RANGE,
            HeaderValue::try_from(range).unwrap_or_else(|_| HeaderValue::from_static("bytes */*")),
        );
    }
    if part.is_empty() {
        return exchange.bytes(status, all, Bytes::new());
    }
    let source = Box::new(move |cx: &mut std::task::Context<'_>, offset, end| reader.poll_extent(cx, offset, end));
    let transfer = Transfer::new(source, part.start, part.end);
    with_headers(Body::transfer(exchange.turn, status, part.end - part.start, transfer), all)
}

/// The range that is asked for, unless `If-Range` makes it void: only our own entity tag keeps it, never a date.
fn asked(exchange: &RequestContext, named: &DigestHeaders) -> Option<RangeSpec> {
    let headers = exchange.head().headers();
    let range = headers.get(RANGE)?.to_str().ok()?;
    if headers.get(IF_RANGE).is_some_and(|condition| condition != named.etag) {
        return None;
    }
    RangeSpec::parse(range)
}

fn described(
    exchange: &mut RequestContext,
    place: &TargetRepository,
    named: DigestHeaders,
    facts: &CacheFacts,
) -> HeaderMap {
    let mut all = exchange.headers(Some(place), Some(facts));
    all.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    all.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    all.insert(headers::DOCKER_CONTENT_DIGEST, named.plain);
    all.insert(ETAG, named.etag);
    all
}
