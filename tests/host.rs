//! What needs root and programs of the host, such as small file systems: `cargo test --test host`. Not among the tests of a plain
//! `cargo test`; `.ci/run` installs what is missing and runs it.

#[path = "host/calls.rs"]
mod calls;
#[path = "host/crowd.rs"]
mod crowd;
#[path = "host/disk.rs"]
mod disk;
#[path = "host/hardened.rs"]
mod hardened;
#[path = "host/metrics.rs"]
mod metrics;
#[path = "host/proxies.rs"]
mod proxies;
#[path = "monitoring/scraped.rs"]
mod scraped;
#[path = "host/support.rs"]
mod support;
