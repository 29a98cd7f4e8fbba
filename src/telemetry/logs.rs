//! Where log lines go (stderr) and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::settings::{Format, Settings};

/// Sets up logging for the process. `WEIR_LOG` wins over `log.filter`; a directive in it that cannot be read is left out.
pub fn start(log: &Settings) {
    let filter = std::env::var("WEIR_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::builder().parse_lossy(filter.as_deref().unwrap_or(&log.filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    // A subscriber that is there already belongs to a test and stays.
    let _ = match log.format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Auto if !terminal => builder.json().flatten_event(true).try_init(),
        Format::Auto | Format::Text => builder.with_ansi(terminal).try_init(),
    };
}
