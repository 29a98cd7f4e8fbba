//! The vocabulary of the distribution-spec: names, references, digests, manifests, paging. Pure, used everywhere.
//!
//! It is defined in `weir-storage`, which must speak it without knowing the mirror, and re-exported here.
pub use weir_storage::oci::*;
