//! What `hosted` is told: who needs no name, and which tags stay.

use crate::oci::{Name, Tag, matches};

/// How the hosted namespaces are used. Their names are known to `route`, their bounds to the store.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whether anybody may push and delete.
    pub anonymous_push: bool,
    /// Patterns of names that only accounts may pull.
    pub private: Vec<String>,
    /// Patterns of tags that stay once they were pushed: of `name:tag` when they hold a colon, else of the tag.
    pub immutable_tags: Vec<String>,
}

impl Settings {
    /// Whether this tag may neither be moved nor removed.
    pub(super) fn is_immutable(&self, name: &Name, tag: &Tag) -> bool {
        self.immutable_tags.iter().any(|pattern| match pattern.contains(':') {
            true => matches(pattern, &format!("{name}:{tag}")),
            false => matches(pattern, tag.as_str()),
        })
    }
}
