//! A blob: GET and HEAD, whole or a range of it (end-2), and DELETE where it is hosted (end-10).
//!
//! A blob that is still arriving is answered at once: its head goes out as soon as its size is known, and its bytes as they come.
//! Always `application/octet-stream`, for that is what scanners accept, and never with a `Content-Encoding`.

use std::time::Duration;

use actix_http::{
    StatusCode,
    header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE},
};

use super::{
    context::Context,
    error::ApiError,
    headers::{self, DigestHeaders},
    outcome::{Handled, later, now},
    range::{RangeOutcome, RangeSpec},
    reply::{Content, Reply},
    request::{Request, SharedRequest},
};
use crate::{
    answer::{BlobAnswer, CacheFacts},
    hosted::Right,
    mirror::{Lookup, Reader, Stopped},
    oci::{Digest, Name},
};

/// A blob of this size arrives as a whole or not at all, since its last 64 KiB wait for the verification: so does its head, and
/// the client gets an error instead of being cut.
const VERIFIED_FIRST: u64 = 64 << 10;

/// How long that may take; a client that waits longer for a head may give up.
const VERIFICATION: Duration = Duration::from_secs(10);

/// A mirrored blob.
pub(crate) fn get(cx: &Context, request: &SharedRequest, lookup: &Lookup, digest: &Digest) -> Handled {
    let named = headers::of_digest(digest);
    let is_cached_by_client =
        request.headers().contains_key(IF_NONE_MATCH) && headers::none_match(request.headers(), &named.etag);
    if !is_cached_by_client && let Some(found) = cx.mirror.blobs.now(lookup, digest) {
        return now(send(request, named, found)?);
    }
    let allowed = if is_cached_by_client { Ok(()) } else { cx.may_fetch(request, lookup) };
    let mirror = cx.mirror.clone();
    let (request, lookup, digest) = (request.clone(), lookup.clone(), digest.clone());
    later(async move {
        // What is cached is served.
        if let Err(error) = allowed {
            let found = mirror.blobs.load(&lookup, &digest).await?.ok_or(error)?;
            return send(&request, named, found);
        }
        // A client that has it asks only whether it is still there: no reason to fetch it.
        if is_cached_by_client || request.is_head() {
            let found = mirror.blobs.head(&lookup, &digest).await?;
            return Ok(head(named, found.size, found.facts, is_cached_by_client));
        }
        let hint = match range(&request, &named) {
            Some(RangeSpec::From(start, end)) => Some((start, end)),
            Some(RangeSpec::Last(_) | RangeSpec::Reversed) | None => None,
        };
        let mut found = mirror.blobs.get(&lookup, &digest, hint).await?;
        if found.reader.size() <= VERIFIED_FIRST {
            verified(&mut found.reader, &digest).await?;
        }
        send(&request, named, found)
    })
}

/// A hosted blob.
pub(crate) fn get_hosted(cx: &Context, request: &SharedRequest, name: &Name, digest: &Digest) -> Handled {
    let (hosted, request, name, digest) = (cx.hosted.clone(), request.clone(), name.clone(), digest.clone());
    later(async move {
        let named = headers::of_digest(&digest);
        let is_cached_by_client = headers::none_match(request.headers(), &named.etag);
        if is_cached_by_client || request.is_head() {
            let found = hosted.head_blob(&request.client, &name, &digest).await?;
            return Ok(head(named, found.size, found.facts, is_cached_by_client));
        }
        send(&request, named, hosted.blob(&request.client, &name, &digest).await?)
    })
}

/// Takes a blob from a hosted repository.
pub(crate) fn delete(cx: &Context, request: &Request, name: &Name, digest: &Digest) -> Handled {
    cx.hosted.may(&request.client, Right::Delete, name)?;
    let (hosted, name, digest) = (cx.hosted.clone(), name.clone(), digest.clone());
    later(async move {
        hosted.delete_blob(&name, &digest).await?;
        Ok(Reply::new(StatusCode::ACCEPTED))
    })
}

/// Waits until the first byte may be read, which of a small blob is the last, too.
///
/// Of an empty one the head is all there is, so that it never goes out before.
async fn verified(reader: &mut Reader, digest: &Digest) -> Result<(), ApiError> {
    let size = reader.size();
    if size == 0 && *digest == digest.algorithm().digest(b"") {
        return Ok(());
    }
    let first = std::future::poll_fn(|cx| reader.poll_extent(cx, 0, size));
    match tokio::time::timeout(VERIFICATION, first).await {
        Ok(Err(stopped)) => Err(ApiError::BlobStopped(stopped)),
        Ok(Ok(_)) | Err(_) if size == 0 => Err(ApiError::BlobStopped(Stopped("upstream sent no byte of it".into()))),
        // The head goes out, and the body is cut if it must be.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn head(named: DigestHeaders, size: u64, facts: CacheFacts, is_cached_by_client: bool) -> Reply {
    let status = if is_cached_by_client { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut reply = described(status, named, facts);
    if status == StatusCode::OK {
        reply.content = Content::Promised(size);
    }
    reply
}

fn send(request: &Request, named: DigestHeaders, found: BlobAnswer) -> Result<Reply, ApiError> {
    let BlobAnswer { reader, facts } = found;
    let size = reader.size();
    if request.is_head() {
        return Ok(head(named, size, facts, false));
    }
    let (status, part) = match range(request, &named).map_or(RangeOutcome::Whole, |range| range.select(size)) {
        RangeOutcome::Unsatisfiable => return Err(ApiError::Range(size)),
        RangeOutcome::Whole => (StatusCode::OK, 0..size),
        RangeOutcome::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
    };
    let mut reply = described(status, named, facts);
    if status == StatusCode::PARTIAL_CONTENT {
        reply.set(CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    if !part.is_empty() {
        reply.content = Content::Blob(reader, part);
    }
    Ok(reply)
}

/// The range that is asked for, unless `If-Range` makes it void: only our own entity tag keeps it, never a date.
fn range(request: &Request, named: &DigestHeaders) -> Option<RangeSpec> {
    let headers = request.headers();
    let range = headers.get(RANGE)?.to_str().ok()?;
    if headers.get(IF_RANGE).is_some_and(|condition| condition != named.etag) {
        return None;
    }
    RangeSpec::parse(range)
}

fn described(status: StatusCode, named: DigestHeaders, facts: CacheFacts) -> Reply {
    let mut reply = Reply::new(status);
    reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    reply.headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    reply.headers.insert(headers::DOCKER_CONTENT_DIGEST, named.plain);
    reply.headers.insert(ETAG, named.etag);
    reply.cache = Some(facts);
    reply
}
