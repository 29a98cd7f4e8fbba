//! What warms count.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::job::Outcome;

/// Counters of the warms, since start.
#[derive(Debug)]
pub(super) struct Metrics {
    images: Family<[(&'static str, &'static str); 1], Counter>,
    bytes: Counter,
    pub(super) jobs: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let images = Family::<[(&str, &str); 1], Counter>::default();
        for result in ["here", "fetched", "refused", "evicted"] {
            // Zero from the start, so that the first one is an increase.
            drop(images.get_or_create(&[("result", result)]));
        }
        Metrics { images, bytes: Counter::default(), jobs: Gauge::default() }
    }
}

impl Metrics {
    /// Counts an image that is settled.
    pub(super) fn settled(&self, outcome: &Outcome) {
        self.images.get_or_create(&[("result", outcome.word())]).inc();
        if let Outcome::Fetched { bytes, .. } = outcome {
            self.bytes.inc_by(*bytes);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Images of warms that were settled, by what became of them";
        registry.register("warm_images", help, self.images.clone());
        registry.register("warm_bytes", "Bytes of layers that came for warms", self.bytes.clone());
        registry.register("warm_jobs", "Warms that are under way or wait", self.jobs.clone());
    }
}
