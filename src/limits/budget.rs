//! Whether a counted request may be sent: what an identity has left and who asks, to spend, wait or refuse.
//!
//! # What it guarantees
//!
//! The pulls that an upstream grants are shared so that no client starves that matters more. Each class leaves a floor to those above it; while
//! several clients spend and it is getting scarce, one client has a share. What cannot be spent now and is forecast soon is waited for in one
//! first-come line per client, the clients in turn, the higher classes first; else the refusal comes at once and says why and
//! when.
//!
//! A floor binds only when a class above it is configured, a share only while several spend: a lone docker may use every pull there is.
//! A warm spends what is left beyond the floor of bulk and what all clients above bulk are expected to need, whatever is configured; and
//! what it spent changes no client's share.
//!
//! # Scope
//!
//! [`Policy::decide`] is the rule, a function of values. [`Admission`] is the state of one identity: who spent how much in the window, and who
//! waits. It knows no clock and wakes no waiter: its owner asks for [`Admission::turn`] when a pull comes back, a place is left, or the
//! first one's time is up. The ledger alone knows what is left, and refuses again if two decide on the same last pull.

mod admission;
mod budgets;
mod forecast;
mod held;
mod policy;
mod queue;
mod replay;
mod settings;
#[cfg(test)]
mod simulation;
mod spend_log;
#[cfg(test)]
mod tests;

pub use admission::{Admission, BudgetDecision};
pub use budgets::{BudgetQueue, Budgets, QueueStatus};
pub use forecast::Demand;
pub use held::{HeldPull, HeldPulls};
pub use policy::{Policy, RefusalReason, Spender};
pub use queue::{Queue, QueueFull, SpendRequest, Ticket};
pub use replay::{PastPull, Replayed, replay};
pub use settings::{Floors, Settings, Shares};
pub use spend_log::SpendLog;
