//! [`BanList`] behind its lock.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::list::BanList;

/// The bans, for all threads.
#[derive(Debug, Default)]
pub(in crate::limits) struct Bans {
    list: Mutex<BanList>,
    /// Bans that have not ended, simulated ones too, so that a request takes no lock while there are none.
    count: AtomicUsize,
}

impl Bans {
    pub(in crate::limits) fn new(list: BanList) -> Bans {
        Bans { count: AtomicUsize::new(list.len()), list: Mutex::new(list) }
    }

    pub(in crate::limits) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Held for a few look-ups, never across anything that waits.
    pub(in crate::limits) fn read<R>(&self, work: impl FnOnce(&BanList) -> R) -> R {
        work(&self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(in crate::limits) fn change<R>(&self, work: impl FnOnce(&mut BanList) -> R) -> R {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut list);
        self.count.store(list.len(), Ordering::Release);
        result
    }
}
