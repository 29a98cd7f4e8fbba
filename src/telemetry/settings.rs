//! `[log]`: what is logged, and how it looks.

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

impl Default for Settings {
    fn default() -> Settings {
        Settings { filter: "info,actix_server=warn,actix_http=off".to_owned(), format: Format::Auto }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `log`.
    pub fn validate(&self) -> Vec<ConfigError> {
        if let Err(error) = self.filter.parse::<tracing_subscriber::EnvFilter>() {
            let fix = format!(r#"{error}; write "info" or "info,weir=debug""#);
            return vec![ConfigError::new("log.filter", &self.filter, fix)];
        }
        Vec::new()
    }
}
