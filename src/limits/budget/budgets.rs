//! The budgets of all identities, behind one lock.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::{
    admission::{Admission, BudgetDecision},
    policy::Policy,
    queue::{SpendRequest, Ticket},
};
use crate::{
    client::ClientKey,
    upstream::{Identity, ledger::Balance},
};

/// What became of one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueStatus {
    /// It is its turn: spend.
    Granted,
    /// Ask again when a pull comes back, or in a second.
    Waiting,
}

/// The budget of one identity.
#[derive(Debug, Default)]
pub struct BudgetQueue {
    pub(in crate::limits) admission: Admission,
    /// Those whose turn it is, until they leave the queue; what is left is theirs.
    granted: HashSet<Ticket>,
}

impl BudgetQueue {
    /// Decides for a counted request. A [`BudgetDecision::Spend`] is booked on the client at once.
    pub fn try_spend(
        &mut self,
        policy: &Policy,
        left: &Balance,
        request: SpendRequest<'_>,
        now: SystemTime,
    ) -> BudgetDecision {
        let decision = self.admission.ask(policy, &self.less(left), request, now);
        if decision == BudgetDecision::Spend {
            self.admission.spend(request.client, now);
        }
        decision
    }

    /// Whether it is the turn of this ticket; then the pull is booked on its client.
    pub fn poll(
        &mut self,
        policy: &Policy,
        left: &Balance,
        ticket: Ticket,
        client: &ClientKey,
        now: SystemTime,
    ) -> QueueStatus {
        if !self.granted.contains(&ticket) {
            while let Some(next) = self.admission.turn(policy, &self.less(left), now) {
                self.granted.insert(next);
            }
        }
        if self.granted.contains(&ticket) {
            self.admission.spend(client, now);
            QueueStatus::Granted
        } else {
            QueueStatus::Waiting
        }
    }

    /// Gives a place back.
    pub fn leave(&mut self, ticket: Ticket) {
        self.granted.remove(&ticket);
        self.admission.leave(ticket);
    }

    fn less(&self, left: &Balance) -> Balance {
        let granted = i64::try_from(self.granted.len()).unwrap_or(i64::MAX);
        Balance { remaining: left.remaining.map(|remaining| remaining.saturating_sub(granted)), ..left.clone() }
    }
}

/// One [`BudgetQueue`] for each identity that was asked about.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<Identity, BudgetQueue>>);

impl Budgets {
    /// Works on the budget of one identity, under the lock.
    pub fn with<R>(&self, identity: &Identity, work: impl FnOnce(&mut BudgetQueue) -> R) -> R {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.contains_key(identity) {
            queues.insert(identity.clone(), BudgetQueue::default());
        }
        work(queues.entry(identity.clone()).or_default())
    }

    /// What clients spent within the window, of all identities.
    pub fn spenders(&self) -> HashMap<ClientKey, u32> {
        let mut spent = HashMap::new();
        for queue in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            for (client, count) in queue.admission.spenders() {
                *spent.entry(client).or_default() += count;
            }
        }
        spent
    }
}
