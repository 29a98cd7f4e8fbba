//! How much a ban refuses.

use serde::{Deserialize, Serialize};

/// How much of what a client asks for is refused. A number in JSON, under the key `rung`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum PenaltyLevel {
    /// 0: the negative cache.
    Reference,
    /// 1: this client and this reference.
    ClientReference,
    /// 2: this client's misses: 429.
    Misses,
    /// 3: this client's misses: 403.
    MissesBanned,
    /// 4: this client.
    Client,
}

impl From<PenaltyLevel> for u8 {
    fn from(level: PenaltyLevel) -> u8 {
        level as u8
    }
}

impl TryFrom<u8> for PenaltyLevel {
    type Error = String;

    fn try_from(number: u8) -> Result<PenaltyLevel, String> {
        let all = [
            PenaltyLevel::Reference,
            PenaltyLevel::ClientReference,
            PenaltyLevel::Misses,
            PenaltyLevel::MissesBanned,
            PenaltyLevel::Client,
        ];
        all.get(usize::from(number)).copied().ok_or_else(|| format!("there is no level {number}"))
    }
}
