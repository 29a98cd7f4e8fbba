//! Clients that have half their quota for a while, since they lifted their own ban.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use crate::client::ClientKey;

/// Clients on probation at once (1,000); past it a lift brings none.
const MAX_ON_PROBATION: usize = 1000;

/// The clients, and until when.
#[derive(Debug, Default)]
pub(super) struct Probation {
    until: Mutex<HashMap<ClientKey, SystemTime>>,
    /// So that a request takes no lock while there are none.
    count: AtomicUsize,
}

impl Probation {
    pub(super) fn begin(&self, client: ClientKey, until: SystemTime) {
        self.change(|clients| {
            if clients.len() < MAX_ON_PROBATION {
                clients.insert(client, until);
            }
        });
    }

    pub(super) fn holds(&self, client: &ClientKey, now: SystemTime) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.lock().get(client).is_some_and(|until| now < *until)
    }

    pub(super) fn expire(&self, now: SystemTime) {
        self.change(|clients| clients.retain(|_, until| now < *until));
    }

    pub(super) fn all(&self) -> Vec<(ClientKey, SystemTime)> {
        self.lock().iter().map(|(client, until)| (client.clone(), *until)).collect()
    }

    fn change(&self, work: impl FnOnce(&mut HashMap<ClientKey, SystemTime>)) {
        let mut clients = self.lock();
        work(&mut clients);
        self.count.store(clients.len(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientKey, SystemTime>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
