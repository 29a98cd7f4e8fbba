//! Logs and metrics: how they are set up, and the one registry that `/metrics` prints.
//!
//! Each room counts for itself and registers what it counts; this module only gives the registry, with the prefix `weir_`,
//! and what is true of the process as a whole, under `process_`. No metric has a client, a user or an image in a label: those are unbounded,
//! and are asked of the API instead.

mod access_lines;
#[cfg(test)]
mod capture;
mod durations;
mod line_queue;
mod logs;
mod process;
mod repeats;
mod settings;
mod sink;
mod tail;
mod trace;
mod watchers;

use std::sync::LazyLock;

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

#[cfg(test)]
pub(crate) use capture::logged;
pub(crate) use durations::Durations;
pub use logs::{Logs, start as start_logs};
pub(crate) use repeats::{DENIALS, REFUSALS};
pub use settings::{Format, Settings};
pub use tail::{Tail, TailEvent, Watcher};
pub(crate) use trace::{Sampled, TraceId, sample};

/// A registry for every room to register with.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("weir");
    let build = Family::<Vec<(String, String)>, Gauge>::default();
    build.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "Which weir this is", build);
    // Now, since it knows when the process began.
    LazyLock::force(&process::REGISTRY);
    registry
}

/// What a registry counts, and what is true of the process, in the format of OpenMetrics.
///
/// # Errors
/// When a metric cannot be written.
pub(crate) fn open_metrics(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, registry)?;
    encode_registry(&mut text, &process::REGISTRY)?;
    encode_eof(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_metrics_of_the_process_have_the_names_of_all_clients() {
        // Something that takes time of a processor.
        while super::open_metrics(&super::registry()).unwrap().contains("process_cpu_seconds_total 0.0\n") {}
        let text = super::open_metrics(&super::registry()).unwrap();
        assert!(text.contains(concat!("weir_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
        for name in [
            "process_cpu_seconds_total ",
            "process_max_fds ",
            "process_open_fds ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "process_threads ",
            "process_virtual_memory_bytes ",
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
            assert!(line[name.len()..].parse::<f64>().unwrap() > 0.0, "{line}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    }
}
