//! What the service of a request and the connection under it both know.

use std::cell::{Cell, RefCell};

use super::{body_length::BodyLength, sendfile::Transfer};
use crate::http::peer::Peer;

/// How far the connection is with the request that it read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is under way: the next head may be read.
    Idle,
    /// The service works on it, or its response is being sent.
    Answering,
    /// Its response is complete, and not yet flushed.
    Flushing,
}

/// How far the body of that request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyState {
    /// It has none, or all of it was read.
    Read,
    /// It has one, of which nothing is read unless the service wants it.
    Unread,
    /// The service reads it, up to its end.
    Reading(BodyLength),
}

/// One for each connection; a connection never leaves its worker.
pub(crate) struct ConnectionState {
    /// The other end.
    pub(crate) peer: Peer,
    phase: Cell<Phase>,
    body: Cell<BodyState>,
    /// `poll_read` has returned `Pending` without a waker, because of the phase.
    read_refused: Cell<bool>,
    transfer: RefCell<Option<Transfer>>,
    sent: Cell<u64>,
}

impl ConnectionState {
    pub(crate) fn new(peer: Peer) -> ConnectionState {
        ConnectionState {
            peer,
            phase: Cell::new(Phase::Idle),
            body: Cell::new(BodyState::Read),
            read_refused: Cell::new(false),
            transfer: RefCell::new(None),
            sent: Cell::new(0),
        }
    }

    /// A request begins, with a body or without: nothing more is read until its response is complete and flushed.
    pub(crate) fn begin(&self, has_body: bool) {
        self.phase.set(Phase::Answering);
        self.body.set(if has_body { BodyState::Unread } else { BodyState::Read });
        self.sent.set(0);
    }

    /// Its response is complete, or will never be.
    pub(crate) fn end(&self) {
        self.phase.set(Phase::Flushing);
        if let BodyState::Reading(length) = self.body.get() {
            self.body.set(if length.is_over() { BodyState::Read } else { BodyState::Unread });
        }
        self.transfer.borrow_mut().take();
    }

    /// The service reads the body of this request.
    pub(crate) fn read_body(&self, length: BodyLength) {
        self.body.set(BodyState::Reading(length));
    }

    /// Hands over the body of a response, to be sent once the head is out.
    pub(crate) fn send(&self, transfer: Transfer) {
        *self.transfer.borrow_mut() = Some(transfer);
    }

    /// Whether what was handed over is still being sent.
    pub(crate) fn is_sending(&self) -> bool {
        self.transfer.borrow().is_some()
    }

    /// Bytes of the transfer of this request that are with the kernel.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// All that was written for the request is with the kernel. Whether a read was refused meanwhile.
    pub(super) fn flushed(&self) -> bool {
        self.phase.set(Phase::Idle);
        self.read_refused.replace(false)
    }

    pub(super) fn body(&self) -> BodyState {
        self.body.get()
    }

    pub(super) fn set_body(&self, body: BodyState) {
        self.body.set(body);
    }

    /// Whether bytes of a body may follow where the next head is expected.
    pub(super) fn has_unread_body(&self) -> bool {
        match self.body.get() {
            BodyState::Read => false,
            BodyState::Unread => true,
            BodyState::Reading(length) => !length.is_over(),
        }
    }

    pub(super) fn refuse_read(&self, owed: bool) {
        self.read_refused.set(owed);
    }

    pub(super) fn transfer(&self) -> &RefCell<Option<Transfer>> {
        &self.transfer
    }

    pub(super) fn add_sent(&self, count: u64) {
        self.sent.set(self.sent.get() + count);
    }
}
