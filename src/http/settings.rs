//! How the registry side behaves.

use std::time::Duration;

use super::cors::Origin;
use crate::route::SharedRoutes;

/// How the registry side behaves. Every bound stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Connections open at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one client (an IPv4 address, an IPv6 /64) open at once; more are closed when they are accepted. Trusted
    /// proxies are not counted.
    pub connections_per_client: usize,
    /// From the first byte of a request to the end of its head (5 s); a TLS handshake, which is two round trips and some
    /// arithmetic, may take twice as long.
    pub head_timeout: Duration,
    /// An idle connection is kept for so long (75 s: containerd reuses connections between layers).
    pub keep_alive: Duration,
    /// A response that makes no progress for so long is cut (30 s).
    pub write_stall: Duration,
    /// The body of a request brings something within so long, or is cut (30 s).
    pub body_stall: Duration,
    /// Bodies in flight may take so long to finish once [`Serving::stop`](super::Serving::stop) was called; rounded up to whole
    /// seconds.
    pub drain: Duration,
    /// Origins whose pages may use the registry from a browser (none).
    pub cors: Vec<Origin>,
    /// Which names go where.
    pub routes: SharedRoutes,
}
