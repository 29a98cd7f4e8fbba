//! A client that measures: HTTP/1.1 over one TCP connection, timed to the first byte, with bodies that are checked and not believed.
//!
//! An ordinary HTTP library hides what this suite is about. It retries, it follows redirects, it forgets when the headers came, and it
//! reports a body that ends early as one more error among many. Here each of these is a value: [`Response`] keeps the status, every
//! header, three instants, how many bytes came, what they hash to, and whether the framing said that they were all. A check that
//! must show "never a complete wrong body" needs that last one and nothing else will do.
//!
//! It refuses to be clever: one connection carries one request at a time, nothing is retried, nothing is decoded but `chunked`.

mod connection;
mod error;
mod registry;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod trust;

pub use connection::{Connection, Incoming, PATIENCE};
pub use error::Error;
pub use registry::{Client, Pull, Shape, manifest_children};
pub use request::{Body, MANIFEST_TYPES, Request};
pub(crate) use response::hex;
pub use response::{Head, Response, Timing};
pub use trust::{Authorities, Trust};
