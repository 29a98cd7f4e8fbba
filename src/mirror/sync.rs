//! What flights lock, wait for and run on; `tests/flights.rs` replaces this module with shuttle's.

pub(super) use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

pub(super) use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
