//! Spans as a collector reads them: `ExportTraceServiceRequest` of OTLP 1, in protobuf. Pure.
//!
//! The numbers are those of `opentelemetry/proto/trace/v1/trace.proto`, `common/v1/common.proto` and `resource/v1/resource.proto`.

use super::context::{SpanId, TraceId};

/// A span that has ended.
#[derive(Clone, Debug)]
pub(super) struct FinishedSpan {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Nanoseconds since the epoch.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) links: Vec<(TraceId, SpanId)>,
    pub(super) failed: bool,
}

/// `Span.SpanKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// `AnyValue`, as far as spans here have them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
}

/// One request that carries these spans, of a process that these attributes describe.
pub(super) fn request(resource: &[(String, String)], spans: &[FinishedSpan]) -> Vec<u8> {
    let mut about = Vec::new();
    for (key, value) in resource {
        message(&mut about, 1, &key_value(key, &Value::Text(value.clone())));
    }
    let mut scope = Vec::new();
    text(&mut scope, 1, "weir");
    text(&mut scope, 2, env!("CARGO_PKG_VERSION"));
    let mut scope_spans = Vec::new();
    message(&mut scope_spans, 1, &scope);
    for each in spans {
        message(&mut scope_spans, 2, &span(each));
    }
    let mut resource_spans = Vec::new();
    message(&mut resource_spans, 1, &about);
    message(&mut resource_spans, 2, &scope_spans);
    let mut request = Vec::new();
    message(&mut request, 1, &resource_spans);
    request
}

fn span(span: &FinishedSpan) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    message(&mut bytes, 1, &span.trace.0);
    message(&mut bytes, 2, &span.id.0);
    if let Some(parent) = &span.parent {
        message(&mut bytes, 4, &parent.0);
    }
    text(&mut bytes, 5, span.name);
    number(&mut bytes, 6, span.kind as u64);
    fixed(&mut bytes, 7, span.start);
    fixed(&mut bytes, 8, span.end);
    for (key, value) in &span.attributes {
        message(&mut bytes, 9, &key_value(key, value));
    }
    for (trace, id) in &span.links {
        let mut link = Vec::new();
        message(&mut link, 1, &trace.0);
        message(&mut link, 2, &id.0);
        message(&mut bytes, 13, &link);
    }
    if span.failed {
        let mut status = Vec::new();
        // STATUS_CODE_ERROR; the words are attributes.
        number(&mut status, 3, 2);
        message(&mut bytes, 15, &status);
    }
    bytes
}

fn key_value(key: &str, value: &Value) -> Vec<u8> {
    let mut any = Vec::new();
    match value {
        Value::Text(value) => text(&mut any, 1, value),
        Value::Truth(value) => number(&mut any, 2, u64::from(*value)),
        Value::Number(value) => number(&mut any, 3, value.cast_unsigned()),
    }
    let mut bytes = Vec::new();
    text(&mut bytes, 1, key);
    message(&mut bytes, 2, &any);
    bytes
}

/// Length-delimited: messages, bytes, text.
fn message(bytes: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(bytes, field << 3 | 2);
    varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

fn text(bytes: &mut Vec<u8>, field: u64, content: &str) {
    message(bytes, field, content.as_bytes());
}

fn number(bytes: &mut Vec<u8>, field: u64, value: u64) {
    varint(bytes, field << 3);
    varint(bytes, value);
}

/// Eight bytes.
fn fixed(bytes: &mut Vec<u8>, field: u64, value: u64) {
    varint(bytes, field << 3 | 1);
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
