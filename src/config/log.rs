//! `[log]`: what is logged, and how it looks.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// What is logged, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `tracing` directives; the variable `WEIR_LOG` wins.
    pub filter: String,
    /// Lines for people or for machines.
    pub format: Format,
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

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info,actix_server=warn,actix_http=off".to_owned(), format: Format::Auto }
    }
}

impl Log {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if let Err(error) = self.filter.parse::<tracing_subscriber::EnvFilter>() {
            errors.push(ConfigError::new(
                "log.filter",
                &self.filter,
                format!(r#"{error}; write "info" or "info,weir=debug""#),
            ));
        }
    }
}
