//! The hub through its sockets, with a client that knows nothing of it.

mod client;
mod faults;
mod pulling;
