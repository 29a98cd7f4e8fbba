//! The vocabulary of the distribution-spec, as types that cannot hold a bad value.
//!
//! Strings become these types at the edge and stay types: no path, key or upstream URL is ever built from a
//! string that did not pass through here. Nothing in this module does I/O.

mod digest;
mod invalid;
mod manifest;
mod media_type;
mod name;
mod paging;
mod pattern;
mod platform;
mod reference;
mod schema1;
mod strict;
mod tag;
mod text;

pub use digest::{Algorithm, Digest, Hasher};
pub use invalid::Invalid;
pub use manifest::{Child, Description, Malformed, Manifest};
pub use media_type::{MANIFEST_ACCEPT, MediaType, OCI_IMAGE_INDEX};
pub use name::Name;
pub use paging::{Page, page};
pub use pattern::matches;
pub use platform::is_platform;
pub use reference::Reference;
pub use strict::{folded, unambiguous};
pub use tag::Tag;
pub(crate) use text::as_text;
