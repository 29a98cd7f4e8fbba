//! Gates: a request waits at one until the test says go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::fault::{Asked, Match};

/// Holds every matching request before its answer begins, until it is opened or dropped.
#[derive(Debug)]
pub struct Gate {
    state: Arc<Held>,
    patience: Duration,
}

#[derive(Debug)]
struct Held {
    on: Match,
    /// How many requests ever waited here, and whether it is open.
    seen: watch::Sender<(u64, bool)>,
}

impl Gate {
    /// Waits until a request is held; false when none came within [`Settings::patience`](super::Settings::patience).
    pub async fn started(&self) -> bool {
        self.held(1).await
    }

    /// Waits until so many requests, in all, have come to the gate.
    pub async fn held(&self, count: u64) -> bool {
        let mut seen = self.state.seen.subscribe();
        let reached = seen.wait_for(|(held, _)| *held >= count);
        tokio::time::timeout(self.patience, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// How many requests, in all, have come to the gate.
    pub fn count(&self) -> u64 {
        self.state.seen.borrow().0
    }

    /// Lets those that wait go on, and all that come later.
    pub fn open(&self) {
        self.state.seen.send_modify(|(_, open)| *open = true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// The gates that stand.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<Vec<Arc<Held>>>);

impl Gates {
    pub(super) fn hold(&self, on: Match, patience: Duration) -> Gate {
        let state = Arc::new(Held { on, seen: watch::Sender::new((0, false)) });
        let mut posts = self.0.lock().unwrap();
        posts.retain(|post| !post.seen.borrow().1);
        posts.push(Arc::clone(&state));
        Gate { state, patience }
    }

    /// Waits at the first closed gate that holds this request. Cheap when there is none.
    pub(super) async fn pass(&self, asked: Asked<'_>) {
        let post = {
            let posts = self.0.lock().unwrap();
            posts.iter().find(|post| post.on.holds(asked) && !post.seen.borrow().1).cloned()
        };
        let Some(post) = post else { return };
        let mut seen = post.seen.subscribe();
        post.seen.send_modify(|(held, _)| *held += 1);
        // The sender lives in `post`, so this ends only when the gate opens.
        let _ = seen.wait_for(|(_, open)| *open).await;
    }
}
