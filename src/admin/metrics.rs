//! `/metrics`: what is counted elsewhere, and what is read off the moment somebody looks.

use actix_web::HttpResponse;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{json::refuse, state::State};
use crate::{
    limits::{Limits, bans::BanFilter, state::ThrottleView},
    mirror::Mirror,
    upstream::ledger::Balance,
};

pub(super) fn metrics(state: &State) -> HttpResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.metrics) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .insert_header(("X-Content-Type-Options", "nosniff"))
            .body(text),
        Err(_) => refuse(500, "UNKNOWN", "the metrics cannot be written"),
    }
}

/// What the mirror knows of itself and nobody counts.
#[derive(Debug)]
pub(super) struct MetricsCollector(pub(super) Mirror, pub(super) Limits);

fn own(left: &Balance) -> u64 {
    left.spent
}

fn others(left: &Balance) -> u64 {
    left.external
}

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (usage, scrubbed) = (self.0.usage(), self.0.scrub().scrubbed());
        for (name, help, value) in [
            ("storage_capacity_bytes", "Bytes that the cache may take", usage.capacity),
            ("storage_blob_bytes", "Bytes of whole blobs", usage.blob_bytes),
            ("storage_blobs", "Whole blobs", usage.blobs),
            ("storage_manifest_bytes", "Bytes of manifests", usage.manifest_bytes),
            ("storage_manifests", "Manifests", usage.manifests),
            ("storage_partial_bytes", "Bytes of blobs that are arriving or wait to be resumed", usage.partial_bytes),
            ("fills_under_way", "Blobs arriving now", self.0.blobs.fills() as u64),
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
            ("storage_scrubbed_bytes", "Bytes of those", scrubbed.bytes),
            ("storage_scrub_damaged", "Objects that were found damaged by it", scrubbed.damaged),
            ("storage_scrub_passes", "Times that it came round", scrubbed.passes),
            ("saved_pulls", "Manifest GETs answered without one upstream", self.0.saved().0),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let budget = self.0.budget();
        for (name, help, value) in [
            ("budget_spent", "Pulls that this mirror spent within the window", own as fn(&Balance) -> u64),
            ("budget_external_spend", "Pulls that others behind the same address spent within the window", others),
        ] {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for left in &budget {
                let account = left.identity.account.as_deref().unwrap_or("anonymous");
                let labels = [("upstream", &*left.identity.upstream), ("identity", account)];
                ConstGauge::new(value(left) as i64).encode(encoder.encode_family(&labels)?)?;
            }
        }
        self.limits(&mut encoder)
    }
}

impl MetricsCollector {
    fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let throttles = self.1.throttles();
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
        let bans = self.1.bans(&BanFilter::default(), std::time::SystemTime::now());
        let simulated = bans.iter().filter(|record| record.simulated).count();
        for (name, help, value) in [
            ("bans_active", "Bans in force", bans.len() - simulated),
            ("bans_simulated", "Bans that would be in force but for dry run", simulated),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut encoder =
            encoder.encode_descriptor("budget_waiting", "Requests that wait for a pull", None, MetricType::Gauge)?;
        for left in self.0.budget() {
            let account = left.identity.account.as_deref().unwrap_or("anonymous");
            let labels = [("upstream", &*left.identity.upstream), ("identity", account)];
            ConstGauge::new(self.1.waiting(&left.identity) as i64).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
