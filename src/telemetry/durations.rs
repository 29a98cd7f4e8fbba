//! A histogram of durations that is counted without a lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Upper bounds in seconds: a warm answer takes half a millisecond, a large blob minutes.
const BOUNDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// How long something took, in buckets. Cloning shares it. An observation is two atomic additions, since the library's own histogram
/// takes a lock, which all workers would share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    /// Not cumulative; the last is for what is longer than all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// In microseconds: 580,000 years fit.
    sum: AtomicU64,
}

impl Durations {
    /// The upper bounds of the buckets, in seconds.
    pub(crate) fn bounds() -> impl Iterator<Item = f64> {
        BOUNDS.into_iter()
    }

    /// How many were counted, and their sum. Reads each bucket.
    pub(crate) fn total(&self) -> (u64, Duration) {
        let count = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (count, Duration::from_micros(self.0.sum.load(Ordering::Relaxed)))
    }

    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(&self.0.counts).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        // Of the same reading, so that the count is that of the last bucket.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn an_observation_is_in_its_bucket_and_all_above() {
        let durations = Durations::default();
        for millis in [0, 1, 3, 400_000] {
            durations.observe(Duration::from_millis(millis));
        }
        let mut registry = Registry::with_prefix("weir");
        registry.register("answer_seconds", "Help", durations);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "weir_answer_seconds_bucket{le=\"0.0005\"} 1",
            "weir_answer_seconds_bucket{le=\"0.001\"} 2",
            "weir_answer_seconds_bucket{le=\"0.0025\"} 2",
            "weir_answer_seconds_bucket{le=\"0.005\"} 3",
            "weir_answer_seconds_bucket{le=\"300.0\"} 3",
            "weir_answer_seconds_bucket{le=\"+Inf\"} 4",
            "weir_answer_seconds_count 4",
            "weir_answer_seconds_sum 400.004",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }
}
