//! The claims of the ledger's essay.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::client::Class;

const WINDOW: Duration = Duration::from_secs(21_600);

/// A journal in memory that can fail and counts its writes.
#[derive(Default)]
struct Journal {
    records: Mutex<Vec<Vec<u8>>>,
    appends: AtomicUsize,
    compactions: AtomicUsize,
    full: AtomicBool,
}

impl Journal {
    fn replay(&self) -> Vec<Bytes> {
        self.records.lock().unwrap().iter().cloned().map(Bytes::from).collect()
    }

    fn full(&self) -> Result<(), String> {
        if self.full.load(Ordering::Relaxed) { Err("no room".into()) } else { Ok(()) }
    }
}

/// What [`LedgerStore`] needs is an owner that outlives the futures.
struct Shared(Arc<Journal>);

impl LedgerStore for Shared {
    fn append_all(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        Box::pin(async move {
            // A disk takes its time.
            tokio::task::yield_now().await;
            journal.full()?;
            journal.records.lock().unwrap().extend(records);
            journal.appends.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn compact(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        Box::pin(async move {
            journal.full()?;
            journal.compactions.fetch_add(1, Ordering::Relaxed);
            *journal.records.lock().unwrap() = records;
            Ok(())
        })
    }
}

fn open(journal: &Arc<Journal>) -> Ledger {
    Ledger::new(journal.replay(), Arc::new(Shared(journal.clone())))
}

fn who() -> Identity {
    Identity { upstream: "docker.io".into(), account: None }
}

fn purpose() -> Purpose {
    Purpose {
        repository: "library/busybox".parse().unwrap(),
        reference: "latest".parse().unwrap(),
        tag: None,
        client: "10.0.0.7".into(),
        class: Class::Standard,
        reason: Reason::Cold,
        waiters: Arc::new(AtomicU32::new(0)),
    }
}

fn said(remaining: i64) -> RateLimit {
    RateLimit { limit: Some(100), remaining: Some(remaining), window: Some(WINDOW) }
}

/// Asks and is answered with nothing in between.
fn observe(ledger: &Ledger, remaining: i64) {
    ledger.observe(&who(), ledger.stamp(&who()), said(remaining));
}

/// A balance says when it was asked, by its version, which no other ledger shares.
fn left(ledger: &Ledger) -> Balance {
    Balance { version: 0, ..ledger.balance(&who(), SystemTime::now()) }
}

async fn spend(ledger: &Ledger, remaining: Option<i64>) {
    let mut reservation = ledger.reserve(&who(), purpose()).await.unwrap();
    let stamp = ledger.stamp(&who());
    reservation.sent();
    reservation.answered(stamp, remaining.map(said));
}

#[tokio::test]
async fn an_identity_is_unmetered_until_upstream_says_otherwise() {
    let ledger = Ledger::unkept();
    for _ in 0..200 {
        spend(&ledger, None).await;
    }
    assert_eq!((left(&ledger).limit, left(&ledger).remaining, left(&ledger).spent), (None, None, 200));
    observe(&ledger, -2);
    assert_eq!(left(&ledger).remaining, Some(-2));
    assert!(ledger.reserve(&who(), purpose()).await.is_err());
}

#[tokio::test]
async fn of_many_who_reserve_the_last_pull_one_gets_it() {
    let ledger = Ledger::unkept();
    observe(&ledger, 1);
    let asks = (0..50).map(|_| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.reserve(&who(), purpose()).await })
    });
    let mut got = Vec::new();
    for ask in asks.collect::<Vec<_>>() {
        got.extend(ask.await.unwrap());
    }
    assert_eq!(got.len(), 1);
    let refused = ledger.reserve(&who(), purpose()).await.unwrap_err();
    assert!(refused.retry_after > Duration::from_secs(21_000), "{refused:?}");
}

#[tokio::test]
async fn a_decision_on_more_than_is_left_by_now_is_made_again() {
    let ledger = Ledger::unkept();
    let unmetered = ledger.balance(&who(), SystemTime::now());
    let _first = ledger.reserve(&who(), purpose()).await.unwrap();
    let spent = ledger.try_spend(&who(), unmetered.version, purpose()).await;
    assert!(matches!(spent, Attempt::Spent(_)), "where nothing is metered no decision can be out of date: {spent:?}");
    drop(spent);
    observe(&ledger, 3);
    let decided_on = ledger.balance(&who(), SystemTime::now());
    let other = ledger.reserve(&who(), purpose()).await.unwrap();
    let Attempt::Changed(changed) = ledger.try_spend(&who(), decided_on.version, purpose()).await else { panic!() };
    assert_eq!(changed.remaining, decided_on.remaining.map(|remaining| remaining - 1));
    drop(other);
    let spent = ledger.try_spend(&who(), changed.version, purpose()).await;
    assert!(matches!(spent, Attempt::Spent(_)), "more is left than was decided on: {spent:?}");
}

#[tokio::test]
async fn a_reservation_that_is_dropped_unsent_is_refunded() {
    let ledger = Ledger::unkept();
    observe(&ledger, 1);
    drop(ledger.reserve(&who(), purpose()).await.unwrap());
    let mut broken = ledger.reserve(&who(), purpose()).await.unwrap();
    broken.sent();
    broken.unsent();
    drop(broken);
    assert_eq!((left(&ledger).remaining, left(&ledger).spent, ledger.spends(9).len()), (Some(1), 0, 0));
}

#[tokio::test]
async fn reservations_made_while_one_is_written_share_the_next_write() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    // The first poll of each makes its record; the first of all writes, the others wait for that.
    let reservations = futures_util::future::join_all((0..50).map(|_| {
        let ledger = ledger.clone();
        async move { ledger.reserve(&who(), purpose()).await }
    }))
    .await;
    assert!(reservations.iter().all(Result::is_ok));
    assert_eq!((journal.records.lock().unwrap().len(), journal.appends.load(Ordering::Relaxed)), (50, 2));
}

#[tokio::test]
async fn a_caller_that_leaves_while_the_disk_is_slow_is_refunded() {
    let keep = |_: Vec<Vec<u8>>| -> WriteFuture { Box::pin(std::future::pending()) };
    let ledger = Ledger::new(Vec::new(), Arc::new(keep));
    observe(&ledger, 1);
    let identity = who();
    let mut reserve = Box::pin(ledger.reserve(&identity, purpose()));
    assert!(futures_util::poll!(&mut reserve).is_pending());
    assert_eq!(left(&ledger).remaining, Some(0));
    drop(reserve);
    assert_eq!(left(&ledger).remaining, Some(1));
}

#[tokio::test]
async fn a_reservation_is_on_disk_before_it_is_given() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    let reservation = ledger.reserve(&who(), purpose()).await.unwrap();
    assert_eq!(journal.replay().len(), 1);
    drop(reservation);
}

#[tokio::test]
async fn what_was_reserved_when_the_process_was_killed_is_spent() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    observe(&ledger, 50);
    let reservation = ledger.reserve(&who(), purpose()).await.unwrap();
    let restarted = open(&journal);
    assert_eq!((left(&restarted).spent, left(&restarted).remaining), (1, Some(50)));
    assert_eq!(restarted.spends(9).len(), 1);
    // Nor is it external spend when upstream says that it counted.
    observe(&restarted, 49);
    assert_eq!(left(&restarted).external, 0);
    restarted.persist().await;
    drop(reservation);
    assert_eq!(left(&open(&journal)).spent, 1);
}

#[tokio::test]
async fn a_restart_knows_what_was_spent_and_what_is_left() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    spend(&ledger, Some(99)).await;
    spend(&ledger, Some(98)).await;
    observe(&ledger, 90);
    ledger.persist().await;
    let restarted = open(&journal);
    assert_eq!(left(&restarted), Balance { next_at: left(&restarted).next_at, ..left(&ledger) });
    assert_eq!((left(&restarted).spent, left(&restarted).external, left(&restarted).remaining), (2, 8, Some(90)));
    assert_eq!(restarted.identities(), [who()]);
    let kept = Ledger::new(restarted.snapshot().into_iter().map(Bytes::from).collect(), Arc::new(Shared(journal)));
    assert_eq!(left(&kept), left(&restarted));
    assert_eq!(kept.spends(9).len(), 2);
}

#[tokio::test]
async fn what_is_in_flight_is_taken_off_and_the_newest_answer_wins() {
    let ledger = Ledger::unkept();
    observe(&ledger, 10);
    let mut first = ledger.reserve(&who(), purpose()).await.unwrap();
    assert_eq!(left(&ledger).remaining, Some(9));
    let stamp = ledger.stamp(&who());
    first.sent();
    first.answered(stamp, Some(said(9)));
    drop(first);
    assert_eq!((left(&ledger).remaining, left(&ledger).external), (Some(9), 0));
    observe(&ledger, 30);
    assert_eq!(left(&ledger).remaining, Some(30), "upward, too");
}

#[tokio::test]
async fn of_answers_that_crossed_the_lower_one_holds() {
    let ledger = Ledger::unkept();
    observe(&ledger, 10);
    let mut both = [ledger.reserve(&who(), purpose()).await.unwrap(), ledger.reserve(&who(), purpose()).await.unwrap()];
    let stamp = ledger.stamp(&who());
    for (reservation, remaining) in both.iter_mut().zip([8, 9]) {
        reservation.sent();
        reservation.answered(stamp, Some(said(remaining)));
    }
    assert_eq!((left(&ledger).remaining, left(&ledger).external), (Some(8), 0));
    observe(&ledger, 9);
    assert_eq!(left(&ledger).remaining, Some(9));
}

/// An answer ends what was in flight and says what is left in one step; a request in between would count it twice or never.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_ends_while_others_ask_is_neither_external_nor_spent_twice() {
    const PULLS: i64 = 8_000;
    let ledger = Ledger::unkept();
    let hub = Arc::new(std::sync::atomic::AtomicI64::new(PULLS));
    let said = |remaining: i64| RateLimit { limit: Some(PULLS), remaining: Some(remaining), window: Some(WINDOW) };
    ledger.observe(&who(), ledger.stamp(&who()), said(PULLS));
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (ledger, hub) = (ledger.clone(), hub.clone());
        askers.spawn(async move {
            while let Ok(mut reservation) = ledger.reserve(&who(), purpose()).await {
                let stamp = ledger.stamp(&who());
                reservation.sent();
                let remaining = hub.fetch_sub(1, Ordering::SeqCst) - 1;
                reservation.answered(stamp, Some(said(remaining)));
                drop(reservation);
                let stamp = ledger.stamp(&who());
                ledger.observe(&who(), stamp, said(hub.load(Ordering::SeqCst)));
            }
        });
    }
    askers.join_all().await;
    let left = left(&ledger);
    assert_eq!((left.external, left.spent, left.remaining), (0, 8_000, Some(0)));
    assert_eq!(hub.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_drop_that_nothing_of_ours_explains_is_external() {
    let ledger = Ledger::unkept();
    observe(&ledger, 80);
    assert_eq!(left(&ledger).external, 0, "what was out before we came is no drop");
    spend(&ledger, Some(74)).await;
    assert_eq!((left(&ledger).external, left(&ledger).spent), (5, 1));
    observe(&ledger, 74);
    observe(&ledger, 71);
    assert_eq!(left(&ledger).external, 8);
    // An answer from before a rise is lower for that reason alone.
    let old = ledger.stamp(&who());
    observe(&ledger, 90);
    ledger.observe(&who(), old, said(71));
    assert_eq!(left(&ledger).external, 8);
}

#[tokio::test]
async fn the_pull_limit_holds_until_the_forecast_or_a_better_answer() {
    let ledger = Ledger::unkept();
    observe(&ledger, 3);
    let wait = ledger.exhausted(&who(), None);
    assert!(wait > WINDOW - Duration::from_secs(5) && wait <= WINDOW);
    assert_eq!(left(&ledger).remaining, Some(0));
    assert!(ledger.reserve(&who(), purpose()).await.is_err());
    observe(&ledger, 5);
    assert!(ledger.reserve(&who(), purpose()).await.is_ok());
    assert_eq!(ledger.exhausted(&who(), Some(Duration::from_secs(7))).as_secs(), 7);
    let soon = SystemTime::now() + Duration::from_secs(8);
    assert_eq!(ledger.balance(&who(), soon).remaining, Some(1), "one may try");
}

#[tokio::test]
async fn a_refusal_of_an_upstream_that_never_said_a_limit_passes() {
    let ledger = Ledger::unkept();
    ledger.exhausted(&who(), None);
    assert_eq!((left(&ledger).limit, left(&ledger).remaining), (None, Some(0)));
    let later = SystemTime::now() + Duration::from_secs(61);
    assert_eq!(ledger.balance(&who(), later).remaining, None);
}

#[test]
fn the_sliding_log_forecasts_what_comes_back() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut account = Account::default();
    for (time, remaining) in [(0, 99), (600, 98)] {
        account.reserve(at(time));
        account.answered();
        account.observe(account.version(), said(remaining), at(time));
    }
    // Half a window later others have spent all but ten.
    account.observe(account.version(), said(10), at(10_000));
    let left = |seconds| account.balance(&who(), at(seconds));
    assert_eq!((left(10_000).remaining, left(10_000).spent, left(10_000).external), (Some(10), 2, 88));
    assert_eq!(left(10_000).next_at, Some(at(21_600)));
    assert_eq!((left(21_600).remaining, left(21_600).next_at), (Some(11), Some(at(22_200))));
    assert_eq!((left(22_200).remaining, left(22_200).next_at), (Some(12), Some(at(31_600))));
    assert_eq!((left(31_600).remaining, left(31_600).next_at, left(31_600).external), (Some(100), None, 0));
}

#[tokio::test]
async fn waiters_that_join_during_the_body_are_counted() {
    let ledger = Ledger::unkept();
    let purpose = purpose();
    let waiters = purpose.waiters.clone();
    let mut reservation = ledger.reserve(&who(), purpose).await.unwrap();
    reservation.sent();
    reservation.answered(ledger.stamp(&who()), Some(said(7)));
    waiters.store(41, Ordering::Relaxed);
    drop(reservation);
    let spend = &ledger.spends(1)[0];
    assert_eq!((spend.waiters, spend.remaining, &*spend.identity), (41, Some(7), "anonymous"));
    let repository = "library/busybox".parse().unwrap();
    assert_eq!(ledger.explain(&repository, Some(&["latest".into()])).len(), 1);
    assert_eq!(ledger.explain(&repository, Some(&["1.36".into()])).len(), 0);
    assert_eq!(ledger.explain(&"other".parse().unwrap(), None).len(), 0);
}

#[tokio::test]
async fn a_full_disk_stops_no_pull_and_is_made_good_afterwards() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    journal.full.store(true, Ordering::Relaxed);
    spend(&ledger, Some(99)).await;
    spend(&ledger, Some(98)).await;
    ledger.persist().await;
    assert_eq!(journal.replay().len(), 0);
    journal.full.store(false, Ordering::Relaxed);
    spend(&ledger, Some(97)).await;
    ledger.persist().await;
    assert_eq!(journal.compactions.load(Ordering::Relaxed), 1);
    assert_eq!(left(&open(&journal)).spent, 3);
}

#[tokio::test]
async fn a_long_journal_is_compacted_and_loses_nothing() {
    let journal = Arc::new(Journal::default());
    *journal.records.lock().unwrap() = vec![b"{}".to_vec(); LONG_JOURNAL - 10];
    let ledger = open(&journal);
    for _ in 0..20 {
        spend(&ledger, None).await;
    }
    ledger.persist().await;
    assert_eq!(journal.compactions.load(Ordering::Relaxed), 1);
    assert!(journal.replay().len() <= 3 * 20);
    assert_eq!(open(&journal).spends(usize::MAX).len(), 20);
}

#[test]
fn a_journal_of_rubbish_is_an_empty_one() {
    let records = ["", "{}", "null", r#"{"event":"later","x":1}"#, "\u{0}"].map(Bytes::from);
    let ledger = Ledger::new(
        records.to_vec(),
        Arc::new(|_: Vec<Vec<u8>>| -> WriteFuture { Box::pin(std::future::ready(Ok(()))) }),
    );
    assert_eq!(ledger.identities(), []);
}

#[tokio::test]
async fn memory_holds_the_newest_spends_only() {
    let ledger = Ledger::unkept();
    for _ in 0..NEWEST + 5 {
        spend(&ledger, None).await;
    }
    assert_eq!((ledger.spends(usize::MAX).len(), left(&ledger).spent), (NEWEST, NEWEST as u64 + 5));
}

/// Left, spent, external and unexplained are the limit together, whatever upstream says.
#[tokio::test]
async fn the_figures_of_a_budget_add_up() {
    let ledger = Ledger::unkept();
    let adds_up = |why: &str| {
        let left = left(&ledger);
        let known = left.remaining.unwrap() + i64::try_from(left.spent + left.external).unwrap();
        assert_eq!(known + left.unexplained, left.limit.unwrap(), "{why}: {left:?}");
        left
    };
    observe(&ledger, 90);
    assert_eq!(adds_up("before the first answer others spent").unexplained, 10);
    spend(&ledger, Some(60)).await;
    assert_eq!(adds_up("others spend").external, 29);
    observe(&ledger, 95);
    let more = adds_up("upstream names more");
    assert_eq!((more.external, more.unexplained), (4, 0), "what is not within its count is not shown");
    ledger.exhausted(&who(), None);
    assert_eq!(adds_up("a refusal").unexplained, 70);
    observe(&ledger, 100);
    assert_eq!(adds_up("all are back").unexplained, -1);
}

#[tokio::test]
async fn what_was_saved_survives_a_restart_and_a_compaction_with_its_date() {
    let journal = Arc::new(Journal::default());
    let ledger = open(&journal);
    let since = ledger.saved().1;
    (0..3).for_each(|_| ledger.count_saved());
    ledger.persist().await;
    ledger.persist().await;
    assert_eq!(journal.appends.load(Ordering::Relaxed), 1, "nothing is written when nothing changed");
    let ledger = open(&journal);
    ledger.count_saved();
    assert_eq!(ledger.saved(), (4, since));
    ledger.persist().await;
    *journal.records.lock().unwrap() = ledger.snapshot();
    assert_eq!(open(&journal).saved(), (4, since));
}
