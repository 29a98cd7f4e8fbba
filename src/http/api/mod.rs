//! The registry API of the distribution-spec: one file for each resource, and what they share.

pub(super) mod blobs;
pub(super) mod error;
pub(super) mod headers;
pub(super) mod listings;
pub(super) mod manifests;
pub(super) mod path;
pub(super) mod query;
pub(super) mod range;
pub(super) mod referrers;
pub(super) mod uploads;
