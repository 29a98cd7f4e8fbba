//! `[ban]`: whether clients that keep failing are turned away by themselves.

use serde::{Deserialize, Serialize};

use super::throttle::Mode;

/// Automatic bans. Those of an operator always act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ban {
    /// For rungs 2 to 4 of the ladder.
    pub mode: Mode,
    /// What a ban is called on the wire.
    pub code: Code,
}

/// The code of a 403.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// Which every client prints with its message.
    #[default]
    TooManyRequests,
    /// Which docker wraps into words of its own.
    Denied,
}

impl Default for Ban {
    fn default() -> Ban {
        Ban { mode: Mode::DryRun, code: Code::default() }
    }
}
