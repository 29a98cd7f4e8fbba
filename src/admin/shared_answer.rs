//! An answer that is the same for all who ask within a while: it is made once, however many ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// When an answer was made, and the answer; `None` before the first.
type Slot<T> = Arc<Mutex<Option<(Instant, T)>>>;

/// The last answer of each kind, of which there are few. Who waits for one kind keeps no one from another.
pub(super) struct SharedAnswers<T>(StdMutex<HashMap<&'static str, Slot<T>>>);

impl<T> Default for SharedAnswers<T> {
    fn default() -> SharedAnswers<T> {
        SharedAnswers(StdMutex::default())
    }
}

impl<T: Clone> SharedAnswers<T> {
    /// The last answer of the kind when it is younger than `lasts`, and else what `make` gives. Who asks meanwhile waits for that one; who
    /// leaves while it is made lets the next in.
    pub(super) async fn get(&self, kind: &'static str, lasts: Duration, make: impl Future<Output = T>) -> T {
        let slot = self.slot(kind);
        let mut last = slot.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < lasts) {
            return answer.clone();
        }
        let answer = make.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    /// An answer that was made for another purpose.
    pub(super) async fn put(&self, kind: &'static str, answer: T) {
        *self.slot(kind).lock().await = Some((Instant::now(), answer));
    }

    /// The lock of all kinds is held for a look-up, never across an await.
    fn slot(&self, kind: &'static str) -> Slot<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::{FutureExt, future};
    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_hundred_who_ask_at_once_have_one_answer_and_it_is_made_again_when_it_is_old() {
        let (answers, made, may_end) = (SharedAnswers::default(), AtomicU32::new(0), Semaphore::new(0));
        let ask = |kind, lasts| {
            answers.get(kind, lasts, async {
                let _ = may_end.acquire().await;
                made.fetch_add(1, Ordering::Relaxed)
            })
        };
        let all = future::join_all((0..100).map(|_| ask("en", LONG)));
        let (all, ()) = future::join(all, async { may_end.add_permits(1) }).await;
        assert_eq!((all, made.load(Ordering::Relaxed)), (vec![0; 100], 1));
        assert_eq!([ask("de", LONG).await, ask("en", LONG).await, ask("en", Duration::ZERO).await], [1, 0, 2]);
        answers.put("en", 9).await;
        assert_eq!([ask("en", LONG).await, ask("de", LONG).await], [9, 1]);
    }

    #[tokio::test]
    async fn an_answer_that_takes_long_keeps_no_one_from_one_of_another_kind() {
        let answers = SharedAnswers::default();
        let mut slow = Box::pin(answers.get("en", LONG, future::pending::<u32>()));
        assert_eq!((&mut slow).now_or_never(), None);
        assert_eq!(answers.get("de", LONG, future::ready(7)).now_or_never(), Some(7));
        assert_eq!(answers.put("de", 8).now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn who_leaves_while_an_answer_is_made_leaves_no_one_waiting() {
        let answers = SharedAnswers::default();
        assert_eq!(answers.get("en", LONG, future::pending::<u32>()).now_or_never(), None);
        assert_eq!(answers.get("en", LONG, future::ready(7)).await, 7);
    }
}
