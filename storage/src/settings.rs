//! `[storage]`: which directory, and how much of its disk; and the bounds of `[hosted]` that the store holds.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::setting::{ConfigError, Size, as_size, as_span};

/// The bounds of the store; every one stands in deploy.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The directory the store owns (`weir-data`); made when it is not there.
    pub root: PathBuf,
    /// Bytes that blobs, manifests and partial files may take together (50 GiB).
    #[serde(with = "as_size")]
    pub capacity: u64,
    /// Eviction starts above this share of the capacity (0.95) …
    pub high_watermark: f64,
    /// … and stops at this one (0.90).
    pub low_watermark: f64,
    /// A partial file older than this is removed at start (24 h). So is what was quarantined.
    #[serde(with = "as_span")]
    pub partial_ttl: Duration,
    /// Bytes of sled's page cache (32 MiB; its own default is 1 GiB).
    #[serde(with = "as_size")]
    pub index_cache: u64,
    /// Bytes of manifests, tags and memberships kept in memory (64 MiB): what a pull asks without touching the disk.
    #[serde(with = "as_size")]
    pub memory_cache: u64,
    /// Bytes of one arriving blob that wait for the disk (8 MiB), after which the upstream body is not read on.
    #[serde(with = "as_size")]
    pub write_buffer: u64,
    /// Whether a blob of an earlier run is hashed once before its last bytes are given (true). Costs one read of the
    /// blob, on its first use after a start, and finds what rotted while it was not running.
    pub verify_on_first_read: bool,
    /// A blob that is read without pause is opened again after so long (1 min), and hashed again when its file changed.
    #[serde(skip)]
    pub look_again: Duration,
    /// Everything is read and hashed again once in each such time, in service (7 days); 0 is never.
    #[serde(with = "as_span")]
    pub scrub: Duration,
    /// What no client asked for in that time is removed (0); 0 is never.
    #[serde(with = "as_span")]
    pub max_idle: Duration,
    /// The share of the capacity that pinned images may have (0.5).
    pub pinned_share: f64,
    /// `hosted.namespaces`: patterns of the names that are hosted here (none).
    #[serde(skip)]
    pub namespaces: Vec<String>,
    /// `hosted.capacity`: bytes that each of them may hold; 0 is as many as the disk has room for (0).
    #[serde(skip)]
    pub namespace_capacity: u64,
    /// `hosted.uploads`: uploads under way at once (1,000).
    #[serde(skip)]
    pub upload_sessions: usize,
    /// `hosted.upload_ttl`: an upload that no client went on with for so long is dropped (6 h).
    #[serde(skip)]
    pub upload_ttl: Duration,
    /// `hosted.unnamed_ttl`: what was pushed and is named by no manifest of its repository is dropped after so long (24 h).
    #[serde(skip)]
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
            look_again: Duration::from_secs(60),
            scrub: Duration::from_secs(7 * 24 * 60 * 60),
            max_idle: Duration::ZERO,
            pinned_share: 0.5,
            namespaces: Vec::new(),
            namespace_capacity: 0,
            upload_sessions: 1000,
            upload_ttl: Duration::from_secs(6 * 60 * 60),
            unnamed_ttl: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `storage`. The disk is not looked at.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if self.root.as_os_str().is_empty() {
            errors.push(ConfigError::new("storage.root", &self.root, r#"name a directory, such as "weir-data""#));
        }
        if self.capacity < 64 << 20 {
            let fix = r#"too small to hold an image; write at least "64MiB""#;
            errors.push(ConfigError::new("storage.capacity", Size(self.capacity).to_string(), fix));
        }
        if !(self.low_watermark > 0.0 && self.low_watermark <= self.high_watermark && self.high_watermark <= 1.0) {
            let high = self.high_watermark;
            let fix = format!("write 0 < low_watermark <= high_watermark <= 1; high_watermark is {high}");
            errors.push(ConfigError::new("storage.low_watermark", self.low_watermark, fix));
        }
        if !(0.0..=1.0).contains(&self.pinned_share) {
            let fix = "write a share of the capacity between 0 and 1, such as 0.5";
            errors.push(ConfigError::new("storage.pinned_share", self.pinned_share, fix));
        }
        errors
    }
}
