//! Through the front door: one binary, real sockets.

mod architecture;
mod checks;
mod deploy;
mod limits;
mod mirror;
mod pages;
mod promises;
mod registry;
mod suite;
mod tls;
mod upstreams;
mod verify;
