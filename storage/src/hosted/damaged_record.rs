//! What a scrub finds wrong with the records of what was pushed, and what it does with them.

use serde::Serialize;

use crate::oci::Name;

/// A record that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedRecord {
    /// Of what it is.
    pub kind: RecordKind,
    /// The hosted repository; none for pins.
    pub repository: Option<Name>,
    /// The tag or the digest; empty for pins.
    pub reference: String,
    /// Whether it was made anew from the manifest, so that nothing is lost.
    pub restored: bool,
}

/// Of what a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// What a tag names.
    Tag,
    /// With which media type a manifest was pushed, and its subject.
    Manifest,
    /// How a manifest is described among the referrers of its subject.
    Referrer,
    /// The images that eviction leaves alone.
    Pins,
}

impl RecordKind {
    /// As reports write it.
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Tag => "tag",
            RecordKind::Manifest => "manifest",
            RecordKind::Referrer => "referrer",
            RecordKind::Pins => "pins",
        }
    }
}

/// What is done with damaged records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordRepair {
    /// They are named, and nothing is changed.
    Nothing,
    /// What the manifest itself says is written anew.
    Restore,
    /// That, and all others are put aside. The names of tags are free then, also of immutable ones.
    PutAside,
}
