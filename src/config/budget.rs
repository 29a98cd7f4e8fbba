//! `[budget]`: how what an upstream allows is shared among classes and clients.

use serde::{Deserialize, Serialize};

use super::{Mistake, Span};

/// How the budget is shared. The budget itself is never configured: upstream says it with every answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// What each class must leave.
    pub floors: Floors,
    /// What one client of a class may take.
    pub client_share: Shares,
    /// How long a request may wait for a pull that is forecast.
    pub queue_max_wait: Span,
}

/// The fraction of the limit that a class must leave to those above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floors {
    /// Production.
    pub critical: f64,
    /// Everybody else.
    pub standard: f64,
    /// Scanners.
    pub bulk: f64,
}

/// The fraction of the limit that one client may take while several spend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Of class standard.
    pub standard: f64,
    /// Of class bulk.
    pub bulk: f64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { floors: Floors::default(), client_share: Shares::default(), queue_max_wait: Span::seconds(10) }
    }
}

impl Default for Floors {
    fn default() -> Floors {
        Floors { critical: 0.0, standard: 0.10, bulk: 0.40 }
    }
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { standard: 0.25, bulk: 0.30 }
    }
}

impl Budget {
    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
        for (key, share) in [
            ("budget.floors.critical", self.floors.critical),
            ("budget.floors.standard", self.floors.standard),
            ("budget.floors.bulk", self.floors.bulk),
            ("budget.client_share.standard", self.client_share.standard),
            ("budget.client_share.bulk", self.client_share.bulk),
        ] {
            if !(0.0..=1.0).contains(&share) {
                mistakes.push(Mistake::new(key, share, "write a fraction of the limit, 0.0 to 1.0"));
            }
        }
        if self.queue_max_wait > Span::seconds(25) {
            mistakes.push(Mistake::new(
                "budget.queue_max_wait",
                self.queue_max_wait.to_string(),
                r#"write at most "25s": containerd gives up on a mirror that is silent for 30 s"#,
            ));
        }
    }
}
