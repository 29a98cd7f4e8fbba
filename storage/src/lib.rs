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
//!   partial/record.<n>                          a small file on its way; swept at start
//!   repositories/<upstream>/<credential>/<repository>/
//!     _tags/<tag>                               the digest a tag named, and when that was asked
//!     _members/<algorithm>-<hex>                this repository has that digest (empty)
//!     _listings/<kind>                          a tag list or a referrers answer
//!   hosted/<repository>/                        what lives here; all of it is on the disk before it is acknowledged
//!     _blobs/, _manifests/<algorithm>-<hex>.<size>   the repository holds that digest
//!     _tags/<tag>, _referrers/<subject>/<digest>     what a tag names, what refers to what
//!   uploads/<id>, <id>.session                  arriving from a client, whose digest comes last
//!   server                                      names this server in the ids of its uploads
//!   journals/<name>                             what no upstream can give again
//!   scrub                                       where the scrub in service is
//!   journals/imports                            names that came by an import, until upstream confirms them
//!   pins                                        patterns of images that eviction leaves alone
//!   quarantine/                                 what did not match its digest, for the operator to look at
//!   index/, index.sentinel                      sled: rebuildable from all of the above
//! ```
//!
//! # The map
//! Each layer names only those before it.
//!
//! 1. `files`: the only system calls (`disk`), the only paths (`layout`), sealed records, journals.
//! 2. `capacity`: who has how many bytes; it accounts and evicts nothing.
//! 3. `blobs`: a blob comes in by `write`, is shared by `shared`, and goes out by `read`; `in_use`, `partial`, `verify`.
//! 4. `cache`: what upstream said: manifests, tags, membership, lists; each a file behind a memory.
//! 5. `hosted`: what lives here: repositories, uploads, and the pins that eviction leaves alone.
//! 6. `remove` takes one object away; `images` is what an operator sees: completeness, pins, purge.
//! 7. `evict` makes room, `recover` begins, `scrub` finds what rotted, `probe` asks whether the disk takes writes, `index` is
//!    sled.
//! 8. `store` builds all of them and has no logic.
//!
//! # What holds, always
//! * A file under `blobs/` is whole, verified and synced; what is not is under `partial/`.
//! * No reader gets the last 64 KiB of an arriving blob before its digest is verified.
//! * Absence is `None`; a failure is an error. Neither is ever taken for the other.
//! * What is read or written is not evicted.
//! * Of what requests ask, `now` makes no system call, and all else is `async` and runs on a blocking thread.
//! * No lock that a reader takes is held while a file is read, written, renamed or unlinked.
//! * Losing the index loses nothing.

// What a client or a disk sends never ends the process.
#![cfg_attr(
    not(any(test, fuzzing)),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod blobs;
mod cache;
mod capacity;
mod error;
mod evict;
mod files;
mod hosted;
mod images;
mod index;
pub mod oci;
mod probe;
mod recover;
mod remove;
mod scrub;
pub mod setting;
mod settings;
mod source;
mod store;
mod sync;

pub use blobs::{Arriving, Blobs, Extent, HOLD_BACK, Inspection, Reader, Rest, Stopped, Writer};
pub use cache::{
    Cache, Image, ImportMark, ImportMarks, Listing, Listings, Manifests, Membership, Repository, TagRecord, Tags,
};
pub use capacity::Usage;
pub use error::Error;
#[cfg(any(test, fuzzing))]
pub use files::fuzzing;
#[doc(hidden)]
pub use files::{Call, Faults};
pub use files::{Journal, Journals, seal, unseal};
pub use hosted::{
    DamagedRecord, HostedUsage, IsImmutable, Protection, Push, RecordKind, ReferrersPage, Repositories, Upload, Uploads,
};
pub use images::{
    Completeness, ImageFilter, Images, NameFilter, Pin, Platform, Pulled, Puller, Purged, Reading, Selection,
    Summaries, Summary,
};
pub use index::Index;
pub use scrub::{Damage, Problem, Progress, Repair, Report, Scrub, Scrubbed, Status};
pub use settings::Settings;
pub use source::Source;
pub use store::{Space, Store};
