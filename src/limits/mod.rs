//! Pure accounting: no HTTP, no I/O; time is an argument.

pub mod budget;
pub mod client;
