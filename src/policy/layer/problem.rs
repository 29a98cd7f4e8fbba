//! What is wrong with a layer itself.

use std::io;

use serde::{Deserialize, Serialize};

/// What is wrong with a layer itself. The order is the one in which they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// A path, or a hard link, leads out of it.
    #[error("has a path that leads out of it")]
    Escapes,
    /// A path is longer than Linux takes.
    #[error("has a path that is too long")]
    Path,
    /// An extended header is too long to be one.
    #[error("has an extended header that is too long")]
    Header,
    /// The tar, or its compression, ends before its end.
    #[error("ends early")]
    EndsEarly,
    /// The compression is damaged.
    #[error("cannot be unpacked")]
    Damaged,
    /// The bytes are no tar.
    #[error("is no tar, or a damaged one")]
    NoTar,
    /// Zstandard asks for more memory than is given.
    #[error("takes too much memory to be unpacked")]
    Window,
    /// It has too many entries.
    #[error("has too many files")]
    Entries,
    /// It unpacks to too many bytes.
    #[error("unpacks to too many bytes")]
    Bytes,
    /// It takes too much time.
    #[error("takes too long to be read")]
    Work,
}

impl Problem {
    /// As a part of a sentence about the layer.
    pub fn phrase(self) -> String {
        self.to_string()
    }

    pub(super) fn of(error: &io::Error) -> Problem {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(problem) => *problem,
            None if error.kind() == io::ErrorKind::UnexpectedEof => Problem::EndsEarly,
            None => Problem::Damaged,
        }
    }
}
