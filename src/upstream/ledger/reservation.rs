//! A pull that is paid for: refunded, or spent, when it drops.

use std::sync::Arc;

use super::{Exhausted, Ledger, Purpose, Stamp};
use crate::upstream::{Identity, ratelimit::RateLimit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Unsent,
    Sent,
    Answered(Option<i64>),
}

/// A pull that is paid for and not sent yet. Dropping it unsent refunds it; once sent, dropping it writes the entry.
#[derive(Debug)]
pub struct Reservation {
    pub(super) ledger: Ledger,
    pub(super) number: u64,
    pub(super) identity: Identity,
    pub(super) purpose: Purpose,
    pub(super) progress: Progress,
}

impl Reservation {
    /// Who pays.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The request is on its way, or may be: from now on it is spent.
    pub(crate) fn sent(&mut self) {
        if self.progress == Progress::Unsent {
            self.progress = Progress::Sent;
        }
    }

    /// It is certain that it costs nothing, since not a byte of it left or nothing was served: a drop refunds it again.
    pub(crate) fn unsent(&mut self) {
        if self.progress == Progress::Sent {
            self.progress = Progress::Unsent;
        }
    }

    /// The headers of the answer to a request stamped `stamp` are here, and what they say is reconciled as by
    /// [`Ledger::observe`].
    pub(crate) fn answered(&mut self, stamp: Stamp, reading: Option<RateLimit>) {
        self.ledger.reconcile(&self.identity, self.progress == Progress::Sent, stamp, reading);
        self.progress = Progress::Answered(reading.and_then(|reading| reading.remaining));
    }

    /// Pays for sending it once more. Nothing to do when it was not sent.
    pub(crate) async fn again(&mut self) -> Result<(), Exhausted> {
        if self.progress != Progress::Unsent {
            // Whether this one is refunded says nothing of the one before, which is spent.
            let purpose = Purpose { refunded: Arc::default(), ..self.purpose.clone() };
            *self = self.ledger.reserve(&self.identity, purpose).await?;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.settle(self.number, self.progress, &self.purpose);
    }
}
