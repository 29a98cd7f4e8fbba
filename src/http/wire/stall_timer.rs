//! A timer for waiting that must not go on for too long.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Is armed when waiting begins and disarmed when something happens.
pub(super) struct StallTimer {
    patience: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl StallTimer {
    pub(super) fn new(patience: Duration) -> StallTimer {
        StallTimer { patience, sleep: None, armed: false }
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    /// Waiting goes on.
    ///
    /// # Errors
    /// `TimedOut` when it has gone on for too long.
    pub(super) fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        if !self.armed {
            self.armed = true;
            sleep.as_mut().reset(Instant::now() + self.patience);
        }
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}
