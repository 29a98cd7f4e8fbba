//! A certificate and its key: two PEM files, read when the configuration is.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::http::Certificate;

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Tls {
    /// Reads both files.
    pub(super) fn load(&self, key: &str) -> Result<Arc<Certificate>, ConfigError> {
        let certificate = Certificate::read(self.cert.clone(), self.key.clone());
        certificate.and_then(|certificate| certificate.server_config().map(|_| certificate)).map_err(|error| {
            ConfigError::without_value(key, format!("{error}; name a PEM chain, leaf first, and its key"))
        })
    }
}
