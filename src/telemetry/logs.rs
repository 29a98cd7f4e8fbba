//! Where log lines go and how they look: events to stderr at once, and the access log through a queue to where it is wanted; and both to
//! the tail that people look at.

use std::{io::IsTerminal, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt as _, filter_fn},
    fmt::MakeWriter,
    layer::{Filter, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use super::{
    access_lines::{AccessLines, JsonLines},
    line_queue::LineQueue,
    repeats,
    settings::{Format, Settings},
    sink::Sink,
    tail::{Tail, Tee},
    trace::{self, Exporter, Recorder, SpansOfRequests},
};

/// The target of the lines of the access log.
const ACCESS: &str = "weir::access";
/// How long the end of the process waits for the access log.
const PATIENCE: Duration = Duration::from_secs(1);

/// The access log and the traces of the process, and the tail of all that is logged. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Logs {
    access: LineQueue,
    traces: Option<Exporter>,
    tail: Tail,
}

impl Logs {
    /// Opens the file of the access log anew, since another program may have moved it away.
    pub fn reopen(&self) {
        self.access.reopen();
    }

    /// Waits until what was logged is written, for a second at most.
    pub fn flush(&self) {
        LineQueue::flush(&self.access, PATIENCE);
        if let Some(traces) = &self.traces {
            traces.flush(PATIENCE);
        }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Offers what is counted to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Counted(self.clone())));
    }
}

#[derive(Debug)]
struct Counted(Logs);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (sent, lost) = self.0.traces.as_ref().map(Exporter::counts).unwrap_or_default();
        for (name, help, value) in [
            ("log_lost_lines", "Lines of the access log that could not be written", self.0.access.lost()),
            ("trace_sent_spans", "Spans of traces that a collector took", sent),
            ("trace_lost_spans", "Spans of traces that did not fit into the queue, or that no collector took", lost),
        ] {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(encoder)?;
        }
        Ok(())
    }
}

/// Sets up logging for the process. `WEIR_LOG` wins over `log.filter`; a directive in it that cannot be read is left out.
///
/// # Errors
/// When the access log cannot be opened, with its key.
pub fn start(log: &Settings) -> Result<Logs, String> {
    let variable = std::env::var("WEIR_LOG").ok().filter(|filter| !filter.is_empty());
    let directives = variable.as_deref().unwrap_or(&log.filter);
    let terminal = std::io::stderr().is_terminal();
    let is_own = log.has_access_sink();
    let queue = LineQueue::start(sink(log)?).map_err(|error| format!("cannot start a thread: {error}"))?;
    repeats::set_lines(log.refusal_lines);
    let tail = Tail::default();
    let events = layer(log.format, terminal, Tee(tail.clone(), std::io::stderr));
    let lines = AccessLines { tail: tail.clone(), queue: queue.clone() };
    let coloured = terminal && !is_own;
    let access =
        if log.format.is_json(coloured) { JsonLines(lines).boxed() } else { layer(log.format, coloured, lines) };
    let (traces, problem) = match traces() {
        Ok(traces) => (traces, None),
        Err(problem) => (None, Some(problem)),
    };
    let recorder = traces.clone().map(|exporter| Recorder(exporter).with_filter(SpansOfRequests));
    let subscriber = tracing_subscriber::registry()
        .with(events.with_filter(only(directives, |about| !is_access(about))))
        .with(access.with_filter(only(directives, is_access)))
        .with(recorder);
    // A subscriber that is there already belongs to a test and stays.
    let _ = subscriber.try_init();
    if let Some(problem) = problem {
        // These variables are often given to every program of a machine; none of them stops a mirror.
        tracing::warn!("no traces are sent: {problem}");
    }
    Ok(Logs { access: queue, traces, tail })
}

/// Begins to sample requests, if the environment names a collector.
fn traces() -> Result<Option<Exporter>, String> {
    let Some(settings) = trace::Settings::of(|name| std::env::var(name).ok())? else { return Ok(None) };
    let sampler = settings.sampler;
    let exporter = Exporter::start(settings)?;
    trace::begin(sampler);
    Ok(Some(exporter))
}

/// What the directives let through and `is_meant` is true of. The level of the directives is that of both: without it, no line of any library
/// would be left out before the filters are asked, those of the `log` crate at each request.
fn only<S: Subscriber + for<'a> LookupSpan<'a>>(
    directives: &str,
    is_meant: fn(&Metadata<'_>) -> bool,
) -> impl Filter<S> + use<S> {
    let filter = EnvFilter::builder().parse_lossy(directives);
    let level = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    filter.and(filter_fn(is_meant).with_max_level_hint(level))
}

fn is_access(about: &Metadata<'_>) -> bool {
    about.target() == ACCESS
}

fn sink(log: &Settings) -> Result<Sink, String> {
    let refused = |key: &str, path: &std::path::Path, error: std::io::Error, fix: &str| {
        format!("{key} = \"{}\": {error}; {fix}", path.display())
    };
    if !log.access_file.as_os_str().is_empty() {
        let fix = "name a file in a directory that Weir may write to";
        return Sink::file(&log.access_file).map_err(|error| refused("log.access_file", &log.access_file, error, fix));
    }
    if !log.access_syslog.as_os_str().is_empty() {
        let fix = "name the socket of a running syslog daemon, such as \"/dev/log\"";
        return Sink::syslog(&log.access_syslog)
            .map_err(|error| refused("log.access_syslog", &log.access_syslog, error, fix));
    }
    Ok(Sink::Stderr)
}

fn layer<S, W>(format: Format, terminal: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    if format.is_json(terminal) { layer.json().flatten_event(true).boxed() } else { layer.with_ansi(terminal).boxed() }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn what_the_filter_leaves_out_by_its_level_costs_nothing_more() {
        for (directives, level) in [("warn", LevelFilter::WARN), ("info,weir=debug", LevelFilter::DEBUG)] {
            let level = Some(level);
            assert_eq!(Filter::<Registry>::max_level_hint(&only::<Registry>(directives, is_access)), level);
        }
    }
}
