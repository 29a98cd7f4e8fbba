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

use super::{metrics::Kind, retry_after};

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not exist.
    NotFound,
    /// Not for this identity.
    Denied,
    /// HEAD is not spoken here.
    NoHead,
    /// Nothing left to pull.
    PullLimit(Option<Duration>),
    /// Too many requests of any kind.
    AbuseLimit(Option<Duration>, Arc<str>),
    /// Its own trouble, and for how long it thinks that lasts.
    Trouble(Option<Duration>),
    /// An answer to another question.
    Nonsense,
}

/// Bytes of an error's body that are read at all.
pub(crate) const MOST_READ: usize = 64 * 1024;
/// And of its text that is repeated to a client.
const MOST_REPEATED: usize = 200;

/// Reads the status, `Retry-After` and, of a 429, the body.
pub(crate) fn judge(kind: Kind, status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Refusal {
    let asked = headers.get(RETRY_AFTER).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let asked = asked.and_then(|text| retry_after::parse(&text, now));
    match status {
        StatusCode::NOT_FOUND => Refusal::NotFound,
        // A registry that does not know the referrers API says 404 (end-12); some say that they do not know the method.
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED if kind == Kind::Referrers => Refusal::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Refusal::Denied,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
            if matches!(kind, Kind::ManifestHead | Kind::BlobHead) =>
        {
            Refusal::NoHead
        }
        StatusCode::TOO_MANY_REQUESTS => limited(kind, asked, body, now),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => Refusal::Trouble(asked),
        _ => Refusal::Nonsense,
    }
}

/// Docker Hub has two limits that share a status. The pull limit answers the GET of a manifest in the registry's JSON; the abuse limit
/// answers anything, in plain text. ghcr's limit speaks JSON too, but says in the message when to come back.
fn limited(kind: Kind, asked: Option<Duration>, body: &[u8], now: SystemTime) -> Refusal {
    let told = serde_json::from_slice::<Errors>(body)
        .ok()
        .and_then(|errors| errors.errors.into_iter().find(|error| error.code.eq_ignore_ascii_case("TOOMANYREQUESTS")));
    match told {
        Some(error) => match retry_after::in_message(&error.message, now) {
            Some(wait) => Refusal::AbuseLimit(asked.or(Some(wait)), printable(&error.message)),
            None if kind == Kind::ManifestGet => Refusal::PullLimit(asked),
            None => Refusal::AbuseLimit(asked, printable(&error.message)),
        },
        None => {
            let text = String::from_utf8_lossy(body);
            // A page of HTML tells a client nothing.
            let text = if text.contains('<') { String::new() } else { text.into_owned() };
            Refusal::AbuseLimit(asked, printable(&text))
        }
    }
}

/// A line of text that may stand in a header or on a terminal.
fn printable(text: &str) -> Arc<str> {
    let clean: String = text.trim().chars().filter(|character| !character.is_control()).take(MOST_REPEATED).collect();
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
    fn the_two_limits_are_told_apart() {
        const PULLS: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
        const GHCR: &str =
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 880.092µs, allowed: 44000/minute"}]}"#;
        let seconds = |n| Some(Duration::from_secs(n));
        let abuse = |wait, text: &str| Refusal::AbuseLimit(wait, Arc::from(text));
        for (kind, retry, body, expected) in [
            (Kind::ManifestGet, None, PULLS, Refusal::PullLimit(None)),
            (Kind::ManifestGet, Some("7"), PULLS, Refusal::PullLimit(seconds(7))),
            (
                Kind::ManifestGet,
                Some("60"),
                "Too Many Requests (HAP429).\n",
                abuse(seconds(60), "Too Many Requests (HAP429)."),
            ),
            (Kind::ManifestGet, None, "<html>no</html>", abuse(None, "too many requests")),
            (Kind::ManifestHead, Some("5"), "", abuse(seconds(5), "too many requests")),
            (
                Kind::ManifestGet,
                None,
                GHCR,
                abuse(Some(Duration::from_nanos(880_092)), "retry-after: 880.092µs, allowed: 44000/minute"),
            ),
            (
                Kind::Tags,
                None,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\r\ndown"}]}"#,
                abuse(None, "slowdown"),
            ),
            (Kind::Tags, None, r#"{"errors":[]}"#, abuse(None, r#"{"errors":[]}"#)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(retry) = retry {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(retry));
            }
            let status = StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(judge(kind, status, &headers, body.as_bytes(), SystemTime::now()), expected, "{kind:?} {body}");
        }
    }

    #[test]
    fn every_other_status_has_one_meaning() {
        for (kind, status, expected) in [
            (Kind::ManifestGet, 404, Refusal::NotFound),
            (Kind::ManifestGet, 401, Refusal::Denied),
            (Kind::ManifestGet, 403, Refusal::Denied),
            (Kind::ManifestHead, 405, Refusal::NoHead),
            (Kind::BlobHead, 501, Refusal::NoHead),
            (Kind::Referrers, 405, Refusal::NotFound),
            (Kind::ManifestGet, 405, Refusal::Nonsense),
            (Kind::BlobGet, 501, Refusal::Trouble(None)),
            (Kind::BlobGet, 500, Refusal::Trouble(None)),
            (Kind::BlobGet, 503, Refusal::Trouble(None)),
            (Kind::BlobGet, 408, Refusal::Trouble(None)),
            (Kind::BlobGet, 204, Refusal::Nonsense),
            (Kind::BlobGet, 418, Refusal::Nonsense),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let judged = judge(kind, status, &HeaderMap::new(), b"", SystemTime::now());
            assert_eq!(judged, expected, "{kind:?} {status}");
        }
    }
}
