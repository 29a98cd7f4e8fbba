//! References: a tag or a digest, and nothing else.

use std::{fmt, str::FromStr};

use super::{Digest, Invalid, Tag};

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
