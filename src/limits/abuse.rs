//! From failures to consequences: the smallest thing that stops the harm, for the shortest time, and only when failures are many and different.
//!
//! # The levels
//!
//! | level | whom it concerns | what it does | when |
//! |---|---|---|---|
//! | 0 | a reference | the negative cache answers | it does not exist |
//! | 1 | a client and a reference | the cached 404, never upstream, `Retry-After` grows | more than 30 misses of it in 5 min |
//! | 2 | a client's misses | 429; what is cached is served | more than 40 different missing references in 10 min, or its upstream quota exceeded three times |
//! | 3 | a client's misses | 403; what is cached is served | level 2 again before the strike has faded, or 30 failed logins in 3 min |
//! | 4 | a client | 403 | more than 600 denied requests in 5 min, or an operator |
//!
//! # What it guarantees
//!
//! A client that retries is not a client that attacks: identical requests within 2 s are one. A denial never feeds the counter that caused
//! it, so no client is held by its own retries; denials of a lower level are counted towards level 4 and nothing else. Strikes fade by half in a
//! day. Loopback, trusted proxies, admin networks and the allowlist are never touched. Levels 2 to 4 come as an [`Escalation`], which the caller makes a
//! ban of; in dry run the same steps come, marked as simulated.
//!
//! Memory is bounded: so many clients that failed lately are watched, and the one with the least to its name makes room for another.

mod failure;
mod history;
mod retries;
mod settings;
#[cfg(test)]
mod tests;
mod tracker;

pub use failure::{Failure, Outcome};
pub use settings::{Code, Settings};
pub use tracker::{AbuseTracker, Escalation};
