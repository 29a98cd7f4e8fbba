//! The hub through its sockets, with a client that knows nothing of it.

mod behaviour;
mod client;
mod control;
mod faults;
mod many;
mod pulling;
