//! What a registry client sees: `service → {wire, api}`, and `wire` and `api` never name each other.
//!
//! | where | what |
//! |---|---|
//! | `wire` | sockets, TLS, the bytes of HTTP/1.1, connection limits: all that leans on how actix-http works inside |
//! | `api` | the distribution-spec's endpoints: from a request to a reply or an error, as values; the route table is `api/mod.rs` |
//! | `service` | one request: who asks (`admit`), may it, what does the API answer; then headers, counts, log and charges, once |
//! | `cors` | what pages of other origins may do |
//! | `replicas` | the listener for the other replicas of a fleet |
//! | `peer`, `settings`, `metrics`, `printable` | what both sides share |
//!
//! One actix-http service answers the whole of `/v2/`. There is no `App` and no router above it, because the path is the
//! only thing to route by and `api/path.rs` reads it better from the right. What is warm is answered without an await and
//! without a boxed future; everything else is one boxed future.

mod admit;
mod api;
mod cors;
mod expiry;
mod metrics;
mod peer;
mod printable;
#[cfg(test)]
mod raw;
mod replicas;
mod service;
mod settings;
mod wire;

#[cfg(any(test, fuzzing))]
pub use self::api::fuzzing;
pub use self::{
    cors::Origin,
    expiry::Expiry,
    metrics::Metrics,
    replicas::{PeerServing, serve_peers},
    service::serve,
    settings::Settings,
    wire::{Certificate, Listener, Prepared, Serving},
};

#[cfg(test)]
mod tests;
