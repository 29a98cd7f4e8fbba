//! `[log]`: what is logged, and how it looks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::setting::ConfigError;

/// What is logged, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `tracing` directives; the variable `WEIR_LOG` wins.
    pub filter: String,
    /// Lines for people or for machines.
    pub format: Format,
    /// The file of the access log, which is opened anew on SIGHUP; stderr when empty.
    pub access_file: PathBuf,
    /// The datagram socket of a syslog daemon that gets the access log instead.
    pub access_syslog: PathBuf,
    /// Lines within 10 s about refusals of one client by one rule; 0 is all.
    pub refusal_lines: u32,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text when stderr is a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Whether a line is an object of JSON, on a terminal or elsewhere.
    pub(super) fn is_json(self, terminal: bool) -> bool {
        self == Format::Json || (self == Format::Auto && !terminal)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            filter: "info,actix_server=warn,actix_http=off".to_owned(),
            format: Format::Auto,
            access_file: PathBuf::new(),
            access_syslog: PathBuf::new(),
            refusal_lines: 5,
        }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `log`.
    pub fn validate(&self) -> Vec<ConfigError> {
        if !self.access_file.as_os_str().is_empty() && !self.access_syslog.as_os_str().is_empty() {
            let fix = "log.access_syslog is set, too, and the access log goes to one of them; leave one empty";
            return vec![ConfigError::new("log.access_file", self.access_file.display().to_string(), fix)];
        }
        if let Err(error) = self.filter.parse::<tracing_subscriber::EnvFilter>() {
            let fix = format!(r#"{error}; write "info" or "info,weir=debug""#);
            return vec![ConfigError::new("log.filter", &self.filter, fix)];
        }
        Vec::new()
    }

    /// Whether the access log goes to another place than the events.
    pub(super) fn has_access_sink(&self) -> bool {
        !self.access_file.as_os_str().is_empty() || !self.access_syslog.as_os_str().is_empty()
    }
}
