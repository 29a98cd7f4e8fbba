//! What a client is told whose request no handler ever saw: JSON like any other refusal, with its line in the log and its count.
//!
//! actix-http answers what it cannot parse by itself, with a status and an empty body: nothing that a client prints, and nothing that
//! an operator sees. The connection knows those answers, for nothing else is written while no request is under way, and sends a
//! [`ProtocolErrorResponse`] in their place. Then it closes its own side first and takes in for a while what the client still sends: closing over
//! bytes that nobody read resets the connection, and a reset takes the answer with it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use actix_http::{Method, header::HttpDate};
use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    time::Sleep,
};

use crate::http::{
    connection::ConnectionState,
    error::ApiError,
    metrics::Metrics,
    request_scope::{RequestScope, printable},
    stream::Stream,
};
use crate::mirror;

/// Bytes of a request that are kept for the log line of its refusal.
pub(crate) const OPENING: usize = 256;

/// Reads of what is thrown away before the other connections of the worker get their turn.
const READS: usize = 16;

/// An answer that the connection sends by itself.
pub(crate) struct ProtocolErrorResponse {
    bytes: Bytes,
    /// Ends when all of it is with the kernel.
    turn: Option<RequestScope>,
    /// The client knows that nothing follows.
    is_shut: bool,
    deadline: Pin<Box<Sleep>>,
}

impl ProtocolErrorResponse {
    /// Refuses the request that begins with these bytes. All of it, and what the client still sends, is over within `patience`.
    pub(crate) fn new(
        failure: &ApiError,
        opening: &[u8],
        shared: Rc<ConnectionState>,
        metrics: Metrics,
        patience: Duration,
    ) -> ProtocolErrorResponse {
        let (method, path) = request_line(opening);
        let mut turn = RequestScope::refused(shared, metrics, method, path);
        let (status, headers, body) = failure.answer(None, None);
        let mut text = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\ndocker-distribution-api-version: registry/2.0\r\ndate: {}\r\n",
            body.len(),
            HttpDate::from(SystemTime::now()),
        )
        .into_bytes();
        for (name, value) in &headers {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend(b"\r\n");
        // What a HEAD would bring is told, and not sent.
        let sent = if turn.is_head() { &[] } else { &body[..] };
        text.extend(sent);
        turn.answered(status, sent.len() as u64, true);
        ProtocolErrorResponse {
            bytes: text.into(),
            turn: Some(turn),
            is_shut: false,
            deadline: Box::pin(tokio::time::sleep(patience)),
        }
    }

    /// Ready when the connection may be closed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<()> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut stream = Pin::new(stream);
        while !self.bytes.is_empty() {
            match ready!(stream.as_mut().poll_write(cx, &self.bytes)) {
                Ok(count @ 1..) => self.bytes.advance(count),
                _ => return Poll::Ready(()),
            }
        }
        self.turn = None;
        if !self.is_shut {
            if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.is_shut = true;
        }
        let mut scrap = [0; 4096];
        for _ in 0..READS {
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(stream.as_mut().poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Why actix-http refused, as far as the status of its own answer tells.
pub(crate) fn reason(answer: &[u8]) -> ApiError {
    match answer.get(9..12) {
        Some(b"408") => ApiError::HeadTimeout,
        Some(b"431") => ApiError::HeadTooLarge,
        Some([b'5', ..]) => ApiError::Mirror(mirror::Error::Internal),
        _ => ApiError::Malformed,
    }
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
    let path = path.map_or_else(|| "-".to_owned(), |path| printable(&String::from_utf8_lossy(path)));
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
            ("GET /\u{1b}[2J\" HTTP/1.1", "GET", r#"/\u{1b}[2J\""#),
            ("GET", "-", "-"),
            ("\u{16}\u{3}\u{1} /", "-", "-"),
        ] {
            let (found, target) = request_line(opening.as_bytes());
            assert_eq!((found.as_str(), target.as_str()), (method, path), "{opening:?}");
        }
    }
}
