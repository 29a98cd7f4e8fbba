//! Blobs on their way into a hosted repository: one POST, POST and PUT, or chunks between them (end-4 to end-6, end-11, end-13, end-14).
//!
//! Every form is the same session, for however long it lives: bytes are appended while they arrive, a closing PUT names the
//! digest, and 201 goes out when the blob is on the disk. A chunk that does not begin where the last one ended is refused
//! with 416 and the session stays; the answer says where to go on.

use actix_http::{
    StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE},
};

use super::{
    body::RequestBody,
    context::Context,
    error::ApiError,
    headers,
    outcome::{Handled, later, now},
    path, query,
    reply::Reply,
    request::{Request, SharedRequest},
};
use crate::{
    hosted::{Error, MountSource, Right, Upload},
    mirror::{Cost, Lookup},
    oci::{Algorithm, Digest, Name},
    route::Route,
};

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Begins an upload: a session, a blob in one request (`?digest=`), or a mount (`?mount=`, end-11).
pub(crate) fn begin(cx: &Context, request: &SharedRequest, name: &Name) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    let Wish { mount, from, digest, algorithm } = Wish::of(request.query())?;
    let (hosted, mirror, routes) = (cx.hosted.clone(), cx.mirror.clone(), cx.routes.get());
    let limits = cx.limits.clone();
    let (request, name) = (request.clone(), name.clone());
    later(async move {
        let client = &request.client;
        if let Some(digest) = &mount {
            let found = from.as_deref().map(|from| path::name(from).ok().and_then(|from| routes.find(&from, None)));
            let mounted = match found {
                None => hosted.mount(client, &name, digest, MountSource::Anywhere).await?,
                Some(Some(Route::Hosted(from))) => {
                    hosted.mount(client, &name, digest, MountSource::Hosted(&from)).await?
                }
                // The client uploads it then, as it does for any blob that cannot be mounted.
                Some(Some(Route::Mirrored(from)))
                    if limits.config().repositories.refuses(&from.upstream, &from.repository) =>
                {
                    false
                }
                Some(Some(Route::Mirrored(from))) => {
                    let lookup = Lookup {
                        upstream: from.upstream,
                        repository: from.repository,
                        client: client.clone(),
                        cached_only: None,
                        cost: Cost::default(),
                    };
                    match mirror.blobs.whole(&lookup, digest).await {
                        Ok(Some(held)) => hosted.mount(client, &name, digest, MountSource::Mirrored(&held)).await?,
                        Ok(None) | Err(_) => false,
                    }
                }
                Some(None) => false,
            };
            if mounted {
                return Ok(created(&name, digest));
            }
        }
        let algorithm = digest.as_ref().map_or(algorithm, Digest::algorithm);
        let mut upload = hosted.begin(client, &name, algorithm).await?;
        let Some(digest) = digest.filter(|_| mount.is_none()) else {
            return Ok(in_progress(StatusCode::ACCEPTED, &name, &upload));
        };
        // The client does not learn the id of this session, so that it could not go on with it.
        let mut cancel = Cancel(Some(upload.clone()));
        receive(&request, &mut upload).await?;
        upload.commit(&digest).await.map_err(Error::from)?;
        cancel.0 = None;
        Ok(created(&name, &digest))
    })
}

/// How far an upload has come (end-13).
pub(crate) fn get(cx: &Context, request: &Request, name: &Name, id: &str) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    now(in_progress(StatusCode::NO_CONTENT, name, &cx.hosted.upload(&request.client, name, id)?))
}

/// Takes a chunk, or a stream (end-5).
pub(crate) fn patch(cx: &Context, request: &SharedRequest, name: &Name, id: &str) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    let mut upload = cx.hosted.upload(&request.client, name, id)?;
    let (request, name) = (request.clone(), name.clone());
    later(async move {
        let received = receive(&request, &mut upload).await;
        received.map_err(|error| resumable(error, &name, &upload))?;
        Ok(in_progress(StatusCode::ACCEPTED, &name, &upload))
    })
}

/// Takes the last chunk, if there is one, and makes it a blob (end-6).
pub(crate) fn put(cx: &Context, request: &SharedRequest, name: &Name, id: &str) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    let mut upload = cx.hosted.upload(&request.client, name, id)?;
    let digest = query::value(request.query(), "digest")?;
    let digest = digest.ok_or_else(|| Error::DigestInvalid("the closing PUT names a digest, ?digest=…".into()))?;
    let digest = digest.parse::<Digest>().map_err(Error::from)?;
    let (request, name) = (request.clone(), name.clone());
    later(async move {
        let received = receive(&request, &mut upload).await;
        received.map_err(|error| resumable(error, &name, &upload))?;
        upload.commit(&digest).await.map_err(Error::from)?;
        Ok(created(&name, &digest))
    })
}

/// Ends an upload (end-14).
pub(crate) fn delete(cx: &Context, request: &Request, name: &Name, id: &str) -> Handled {
    cx.hosted.may(&request.client, Right::Push, name)?;
    let mut upload = cx.hosted.upload(&request.client, name, id)?;
    later(async move {
        upload.cancel().await.map_err(Error::from)?;
        Ok(Reply::new(StatusCode::NO_CONTENT))
    })
}

/// What a POST asks for besides a session.
struct Wish {
    mount: Option<Digest>,
    from: Option<String>,
    digest: Option<Digest>,
    algorithm: Algorithm,
}

impl Wish {
    fn of(query: Option<&str>) -> Result<Wish, ApiError> {
        let digest = |name| -> Result<_, ApiError> {
            let text = query::value(query, name)?;
            Ok(text.map(|text| text.parse::<Digest>()).transpose().map_err(Error::from)?)
        };
        let algorithm = match query::value(query, "digest-algorithm")?.as_deref() {
            None | Some("sha256") => Algorithm::Sha256,
            Some("sha512") => Algorithm::Sha512,
            Some(_) => return Err(Error::DigestInvalid("digests are sha256 or sha512 here".into()).into()),
        };
        let from = query::value(query, "from")?.map(|from| from.into_owned());
        Ok(Wish { mount: digest("mount")?, from, digest: digest("digest")?, algorithm })
    }
}

/// Ends a session whose request does not come to its end.
struct Cancel(Option<Upload>);

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(mut upload) = self.0.take() {
            // An upload that has ended already says so, which is well.
            actix_rt::spawn(async move { drop(upload.cancel().await) });
        }
    }
}

/// Appends the request's body, hashing and writing one piece while the next arrives.
async fn receive(request: &Request, upload: &mut Upload) -> Result<(), ApiError> {
    let range = match request.headers().get(CONTENT_RANGE) {
        None => None,
        Some(value) => {
            let range = value.to_str().ok().and_then(chunk_range);
            Some(range.ok_or(Error::UploadInvalid("its Content-Range is no first-last"))?)
        }
    };
    if let Some((start, end)) = range {
        if start != upload.written() {
            return Err(ApiError::OutOfOrder);
        }
        if request.number(&CONTENT_LENGTH).is_some_and(|length| length != end - start) {
            return Err(Error::UploadInvalid("its Content-Range and its Content-Length differ").into());
        }
    }
    upload.take_over().await;
    let start = upload.written();
    if range.is_some_and(|(first, _)| first != start) {
        return Err(ApiError::OutOfOrder);
    }
    append(request.body(), upload, start).await?;
    let came = upload.written() - start;
    if range.is_some_and(|(first, end)| came != end - first) {
        roll_back(upload, start).await;
        return Err(Error::UploadInvalid("the chunk is not as long as its Content-Range").into());
    }
    Ok(())
}

/// Takes back what came of a chunk, so that the client can send it again from where it began.
async fn roll_back(upload: &Upload, start: u64) {
    if let Err(error) = upload.roll_back(start).await {
        tracing::warn!(%error, "an upload cannot be rolled back");
    }
}

async fn append(mut body: RequestBody, upload: &Upload, start: u64) -> Result<(), ApiError> {
    let mut next = body.next().await;
    while let Some(piece) = next? {
        let (appended, arrived) = futures_util::join!(upload.append(vec![piece]), body.next());
        if let Err(error) = appended.map_err(Error::from) {
            // None of what cannot be taken whole is kept: on a full disk that would be in the way of all.
            if !matches!(error, Error::UploadUnknown) {
                roll_back(upload, start).await;
            }
            return Err(error.into());
        }
        next = arrived;
    }
    Ok(())
}

/// The error, with where to go on when the session lives.
fn resumable(error: ApiError, name: &Name, upload: &Upload) -> ApiError {
    if matches!(error, ApiError::Hosted(Error::UploadUnknown)) {
        return error;
    }
    let mut headers = HeaderMap::new();
    add_progress(&mut headers, name, upload);
    ApiError::Resumable(Box::new((error, headers)))
}

fn in_progress(status: StatusCode, name: &Name, upload: &Upload) -> Reply {
    let mut reply = Reply::new(status);
    add_progress(&mut reply.headers, name, upload);
    reply
}

fn add_progress(headers: &mut HeaderMap, name: &Name, upload: &Upload) {
    let id = upload.id();
    // Of nothing there is no last byte; clients expect the same as of one.
    let range = format!("0-{}", upload.written().saturating_sub(1));
    for (header, value) in
        [(LOCATION, format!("/v2/{name}/blobs/uploads/{id}")), (RANGE, range), (DOCKER_UPLOAD_UUID, id.to_owned())]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(header, value);
        }
    }
}

/// 201 for a blob. Its location is a path: what host and scheme the client used is nothing a request can be believed about.
fn created(name: &Name, digest: &Digest) -> Reply {
    let mut reply = Reply::new(StatusCode::CREATED);
    reply.set(LOCATION, format!("/v2/{name}/blobs/{digest}"));
    reply.headers.insert(headers::DOCKER_CONTENT_DIGEST, headers::of_digest(digest).plain);
    reply
}

/// `first-last` of a chunk (end-5), also as RFC 9110 would write it, to first and end.
fn chunk_range(value: &str) -> Option<(u64, u64)> {
    let value = value.trim();
    let value = value.strip_prefix("bytes ").map_or(value, |rest| rest.split('/').next().unwrap_or(rest));
    let (first, last) = value.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_its_first_and_its_last_byte() {
        assert_eq!(chunk_range("0-9"), Some((0, 10)));
        assert_eq!(chunk_range("bytes 5-5/*"), Some((5, 6)));
        for bad in ["", "-", "5", "9-0", "a-b", "0-", "-9", "+1-2", "0-18446744073709551615"] {
            assert_eq!(chunk_range(bad), None, "{bad}");
        }
    }
}
