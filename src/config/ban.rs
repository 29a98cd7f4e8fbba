//! `[ban]`: whether clients that keep failing are turned away by themselves.

use serde::{Deserialize, Serialize};

use super::throttle::Mode;

/// Automatic bans. Those of an operator always act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ban {
    /// For rungs 2 to 4 of the ladder.
    pub mode: Mode,
}

impl Default for Ban {
    fn default() -> Ban {
        Ban { mode: Mode::DryRun }
    }
}
