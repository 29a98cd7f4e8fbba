//! The vocabulary of the distribution-spec, as types that cannot hold a bad value.
//!
//! Strings become these types at the edge and stay types: no path, key or upstream URL is ever built from a
//! string that did not pass through here. Nothing in this module does I/O.

mod digest;
mod manifest;
mod media_type;
mod name;
mod paging;
mod pattern;
mod reference;
mod strict;

pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{Child, Description, Malformed, Manifest};
pub use media_type::{MANIFEST_ACCEPT, MediaType, OCI_IMAGE_INDEX};
pub use name::Name;
pub use paging::{Page, page};
pub use pattern::matches;
pub use reference::{Reference, Tag};
pub use strict::unambiguous;

/// Why a string is not the thing it was offered as. The text tells the sender what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a repository name by the grammar of the distribution-spec, "Pulling manifests".
    #[error("invalid repository name: {0}")]
    Name(&'static str),
    /// Not a tag by the grammar of the distribution-spec.
    #[error("invalid tag: a tag is 1 to 128 of [A-Za-z0-9_.-] and starts with none of \".-\"")]
    Tag,
    /// Not a digest, or of an algorithm that is not served.
    #[error("invalid digest: {0}")]
    Digest(&'static str),
}
