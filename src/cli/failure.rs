//! How a command fails.

/// Why a command did not do what it was asked for: a sentence for standard error, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// The sentence; empty when all is said already.
    pub reason: String,
    /// 1 for most; 2 where 1 is an answer.
    pub status: u8,
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure { reason, status: 1 }
    }
}
