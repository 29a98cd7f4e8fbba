//! Flights on tokio; `tests/flights.rs` explores their schedules.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    error::Error,
    flight::{AGE_LIMIT, Flights},
    metrics::Metrics,
    outcome::{FlightKind, FlightOutcome},
};

fn flights() -> (Flights<u8, u32>, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    (Flights::new(FlightKind::manifest, metrics.clone(), Handle::current()), metrics)
}

#[tokio::test]
async fn many_lookups_share_one_flight_and_its_failure() {
    let (flights, _) = flights();
    let (go, gate) = oneshot::channel::<()>();
    let (started, mut starts) = mpsc::unbounded_channel();
    let leader = tokio::spawn({
        let (flights, started) = (flights.clone(), started.clone());
        async move {
            let work = |waiters: Arc<AtomicU32>| async move {
                started.send(()).unwrap();
                gate.await.unwrap();
                assert_eq!(waiters.load(Ordering::Relaxed), 50);
                Err(Error::BlobUnknown)
            };
            flights.join(1, AGE_LIMIT, work).await
        }
    });
    starts.recv().await.unwrap();
    let followers: Vec<_> = (0..50)
        .map(|_| {
            let flights = flights.clone();
            Box::pin(async move { flights.join(1, AGE_LIMIT, |_| async { panic!("started twice") }).await })
        })
        .collect();
    let mut followers = futures_util::future::join_all(followers);
    // One poll makes every follower join; then the leader may land.
    assert!(futures_util::poll!(&mut followers).is_pending());
    go.send(()).unwrap();
    assert!(followers.await.into_iter().all(|outcome| matches!(outcome, Err(Error::BlobUnknown))));
    assert!(matches!(leader.await.unwrap(), Err(Error::BlobUnknown)));
    assert_eq!(flights.join(1, AGE_LIMIT, |_| async { Ok(7) }).await.unwrap(), 7, "an outcome is not kept");
}

#[tokio::test]
async fn a_flight_goes_on_when_all_its_clients_have_left() {
    let (flights, _) = flights();
    let (go, gate) = oneshot::channel::<()>();
    let (done, finished) = oneshot::channel();
    let mut asked = Box::pin(flights.join(1, AGE_LIMIT, |_| async move {
        gate.await.unwrap();
        done.send(()).unwrap();
        Ok(1)
    }));
    assert!(futures_util::poll!(&mut asked).is_pending());
    drop(asked);
    go.send(()).unwrap();
    finished.await.unwrap();
}

#[tokio::test]
async fn a_waiter_takes_over_from_a_leader_that_panics() {
    let (flights, metrics) = flights();
    let (go, gate) = oneshot::channel::<()>();
    let mut leader = Box::pin(flights.join(1, AGE_LIMIT, |_| async move {
        gate.await.unwrap();
        panic!("the leader dies")
    }));
    assert!(futures_util::poll!(&mut leader).is_pending());
    let mut follower = Box::pin(flights.join(1, AGE_LIMIT, |_| async { Ok(2) }));
    assert!(futures_util::poll!(&mut follower).is_pending());
    go.send(()).unwrap();
    assert_eq!(follower.await.unwrap(), 2);
    assert!(matches!(leader.await, Err(Error::Internal)));
    assert_eq!(metrics.flights(FlightKind::manifest, FlightOutcome::vanished), 1);
}

/// A store call that never returns: its waiters get an error, the key is free, and what asks next works.
#[tokio::test]
async fn a_flight_that_never_ends_keeps_its_key_no_longer_than_the_age_limit() {
    let limit = Duration::from_millis(50);
    let (flights, metrics) = flights();
    let hung = || flights.join(1, limit, |_| std::future::pending());
    let (leader, follower) = tokio::join!(hung(), hung());
    for outcome in [leader, follower] {
        assert!(matches!(outcome, Err(Error::UpstreamUnavailable { .. })), "{outcome:?}");
    }
    assert_eq!(flights.join(1, AGE_LIMIT, |_| async { Ok(3) }).await.unwrap(), 3);
    assert_eq!(metrics.flights(FlightKind::manifest, FlightOutcome::too_old), 1, "a flight is counted once");
    assert_eq!(metrics.flights(FlightKind::manifest, FlightOutcome::done), 1);
}
