//! What was read or written lately, so that a warm request touches no disk.
//!
//! Everything here is on disk as well and is written through. Only presence is remembered: that something is absent is asked
//! of the disk each time. Nothing here expires; freshness is judged from `checked_at`.
//!
//! # No lock is held over I/O
//! An entry and its file change at two moments, so that each change of a file begins and ends with a new generation of its key. A
//! reader that began in another generation than it ends in does not keep what it read, and of two writers at once neither
//! keeps what it wrote: the next reader asks the disk. So a slow reader never puts back what was just replaced.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use moka::sync::Cache;

use crate::Error;

/// What an entry costs besides its bytes: key, hash table, and the accounts of moka.
const OVERHEAD: usize = 512;

/// Generations of which each stands for many keys; two keys that share one read the disk once more than they must.
const GENERATIONS: usize = 1024;

/// A bounded memory of values that are files as well. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Memory<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    entries: Cache<K, V>,
    generations: Arc<(RandomState, Vec<Mutex<u64>>)>,
}

impl<K, V> Memory<K, V>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// At most `bytes`, as far as `size` tells those of a value.
    pub(super) fn new(bytes: u64, size: impl Fn(&V) -> usize + Send + Sync + 'static) -> Memory<K, V> {
        let weigh = move |_: &K, value: &V| u32::try_from(size(value) + OVERHEAD).unwrap_or(u32::MAX);
        let generations = (0..GENERATIONS).map(|_| Mutex::default()).collect();
        Memory {
            entries: Cache::builder().max_capacity(bytes).weigher(weigh).build(),
            generations: Arc::new((RandomState::new(), generations)),
        }
    }

    // Held for one operation on `entries`.
    fn generation(&self, key: &K) -> MutexGuard<'_, u64> {
        let (hasher, generations) = &*self.generations;
        generations[hasher.hash_one(key) as usize % GENERATIONS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// The value, read from its file when it is not in memory.
    pub(super) fn get_or_read(
        &self,
        key: K,
        read: impl FnOnce() -> Result<Option<V>, Error>,
    ) -> Result<Option<V>, Error> {
        if let Some(value) = self.entries.get(&key) {
            return Ok(Some(value));
        }
        let before = *self.generation(&key);
        let value = read()?;
        if let Some(value) = &value {
            let generation = self.generation(&key);
            if *generation == before {
                self.entries.insert(key, value.clone());
            }
        }
        Ok(value)
    }

    /// Keeps a value after `write` put it into its file.
    pub(super) fn put(&self, key: K, value: V, write: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let begun = self.begin(&key);
        let written = write();
        let mut generation = self.generation(&key);
        let alone = *generation == begun;
        *generation += 1;
        match (&written, alone) {
            (Ok(()), true) => self.entries.insert(key, value),
            // The file is as it was, and so is the entry.
            (Err(_), true) => {}
            (_, false) => self.entries.invalidate(&key),
        }
        written
    }

    /// Forgets a value, and then has `remove` take its file. When that fails, it is not answered from memory any more.
    pub(super) fn remove<T>(&self, key: &K, remove: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.begin(key);
        self.entries.invalidate(key);
        let removed = remove();
        let mut generation = self.generation(key);
        *generation += 1;
        self.entries.invalidate(key);
        removed
    }

    fn begin(&self, key: &K) -> u64 {
        let mut generation = self.generation(key);
        *generation += 1;
        *generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory<u8, u8> {
        Memory::new(1 << 20, |_| 0)
    }

    #[test]
    fn a_slow_reader_does_not_put_back_what_was_replaced() {
        let memory = memory();
        let read = memory.get_or_read(1, || {
            memory.put(1, 11, || Ok(()))?;
            Ok(Some(10))
        });
        assert_eq!(read.unwrap(), Some(10));
        assert_eq!(memory.get(&1), Some(11));
        let read = memory.get_or_read(2, || memory.remove(&2, || Ok(Some(20))));
        assert_eq!((read.unwrap(), memory.get(&2)), (Some(20), None));
        // It began before the file was replaced and ends before the entry is.
        let write = || memory.get_or_read(3, || Ok(Some(30))).map(drop);
        memory.put(3, 31, write).unwrap();
        assert_eq!(memory.get(&3), Some(31));
    }

    #[test]
    fn of_two_writers_at_once_neither_is_believed() {
        let memory = memory();
        memory.put(1, 11, || memory.put(1, 12, || Ok(()))).unwrap();
        assert_eq!(memory.get(&1), None);
    }

    #[test]
    fn what_could_not_be_written_changes_nothing_and_what_could_not_be_removed_is_forgotten() {
        let memory = memory();
        memory.put(1, 11, || Ok(())).unwrap();
        assert!(memory.put(1, 12, || Err(Error::Busy)).is_err());
        assert_eq!(memory.get(&1), Some(11));
        assert!(memory.remove(&1, || Err::<(), _>(Error::Busy)).is_err());
        assert_eq!(memory.get(&1), None);
    }
}
