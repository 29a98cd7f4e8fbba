//! What the registry side counts. Handles are looked up once; counting is an atomic addition.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_http::{Method, StatusCode};
use arc_swap::ArcSwap;
use prometheus_client::{
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    answer::CacheStatus,
    telemetry::{Durations, TraceId},
};

/// What kind of resource a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Manifest,
    Blob,
    Upload,
    Tags,
    Referrers,
    Catalog,
    /// No endpoint of ours.
    Other,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Ping, "ping"),
    (Kind::Manifest, "manifest"),
    (Kind::Blob, "blob"),
    (Kind::Upload, "upload"),
    (Kind::Tags, "tags"),
    (Kind::Referrers, "referrers"),
    (Kind::Catalog, "catalog"),
    (Kind::Other, "other"),
];
const METHODS: [&str; 3] = ["GET", "HEAD", "other"];
/// 499 is for a client that left before it was answered.
const CLASSES: [&str; 6] = ["2xx", "3xx", "4xx", "429", "499", "5xx"];

/// Names with values.
type Labels<const COUNT: usize> = [(&'static str, &'static str); COUNT];

/// How a push that was taken is counted; a refused one by its code.
const TAKEN: &str = "created";

/// The counters of all workers. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `kind`, `method`, `status`.
    requests: Family<Labels<3>, Counter>,
    /// `kind`, `status`.
    cache: Family<Labels<2>, Counter>,
    /// `kind`.
    bytes: Family<Labels<1>, Counter<u64, AtomicU64>>,
    /// `kind`, `cache`: until the answer began, and until its last byte.
    first_byte: Family<Labels<2>, Durations>,
    whole: Family<Labels<2>, Durations>,
    /// `kind`: of sampled requests alone, since an exemplar takes a lock.
    traced: Family<Labels<1>, Traced, fn() -> Traced>,
    /// `kind`, `outcome`.
    pushes: Family<Labels<2>, Counter>,
    cut: Counter,
    open: Gauge,
    turned_away: Counter,
    left_out: Counter,
    /// Refused with 403 by a ban, `deny` or a policy.
    forbidden: AtomicU64,
    /// Refused for want of a pull.
    over_budget: AtomicU64,
    /// `upstream`, `cache`: for a hit ratio of each registry. The names are the configuration's.
    by_upstream: Family<UpstreamLabels, Counter>,
    bytes_by_upstream: Family<UpstreamLabels, Counter<u64, AtomicU64>>,
    upstreams: ArcSwap<HashMap<Arc<str>, [ByUpstream; CacheStatus::ALL.len() + 1], foldhash::fast::RandomState>>,
    /// `rule`.
    bans: Family<[(&'static str, String); 1], Counter>,
    ban_rules: AtomicUsize,
    handles: Handles,
}

type UpstreamLabels = [(&'static str, Arc<str>); 2];

#[derive(Debug)]
struct ByUpstream {
    requests: Counter,
    bytes: Counter<u64, AtomicU64>,
}

/// How long requests took, each bucket with the trace of the last of its requests (OpenMetrics 1.0, "Exemplars").
type Traced = HistogramWithExemplars<[(&'static str, String); 1]>;

fn traced() -> Traced {
    HistogramWithExemplars::new(Durations::bounds())
}

/// Rules of bans that are counted apart: there are six, and what a restored list may call its own. Others are counted as one.
const BAN_RULES: usize = 32;

#[derive(Debug)]
struct Handles {
    requests: [[[Counter; CLASSES.len()]; METHODS.len()]; KINDS.len()],
    cache: [[Counter; CacheStatus::ALL.len()]; KINDS.len()],
    bytes: [Counter<u64, AtomicU64>; KINDS.len()],
    first_byte: Times,
    whole: Times,
}

/// Of manifests and blobs by how they came about; then of those without that, and of all else.
type Times = [[Durations; CacheStatus::ALL.len() + 1]; 3];

/// The labels of [`Times`]: what is neither a manifest nor a blob has one histogram, which bounds how many there are.
fn times(family: &Family<Labels<2>, Durations>) -> Times {
    let of = |kind, cache| family.get_or_create(&[("kind", kind), ("cache", cache)]).clone();
    let by_cache = |kind| {
        let mut statuses = CacheStatus::ALL.into_iter().map(CacheStatus::as_str);
        std::array::from_fn(|_| of(kind, statuses.next().unwrap_or("none")))
    };
    [by_cache("manifest"), by_cache("blob"), std::array::from_fn(|_| of("other", "none"))]
}

/// Where [`Times`] has it.
fn place(kind: Kind, cache: Option<CacheStatus>) -> (usize, usize) {
    let kind = match kind {
        Kind::Manifest => 0,
        Kind::Blob => 1,
        _ => 2,
    };
    (kind, cache.map_or(CacheStatus::ALL.len(), |cache| cache as usize))
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Metrics {
        let requests = Family::<Labels<3>, Counter>::default();
        let cache = Family::<Labels<2>, Counter>::default();
        let bytes = Family::<Labels<1>, Counter<u64, AtomicU64>>::default();
        let (first_byte, whole) = (Family::default(), Family::default());
        let handles = Handles {
            first_byte: times(&first_byte),
            whole: times(&whole),
            requests: KINDS.map(|(_, kind)| {
                METHODS.map(|method| {
                    CLASSES.map(|status| {
                        requests.get_or_create(&[("kind", kind), ("method", method), ("status", status)]).clone()
                    })
                })
            }),
            cache: KINDS.map(|(_, kind)| {
                CacheStatus::ALL
                    .map(|status| cache.get_or_create(&[("kind", kind), ("status", status.as_str())]).clone())
            }),
            bytes: KINDS.map(|(_, kind)| bytes.get_or_create(&[("kind", kind)]).clone()),
        };
        let pushes = Family::<Labels<2>, Counter>::default();
        for kind in [Kind::Manifest, Kind::Upload] {
            // From the start, so that the first one is seen as a change.
            drop(pushes.get_or_create(&[("kind", KINDS[kind as usize].1), ("outcome", TAKEN)]));
        }
        Metrics(Arc::new(Inner {
            requests,
            cache,
            bytes,
            first_byte,
            whole,
            traced: Family::new_with_constructor(traced),
            pushes,
            cut: Counter::default(),
            open: Gauge::default(),
            turned_away: Counter::default(),
            left_out: Counter::default(),
            forbidden: AtomicU64::new(0),
            over_budget: AtomicU64::new(0),
            by_upstream: Family::default(),
            bytes_by_upstream: Family::default(),
            upstreams: ArcSwap::default(),
            bans: Family::default(),
            ban_rules: AtomicUsize::new(0),
            handles,
        }))
    }

    /// Offers them to the registry, whose prefix is put before the names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests by kind, method and class of status; 499 is a client that left unanswered",
            self.0.requests.clone(),
        );
        registry.register(
            "http_cache",
            "Answers to GET and HEAD, lists too, by how they came about; for a hit ratio use answers",
            self.0.cache.clone(),
        );
        registry.register("http_sent_bytes", "Bytes of bodies sent to clients", self.0.bytes.clone());
        registry.register(
            "http_first_byte_seconds",
            "From the head of a request to the head of its answer, by how the answer came about",
            self.0.first_byte.clone(),
        );
        registry.register(
            "http_request_seconds",
            "From the head of a request to the last byte of its answer, or until the client left",
            self.0.whole.clone(),
        );
        registry.register(
            "http_traced_request_seconds",
            "As http_request_seconds, of sampled requests alone; in OpenMetrics each bucket names the trace of its last one",
            self.0.traced.clone(),
        );
        registry.register(
            "hosted_pushes",
            "Manifests and blobs pushed, by how that ended: created, or the code of the error; not a PATCH that came out of \
             order or was cut, for its upload goes on",
            self.0.pushes.clone(),
        );
        registry.register(
            "http_upstream_requests",
            "Requests for what is mirrored, by upstream and by how the answer came about; none is a refusal or an error",
            self.0.by_upstream.clone(),
        );
        registry.register(
            "http_upstream_sent_bytes",
            "Bytes of bodies sent to clients, by upstream and by how the answer came about",
            self.0.bytes_by_upstream.clone(),
        );
        registry.register("ban_refused", "Requests that a ban refused, by its rule", self.0.bans.clone());
        registry.register("http_cut", "Responses cut short because their bytes did not come", self.0.cut.clone());
        registry.register("http_open_connections", "Connections open now", self.0.open.clone());
        registry.register(
            "http_turned_away_connections",
            "Connections closed at once because their client had server.connections_per_client open",
            self.0.turned_away.clone(),
        );
        registry.register(
            "log_left_out_lines",
            "Refusals without a line of their own in the access log, since log.refusal_lines were written",
            self.0.left_out.clone(),
        );
    }

    /// Counts the requests for these upstreams apart from now on, and no longer those for others.
    pub fn count_upstreams(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let of = |name: &Arc<str>, cache: &'static str| {
            let labels = [("upstream", name.clone()), ("cache", cache.into())];
            let requests = self.0.by_upstream.get_or_create(&labels).clone();
            ByUpstream { requests, bytes: self.0.bytes_by_upstream.get_or_create(&labels).clone() }
        };
        let of_all = |name: &Arc<str>| {
            let mut statuses = CacheStatus::ALL.into_iter().map(CacheStatus::as_str);
            std::array::from_fn(|_| of(name, statuses.next().unwrap_or("none")))
        };
        self.0.upstreams.store(Arc::new(names.into_iter().map(|name| (name.clone(), of_all(&name))).collect()));
    }

    /// A request for what is mirrored, and the bytes of its answer.
    pub(crate) fn of_upstream(&self, upstream: &str, cache: Option<CacheStatus>, bytes: u64) {
        let upstreams = self.0.upstreams.load();
        let of = upstreams.get(upstream);
        let place = cache.map_or(CacheStatus::ALL.len(), |cache| cache as usize);
        if let Some(of) = of.and_then(|of| of.get(place)) {
            of.requests.inc();
            of.bytes.inc_by(bytes);
        }
    }

    /// A ban refused a request.
    pub(crate) fn banned(&self, rule: &str) {
        let known = self.0.bans.get(&[("rule", rule.to_owned())]).is_some();
        if known || self.0.ban_rules.fetch_add(1, Ordering::Relaxed) < BAN_RULES {
            self.0.bans.get_or_create(&[("rule", rule.to_owned())]).inc();
        } else {
            self.0.bans.get_or_create(&[("rule", "other".to_owned())]).inc();
        }
    }

    /// A ban, `deny` or a policy refused a request with 403.
    pub(crate) fn forbidden(&self) {
        self.0.forbidden.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused because the budget gave no pull.
    pub(crate) fn over_budget(&self) {
        self.0.over_budget.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that were refused because the budget gave no pull.
    pub fn refused_by_budget(&self) -> u64 {
        self.0.over_budget.load(Ordering::Relaxed)
    }

    /// All requests, and of them those that were refused, with 429 or as [`Metrics::forbidden`] counts, and those that failed with
    /// 5xx. Adds up some 150 counters.
    pub fn requests(&self) -> (u64, u64, u64) {
        let of = |class: &str| {
            let class = CLASSES.iter().position(|each| *each == class);
            let counters = self.0.handles.requests.iter().flatten();
            counters.flat_map(|classes| class.map(|class| classes[class].get())).sum::<u64>()
        };
        let all = self.0.handles.requests.iter().flatten().flatten().map(Counter::get).sum();
        (all, of("429") + self.0.forbidden.load(Ordering::Relaxed), of("5xx"))
    }

    /// Bytes of bodies sent to clients.
    pub fn sent_bytes(&self) -> u64 {
        self.0.handles.bytes.iter().map(Counter::get).sum()
    }

    /// Bytes of the answers of the upstreams that are counted apart, and those of them for which no body was fetched. Adds up five
    /// counters an upstream.
    pub fn answered_bytes(&self) -> (u64, u64) {
        let upstreams = self.0.upstreams.load();
        let of = |status: CacheStatus| upstreams.values().map(|of| of[status as usize].bytes.get()).sum::<u64>();
        let all = CacheStatus::ALL.into_iter().map(of).sum::<u64>();
        (all, all.saturating_sub(of(CacheStatus::Miss) + of(CacheStatus::Bypass)))
    }

    pub(crate) fn request(&self, kind: Kind, method: &Method, status: Option<StatusCode>) {
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            _ => 2,
        };
        let class = match status.map(|status| status.as_u16()) {
            None => 4,
            Some(429) => 3,
            Some(100..=299) => 0,
            Some(300..=399) => 1,
            Some(400..=499) => 2,
            Some(_) => 5,
        };
        self.0.handles.requests[kind as usize][method][class].inc();
    }

    /// How long a request took: until its answer began, if it did, and in all.
    pub(crate) fn took(&self, kind: Kind, cache: Option<CacheStatus>, first_byte: Option<Duration>, whole: Duration) {
        let (kind, cache) = place(kind, cache);
        if let Some(first_byte) = first_byte {
            self.0.handles.first_byte[kind][cache].observe(first_byte);
        }
        self.0.handles.whole[kind][cache].observe(whole);
    }

    /// How long a request took that is part of a trace.
    pub(crate) fn traced(&self, kind: Kind, trace: TraceId, whole: Duration) {
        let exemplar = [("trace_id", trace.to_string())];
        let of_kind = self.0.traced.get_or_create(&[("kind", KINDS[kind as usize].1)]);
        of_kind.observe(whole.as_secs_f64(), Some(exemplar), None);
    }

    pub(crate) fn cache(&self, kind: Kind, status: CacheStatus) {
        self.0.handles.cache[kind as usize][status as usize].inc();
    }

    pub(crate) fn sent(&self, kind: Kind, bytes: u64) {
        self.0.handles.bytes[kind as usize].inc_by(bytes);
    }

    /// A push that was taken, or the code by which it was refused.
    pub(crate) fn pushed(&self, kind: Kind, refused: Option<&'static str>) {
        let labels = [("kind", KINDS[kind as usize].1), ("outcome", refused.unwrap_or(TAKEN))];
        self.0.pushes.get_or_create(&labels).inc();
    }

    pub(crate) fn cut(&self) {
        self.0.cut.inc();
    }

    /// A request has no line in the access log.
    pub(crate) fn left_out(&self) {
        self.0.left_out.inc();
    }

    pub(crate) fn turned_away(&self) {
        self.0.turned_away.inc();
    }

    /// Counts a connection for as long as the value lives.
    pub(crate) fn open(&self) -> OpenConnection {
        self.0.open.inc();
        OpenConnection(self.0.open.clone())
    }
}

/// One connection in the gauge.
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_exposed() {
        let metrics = Metrics::new();
        let mut registry = Registry::with_prefix("weir");
        metrics.register(&mut registry);
        metrics.request(Kind::Manifest, &Method::HEAD, Some(StatusCode::TOO_MANY_REQUESTS));
        metrics.request(Kind::Blob, &Method::GET, None);
        metrics.cache(Kind::Manifest, CacheStatus::Stale);
        metrics.sent(Kind::Blob, 7);
        let open = metrics.open();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"weir_http_requests_total{kind="manifest",method="HEAD",status="429"} 1"#,
            r#"weir_http_requests_total{kind="blob",method="GET",status="499"} 1"#,
            r#"weir_http_cache_total{kind="manifest",status="stale"} 1"#,
            r#"weir_http_sent_bytes_total{kind="blob"} 7"#,
            "weir_http_open_connections 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(open);
        assert_eq!(metrics.0.open.get(), 0);
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        for (index, status) in CacheStatus::ALL.iter().enumerate() {
            assert_eq!(*status as usize, index);
        }
    }
}
