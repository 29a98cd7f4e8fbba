//! The budgets of all identities: who spent, who waits, and whose turn it is.

use std::collections::HashSet;

use super::*;
use crate::limits::budget::{Admission, Ask, Decision, Ticket};

/// What became of one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It is its turn: spend.
    Go,
    /// Ask again when a pull comes back, or in a second.
    Wait,
    /// Its time is up, or its place is gone.
    Over,
}

/// One identity.
#[derive(Default)]
pub(super) struct Line {
    pub(super) admission: Admission,
    /// Whose turn it is and who did not come for it yet; what is left is theirs.
    granted: HashSet<Ticket>,
    expired: HashSet<Ticket>,
}

impl Limits {
    pub(super) fn decide(&self, left: &Left, ask: Ask<'_>, now: SystemTime) -> Decision {
        let rulebook = self.rulebook();
        self.with_line(&left.identity, |line| {
            let decision = line.admission.ask(&rulebook.budget, &line.less(left), ask, now);
            if decision == Decision::Spend {
                line.admission.spend(ask.client, now);
            }
            decision
        })
    }

    pub(super) fn turn(&self, left: &Left, ticket: Ticket, client: &ClientKey, now: SystemTime) -> Waiting {
        let rulebook = self.rulebook();
        self.with_line(&left.identity, |line| {
            if !line.granted.contains(&ticket) {
                let expired = line.admission.expired(now);
                line.expired.extend(expired);
                while let Some(next) = line.admission.turn(&rulebook.budget, &line.less(left), now) {
                    line.granted.insert(next);
                }
            }
            if line.granted.remove(&ticket) {
                line.admission.spend(client, now);
                Waiting::Go
            } else if line.expired.remove(&ticket) {
                Waiting::Over
            } else {
                Waiting::Wait
            }
        })
    }

    pub(super) fn leave(&self, identity: &Identity, ticket: Ticket) {
        self.with_line(identity, |line| {
            line.granted.remove(&ticket);
            line.expired.remove(&ticket);
            line.admission.leave(ticket);
        });
    }
}

impl Line {
    fn less(&self, left: &Left) -> Left {
        let granted = i64::try_from(self.granted.len()).unwrap_or(i64::MAX);
        Left { remaining: left.remaining.map(|remaining| remaining.saturating_sub(granted)), ..left.clone() }
    }
}
