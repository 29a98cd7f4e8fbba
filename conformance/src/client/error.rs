//! What goes wrong between this client and a server.

use std::time::Duration;

/// What went wrong before there was an answer to look at, or in the middle of one.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("connection broke: {0}")]
    Broken(String),
    /// The mirror closed before the framing was complete.
    #[error("closed after {got} bytes of {of}")]
    Short {
        /// Bytes of the body that came.
        got: u64,
        /// Bytes that were announced; `u64::MAX` when none were (chunked).
        of: u64,
    },
    /// Nothing came for [`PATIENCE`](super::PATIENCE).
    #[error("nothing for {0:?}")]
    Hung(Duration),
    /// Not HTTP/1.1.
    #[error("not HTTP: {0}")]
    Malformed(String),
}
