//! What was read or written lately, so that a warm request touches no disk.
//!
//! Everything here is on disk as well and is written through. Only presence is remembered: that something is absent is asked
//! of the disk each time. Who changes or loads an entry holds the stripe of its key over both the file and the entry, so that a
//! slow reader cannot put back what was just replaced. Nothing here expires; freshness is judged from `checked_at`.

use moka::sync::Cache;

use crate::{
    Listing, Source, TagRecord,
    oci::{Digest, Manifest, Tag},
};

/// What an entry costs besides its bytes: key, hash table, and the cache's own books.
const OVERHEAD: usize = 512;

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) manifests: Cache<Digest, Manifest>,
    pub(crate) tags: Cache<(Source, Tag), TagRecord>,
    pub(crate) members: Cache<(Source, Digest), ()>,
    pub(crate) listings: Cache<(Source, String), Listing>,
}

impl Memory {
    /// Manifests may have half of the bytes, tags and members an eighth each, listings a quarter.
    pub(crate) fn new(bytes: u64) -> Memory {
        let weight = |bytes: usize| u32::try_from(bytes + OVERHEAD).unwrap_or(u32::MAX);
        Memory {
            manifests: Cache::builder()
                .max_capacity(bytes / 2)
                .weigher(move |_, manifest: &Manifest| weight(manifest.bytes.len()))
                .build(),
            tags: Cache::new(bytes / 8 / OVERHEAD as u64),
            members: Cache::new(bytes / 8 / OVERHEAD as u64),
            listings: Cache::builder()
                .max_capacity(bytes / 4)
                .weigher(move |_, listing: &Listing| weight(listing.body.len()))
                .build(),
        }
    }
}
