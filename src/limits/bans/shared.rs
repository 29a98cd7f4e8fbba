//! [`BanList`] behind its lock.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::list::BanList;

/// The bans, for all threads.
#[derive(Debug, Default)]
pub(in crate::limits) struct Bans {
    list: Mutex<BanList>,
    /// Bans that have not ended, simulated ones too, so that a request takes no lock while there are none.
    count: AtomicUsize,
    /// Requests that met each ban since the start, by id. Of bans that the list remembers, so it is no longer than the list.
    met: Mutex<HashMap<String, u64>>,
}

impl Bans {
    pub(in crate::limits) fn new(list: BanList) -> Bans {
        Bans { count: AtomicUsize::new(list.len()), list: Mutex::new(list), met: Mutex::default() }
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

    /// A request met this ban.
    pub(in crate::limits) fn meet(&self, id: &str) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        match met.get_mut(id) {
            Some(count) => *count += 1,
            None => {
                met.insert(id.to_owned(), 1);
            }
        }
    }

    /// How many requests met a ban since the start.
    pub(in crate::limits) fn met(&self, id: &str) -> u64 {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or_default()
    }

    /// Forgets what met bans that are forgotten themselves.
    pub(in crate::limits) fn tidy(&self) {
        let met: Vec<String> = self.met.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let gone = self.read(|list| met.into_iter().filter(|id| list.get(id).is_none()).collect::<Vec<_>>());
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.retain(|id, _| !gone.contains(id));
    }
}
