//! What several replicas share: a bucket behind the disk of each, and leases that say who asks upstream.
//!
//! Without `[shared]` in the settings nothing of this crate runs, and no engine is asked.
//!
//! # What it guarantees
//! * What one replica filled and verified is written to the bucket in the background. Another replica takes it from there before it
//!   asks upstream, through the same writer and the same verification, from the first byte.
//! * Bytes of the bucket are believed no more than those of an upstream: they are hashed as they come, the last 64 KiB wait for it,
//!   and what does not match is moved to `quarantine/` and fetched from upstream.
//! * A right is never taken from bytes being there. A blob of the bucket is served under a repository when upstream told some
//!   replica so with the same credential, or tells this one now; that is what the keys under `sources/…/_members/` say.
//! * With upstream down, an empty replica serves what the fleet had: manifests, tags within `stale_if_error`, memberships, blobs.
//! * Whatever the bucket does, a client gets nothing worse than from a Weir without one. A lookup makes a few reads, each of at most
//!   `timeout`; three in a row that fail or take more than half of it are the last ones until the bucket is quick again.
//! * A pull of what is fresh on the disk asks no engine.
//!
//! # What it refuses
//! * A store that lets several win who create one key at once, that takes an update of an old version, or that gives no ranges. The
//!   probe tries all of it at the start, and in `weir check`.
//! * To list the bucket: what a request needs has a name.
//!
//! # The bucket
//! `keys` has the layout. Everything is written once under a name that says what it is, but for tags: those are replaced by a
//! conditional write, and only by a newer answer of upstream. A tag that upstream deleted stays as a record that says so, since a
//! replica with an older record must not bring it back when upstream is next out of reach.
//!
//! # When the bucket is away
//!
//! | event | effect | bound |
//! |---|---|---|
//! | it answers no request, or late, or with 5xx, or 403 | after 3 failures in a row it is not asked; tried every 2 s | 3 × `timeout` in all |
//! | it breaks off in the midst of a blob | the fill goes on from upstream by `Range`, or from the bucket again | 3 resumes |
//! | it is away when something is to be written | that waits, by name and not by bytes | 4,096 blobs, 16,384 others; the rest is lost for it, and counted |
//! | the process ends while something waits | it gets 5 s; the rest is on that disk alone | |
//! | it is away at the start | Weir serves without it, probes it when it answers, and uses it then | |
//! | it gives other bytes than were written | not served whole, put aside, not looked at for a minute | one broken transfer |
//! | it lost an object | a miss: upstream is asked | |
//!
//! # One upstream request
//! With `[shared.redis]` one replica at a time asks upstream for a blob or a manifest, under a lease, and the others take it from the bucket:
//! `lease` has what that guarantees. With `[shared.peers]`, too, they get a blob from that replica while it arrives there. Without
//! Redis, two replicas that lack one object at once ask upstream once each. What upstream says of tags, lists and referrers is asked for by
//! one replica at a time and told to the others with `[shared.peers]` (`answers`), and is else asked for by each.
//!
//! # The map
//! Each names only those before it: `redis_settings`, `random`, `peers`, `settings`, `keys`, `error`, `metrics`, `fleet_tag` (which of two records
//! counts), `answers` (what upstream said), `breaker` → `redis_client` (one command) → `lease`; `credentials` → `client` (one request) → `probe` → `bucket` (requests
//! while it answers) → `writes` (the background) → `tier`.

// What a store sends never ends the process.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

mod answers;
mod breaker;
mod bucket;
mod client;
mod credentials;
mod error;
mod fleet_tag;
mod keys;
mod lease;
mod metrics;
mod peers;
mod probe;
mod random;
mod redis_client;
mod redis_settings;
mod settings;
mod tier;
mod writes;

pub use answers::{Answers, Said};
pub use bucket::Bucket;
pub use error::Error;
pub use fleet_tag::FleetTag;
pub use keys::Flight;
pub use lease::{Asked, Leading, Lease, Told, Turn};
pub use peers::{PeerSecret, Peers, Question};
pub use probe::Unfit;
pub use redis_client::{RedisClient, RedisError};
pub use redis_settings::Redis;
pub use settings::{S3, Settings};
pub use tier::{BucketBody, Tier};
