//! Through the front door: one binary, real sockets.

mod mirror;
