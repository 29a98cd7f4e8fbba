//! A user name and a password, as a client sends them.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The longest credentials that are looked at, in bytes, as they are sent.
pub(crate) const MAX_LENGTH: usize = 8 << 10;
/// The longest password, in bytes, that `weir hash-password` and the login page take.
pub(crate) const MAX_PASSWORD: usize = 1024;

/// A user name and a password that are not verified yet.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Credentials {
    pub(crate) fn new(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.to_owned() }
    }

    /// The value of an `Authorization` header of the scheme Basic (RFC 7617); `None` for anything else.
    pub(crate) fn basic(header: &[u8]) -> Option<Credentials> {
        let (scheme, encoded) = header.split_at_checked(6)?;
        let is_basic = scheme.eq_ignore_ascii_case(b"basic ") && header.len() <= MAX_LENGTH;
        let decoded = is_basic.then(|| BASE64_STANDARD.decode(encoded.trim_ascii()).ok())??;
        Credentials::pair(&decoded)
    }

    /// `name:password`; the password may have colons.
    pub(crate) fn pair(text: &[u8]) -> Option<Credentials> {
        let (name, password) = std::str::from_utf8(text).ok()?.split_once(':')?;
        (text.len() <= MAX_LENGTH).then(|| Credentials::new(name, password))
    }
}

// What reads a log must not log in with it.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_a_name_and_a_password_that_may_have_colons() {
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let read = |header: &str| Credentials::basic(header.as_bytes());
        assert_eq!(read(&basic("ci:a:b")), Some(Credentials::new("ci", "a:b")));
        assert_eq!(read(&basic("ci:").replace("Basic", "bAsIc")), Some(Credentials::new("ci", "")));
        for other in [basic("ci"), basic(""), "Basic".into(), "Basic !".into(), "Bearer abc".into(), String::new()] {
            assert_eq!(read(&other), None, "{other}");
        }
        assert_eq!(read(&basic(&format!("ci:{}", "a".repeat(MAX_LENGTH)))), None);
        assert!(!format!("{:?}", Credentials::new("ci", "canary")).contains("canary"));
    }
}
