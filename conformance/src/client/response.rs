//! What came back: status, headers, three instants, and the body as facts rather than as a promise.

use std::time::{Duration, Instant};

use super::error::Error;

/// Status line and headers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Three digits.
    pub status: u16,
    /// What followed them.
    pub reason: String,
    /// In the order they came, names as sent.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
    /// `Content-Length`, when it is a number.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }
    /// `Docker-Content-Digest`.
    pub fn digest(&self) -> Option<&str> {
        self.header("docker-content-digest")
    }
    /// Whether the body is in chunks.
    pub fn chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }
    /// Parses a head that ends in an empty line. `raw` is everything up to and including that line.
    pub fn parse(raw: &[u8]) -> Result<Head, Error> {
        let mut slots = [httparse::EMPTY_HEADER; 96];
        let mut response = httparse::Response::new(&mut slots);
        match response.parse(raw) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Error::Malformed("headers do not end".into())),
            Err(error) => return Err(Error::Malformed(error.to_string())),
        }
        Ok(Head {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default().to_owned(),
            headers: response
                .headers
                .iter()
                .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
                .collect(),
        })
    }
}

/// When things came. All are measured from `sent`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The request's last byte was handed to the kernel.
    pub sent: Instant,
    /// The head was complete.
    pub headers: Duration,
    /// The body's first byte was read; `None` when there was none.
    pub first_byte: Option<Duration>,
    /// The last byte was read, or the body broke.
    pub total: Duration,
}

impl Timing {
    /// The instant of the body's first byte.
    pub fn first_byte_at(&self) -> Option<Instant> {
        self.first_byte.map(|after| self.sent + after)
    }
}

/// One answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status and headers.
    pub head: Head,
    /// When.
    pub timing: Timing,
    /// The first 8 MiB of the body.
    pub body: Vec<u8>,
    /// Bytes of the body that came.
    pub length: u64,
    /// `sha256:…` of them.
    pub sha256: String,
    /// `None`: the framing said that this was all of it. A client would believe this body.
    pub broken: Option<Error>,
}

impl Response {
    /// Three digits.
    pub fn status(&self) -> u16 {
        self.head.status
    }
    /// Success, and a body that claims to be whole.
    pub fn complete(&self) -> bool {
        matches!(self.head.status, 200 | 206) && self.broken.is_none()
    }
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The body as JSON, or null.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
    /// The code of the first error when this is an OCI error: JSON by its `Content-Type` and by its form.
    pub fn error_code(&self) -> Option<String> {
        let kind = self.head.header("content-type")?;
        if !kind.starts_with("application/json") {
            return None;
        }
        self.json().pointer("/errors/0/code")?.as_str().map(str::to_owned)
    }
    /// Status, code and message, for a sentence about what came.
    pub fn describe(&self) -> String {
        let mut out = format!("{}", self.status());
        if self.status() >= 400 {
            let text: String = self.text().chars().take(160).collect();
            out.push_str(&format!(" {}", text.trim()));
        } else {
            out.push_str(&format!(", {} bytes", self.length));
        }
        if let Some(error) = &self.broken {
            out.push_str(&format!(", {error}"));
        }
        out
    }
}

/// Lower-case hex of a sha256.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
