//! `[budget]`: how what an upstream allows is shared among classes and clients.

use serde::{Deserialize, Serialize};

use crate::setting::{ConfigError, Span};

/// `[budget]`. The budget itself is never configured: upstream states it with every answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What each class must leave to those above it.
    pub floors: Floors,
    /// What one client of a class may take.
    pub client_share: Shares,
    /// How long a request may wait for a pull that is forecast (10 s; dockerd waits 15 s for an answer).
    pub queue_max_wait: Span,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { floors: Floors::default(), client_share: Shares::default(), queue_max_wait: Span::seconds(10) }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `budget`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (key, share) in [
            ("budget.floors.critical", self.floors.critical),
            ("budget.floors.standard", self.floors.standard),
            ("budget.floors.bulk", self.floors.bulk),
            ("budget.client_share.standard", self.client_share.standard),
            ("budget.client_share.bulk", self.client_share.bulk),
        ] {
            if !(0.0..=1.0).contains(&share) {
                errors.push(ConfigError::new(key, share, "write a fraction of the limit, 0.0 to 1.0"));
            }
        }
        if self.queue_max_wait > Span::seconds(25) {
            errors.push(ConfigError::new(
                "budget.queue_max_wait",
                self.queue_max_wait.to_string(),
                r#"write at most "25s": containerd gives up on a mirror that is silent for 30 s"#,
            ));
        }
        errors
    }
}

/// The share of the limit that each class leaves to those above it, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floors {
    /// What production leaves.
    pub critical: f64,
    /// What the rest leaves to production.
    pub standard: f64,
    /// What scanners leave to all others.
    pub bulk: f64,
}

impl Default for Floors {
    fn default() -> Floors {
        Floors { critical: 0.0, standard: 0.10, bulk: 0.40 }
    }
}

/// What one client may spend of the limit in a window, from 0 to 1. Production has none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Of the rest.
    pub standard: f64,
    /// Of scanners.
    pub bulk: f64,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { standard: 0.25, bulk: 0.30 }
    }
}
