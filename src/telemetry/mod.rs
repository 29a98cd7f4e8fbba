//! Logs and metrics: how they are set up, and the one registry that `/metrics` prints.
//!
//! Each room counts for itself and registers what it counts; this module only gives the registry, with the prefix `weir_`
//! and what is true of the process as a whole. No metric has a client, a user or an image in a label: those are unbounded,
//! and are asked of the API instead.

#[cfg(test)]
mod capture;
mod durations;
mod line_queue;
mod logs;
mod process;
mod repeats;
mod settings;
mod sink;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

#[cfg(test)]
pub(crate) use capture::logged;
pub(crate) use durations::Durations;
pub use logs::{Logs, start as start_logs};
pub(crate) use repeats::{DENIALS, REFUSALS};
pub use settings::{Format, Settings};

/// A registry for every room to register with.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("weir");
    let build = Family::<Vec<(String, String)>, Gauge>::default();
    build.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "Which weir this is", build);
    registry.register_collector(Box::new(process::Process::started_now()));
    registry
}

#[cfg(test)]
mod tests {
    #[test]
    fn process_metrics_have_one_prefix() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &super::registry()).unwrap();
        assert!(text.contains(concat!("weir_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
        for name in
            ["weir_process_resident_memory_bytes ", "weir_process_open_fds ", "weir_process_start_time_seconds "]
        {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
            assert!(line[name.len()..].parse::<f64>().unwrap() > 0.0, "{line}");
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("weir_")), "{text}");
    }
}
