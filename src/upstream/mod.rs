//! A client of registries; the only user of reqwest.
//!
//! [`Upstream`] asks one registry the six things that a mirror needs to know, and answers with values or with an [`Error`] that a caller can act
//! on. Each request goes the same way: the breaker gives leave (`breaker.rs`), a credential is found (`auth.rs`), the request waits for
//! its turn (`limiter.rs`) and is sent (`transport.rs`) to an address that may be spoken to (`address.rs`); redirects are walked
//! by hand (`redirect.rs`), and the status is read (`refusal.rs`). A counted request is paid in the [`ledger`] first.
//!
//! # What it guarantees
//!
//! A credential goes to the configured origin and to that origin's vetted token host, nowhere else. Nothing is asked of an upstream that is
//! down or limits us but one probe at a time. Every wait and every body has a bound, but for the body of a blob, which may take as
//! long as it takes while pieces keep coming. What is returned as a manifest was verified; what is returned as a blob was not,
//! since its bytes are still on the way.
//!
//! # Scope
//!
//! No cache, no policy, no coalescing but of tokens: those are the mirror's. Nothing here is done unasked:
//! an upstream that no client asks for gets no request, and Weir starts without any.

pub mod ledger;

mod address;
mod auth;
mod body;
mod breaker;
mod challenge;
mod concurrency;
mod encoding;
mod endpoint;
mod error;
mod error_response;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod identity;
mod link;
mod metrics;
mod peer;
mod proxy;
mod ratelimit;
mod redirect;
mod registry;
mod request;
mod retry;
mod retry_after;
mod settings;
mod tls;
mod transport;

pub use body::Body;
pub use error::Error;
pub use identity::Identity;
pub use ledger::{Ledger, Reservation};
pub use metrics::Metrics;
pub use peer::{PeerBody, PeerClient};
pub use ratelimit::RateLimit;
pub use registry::{Head, Upstream};
pub use settings::{Account, CredentialState, Provider, Secret, Settings, check_proxy};
pub use tls::install_provider;
pub use transport::Renewed;

#[cfg(test)]
mod tests;
