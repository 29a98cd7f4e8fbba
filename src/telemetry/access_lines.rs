//! The lines of the access log, on their way to the queue and to the tail, which share one copy of each.
//!
//! The JSON is what the formatter of `tracing-subscriber` writes of an event outside of a span, for a quarter of its time: a warm request costs
//! 16 µs of a processor, and its line cost 8 of them more.

use std::{
    cell::RefCell,
    fmt::{Debug, Write as _},
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

use super::{line_queue::LineQueue, tail::Tail};

/// Takes the lines. Cloning shares what takes them.
#[derive(Clone, Debug)]
pub(super) struct AccessLines {
    pub(super) tail: Tail,
    pub(super) queue: LineQueue,
}

impl AccessLines {
    fn push(&self, line: &str) {
        let line: Arc<str> = line.trim_end().into();
        self.tail.push(line.clone());
        self.queue.push(line);
    }
}

impl<'a> MakeWriter<'a> for AccessLines {
    type Writer = &'a AccessLines;

    fn make_writer(&'a self) -> &'a AccessLines {
        self
    }
}

impl Write for &AccessLines {
    /// One whole line, as the formatter gives it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes each event as an object of JSON.
#[derive(Debug)]
pub(super) struct JsonLines(pub(super) AccessLines);

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local! {
            static OBJECT: RefCell<Object> = RefCell::default();
        }
        OBJECT.with_borrow_mut(|object| self.0.push(object.describe(event, SystemTime::now())));
    }
}

/// The buffers of a thread, which keep their memory from line to line.
#[derive(Default)]
struct Object {
    json: Vec<u8>,
    /// A value that has no text yet.
    text: String,
}

impl Object {
    fn describe(&mut self, event: &Event<'_>, now: SystemTime) -> &str {
        self.json.clear();
        let about = event.metadata();
        // A buffer in memory takes everything.
        let _ = write!(
            self.json,
            r#"{{"timestamp":"{}","level":"{}""#,
            humantime::format_rfc3339_micros(now),
            about.level()
        );
        event.record(self);
        self.string("target", about.target());
        self.json.push(b'}');
        std::str::from_utf8(&self.json).unwrap_or_default()
    }

    fn name(&mut self, name: &str) {
        self.json.extend_from_slice(b",\"");
        self.json.extend_from_slice(name.as_bytes());
        self.json.extend_from_slice(b"\":");
    }

    fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        let _ = serde_json::to_writer(&mut self.json, value);
    }
}

impl Visit for Object {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.string(field.name(), &text);
        self.text = text;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::sink::Sink;

    fn lines() -> AccessLines {
        let sink = Sink::file(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
        AccessLines { tail: Tail::default(), queue: LineQueue::start(sink).unwrap() }
    }

    #[test]
    fn a_line_is_what_the_general_formatter_writes() {
        let (own, general) = (lines(), lines());
        let formatter = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(general.clone());
        let subscriber = tracing_subscriber::registry().with(JsonLines(own.clone())).with(formatter);
        tracing::subscriber::with_default(subscriber, || {
            for path in ["/v2/", "a \"quoted\"\\ path\n\u{1}\u{7f}é"] {
                tracing::info!(
                    target: "weir::access",
                    method = %"GET",
                    path,
                    status = 200_u16,
                    bytes = u64::MAX,
                    cut = Some(true),
                    code = None::<&str>,
                    address = tracing::field::display(std::net::Ipv6Addr::LOCALHOST),
                );
            }
        });
        let objects = |lines: &AccessLines| -> Vec<Value> {
            let newest = lines.tail.newest(9, |_| true);
            newest.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (mut own, mut general) = (objects(&own), objects(&general));
        assert_eq!(own.len(), 2);
        for (own, general) in own.iter_mut().zip(&mut general) {
            let [own_time, time] = [own["timestamp"].take(), general["timestamp"].take()];
            let length = |time: Value| humantime::parse_rfc3339(time.as_str().unwrap()).map(|_| time.to_string().len());
            assert_eq!(length(own_time).unwrap(), length(time).unwrap());
        }
        assert_eq!(own, general);
    }
}
