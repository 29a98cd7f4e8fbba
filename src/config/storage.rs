//! `[storage]`: which directory, and how much of its disk.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Size, Span};

/// The data directory and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// The directory; made when it is not there.
    pub root: PathBuf,
    /// Bytes that blobs, manifests and partial files may take together.
    pub capacity: Size,
    /// Eviction starts above this share of the capacity.
    pub high_watermark: f64,
    /// Eviction stops at this one.
    pub low_watermark: f64,
    /// How long what is left of a broken download may wait to be resumed.
    pub partial_ttl: Span,
    /// Memory for the index's pages.
    pub index_cache: Size,
    /// Memory for what was read lately: manifests, tags, memberships, listings.
    pub memory_cache: Size,
    /// How much of one arriving blob waits for the disk before upstream is read no further.
    pub write_buffer: Size,
    /// Whether a blob of an earlier run is hashed before its last bytes are given for the first time.
    pub verify_on_first_read: bool,
    /// How long one round of reading everything again takes; 0 is never.
    pub scrub: Span,
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            root: PathBuf::from("weir-data"),
            capacity: Size::mib(50 << 10),
            high_watermark: 0.95,
            low_watermark: 0.90,
            partial_ttl: Span::seconds(24 * 3600),
            index_cache: Size::mib(32),
            memory_cache: Size::mib(64),
            write_buffer: Size::mib(8),
            verify_on_first_read: true,
            scrub: Span::seconds(7 * 24 * 3600),
        }
    }
}

impl Storage {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if self.root.as_os_str().is_empty() {
            errors.push(ConfigError::new("storage.root", &self.root, r#"name a directory, such as "weir-data""#));
        }
        if self.capacity < Size::mib(64) {
            errors.push(ConfigError::new(
                "storage.capacity",
                self.capacity.to_string(),
                r#"too small to hold an image; write at least "64MiB""#,
            ));
        }
        if !(self.low_watermark > 0.0 && self.low_watermark <= self.high_watermark && self.high_watermark <= 1.0) {
            errors.push(ConfigError::new(
                "storage.low_watermark",
                self.low_watermark,
                format!("write 0 < low_watermark <= high_watermark <= 1; high_watermark is {}", self.high_watermark),
            ));
        }
    }

    /// What is wrong with `root` as the disk is now: it, or what it would be made in, is no directory that this user may write in.
    /// Nothing is made.
    pub fn unusable_root(&self) -> Option<ConfigError> {
        let error = |fix: String| Some(ConfigError::new("storage.root", &self.root, fix));
        let absolute = match std::path::absolute(&self.root) {
            Ok(absolute) => absolute,
            Err(found) => return error(format!("{found}; name a directory by its absolute path")),
        };
        let there = absolute.ancestors().find_map(|path| match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            about => Some((path, about)),
        });
        let (path, about) = there?;
        match about {
            Err(found) => error(format!("{}: {found}; name a directory", path.display())),
            Ok(_) if is_of_the_kernel(path) => {
                error(format!("{} is a view of the kernel and keeps no files; name another directory", path.display()))
            }
            Ok(about) if !about.is_dir() => error(format!("{} is no directory; name one", path.display())),
            Ok(_) => match accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
                Ok(()) => None,
                Err(found) => error(format!(
                    "{} may not be written in ({}); give it to the user that runs weir, or name another directory",
                    path.display(),
                    std::io::Error::from(found)
                )),
            },
        }
    }

    pub(super) fn settings(&self) -> weir_storage::Settings {
        weir_storage::Settings {
            root: self.root.clone(),
            capacity: self.capacity.0,
            high_watermark: self.high_watermark,
            low_watermark: self.low_watermark,
            partial_ttl: self.partial_ttl.0,
            index_cache: self.index_cache.0,
            memory_cache: self.memory_cache.0,
            write_buffer: self.write_buffer.0,
            verify_on_first_read: self.verify_on_first_read,
            scrub: self.scrub.0,
            ..weir_storage::Settings::default()
        }
    }
}

/// Whether a path is on a file system without files of its own, such as /proc, where no directory can be made.
fn is_of_the_kernel(path: &Path) -> bool {
    /// proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, securityfs, bpf: from linux/magic.h.
    const MAGIC: [u64; 9] =
        [0x9fa0, 0x6265_6572, 0x27_e0eb, 0x6367_7270, 0x1cd1, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0xcafe_4a11];
    statfs(path).is_ok_and(|about| MAGIC.contains(&(about.f_type as u64)))
}
