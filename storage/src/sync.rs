//! The locks and atomics of what readers and writers share; `tests/shuttle` replaces this module with shuttle's.

pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicU64, Ordering},
};
