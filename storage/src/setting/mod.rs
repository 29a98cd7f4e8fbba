//! The values that settings are written with, and the error that names a bad one. Pure.
//!
//! Every part of Weir deserialises and validates its own settings with these; `config` of `weir` joins them to one file and checks
//! what two tables say about each other.

mod error;
mod values;

pub use error::{ConfigError, ConfigErrors};
pub use values::{Size, Span, as_size, as_span};
