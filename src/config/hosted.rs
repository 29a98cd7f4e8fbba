//! `[hosted]`: namespaces that live here instead of upstream.

use serde::{Deserialize, Serialize};

use super::Mistake;

/// Which names are pushed to rather than mirrored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hosted {
    /// Patterns of names, such as `local/*`.
    pub namespaces: Vec<String>,
    /// Whether anybody may push and delete.
    pub anonymous_push: bool,
    /// Patterns of tags that, once pushed, stay.
    pub immutable_tags: Vec<String>,
}

impl Hosted {
    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
        for (number, namespace) in self.namespaces.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/*".contains(c);
            if namespace.is_empty() || namespace.starts_with(['/', '*']) || !namespace.chars().all(plain) {
                mistakes.push(Mistake::new(
                    format!("hosted.namespaces[{number}]"),
                    namespace,
                    r#"write the beginning of a repository name and a star, such as "local/*""#,
                ));
            }
        }
    }
}
