//! The values that settings are written with, and the error that names a bad one. Pure.
//!
//! Those that the store needs too are defined in `weir-storage`, which knows no network, and re-exported here.

mod effective;
mod meant;
mod values;

pub(crate) use weir_storage::as_string;
pub use weir_storage::setting::*;

pub use effective::{AfterRestart, EffectiveSetting, HIDDEN, SettingOrigin};
pub(crate) use meant::did_you_mean;
pub use values::{Network, OneOrMany};
