//! What a status that is no success means. Pure, but for the clock it is given.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::Deserialize;

use super::{metrics::Operation, retry_after};

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ErrorResponse {
    /// It does not exist.
    NotFound,
    /// Not for this identity.
    Denied,
    /// HEAD is not spoken here.
    HeadNotAllowed,
    /// Nothing left to pull.
    PullLimit(Option<Duration>),
    /// Too many requests of any kind.
    AbuseLimit(Option<Duration>, Arc<str>),
    /// Its own trouble, and for how long it thinks that lasts.
    ServerError(Option<Duration>),
    /// An answer to another request.
    Unexpected,
}

/// Bytes of an error's body that are read at all.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// And of its text that is repeated to a client.
const MAX_MESSAGE: usize = 200;

/// Reads the status, `Retry-After` and, of a 429, the body.
pub(crate) fn classify(
    kind: Operation,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> ErrorResponse {
    let asked = headers.get(RETRY_AFTER).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let asked = asked.and_then(|text| retry_after::parse(&text, now));
    match status {
        StatusCode::NOT_FOUND => ErrorResponse::NotFound,
        // A registry that does not know the referrers API says 404 (end-12); some say that they do not know the method.
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED if kind == Operation::Referrers => {
            ErrorResponse::NotFound
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorResponse::Denied,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
            if matches!(kind, Operation::ManifestHead | Operation::BlobHead) =>
        {
            ErrorResponse::HeadNotAllowed
        }
        StatusCode::TOO_MANY_REQUESTS => limited(kind, asked, body, now),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            ErrorResponse::ServerError(asked)
        }
        _ => ErrorResponse::Unexpected,
    }
}

/// Docker Hub has two limits that share a status. The pull limit answers the GET of a manifest in the registry's JSON; the abuse limit
/// answers anything, in plain text. ghcr's limit speaks JSON too, but says in the message when to come back.
fn limited(kind: Operation, asked: Option<Duration>, body: &[u8], now: SystemTime) -> ErrorResponse {
    let errors = serde_json::from_slice::<Errors>(body)
        .ok()
        .and_then(|errors| errors.errors.into_iter().find(|error| error.code.eq_ignore_ascii_case("TOOMANYREQUESTS")));
    match errors {
        Some(error) => match retry_after::in_message(&error.message, now) {
            Some(wait) => ErrorResponse::AbuseLimit(asked.or(Some(wait)), printable(&error.message)),
            None if kind == Operation::ManifestGet => ErrorResponse::PullLimit(asked),
            None => ErrorResponse::AbuseLimit(asked, printable(&error.message)),
        },
        None => {
            let text = String::from_utf8_lossy(body);
            // A page of HTML tells a client nothing.
            let text = if text.contains('<') { String::new() } else { text.into_owned() };
            ErrorResponse::AbuseLimit(asked, printable(&text))
        }
    }
}

/// A line of text that may stand in a header or on a terminal.
fn printable(text: &str) -> Arc<str> {
    let clean: String = text.trim().chars().filter(|character| !character.is_control()).take(MAX_MESSAGE).collect();
    if clean.is_empty() { Arc::from("too many requests") } else { Arc::from(clean) }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_two_limits_are_distinguished() {
        const PULLS: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
        const GHCR: &str =
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 880.092µs, allowed: 44000/minute"}]}"#;
        let seconds = |n| Some(Duration::from_secs(n));
        let abuse = |wait, text: &str| ErrorResponse::AbuseLimit(wait, Arc::from(text));
        for (kind, retry, body, expected) in [
            (Operation::ManifestGet, None, PULLS, ErrorResponse::PullLimit(None)),
            (Operation::ManifestGet, Some("7"), PULLS, ErrorResponse::PullLimit(seconds(7))),
            (
                Operation::ManifestGet,
                Some("60"),
                "Too Many Requests (HAP429).\n",
                abuse(seconds(60), "Too Many Requests (HAP429)."),
            ),
            (Operation::ManifestGet, None, "<html>no</html>", abuse(None, "too many requests")),
            (Operation::ManifestHead, Some("5"), "", abuse(seconds(5), "too many requests")),
            (
                Operation::ManifestGet,
                None,
                GHCR,
                abuse(Some(Duration::from_nanos(880_092)), "retry-after: 880.092µs, allowed: 44000/minute"),
            ),
            (
                Operation::Tags,
                None,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\r\ndown"}]}"#,
                abuse(None, "slowdown"),
            ),
            (Operation::Tags, None, r#"{"errors":[]}"#, abuse(None, r#"{"errors":[]}"#)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(retry) = retry {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(retry));
            }
            let status = StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(
                classify(kind, status, &headers, body.as_bytes(), SystemTime::now()),
                expected,
                "{kind:?} {body}"
            );
        }
    }

    #[test]
    fn every_other_status_has_one_meaning() {
        for (kind, status, expected) in [
            (Operation::ManifestGet, 404, ErrorResponse::NotFound),
            (Operation::ManifestGet, 401, ErrorResponse::Denied),
            (Operation::ManifestGet, 403, ErrorResponse::Denied),
            (Operation::ManifestHead, 405, ErrorResponse::HeadNotAllowed),
            (Operation::BlobHead, 501, ErrorResponse::HeadNotAllowed),
            (Operation::Referrers, 405, ErrorResponse::NotFound),
            (Operation::ManifestGet, 405, ErrorResponse::Unexpected),
            (Operation::BlobGet, 501, ErrorResponse::ServerError(None)),
            (Operation::BlobGet, 500, ErrorResponse::ServerError(None)),
            (Operation::BlobGet, 503, ErrorResponse::ServerError(None)),
            (Operation::BlobGet, 408, ErrorResponse::ServerError(None)),
            (Operation::BlobGet, 204, ErrorResponse::Unexpected),
            (Operation::BlobGet, 418, ErrorResponse::Unexpected),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let classified = classify(kind, status, &HeaderMap::new(), b"", SystemTime::now());
            assert_eq!(classified, expected, "{kind:?} {status}");
        }
    }
}
