//! How often a throttle denied or would have denied, and how many clients: what an operator reads before switching it on.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::client::ClientKey;

/// Distinct clients that are distinguished for each throttle; past it the number is a lower bound.
const CLIENTS: usize = 1000;

/// "Would have denied 214 requests of 3 clients."
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Requests denied while in enforce.
    pub denied: u64,
    /// Requests that would have been denied, while in dry run.
    pub would_have_denied: u64,
    /// Clients that either happened to; at most 1000 are distinguished.
    pub clients: usize,
}

#[derive(Default)]
pub(super) struct Count {
    denied: AtomicU64,
    would_have_denied: AtomicU64,
    // Taken only when a client is over a limit, for one look-up.
    clients: Mutex<HashSet<ClientKey>>,
}

impl Count {
    pub(super) fn denied(&self, client: &ClientKey) {
        self.denied.fetch_add(1, Ordering::Relaxed);
        self.saw(client);
    }

    pub(super) fn would_have_denied(&self, client: &ClientKey) {
        self.would_have_denied.fetch_add(1, Ordering::Relaxed);
        self.saw(client);
    }

    fn saw(&self, client: &ClientKey) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() < CLIENTS && !clients.contains(client) {
            clients.insert(client.clone());
        }
    }

    pub(super) fn read(&self) -> Tally {
        Tally {
            denied: self.denied.load(Ordering::Relaxed),
            would_have_denied: self.would_have_denied.load(Ordering::Relaxed),
            clients: self.clients.lock().unwrap_or_else(PoisonError::into_inner).len(),
        }
    }
}
