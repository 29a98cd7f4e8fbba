//! Is it a registry, and is it a good mirror? Runs against any URL.

pub mod bench;
pub mod bucket;
pub mod check;
pub mod client;
pub mod compare;
pub mod hub;
pub mod mirror;
pub mod push;
pub mod redis;
pub mod registry;
pub mod report;
