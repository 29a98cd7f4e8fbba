//! Is it a registry, and is it a good mirror? Runs against any URL.

pub mod hub;
