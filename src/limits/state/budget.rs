//! The budgets of all identities: who spent, who waits, and whose turn it is.

use std::collections::HashSet;

use super::*;
use crate::limits::budget::{Admission, BudgetDecision, SpendRequest, Ticket};

/// What became of one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueStatus {
    /// It is its turn: spend.
    Granted,
    /// Ask again when a pull comes back, or in a second.
    Waiting,
    /// Its time is up, or its place is gone.
    Expired,
}

/// One identity.
#[derive(Default)]
pub(super) struct BudgetQueue {
    pub(super) admission: Admission,
    /// Whose turn it is and who did not come for it yet; what is left is theirs.
    granted: HashSet<Ticket>,
    expired: HashSet<Ticket>,
}

impl Limits {
    pub(super) fn decide(&self, left: &Balance, ask: SpendRequest<'_>, now: SystemTime) -> BudgetDecision {
        let config = self.config();
        self.with_queue(&left.identity, |line| {
            let decision = line.admission.ask(&config.budget, &line.less(left), ask, now);
            if decision == BudgetDecision::Spend {
                line.admission.spend(ask.client, now);
            }
            decision
        })
    }

    pub(super) fn turn(&self, left: &Balance, ticket: Ticket, client: &ClientKey, now: SystemTime) -> QueueStatus {
        let config = self.config();
        self.with_queue(&left.identity, |line| {
            if !line.granted.contains(&ticket) {
                let expired = line.admission.expired(now);
                line.expired.extend(expired);
                while let Some(next) = line.admission.turn(&config.budget, &line.less(left), now) {
                    line.granted.insert(next);
                }
            }
            if line.granted.remove(&ticket) {
                line.admission.spend(client, now);
                QueueStatus::Granted
            } else if line.expired.remove(&ticket) {
                QueueStatus::Expired
            } else {
                QueueStatus::Waiting
            }
        })
    }

    pub(super) fn leave(&self, identity: &Identity, ticket: Ticket) {
        self.with_queue(identity, |line| {
            line.granted.remove(&ticket);
            line.expired.remove(&ticket);
            line.admission.leave(ticket);
        });
    }
}

impl BudgetQueue {
    fn less(&self, left: &Balance) -> Balance {
        let granted = i64::try_from(self.granted.len()).unwrap_or(i64::MAX);
        Balance { remaining: left.remaining.map(|remaining| remaining.saturating_sub(granted)), ..left.clone() }
    }
}
