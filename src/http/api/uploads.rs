//! Blobs on their way into a hosted repository: one POST, POST and PUT, or chunks between them (end-4 to end-6, end-11, end-13, end-14).
//!
//! Every form is the same session, for however long it lives: bytes are appended while they arrive, a closing PUT names the
//! digest, and 201 goes out when the blob is on the disk. A chunk that does not begin where the last one ended is refused
//! with 416 and the session stays; the answer says where to go on.

use std::time::Duration;

use actix_http::{
    Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RANGE},
};
use bytes::Bytes;

use crate::http::{
    Registry,
    body::Body,
    error::ApiError,
    headers, path, query,
    request_body::RequestBody,
    request_context::{RequestContext, ResponseFuture, TargetRepository},
};
use crate::{
    hosted::{Error, MountSource, Right, Upload},
    mirror::Lookup,
    oci::{Algorithm, Digest, Name},
    route::Route,
};

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The methods of a session, and of the place where sessions begin.
const SESSION: &str = "GET, HEAD, PATCH, PUT, DELETE";
const BEGIN: &str = "POST";

pub(crate) fn answer(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    id: Option<Box<str>>,
) -> ResponseFuture {
    let (hosted, stall) = (registry.hosted.clone(), registry.body_stall);
    let method = exchange.request.method().clone();
    if let Err(error) = hosted.may(&place.ask.client, Right::Push, &place.ask.repository) {
        return ResponseFuture::now(exchange.fail(&ApiError::Hosted(error), Some(&place), None));
    }
    match (method, id) {
        (Method::POST, None) => begin(registry, exchange, place),
        (Method::PATCH, Some(id)) => ResponseFuture::later(async move {
            match hosted.upload(&place.ask.client, &place.ask.repository, &id) {
                Ok(upload) => patch(exchange, place, upload, stall).await,
                Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            }
        }),
        (Method::PUT, Some(id)) => ResponseFuture::later(async move {
            match hosted.upload(&place.ask.client, &place.ask.repository, &id) {
                Ok(upload) => put(exchange, place, upload, stall).await,
                Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            }
        }),
        (Method::GET | Method::HEAD, Some(id)) => {
            ResponseFuture::now(match hosted.upload(&place.ask.client, &place.ask.repository, &id) {
                Ok(upload) => in_progress(exchange, &place, &upload, StatusCode::NO_CONTENT),
                Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            })
        }
        (Method::DELETE, Some(id)) => ResponseFuture::later(async move {
            let cancelled = match hosted.upload(&place.ask.client, &place.ask.repository, &id) {
                Ok(mut upload) => upload.cancel().await,
                Err(error) => Err(error),
            };
            match cancelled {
                Ok(()) => exchange.empty(&place, StatusCode::NO_CONTENT),
                Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            }
        }),
        (_, id) => {
            let allow = if id.is_some() { SESSION } else { BEGIN };
            ResponseFuture::now(exchange.fail(&ApiError::NotAllowed(allow), Some(&place), None))
        }
    }
}

/// What a POST asks for besides a session.
struct Wish {
    mount: Option<Digest>,
    from: Option<String>,
    digest: Option<Digest>,
    algorithm: Algorithm,
}

impl Wish {
    fn of(exchange: &RequestContext) -> Result<Wish, ApiError> {
        let value = |name| query::value(exchange.query(), name).map_err(ApiError::Query);
        let digest = |name| {
            let text = value(name)?;
            text.map(|text| text.parse::<Digest>()).transpose().map_err(|bad| ApiError::Hosted(bad.into()))
        };
        let algorithm = match value("digest-algorithm")?.as_deref() {
            None | Some("sha256") => Algorithm::Sha256,
            Some("sha512") => Algorithm::Sha512,
            Some(_) => return Err(ApiError::Hosted(Error::DigestInvalid("digests are sha256 or sha512 here".into()))),
        };
        let from = value("from")?.map(|from| from.into_owned());
        Ok(Wish { mount: digest("mount")?, from, digest: digest("digest")?, algorithm })
    }
}

fn begin(registry: &Registry, exchange: RequestContext, place: TargetRepository) -> ResponseFuture {
    let wish = match Wish::of(&exchange) {
        Ok(wish) => wish,
        Err(failure) => return ResponseFuture::now(exchange.fail(&failure, Some(&place), None)),
    };
    let (hosted, stall) = (registry.hosted.clone(), registry.body_stall);
    let (mirror, routes) = (registry.mirror.clone(), registry.routes.clone());
    ResponseFuture::later(async move {
        let (client, name) = (&place.ask.client, &place.ask.repository);
        if let Some(digest) = &wish.mount {
            let found =
                wish.from.as_deref().map(|from| path::name(from).ok().and_then(|from| routes.find(&from, None)));
            let mounted = match found {
                None => hosted.mount(client, name, digest, MountSource::Anywhere).await,
                Some(Some(Route::Hosted(from))) => hosted.mount(client, name, digest, MountSource::Hosted(&from)).await,
                Some(Some(Route::Mirrored(from))) => {
                    let ask = Lookup { upstream: from.upstream, repository: from.repository, ..place.ask.clone() };
                    hosted.mount(client, name, digest, MountSource::Mirrored(&mirror, &ask)).await
                }
                Some(None) => Ok(false),
            };
            match mounted {
                Ok(true) => return created(exchange, &place, digest),
                Ok(false) => {}
                Err(error) => return exchange.fail(&ApiError::Hosted(error), Some(&place), None),
            }
        }
        let algorithm = wish.digest.as_ref().map_or(wish.algorithm, Digest::algorithm);
        let mut upload = match hosted.begin(client, name, algorithm).await {
            Ok(upload) => upload,
            Err(error) => return exchange.fail(&ApiError::Hosted(error), Some(&place), None),
        };
        match wish.digest.filter(|_| wish.mount.is_none()) {
            None => in_progress(exchange, &place, &upload, StatusCode::ACCEPTED),
            Some(digest) => {
                // Nobody learns the id of this session, so that nobody could go on with it.
                let mut cancel = Cancel(Some(upload.clone()));
                let (mut exchange, received) = receive(exchange, &mut upload, stall).await;
                if let Err(failure) = received {
                    return exchange.fail(&failure, Some(&place), None);
                }
                exchange.turn.is_for(crate::http::metrics::Kind::Upload);
                let response = commit(exchange, &place, &upload, &digest).await;
                if response.status() == StatusCode::CREATED {
                    cancel.0 = None;
                }
                response
            }
        }
    })
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

async fn patch(
    exchange: RequestContext,
    place: TargetRepository,
    mut upload: Upload,
    stall: Duration,
) -> Response<Body> {
    let (exchange, received) = receive(exchange, &mut upload, stall).await;
    match received {
        Ok(()) => in_progress(exchange, &place, &upload, StatusCode::ACCEPTED),
        Err(failure) => refuse(exchange, &place, &upload, &failure),
    }
}

async fn put(exchange: RequestContext, place: TargetRepository, mut upload: Upload, stall: Duration) -> Response<Body> {
    let digest = match query::value(exchange.query(), "digest").map_err(ApiError::Query) {
        Ok(Some(text)) => text.parse::<Digest>().map_err(|bad| ApiError::Hosted(bad.into())),
        Ok(None) => Err(ApiError::Hosted(Error::DigestInvalid("the closing PUT names a digest, ?digest=…".into()))),
        Err(failure) => Err(failure),
    };
    let digest = match digest {
        Ok(digest) => digest,
        Err(failure) => return exchange.fail(&failure, Some(&place), None),
    };
    let (exchange, received) = receive(exchange, &mut upload, stall).await;
    match received {
        Ok(()) => commit(exchange, &place, &upload, &digest).await,
        Err(failure) => refuse(exchange, &place, &upload, &failure),
    }
}

async fn commit(
    exchange: RequestContext,
    place: &TargetRepository,
    upload: &Upload,
    digest: &Digest,
) -> Response<Body> {
    match upload.commit(digest).await {
        Ok(()) => created(exchange, place, digest),
        Err(error) => exchange.fail(&ApiError::Hosted(error), Some(place), None),
    }
}

/// Appends the request's body, hashing and writing one piece while the next arrives.
async fn receive(
    mut exchange: RequestContext,
    upload: &mut Upload,
    stall: Duration,
) -> (RequestContext, Result<(), ApiError>) {
    let length = number(&exchange, &CONTENT_LENGTH);
    let range = match exchange.head().headers().get(CONTENT_RANGE) {
        None => None,
        Some(value) => match value.to_str().ok().and_then(chunk_range) {
            Some(range) => Some(range),
            None => {
                return (exchange, Err(ApiError::Hosted(Error::UploadInvalid("its Content-Range is no first-last"))));
            }
        },
    };
    if let Some((start, end)) = range {
        if start != upload.written() {
            return (exchange, Err(ApiError::OutOfOrder));
        }
        if length.is_some_and(|length| length != end - start) {
            let failure = Error::UploadInvalid("its Content-Range and its Content-Length differ");
            return (exchange, Err(ApiError::Hosted(failure)));
        }
    }
    upload.take_over().await;
    let start = upload.written();
    if range.is_some_and(|(first, _)| first != start) {
        return (exchange, Err(ApiError::OutOfOrder));
    }
    let mut intake = RequestBody::of(&mut exchange, stall);
    let mut next = intake.next().await;
    loop {
        let piece = match next {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(cut) => return (exchange, Err(ApiError::Cut(cut))),
        };
        let (appended, arrived) = futures_util::join!(upload.append(piece), intake.next());
        if let Err(error) = appended {
            // None of what cannot be taken whole is kept: on a full disk that would be in everybody's way.
            if !matches!(error, Error::UploadUnknown)
                && let Err(error) = upload.roll_back(start).await
            {
                tracing::warn!(%error, "an upload cannot be rolled back");
            }
            return (exchange, Err(ApiError::Hosted(error)));
        }
        next = arrived;
    }
    let came = upload.written() - start;
    if range.is_some_and(|(first, end)| came != end - first) {
        return (
            exchange,
            Err(ApiError::Hosted(Error::UploadInvalid("the chunk is not as long as its Content-Range"))),
        );
    }
    (exchange, Ok(()))
}

/// The failure, and where to go on when the session lives.
fn refuse(exchange: RequestContext, place: &TargetRepository, upload: &Upload, failure: &ApiError) -> Response<Body> {
    let mut response = exchange.fail(failure, Some(place), None);
    if !matches!(failure, ApiError::Hosted(Error::UploadUnknown)) {
        progress(&mut response, &place.ask.repository, upload);
    }
    response
}

fn in_progress(
    exchange: RequestContext,
    place: &TargetRepository,
    upload: &Upload,
    status: StatusCode,
) -> Response<Body> {
    let mut response = exchange.empty(place, status);
    progress(&mut response, &place.ask.repository, upload);
    response
}

fn progress(response: &mut Response<Body>, name: &Name, upload: &Upload) {
    let id = upload.id();
    let written = upload.written();
    // Of nothing there is no last byte; clients expect the same as of one.
    let range = format!("0-{}", written.saturating_sub(1));
    for (header, value) in
        [(LOCATION, format!("/v2/{name}/blobs/uploads/{id}")), (RANGE, range), (DOCKER_UPLOAD_UUID, id.to_owned())]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(header, value);
        }
    }
}

/// 201 for a blob. Its place is a path: what host and scheme the client used is nothing a request can be believed about.
fn created(exchange: RequestContext, place: &TargetRepository, digest: &Digest) -> Response<Body> {
    exchange.turn.pushed(None);
    let mut response = exchange.empty(place, StatusCode::CREATED);
    let location = format!("/v2/{}/blobs/{digest}", place.ask.repository);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.headers_mut().insert(headers::DOCKER_CONTENT_DIGEST, headers::of_digest(digest).plain);
    response
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

fn number(exchange: &RequestContext, name: &HeaderName) -> Option<u64> {
    exchange.head().headers().get(name)?.to_str().ok()?.parse().ok()
}

/// A body that is one short document: a manifest.
pub(super) async fn document(
    mut exchange: RequestContext,
    stall: Duration,
    most: usize,
) -> (RequestContext, Result<Bytes, ApiError>) {
    if number(&exchange, &CONTENT_LENGTH).is_some_and(|length| length > most as u64) {
        return (exchange, Err(ApiError::TooLarge(most)));
    }
    let whole = RequestBody::of(&mut exchange, stall).whole(most).await;
    let document = match whole {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(ApiError::TooLarge(most)),
        Err(cut) => Err(ApiError::Cut(cut)),
    };
    (exchange, document)
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
