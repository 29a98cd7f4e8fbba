//! Blobs, manifests, tags, membership and journals on one disk; knows no network.
//!
//! # Layout of the directory
//!
//! ```text
//! root/
//!   lock                                        held while a process owns the directory
//!   blobs/<algorithm>/<2 hex>/<hex>             whole and verified, always
//!   manifests/<algorithm>/<2 hex>/<hex>         one line (media type), then the exact bytes
//!   partial/<algorithm>-<hex>.<n>               arriving, or left to be resumed
//!   repositories/<upstream>/<credential>/<repository>/
//!     _tags/<tag>                               the digest a tag named, and when that was asked
//!     _members/<algorithm>-<hex>                this repository vouched for that digest
//!     _listings/<kind>                          a tag list or a referrers answer
//!   journals/<name>                             what no upstream can give again
//!   index/                                      sled: rebuildable from all of the above
//! ```
mod api_stub;
pub mod oci;
pub use api_stub::*;
