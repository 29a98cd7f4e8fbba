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
//!     _members/<algorithm>-<hex>                this repository vouched for that digest (empty)
//!     _listings/<kind>                          a tag list or a referrers answer
//!   hosted/<repository>/                        what lives here; all of it is on the disk before it is acknowledged
//!     _blobs/, _manifests/<algorithm>-<hex>.<size>   the repository holds that digest
//!     _tags/<tag>, _referrers/<subject>/<digest>     what a tag names, what refers to what
//!   uploads/<id>, <id>.session                  arriving from a client, of a digest that is told last
//!   server                                      names this server in the ids of its uploads
//!   journals/<name>                             what no upstream can give again
//!   quarantine/                                 what did not match its digest, for somebody to look at
//!   index/, index.sentinel                      sled: rebuildable from all of the above
//! ```
//!
//! # The map
//! `store` is what others call. A blob comes in by `writer` (the handle) and `ingest` (the thread behind it), is shared
//! by `arriving`, and goes out by `reader`; `blob` knows who uses which, `partial` what an earlier attempt left. `manifest`,
//! `tag`, `membership` and `listing` are small files behind `memory`. `hosted` are the repositories that live here, `upload` how
//! blobs get into them, and `pins` what of it eviction must leave alone. `rank` decides what goes first and `evict` removes it.
//! `recover` is what happens at start, `verify` and `scrub` find rot, `state` the journals, `index` sled. All of them go through
//! `disk`, the only file that makes file system calls, by paths that only `layout` builds.
//!
//! # What holds, always
//! * A file under `blobs/` is whole, verified and synced; what is not is under `partial/`.
//! * Nobody gets the last 64 KiB of an arriving blob before its digest is verified.
//! * Absence is `None`; a failure is an error. Neither is ever taken for the other.
//! * What somebody reads or writes is not evicted.
//! * Losing the index loses nothing.

mod arriving;
mod blob;
mod core;
mod disk;
mod error;
mod evict;
mod hosted;
mod index;
mod ingest;
mod layout;
mod listing;
mod manifest;
mod membership;
mod memory;
pub mod oci;
mod partial;
mod pins;
mod rank;
mod reader;
mod record;
mod recover;
mod scrub;
mod settings;
mod state;
mod store;
mod tag;
mod upload;
mod verify;
mod writer;

pub use arriving::{Arriving, HOLD_BACK};
#[doc(hidden)]
pub use disk::{Call, Faults};
pub use error::Error;
pub use hosted::{Hosted, HostedUsage, Push, ReferrersPage};
pub use listing::Listing;
pub use reader::{Extent, Reader, Stopped};
pub use scrub::Scrubbed;
pub use settings::Settings;
pub use state::Journal;
pub use store::{Source, Store, Usage};
pub use tag::TagRecord;
pub use upload::Upload;
pub use writer::Writer;
