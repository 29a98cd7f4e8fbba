//! The answer to a request that no handler sees: JSON like any other refusal, with its line in the log and its count.

use std::{sync::Arc, time::SystemTime};

use actix_http::{Method, header::HttpDate};

use super::{
    request_id,
    scope::{Line, RequestScope},
};
use crate::{
    http::{
        api::{ApiError, Content, Subject},
        metrics::Metrics,
        printable::printable,
        wire::{ProtocolError, Refuse},
    },
    mirror,
};

/// Writes, counts and logs those answers.
pub(crate) fn refuse(metrics: Metrics) -> Refuse {
    Arc::new(move |error, opening, connection| {
        let error = match error {
            ProtocolError::HeadTimeout => ApiError::HeadTimeout,
            ProtocolError::HeadTooLarge => ApiError::HeadTooLarge,
            ProtocolError::Malformed => ApiError::Malformed,
            ProtocolError::NoTls => ApiError::NoTls,
            ProtocolError::Internal => ApiError::Mirror(mirror::Error::Internal),
        };
        let (method, path) = request_line(opening);
        let id = request_id::new();
        let mut scope = RequestScope::begin(connection.clone(), metrics.clone(), method, false, id, None, |_| Line {
            path: printable(&path),
            ..Line::default()
        });
        let mut reply = error.reply(&Subject::default(), None);
        let body = if let Content::Bytes(body) = reply.content { body } else { bytes::Bytes::new() };
        let mut text = format!(
            "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\ndocker-distribution-api-version: registry/2.0\r\ndate: {}\r\n",
            reply.status,
            body.len(),
            HttpDate::from(SystemTime::now()),
        )
        .into_bytes();
        reply.headers.insert(request_id::X_REQUEST_ID, scope.id().clone());
        for (name, value) in &reply.headers {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend(b"\r\n");
        // The length that a GET would bring is named, and no body is sent.
        let sent = if scope.is_head() { &[] } else { &body[..] };
        text.extend(sent);
        scope.answered(reply.status, sent.len() as u64, true);
        text.into()
    })
}

/// Method and path, as far as they can be made out; a dash for what cannot. The query stays unread, and so does a target that may
/// name a user and a password before its host.
fn request_line(opening: &[u8]) -> (Method, String) {
    let line = opening.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (first, target) = (words.next().unwrap_or_default(), words.next());
    // What no space follows may be a part of a method, or of anything.
    let method = target.and_then(|_| Method::from_bytes(first).ok());
    let path = target.filter(|target| method.is_some() && target.starts_with(b"/"));
    let path = path.and_then(|target| target.split(|byte| matches!(byte, b'?' | b'\r')).next());
    let path = path.map_or_else(|| "-".to_owned(), |path| String::from_utf8_lossy(path).into_owned());
    (method.or_else(|| Method::from_bytes(b"-").ok()).unwrap_or_default(), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_line_of_a_refusal_has_what_can_be_made_out() {
        for (opening, method, path) in [
            ("\r\nGET /v2/?token=s3cret HTTP/1.1\r\nHost: x\r\n", "GET", "/v2/"),
            ("HEAD /v2/a\r\n\r\n", "HEAD", "/v2/a"),
            ("PUT http://me:hunter2@x/ HTTP/1.1", "PUT", "-"),
            ("GET", "-", "-"),
            ("\u{16}\u{3}\u{1} /", "-", "-"),
        ] {
            let (found, target) = request_line(opening.as_bytes());
            assert_eq!((found.as_str(), target.as_str()), (method, path), "{opening:?}");
        }
    }
}
