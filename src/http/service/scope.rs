//! One request, from its head to the end of its body: what it is counted as, the line it leaves in the log, the permit it holds.
//!
//! A scope ends when it is dropped. It lives in the response's future and then in its body, so that it ends with the last byte,
//! or when the client leaves, whichever is first, and nothing has to remember to end it.

use std::{
    mem,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix_http::{Method, StatusCode, header::HeaderValue};
use tracing::{Span, field::Empty};

use crate::{
    answer::CacheStatus,
    client::{Client, ClientKey},
    http::{
        cors::Allowed,
        metrics::{Kind, Metrics},
        printable::printable,
        wire::ConnectionState,
    },
    limits::{Limits, permit::Permit, recent::RecentRequest, throttle::Meter},
    mirror::Cost,
    telemetry::{REFUSALS, Sampled, TraceId},
};

/// A request under way.
pub(crate) struct RequestScope {
    connection: Rc<ConnectionState>,
    metrics: Metrics,
    method: Method,
    kind: Kind,
    started: Instant,
    first_byte: Option<Duration>,
    status: Option<StatusCode>,
    cache: Option<CacheStatus>,
    /// Bytes of a body that the dispatcher copies.
    copied: u64,
    /// Bytes promised.
    length: u64,
    line: Line,
    /// Whether the access log is on.
    is_logged: bool,
    client: Option<(Arc<Client>, Limits)>,
    upstream: Option<Arc<str>>,
    admission: Option<(Permit, Limits)>,
    id: HeaderValue,
    span: Span,
    trace: Option<TraceId>,
    allowed: Option<Allowed>,
}

/// What the access log, and the list of a client's requests, say beyond what is counted.
#[derive(Default)]
pub(crate) struct Line {
    /// Each is made printable.
    pub(crate) path: String,
    pub(crate) ns: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) digest: Option<String>,
    /// The code of the error.
    pub(crate) code: Option<&'static str>,
    pub(crate) rule: Option<String>,
    /// Learns what the request cost.
    pub(crate) cost: Cost,
}

impl RequestScope {
    /// The request begins; its connection reads nothing more until the scope ends. `line` learns whether the request is described.
    pub(crate) fn begin(
        connection: Rc<ConnectionState>,
        metrics: Metrics,
        method: Method,
        has_body: bool,
        id: HeaderValue,
        sampled: Option<Sampled>,
        line: impl FnOnce(bool) -> Line,
    ) -> RequestScope {
        connection.begin(has_body);
        let is_logged = tracing::enabled!(target: "weir::access", tracing::Level::INFO);
        let line = line(is_logged || sampled.is_some());
        RequestScope {
            connection,
            metrics,
            method,
            kind: Kind::Other,
            started: Instant::now(),
            first_byte: None,
            status: None,
            cache: None,
            copied: 0,
            length: 0,
            line,
            is_logged,
            client: None,
            upstream: None,
            admission: None,
            span: span(&id, sampled),
            trace: sampled.map(|sampled| sampled.trace),
            id,
            allowed: None,
        }
    }

    /// What a page of another origin may make of the answer.
    pub(crate) fn allows(&mut self, allowed: Allowed) {
        self.allowed = Some(allowed);
    }

    pub(crate) fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// What the client, the log and traces call it.
    pub(crate) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// What is done for it is done in this span.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn connection(&self) -> &ConnectionState {
        &self.connection
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// What it is for, once that is known.
    pub(crate) fn is_for(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// The client, once it is known, and what remembers its requests.
    pub(crate) fn is_from(&mut self, client: Arc<Client>, limits: Limits) {
        self.client = Some((client, limits));
    }

    /// It was admitted. The permit is held until the last byte.
    pub(crate) fn admitted(&mut self, permit: Permit, limits: Limits) {
        self.admission = Some((permit, limits));
    }

    /// Its line in the access log.
    pub(crate) fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Whether the access log or a trace wants to know what it is about. Without them most of its line is read by nothing.
    pub(crate) fn is_described(&self) -> bool {
        self.is_logged || self.trace.is_some()
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

    /// What it asks for is mirrored from this upstream.
    pub(crate) fn is_of(&mut self, upstream: Arc<str>) {
        self.upstream = Some(upstream);
    }

    /// A ban, `deny` or a policy refused it with 403.
    pub(crate) fn forbidden(&self) {
        self.metrics.forbidden();
    }

    /// The budget gave it no pull.
    pub(crate) fn over_budget(&self) {
        self.metrics.over_budget();
    }

    /// A ban refused it.
    pub(crate) fn banned(&self, rule: &str) {
        self.metrics.banned(rule);
    }

    /// It is answered, with a body of so many bytes of which the dispatcher copies all or none.
    pub(crate) fn answered(&mut self, status: StatusCode, length: u64, copied: bool) {
        self.status = Some(status);
        self.first_byte = Some(self.started.elapsed());
        self.length = length;
        self.copied = if copied { length } else { 0 };
    }
}

impl RequestScope {
    /// Its last words: the line of the log, as attributes.
    fn end_span(&self, bytes: u64) {
        let (span, status) = (&self.span, self.status.map_or(499, |status| status.as_u16()));
        span.record("http.request.method", self.method.as_str());
        span.record("http.response.status_code", status);
        span.record("http.response.body.size", bytes);
        if let Some(upstream) = &self.upstream {
            span.record("weir.upstream", &**upstream);
        }
        if let Some((client, _)) = &self.client {
            span.record("client.address", tracing::field::display(client.address));
            span.record("weir.client", printable(&client.key.to_string()));
        }
        let line = &self.line;
        span.record("url.path", &*line.path);
        for (name, value) in [
            ("user_agent.original", &line.user_agent),
            ("oci.repository", &line.repository),
            ("oci.reference", &line.reference),
            ("oci.digest", &line.digest),
        ] {
            if let Some(value) = value {
                span.record(name, value.as_str());
            }
        }
        if let Some(code) = line.code {
            span.record("error.type", code);
        }
        let refused = if matches!(status, 403 | 429) { "refused" } else { "error" };
        span.record("outcome", self.cache.map_or(if status < 400 { "ok" } else { refused }, CacheStatus::as_str));
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        let bytes = self.copied + self.connection.sent();
        self.connection.end();
        self.metrics.request(self.kind, &self.method, self.status);
        self.metrics.sent(self.kind, bytes);
        let took = self.started.elapsed();
        self.metrics.took(self.kind, self.cache, self.first_byte, took);
        if let Some(trace) = self.trace {
            self.metrics.traced(self.kind, trace, took);
        }
        if let Some(cache) = self.cache {
            self.metrics.cache(self.kind, cache);
        }
        if let Some(upstream) = &self.upstream {
            self.metrics.of_upstream(upstream, self.cache, bytes);
        }
        if let Some((permit, limits)) = &self.admission
            && permit.decision.counts(Meter::Bytes)
        {
            limits.charge_bytes(permit, bytes, SystemTime::now());
        }
        if self.trace.is_some() {
            self.end_span(bytes);
        }
        let line = mem::take(&mut self.line);
        if self.is_logged {
            self.log(&line, bytes, took);
        }
        self.remember(line, bytes, took);
    }
}

impl RequestScope {
    /// Writes its line of the access log, unless it is one of many equal refusals.
    fn log(&self, line: &Line, bytes: u64, took: Duration) {
        let peer = || self.connection.peer.address.map(|peer| peer.ip());
        let (client, address, account) = match &self.client {
            Some((client, _)) => {
                let account = if let ClientKey::Principal(name) = &client.key { Some(printable(name)) } else { None };
                (printable(&client.key.to_string()), Some(client.address), account)
            }
            None => (peer().map(|peer| peer.to_string()).unwrap_or_default(), peer(), None),
        };
        let status = self.status.map_or(499, |status| status.as_u16());
        // Many refusals of one client are one story; what is counted is whole.
        let left_out = match status {
            401 | 403 | 429 => match REFUSALS.judge((&client, status, &line.rule), Instant::now()) {
                Some(left_out) => left_out,
                None => return self.metrics.left_out(),
            },
            _ => 0,
        };
        tracing::info!(
            target: "weir::access",
            method = %self.method,
            path = line.path,
            ns = line.ns,
            status,
            bytes,
            cut = (bytes < self.length).then_some(true),
            ms = milliseconds(took),
            first_byte_ms = self.first_byte.map(milliseconds),
            wait_ms = line.cost.waited().map(milliseconds),
            paid_by = line.cost.paid_by().as_deref(),
            client,
            account,
            address = address.map(tracing::field::display),
            user_agent = line.user_agent,
            upstream = self.upstream.as_deref(),
            repository = line.repository,
            reference = line.reference,
            digest = line.digest,
            cache = self.cache.map(CacheStatus::as_str),
            code = line.code,
            rule = line.rule,
            left_out = (left_out > 0).then_some(left_out),
            request_id = self.id.to_str().unwrap_or_default(),
            trace_id = self.trace.map(tracing::field::display),
        );
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The span of a request: of one that is sampled with what OpenTelemetry calls it, and of any other for the log alone.
fn span(id: &HeaderValue, sampled: Option<Sampled>) -> Span {
    let id = id.to_str().unwrap_or_default();
    let Some(sampled) = sampled else { return tracing::debug_span!(target: "weir::http", "request", id) };
    tracing::debug_span!(
        target: "weir::trace",
        "request",
        trace_id = %sampled.trace,
        parent_id = sampled.parent.map(tracing::field::display),
        weir.request_id = id,
        http.request.method = Empty,
        url.path = Empty,
        user_agent.original = Empty,
        client.address = Empty,
        weir.client = Empty,
        weir.upstream = Empty,
        oci.repository = Empty,
        oci.reference = Empty,
        oci.digest = Empty,
        http.response.status_code = Empty,
        http.response.body.size = Empty,
        "error.type" = Empty,
        outcome = Empty,
    )
}

impl RequestScope {
    /// Adds the request to those of its client.
    fn remember(&self, line: Line, bytes: u64, took: Duration) {
        let Some((client, limits)) = &self.client else { return };
        let image = (self.kind == Kind::Manifest).then(|| image(&line.path)).flatten();
        let request = RecentRequest {
            at: SystemTime::now(),
            method: METHODS.into_iter().find(|method| *method == self.method.as_str()).unwrap_or("other"),
            path: line.path.into(),
            ns: line.ns.map(Into::into),
            status: self.status.map_or(499, |status| status.as_u16()),
            bytes,
            milliseconds: milliseconds(took),
            cache: self.cache.map(CacheStatus::as_str),
            rule: line.rule.map(Into::into),
        };
        limits.record_request(&client.key, request, image.as_deref());
    }
}

/// The methods that a registry has; any other is the same to a list.
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];

/// `library/busybox:1.36` of the path of its manifest.
fn image(path: &str) -> Option<String> {
    let (repository, reference) = path.strip_prefix("/v2/")?.rsplit_once("/manifests/")?;
    let separator = if reference.contains(':') { '@' } else { ':' };
    Some(format!("{repository}{separator}{reference}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::peer::Peer, telemetry::logged};

    #[test]
    fn a_request_leaves_one_line_without_the_query() {
        let text = logged(|| {
            let peer = Peer::new(Some("192.0.2.1:5000".parse().unwrap()), false);
            let connection = Rc::new(ConnectionState::new(peer));
            let begin = |path, ns: Option<&'static str>| {
                let connection = connection.clone();
                let id = HeaderValue::from_static("an-id");
                RequestScope::begin(connection, Metrics::new(), Method::GET, false, id, None, |_| Line {
                    path: printable(path),
                    ns: ns.map(printable),
                    ..Line::default()
                })
            };
            let mut scope = begin("/v2/a/tags/list", None);
            scope.came_from(CacheStatus::Hit);
            scope.answered(StatusCode::OK, 7, true);
            drop(scope);
            // Of a client that left before it was answered, too.
            drop(begin("/v2/b/tags/list", Some("ghcr.io")));
            // One that was refused names its client, which is not the proxy, and the rule.
            let mut scope = begin("/v2/c/tags/list", None);
            let limits = Limits::in_memory(crate::limits::LimitsConfig::default());
            let client = Arc::new(Client::anonymous([192, 0, 2, 9].into(), [192, 0, 2, 9].into()));
            scope.is_from(client.clone(), limits.clone());
            scope.line().rule = Some("throttle_unauthenticated_pulls".to_owned());
            scope.answered(StatusCode::TOO_MANY_REQUESTS, 7, true);
            drop(scope);
            let record = limits.recent(&client.key).unwrap();
            let request = &record.recent[0];
            assert_eq!((&*request.path, request.status, request.bytes), ("/v2/c/tags/list", 429, 7));
            assert_eq!(request.rule.as_deref(), Some("throttle_unauthenticated_pulls"));
            assert_eq!((record.refused, record.images.len()), (1, 0), "it is no image's manifest");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let fields: Vec<&serde_json::Value> = lines.iter().map(|line| &line["fields"]).collect();
        assert_eq!(fields.len(), 3, "{text}");
        assert_eq!((&fields[2]["client"], &fields[2]["status"]), (&"192.0.2.9".into(), &429.into()));
        assert_eq!(fields[2]["rule"], "throttle_unauthenticated_pulls");
        assert_eq!(fields[2]["request_id"], "an-id");
        assert_eq!((&fields[0]["path"], &fields[0]["status"]), (&"/v2/a/tags/list".into(), &200.into()));
        assert_eq!((&fields[0]["bytes"], &fields[0]["cache"]), (&7.into(), &"hit".into()));
        assert_eq!((&fields[0]["client"], &fields[0]["ns"]), (&"192.0.2.1".into(), &serde_json::Value::Null));
        assert_eq!((&fields[1]["status"], &fields[1]["ns"]), (&499.into(), &"ghcr.io".into()));
    }

    #[test]
    fn the_path_of_a_manifest_is_the_name_of_an_image() {
        assert_eq!(image("/v2/library/a/manifests/1.36").as_deref(), Some("library/a:1.36"));
        assert_eq!(image("/v2/a/manifests/b/manifests/sha256:00").as_deref(), Some("a/manifests/b@sha256:00"));
        assert_eq!(image("/v2/a/blobs/sha256:00"), None);
    }
}
