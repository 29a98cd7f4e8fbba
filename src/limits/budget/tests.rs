//! The rule as a table, and the queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::{
    client::{Class, ClientKey, OnExceed},
    upstream::{Identity, ledger::Balance},
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn left(remaining: Option<i64>, next: u64) -> Balance {
    Balance {
        identity: Identity { upstream: "docker.io".into(), account: None },
        version: 0,
        unexplained: 0,
        limit: remaining.map(|_| 100),
        remaining,
        window: Some(Duration::from_secs(21_600)),
        spent: 0,
        external: 0,
        next_at: Some(at(next)),
    }
}

fn configured() -> Policy {
    Policy { above: [true, true, false], ..Policy::default() }
}

fn client(number: u8) -> ClientKey {
    ClientKey::Address([10, 0, 0, number].into())
}

fn ask(client: &ClientKey, class: Class, what: u64) -> SpendRequest<'_> {
    SpendRequest { client, class, what, on_exceed: OnExceed::Queue, overrides: false, expected: None }
}

#[test]
fn the_last_pull_may_be_spent_and_floors_hold_when_a_class_is_above() {
    for (policy, remaining, class, spends) in [
        (Policy::default(), None, Class::Bulk, true),
        (Policy::default(), Some(1), Class::Bulk, true),
        (Policy::default(), Some(0), Class::Exempt, false),
        (Policy::default(), Some(-3), Class::Critical, false),
        (configured(), None, Class::Bulk, true),
        (configured(), Some(41), Class::Bulk, true),
        (configured(), Some(40), Class::Bulk, false),
        (configured(), Some(11), Class::Standard, true),
        (configured(), Some(10), Class::Standard, false),
        (configured(), Some(1), Class::Critical, true),
        (configured(), Some(1), Class::Exempt, true),
        (configured(), Some(0), Class::Critical, false),
    ] {
        let decided = policy.decide(&left(remaining, 90), &Spender::alone(class), at(0));
        assert_eq!(decided.is_ok(), spends, "{remaining:?} {class:?} {decided:?}");
    }
}

#[test]
fn the_wait_is_until_enough_came_back_for_the_class() {
    let decide = |remaining, class| configured().decide(&left(Some(remaining), 90), &Spender::alone(class), at(0));
    assert_eq!(decide(40, Class::Bulk), Err((RefusalReason::Floor { kept: 40, left: 40 }, Duration::from_secs(90))));
    // Ten more, one in 216 s.
    assert_eq!(decide(30, Class::Bulk).unwrap_err().1, Duration::from_secs(90 + 10 * 216));
    assert_eq!(decide(0, Class::Critical), Err((RefusalReason::Exhausted, Duration::from_secs(90))));
    // Two that upstream counts beyond the limit come back first.
    assert_eq!(decide(-2, Class::Critical).unwrap_err().1, Duration::from_secs(90 + 2 * 216));
    assert_eq!(decide(i64::MIN, Class::Critical), Err((RefusalReason::Exhausted, Duration::from_secs(21_600))));
}

#[test]
fn a_share_binds_while_several_spend_and_it_is_scarce() {
    let spent = |spent, others| Spender { spent, others, frees_at: Some(at(500)), ..Spender::alone(Class::Standard) };
    let policy = Policy::default();
    let decide = |remaining, spender| policy.decide(&left(Some(remaining), 90), &spender, at(0));
    assert_eq!(
        decide(60, spent(25, true)),
        Err((RefusalReason::Share { spent: 25, share: 25 }, Duration::from_secs(500)))
    );
    assert_eq!(decide(60, spent(24, true)), Ok(()));
    assert_eq!(decide(60, spent(40, false)), Ok(()), "alone");
    assert_eq!(decide(61, spent(39, true)), Ok(()), "plenty");
    assert_eq!(decide(5, Spender { overrides: true, ..spent(90, true) }), Ok(()));
    assert_eq!(decide(5, Spender { class: Class::Critical, ..spent(90, true) }), Ok(()));
}

#[test]
fn clients_wait_in_turn_and_higher_classes_go_first() {
    let (mut admission, policy) = (Admission::default(), configured());
    let none = left(Some(0), 5);
    let mut wait = |number, class, what| {
        let client = client(number);
        match admission.ask(&policy, &none, ask(&client, class, what), at(0)) {
            BudgetDecision::Wait { ticket, position, .. } => (ticket, position),
            other => panic!("{other:?}"),
        }
    };
    let greedy: Vec<_> = (0..3).map(|what| wait(1, Class::Standard, what)).collect();
    let modest = wait(2, Class::Standard, 0);
    let production = wait(3, Class::Critical, 0);
    assert_eq!(greedy.iter().map(|(_, position)| *position).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((modest.1, production.1), (1, 0));
    // The same thing again takes no second place.
    let again = wait(2, Class::Standard, 0);
    assert_eq!((again.1, admission.waiting()), (2, 5));
    admission.leave(again.0);
    let plenty = left(Some(100), 5);
    let order: Vec<_> = std::iter::from_fn(|| admission.turn(&policy, &plenty, at(1))).collect();
    assert_eq!(order, [production.0, greedy[0].0, modest.0, greedy[1].0, greedy[2].0]);
}

#[test]
fn no_request_overtakes_one_of_the_same_class() {
    let (mut admission, policy) = (Admission::default(), configured());
    let (first, second) = (client(1), client(2));
    let BudgetDecision::Wait { ticket, .. } =
        admission.ask(&policy, &left(Some(10), 5), ask(&first, Class::Standard, 1), at(0))
    else {
        panic!("it must wait");
    };
    // A pull came back, and a newcomer is there before the one who waited.
    let newcomer = |admission: &mut Admission, class| {
        admission.ask(&policy, &left(Some(11), 5), ask(&second, class, 2), at(5)) == BudgetDecision::Spend
    };
    assert!(newcomer(&mut admission, Class::Critical));
    assert!(!newcomer(&mut admission, Class::Standard));
    assert_eq!(admission.turn(&policy, &left(Some(11), 5), at(5)), Some(ticket));
}

#[test]
fn waiting_is_bounded_in_length() {
    let (mut admission, policy) = (Admission::default(), Policy::default());
    let outcome = |admission: &mut Admission, number, what, next| {
        let client = client(number);
        match admission.ask(&policy, &left(Some(0), next), ask(&client, Class::Standard, what), at(0)) {
            BudgetDecision::Wait { .. } => "wait",
            BudgetDecision::Refuse { why: RefusalReason::QueueFull, .. } => "full",
            BudgetDecision::Refuse { retry_after, .. } if retry_after == Duration::from_secs(next) => "later",
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(outcome(&mut admission, 1, 0, 11), "later");
    for what in 0..20 {
        assert_eq!(outcome(&mut admission, 1, what, 10), "wait");
    }
    assert_eq!(outcome(&mut admission, 1, 99, 10), "full");
    let others = (2..=255).filter(|number| outcome(&mut admission, *number, 0, 10) == "wait").count();
    assert_eq!((others, admission.waiting()), (236, 256));
}

#[test]
fn a_place_is_free_when_the_last_of_its_requests_left() {
    let (mut admission, policy, one) = (Admission::default(), Policy::default(), client(1));
    let enter = |admission: &mut Admission| match admission.ask(
        &policy,
        &left(Some(0), 5),
        ask(&one, Class::Standard, 7),
        at(0),
    ) {
        BudgetDecision::Wait { ticket, .. } => ticket,
        other => panic!("{other:?}"),
    };
    let (ticket, again) = (enter(&mut admission), enter(&mut admission));
    assert_eq!(admission.waiting(), 1);
    admission.leave(ticket);
    admission.leave(ticket);
    assert_eq!(admission.waiting(), 1);
    admission.leave(again);
    assert_eq!(admission.waiting(), 0);
    admission.leave(ticket);
}

#[test]
fn spends_leave_the_window_and_refunds_leave_at_once() {
    let (mut admission, policy) = (Admission::default(), Policy::default());
    let (one, two) = (client(1), client(2));
    for second in 0..30 {
        admission.spend(&one, at(second));
    }
    admission.spend(&two, at(30));
    let refused = |admission: &mut Admission, seconds| {
        let ask = SpendRequest { on_exceed: OnExceed::Deny, ..ask(&one, Class::Standard, 1) };
        !matches!(admission.ask(&policy, &left(Some(50), 5), ask, at(seconds)), BudgetDecision::Spend)
    };
    assert!(refused(&mut admission, 31));
    (0..6).for_each(|_| admission.refund(&one));
    assert_eq!(admission.spent_by(&one), 24);
    assert!(!refused(&mut admission, 31));
    admission.spend(&one, at(31));
    assert!(refused(&mut admission, 32));
    assert!(!refused(&mut admission, 21_600));
}

#[test]
fn the_right_budget_override_passes_floors_shares_and_those_who_wait() {
    let (mut admission, policy, one, two) = (Admission::default(), configured(), client(1), client(2));
    (0..30).for_each(|second| admission.spend(&one, at(second)));
    admission.spend(&two, at(30));
    assert!(matches!(
        admission.ask(&policy, &left(Some(0), 5), ask(&two, Class::Bulk, 1), at(31)),
        BudgetDecision::Wait { .. }
    ));
    let decide = |admission: &mut Admission, overrides| {
        let ask = SpendRequest { overrides, ..ask(&one, Class::Bulk, 2) };
        admission.ask(&policy, &left(Some(5), 5), ask, at(31)) == BudgetDecision::Spend
    };
    assert!(!decide(&mut admission, false));
    assert!(decide(&mut admission, true));
}

#[test]
fn a_client_that_does_not_queue_is_refused_though_a_pull_comes_back_soon() {
    for on_exceed in [OnExceed::Deny, OnExceed::Stale] {
        let (mut admission, one) = (Admission::default(), client(1));
        let ask = SpendRequest { on_exceed, ..ask(&one, Class::Standard, 1) };
        let refused = admission.ask(&Policy::default(), &left(Some(0), 5), ask, at(0));
        let soon = Duration::from_secs(5);
        assert_eq!(refused, BudgetDecision::Refuse { retry_after: soon, why: RefusalReason::Exhausted });
        assert_eq!(admission.waiting(), 0);
    }
}

#[test]
fn a_lone_client_may_spend_everything_and_waits_for_its_oldest_pull_once_another_spends() {
    let (mut admission, policy, one, two) = (Admission::default(), Policy::default(), client(1), client(2));
    (0..60).for_each(|second| admission.spend(&one, at(second)));
    let decide = |admission: &mut Admission| {
        let ask = SpendRequest { on_exceed: OnExceed::Deny, ..ask(&one, Class::Standard, 1) };
        admission.ask(&policy, &left(Some(1), 5), ask, at(100))
    };
    assert_eq!(decide(&mut admission), BudgetDecision::Spend);
    admission.spend(&two, at(99));
    let why = RefusalReason::Share { spent: 60, share: 25 };
    let retry_after = Duration::from_secs(21_600 - 100);
    assert_eq!(decide(&mut admission), BudgetDecision::Refuse { retry_after, why });
}

#[test]
fn each_of_many_requests_for_one_thing_gets_a_turn_of_its_own() {
    let (mut admission, policy, one) = (Admission::default(), Policy::default(), client(1));
    let mut tickets: Vec<_> = (0..4)
        .map(|_| match admission.ask(&policy, &left(Some(0), 5), ask(&one, Class::Standard, 7), at(0)) {
            BudgetDecision::Wait { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    // The one that leaves takes no other along.
    admission.leave(tickets.remove(1));
    let turns: Vec<_> = std::iter::from_fn(|| admission.turn(&policy, &left(Some(9), 5), at(1))).collect();
    assert_eq!(turns, tickets);
}

#[test]
fn the_floor_of_class_critical_binds_when_some_are_exempt() {
    let floors = Floors { critical: 0.05, ..Floors::default() };
    let decide = |exempt, class| {
        let policy = Policy { above: [true, true, exempt], floors, ..Policy::default() };
        policy.decide(&left(Some(5), 90), &Spender::alone(class), at(0))
    };
    let kept = Err((RefusalReason::Floor { kept: 5, left: 5 }, Duration::from_secs(90)));
    assert_eq!(decide(true, Class::Critical), kept);
    assert_eq!((decide(false, Class::Critical), decide(true, Class::Exempt)), (Ok(()), Ok(())));
}

#[test]
fn a_warm_leaves_the_floor_of_bulk_and_what_clients_are_expected_to_need_whatever_is_configured() {
    for policy in [Policy::default(), configured()] {
        let decide = |remaining, expected| {
            let spender = Spender { expected: Some(expected), spent: 99, others: true, ..Spender::alone(Class::Bulk) };
            policy.decide(&left(Some(remaining), 90), &spender, at(0))
        };
        assert_eq!(decide(41, 0), Ok(()), "it has no share");
        assert_eq!(decide(71, 30), Ok(()));
        let why = RefusalReason::Forecast { left: 70, kept: 40, expected: 30 };
        assert_eq!(decide(70, 30), Err((why, Duration::from_secs(90))));
        assert!(decide(100, u64::MAX).is_err() && decide(0, 0).is_err());
    }
    let spender = Spender { expected: Some(u64::MAX), ..Spender::alone(Class::Bulk) };
    assert_eq!(configured().decide(&left(None, 90), &spender, at(0)), Ok(()), "what is not metered is no budget");
}

#[test]
fn what_a_warm_spent_changes_no_clients_share_and_a_warm_waits_in_no_queue() {
    let (one, warm, mut admission) = (client(1), ClientKey::warm("operator"), Admission::default());
    let policy = configured();
    (0..30).for_each(|_| admission.spend(&one, at(0)));
    (0..40).for_each(|_| admission.spend(&warm, at(0)));
    let decision = admission.ask(&policy, &left(Some(30), 90), ask(&one, Class::Standard, 1), at(1));
    assert_eq!(decision, BudgetDecision::Spend, "it is alone with a warm");
    admission.spend(&client(2), at(1));
    let decision = admission.ask(&policy, &left(Some(29), 90), ask(&one, Class::Standard, 1), at(1));
    assert_eq!(decision, BudgetDecision::Spend, "without the warm, 69 of 100 would be left: there is plenty");
    let decision = admission.ask(&policy, &left(Some(19), 90), ask(&one, Class::Standard, 1), at(1));
    assert!(matches!(decision, BudgetDecision::Refuse { why: RefusalReason::Share { .. }, .. }), "{decision:?}");
    let asked = SpendRequest { expected: Some(0), ..ask(&warm, Class::Bulk, 2) };
    let decision = admission.ask(&policy, &left(Some(40), 2), asked, at(1));
    assert!(matches!(decision, BudgetDecision::Refuse { .. }), "{decision:?}");
    assert_eq!((admission.waiting(), admission.spent_by(&warm)), (0, 40));
}
