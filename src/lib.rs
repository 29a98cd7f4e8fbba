//! Weir: a pull-through mirror for OCI registries that never wastes an upstream pull.
//!
//! `ARCHITECTURE.md` is the map: where things are, the rules of the source, what always holds and which test holds it, and one
//! cold pull, one push and one warm HEAD from end to end. Settings, each with its default and its reason, are in `deploy.toml`.
//!
//! Dependencies run one way: `main → {http, admin, cli} → {mirror, hosted, limits, identity} → {upstream, storage}`.
//! `tests/architecture.rs` holds that.

// What a client, an upstream or a disk sends never ends the process.
#![cfg_attr(
    not(any(test, fuzzing)),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod admin;
pub mod answer;
pub mod archive;
pub mod cli;
pub mod client;
#[doc(hidden)]
pub mod clock;
pub mod config;
pub mod hosted;
pub mod http;
pub mod identity;
mod idle_thread;
pub mod limits;
pub mod mirror;
pub mod oci;
pub mod policy;
pub mod random;
#[doc(hidden)]
pub mod record_journal;
pub mod route;
pub mod setting;
pub mod telemetry;
pub mod upstream;
