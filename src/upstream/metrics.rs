//! What upstreams did to us, as counters and gauges.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::telemetry::Durations;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    ManifestHead,
    ManifestGet,
    BlobHead,
    BlobGet,
    Tags,
    Referrers,
}

impl Operation {
    const ALL: [Operation; 6] = [
        Operation::ManifestHead,
        Operation::ManifestGet,
        Operation::BlobHead,
        Operation::BlobGet,
        Operation::Tags,
        Operation::Referrers,
    ];
}

impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Operation::ManifestHead => "manifest_head",
            Operation::ManifestGet => "manifest_get",
            Operation::BlobHead => "blob_head",
            Operation::BlobGet => "blob_get",
            Operation::Tags => "tags",
            Operation::Referrers => "referrers",
        };
        word.encode(encoder)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Ok,
    NotFound,
    Denied,
    PullLimit,
    AbuseLimit,
    Unavailable,
    HeadRefused,
    Malformed,
}

impl Outcome {
    /// As metrics and traces have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::NotFound => "not_found",
            Outcome::Denied => "denied",
            Outcome::PullLimit => "pull_limit",
            Outcome::AbuseLimit => "abuse_limit",
            Outcome::Unavailable => "unavailable",
            Outcome::HeadRefused => "head_refused",
            Outcome::Malformed => "malformed",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.word().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    upstream: String,
    kind: Operation,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    upstream: String,
    kind: Operation,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIdentity {
    upstream: String,
    identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Token {
    upstream: String,
    outcome: Outcome,
}

/// Handles to the counters of all upstreams. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    seconds: Family<OfOperation, Durations>,
    retries: Family<Of, Counter>,
    tokens: Family<Token, Counter>,
    received: Family<Of, Counter>,
    limit: Family<OfIdentity, Gauge>,
    remaining: Family<OfIdentity, Gauge>,
}

impl Metrics {
    /// Names them in a registry, whose prefix is the caller's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_requests",
            "Requests to upstreams, by kind and by what came of them",
            self.requests.clone(),
        );
        registry.register(
            "upstream_request_seconds",
            "Until an upstream's answer began, with its token, its redirects and what was repeated",
            self.seconds.clone(),
        );
        registry.register(
            "upstream_retries",
            "Requests repeated after a failure to connect or a 502, 503 or 504",
            self.retries.clone(),
        );
        registry.register("upstream_tokens", "Tokens asked of token services", self.tokens.clone());
        registry.register(
            "upstream_received_bytes",
            "Bytes of blobs received from upstreams, as they were sent",
            self.received.clone(),
        );
        registry.register("upstream_ratelimit_limit", "Pulls per window, as upstream last said", self.limit.clone());
        registry.register(
            "upstream_ratelimit_remaining",
            "Pulls left in the window, as upstream last said",
            self.remaining.clone(),
        );
    }

    pub(crate) fn asked(&self, upstream: &str, kind: Operation, outcome: Outcome, took: Duration) {
        self.seconds.get_or_create(&OfOperation { upstream: upstream.into(), kind }).observe(took);
        self.requests.get_or_create(&Request { upstream: upstream.into(), kind, outcome }).inc();
    }

    /// Requests to an upstream, of all kinds, and how long all of them took until the answer began.
    pub(super) fn took(&self, upstream: &str) -> (u64, Duration) {
        let of = |kind| self.seconds.get(&OfOperation { upstream: upstream.into(), kind }).map(|it| it.total());
        let all = Operation::ALL.into_iter().filter_map(of);
        all.fold((0, Duration::ZERO), |(count, sum), (more, took)| (count + more, sum.saturating_add(took)))
    }

    pub(crate) fn retried(&self, upstream: &str) {
        self.retries.get_or_create(&Of { upstream: upstream.into() }).inc();
    }

    /// Bytes of blobs that came from these upstreams.
    pub fn received_bytes<'a>(&self, upstreams: impl IntoIterator<Item = &'a str>) -> u64 {
        upstreams.into_iter().map(|upstream| self.received(upstream).get()).sum()
    }

    /// The counter of the bytes of blobs that come from an upstream.
    pub(crate) fn received(&self, upstream: &str) -> Counter {
        self.received.get_or_create(&Of { upstream: upstream.into() }).clone()
    }

    pub(crate) fn token(&self, upstream: &str, outcome: Outcome) {
        self.tokens.get_or_create(&Token { upstream: upstream.into(), outcome }).inc();
    }

    pub(crate) fn rate_limit(&self, upstream: &str, identity: &str, limit: Option<i64>, remaining: Option<i64>) {
        let of = OfIdentity { upstream: upstream.into(), identity: identity.into() };
        if let Some(limit) = limit {
            self.limit.get_or_create(&of).set(limit);
        }
        if let Some(remaining) = remaining {
            self.remaining.get_or_create(&of).set(remaining);
        }
    }
}
