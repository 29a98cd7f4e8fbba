//! Permits of which no client has them all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::ClientKey;

/// So many permits in all, and fewer for each client.
pub(crate) struct FairPermits {
    all: Arc<Semaphore>,
    share: usize,
    /// The share of each client that has a permit or waits for one, and how many of its requests do.
    shares: Mutex<HashMap<ClientKey, (Arc<Semaphore>, usize)>>,
}

impl FairPermits {
    pub(crate) fn new(all: usize, share: usize) -> Arc<FairPermits> {
        Arc::new(FairPermits { all: Arc::new(Semaphore::new(all)), share, shares: Mutex::default() })
    }

    /// Waits for a permit of this client.
    pub(crate) async fn acquire(self: Arc<FairPermits>, client: ClientKey) -> FairPermit {
        let share = {
            let mut shares = self.shares();
            let share = || (Arc::new(Semaphore::new(self.share)), 0);
            let (share, users) = shares.entry(client.clone()).or_insert_with(share);
            *users += 1;
            share.clone()
        };
        let mut permit = FairPermit { permits: self, client, _held: None };
        // Nothing closes the semaphores; were one closed, the bound would be gone and nothing else.
        let own = share.acquire_owned().await;
        let any = permit.permits.all.clone().acquire_owned().await;
        permit._held = own.ok().zip(any.ok());
        permit
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<ClientKey, (Arc<Semaphore>, usize)>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit, until it is dropped.
pub(crate) struct FairPermit {
    permits: Arc<FairPermits>,
    client: ClientKey,
    _held: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut shares = self.permits.shares();
        if let Some((_, users)) = shares.get_mut(&self.client) {
            *users -= 1;
            if *users == 0 {
                shares.remove(&self.client);
            }
        }
    }
}
