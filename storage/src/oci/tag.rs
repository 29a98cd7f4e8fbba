//! Tags: names in a repository that may move.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use super::{Invalid, text::as_text};

/// A tag, `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. Safe as a file name: it cannot be `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Tag, Invalid> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        match bytes {
            [first, rest @ ..]
                if rest.len() < 128
                    && word(*first)
                    && rest.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-')) =>
            {
                Ok(Tag(Arc::from(text)))
            }
            _ => Err(Invalid::Tag),
        }
    }
}

impl Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Tag);
