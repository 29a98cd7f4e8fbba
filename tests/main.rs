//! Through the front door: one binary, real sockets.

mod access_log;
mod admin_tls;
mod architecture;
mod archives;
mod cache;
mod checks;
mod cors;
mod deploy;
mod docs;
mod flights;
mod limits;
mod mirror;
mod monitoring;
mod pages;
mod policy;
mod promises;
mod registry;
mod simulation;
mod spans;
mod status;
mod suite;
mod tls;
mod traces;
mod upstreams;
mod verify;
mod warm;
