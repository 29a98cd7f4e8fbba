//! References: a tag or a digest, and nothing else.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Digest, Invalid};

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

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tag, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What stands behind `/manifests/` in a request: a tag that may move, or a digest that cannot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A name that upstream may point elsewhere tomorrow.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = Invalid;

    // A tag cannot hold a colon, so what holds one was meant as a digest and is refused as a digest.
    fn from_str(text: &str) -> Result<Reference, Invalid> {
        if text.contains(':') { text.parse().map(Reference::Digest) } else { text.parse().map(Reference::Tag) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar_of_the_spec() {
        let longest = "a".repeat(128);
        for good in ["latest", "_x", "1.36.1-glibc", "A_b.C-d", "sha256-abc.sig", &longest] {
            assert!(matches!(good.parse(), Ok(Reference::Tag(_))), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a%", "a b", "a\0", "*", "latest:x", &long] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
