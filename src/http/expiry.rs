//! Until when the certificates of the listeners are valid, for `/metrics`.

use std::{sync::Arc, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::wire::Certificate;

/// Says it at each scrape, so that a reload shows.
#[derive(Debug)]
pub struct Expiry(Vec<Arc<Certificate>>);

impl Expiry {
    /// Of these certificates, each file once.
    pub fn of(certificates: &[Arc<Certificate>]) -> Expiry {
        let mut each: Vec<Arc<Certificate>> = Vec::new();
        for certificate in certificates {
            if each.iter().all(|known| known.files()[0] != certificate.files()[0]) {
                each.push(certificate.clone());
            }
        }
        Expiry(each)
    }
}

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let help = "When the certificate of a listener expires, since the epoch";
        let name = "certificate_expiry_timestamp_seconds";
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for certificate in &self.0 {
            let since = certificate.expires().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let Some(since) = since.and_then(|since| i64::try_from(since.as_secs()).ok()) else { continue };
            let file = certificate.files()[0].display().to_string();
            ConstGauge::new(since).encode(encoder.encode_family(&[("file", file.as_str())])?)?;
        }
        Ok(())
    }
}
