//! The bounds of the store.

use std::{path::PathBuf, time::Duration};

/// The bounds of the store; every one stands in deploy.toml. The defaults are those of [`Settings::default`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory the store owns (`weir-data`).
    pub root: PathBuf,
    /// Bytes that blobs, manifests and partial files may take together (50 GiB).
    pub capacity: u64,
    /// Eviction starts above this share of the capacity (0.95) …
    pub high_watermark: f64,
    /// … and stops at this one (0.90).
    pub low_watermark: f64,
    /// A partial file older than this is removed at start (24 h). So is what was quarantined.
    pub partial_ttl: Duration,
    /// Bytes of sled's page cache (32 MiB; its own default is 1 GiB).
    pub index_cache: u64,
    /// Bytes of manifests, tags and memberships kept in memory (64 MiB): what a pull asks without touching the disk.
    pub memory_cache: u64,
    /// Bytes of one arriving blob that wait for the disk (8 MiB), after which the upstream body is not read on.
    pub write_buffer: u64,
    /// Whether a blob of an earlier run is hashed once before its last bytes are given (true). Costs one read of the
    /// blob, on its first use after a start, and finds what rotted while it was not running.
    pub verify_on_first_read: bool,
    /// Everything is read and hashed again once in each such time, in service (7 days); 0 is never.
    pub scrub: Duration,
    /// Patterns of the names that are hosted here (none); each is a namespace.
    pub namespaces: Vec<String>,
    /// Bytes that each of them may hold; 0 is as many as the disk has room for (0).
    pub namespace_capacity: u64,
    /// Uploads under way at once (1,000).
    pub upload_sessions: usize,
    /// An upload that no client went on with for so long is dropped (6 h).
    pub upload_ttl: Duration,
    /// What was pushed and is named by no manifest of its repository is dropped after so long (24 h).
    pub unnamed_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            root: "weir-data".into(),
            capacity: 50 << 30,
            high_watermark: 0.95,
            low_watermark: 0.90,
            partial_ttl: Duration::from_secs(24 * 60 * 60),
            index_cache: 32 << 20,
            memory_cache: 64 << 20,
            write_buffer: 8 << 20,
            verify_on_first_read: true,
            scrub: Duration::from_secs(7 * 24 * 60 * 60),
            namespaces: Vec::new(),
            namespace_capacity: 0,
            upload_sessions: 1000,
            upload_ttl: Duration::from_secs(6 * 60 * 60),
            unnamed_ttl: Duration::from_secs(24 * 60 * 60),
        }
    }
}
