//! How much work one layer may be.

/// Bounds on the work for one layer, which a deep learning image of 30 GiB keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes that it unpacks to.
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { entries: 5_000_000, bytes: 64 << 30 }
    }
}
