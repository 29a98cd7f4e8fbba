//! What a tag named, as the replicas of a fleet know it, and which of two such records counts.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use weir_storage::TagRecord;

/// A record whose digest was confirmed again is not written more often than this: each replica asks upstream for itself when it
/// wants to know, and a HEAD is free.
pub(crate) const REFRESH: Duration = Duration::from_secs(15 * 60);

/// A tag of a source in the bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetTag {
    /// What it named; `None` when upstream had it no longer, which must outlive the replica that learned it.
    pub record: Option<TagRecord>,
    /// When that was asked, by the clock of the replica that asked.
    pub at: SystemTime,
}

impl FleetTag {
    /// What upstream confirmed.
    pub fn named(record: &TagRecord) -> FleetTag {
        FleetTag { at: record.checked_at, record: Some(record.clone()) }
    }

    /// Whether this one is to replace `old`: it is newer and says something else, or confirms what is old.
    pub(crate) fn replaces(&self, old: &FleetTag) -> bool {
        let digest = |tag: &FleetTag| tag.record.as_ref().map(|record| record.digest.clone());
        match self.at.duration_since(old.at) {
            Ok(newer) => digest(self) != digest(old) && !newer.is_zero() || newer >= REFRESH,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_record_counts_and_one_that_confirms_is_written_seldom() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let named = |digest: &[u8], seconds| {
            FleetTag::named(&TagRecord {
                digest: weir_storage::oci::Algorithm::Sha256.digest(digest),
                media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
                size: 1,
                checked_at: at(seconds),
            })
        };
        let gone = |seconds| FleetTag { record: None, at: at(seconds) };
        let old = named(b"a", 10_000);
        assert!(named(b"b", 10_001).replaces(&old));
        assert!(!named(b"b", 9_999).replaces(&old), "an answer that was late");
        assert!(!named(b"b", 10_000).replaces(&old), "of two at once the first stays");
        assert!(!named(b"a", 10_300).replaces(&old));
        assert!(named(b"a", 10_900).replaces(&old));
        assert!(gone(10_001).replaces(&old) && !gone(9_999).replaces(&old));
        assert!(named(b"a", 10_002).replaces(&gone(10_001)));
    }
}
