//! One identity's budget: who spent how much in the window, and who waits.

use std::time::{Duration, SystemTime};

use super::{
    policy::{Policy, RefusalReason, Spender},
    queue::{Queue, QueueFull, SpendRequest, Ticket},
    spend_log::SpendLog,
};
use crate::{
    client::{Class, Client, ClientKey, OnExceed},
    upstream::ledger::Balance,
};

/// What to do about a counted request.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetDecision {
    /// Reserve it and send it.
    Spend,
    /// Wait for one's turn, no longer than [`Policy::queue_max_wait`].
    Wait {
        /// Held while waiting; [`Admission::leave`] gives the place back.
        ticket: Ticket,
        /// How many come before.
        position: usize,
    },
    /// Say no.
    Refuse {
        /// At least a second.
        retry_after: Duration,
        /// For the message.
        why: RefusalReason,
    },
}

/// The state of one identity's budget: who spent, and who waits. Bounded by the policy.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    spent: SpendLog,
    queue: Queue,
}

impl Admission {
    /// Decides for one request. After [`BudgetDecision::Spend`] and a reservation comes [`Admission::spend`].
    pub fn ask(&mut self, policy: &Policy, left: &Balance, ask: SpendRequest<'_>, now: SystemTime) -> BudgetDecision {
        self.age(left, now);
        let spender = Spender { expected: ask.expected, ..self.spender(ask.client, ask.class, ask.overrides) };
        let judged = policy.decide(left, &spender, now);
        // No client overtakes one of the same or a higher class that waits, or the queue would never move.
        let first = left.remaining.is_none() || ask.overrides || !self.queue.holds(ask.class);
        let (why, wait) = match judged {
            Ok(()) if first => return BudgetDecision::Spend,
            Ok(()) => (RefusalReason::Exhausted, Duration::ZERO),
            Err(refused) => refused,
        };
        let retry_after = wait.max(Duration::from_secs(1));
        if ask.on_exceed != OnExceed::Queue || ask.expected.is_some() || wait > policy.queue_max_wait {
            return BudgetDecision::Refuse { retry_after, why };
        }
        match self.queue.enter(ask, policy.queue_per_client, policy.queue) {
            Ok((ticket, position)) => BudgetDecision::Wait { ticket, position },
            Err(QueueFull) => BudgetDecision::Refuse { retry_after, why: RefusalReason::QueueFull },
        }
    }

    /// Whether this client might spend now; it is not queued.
    ///
    /// # Errors
    /// Why it might not.
    pub fn could(
        &mut self,
        policy: &Policy,
        left: &Balance,
        client: &Client,
        now: SystemTime,
    ) -> Result<(), RefusalReason> {
        self.age(left, now);
        let spender = self.spender(&client.key, client.class, client.overrides);
        policy.decide(left, &spender, now).map_err(|(why, _)| why)
    }

    /// Whose turn it is: the first who may spend now, who leaves the queue by it. Ask again until there is none.
    pub fn turn(&mut self, policy: &Policy, left: &Balance, now: SystemTime) -> Option<Ticket> {
        self.age(left, now);
        let spent = &self.spent;
        self.queue.next(|client, class, overrides| {
            let spender = spender(spent, client, class, overrides);
            policy.decide(left, &spender, now).is_ok()
        })
    }

    /// Gives a place back: its client left, or has waited long enough.
    pub fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// Charges a pull to the client that came first; the clients that joined it pay nothing.
    pub fn spend(&mut self, client: &ClientKey, now: SystemTime) {
        self.spent.add(client, now);
    }

    /// Takes the newest pull of this client back: it was not sent, or not counted.
    pub fn refund(&mut self, client: &ClientKey) {
        self.spent.remove(client);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What this client spent in the window.
    pub fn spent_by(&self, client: &ClientKey) -> u32 {
        self.spent.of(client)
    }

    /// What each client spent in the window, the most first.
    pub fn spenders(&self) -> Vec<(ClientKey, u32)> {
        self.spent.all()
    }

    fn spender(&self, client: &ClientKey, class: Class, overrides: bool) -> Spender {
        spender(&self.spent, client, class, overrides)
    }

    /// Forgets what left the window, for those who look without asking.
    pub fn look(&mut self, left: &Balance, now: SystemTime) {
        self.age(left, now);
    }

    fn age(&mut self, left: &Balance, now: SystemTime) {
        self.spent.age(left.window.unwrap_or(SpendLog::WINDOW), now);
    }
}

fn spender(spent: &SpendLog, client: &ClientKey, class: Class, overrides: bool) -> Spender {
    let overrides = overrides || class == Class::Exempt;
    Spender {
        class,
        overrides,
        spent: spent.of(client),
        frees_at: spent.frees_at(client),
        others: spent.others(client),
        warmed: spent.warmed(),
        expected: None,
    }
}
