//! Pure accounting of who may do how much: no HTTP, no I/O, no async, no clock; time and randomness are arguments.
//!
//! Every module here takes values and a time and gives back a decision or an event. Others carry them out: `http` answers, `mirror` waits and
//! spends, `admin` shows, and the caller keeps what must survive a restart.
//!
//! | module | what it decides |
//! |---|---|
//! | [`throttle`] | how often a client may ask |
//! | [`budget`] | who may spend a pull of an upstream |
//! | [`abuse`] | when failures lead to a ban |
//! | [`bans`] | whom a ban meets |
//! | [`repositories`] | which repositories are mirrored |
//! | [`state`] | [`Limits`]: all of them behind one value; begin there |

pub mod abuse;
pub mod address;
pub mod allowlist;
pub mod audit;
pub mod bans;
pub mod budget;
pub mod class;
mod clock;
pub mod config;
pub mod headers;
pub mod penalty;
pub mod permit;
mod probation;
pub mod recent;
pub mod repositories;
mod role;
pub mod state;
mod target;
pub mod throttle;
pub(crate) mod time;
pub(crate) mod words;

pub use config::{Account, LimitsConfig, Settings};
pub use role::{Access, Role};
pub use state::Limits;
pub use target::Target;
