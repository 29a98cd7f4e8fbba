//! What holds of all limits together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    client::{Client, ClientKey},
    limits::{
        Account, Role, abuse,
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
        role: Role::User,
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

/// Walks round missing references until a level is reached, and gives back its ban.
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
        assert_eq!(lifted.probation, at(lift * 60 + 3600));
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
fn a_client_cannot_lift_the_ban_of_another_client_or_of_an_operator() {
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
fn an_account_reads_of_the_address_that_is_banned_and_of_itself_when_it_is() {
    let limits = Limits::in_memory(config());
    for (banned, subject) in [("192.0.2.9", "192.0.2.9 blocked until "), ("bo", "bo blocked until ")] {
        let wish = BanRequest {
            client: banned.parse().unwrap(),
            duration: Duration::from_secs(60),
            reason: String::new(),
            force: false,
        };
        let ban = limits.ban(wish, &Actor::new("ops", None), at(0)).unwrap();
        let bo = Arc::new(Client { key: ClientKey::Principal("bo".into()), ..(*client("192.0.2.9")).clone() });
        let request = AdmissionRequest { client: bo, kind: RequestKind::Pull, about: NOTHING, bypass: None };
        let message = limits.admit(&request, at(1)).unwrap_err().message;
        assert!(message.starts_with(subject), "{message}");
        limits.lift(&ban.id, "enough", &Actor::new("ops", None), at(1)).unwrap();
    }
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
    assert_eq!(limits.set_mode("nothing", Mode::Off, "", &by, at(0)), 0);
    assert_eq!(limits.set_mode("throttle_unauthenticated", Mode::DryRun, "", &by, at(0)), 1);
    assert!(pull(&limits, "192.0.2.7", at(0)).is_ok());
    limits.reload(config(), &by, at(0));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_ok() && limits.throttles()[0].switched);
    limits.set_mode("throttle_unauthenticated", Mode::Enforce, "", &by, at(0));
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
        expected: None,
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
    assert_eq!(limits.poll_queue(&left(0, at(9)), second, &two, at(10)), QueueStatus::Waiting);
    assert_eq!(limits.spenders(&left(0, at(9)).identity), [(one, 1)]);
}

/// Clocks step by this much, in either direction.
const STEPS: [Duration; 3] =
    [Duration::from_secs(2 * 3600), Duration::from_secs(3 * DAY), Duration::from_secs(20 * 365 * DAY)];

/// A machine whose clock is wrong by `ahead`, with the tick of a running Weir.
struct Machine {
    real: SystemTime,
    ahead: Duration,
    limits: Limits,
}

impl Machine {
    fn new(limits: Limits, ahead: Duration) -> Machine {
        let machine = Machine { real: at(0), ahead, limits };
        machine.limits.tick(machine.now());
        machine
    }

    fn now(&self) -> SystemTime {
        self.real + self.ahead
    }

    fn passes(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.real += Duration::from_secs(5);
            self.limits.tick(self.now());
        }
    }
}

#[test]
fn a_clock_that_steps_shuts_no_client_out_and_gives_none_a_second_quota() {
    for step in STEPS {
        let mut machine = Machine::new(Limits::in_memory(config()), step);
        let admitted = |machine: &Machine, address: &str| {
            (0..20).filter(|_| pull(&machine.limits, address, machine.now()).is_ok()).count()
        };
        let three = (0..3).filter(|_| pull(&machine.limits, "192.0.2.7", machine.now()).is_ok()).count();
        assert_eq!(three, 3);
        machine.ahead = Duration::ZERO;
        assert_eq!(admitted(&machine, "192.0.2.7"), 7, "back by {step:?}: what is left of ten at once");
        assert_eq!(admitted(&machine, "192.0.2.8"), 10, "back by {step:?}: another client");
        machine.ahead = step;
        assert_eq!(admitted(&machine, "192.0.2.7"), 0, "forward by {step:?}");
        machine.passes(3600);
        assert_eq!(admitted(&machine, "192.0.2.7"), 10, "an hour later");
        // What was used is kept, and read by a process whose clock is right again.
        let usage = Some(machine.limits.usage(machine.now()));
        let kept = PersistedState { usage, ..PersistedState::default() };
        let none = Arc::new(|_: &Entry| ());
        let (limits, unreadable) = Limits::new(config(), &kept, none, Box::new(|| 0), machine.real);
        assert_eq!(unreadable, 0);
        assert!(pull(&limits, "192.0.2.7", machine.real).is_err(), "nothing came back in no time");
        assert!(pull(&limits, "192.0.2.7", machine.real + Duration::from_secs(121)).is_ok(), "one does in two minutes");
    }
}

#[test]
fn a_clock_that_steps_loses_no_ban_and_makes_none_last_longer() {
    for step in STEPS {
        for (before, after) in [(step, Duration::ZERO), (Duration::ZERO, step)] {
            let mut machine = Machine::new(Limits::in_memory(config()), before);
            let client = "192.0.2.7".parse().unwrap();
            let wish = BanRequest { client, duration: Duration::from_secs(3600), reason: String::new(), force: false };
            machine.limits.ban(wish, &Actor::new("ops", None), machine.now()).unwrap();
            machine.passes(60);
            machine.ahead = after;
            let is_banned = |machine: &Machine| pull(&machine.limits, "192.0.2.7", machine.now()).is_err();
            assert!(is_banned(&machine), "{before:?} -> {after:?}");
            let shown = machine.limits.bans(&BanFilter::default(), machine.now());
            let left = shown[0].until.duration_since(machine.now()).unwrap();
            assert!((3530..=3550).contains(&left.as_secs()), "{before:?} -> {after:?}: {left:?}");
            machine.passes(3500);
            assert!(is_banned(&machine), "{before:?} -> {after:?}: it lasts");
            machine.passes(60);
            assert!(!is_banned(&machine), "{before:?} -> {after:?}: it ends");
        }
    }
}

#[test]
fn a_ban_that_was_kept_under_a_clock_ahead_ends_after_its_duration() {
    for step in STEPS {
        let journal = Arc::new(Mutex::new(Vec::new()));
        let lines = journal.clone();
        let sink = Arc::new(move |entry: &Entry| lines.lock().unwrap().push(Limits::record(entry)));
        let (limits, _) = Limits::new(config(), &PersistedState::default(), sink, Box::new(|| 1), at(0) + step);
        let client = "192.0.2.7".parse().unwrap();
        let wish = BanRequest { client, duration: Duration::from_secs(3600), reason: String::new(), force: false };
        limits.ban(wish, &Actor::new("ops", None), at(0) + step).unwrap();
        let kept = PersistedState { records: journal.lock().unwrap().clone(), usage: None };
        let (limits, _) = Limits::new(config(), &kept, Arc::new(|_: &Entry| ()), Box::new(|| 2), at(0));
        assert!(pull(&limits, "192.0.2.7", at(10)).is_err(), "{step:?}");
        assert!(pull(&limits, "192.0.2.7", at(3700)).is_ok(), "{step:?}");
    }
}

#[test]
fn failures_before_a_step_of_the_clock_are_forgotten_in_their_time() {
    for step in STEPS {
        let mut machine = Machine::new(Limits::in_memory(config()), step);
        let failed_logins = |machine: &mut Machine, count: u64| {
            for _ in 0..count {
                machine.limits.record_login(&client("192.0.2.7"), false, machine.now());
                machine.real += Duration::from_secs(3);
            }
        };
        failed_logins(&mut machine, 25);
        machine.ahead = Duration::ZERO;
        machine.passes(600);
        failed_logins(&mut machine, 10);
        assert_eq!(machine.limits.bans(&BanFilter::default(), machine.now()), [], "back by {step:?}");
        failed_logins(&mut machine, 20);
        let bans = machine.limits.bans(&BanFilter::default(), machine.now());
        assert_eq!(bans.len(), 1, "back by {step:?}: what comes after the step counts");
    }
}

#[test]
fn spends_before_a_step_of_the_clock_leave_the_window_in_their_time() {
    let identity = Identity { upstream: "docker.io".into(), account: None };
    for step in STEPS {
        let limits = Limits::in_memory(LimitsConfig::default());
        let left = Balance {
            identity: identity.clone(),
            limit: Some(10),
            remaining: Some(10),
            window: Some(Duration::from_secs(100)),
            spent: 0,
            external: 0,
            unexplained: 0,
            version: 0,
            next_at: None,
        };
        limits.restore_spend(&identity, "192.0.2.7", at(0) + step);
        limits.expire_spends(&left, at(0));
        assert_eq!(limits.spenders(&identity).len(), 1);
        limits.expire_spends(&left, at(101));
        assert_eq!(limits.spenders(&identity), [], "back by {step:?}");
    }
}

#[test]
fn a_pull_that_brought_nothing_is_given_back() {
    let limits = Limits::in_memory(config());
    for number in 0..30 {
        let permit = pull(&limits, "192.0.2.7", at(0)).unwrap_or_else(|_| panic!("pull {number} is refused"));
        limits.record_outcome(&permit, NOTHING, 503, at(0));
    }
    assert_eq!((0..20).filter(|_| pull(&limits, "192.0.2.7", at(0)).is_ok()).count(), 10);
}

#[test]
fn a_reference_that_is_missed_too_often_is_held_for_that_client_alone() {
    let limits = Limits::in_memory(config());
    let permit = Permit::unlimited(client("192.0.2.7"));
    let held = |address: &str, reference: &str, seconds| {
        limits.miss_throttled(&client(address), RequestInfo { reference, ..NOTHING }, at(seconds))
    };
    for number in 0..31 {
        assert_eq!(held("192.0.2.7", "1", number * 3), None, "after {number} misses");
        limits.record_outcome(&permit, NOTHING, 404, at(number * 3));
    }
    assert_eq!(held("192.0.2.7", "1", 93), Some(Duration::from_secs(15)));
    assert_eq!((held("192.0.2.8", "1", 93), held("192.0.2.7", "2", 93)), (None, None));
    assert_eq!(held("192.0.2.7", "1", 93 + 300), None, "five minutes later");
}

#[test]
fn two_requests_for_the_same_thing_each_get_the_pull_they_wait_for() {
    let limits = Limits::in_memory(LimitsConfig::default());
    let left = |remaining| Balance {
        identity: Identity { upstream: "docker.io".into(), account: None },
        limit: Some(10),
        remaining: Some(remaining),
        window: Some(Duration::from_secs(100)),
        spent: 0,
        external: 0,
        unexplained: 0,
        version: 0,
        next_at: Some(at(5)),
    };
    let key = ClientKey::Address([192, 0, 2, 7].into());
    let wait = || {
        let request = budget::SpendRequest {
            client: &key,
            class: crate::client::Class::Standard,
            what: 7,
            on_exceed: crate::client::OnExceed::Queue,
            overrides: false,
            expected: None,
        };
        match limits.try_spend(&left(0), request, at(0)) {
            BudgetDecision::Wait { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (wait(), wait());
    assert_eq!(limits.waiting(&left(0).identity), 1, "a retry takes no second place");
    assert_eq!(limits.poll_queue(&left(1), first, &key, at(1)), QueueStatus::Granted);
    limits.leave_queue(&left(1).identity, first);
    assert_eq!(limits.poll_queue(&left(0), second, &key, at(1)), QueueStatus::Waiting);
    assert_eq!(limits.poll_queue(&left(1), second, &key, at(2)), QueueStatus::Granted);
    limits.leave_queue(&left(1).identity, second);
    assert_eq!(limits.waiting(&left(1).identity), 0);
}

#[test]
fn a_failure_that_took_no_pull_gives_none_back() {
    let limits = Limits::in_memory(config());
    while pull(&limits, "192.0.2.7", at(0)).is_ok() {}
    let head = Permit::unlimited(client("192.0.2.7"));
    (0..5).for_each(|_| limits.record_outcome(&head, NOTHING, 404, at(0)));
    assert!(pull(&limits, "192.0.2.7", at(0)).is_err());
}

#[test]
fn chance_spreads_the_duration_of_a_ban_by_a_tenth() {
    for (number, seconds) in [(0, 270), (u64::MAX / 2, 299), (u64::MAX, 330)] {
        let kept = PersistedState::default();
        let (limits, _) = Limits::new(config(), &kept, Arc::new(|_: &Entry| ()), Box::new(move || number), at(0));
        let ban = misbehave(&limits, "192.0.2.7", at(0));
        assert_eq!(ban.until.duration_since(ban.created).unwrap().as_secs(), seconds, "{number}");
    }
}

#[test]
fn a_restart_within_the_hour_leaves_half_the_quota() {
    let limits = Limits::in_memory(config());
    let ban = misbehave(&limits, "192.0.2.7", at(0));
    limits.lift_own(&ban.id, "ann", None, at(0)).unwrap();
    let kept = PersistedState { records: limits.records(), usage: Some(limits.usage(at(1000))) };
    let (again, _) = Limits::new(config(), &kept, Arc::new(|_: &Entry| ()), Box::new(|| 1), at(1010));
    assert_eq!((0..20).filter(|_| pull(&again, "192.0.2.7", at(2000)).is_ok()).count(), 5);
}

#[test]
fn switching_one_throttle_leaves_another_as_it_was_switched() {
    let settings = ["throttle_unauthenticated_pulls", "throttle_unauthenticated_registry_api"]
        .map(|name| Throttle { name: name.into(), ..config().throttles.settings().remove(0) });
    let limits = Limits::in_memory(LimitsConfig { throttles: Rules::new(&settings, &[], 0).unwrap(), ..config() });
    let by = Actor::new("ops", None);
    for (name, mode) in [
        ("throttle_unauthenticated_pulls", Mode::Off),
        ("throttle_unauthenticated_registry_api", Mode::DryRun),
        ("throttle_unauthenticated_registry_api", Mode::Enforce),
    ] {
        assert_eq!(limits.set_mode(name, mode, "", &by, at(0)), 1);
    }
    let mut modes: Vec<_> = limits.throttles().into_iter().map(|throttle| (throttle.name, throttle.mode)).collect();
    modes.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(modes.into_iter().map(|(_, mode)| mode).collect::<Vec<_>>(), [Mode::Off, Mode::Enforce]);
}

#[test]
fn a_banned_client_reaches_the_pages_on_which_bans_are_lifted() {
    let limits = Limits::in_memory(config());
    let target = "192.0.2.7".parse().unwrap();
    let wish = BanRequest { client: target, duration: Duration::from_secs(60), reason: String::new(), force: false };
    limits.ban(wish, &Actor::new("ops", None), at(0)).unwrap();
    let admitted = |kind| {
        let request = AdmissionRequest { client: client("192.0.2.7"), kind, about: NOTHING, bypass: None };
        limits.admit(&request, at(0)).is_ok()
    };
    for (kind, is_admitted) in [
        (RequestKind::AdminWeb, true),
        (RequestKind::AdminApi, true),
        (RequestKind::Ping, true),
        (RequestKind::Registry, false),
        (RequestKind::Pull, false),
    ] {
        assert_eq!(admitted(kind), is_admitted, "{kind:?}");
    }
}

#[test]
fn a_reload_of_another_limit_keeps_the_number_of_requests_that_were_used() {
    for algorithm in [Algorithm::Gcra, Algorithm::FixedWindow] {
        let with = |requests_per_period, burst| {
            let burst = (algorithm == Algorithm::Gcra).then_some(burst);
            let pulls = config().throttles.settings().remove(0);
            let setting = Throttle { requests_per_period, burst, algorithm, ..pulls };
            LimitsConfig { throttles: Rules::new(&[setting], &[], 0).unwrap(), ..config() }
        };
        let limits = Limits::in_memory(with(10, 10));
        (0..4).for_each(|_| assert!(pull(&limits, "192.0.2.7", at(0)).is_ok()));
        limits.reload(with(20, 20), &Actor::new("ops", None), at(0));
        let passed = (0..30).filter(|_| pull(&limits, "192.0.2.7", at(0)).is_ok()).count();
        assert_eq!(passed, 16, "{algorithm:?}");
    }
}
