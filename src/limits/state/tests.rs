//! What holds of all limits together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    client::{Client, ClientKey},
    limits::{
        Account, abuse,
        bans::{BanEvent, BanFilter, BanRecord},
        budget::{self, BudgetDecision, Policy, QueueStatus},
        class::Classes,
        penalty::PenaltyLevel,
        permit::{AdmissionRequest, Denied, Permit, RequestInfo, RequestKind},
        throttle::{Algorithm, Throttle},
    },
    upstream::{Identity, ledger::Balance},
};

const DAY: u64 = 24 * 3600;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
}

fn account(name: &str, networks: &[&str], namespaces: &[&str]) -> Account {
    Account {
        name: name.into(),
        password_hash: "".into(),
        is_admin: false,
        budget_override: false,
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        namespaces: namespaces.iter().map(|&namespace| namespace.to_owned()).collect(),
        pull: Arc::from([]),
        push: Arc::from([]),
        delete: Arc::from([]),
    }
}

fn config() -> LimitsConfig {
    let pulls = Throttle {
        name: "throttle_unauthenticated_pulls".into(),
        requests_per_period: 40,
        period_in_seconds: 3600,
        burst: Some(10),
        algorithm: Algorithm::Gcra,
        mode: Mode::Enforce,
    };
    LimitsConfig {
        throttles: Rules::new(&[pulls], &[], 0).unwrap(),
        abuse: abuse::Settings { mode: Mode::Enforce, ..abuse::Settings::default() },
        accounts: vec![account("ann", &["192.0.2.0/24"], &[]), account("bo", &[], &["library/"])].into(),
        ..LimitsConfig::default()
    }
}

fn client(address: &str) -> Arc<Client> {
    let address = address.parse().unwrap();
    Arc::new(Client::anonymous(address, address))
}

const NOTHING: RequestInfo<'_> = RequestInfo { method: "GET", repository: "docker.io/library/a", reference: "1" };

fn pull(limits: &Limits, address: &str, now: SystemTime) -> Result<Permit, Box<Denied>> {
    limits.admit(
        &AdmissionRequest { client: client(address), kind: RequestKind::Pull, about: NOTHING, bypass: None },
        now,
    )
}

/// Walks round missing references until a rung is reached, and gives back its ban.
fn misbehave(limits: &Limits, address: &str, now: SystemTime) -> BanRecord {
    let permit = Permit::unlimited(client(address));
    for number in 0..60 {
        let reference = number.to_string();
        limits.record_outcome(&permit, RequestInfo { reference: &reference, ..NOTHING }, 404, now);
    }
    limits.ban_of(&permit.client.key, permit.client.address, now).expect("a ban")
}

#[test]
fn an_own_ban_is_lifted_three_times_a_day_and_costs_half_the_quota_for_an_hour() {
    let limits = Limits::in_memory(config());
    let victim = "192.0.2.7";
    for lift in 0..3 {
        let ban = misbehave(&limits, victim, at(lift * 60));
        assert!(ban.self_service && ban.level < PenaltyLevel::Client);
        assert!(pull(&limits, victim, at(lift * 60)).unwrap().misses.is_some());
        assert!(limits.lift_own(&ban.id, "nobody", None, at(lift * 60)).is_err());
        let lifted = limits.lift_own(&ban.id, "ann", None, at(lift * 60)).unwrap();
        assert_eq!(lifted.left_today, 2 - lift as usize);
        assert!(limits.lift_own(&ban.id, "ann", None, at(lift * 60)).is_err(), "lifted already");
    }
    let fourth = misbehave(&limits, victim, at(300));
    let refused = limits.lift_own(&fourth.id, "ann", None, at(300)).unwrap_err();
    assert!(refused.contains("three"), "{refused}");
    // Whose namespace it was about may, and has a day of its own.
    assert_eq!(limits.own_bans("bo", at(300)).len(), 1);
    assert!(limits.lift_own(&fourth.id, "bo", None, at(301)).is_ok());
    let refusals = limits
        .audit(100)
        .iter()
        .filter(|entry| matches!(&entry.event, Event::Ban(event) if matches!(&**event, BanEvent::Refused { .. })))
        .count();
    assert_eq!(refusals, 7);

    // Half of ten at once, for an hour.
    let passed = |address: &str, now| (0..20).filter(|_| pull(&limits, address, now).is_ok()).count();
    assert_eq!(passed(victim, at(2000)), 5);
    assert_eq!(passed("192.0.2.8", at(2000)), 10);
    assert_eq!(passed(victim, at(3 * 3600)), 10);
    // The next day is another one.
    let ban = misbehave(&limits, victim, at(DAY + 400));
    assert!(limits.lift_own(&ban.id, "ann", None, at(DAY + 400)).is_ok());
}

#[test]
fn another_s_ban_and_an_operator_s_are_nobody_s_to_lift() {
    let limits = Limits::in_memory(config());
    let ban = misbehave(&limits, "198.51.100.7", at(0));
    assert!(limits.lift_own(&ban.id, "ann", None, at(0)).is_err());
    let wish = BanRequest {
        client: "192.0.2.9".parse().unwrap(),
        duration: Duration::from_secs(60),
        reason: String::new(),
        force: false,
    };
    let ban = limits.ban(wish, &Actor::new("ops", None), at(0)).unwrap();
    assert!(limits.lift_own(&ban.id, "ann", None, at(0)).is_err());
    assert_eq!(limits.own_bans("ann", at(0)).len(), 0);
}

#[test]
fn what_was_kept_is_what_there_was_by_entries_and_by_a_compaction() {
    let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keep = kept.clone();
    let keep = Arc::new(move |entry: &Entry| keep.lock().unwrap().push(Limits::record(entry)));
    let number = AtomicU64::new(7);
    let chance = Box::new(move || number.fetch_add(1 << 33 | 1, Ordering::Relaxed));
    let (limits, _) = Limits::new(config(), &PersistedState::default(), keep, chance, at(0));
    let first = misbehave(&limits, "192.0.2.7", at(0));
    limits.lift(&first.id, "enough", &Actor::new("ops", None), at(1)).unwrap();
    let second = misbehave(&limits, "192.0.2.8", at(2));
    (0..4).for_each(|_| assert!(pull(&limits, "192.0.2.9", at(3)).is_ok()));
    let all = BanFilter { ended: true, ..BanFilter::default() };
    for records in [kept.lock().unwrap().clone(), limits.records()] {
        let kept = PersistedState { records, usage: Some(limits.usage(at(3))) };
        let (again, unreadable) = Limits::new(config(), &kept, Arc::new(|_: &Entry| ()), Box::new(|| 1), at(3));
        assert_eq!(unreadable, 0);
        assert_eq!(again.bans(&all, at(3)), limits.bans(&all, at(3)));
        assert_eq!(again.bans(&BanFilter::default(), at(3))[0].id, second.id);
        assert_eq!(again.audit(10), limits.audit(10));
        assert_eq!((0..20).filter(|_| pull(&again, "192.0.2.9", at(3)).is_ok()).count(), 6);
    }
}

#[test]
fn a_reload_keeps_what_was_switched_and_what_was_used() {
    let limits = Limits::in_memory(config());
    let by = Actor::new("ops", None);
    (0..10).for_each(|_| assert!(pull(&limits, "192.0.2.7", at(0)).is_ok()));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_err());
    assert_eq!(limits.set_mode("nothing", Mode::Off, &by, at(0)), 0);
    assert_eq!(limits.set_mode("throttle_unauthenticated", Mode::DryRun, &by, at(0)), 1);
    assert!(pull(&limits, "192.0.2.7", at(0)).is_ok());
    limits.reload(config(), &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_ok() && limits.throttles()[0].switched);
    limits.set_mode("throttle_unauthenticated", Mode::Enforce, &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_err());
    limits.allow("192.0.2.7".parse().unwrap(), "a build", at(400), &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(399)).unwrap().safe.is_some());
    assert!(pull(&limits, "192.0.2.7", at(400)).unwrap().safe.is_none(), "one came back, and it is its own again");
}

#[test]
fn a_limit_that_is_raised_lets_in_whom_the_old_one_shut_out() {
    let rules = |limit, burst| {
        let rules = config();
        let setting =
            Throttle { requests_per_period: limit, burst: Some(burst), ..rules.throttles.settings().remove(0) };
        LimitsConfig { throttles: Rules::new(&[setting], &[], Rules::CEILING).unwrap(), ..rules }
    };
    let by = Actor::new("ops", None);
    let limits = Limits::in_memory(rules(2, 1));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_ok() && pull(&limits, "192.0.2.7", at(0)).is_err());
    let kept = PersistedState { records: Vec::new(), usage: Some(limits.usage(at(0))) };
    let (again, _) = Limits::new(rules(36_000, 9000), &kept, Arc::new(|_: &Entry| ()), Box::new(|| 1), at(0));
    limits.reload(rules(36_000, 9000), &by, at(0));
    for limits in [&limits, &again] {
        let passed = (0..10_000).filter(|_| pull(limits, "192.0.2.7", at(0)).is_ok()).count();
        assert_eq!(passed, 8999, "one of them was used before");
    }
    // And back: what was used of the large one is more than the small one has.
    limits.reload(rules(2, 1), &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_err());
}

#[test]
fn an_allowlist_stops_rules_and_never_an_operator() {
    let limits = Limits::in_memory(config());
    misbehave(&limits, "192.0.2.7", at(0));
    let by = Actor::new("ops", None);
    limits.allow("192.0.2.0/24".parse().unwrap(), "ours", at(900), &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(0)).unwrap().misses.is_none());
    let client = "192.0.2.7".parse().unwrap();
    let wish = BanRequest { client, duration: Duration::from_secs(60), reason: String::new(), force: false };
    limits.ban(wish, &by, at(0)).unwrap();
    assert_eq!(pull(&limits, "192.0.2.7", at(0)).unwrap_err().status(), 403);
    assert!(pull(&limits, "192.0.2.7", at(61)).is_ok(), "it ends by itself");
}

#[test]
fn two_never_decide_on_the_same_pull() {
    let budget = Policy::new(&budget::Settings::default(), &Classes::default());
    let limits = Limits::in_memory(LimitsConfig { budget, ..LimitsConfig::default() });
    let left = |remaining, next| Balance {
        identity: Identity { upstream: "docker.io".into(), account: None },
        version: 0,
        unexplained: 0,
        limit: Some(10),
        remaining: Some(remaining),
        window: Some(Duration::from_secs(100)),
        spent: 0,
        external: 0,
        next_at: Some(next),
    };
    let key = |last: u8| ClientKey::Address([192, 0, 2, last].into());
    let (one, two) = (key(1), key(2));
    let ask = |client, what| budget::SpendRequest {
        client,
        class: Default::default(),
        what,
        on_exceed: Default::default(),
        overrides: false,
    };
    let place = |decision| match decision {
        BudgetDecision::Wait { ticket, .. } => ticket,
        other => panic!("{other:?}"),
    };
    let first = place(limits.try_spend(&left(0, at(5)), ask(&one, 1), at(0)));
    let second = place(limits.try_spend(&left(0, at(5)), ask(&two, 2), at(0)));
    assert_eq!(limits.poll_queue(&left(0, at(5)), second, &two, at(1)), QueueStatus::Waiting);
    // One came back. The second asks first and must not have it.
    assert_eq!(limits.poll_queue(&left(1, at(9)), second, &two, at(5)), QueueStatus::Waiting);
    assert_eq!(limits.poll_queue(&left(1, at(9)), first, &one, at(5)), QueueStatus::Granted);
    assert_eq!(limits.poll_queue(&left(0, at(9)), second, &two, at(10)), QueueStatus::Expired);
    assert_eq!(limits.spenders(&left(0, at(9)).identity), [(one, 1)]);
}
