//! Named throttles: how often a client may do something, and what to tell it when that is too often.
//!
//! # What it guarantees
//!
//! A gcra throttle never admits more than its limit in any window of its period, wherever the window begins: what may come at once
//! (`burst`) and what comes back during a period make up the limit together. A fixed window does what GitLab's does, to the
//! digit: windows are aligned to the epoch, and denied requests count. A request that is denied has consumed nothing of any gcra throttle.
//!
//! Memory is bounded whatever is asked from wherever: so many clients have an account, and when all accounts are in use a
//! newcomer is counted with its network (/24, /48), and when the networks are used up, too, with the crowd of all others. No
//! account is dropped while it owes something, for that would help a client that uses many addresses.
//!
//! # How
//!
//! The rules ([`Rules`]) are a value made of the settings. The accounts ([`Table`]) are the state and outlive a reload: an account holds the
//! time until which a client has used up its share, and a reload converts it ([`Table::requota`]): other limits take effect at once,
//! no client starts anew, and none stays shut out of a limit that was raised.
//! [governor](https://docs.rs/governor) does the arithmetic on one account at a time, through a `StateStore` of ours whose clock stands
//! still: time is an argument, what is stored is the time a client owes. That is what makes peeking, refunding and saving possible.
//!
//! A client's own account is looked at before its network's, and the throttle with the lowest rate before the others: most denials
//! are found before anything else was touched. All throttles of one request are judged under one lock of the account.
//!
//! # What breaks if a line moves
//!
//! The lock of the client's account is taken before that of its network's, never the other way round. Accounts of gcra throttles are put
//! back when a later throttle denies; those of fixed windows are not, as in GitLab.

mod account;
mod account_table;
mod check;
mod rules;
mod tally;
#[cfg(test)]
mod tests;

pub use account::Algorithm;
pub use check::{Scope, Snapshot, Table, ThrottleDecision, ThrottleStatus};
pub use rules::{Meter, Meters, Mode, Rule, Rules, Throttle, covers, covers_any};
pub use tally::Tally;

/// Bytes that count as one unit of a `_bytes` throttle.
pub const BYTES_UNIT: u64 = 64 * 1024;
