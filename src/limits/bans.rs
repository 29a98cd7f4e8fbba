//! Who is turned away, until when, why, and by whom it was lifted: the records, and the question every request asks of them.
//!
//! # What it guarantees
//!
//! Every ban ends: `until` is mandatory and at most 30 days away. A ban of a rule says what it saw (up to 20 requests) and which repositories are
//! concerned, so that an operator, the client's owner and the owner of a namespace can each find it and understand it. A ban that is wide, or
//! that would shut out its maker, takes `force`. A simulated ban is recorded like any other and stops no client.
//!
//! A rule's ban of an address is of that anonymous client: a principal behind the same address goes on. An operator's covers every client there.
//!
//! # Scope
//!
//! [`BanList`] is a value in memory: bounded, searched by longest prefix, without a clock. Every change gives back an [`BanEvent`]; the
//! caller appends it to the audit and keeps [`BanList::export`].

mod list;
mod record;
mod shared;
#[cfg(test)]
mod tests;

pub use list::{BanError, BanFilter, BanList, MAX_BANS, MAX_ENDED};
pub(super) use record::short;
pub use record::{
    Ban, BanEvent, BanRecord, Evidence, Lift, MAX_DURATION, MAX_EVIDENCE, MAX_REPOSITORIES, MIN_DURATION, NewBan,
    Origin, sentence,
};
pub(super) use shared::Bans;
