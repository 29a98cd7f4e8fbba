//! What is hosted, for `/metrics`: read off at each scrape. How pushes end is counted where they are answered, in `http`.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use weir_storage::Store;

/// Reads them off the store.
#[derive(Debug)]
pub(super) struct Figures(pub(super) Store);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = self.0.repositories.usage();
        let namespaces = &usage.namespaces;
        let held = namespaces.iter().map(|(name, bytes)| (name, *bytes));
        gauges(&mut encoder, "hosted_bytes", "Bytes that a namespace holds", held)?;
        // No bound is no figure: a zero would read as full.
        let bounded = namespaces.iter().filter(|_| usage.capacity > 0).map(|(name, _)| (name, usage.capacity));
        gauges(&mut encoder, "hosted_capacity_bytes", "Bytes that a namespace may hold, if that is bounded", bounded)?;
        let uploads = ConstGauge::new(self.0.uploads.count() as i64);
        let help = "Upload sessions that wait for bytes or take them";
        uploads.encode(encoder.encode_descriptor("hosted_uploads", help, None, MetricType::Gauge)?)?;
        for (name, help, value) in [
            ("hosted_collected", "Blobs given up because no manifest named them", usage.collected),
            (
                "hosted_collected_bytes",
                "Bytes of blobs given up because no manifest named them; eviction may take them from then on",
                usage.collected_bytes,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

fn gauges<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a String, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (namespace, value) in values {
        let labels = [("namespace", namespace.as_str())];
        ConstGauge::new(value as i64).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
