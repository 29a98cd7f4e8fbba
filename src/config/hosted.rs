//! `[hosted]`: namespaces that live here instead of upstream.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Size, Span};
use crate::hosted;

/// Which names are pushed to rather than mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hosted {
    /// Patterns of names, such as `local/*`.
    pub namespaces: Vec<String>,
    /// Whether anybody may push and delete.
    pub anonymous_push: bool,
    /// Patterns of names that only accounts may pull.
    pub private: Vec<String>,
    /// Patterns of tags that, once pushed, stay.
    pub immutable_tags: Vec<String>,
    /// Bytes that each of the namespaces may hold; 0 is as many as there is room for.
    pub capacity: Size,
    /// Uploads under way at once.
    pub uploads: usize,
    /// How long an upload may be left alone before it is dropped.
    pub upload_ttl: Span,
    /// How long a pushed blob may stay that no manifest of its repository names.
    pub unnamed_ttl: Span,
}

impl Default for Hosted {
    fn default() -> Hosted {
        Hosted {
            namespaces: Vec::new(),
            anonymous_push: false,
            private: Vec::new(),
            immutable_tags: Vec::new(),
            capacity: Size(0),
            uploads: 1000,
            upload_ttl: Span::seconds(6 * 3600),
            unnamed_ttl: Span::seconds(24 * 3600),
        }
    }
}

impl Hosted {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        for (number, namespace) in self.namespaces.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/*".contains(c);
            if namespace.is_empty() || namespace.starts_with(['/', '*']) || !namespace.chars().all(plain) {
                errors.push(ConfigError::new(
                    format!("hosted.namespaces[{number}]"),
                    namespace,
                    r#"write the beginning of a repository name and a star, such as "local/*""#,
                ));
            }
        }
        if self.uploads == 0 {
            errors.push(ConfigError::new("hosted.uploads", self.uploads, "nobody could push; write at least 1"));
        }
    }

    pub(super) fn settings(&self) -> hosted::Settings {
        hosted::Settings {
            anonymous_push: self.anonymous_push,
            private: self.private.clone(),
            immutable_tags: self.immutable_tags.clone(),
        }
    }
}
