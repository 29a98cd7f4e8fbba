//! Through the front door: one binary, real sockets.

mod architecture;
mod deploy;
mod mirror;
mod registry;
