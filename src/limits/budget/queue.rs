//! Who waits for a pull: one first-come line per client, the clients in turn, the higher classes first. Bounded in length; how long a
//! request waits is its own to bound, and it leaves the queue then.

use std::collections::VecDeque;

use crate::client::{Class, ClientKey, OnExceed};

/// A request for a pull.
#[derive(Clone, Copy, Debug)]
pub struct SpendRequest<'a> {
    /// Who asks.
    pub client: &'a ClientKey,
    /// How much its pulls matter.
    pub class: Class,
    /// A hash of repository and reference: a client's retry of what it waits for already takes no second place.
    pub what: u64,
    /// Whether it waits at all.
    pub on_exceed: OnExceed,
    /// The right `budget_override`.
    pub overrides: bool,
    /// For a warm, what clients above bulk are expected to need until the window ends. A warm never waits in the queue.
    pub expected: Option<u64>,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Requests that may share one place.
const MAX_SHARED: usize = 64;

/// All who wait for one identity. A walk over it is bounded by its length.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// In the order of their turns; the client that was served last goes to the end.
    lines: VecDeque<ClientQueue>,
    next: u64,
}

#[derive(Clone, Debug)]
struct ClientQueue {
    client: ClientKey,
    class: Class,
    overrides: bool,
    waiting: VecDeque<Waiter>,
}

#[derive(Clone, Debug)]
struct Waiter {
    /// One for each request that wants the same: a client's retries share the place, and each gets its own turn.
    tickets: VecDeque<Ticket>,
    what: u64,
}

impl Queue {
    /// A place at the end of the client's line and how many come before it; the same place again for the same thing.
    ///
    /// # Errors
    /// When the client's line or the queue is full.
    pub fn enter(
        &mut self,
        ask: SpendRequest<'_>,
        per_client: usize,
        most: usize,
    ) -> Result<(Ticket, usize), QueueFull> {
        let len = self.len();
        let at = self.lines.iter().position(|line| line.client == *ask.client && line.class == ask.class);
        if let Some(line) = at.and_then(|at| self.lines.get_mut(at)) {
            if let Some(same) = line.waiting.iter_mut().find(|waiting| waiting.what == ask.what) {
                if same.tickets.len() >= MAX_SHARED {
                    return Err(QueueFull);
                }
                let ticket = Ticket(self.next);
                self.next += 1;
                same.tickets.push_back(ticket);
                return Ok((ticket, self.before(ticket)));
            }
            if line.waiting.len() >= per_client {
                return Err(QueueFull);
            }
        }
        if len >= most || per_client == 0 {
            return Err(QueueFull);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let waiting = Waiter { tickets: [ticket].into(), what: ask.what };
        match at.and_then(|at| self.lines.get_mut(at)) {
            Some(line) => line.waiting.push_back(waiting),
            None => self.lines.push_back(ClientQueue {
                client: ask.client.clone(),
                class: ask.class,
                overrides: ask.overrides,
                waiting: [waiting].into(),
            }),
        }
        Ok((ticket, self.before(ticket)))
    }

    /// Takes out the first whom `may` lets spend: of the highest class, the client whose turn it is, its oldest request. That client's next turn
    /// comes after that of all others.
    pub fn next(&mut self, may: impl Fn(&ClientKey, Class, bool) -> bool) -> Option<Ticket> {
        let mut order: Vec<usize> = (0..self.lines.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.lines[*at].class));
        let at = order.into_iter().find(|at| {
            let line = &self.lines[*at];
            may(&line.client, line.class, line.overrides)
        })?;
        let mut line = self.lines.remove(at)?;
        let first = line.waiting.front_mut()?;
        let ticket = first.tickets.pop_front()?;
        if first.tickets.is_empty() {
            line.waiting.pop_front();
        }
        if !line.waiting.is_empty() {
            self.lines.push_back(line);
        }
        Some(ticket)
    }

    /// The request with this ticket is gone; with the last one on a place the place is free.
    pub fn leave(&mut self, ticket: Ticket) {
        for line in &mut self.lines {
            line.waiting.iter_mut().for_each(|waiting| waiting.tickets.retain(|other| *other != ticket));
            line.waiting.retain(|waiting| !waiting.tickets.is_empty());
        }
        self.lines.retain(|line| !line.waiting.is_empty());
    }

    /// Places taken.
    pub fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a client of this class or a higher one waits.
    pub fn holds(&self, class: Class) -> bool {
        self.lines.iter().any(|line| line.class >= class)
    }

    /// How many come before, if no other came any more.
    fn before(&self, ticket: Ticket) -> usize {
        let place = |line: &ClientQueue| line.waiting.iter().position(|waiting| waiting.tickets.contains(&ticket));
        let Some((own, round)) = self.lines.iter().enumerate().find_map(|(at, line)| Some((at, place(line)?))) else {
            return 0;
        };
        let ahead = |(at, line): (usize, &ClientQueue)| match line.class.cmp(&self.lines[own].class) {
            std::cmp::Ordering::Greater => line.waiting.len(),
            std::cmp::Ordering::Less => 0,
            // A turn for each line in each round; those later in the order are a round behind.
            std::cmp::Ordering::Equal if at == own => round,
            std::cmp::Ordering::Equal => line.waiting.len().min(round + usize::from(at < own)),
        };
        self.lines.iter().enumerate().map(ahead).sum()
    }
}
