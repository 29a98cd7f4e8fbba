//! Repository names.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use super::{Invalid, text::as_text};

/// A repository name such as `library/busybox`: one or more components, at most 255 bytes.
///
/// The grammar is the distribution-spec's, `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` per component. It leaves no way to
/// write `..`, an empty component, or one that starts with `_`, so a name is safe as a relative path and
/// a directory whose name starts with `_` never collides with a component. Cloning is one atomic increment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name served, in bytes. Registries in the field share this bound.
    pub const MAX_BYTES: usize = 255;

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components between the slashes.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// This name below `prefix`, as in `library` + `busybox`.
    ///
    /// # Errors
    /// When the result would be longer than [`Name::MAX_BYTES`] or `prefix` is no component.
    pub fn below(&self, prefix: &str) -> Result<Name, Invalid> {
        format!("{prefix}/{}", self.0).parse()
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Name, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Name("it is empty"));
        }
        if text.len() > Name::MAX_BYTES {
            return Err(Invalid::Name("it is longer than 255 bytes"));
        }
        if text.split('/').all(|component| is_component(component.as_bytes())) {
            Ok(Name(Arc::from(text)))
        } else {
            Err(Invalid::Name("its components are lower-case letters and digits, joined by one of . _ __ or dashes"))
        }
    }
}

fn is_component(bytes: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = bytes;
    loop {
        let word = rest.iter().take_while(|byte| alphanumeric(byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = match rest {
            [b'.', ..] => 1,
            [b'_', b'_', ..] => 2,
            [b'_', ..] => 1,
            _ => rest.iter().take_while(|byte| **byte == b'-').count(),
        };
        if separator == 0 {
            return false;
        }
        rest = &rest[separator..];
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Name);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_of_the_spec() {
        for good in ["a", "library/busybox", "a.b/c_d/e__f/g---h", "0/1/2", "a.b-c_d"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a/..", "..", ".", "a..b", "a___b", "-a", "a-", "_a", "a_", "a.", "a b",
            "a\0b", "a\r\nb", "a%2fb", "a*", "é", &long,
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(255).parse::<Name>().is_ok());
    }

    #[test]
    fn a_name_can_be_put_below_a_prefix() {
        let name: Name = "busybox".parse().unwrap();
        assert_eq!(name.below("library").unwrap().as_str(), "library/busybox");
        assert!(name.below("../x").is_err());
    }
}
