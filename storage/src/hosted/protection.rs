//! What of a repository may not be deleted.

use std::fmt;

use crate::oci::Tag;

/// Whether a tag is immutable.
pub type IsImmutable = Box<dyn Fn(&Tag) -> bool + Send>;

/// What may not be deleted.
#[derive(Default)]
pub struct Protection {
    /// What an immutable tag reaches stays: its manifest, children of an index, configs, layers.
    pub is_immutable: Option<IsImmutable>,
    /// Whether what another manifest of the repository names stays.
    pub referenced: bool,
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protection").field("referenced", &self.referenced).finish_non_exhaustive()
    }
}
