//! The one table: what went wrong to status, code and headers; and the JSON every client can print.
//!
//! What clients make of it is measured (`conformance/RESULTS.md`): most print `code` and `message`, some `message` and `detail` with a
//! separator between them, docker nothing of a 5xx; containerd prints nothing of a HEAD; only registered codes are printed by name.
//! Hence a whole sentence in `message`, a 4xx wherever the client could do something about it, and `detail` a string, the only shape
//! docker prints, or left out.

use std::{sync::Arc, time::Duration};

use actix_http::{
    StatusCode,
    header::{ALLOW, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    QueryError,
    body::Cut,
    headers,
    path::{PathError, Resource},
    reply::Reply,
};
use crate::{
    hosted,
    identity::AuthError,
    limits::permit::{DenialCause, Denied},
    mirror,
    policy::Breach,
};

/// Headers of a request, in bytes, names and values together. Enough for any client seen; a token of a kilobyte fits well.
pub(crate) const MAX_HEADER_BYTES: usize = 32 << 10;

/// Headers that actix-http takes, and refuses more by itself.
const MAX_HEADERS: usize = 96;

/// The longest wait that is named. Pulls come back that no forecast knew of, and many clients sleep for the whole time
/// and say nothing meanwhile; the sentence has the whole wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The longest wait that is named to a client which sleeps for all of it, several times over; for a longer one it is zero, since no
/// sleep would help.
///
/// containers/image sleeps up to 60 s and four times a request, with 2 to 16 s when no wait is named, and podman does that four times
/// over: with 5 s each time, its user reads after 84 s why nothing came; with zero, after some seconds.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// How the User-Agents of programs begin that sleep for any time, and then hide the sentence behind a
/// "retry limit exceeded" (regclient). Without a wait they give up within seconds and print it.
const NEVER_TOLD: [&[u8]; 1] = [b"regclient/"];

/// How the User-Agents of the programs that sleep begin: what is built on containers/image.
const SLEEPERS: [&[u8]; 6] = [b"containers/", b"skopeo/", b"libpod/", b"podman/", b"Buildah/", b"cri-o/"];

/// A code of the distribution-spec's table, or one of the two that clients know for a 5xx, for which the spec has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl Code {
    /// As it is written in the JSON.
    fn as_str(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::Denied => "DENIED",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unknown => "UNKNOWN",
            Code::Unsupported => "UNSUPPORTED",
        }
    }
}

/// Every error that a client can get instead of what it asked for.
#[derive(Clone, Debug)]
pub(crate) enum ApiError {
    /// The mirror's own words.
    Mirror(mirror::Error),
    /// A throttle or a ban.
    Denied(Arc<Denied>),
    /// This client asked for the same missing thing so often that upstream is not asked again for so long.
    MissThrottled(Duration),
    /// What the hosted namespaces say.
    Hosted(hosted::Error),
    /// The path names nothing.
    Path(PathError),
    /// A query parameter is not what it should be.
    Query(QueryError),
    /// No upstream is configured for this registry; no request is sent.
    UnknownRegistry(Box<str>),
    /// The operator does not have this repository mirrored; the sentence says so. No request is sent.
    NotMirrored(Box<str>),
    /// A policy refuses the image; the sentence says which, and why.
    RefusedImage(Arc<Breach>),
    /// Mirrored, and so not with this method; the value is that of `Allow`.
    ReadOnly(&'static str),
    /// The resource exists but not with this method; the value is that of `Allow`.
    MethodNotAllowed(&'static str),
    /// A chunk does not begin where the last one ended.
    OutOfOrder,
    /// The body is larger than so many bytes.
    TooLarge(usize),
    /// The body ended before its end.
    Cut(Cut),
    /// An upload was interrupted, and these headers say where to go on.
    Resumable(Box<(ApiError, HeaderMap)>),
    /// The range lies outside a blob of this size.
    Range(u64),
    /// A small blob stopped arriving, or was not what its digest says; nothing of it was sent.
    BlobStopped(mirror::Stopped),
    /// The listener wants a login.
    Login,
    /// The credentials were not verified.
    Unverified(AuthError),
    /// The headers are larger than they may be.
    HeadTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// What was sent is no HTTP request, or one that could be read in two ways.
    Malformed,
    /// It came in plain HTTP to a listener that speaks TLS.
    NoTls,
}

impl From<mirror::Error> for ApiError {
    fn from(error: mirror::Error) -> ApiError {
        ApiError::Mirror(error)
    }
}

impl From<hosted::Error> for ApiError {
    fn from(error: hosted::Error) -> ApiError {
        ApiError::Hosted(error)
    }
}

impl From<PathError> for ApiError {
    fn from(error: PathError) -> ApiError {
        ApiError::Path(error)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
        ApiError::Query(error)
    }
}

impl From<Cut> for ApiError {
    fn from(cut: Cut) -> ApiError {
        ApiError::Cut(cut)
    }
}

/// What a request is about, for the sentence of an error.
#[derive(Default)]
pub(crate) struct Subject<'a> {
    /// `docker.io/library/busybox`
    pub(crate) repository: Option<String>,
    /// What the path names.
    pub(crate) resource: Option<&'a Resource>,
    /// Where a client can log in that did not.
    pub(crate) login: Option<String>,
}

impl Subject<'_> {
    fn repository(&self) -> &str {
        self.repository.as_deref().unwrap_or("this repository")
    }

    /// `manifest 1.0`. Nothing of a blob's digest: what is private elsewhere must look like what is nowhere, to the byte.
    fn object(&self) -> String {
        match self.resource {
            Some(Resource::Manifest(_, reference)) => format!("manifest {reference}"),
            Some(Resource::Referrers(_, digest)) => format!("manifest {digest}"),
            Some(Resource::Blob(..)) => "such blob".to_owned(),
            _ => "such manifest".to_owned(),
        }
    }
}

/// One row of the table.
struct Row {
    status: StatusCode,
    code: Code,
    retry_after: Option<Duration>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    fn row(&self, subject: &Subject<'_>) -> Row {
        use mirror::Error as Mirror;
        let row = |status, code| Row { status, code, retry_after: None, header: None };
        match self {
            ApiError::Mirror(Mirror::NameUnknown) => row(StatusCode::NOT_FOUND, Code::NameUnknown),
            ApiError::Mirror(Mirror::ManifestUnknown) => row(StatusCode::NOT_FOUND, Code::ManifestUnknown),
            ApiError::Mirror(Mirror::BlobUnknown) => row(StatusCode::NOT_FOUND, Code::BlobUnknown),
            ApiError::Mirror(Mirror::BudgetSpent { retry_after, .. } | Mirror::UpstreamLimited { retry_after, .. }) => {
                Row { retry_after: Some(*retry_after), ..row(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests) }
            }
            ApiError::Denied(denied) | ApiError::Mirror(Mirror::Throttled(denied)) => {
                let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
                let code = if denied.as_denied { Code::Denied } else { Code::TooManyRequests };
                // Who is banned is not to come back by itself; a quota says when.
                let retry_after = (denied.cause != DenialCause::Banned).then_some(denied.retry_after);
                Row { retry_after, ..row(status, code) }
            }
            ApiError::MissThrottled(wait) => {
                let code = match subject.resource {
                    Some(Resource::Blob(..)) => Code::BlobUnknown,
                    Some(Resource::Tags(_)) => Code::NameUnknown,
                    _ => Code::ManifestUnknown,
                };
                Row { retry_after: Some(*wait), ..row(StatusCode::NOT_FOUND, code) }
            }
            ApiError::Mirror(Mirror::UpstreamUnavailable { retry_after, .. }) => {
                Row { retry_after: *retry_after, ..row(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable) }
            }
            ApiError::Mirror(Mirror::UpstreamMalformed { .. }) => row(StatusCode::BAD_GATEWAY, Code::Unavailable),
            ApiError::Mirror(Mirror::Internal) => row(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
            ApiError::Hosted(error) => hosted_row(error),
            ApiError::MethodNotAllowed(allow) => Row {
                header: Some((ALLOW, HeaderValue::from_static(allow))),
                ..row(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported)
            },
            ApiError::OutOfOrder => row(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid),
            ApiError::TooLarge(_) => row(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid),
            ApiError::Cut(Cut::Gone) => row(StatusCode::BAD_REQUEST, Code::SizeInvalid),
            ApiError::Cut(Cut::Slow) => row(StatusCode::REQUEST_TIMEOUT, Code::BlobUploadInvalid),
            ApiError::Path(PathError::Nowhere) => row(StatusCode::NOT_FOUND, Code::Unsupported),
            ApiError::Path(PathError::TooLong) => row(StatusCode::URI_TOO_LONG, Code::NameInvalid),
            ApiError::Path(PathError::Encoding | PathError::Name(_)) => row(StatusCode::BAD_REQUEST, Code::NameInvalid),
            ApiError::Path(PathError::Reference(_)) => row(StatusCode::BAD_REQUEST, Code::ManifestInvalid),
            ApiError::Path(PathError::Digest(_)) => row(StatusCode::BAD_REQUEST, Code::DigestInvalid),
            ApiError::Query(QueryError::TooLong) => row(StatusCode::URI_TOO_LONG, Code::Unsupported),
            ApiError::Query(_) => row(StatusCode::BAD_REQUEST, Code::Unsupported),
            ApiError::UnknownRegistry(_) => row(StatusCode::NOT_FOUND, Code::NameUnknown),
            ApiError::NotMirrored(_) | ApiError::RefusedImage(_) => row(StatusCode::FORBIDDEN, Code::Denied),
            ApiError::ReadOnly(allow) => Row {
                header: Some((ALLOW, HeaderValue::from_static(allow))),
                ..row(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported)
            },
            ApiError::Range(size) => Row {
                header: HeaderValue::from_str(&format!("bytes */{size}")).ok().map(|value| (CONTENT_RANGE, value)),
                ..row(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid)
            },
            ApiError::BlobStopped(_) => row(StatusCode::BAD_GATEWAY, Code::Unavailable),
            ApiError::Login => Row { header: challenge(), ..row(StatusCode::UNAUTHORIZED, Code::Unauthorized) },
            ApiError::Unverified(error) => Row {
                retry_after: Some(Duration::from_secs(error.retry_after())),
                ..row(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
            },
            ApiError::HeadTooLarge => row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::Unsupported),
            ApiError::HeadTimeout => row(StatusCode::REQUEST_TIMEOUT, Code::Unsupported),
            ApiError::Malformed | ApiError::NoTls => row(StatusCode::BAD_REQUEST, Code::Unsupported),
            ApiError::Resumable(error) => error.0.row(subject),
        }
    }

    /// The sentence, with what it is about when that is known.
    fn message(&self, subject: &Subject<'_>) -> String {
        use mirror::Error as Mirror;
        let repository = subject.repository();
        match self {
            // The same for what is private and for what is nowhere.
            ApiError::Mirror(Mirror::NameUnknown) | ApiError::Hosted(hosted::Error::NameUnknown) => {
                match &subject.login {
                    Some(address) => format!(
                        "{repository} does not exist, or may not be read without a login; no valid credential came with the request: \
                     docker login {address}, and pull from there"
                    ),
                    None => format!("{repository} does not exist, or may not be read from here"),
                }
            }
            ApiError::Mirror(Mirror::ManifestUnknown) | ApiError::Hosted(hosted::Error::ManifestUnknown) => {
                format!("{repository} has no {}", subject.object())
            }
            ApiError::Mirror(Mirror::BlobUnknown) | ApiError::Hosted(hosted::Error::BlobUnknown) => {
                format!("{repository} has no such blob")
            }
            ApiError::Mirror(error) => error.to_string(),
            ApiError::Denied(denied) => denied.message.clone(),
            ApiError::MissThrottled(wait) => {
                let found = match subject.resource {
                    Some(Resource::Tags(_)) => "did not exist".to_owned(),
                    _ => format!("had no {}", subject.object()),
                };
                let wait = whole_seconds(*wait);
                format!("{repository} {found} when last looked, and this client keeps asking; next look in {wait} s")
            }
            ApiError::Path(error) => error.to_string(),
            ApiError::Query(error) => error.to_string(),
            ApiError::UnknownRegistry(registry) if registry.is_empty() => {
                "this mirror has no upstream for names without a registry".into()
            }
            ApiError::UnknownRegistry(registry) => format!("this mirror does not mirror {registry}"),
            ApiError::NotMirrored(sentence) => sentence.to_string(),
            ApiError::RefusedImage(breach) => breach.sentence.clone(),
            ApiError::ReadOnly(_) => "mirrored repositories are read-only".into(),
            ApiError::MethodNotAllowed(allow) => format!("this method is not allowed here; these are: {allow}"),
            ApiError::OutOfOrder => "the chunk does not begin where the last one ended; ask where with GET".into(),
            ApiError::TooLarge(most) => format!("a manifest has {most} bytes at most"),
            ApiError::Cut(Cut::Gone) => "the body ended before its end".into(),
            ApiError::Cut(Cut::Slow) => "the body came too slowly".into(),
            ApiError::Hosted(error) => error.to_string(),
            ApiError::Range(size) => format!("the range lies outside the blob of {size} bytes"),
            ApiError::BlobStopped(stopped) => format!("{repository}: the blob was not fetched: {}", stopped.0),
            ApiError::Login => "a valid user name and password are required".into(),
            ApiError::Unverified(error) => error.to_string(),
            ApiError::HeadTooLarge => format!(
                "the request's headers are too many or too large; send {MAX_HEADERS} at most, of {} KiB together",
                MAX_HEADER_BYTES >> 10
            ),
            ApiError::HeadTimeout => "the request's headers did not arrive in time; send them at once".into(),
            ApiError::Resumable(error) => error.0.message(subject),
            ApiError::NoTls => "this address speaks HTTPS; send the request to https://, not to http://".into(),
            ApiError::Malformed => {
                "this is no valid HTTP/1 request; send one request line, one Host, well-formed headers, and \
                                   either Content-Length or Transfer-Encoding: chunked, each once at most"
                    .into()
            }
        }
    }

    /// The code in the JSON.
    pub(crate) fn code(&self) -> &'static str {
        self.row(&Subject::default()).code.as_str()
    }

    /// Whether the upload goes on: its session lives, and the client knows where to go on.
    pub(crate) fn is_interruption(&self) -> bool {
        match self {
            ApiError::Resumable(error) => error.0.is_interruption(),
            ApiError::OutOfOrder | ApiError::Cut(_) => true,
            _ => false,
        }
    }

    /// The rule that refused it: a throttle, what led to a ban, or why the budget gave no pull.
    pub(crate) fn rule(&self) -> Option<&str> {
        match self {
            ApiError::Denied(denied) | ApiError::Mirror(mirror::Error::Throttled(denied)) => Some(&denied.note.matched),
            ApiError::Mirror(mirror::Error::BudgetSpent { rule, .. }) => Some(rule),
            ApiError::MissThrottled(_) => Some("same_reference"),
            ApiError::NotMirrored(_) => Some("not_mirrored"),
            ApiError::RefusedImage(_) => Some("policy"),
            _ => None,
        }
    }

    /// Whether the budget gave no pull.
    pub(crate) fn is_over_budget(&self) -> bool {
        matches!(self, ApiError::Mirror(mirror::Error::BudgetSpent { .. }))
    }

    /// The rule of the ban that refused.
    pub(crate) fn ban(&self) -> Option<&str> {
        match self {
            ApiError::Denied(denied) | ApiError::Mirror(mirror::Error::Throttled(denied)) => {
                denied.note.ban.as_ref().map(|_| &*denied.note.matched)
            }
            _ => None,
        }
    }

    /// The reason phrase, where it says more than the status: it is all that an old containerd prints.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            ApiError::Denied(denied) | ApiError::Mirror(mirror::Error::Throttled(denied)) => Some(denied.reason()),
            ApiError::NotMirrored(_) => Some("Repository not mirrored here"),
            ApiError::RefusedImage(_) => Some("Image refused by policy"),
            _ => None,
        }
    }

    /// The reply to a client that calls itself `user_agent`.
    pub(crate) fn reply(&self, subject: &Subject<'_>, user_agent: Option<&HeaderValue>) -> Reply {
        let row = self.row(subject);
        let message = one_line(&self.message(subject));
        let mut error = serde_json::json!({"code": row.code.as_str(), "message": message});
        // Clients print a separator before it.
        if let Some(repository) = &subject.repository {
            error["detail"] = repository.as_str().into();
        }
        let body = serde_json::json!({"errors": [error]});
        let mut reply = Reply::json("application/json", &body);
        reply.status = row.status;
        let headers = &mut reply.headers;
        if let Some(wait) = row.retry_after.filter(|_| !begins(user_agent, &NEVER_TOLD)) {
            let seconds = match begins(user_agent, &SLEEPERS) {
                true if wait > LONGEST_SLEEP => 0,
                _ => whole_seconds(wait.min(LONGEST_WAIT)),
            };
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let ApiError::Denied(denied) | ApiError::Mirror(mirror::Error::Throttled(denied)) = self {
            headers::add_fields(headers, &denied.fields);
        }
        if let Some((name, value)) = row.header {
            headers.insert(name, value);
        }
        if let ApiError::Resumable(error) = self {
            error.1.iter().for_each(|(name, value)| drop(headers.insert(name.clone(), value.clone())));
        }
        reply
    }
}

fn challenge() -> Option<(HeaderName, HeaderValue)> {
    Some((WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"weir\", charset=\"UTF-8\"")))
}

fn hosted_row(error: &hosted::Error) -> Row {
    use hosted::Error;
    let (status, code) = match error {
        Error::NameUnknown => (StatusCode::NOT_FOUND, Code::NameUnknown),
        Error::ManifestUnknown => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
        Error::BlobUnknown => (StatusCode::NOT_FOUND, Code::BlobUnknown),
        Error::UploadUnknown => (StatusCode::NOT_FOUND, Code::BlobUploadUnknown),
        Error::UploadInvalid(_) => (StatusCode::BAD_REQUEST, Code::BlobUploadInvalid),
        Error::Login => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
        // Docker tries a 5xx again and again and prints nothing of it; a full namespace is the pusher's to empty.
        Error::Denied(_) | Error::Immutable(_) | Error::Quota(_) => (StatusCode::FORBIDDEN, Code::Denied),
        Error::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, Code::ManifestInvalid),
        // As distribution answers; 404 would read as if the repository were missing.
        Error::MissingBlobs(_) => (StatusCode::BAD_REQUEST, Code::ManifestBlobUnknown),
        Error::Referenced(_) => (StatusCode::METHOD_NOT_ALLOWED, Code::Denied),
        Error::DigestInvalid(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
        Error::TooManyUploads => (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
        Error::Full => (StatusCode::INSUFFICIENT_STORAGE, Code::Unavailable),
        Error::Unwritable => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Error::Damaged | Error::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
    };
    let retry_after = matches!(error, Error::TooManyUploads).then_some(Duration::from_secs(5));
    let header = match error {
        Error::Login => challenge(),
        Error::Referenced(_) => Some((ALLOW, HeaderValue::from_static("GET, HEAD"))),
        _ => None,
    };
    Row { status, code, retry_after, header }
}

fn begins(user_agent: Option<&HeaderValue>, names: &[&[u8]]) -> bool {
    user_agent.is_some_and(|value| names.iter().any(|name| value.as_bytes().starts_with(name)))
}

/// Rounded up and never zero: with zero a client that can wait would ask at once.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Control characters out: clients print this on a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests;
