//! Pulls that upstreams count: who may spend one, and who waits.

use std::time::SystemTime;

use super::{Limits, lock};
use crate::{
    client::{Client, ClientKey},
    limits::budget::{BudgetDecision, HeldPull, QueueStatus, RefusalReason, SpendRequest, Ticket},
    upstream::{Identity, ledger::Balance},
};

impl Limits {
    /// Decides for a counted request, given what is left. A [`BudgetDecision::Spend`] is booked on the client at once.
    pub fn try_spend(&self, left: &Balance, request: SpendRequest<'_>, now: SystemTime) -> BudgetDecision {
        let config = self.config();
        self.inner.budgets.with(&left.identity, |queue| queue.try_spend(&config.budget, left, request, now))
    }

    /// Whether this client might spend now; books nothing.
    ///
    /// # Errors
    /// Why it might not.
    pub fn could_spend(&self, left: &Balance, client: &Client, now: SystemTime) -> Result<(), RefusalReason> {
        let config = self.config();
        self.inner.budgets.with(&left.identity, |queue| queue.admission.could(&config.budget, left, client, now))
    }

    /// Whether it is the turn of this ticket; then the pull is booked as in [`Limits::try_spend`].
    pub fn poll_queue(&self, left: &Balance, ticket: Ticket, client: &ClientKey, now: SystemTime) -> QueueStatus {
        let config = self.config();
        self.inner.budgets.with(&left.identity, |queue| queue.poll(&config.budget, left, ticket, client, now))
    }

    /// Gives a place in the queue back.
    pub fn leave_queue(&self, identity: &Identity, ticket: Ticket) {
        self.inner.budgets.with(identity, |queue| queue.leave(ticket));
    }

    /// Takes a booking back: the request was not sent, or upstream did not count it.
    pub fn refund_spend(&self, identity: &Identity, client: &ClientKey) {
        self.inner.budgets.with(identity, |queue| queue.admission.refund(client));
    }

    /// Books what the ledger remembers of an earlier process, oldest first.
    pub fn restore_spend(&self, identity: &Identity, client: &str, at: SystemTime) {
        let Ok(client) = client.parse::<ClientKey>();
        self.inner.budgets.with(identity, |queue| queue.admission.spend(&client, at));
    }

    /// Forgets what left an identity's window, for those who look without asking for a pull.
    pub fn expire_spends(&self, left: &Balance, now: SystemTime) {
        self.inner.budgets.with(&left.identity, |queue| queue.admission.look(left, now));
    }

    /// Remembers a pull that was held back.
    pub fn record_held(&self, pull: HeldPull) {
        lock(&self.inner.held).add(pull);
    }

    /// The newest pulls that were held back, oldest first; at most 4,096 are known.
    pub fn held_pulls(&self) -> Vec<HeldPull> {
        lock(&self.inner.held).all().cloned().collect()
    }

    /// What was kept of them by an earlier process, oldest first, as JSON. What cannot be read is skipped, and the number of such records
    /// is returned.
    pub fn restore_held(&self, records: &[Vec<u8>]) -> usize {
        let mut held = lock(&self.inner.held);
        let mut unreadable = 0;
        for record in records {
            match serde_json::from_slice(record) {
                Ok(pull) => held.add(pull),
                Err(_) => unreadable += 1,
            }
        }
        held.take_unkept();
        unreadable
    }

    /// Records of those that were added since the last call, or of all that are remembered, as JSON: what a journal is to be given.
    pub fn take_held(&self, all: bool) -> Vec<Vec<u8>> {
        let mut held = lock(&self.inner.held);
        let pulls = if all { held.take_all() } else { held.take_unkept() };
        pulls.iter().filter_map(|pull| serde_json::to_vec(pull).ok()).collect()
    }

    /// How many requests wait for a pull of this identity.
    pub fn waiting(&self, identity: &Identity) -> usize {
        self.inner.budgets.with(identity, |queue| queue.admission.waiting())
    }

    /// What clients spent of this identity within the window, the most first.
    pub fn spenders(&self, identity: &Identity) -> Vec<(ClientKey, u32)> {
        self.inner.budgets.with(identity, |queue| queue.admission.spenders())
    }
}
