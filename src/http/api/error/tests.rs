//! The table of errors, over all of its variants.

use actix_http::header::CONTENT_TYPE;

use super::*;
use crate::http::api::{path, reply::Content};

/// Status, code | Retry-After, Allow, Content-Range, WWW-Authenticate | message.
const GOLDEN: &str = r#"
404 NAME_UNKNOWN | - - - - | docker.io/library/x does not exist, or may not be read from here
404 MANIFEST_UNKNOWN | - - - - | docker.io/library/x has no manifest 1.0
404 BLOB_UNKNOWN | - - - - | docker.io/library/x has no such blob
429 TOOMANYREQUESTS | 2 - - - | pull limit of docker.io reached (0 of 100 left)
429 TOOMANYREQUESTS | 60 - - - | pull limit of docker.io reached (0 of 100 left)
503 UNAVAILABLE | - - - - | upstream is down
503 UNAVAILABLE | 1 - - - | upstream is down
502 UNAVAILABLE | - - - - | upstream sent HTML
500 UNKNOWN | - - - - | internal error
404 UNSUPPORTED | - - - - | there is no such endpoint
414 NAME_INVALID | - - - - | the path is longer than 2048 bytes
400 NAME_INVALID | - - - - | the path holds a percent-encoded character that no name, tag or digest may hold
400 NAME_INVALID | - - - - | invalid repository name: its components are lower-case letters and digits, joined by one of . _ __ or dashes
400 MANIFEST_INVALID | - - - - | invalid tag: a tag is 1 to 128 of [A-Za-z0-9_.-] and starts with none of ".-"
400 DIGEST_INVALID | - - - - | invalid digest: it has the form algorithm:hex
414 UNSUPPORTED | - - - - | the query is longer than 8192 bytes; leave out what is not needed
400 UNSUPPORTED | - - - - | invalid n: it is a count of entries, 0 or more
404 NAME_UNKNOWN | - - - - | this mirror does not mirror evil.example
405 UNSUPPORTED | - GET, HEAD - - | mirrored repositories are read-only
416 SIZE_INVALID | - - bytes */10 - | the range lies outside the blob of 10 bytes
502 UNAVAILABLE | - - - - | docker.io/library/x: the blob was not fetched: its digest does not match
401 UNAUTHORIZED | - - - Basic realm="weir", charset="UTF-8" | a valid user name and password are required
429 TOOMANYREQUESTS | 1 - - - | too many passwords are being verified; try again in a second
429 TOOMANYREQUESTS | 29 - - - | too many logins from this address failed; try again in 29 s
431 UNSUPPORTED | - - - - | the request's headers are too many or too large; send 96 at most, of 32 KiB together
408 UNSUPPORTED | - - - - | the request's headers did not arrive in time; send them at once
400 UNSUPPORTED | - - - - | this is no valid HTTP/1 request; send one request line, one Host, well-formed headers, and either Content-Length or Transfer-Encoding: chunked, each once at most
400 UNSUPPORTED | - - - - | this address speaks HTTPS; send the request to https://, not to http://
404 NAME_UNKNOWN | - - - - | docker.io/library/x does not exist, or may not be read from here
404 MANIFEST_UNKNOWN | - - - - | docker.io/library/x has no manifest 1.0
404 BLOB_UNKNOWN | - - - - | docker.io/library/x has no such blob
404 BLOB_UPLOAD_UNKNOWN | - - - - | there is no such upload here, or no more; begin a new one
400 BLOB_UPLOAD_INVALID | - - - - | the upload cannot go on: two digests
401 UNAUTHORIZED | - - - Basic realm="weir", charset="UTF-8" | a valid user name and password are required
403 DENIED | - - - - | ann may not push to local/x
400 MANIFEST_INVALID | - - - - | no JSON
400 DIGEST_INVALID | - - - - | other bytes
400 MANIFEST_BLOB_UNKNOWN | - - - - | 2 of the blobs are not here; push them first, or allow that with hosted.sparse_images
405 DENIED | - GET, HEAD - - | the manifest sha256:00 of this repository names it; delete that first, or allow this with hosted.delete_referenced
403 DENIED | - - - - | the tag 1.0 is immutable here: neither it nor what it names may be replaced or removed; push under another tag
403 DENIED | - - - - | the namespace local/* is full
429 TOOMANYREQUESTS | 5 - - - | too many uploads are under way; try again
507 UNAVAILABLE | - - - - | the disk of this registry is full
503 UNAVAILABLE | - - - - | the disk of this registry is read-only; its operator has to look at it
500 UNKNOWN | - - - - | what this registry knows of that name is damaged; its operator finds out more by weir verify
500 UNKNOWN | - - - - | internal error
405 UNSUPPORTED | - GET, HEAD, PUT, DELETE - - | this method is not allowed here; these are: GET, HEAD, PUT, DELETE
416 BLOB_UPLOAD_INVALID | - - - - | the chunk does not begin where the last one ended; ask where with GET
413 SIZE_INVALID | - - - - | a manifest has 4194304 bytes at most
400 SIZE_INVALID | - - - - | the body ended before its end
408 BLOB_UPLOAD_INVALID | - - - - | the body came too slowly
"#;

#[test]
fn every_failure_has_its_row() {
    use hosted::Error as Hosted;
    use mirror::Error as Mirror;
    let invalid = |text: &str| text.parse::<crate::oci::Name>().unwrap_err();
    let message = || "pull limit of docker.io reached\n(0 of 100 left)".into();
    let failures = [
        ApiError::Mirror(Mirror::NameUnknown),
        ApiError::Mirror(Mirror::ManifestUnknown),
        ApiError::Mirror(Mirror::BlobUnknown),
        ApiError::Mirror(Mirror::BudgetSpent {
            retry_after: Duration::from_millis(1_200),
            message: message(),
            rule: "budget_exhausted",
            retry_alone: false,
        }),
        ApiError::Mirror(Mirror::UpstreamLimited { retry_after: Duration::from_secs(3_600), message: message() }),
        ApiError::Mirror(Mirror::UpstreamUnavailable { retry_after: None, message: "upstream is down".into() }),
        ApiError::Mirror(Mirror::UpstreamUnavailable {
            retry_after: Some(Duration::ZERO),
            message: "upstream is down".into(),
        }),
        ApiError::Mirror(Mirror::UpstreamMalformed { message: "upstream sent HTML".into() }),
        ApiError::Mirror(Mirror::Internal),
        ApiError::Path(PathError::Nowhere),
        ApiError::Path(PathError::TooLong),
        ApiError::Path(PathError::Encoding),
        ApiError::Path(PathError::Name(invalid("A"))),
        ApiError::Path(path::parse("/v2/a/manifests/.x").unwrap_err()),
        ApiError::Path(path::parse("/v2/a/blobs/x").unwrap_err()),
        ApiError::Query(QueryError::TooLong),
        ApiError::Query(QueryError::Count),
        ApiError::UnknownRegistry("evil.example".into()),
        ApiError::ReadOnly("GET, HEAD"),
        ApiError::Range(10),
        ApiError::BlobStopped(mirror::Stopped("its digest does not match".into())),
        ApiError::Login,
        ApiError::Unverified(AuthError::Busy),
        ApiError::Unverified(AuthError::TooManyFailures(Duration::from_secs(29))),
        ApiError::HeadTooLarge,
        ApiError::HeadTimeout,
        ApiError::Malformed,
        ApiError::NoTls,
        ApiError::Hosted(Hosted::NameUnknown),
        ApiError::Hosted(Hosted::ManifestUnknown),
        ApiError::Hosted(Hosted::BlobUnknown),
        ApiError::Hosted(Hosted::UploadUnknown),
        ApiError::Hosted(Hosted::UploadInvalid("two digests")),
        ApiError::Hosted(Hosted::Login),
        ApiError::Hosted(Hosted::Denied("ann may not push to local/x".into())),
        ApiError::Hosted(Hosted::ManifestInvalid("no JSON".into())),
        ApiError::Hosted(Hosted::DigestInvalid("other bytes".into())),
        ApiError::Hosted(Hosted::MissingBlobs("2 of the blobs are not here".into())),
        ApiError::Hosted(Hosted::Referenced("sha256:00".into())),
        ApiError::Hosted(Hosted::Immutable("1.0".into())),
        ApiError::Hosted(Hosted::Quota("the namespace local/* is full".into())),
        ApiError::Hosted(Hosted::TooManyUploads),
        ApiError::Hosted(Hosted::Full),
        ApiError::Hosted(Hosted::Unwritable),
        ApiError::Hosted(Hosted::Damaged),
        ApiError::Hosted(Hosted::Internal),
        ApiError::MethodNotAllowed("GET, HEAD, PUT, DELETE"),
        ApiError::OutOfOrder,
        ApiError::TooLarge(4_194_304),
        ApiError::Cut(Cut::Gone),
        ApiError::Cut(Cut::Slow),
    ];
    let resource = path::parse("/v2/library/x/manifests/1.0").unwrap();
    let subject =
        Subject { repository: Some("docker.io/library/x".into()), resource: Some(&resource), ..Subject::default() };
    let mut table = String::new();
    for failure in &failures {
        let Reply { status, headers, content: Content::Bytes(body), .. } = failure.reply(&subject, None) else {
            panic!("an error has a body");
        };
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let error = &json["errors"][0];
        assert!(error["detail"].is_string());
        assert_eq!(headers.get(CONTENT_TYPE).unwrap(), "application/json");
        let header = |name| headers.get(name).map_or("-", |value: &HeaderValue| value.to_str().unwrap());
        table += &format!(
            "{} {} | {} | {}\n",
            status.as_u16(),
            error["code"].as_str().unwrap(),
            [RETRY_AFTER, ALLOW, CONTENT_RANGE, WWW_AUTHENTICATE].map(header).join(" "),
            error["message"].as_str().unwrap(),
        );
    }
    assert_eq!(table.trim_end(), GOLDEN.trim(), "\n{table}");
}

#[test]
fn an_unknown_blob_says_nothing_of_its_digest() {
    let digest = crate::oci::Algorithm::Sha256.digest(b"x");
    let resource = path::parse(&format!("/v2/a/b/blobs/{digest}")).unwrap();
    let subject = Subject { repository: Some("docker.io/a/b".into()), resource: Some(&resource), ..Subject::default() };
    for error in [ApiError::Mirror(mirror::Error::BlobUnknown), ApiError::MissThrottled(Duration::ZERO)] {
        assert!(!error.message(&subject).contains("sha256"), "{error:?}");
    }
}

#[test]
fn what_a_client_keeps_asking_for_in_vain_is_named_by_what_it_is() {
    let digest = crate::oci::Algorithm::Sha256.digest(b"x");
    let blob = format!("/v2/library/x/blobs/{digest}");
    for (asked, code, says) in [
        ("/v2/library/x/manifests/1.0", "MANIFEST_UNKNOWN", "docker.io/library/x had no manifest 1.0 when last looked"),
        (&blob, "BLOB_UNKNOWN", "docker.io/library/x had no such blob when last looked"),
        ("/v2/library/x/tags/list", "NAME_UNKNOWN", "docker.io/library/x did not exist when last looked"),
    ] {
        let resource = path::parse(asked).unwrap();
        let repository = Some("docker.io/library/x".into());
        let subject = Subject { repository, resource: Some(&resource), ..Subject::default() };
        let error = ApiError::MissThrottled(Duration::from_secs(1));
        let Reply { content: Content::Bytes(body), .. } = error.reply(&subject, None) else { panic!("{asked}") };
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let (found, message) = (&json["errors"][0]["code"], json["errors"][0]["message"].as_str().unwrap());
        assert_eq!(found, code, "{asked}");
        assert!(message.starts_with(says), "{asked}: {message}");
    }
}

#[test]
fn a_wait_is_a_minute_at_most_and_none_for_clients_that_sleep_in_silence() {
    let spent = |wait| {
        ApiError::Mirror(mirror::Error::BudgetSpent {
            retry_after: Duration::from_secs(wait),
            message: "spent".into(),
            rule: "budget_exhausted",
            retry_alone: false,
        })
    };
    for (user_agent, wait, expected) in [
        (Some("skopeo/1.9.3"), 3_600, "0"),
        (Some("skopeo/1.9.3"), 5, "5"),
        (Some("libpod/5.4.2"), 6, "0"),
        (Some("libpod/4.3.1"), 3_600, "0"),
        (Some("cri-o/1.31"), 6, "0"),
        (Some("containers/5.23.1 (github.com/containers/image)"), 2, "2"),
        (Some("containerd/1.6.20"), 3_600, "60"),
        (Some("docker/20.10.24 skopeo/"), 3_600, "60"),
        (None, 3_600, "60"),
        (Some("regclient/regctl (v0.11.7)"), 3_600, ""),
        (Some("regclient/regsync"), 2, ""),
    ] {
        let user_agent = user_agent.map(HeaderValue::from_static);
        let headers = spent(wait).reply(&Subject::default(), user_agent.as_ref()).headers;
        let found = headers.get(RETRY_AFTER).map_or("", |value| value.to_str().unwrap());
        assert_eq!(found, expected, "{user_agent:?}");
    }
}
