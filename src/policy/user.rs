//! The user that a container starts as, from `User` of the image's config.

use std::fmt;

/// Who a container starts as when nothing else is said at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Root: no user is named, or root by name or number.
    Root,
    /// A number other than 0.
    Uid(u32),
    /// A name. Which number it has stands in `/etc/passwd` of a layer, and may be 0.
    Name(Box<str>),
}

/// As `useradd` bounds names, and one more: of a longer one the rest says nothing more, and it is equal to none that `/etc/passwd` may have.
const LONGEST_NAME: usize = 33;

impl User {
    /// Reads `user`, `uid`, `user:group` or `uid:gid` as container engines do: what is a number in any writing is one, and an empty
    /// user is root. The group does not matter: group 0 gives no right that files do not give it.
    pub fn parse(text: &str) -> User {
        let user = text.split_once(':').map_or(text, |(user, _)| user);
        // White space is a part of a name.
        let name = || User::Name(user.chars().take(LONGEST_NAME).collect());
        let trimmed = user.trim();
        if matches!(trimmed, "" | "root") || trimmed.parse::<i64>() == Ok(0) {
            return User::Root;
        }
        user.parse::<i64>().ok().and_then(|uid| u32::try_from(uid).ok()).map_or_else(name, User::Uid)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Root => f.write_str("root"),
            User::Uid(uid) => write!(f, "uid {uid}"),
            User::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_root_by_name_by_number_in_any_writing_and_by_absence() {
        for root in ["", "root", "0", "00", "+0", "-0", "0:0", "root:app", ":app", " ", "0:1000"] {
            assert_eq!(User::parse(root), User::Root, "{root:?}");
        }
        for (text, uid) in [("65532", 65532), ("1000:0", 1000), ("+7", 7)] {
            assert_eq!(User::parse(text), User::Uid(uid), "{text:?}");
        }
        let long = "a".repeat(40);
        assert_eq!(User::parse(&long), User::Name(long[..33].into()), "of 32 letters it would be another");
        assert_eq!(User::parse("app "), User::Name("app ".into()));
        assert_eq!(User::parse("7 "), User::Name("7 ".into()), "a line of /etc/passwd may begin so");
        for name in ["nonroot", "nobody:nogroup", "Root", "toor", "0x0", "-1", "4294967296"] {
            assert!(matches!(User::parse(name), User::Name(_)), "{name:?}");
        }
    }
}
