//! A number that many threads add to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads beyond that many share parts; what they add is counted all the same.
const PARTS: usize = 8;

/// A sum of what threads add. Every answer for an image that breaks rules adds one for each of them, so threads add to parts of their own:
/// a line of the processor's cache that two threads write is fetched from the other one each time.
#[derive(Debug, Default)]
pub(super) struct Count([Part; PARTS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Part(AtomicU64);

impl Count {
    pub(super) fn add_one(&self) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PART: usize = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
        }
        self.0[PART.with(|part| *part)].0.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum; of what is added meanwhile a part may be in it.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|part| part.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_more_threads_add_than_there_are_parts_is_counted() {
        let count = Count::default();
        thread::scope(|scope| {
            for _ in 0..PARTS * 2 {
                scope.spawn(|| (0..100).for_each(|_| count.add_one()));
            }
        });
        assert_eq!(count.sum(), PARTS as u64 * 2 * 100);
    }
}
