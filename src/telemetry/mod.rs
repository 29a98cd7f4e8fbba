//! Logs and metrics: how they are set up, and the one registry that `/metrics` prints.

mod logs;

pub use logs::start as start_logs;
