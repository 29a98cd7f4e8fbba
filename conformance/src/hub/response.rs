//! Answers before they are bytes: status, headers, and a body that may be a part of an object.

use bytes::Bytes;
use serde_json::{Value, json};

use super::content::Content;

/// An answer. `Content-Length`, `Date` and `Connection` are added as it is sent.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    /// Whether it was charged to a pull limit.
    pub(super) counted: bool,
}

#[derive(Debug)]
pub(super) enum Body {
    /// Nothing, and no `Content-Length` where the status forbids it.
    Empty,
    /// The bytes from `start` to before `end` of an object.
    Part { of: Content, start: u64, end: u64 },
    /// So many blanks, chunked.
    Blanks(u64),
    /// These bytes instead of an answer, head and all; then the connection is closed.
    Raw(Bytes),
}

impl Response {
    pub(super) fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Body::Empty, counted: false }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Instead of whatever stood under that name; an empty value removes it.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        let value = value.into();
        if !value.is_empty() {
            self.headers.push((name, value));
        }
    }

    pub(super) fn body(mut self, content_type: &str, bytes: impl Into<Bytes>) -> Response {
        let of = Content::Memory(bytes.into());
        self.body = Body::Part { start: 0, end: of.size(), of };
        self.with("Content-Type", content_type)
    }

    pub(super) fn json(status: u16, value: &Value) -> Response {
        Response::new(status).body("application/json", value.to_string())
    }

    /// The error object of the distribution spec.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
        Response::json(status, &json!({"errors": [{"code": code, "message": message}]}))
    }

    /// 307 to that address.
    pub(super) fn redirect(location: impl Into<String>) -> Response {
        Response::new(307).with("Location", location).body("application/octet-stream", Bytes::new())
    }

    /// The abuse limiter's bytes as they were captured: bare line feeds, no length.
    pub(super) fn abuse(retry_after: Option<u64>) -> Response {
        let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\n")).unwrap_or_default();
        let raw = format!(
            "HTTP/1.1 429 Too Many Requests\nCache-Control: no-cache\nConnection: close\nContent-Type: text/plain\n{retry_after}\nToo Many Requests (HAP429).\n"
        );
        Response { body: Body::Raw(raw.into()), ..Response::new(429) }
    }

    pub(super) fn has_body(&self) -> bool {
        matches!(self.body, Body::Part { .. })
    }
}

/// The reason phrase.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
