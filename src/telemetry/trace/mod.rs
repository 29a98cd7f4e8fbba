//! Traces for an OpenTelemetry collector, over OTLP/HTTP; off unless the environment names an endpoint.
//!
//! # What it guarantees
//!
//! - Off, it costs a request one atomic read. On, a request that is not sampled makes no span, and neither does what is done for it.
//! - Spans wait in a bounded queue and are sent by a thread of their own: no request waits for a collector, and what does not fit is lost
//!   and counted.
//! - What a collector gets is of this process alone: no trace id and no `traceparent` is ever sent to an upstream, which would learn from
//!   it which of its requests belong together, and with whose.
//!
//! # Why not the OpenTelemetry crates
//!
//! They are an SDK with an HTTP client, fourteen crates of which this needs one message. `reqwest` belongs to `upstream`, links from
//! followers to leaders and the decision before the first span need a layer of our own in any case, and the format is four nested messages
//! of protobuf whose numbers never change.

mod context;
mod exporter;
mod otlp;
mod recorder;
mod settings;

use std::sync::OnceLock;

use self::context::Sampler;
pub(crate) use self::context::{Sampled, TraceId};
pub(super) use self::{
    exporter::Exporter,
    recorder::{Recorder, SpansOfRequests},
    settings::Settings,
};

/// Decides for each request once traces are on.
static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// Whether a request with this `traceparent` (W3C Trace Context, section 3.2) is sampled, and as part of which trace.
pub(crate) fn sample(traceparent: Option<&[u8]>) -> Option<Sampled> {
    SAMPLER.get()?.sample(traceparent)
}

/// From now on requests are sampled.
pub(super) fn begin(sampler: Sampler) {
    // A second start is a test's, and the first one stays.
    let _ = SAMPLER.set(sampler);
}
