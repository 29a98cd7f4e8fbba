//! A manifest: GET and HEAD (end-3), and where it is hosted PUT (end-7) and DELETE (end-9).

use std::{sync::Arc, time::SystemTime};

use actix_http::{
    StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, LOCATION},
};

use bytes::BytesMut;

use super::{
    body::Cut,
    context::Context,
    error::ApiError,
    headers,
    outcome::{Handled, later, now},
    path::PathError,
    query,
    reply::{Content, Reply},
    request::{Request, SharedRequest},
};
use crate::{
    answer::{CacheFacts, ManifestAnswer, ManifestHead},
    hosted::{self, MOST_BYTES, Right},
    limits::headers as limit_headers,
    mirror::{Lookup, Mirror},
    oci::{Digest, Invalid, MediaType, Name, Reference, Tag},
    policy::{Breach, Decision},
};

/// Bytes of a manifest that are read without a permit: most manifests are smaller.
const SMALL: usize = 64 << 10;

/// A mirrored manifest. The warm one is answered without an await, from headers that were built before.
pub(crate) fn get(cx: &Context, request: &SharedRequest, lookup: &Lookup, reference: &Reference) -> Handled {
    let at = SystemTime::now();
    let decided = |digest: &Digest| cx.mirror.enforcement.now(lookup, reference, digest, at);
    let mut warm = None;
    if request.is_head() {
        if let Some(found) = cx.mirror.manifests.cached_head(lookup, reference, at) {
            match decided(&found.digest) {
                Some(decision) => return now(answer_head(&cx.mirror, request, lookup, found, decision)?),
                None => warm = Some(Found::Head(found)),
            }
        }
    } else if let Some(found) = cx.mirror.manifests.cached(lookup, reference, at) {
        match decided(&found.manifest.digest) {
            Some(decision) => return now(answer(&cx.mirror, request, lookup, reference, found, decision, at)?),
            None => warm = Some(Found::Whole(found)),
        }
    }
    // What is refused is not fetched to be refused again.
    if let (None, Reference::Digest(digest)) = (&warm, reference)
        && let Some(decision @ Decision::Refuse(_)) = decided(digest)
    {
        warning(decision)?;
    }
    let allowed = if warm.is_some() { Ok(()) } else { cx.may_fetch(request, lookup) };
    let mirror = cx.mirror.clone();
    let (request, lookup, reference) = (request.clone(), lookup.clone(), reference.clone());
    later(async move {
        let decide = async |digest: &Digest| mirror.enforcement.decide(&lookup, &reference, digest, at).await;
        match warm {
            Some(Found::Head(found)) => {
                let decision = decide(&found.digest).await;
                return answer_head(&mirror, &request, &lookup, found, decision);
            }
            Some(Found::Whole(found)) => {
                let decision = decide(&found.manifest.digest).await;
                return answer(&mirror, &request, &lookup, &reference, found, decision, at);
            }
            None => {}
        }
        match allowed {
            // What is cached is served, fresh or not.
            Err(ApiError::Denied(_)) if mirror.manifests.is_cached(&lookup, &reference).await => {}
            Err(ApiError::MissThrottled(_)) if mirror.manifests.is_fresh(&lookup, &reference).await => {}
            allowed => allowed?,
        }
        if !request.is_head() {
            let found = mirror.manifests.get(&lookup, &reference).await?;
            let decision = decide(&found.manifest.digest).await;
            return answer(&mirror, &request, &lookup, &reference, found, decision, at);
        }
        let found = mirror.manifests.head(&lookup, &reference).await?;
        let decision = decide(&found.digest).await;
        answer_head(&mirror, &request, &lookup, found, decision)
    })
}

/// A warm answer of which a policy has not decided lately.
enum Found {
    Head(ManifestHead),
    Whole(ManifestAnswer),
}

/// The answer to a GET, as a policy decided.
fn answer(
    mirror: &Mirror,
    request: &Request,
    lookup: &Lookup,
    reference: &Reference,
    found: ManifestAnswer,
    decision: Decision,
    at: SystemTime,
) -> Result<Reply, ApiError> {
    let warning = warning(decision)?;
    mirror.note_pull(lookup, reference, at);
    Ok(with_warning(whole(request, found), warning))
}

/// The answer to a HEAD, as a policy decided.
fn answer_head(
    mirror: &Mirror,
    request: &Request,
    lookup: &Lookup,
    found: ManifestHead,
    decision: Decision,
) -> Result<Reply, ApiError> {
    let warning = warning(decision)?;
    Ok(with_warning(with_budget(head(request, found), mirror, request, lookup), warning))
}

/// What a decision that warns says. Counts what it refuses and warns of.
fn warning(decision: Decision) -> Result<Option<Arc<Breach>>, ApiError> {
    match decision {
        Decision::Pass => Ok(None),
        Decision::Audit(breach) => {
            breach.count();
            Ok(None)
        }
        Decision::Warn(breach) => {
            breach.count();
            Ok(Some(breach))
        }
        Decision::Refuse(breach) => {
            breach.count();
            Err(ApiError::RefusedImage(breach))
        }
    }
}

fn with_warning(mut reply: Reply, warning: Option<Arc<Breach>>) -> Reply {
    if let Some(breach) = warning {
        headers::add_breach(&mut reply.headers, &breach);
    }
    reply
}

/// A hosted manifest.
pub(crate) fn get_hosted(cx: &Context, request: &SharedRequest, name: &Name, reference: &Reference) -> Handled {
    let (hosted, mirror) = (cx.hosted.clone(), cx.mirror.clone());
    let (request, name, reference) = (request.clone(), name.clone(), reference.clone());
    later(async move {
        let found = hosted.manifest(&request.client, &name, &reference).await?;
        if !request.is_head() {
            mirror.note_hosted_pull(&request.client, &name, &reference, SystemTime::now());
        }
        Ok(if request.is_head() { head(&request, found.head()) } else { whole(&request, found) })
    })
}

/// Takes a manifest.
pub(crate) fn put(cx: &Context, request: &SharedRequest, name: &Name, reference: &Reference) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    let media_type = media_type(request)?;
    let tags = tags(request.query())?;
    let (hosted, permits) = (cx.hosted.clone(), cx.manifest_permits.clone());
    let (request, name, reference) = (request.clone(), name.clone(), reference.clone());
    later(async move {
        if request.number(&CONTENT_LENGTH).is_some_and(|length| length > MOST_BYTES as u64) {
            return Err(ApiError::TooLarge(MOST_BYTES));
        }
        let (mut body, mut bytes) = (request.body(), BytesMut::new());
        // A client that is slow with a large one holds a permit of its own share, and gives it up when others wait for long.
        let mut held = None;
        if !body.read_up_to(SMALL, &mut bytes).await? {
            let permit = held.insert(permits.acquire(request.client.key.clone()).await);
            let is_whole = tokio::select! {
                read = body.read_up_to(MOST_BYTES, &mut bytes) => read?,
                () = permit.claimed() => return Err(Cut::Slow.into()),
            };
            if !is_whole {
                return Err(ApiError::TooLarge(MOST_BYTES));
            }
        }
        let pushed = hosted.put_manifest(&name, &reference, media_type, tags.clone(), bytes.freeze()).await?;
        let mut reply = Reply::new(StatusCode::CREATED);
        reply.set(LOCATION, format!("/v2/{name}/manifests/{}", pushed.digest));
        reply.set(headers::DOCKER_CONTENT_DIGEST, pushed.digest.to_string());
        tags.iter().for_each(|tag| reply.set(headers::OCI_TAG, tag.to_string()));
        if let Some(subject) = pushed.subject {
            reply.set(headers::OCI_SUBJECT, subject.to_string());
        }
        if pushed.missing > 0 {
            let text = format!("{} of the manifests that this index lists are not in this repository", pushed.missing);
            headers::add_warning(&mut reply.headers, &text);
        }
        Ok(reply)
    })
}

/// Removes a tag, or a manifest with all its tags.
pub(crate) fn delete(cx: &Context, request: &Request, name: &Name, reference: &Reference) -> Handled {
    cx.hosted.may(&request.client, Right::Delete, name)?;
    let (hosted, name, reference) = (cx.hosted.clone(), name.clone(), reference.clone());
    later(async move {
        hosted.delete_manifest(&name, &reference).await?;
        Ok(Reply::new(StatusCode::ACCEPTED))
    })
}

/// What a pushed manifest is said to be.
fn media_type(request: &Request) -> Result<Option<MediaType>, ApiError> {
    let text = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let invalid = |_: &str| hosted::Error::ManifestInvalid("its Content-Type is no media type".to_owned());
    Ok(text.map(str::parse).transpose().map_err(invalid)?)
}

/// The tags that a pushed manifest gets besides that of the path.
fn tags(query: Option<&str>) -> Result<Vec<Tag>, ApiError> {
    let mut tags = Vec::new();
    for text in query::values(query, "tag")? {
        let tag: Tag = text.parse().map_err(|bad: Invalid| PathError::Reference(bad))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn whole(request: &Request, found: ManifestAnswer) -> Reply {
    let manifest = found.manifest;
    let mut reply = described(request, &manifest.digest, &manifest.media_type, found.facts);
    if reply.status == StatusCode::OK {
        reply.content = Content::Bytes(manifest.bytes);
    }
    reply
}

fn head(request: &Request, found: ManifestHead) -> Reply {
    let mut reply = described(request, &found.digest, &found.media_type, found.facts);
    if reply.status == StatusCode::OK {
        reply.content = Content::Promised(found.size);
    }
    reply
}

/// The headers of a manifest; 304 when the client has it.
fn described(request: &Request, digest: &Digest, media_type: &MediaType, facts: CacheFacts) -> Reply {
    let digest = headers::of_digest(digest);
    let mut reply = match headers::none_match(request.headers(), &digest.etag) {
        true => Reply::new(StatusCode::NOT_MODIFIED),
        false => {
            let mut reply = Reply::new(StatusCode::OK);
            let media_type = HeaderValue::from_str(media_type.as_str());
            let media_type = media_type.unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
            reply.headers.insert(CONTENT_TYPE, media_type);
            reply
        }
    };
    reply.headers.insert(headers::DOCKER_CONTENT_DIGEST, digest.plain);
    reply.headers.insert(ETAG, digest.etag);
    reply.cache = Some(facts);
    reply
}

/// What the recipe of scanners' manuals reads off a HEAD, in Docker Hub's own fields: what the client's class may use of the upstream
/// budget. Free, and nothing is counted. An upstream that names no limit has nothing to say.
fn with_budget(mut reply: Reply, mirror: &Mirror, request: &Request, lookup: &Lookup) -> Reply {
    let client = &request.client;
    if let Some((limit, remaining, window)) = mirror.allowance(&lookup.upstream, client, SystemTime::now()) {
        headers::add_fields(&mut reply.headers, &limit_headers::docker_hub(&client.key, limit, remaining, window));
    }
    reply
}
