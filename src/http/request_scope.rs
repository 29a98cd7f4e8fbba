//! One request, from its head to the end of its body: what it is counted as, the line it leaves in the log, the permit it holds.
//!
//! A turn ends when it is dropped. It lives in the handler's future and then in the response body, so that it ends with the last byte,
//! or when the client leaves, whichever is first, and nothing has to remember to end it.

use std::{
    rc::Rc,
    time::{Instant, SystemTime},
};

use actix_http::{Method, RequestHead, StatusCode};

use super::{
    body_length::BodyLength,
    connection::ConnectionState,
    headers,
    metrics::{Kind, Metrics},
};
use crate::{
    limits::{Limits, permit::Permit, throttle::Meter},
    mirror::CacheStatus,
};

/// Characters of a path or a client's name that a log line holds.
const MOST_LOGGED: usize = 512;

/// A request under way.
pub(crate) struct RequestScope {
    shared: Rc<ConnectionState>,
    metrics: Metrics,
    method: Method,
    kind: Kind,
    status: Option<StatusCode>,
    cache: Option<CacheStatus>,
    /// Bytes of a body that the dispatcher copies.
    copied: u64,
    /// Bytes promised.
    length: u64,
    line: Option<Box<Line>>,
    admission: Option<(Permit, Limits)>,
}

/// What the access log says beyond what is counted; gathered only when somebody listens.
struct Line {
    started: Instant,
    path: String,
    ns: Option<String>,
}

impl RequestScope {
    /// The request begins; its connection reads nothing more until the turn is over.
    pub(crate) fn begin(shared: Rc<ConnectionState>, metrics: Metrics, head: &RequestHead) -> RequestScope {
        shared.begin(BodyLength::of(head).is_some());
        let line = is_logged().then(|| {
            let ns = super::query::value(head.uri.query(), "ns").ok().flatten();
            Box::new(Line {
                started: Instant::now(),
                path: printable(head.uri.path()),
                ns: ns.map(|ns| printable(&ns)),
            })
        });
        RequestScope::new(shared, metrics, head.method.clone(), line)
    }

    /// A request that the connection answers by itself; the path is as it may stand in a log.
    pub(crate) fn refused(shared: Rc<ConnectionState>, metrics: Metrics, method: Method, path: String) -> RequestScope {
        shared.begin(false);
        let line = is_logged().then(|| Box::new(Line { started: Instant::now(), path, ns: None }));
        RequestScope::new(shared, metrics, method, line)
    }

    fn new(shared: Rc<ConnectionState>, metrics: Metrics, method: Method, line: Option<Box<Line>>) -> RequestScope {
        RequestScope {
            shared,
            metrics,
            method,
            kind: Kind::Other,
            status: None,
            cache: None,
            copied: 0,
            length: 0,
            line,
            admission: None,
        }
    }

    pub(crate) fn shared(&self) -> &Rc<ConnectionState> {
        &self.shared
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// What it is for, once that is known.
    pub(crate) fn is_for(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// It was let in. The permit is held until the last byte.
    pub(crate) fn admitted(&mut self, permit: Permit, limits: Limits) {
        self.admission = Some((permit, limits));
    }

    /// The permit, and where it came from.
    pub(crate) fn admission(&self) -> Option<&(Permit, Limits)> {
        self.admission.as_ref()
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// A push ends: it was taken, or refused with this code.
    pub(crate) fn pushed(&self, refused: Option<&'static str>) {
        self.metrics.pushed(self.kind, refused);
    }

    /// How the answer came about.
    pub(crate) fn came_from(&mut self, cache: CacheStatus) {
        self.cache = Some(cache);
    }

    /// It is answered, with a body of so many bytes of which the dispatcher copies all or none.
    pub(crate) fn answered(&mut self, status: StatusCode, length: u64, copied: bool) {
        self.status = Some(status);
        self.length = length;
        self.copied = if copied { length } else { 0 };
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        let bytes = self.copied + self.shared.sent();
        self.shared.end();
        self.metrics.request(self.kind, &self.method, self.status);
        self.metrics.sent(self.kind, bytes);
        if let Some(cache) = self.cache {
            self.metrics.cache(self.kind, cache);
        }
        if let Some((permit, limits)) = &self.admission
            && permit.decision.counts(Meter::Bytes)
        {
            limits.charge_bytes(permit, bytes, SystemTime::now());
        }
        let Some(line) = self.line.take() else { return };
        let client = match &self.admission {
            Some((permit, _)) => permit.client.key.to_string(),
            None => self.shared.peer.map(|peer| peer.ip().to_string()).unwrap_or_default(),
        };
        tracing::info!(
            target: "weir::access",
            method = %self.method,
            path = line.path,
            ns = line.ns,
            status = self.status.map_or(499, |status| status.as_u16()),
            bytes,
            cut = (bytes < self.length).then_some(true),
            ms = u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            client = printable(&client),
            cache = self.cache.map(headers::word),
        );
    }
}

fn is_logged() -> bool {
    tracing::enabled!(target: "weir::access", tracing::Level::INFO)
}

/// Text as it may stand in a log: control characters, what is not ASCII, and quotes escaped; cut when it is long.
pub(crate) fn printable(text: &str) -> String {
    let cut = text.char_indices().nth(MOST_LOGGED).map_or(text, |(end, _)| &text[..end]);
    if cut.len() == text.len() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        return text.to_owned();
    }
    let mut escaped: String = cut.escape_default().collect();
    if cut.len() < text.len() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logged;

    #[test]
    fn a_turn_leaves_one_line_without_the_query() {
        let text = logged(|| {
            let shared = ConnectionState::new(Some("192.0.2.1:5000".parse().unwrap()), false);
            let head = |uri: &str| {
                let mut head = RequestHead::default();
                head.uri = uri.parse().unwrap();
                head
            };
            let asked = head("/v2/a/tags/list?ns=docker.io%1b&token=s3cret-canary");
            let mut turn = RequestScope::begin(shared.clone(), Metrics::new(), &asked);
            turn.came_from(CacheStatus::Hit);
            turn.answered(StatusCode::OK, 7, true);
            drop(turn);
            // Of a client that left before it was answered, too.
            drop(RequestScope::begin(shared, Metrics::new(), &head("/v2/b/tags/list?ns=ghcr.io")));
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let fields: Vec<&serde_json::Value> = lines.iter().map(|line| &line["fields"]).collect();
        assert_eq!(fields.len(), 2, "{text}");
        assert!(!text.contains("canary"));
        assert_eq!((&fields[0]["path"], &fields[0]["status"]), (&"/v2/a/tags/list".into(), &200.into()));
        assert_eq!((&fields[0]["bytes"], &fields[0]["cache"]), (&7.into(), &"hit".into()));
        assert_eq!((&fields[0]["client"], &fields[0]["ns"]), (&"192.0.2.1".into(), &serde_json::Value::Null));
        assert_eq!((&fields[1]["status"], &fields[1]["ns"]), (&499.into(), &"ghcr.io".into()));
    }

    #[test]
    fn nothing_a_client_sends_writes_in_the_log_but_characters() {
        assert_eq!(printable("/v2/a/manifests/1.0"), "/v2/a/manifests/1.0");
        assert_eq!(printable("a\r\nb\x1b[2J\0\u{202e}\"\\"), r#"a\r\nb\u{1b}[2J\u{0}\u{202e}\"\\"#);
        assert!(printable(&"é".repeat(100_000)).len() < 8 * MOST_LOGGED);
    }
}
