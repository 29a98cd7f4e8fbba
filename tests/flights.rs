//! Schedules of the lookups that share a flight, explored by shuttle: the very source file of the mirror, over shuttle's locks
//! and tasks and a clock that the test moves. A lost wake is a deadlock, which shuttle reports with the schedule that led to it.

#[path = "../src/mirror/flight.rs"]
mod flight;
#[path = "../src/mirror/outcome.rs"]
#[expect(dead_code, reason = "a flight of one kind is explored, and no fill")]
mod outcome;

mod error {
    pub(super) use weir::mirror::Error;
}

mod metrics {
    use std::sync::Mutex;

    use super::outcome::{FlightKind, FlightOutcome};

    #[derive(Debug, Default)]
    pub(super) struct Metrics(Mutex<Vec<FlightOutcome>>);

    impl Metrics {
        pub(super) fn flight(&self, _: FlightKind, outcome: FlightOutcome) {
            self.0.lock().unwrap().push(outcome);
        }

        pub(super) fn joined(&self, _: FlightKind) {}

        pub(super) fn count(&self, outcome: FlightOutcome) -> usize {
            self.0.lock().unwrap().iter().filter(|counted| **counted == outcome).count()
        }
    }
}

mod sync {
    use std::{
        cell::RefCell,
        future::poll_fn,
        ops::Add,
        pin::pin,
        sync::Arc,
        task::{Poll, Waker},
        time::Duration,
    };

    use shuttle::sync::atomic::AtomicBool;
    pub(super) use shuttle::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    /// Where tasks run. Of those that wait while `vanishing` is true, one is dropped as by a panic.
    #[derive(Clone, Debug)]
    pub(super) struct Handle {
        pub(super) vanishing: Arc<AtomicBool>,
    }

    impl Handle {
        pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            let vanishing = self.vanishing.clone();
            drop(shuttle::future::spawn(async move {
                let mut task = Box::pin(task);
                let run = |cx: &mut std::task::Context<'_>| match task.as_mut().poll(cx) {
                    Poll::Pending if vanishing.swap(false, Ordering::SeqCst) => Poll::Ready(()),
                    polled => polled,
                };
                poll_fn(run).await;
            }));
        }
    }

    /// Seconds of a clock of this exploration, all of whose tasks have one thread.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) struct Instant(u64);

    thread_local!(static CLOCK: RefCell<(u64, Vec<Waker>)> = RefCell::default());

    /// Lets so much time go by; `None` begins anew.
    pub(super) fn pass(time: Option<Duration>) {
        let wakers = CLOCK.with_borrow_mut(|(now, wakers)| {
            *now = time.map_or(0, |time| *now + time.as_secs());
            std::mem::take(wakers)
        });
        wakers.into_iter().filter(|_| time.is_some()).for_each(Waker::wake);
    }

    impl Instant {
        pub(super) fn now() -> Instant {
            CLOCK.with_borrow(|(now, _)| Instant(*now))
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, time: Duration) -> Instant {
            Instant(self.0 + time.as_secs())
        }
    }

    pub(super) async fn timeout_at<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, ()> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending if Instant::now() >= deadline => Poll::Ready(Err(())),
            Poll::Pending => {
                CLOCK.with_borrow_mut(|(_, wakers)| wakers.push(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// What tokio's `watch` promises, as far as flights use it.
    pub(super) mod watch {
        use std::{future::poll_fn, sync::Arc, task::Poll};

        use shuttle::sync::{Mutex, MutexGuard};

        #[derive(Debug)]
        struct Shared<T> {
            value: T,
            closed: bool,
            wakers: Vec<std::task::Waker>,
        }

        #[derive(Debug)]
        pub(crate) struct Sender<T>(Arc<Mutex<Shared<T>>>);

        #[derive(Debug)]
        pub(crate) struct Receiver<T>(Arc<Mutex<Shared<T>>>);

        pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
            let shared = Arc::new(Mutex::new(Shared { value, closed: false, wakers: Vec::new() }));
            (Sender(shared.clone()), Receiver(shared))
        }

        fn change<T>(shared: &Mutex<Shared<T>>, change: impl FnOnce(&mut Shared<T>)) {
            let mut shared = shared.lock().unwrap();
            change(&mut shared);
            let wakers = std::mem::take(&mut shared.wakers);
            drop(shared);
            wakers.into_iter().for_each(std::task::Waker::wake);
        }

        impl<T> Sender<T> {
            pub(crate) fn send_replace(&self, value: T) {
                change(&self.0, |shared| shared.value = value);
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                change(&self.0, |shared| shared.closed = true);
            }
        }

        impl<T> Clone for Receiver<T> {
            fn clone(&self) -> Receiver<T> {
                Receiver(self.0.clone())
            }
        }

        /// The value, under the lock.
        pub(crate) struct Ref<'a, T>(MutexGuard<'a, Shared<T>>);

        impl<T> std::ops::Deref for Ref<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.0.value
            }
        }

        impl<T> Receiver<T> {
            pub(crate) fn has_changed(&self) -> Result<bool, ()> {
                if self.0.lock().unwrap().closed { Err(()) } else { Ok(true) }
            }

            pub(crate) fn borrow(&self) -> Ref<'_, T> {
                Ref(self.0.lock().unwrap())
            }
        }

        impl<T: Clone> Receiver<T> {
            pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<T, ()> {
                poll_fn(|cx| {
                    let mut shared = self.0.lock().unwrap();
                    match () {
                        () if wanted(&shared.value) => Poll::Ready(Ok(shared.value.clone())),
                        () if shared.closed => Poll::Ready(Err(())),
                        () => {
                            shared.wakers.push(cx.waker().clone());
                            Poll::Pending
                        }
                    }
                })
                .await
            }
        }
    }
}

use std::sync::Arc;

use shuttle::{
    future::{block_on, yield_now},
    sync::atomic::AtomicBool,
    thread,
};

use self::{
    error::Error,
    flight::{AGE_LIMIT, Flights},
    metrics::Metrics,
    outcome::{FlightKind, FlightOutcome},
    sync::{AtomicU32, Handle, Ordering, pass},
};

type Lookups = (Flights<u8, u32>, Arc<Metrics>, Arc<AtomicBool>);

fn lookups() -> Lookups {
    pass(None);
    let (metrics, vanishing) = (Arc::<Metrics>::default(), Arc::new(AtomicBool::new(false)));
    let handle = Handle { vanishing: vanishing.clone() };
    (Flights::new(FlightKind::manifest, metrics.clone(), handle), metrics, vanishing)
}

/// As many schedules as `WEIR_SCHEDULES` in the environment says.
fn explore(schedule: fn()) {
    let schedules = std::env::var("WEIR_SCHEDULES").ok().and_then(|number| number.parse().ok());
    shuttle::check_random(schedule, schedules.unwrap_or(1000));
}

/// Work that counts how often it was started, and gives the number.
async fn number(started: Arc<AtomicU32>, running: Arc<AtomicU32>) -> Result<u32, Error> {
    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two pieces of work for one key at once");
    let number = started.fetch_add(1, Ordering::SeqCst) + 1;
    yield_now().await;
    running.fetch_sub(1, Ordering::SeqCst);
    Ok(number)
}

/// A waiter that asks again at once never gets the outcome that it had: the key is free before an outcome is known.
#[test]
fn what_is_looked_up_again_is_never_answered_by_the_flight_that_ended() {
    explore(|| {
        let (flights, metrics, _) = lookups();
        let (started, running) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (flights, started, running) = (flights.clone(), started.clone(), running.clone());
                thread::spawn(move || {
                    let mut last = 0;
                    for _ in 0..2 {
                        let (started, running) = (started.clone(), running.clone());
                        let found = block_on(flights.join(1, AGE_LIMIT, |_| number(started, running))).unwrap();
                        assert!(found > last, "{found} was the outcome before, too");
                        last = found;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(metrics.count(FlightOutcome::done), started.load(Ordering::SeqCst) as usize);
    });
}

/// When a leader vanishes at whatever moment, one of its waiters leads; only the vanished one, alone, is without an answer.
#[test]
fn the_waiters_of_a_leader_that_vanishes_have_an_answer() {
    explore(|| {
        let (flights, metrics, vanishing) = lookups();
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let flights = flights.clone();
                let work = move |_| async move {
                    yield_now().await;
                    Ok(number)
                };
                thread::spawn(move || block_on(flights.join(1, AGE_LIMIT, work)))
            })
            .collect();
        vanishing.store(true, Ordering::SeqCst);
        let found: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let failed = found.iter().filter(|found| matches!(found, Err(Error::Internal))).count();
        assert!(failed <= metrics.count(FlightOutcome::vanished), "{found:?}");
        assert!(found.iter().filter(|found| found.is_ok()).count() >= 2, "{found:?}");
    });
}

/// Work that never ends keeps its waiters and its key no longer than the age limit, and is counted once.
#[test]
fn work_that_never_ends_frees_its_key_at_the_age_limit() {
    explore(|| {
        let (flights, metrics, _) = lookups();
        let hangs = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (flights, hangs) = (flights.clone(), hangs.clone());
                let work = move |_| async move {
                    if !hangs.swap(true, Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    Ok(7)
                };
                thread::spawn(move || block_on(flights.join(1, AGE_LIMIT, work)))
            })
            .collect();
        while !hangs.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        pass(Some(AGE_LIMIT));
        for thread in threads {
            let found = thread.join().unwrap();
            assert!(matches!(found, Ok(7) | Err(Error::UpstreamUnavailable { .. })), "{found:?}");
        }
        assert_eq!(block_on(flights.join(1, AGE_LIMIT, |_| async { Ok(8) })).unwrap(), 8);
        assert!(metrics.count(FlightOutcome::too_old) <= 1);
    });
}
