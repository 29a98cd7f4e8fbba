//! Blobs: redirected by the registry to the CDN, which wants a signed address and no credential (end-2).

use std::time::{SystemTime, UNIX_EPOCH};

use super::content::{Content, digest};
use super::exchange::Exchange;
use super::fault::Stage;
use super::fault_response::faulty;
use super::response::{Body, Response};
use super::settings::Settings;
use super::shared::Shared;

/// Answers at the registry.
pub(super) fn answer(shared: &Shared, exchange: &Exchange, settings: &Settings) -> Response {
    let store = shared.store.read().unwrap();
    let Some(content) = store.get(&exchange.repository).and_then(|repository| repository.blob(&exchange.reference))
    else {
        return Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    if settings.redirect_blobs {
        let expires = milliseconds() + settings.cdn_life.as_millis();
        let hex = exchange.reference.strip_prefix("sha256:").unwrap_or_default();
        let path = format!("/registry-v2/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let verify = signature(shared, &path, expires, &exchange.repository);
        return Response::redirect(format!(
            "http://{}{path}?repository={}&expires={expires}&verify={verify}",
            exchange.cdn_authority, exchange.repository
        ));
    }
    ranged(exchange, content.clone()).with("Docker-Content-Digest", exchange.reference.as_str())
}

/// Answers at the CDN.
pub(super) fn cdn(shared: &Shared, exchange: &Exchange) -> Response {
    if exchange.request.header("authorization").is_some() {
        return xml(
            400,
            "InvalidArgument",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified",
        );
    }
    match exchange.request.path() {
        "/loop/1" => return Response::redirect(format!("http://{}/loop/2", exchange.cdn_authority)),
        "/loop/2" => return Response::redirect(format!("http://{}/loop/1", exchange.cdn_authority)),
        _ => {}
    }
    if !matches!(exchange.request.method.as_str(), "GET" | "HEAD") {
        return xml(405, "MethodNotAllowed", "The specified method is not allowed against this resource.");
    }
    let expires = exchange.request.asks("expires").and_then(|expires| expires.parse().ok()).unwrap_or(0);
    let verify = signature(shared, exchange.request.path(), expires, &exchange.repository);
    if exchange.request.asks("verify") != Some(verify) {
        return xml(403, "SignatureDoesNotMatch", "The request signature does not match.");
    }
    if expires < milliseconds() {
        return xml(403, "AccessDenied", "Request has expired");
    }
    if let Some(what) = shared.faults.strike(Stage::Response, exchange.asked()) {
        return faulty(shared, exchange, &what);
    }
    let store = shared.store.read().unwrap();
    match store.get(&exchange.repository).and_then(|repository| repository.blob(&exchange.reference)) {
        Some(content) => ranged(exchange, content.clone()),
        None => xml(404, "NoSuchKey", "The specified key does not exist."),
    }
}

/// The object, or the one range of it that was asked for (RFC 9110 §14). Several ranges get the whole.
fn ranged(exchange: &Exchange, of: Content) -> Response {
    let size = of.size();
    let etag = format!("\"{}\"", &exchange.reference["sha256:".len()..]);
    let unconditional = exchange.request.header("if-range").is_none_or(|tag| tag == etag);
    let range = exchange.request.header("range").filter(|_| unconditional && exchange.request.method == "GET");
    let (status, start, end) = match range.map_or(Range::Whole, |range| parse(range, size)) {
        Range::Whole => (200, 0, size),
        Range::Part(start, end) => (206, start, end),
        Range::Outside => {
            return xml(416, "InvalidRange", "The requested range is not satisfiable")
                .with("Content-Range", format!("bytes */{size}"));
        }
    };
    let mut answer = Response::new(status)
        .with("Content-Type", "application/octet-stream")
        .with("Accept-Ranges", "bytes")
        .with("ETag", etag)
        .with("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        .with("Cache-Control", "public, max-age=14400");
    if status == 206 {
        answer.set("Content-Range", format!("bytes {start}-{}/{size}", end - 1));
    }
    answer.body = Body::Part { of, start, end };
    answer
}

#[derive(Debug, PartialEq)]
enum Range {
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    Outside,
}

fn parse(range: &str, size: u64) -> Range {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => Range::Whole,
        (Ok(first), _) if first >= size => Range::Outside,
        (Ok(first), Ok(last)) => Range::Part(first, (last + 1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => Range::Part(first, size),
        (Err(_), Ok(0)) if first.is_empty() => Range::Outside,
        (Err(_), Ok(length)) if first.is_empty() && size > 0 => Range::Part(size.saturating_sub(length), size),
        _ => Range::Whole,
    }
}

fn signature(shared: &Shared, path: &str, expires: u128, repository: &str) -> String {
    digest(format!("{} {path} {expires} {repository}", shared.secret).as_bytes()).split_off("sha256:".len())
}

fn milliseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn xml(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Response::new(status).body("application/xml", body)
}

#[cfg(test)]
mod tests {
    use super::{Range, parse};

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (range, expected) in [
            ("bytes=0-0", Range::Part(0, 1)),
            ("bytes=5-", Range::Part(5, 10)),
            ("bytes=5-99", Range::Part(5, 10)),
            ("bytes=-3", Range::Part(7, 10)),
            ("bytes=-99", Range::Part(0, 10)),
            ("bytes=10-", Range::Outside),
            ("bytes=10-12", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=3-2", Range::Whole),
            ("bytes=0-1,4-5", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("bytes=a-b", Range::Whole),
        ] {
            assert_eq!(parse(range, 10), expected, "{range}");
        }
    }
}
