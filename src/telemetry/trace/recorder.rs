//! From spans of `tracing` to those of OpenTelemetry: a layer that keeps what a sampled request and its work say of themselves.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use super::{
    context::{SpanId, TraceId},
    exporter::Exporter,
    otlp::{FinishedSpan, Kind, Value},
};

/// The target of the spans of sampled requests; those of what is done for them lie in them.
const ROOT: &str = "weir::trace";
/// The target of the span of a request that is not sampled, which is for the log alone.
const LOGGED: &str = "weir::http";
/// The field that ends a span: what is recorded last. A span without it ends when nothing holds it any more.
const OUTCOME: &str = "outcome";
/// The fields that place the span of a request in the trace of its client.
const TRACE: &str = "trace_id";
const PARENT: &str = "parent_id";
/// Bytes of a text that is kept, and links of a span.
const LONGEST: usize = 512;
const LINKS: usize = 32;

/// Lets through spans of sampled requests and of what is done for them, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(in crate::telemetry) struct SpansOfRequests;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for SpansOfRequests {
    fn enabled(&self, about: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        is_ours(about) && (about.target() == ROOT || context.lookup_current().is_some())
    }

    fn callsite_enabled(&self, about: &'static Metadata<'static>) -> Interest {
        match is_ours(about) {
            false => Interest::never(),
            true if about.target() == ROOT => Interest::always(),
            true => Interest::sometimes(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }
}

fn is_ours(about: &Metadata<'_>) -> bool {
    // Not even in doubt: the registry keeps a span that no filter is sure not to want, for each request.
    about.is_span() && about.target().starts_with("weir") && about.target() != LOGGED
}

/// Keeps spans until they end, and then gives them to the exporter.
#[derive(Debug)]
pub(in crate::telemetry) struct Recorder(pub(in crate::telemetry) Exporter);

/// A span under way.
struct Open(FinishedSpan);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let of_parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Open>().map(|open| (open.0.trace, Some(open.0.id)))
        });
        let Some((trace, parent)) = of_parent.or(fields.trace.map(|trace| (trace, fields.parent))) else { return };
        let kind = match span.name() {
            "request" => Kind::Server,
            "upstream" => Kind::Client,
            _ => Kind::Internal,
        };
        let now = now();
        span.extensions_mut().insert(Open(FinishedSpan {
            trace,
            id: SpanId::random(),
            parent,
            name: span.name(),
            kind,
            start: now,
            end: 0,
            attributes: fields.attributes,
            links: Vec::new(),
            failed: fields.failed,
        }));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Open(open)) = extensions.get_mut::<Open>() else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        open.failed |= fields.failed;
        open.attributes.append(&mut fields.attributes);
        if fields.ends {
            open.end = now();
        }
    }

    /// A follower is linked to the work of its leader, which lies in another trace.
    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let leader = context.span(follows).and_then(|leader| {
            let extensions = leader.extensions();
            extensions.get::<Open>().map(|open| (open.0.trace, open.0.id))
        });
        let (Some(leader), Some(span)) = (leader, context.span(id)) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(Open(open)) = extensions.get_mut::<Open>().filter(|open| open.0.links.len() < LINKS) {
            open.links.push(leader);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let open = context.span(&id).and_then(|span| span.extensions_mut().remove::<Open>());
        if let Some(Open(mut span)) = open {
            if span.end == 0 {
                span.end = now();
            }
            self.0.take(span);
        }
    }
}

/// Nanoseconds since the epoch: 584 years fit.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a span says of itself.
#[derive(Default)]
struct Fields {
    attributes: Vec<(&'static str, Value)>,
    trace: Option<TraceId>,
    parent: Option<SpanId>,
    failed: bool,
    ends: bool,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.ends |= field.name() == OUTCOME;
        self.failed |= match &value {
            Value::Number(status) => field.name() == "http.response.status_code" && *status >= 500,
            _ => field.name() == "error",
        };
        self.attributes.push((field.name(), value));
    }

    fn add_text(&mut self, field: &Field, mut text: String) {
        match field.name() {
            TRACE => self.trace = TraceId::parse(&text),
            PARENT => self.parent = SpanId::parse(&text),
            _ => {
                text.truncate(text.floor_char_boundary(LONGEST));
                self.add(field, Value::Text(text));
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Number(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Number(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Truth(value));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn the_span_of_a_request_that_is_not_sampled_is_in_no_doubt() {
        let interest = |span: tracing::Span| {
            let about = span.metadata().expect("a span has metadata, wanted or not");
            Filter::<Registry>::callsite_enabled(&SpansOfRequests, about)
        };
        assert!(interest(tracing::debug_span!(target: "weir::http", "request")).is_never());
        assert!(interest(tracing::debug_span!(target: "weir::trace", "request")).is_always());
        assert!(interest(tracing::debug_span!(target: "weir::mirror::flight", "flight")).is_sometimes());
    }
}
