//! `[hosted]`: which namespaces live here, who needs no account, and which tags stay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    oci::{Name, Tag, matches},
    setting::{ConfigError, as_size, as_span},
};

/// Which names are pushed to rather than mirrored, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Patterns of names, such as `local/*` (none). `route` uses them, too.
    pub namespaces: Vec<String>,
    /// Whether clients without an account may push and delete (false).
    pub anonymous_push: bool,
    /// Patterns of names that only accounts may pull.
    pub private: Vec<String>,
    /// Whether an image manifest is taken while the repository lacks its config or layers (false).
    pub sparse_images: bool,
    /// Whether a blob or manifest may be deleted that another manifest of the repository names (false).
    pub delete_referenced: bool,
    /// Patterns of tags that stay once they were pushed: of `name:tag` when they hold a colon, else of the tag.
    pub immutable_tags: Vec<String>,
    /// Bytes that each of the namespaces may hold; 0 is as many as there is room for (0). The store holds the bounds from here on.
    #[serde(with = "as_size")]
    pub capacity: u64,
    /// Uploads under way at once (1,000).
    pub uploads: usize,
    /// How long an upload may make no progress before it is dropped (6 h).
    #[serde(with = "as_span")]
    pub upload_ttl: Duration,
    /// How long a pushed blob may stay that no manifest of its repository names (24 h).
    #[serde(with = "as_span")]
    pub unnamed_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            namespaces: Vec::new(),
            anonymous_push: false,
            private: Vec::new(),
            sparse_images: false,
            delete_referenced: false,
            immutable_tags: Vec::new(),
            capacity: 0,
            uploads: 1000,
            upload_ttl: Duration::from_secs(6 * 3600),
            unnamed_ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl Settings {
    /// What is in force after `fresh` was read while these are: the bounds of uploads and of what no manifest names wait for a restart.
    pub fn reloaded(&self, fresh: &Settings) -> Settings {
        let Settings { uploads, upload_ttl, unnamed_ttl, .. } = *self;
        Settings { uploads, upload_ttl, unnamed_ttl, ..fresh.clone() }
    }

    /// Everything that is wrong with the table. The keys begin with `hosted`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, namespace) in self.namespaces.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/*".contains(c);
            if namespace.is_empty() || namespace.starts_with(['/', '*']) || !namespace.chars().all(plain) {
                let fix = r#"write the beginning of a repository name and a star, such as "local/*""#;
                errors.push(ConfigError::new(format!("hosted.namespaces[{number}]"), namespace, fix));
            }
        }
        if self.uploads == 0 {
            errors.push(ConfigError::new("hosted.uploads", 0, "no client could push; write at least 1"));
        }
        errors
    }

    /// Whether this tag may neither be moved nor removed.
    pub(super) fn is_immutable(&self, name: &Name, tag: &Tag) -> bool {
        self.immutable_tags.iter().any(|pattern| match pattern.contains(':') {
            true => matches(pattern, &format!("{name}:{tag}")),
            false => matches(pattern, tag.as_str()),
        })
    }
}
