//! What the kernel knows of this process, under the names that all Prometheus clients give to it. Read when `/metrics` is, from `/proc`.

use std::{
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use rustix::process::{Resource, getrlimit};

/// Clock ticks a second of `/proc`: USER_HZ, which is 100 on every architecture that Linux shows to programs.
const TICKS: f64 = 100.0;

/// These names have no prefix, as dashboards for any process expect them.
pub(super) static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process { started: SystemTime::now() }));
    registry
});

#[derive(Debug)]
struct Process {
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let started = self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let stat = Stat::read();
        let of = |read: fn(&Stat) -> Option<u64>| stat.as_ref().and_then(read);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", resident_bytes()),
            ("process_virtual_memory_bytes", "Virtual memory", of(Stat::virtual_bytes)),
            ("process_threads", "Threads", of(Stat::threads)),
            ("process_open_fds", "Open file descriptors", open_files()),
            ("process_max_fds", "File descriptors that may be open", getrlimit(Resource::Nofile).current),
            ("process_start_time_seconds", "When the process started, since the epoch", Some(started)),
        ] {
            // What cannot be read is left out: a zero would be a lie.
            if let Some(value) = value {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        if let Some(ticks) = of(Stat::ticks) {
            let help = "Time of processors that the process used, in user and in kernel mode";
            let counter = ConstCounter::new(ticks as f64 / TICKS);
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

/// The fields of `/proc/self/stat` behind the name of the program, which may hold anything but a last parenthesis.
struct Stat(Vec<u64>);

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The state is a letter, and some fields may be negative; none of those is asked for.
        let fields = text.rsplit_once(')')?.1.split_whitespace();
        Some(Stat(fields.map(|field| field.parse().unwrap_or(0)).collect()))
    }

    /// By its number in proc(5); the state is the third.
    fn field(&self, number: usize) -> Option<u64> {
        self.0.get(number - 3).copied()
    }

    fn ticks(&self) -> Option<u64> {
        Some(self.field(14)? + self.field(15)?)
    }

    fn threads(&self) -> Option<u64> {
        self.field(20)
    }

    fn virtual_bytes(&self) -> Option<u64> {
        self.field(23)
    }
}

/// The line `VmRSS:     1234 kB`, which needs no knowledge of the page size.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}
