//! What is wrong with a configuration: the key, the value it has, and what to write instead.

use std::fmt;

/// One thing to mend. Printed as `weir.toml:12: storage.capacity = "50GB!": write …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was written, such as `weir.toml:12` or `WEIR_STORAGE__CAPACITY`; `None` until the reader of the file says it.
    pub place: Option<String>,
    /// Where, such as `storage.capacity` or `upstream[0].url`; empty when the file as a whole cannot be read.
    pub key: String,
    /// What stands there, as TOML; `None` when nothing does, or when it is a secret.
    pub value: Option<String>,
    /// What is wrong with it and what would be right.
    pub fix: String,
}

impl ConfigError {
    /// An error whose value may be shown.
    pub fn new(key: impl Into<String>, value: impl fmt::Debug, fix: impl Into<String>) -> ConfigError {
        ConfigError { place: None, key: key.into(), value: Some(format!("{value:?}")), fix: fix.into() }
    }

    /// An error without a value: something is missing, or what stands there must not be printed.
    pub fn without_value(key: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        ConfigError { place: None, key: key.into(), value: None, fix: fix.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        match (&*self.key, &self.value) {
            ("", _) => f.write_str(&self.fix),
            (key, None) => write!(f, "{key}: {}", self.fix),
            (key, Some(value)) => write!(f, "{key} = {value}: {}", self.fix),
        }
    }
}

/// Everything that is wrong, so that it can be mended in one go. One line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> ConfigErrors {
        ConfigErrors(vec![error])
    }
}
