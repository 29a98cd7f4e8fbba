//! `/metrics`: what is counted elsewhere, and what is read when `/metrics` is.

use std::{sync::PoisonError, time::UNIX_EPOCH};

use actix_web::{HttpRequest, HttpResponse, http::header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{
    json::refuse,
    state::{LastSpace, Reloads, State},
};
use crate::{
    identity::Authenticator,
    limits::{Limits, state::ThrottleView},
    mirror::Mirror,
    telemetry,
    upstream::{CredentialState, ledger::Balance},
};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// OpenMetrics for those who accept it, as Prometheus does, and Prometheus' text format for all others.
pub(super) async fn metrics(state: &State, request: &HttpRequest) -> HttpResponse {
    // A disk that hangs is asked before the registry is locked, and gives up in time.
    let space = state.mirror.space().await;
    *state.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
    let Ok(text) = telemetry::open_metrics(&state.metrics) else {
        return refuse(500, "UNKNOWN", "the metrics cannot be written");
    };
    let accepts = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    let (content_type, text) = if accepts.into_iter().any(|value| value.contains(OPEN_METRICS)) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", text_format(&text))
    };
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header((header::VARY, "Accept"))
        .body(text)
}

/// What begins an exemplar.
const EXEMPLAR: &str = " # {trace_id=\"";

/// What OpenMetrics says of the counter `x` is said of `x_total`, the name of its samples; and nothing marks the end.
fn text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + (4 << 10));
    let mut help = None;
    for line in open_metrics.lines() {
        // HELP comes before TYPE, which tells whether it is of a counter.
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let Some(family) = line.strip_prefix("# TYPE ") else {
            if !line.starts_with('#') {
                // It has no exemplars. No label's value looks like one, since its quotes are escaped.
                let sample = line.split_once(EXEMPLAR).map_or(line, |(sample, _)| sample);
                text.extend([sample, "\n"]);
            }
            continue;
        };
        let (name, kind) = family.split_once(' ').unwrap_or((family, "untyped"));
        let suffix = if kind == "counter" { "_total" } else { "" };
        if let Some((_, words)) = help.take().and_then(|line| line[7..].split_once(' ')) {
            text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
        }
        text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
    }
    text
}

/// What the mirror knows of itself without a counter.
pub(super) struct MetricsCollector {
    pub(super) mirror: Mirror,
    pub(super) limits: Limits,
    pub(super) reloads: Reloads,
    pub(super) authenticator: Authenticator,
    /// The file system as it was when this scrape began.
    pub(super) space: LastSpace,
}

impl std::fmt::Debug for MetricsCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsCollector").finish_non_exhaustive()
    }
}

/// A figure of one identity's budget; `None` when it is not known, for a zero would read as spent.
type BudgetFigure = fn(&Balance) -> Option<i64>;

fn limit(left: &Balance) -> Option<i64> {
    left.limit
}

fn remaining(left: &Balance) -> Option<i64> {
    left.remaining
}

fn spent(left: &Balance) -> Option<i64> {
    i64::try_from(left.spent).ok()
}

fn external(left: &Balance) -> Option<i64> {
    i64::try_from(left.external).ok()
}

fn next_pull(left: &Balance) -> Option<i64> {
    left.next_at?.duration_since(UNIX_EPOCH).ok()?.as_secs().try_into().ok()
}

fn window(left: &Balance) -> Option<i64> {
    left.window?.as_secs().try_into().ok()
}

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (usage, scrubbed) = (self.mirror.usage(), self.mirror.scrub().scrubbed());
        for (name, help, value) in [
            ("storage_capacity_bytes", "Bytes that the cache may take", usage.capacity),
            ("storage_blob_bytes", "Bytes of whole blobs", usage.blob_bytes),
            ("storage_blobs", "Whole blobs", usage.blobs),
            ("storage_manifest_bytes", "Bytes of manifests", usage.manifest_bytes),
            ("storage_manifests", "Manifests", usage.manifests),
            ("storage_partial_bytes", "Bytes of blobs that are arriving or wait to be resumed", usage.partial_bytes),
            ("fills_under_way", "Blobs arriving now", self.mirror.blobs.fills() as u64),
            (
                "fills_waiting",
                "Of these, blobs that wait for one of mirror.fills",
                self.mirror.blobs.waiting_fills() as u64,
            ),
            ("logins_waiting", "Passwords that are being verified or wait for it", self.authenticator.waiting() as u64),
            ("storage_index_ready", "1 when the index answers, 0 while it is rebuilt", usage.index_ready.into()),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            ("storage_evicted", "Objects that were removed for space", usage.evicted),
            ("storage_quarantined", "Objects that did not match their digest and were put aside", usage.quarantined),
            ("storage_full", "Blobs that were passed through because the disk was full", usage.full),
            ("storage_scrubbed", "Objects that were read again to see whether they rotted", scrubbed.objects),
            ("storage_scrubbed_bytes", "Bytes that were read again to see whether they rotted", scrubbed.bytes),
            ("storage_scrub_damaged", "Objects that the scrub found damaged", scrubbed.damaged),
            ("storage_scrub_passes", "Times that the scrub came round", scrubbed.passes),
            ("saved_pulls", "Manifest GETs answered without one upstream", self.mirror.saved().0),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        self.space(&mut encoder)?;
        let open = self.mirror.breakers();
        let mut breakers = encoder.encode_descriptor(
            "upstream_breaker_open",
            "1 from when an upstream fails or limits us until it has answered again; meanwhile it is asked seldom",
            None,
            MetricType::Gauge,
        )?;
        for upstream in self.mirror.upstreams() {
            let is_open = open.iter().any(|(name, ..)| *name == upstream);
            let labels = [("upstream", &*upstream)];
            ConstGauge::new(i64::from(is_open)).encode(breakers.encode_family(&labels)?)?;
        }
        let mut waiting = encoder.encode_descriptor(
            "upstream_waiting",
            "Requests that wait for their turn to be sent to an upstream",
            None,
            MetricType::Gauge,
        )?;
        for (upstream, count) in self.mirror.waiting_upstream() {
            ConstGauge::new(count as i64).encode(waiting.encode_family(&[("upstream", &*upstream)])?)?;
        }
        let budget = self.mirror.budget();
        for (name, help, value) in [
            ("budget_limit", "Pulls that an upstream allows within the window", limit as BudgetFigure),
            (
                "budget_remaining",
                "Pulls left now, less those under way, by forecast when upstream has not said lately",
                remaining,
            ),
            ("budget_window_seconds", "The length of the window", window),
            (
                "budget_next_pull_timestamp_seconds",
                "When the next pull comes back, by forecast; absent while none is out",
                next_pull,
            ),
            ("budget_spent", "Pulls that this mirror spent within the window", spent),
            (
                "budget_external_spend",
                "Pulls that others, of the same address or account, spent within the window",
                external,
            ),
        ] {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for left in &budget {
                let Some(value) = value(left) else { continue };
                let labels = [("upstream", &*left.identity.upstream), ("identity", left.identity.name())];
                ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
            }
        }
        let mut credentials = encoder.encode_descriptor(
            "upstream_credential_state",
            "1 for the state in which an account's credential is: unused, accepted, refused, unreadable",
            None,
            MetricType::Gauge,
        )?;
        for (upstream, account, now) in self.mirror.credentials() {
            for state in CredentialState::ALL {
                let labels = [("upstream", &*upstream), ("identity", &*account), ("state", state.word())];
                ConstGauge::new(i64::from(state == now)).encode(credentials.encode_family(&labels)?)?;
            }
        }
        self.reload(&mut encoder)?;
        self.limits(&mut encoder)
    }
}

impl MetricsCollector {
    fn space(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(space) = *self.space.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        for (name, help, value) in [
            ("storage_filesystem_bytes", "Size of the file system that holds the cache", space.bytes),
            ("storage_filesystem_free_bytes", "What Weir may still use of it", space.free_bytes),
            ("storage_filesystem_inodes", "Inodes of the file system; 0 where it does not count them", space.inodes),
            ("storage_filesystem_free_inodes", "Inodes that are free", space.free_inodes),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }

    /// The names are those that Prometheus and Alertmanager give to theirs.
    fn reload(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let last = self.reloads.last();
        let successful = last.as_ref().is_none_or(|reload| reload.problem.is_none());
        let help = "1 unless the configuration that is written now could not be used";
        let gauge = ConstGauge::new(i64::from(successful));
        gauge.encode(encoder.encode_descriptor("config_last_reload_successful", help, None, MetricType::Gauge)?)?;
        let Some(reload) = last else { return Ok(()) };
        let at = reload.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let help = "When the configuration was last read again, since the epoch; absent since the start";
        let gauge = ConstGauge::new(at as i64);
        gauge.encode(encoder.encode_descriptor(
            "config_last_reload_timestamp_seconds",
            help,
            None,
            MetricType::Gauge,
        )?)
    }

    fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let throttles = self.limits.throttles();
        let denied = |view: &ThrottleView| view.matches.denied;
        let would_have = |view: &ThrottleView| view.matches.would_have_denied;
        for (name, help, value) in [
            ("throttle_denied", "Requests that a throttle denied", denied as fn(&ThrottleView) -> u64),
            ("throttle_dry_run", "Requests that a throttle in dry run would have denied", would_have),
        ] {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for view in &throttles {
                ConstCounter::new(value(view)).encode(encoder.encode_family(&[("throttle", &*view.name)])?)?;
            }
        }
        let mut refused = encoder.encode_descriptor(
            "repository_refused",
            "Requests for repositories that allow or deny of their upstream refuses",
            None,
            MetricType::Counter,
        )?;
        for rule in self.limits.config().repositories.all() {
            let patterns = rule.patterns.join(" ");
            let labels = [("upstream", &*rule.upstream), ("rule", rule.verdict.word()), ("patterns", &*patterns)];
            ConstCounter::new(rule.refused()).encode(refused.encode_family(&labels)?)?;
        }
        let mut matched = encoder.encode_descriptor(
            "policy_matched",
            "Manifests that broke a rule of a policy and were refused, warned of or, by one that audits, served",
            None,
            MetricType::Counter,
        )?;
        for policy in self.mirror.enforcement.policies().all() {
            let (name, mode) = (&*policy.table().name, policy.table().mode.word());
            for (rule, count) in policy.counts() {
                let labels = [("policy", name), ("mode", mode), ("rule", rule.as_str())];
                ConstCounter::new(count).encode(matched.encode_family(&labels)?)?;
            }
        }
        let (acting, simulated) = self.limits.count_bans(std::time::SystemTime::now());
        for (name, help, value) in [
            ("bans_active", "Bans in force", acting),
            ("bans_simulated", "Bans that would be in force but for dry run", simulated),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut encoder =
            encoder.encode_descriptor("budget_waiting", "Requests that wait for a pull", None, MetricType::Gauge)?;
        for left in self.mirror.budget() {
            let labels = [("upstream", &*left.identity.upstream), ("identity", left.identity.name())];
            ConstGauge::new(self.limits.waiting(&left.identity) as i64).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
