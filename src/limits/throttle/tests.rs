//! What throttles promise, through the table that requests are checked by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::{client::ClientKey, limits::address::key_address};

const PULLS: Meters = Meter::Pulls.alone();
const API: Meters = Meter::RegistryApi.alone();

fn setting(name: &str, limit: u32, period: u32) -> Throttle {
    Throttle {
        name: name.to_owned(),
        requests_per_period: limit,
        period_in_seconds: period,
        burst: None,
        algorithm: Algorithm::Gcra,
        mode: Mode::Enforce,
    }
}

fn pulls(limit: u32, period: u32) -> Throttle {
    setting("throttle_unauthenticated_pulls", limit, period)
}

fn fixed(setting: Throttle) -> Throttle {
    Throttle { algorithm: Algorithm::FixedWindow, ..setting }
}

fn rules(settings: &[Throttle]) -> Rules {
    Rules::new(settings, &[], Rules::CEILING).unwrap()
}

fn address(text: &str) -> ClientKey {
    ClientKey::Address(key_address(text.parse().unwrap()))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn admitted(table: &Table, rules: &Rules, client: &ClientKey, tries: usize, now: SystemTime) -> usize {
    (0..tries).filter(|_| table.check(rules, client, PULLS, Meters::NONE, now).denied().is_none()).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gcra_never_admits_more_than_the_limit_in_any_window(
        limit in 1_u32..60,
        burst in 1_u32..60,
        period in 1_u32..100,
        steps in prop::collection::vec((0_u64..3_000, 1_usize..12), 1..40),
    ) {
        let rules = rules(&[Throttle { burst: Some(burst.min(limit)), ..pulls(limit, period) }]);
        let (table, client) = (Table::new(16), address("192.0.2.1"));
        let mut now = at(0);
        let mut passed = Vec::new();
        for (thousandths, tries) in steps {
            // Gaps are drawn in thousandths of the period, so that schedules of every density come up.
            now += Duration::from_secs(period.into()).mul_f64(thousandths as f64 / 10_000.0);
            let count = admitted(&table, &rules, &client, tries, now);
            passed.extend(std::iter::repeat_n(now, count));
        }
        let window = Duration::from_secs(period.into());
        for (first, start) in passed.iter().enumerate() {
            let within = passed[first..].iter().take_while(|time| **time < *start + window).count();
            prop_assert!(within <= limit as usize, "{within} of {limit} in {period} s");
        }
    }
}

#[test]
fn a_limit_of_100_is_a_burst_of_25_and_75_that_come_back() {
    let (table, rules, client) = (Table::new(16), rules(&[pulls(100, 21_600)]), address("192.0.2.1"));
    assert_eq!(admitted(&table, &rules, &client, 1000, at(0)), 25);
    let denied = table.check(&rules, &client, PULLS, Meters::NONE, at(0));
    assert_eq!(denied.denied().map(|standing| standing.more_in), Some(Duration::from_secs(288)));
    assert_eq!(admitted(&table, &rules, &client, 1000, at(287)), 0);
    assert_eq!(admitted(&table, &rules, &client, 1000, at(288)), 1);
    let later: usize = (1..75).map(|step| admitted(&table, &rules, &client, 9, at(288 + step * 288))).sum();
    assert_eq!(later, 74);
    // 25 and 75 are 100; the hundredth comes when the window of the first ends.
    assert_eq!(288 + 74 * 288, 21_600);
}

#[test]
fn a_denied_request_consumes_nothing_of_gcra_and_counts_in_a_fixed_window() {
    let client = address("192.0.2.1");
    let (table, gcra) = (Table::new(16), rules(&[Throttle { burst: Some(4), ..pulls(8, 60) }]));
    assert_eq!(admitted(&table, &gcra, &client, 10_000, at(0)), 4);
    assert_eq!(admitted(&table, &gcra, &client, 1, at(15)), 1);

    let (table, window) = (Table::new(16), rules(&[fixed(pulls(8, 60))]));
    assert_eq!(admitted(&table, &window, &client, 12, at(40)), 8);
    assert_eq!(table.peek(&window, &client, PULLS, at(40)).standings().next().unwrap().observed, 12);
    // 1,700,000,000 is 20 s into a minute of the epoch.
    assert_eq!(admitted(&table, &window, &client, 1, at(39)), 1);
    assert_eq!(admitted(&table, &window, &client, 100, at(100)), 8);
}

#[test]
fn one_throttle_s_denial_gives_back_what_the_others_took() {
    let (table, client) = (Table::new(16), address("192.0.2.1"));
    let rules = rules(&[
        Throttle { burst: Some(10), ..setting("throttle_unauthenticated_registry_api", 20, 60) },
        Throttle { burst: Some(2), ..pulls(40, 60) },
    ]);
    let both = || table.check(&rules, &client, API.and(Meter::Pulls), Meters::NONE, at(0));
    assert!(both().denied().is_none() && both().denied().is_none());
    for _ in 0..100 {
        assert_eq!(both().denied().unwrap().rule.name(), "throttle_unauthenticated_pulls");
    }
    assert_eq!(table.peek(&rules, &client, API, at(0)).standings().next().unwrap().remaining, 8);
}

#[test]
fn a_network_s_ceiling_denies_without_using_the_client_s_own_share() {
    let (table, rules) = (Table::new(1 << 16), rules(&[Throttle { burst: Some(4), ..pulls(8, 60) }]));
    let passed: usize =
        (0..=255).map(|last| admitted(&table, &rules, &address(&format!("192.0.2.{last}")), 1, at(0))).sum();
    // Eight times four at once.
    assert_eq!(passed, 32);
    let late = address("192.0.2.200");
    let denied = table.check(&rules, &late, PULLS, Meters::NONE, at(0));
    assert_eq!(denied.denied().map(|standing| (standing.scope, standing.limit)), Some((Scope::Network, 64)));
    let dry = rules.with_mode("*", Mode::DryRun).0;
    assert_eq!(table.check(&dry, &late, PULLS, Meters::NONE, at(0)).would_have_denied().count(), 1);
    // As soon as the network has room again the client finds all of its own.
    let decision = table.peek(&rules, &late, PULLS, at(2));
    let own = decision.standings().next().unwrap();
    assert_eq!((own.scope, own.remaining), (Scope::Client, 4));
    assert_eq!(admitted(&table, &rules, &address("192.0.3.1"), 9, at(0)), 4);
}

#[test]
fn principals_are_counted_by_name_and_by_their_own_throttles() {
    let authenticated = Throttle { burst: Some(3), ..setting("throttle_authenticated_pulls", 9, 60) };
    let (table, rules) = (Table::new(1 << 12), rules(&[Throttle { burst: Some(1), ..pulls(2, 60) }, authenticated]));
    assert_eq!(admitted(&table, &rules, &ClientKey::Principal("ci".into()), 9, at(0)), 3);
    assert_eq!(admitted(&table, &rules, &ClientKey::Principal("dev".into()), 9, at(0)), 3);
    assert_eq!(admitted(&table, &rules, &address("192.0.2.1"), 9, at(0)), 1);
}

#[test]
fn peeking_counts_nothing_and_a_refund_gives_back_exactly() {
    for algorithm in [Algorithm::Gcra, Algorithm::FixedWindow] {
        let (table, client) = (Table::new(16), address("192.0.2.1"));
        let rules = rules(&[Throttle { burst: Some(5), algorithm, ..pulls(10, 60) }]);
        let left = |now| table.peek(&rules, &client, PULLS, now).standings().next().unwrap().remaining;
        let full = left(at(0));
        assert_eq!((left(at(0)), left(at(0))), (full, full));
        assert_eq!(admitted(&table, &rules, &client, 3, at(0)), 3);
        assert_eq!(left(at(0)), full - 3);
        table.refund(&rules, &client, Meter::Pulls, 2, at(0));
        assert_eq!(left(at(0)), full - 1);
        // Never more than was taken.
        table.refund(&rules, &client, Meter::Pulls, 1000, at(0));
        assert_eq!(left(at(0)), full);
    }
}

#[test]
fn what_is_charged_afterwards_is_owed_and_denies_the_next() {
    let (table, client) = (Table::new(16), address("192.0.2.1"));
    let bytes = Throttle { burst: Some(16), ..setting("throttle_unauthenticated_bytes", 64, 48) };
    let rules = rules(&[pulls(1000, 60), bytes]);
    let ask = |now| table.check(&rules, &client, PULLS, Meter::Bytes.alone(), now);
    assert!(ask(at(0)).denied().is_none());
    table.charge(&rules, &client, Meter::Bytes, 20, at(0));
    // One comes back each second: 4 that are owed, and 1 that is asked for.
    assert_eq!(ask(at(0)).denied().map(|standing| standing.more_in), Some(Duration::from_secs(5)));
    assert!(ask(at(4)).denied().is_some());
    assert!(ask(at(5)).denied().is_none());
    // However much was sent, a burst and a period later it is forgiven.
    table.charge(&rules, &client, Meter::Bytes, u32::MAX, at(5));
    assert!(ask(at(5 + 48)).denied().is_some());
    assert!(ask(at(5 + 48 + 16)).denied().is_none());
}

#[test]
fn another_limit_takes_effect_at_once_and_no_client_starts_anew() {
    let (table, client) = (Table::new(16), address("192.0.2.1"));
    let wide = rules(&[Throttle { burst: Some(100), ..pulls(200, 100) }]);
    assert_eq!(admitted(&table, &wide, &client, 28, at(0)), 28);
    // What is owed is time: 28 s, of 100 s. Under half the limit it is half as many pulls.
    let narrow = rules(&[Throttle { burst: Some(50), ..pulls(100, 100) }]);
    let left = table.peek(&narrow, &client, PULLS, at(0)).standings().next().unwrap().remaining;
    assert_eq!(left, 36);
    let (off, changed) = narrow.with_mode("throttle_unauthenticated", Mode::Off);
    assert_eq!((changed, admitted(&table, &off, &client, 1000, at(0))), (1, 1000));
    assert_eq!(table.peek(&narrow, &client, PULLS, at(0)).standings().next().unwrap().remaining, left);
}

#[test]
fn a_restart_in_mid_window_changes_nothing_for_anybody() {
    for algorithm in [Algorithm::Gcra, Algorithm::FixedWindow] {
        let authenticated = Throttle { algorithm, ..setting("throttle_authenticated_pulls", 100, 600) };
        let rules = rules(&[Throttle { algorithm, ..pulls(100, 600) }, authenticated]);
        let before = Table::new(256);
        let clients: Vec<ClientKey> = (0..40)
            .map(|n| {
                if n % 4 == 0 { ClientKey::Principal(format!("p{n}").into()) } else { address(&format!("10.0.{n}.1")) }
            })
            .chain([address("2001:db8::1")])
            .collect();
        for (number, client) in clients.iter().enumerate() {
            admitted(&before, &rules, client, number, at(10));
        }
        let json = serde_json::to_string(&before.snapshot(&rules, at(20))).unwrap();
        let after = Table::new(256);
        after.restore(&serde_json::from_str(&json).unwrap());
        for client in &clients {
            for time in [20, 30, 200, 599, 700] {
                let left = |table: &Table| {
                    let decision = table.peek(&rules, client, PULLS, at(time));
                    let standing = decision.standings().next().unwrap();
                    // How often who owes nothing has asked is not kept.
                    let observed = if standing.reset_in.is_zero() { 0 } else { standing.observed };
                    (standing.remaining, observed, standing.more_in, standing.reset_in)
                };
                assert_eq!(left(&before), left(&after), "{client} after {time} s");
            }
            assert_eq!(admitted(&before, &rules, client, 200, at(30)), admitted(&after, &rules, client, 200, at(30)));
        }
        // Who owes nothing is not kept.
        assert_eq!(
            serde_json::to_string(&before.snapshot(&rules, at(100_000))).unwrap(),
            r#"{"clients":[],"networks":[]}"#
        );
    }
}

#[test]
fn a_dry_run_denies_no_request_and_counts_every_denial() {
    let settings = [Throttle { burst: Some(2), ..pulls(4, 60) }, setting("throttle_authenticated_pulls", 4, 60)];
    let enforced = rules(&settings);
    for selection in ["*", "throttle_unauthenticated_pulls", "throttle_unauthenticated", "throttle"] {
        let (table, control) = (Table::new(64), Table::new(64));
        let dry = Rules::new(&settings, &[selection.to_owned()], Rules::CEILING).unwrap();
        let mut would = 0;
        for step in 0..600 {
            let (client, now) = (address(&format!("10.{}.0.1", step % 3)), at(step / 4));
            let decision = table.check(&dry, &client, PULLS, Meters::NONE, now);
            assert!(decision.denied().is_none());
            would += decision.would_have_denied().count();
            // It says of each request what enforcing would have said.
            let enforced = control.check(&enforced, &client, PULLS, Meters::NONE, now);
            assert_eq!(enforced.denied().is_some(), decision.would_have_denied().count() == 1);
        }
        let tally = table.tally(dry.iter().next().unwrap());
        assert_eq!(tally, Tally { denied: 0, would_have_denied: would as u64, clients: 3 });
        assert!(would > 500, "{would}");
    }
    let other = Rules::new(&settings, &["throttle_authenticated".to_owned()], 8).unwrap();
    assert_eq!(other.iter().filter(|rule| rule.mode() == Mode::DryRun).count(), 1);
}

#[test]
fn a_selection_ends_where_a_word_ends() {
    for (selection, name, covered) in [
        ("*", "throttle_authenticated_pulls", true),
        ("throttle_authenticated", "throttle_authenticated_pulls", true),
        ("throttle_authenticated_", "throttle_authenticated_pulls", true),
        ("throttle_authenticated_pulls", "throttle_authenticated_pulls", true),
        ("throttle_auth", "throttle_authenticated_pulls", false),
        ("throttle_unauthenticated", "throttle_authenticated_pulls", false),
        ("", "throttle_authenticated_pulls", false),
        ("authenticated", "throttle_authenticated_pulls", false),
    ] {
        assert_eq!(covers(selection, name), covered, "{selection} {name}");
    }
}

#[test]
fn nonsense_is_refused_with_the_key() {
    for (bad, says) in [
        (setting("throttle_pulls", 1, 1), "no such throttle"),
        (setting("throttle_authenticated_blobs", 1, 1), "no such throttle"),
        (pulls(0, 1), "write 1 or more"),
        (pulls(1, 0), "write 1 or more"),
        (Throttle { burst: Some(9), ..pulls(8, 1) }, "burst"),
        (Throttle { burst: Some(0), ..pulls(8, 1) }, "burst"),
        (Throttle { burst: Some(u32::MAX), ..pulls(u32::MAX, u32::MAX) }, "too long"),
    ] {
        let error = Rules::new(std::slice::from_ref(&bad), &[], 8).unwrap_err().to_string();
        assert!(error.contains(says), "{bad:?}: {error}");
    }
    assert!(Rules::new(&[pulls(1, 1), pulls(2, 2)], &[], 8).unwrap_err().to_string().contains("twice"));
    // The widest ceiling that can be counted, and no overflow.
    let rules = rules(&[pulls(u32::MAX, u32::MAX), setting("throttle_authenticated_pulls", u32::MAX, 1)]);
    assert_eq!(admitted(&Table::new(16), &rules, &address("10.0.0.1"), 10, at(0)), 10);
}

#[test]
fn threads_that_race_are_admitted_exactly_the_burst() {
    let (table, rules, client) = (Table::new(16), rules(&[pulls(400, 3600)]), address("192.0.2.1"));
    let passed: usize = std::thread::scope(|scope| {
        let thread = || scope.spawn(|| admitted(&table, &rules, &client, 500, at(0)));
        let threads: Vec<_> = (0..8).map(|_| thread()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 100);
}

#[test]
fn a_clock_that_jumps_back_shuts_no_client_out_for_long() {
    let (table, rules, client) = (Table::new(16), rules(&[pulls(60, 60)]), address("192.0.2.1"));
    admitted(&table, &rules, &client, 1, at(1_000_000));
    let wait = table.check(&rules, &client, PULLS, Meters::NONE, at(0)).denied().unwrap().more_in;
    assert!(wait <= Duration::from_secs(90), "{wait:?}");
}

#[test]
fn all_addresses_of_one_64_are_one_client() {
    let (table, rules) = (Table::new(1 << 12), rules(&[pulls(36_000, 3600)]));
    let mut passed = 0;
    for number in 0..1_u128 << 16 {
        let address = (0x2001_0db8_0001_0002_u128 << 64) | (number * 0x9e37_79b9_7f4a_7c15) & u128::from(u64::MAX);
        let client = ClientKey::Address(key_address(std::net::Ipv6Addr::from(address).into()));
        passed += admitted(&table, &rules, &client, 1, at(0));
    }
    assert_eq!((passed, table.seated()), (9_000, (1, 1)));
}

#[test]
fn all_64s_of_one_48_stay_under_its_ceiling() {
    let (table, rules) = (Table::new(1 << 12), rules(&[pulls(36_000, 3600)]));
    let mut passed = 0;
    for subnet in 0..1_u128 << 16 {
        let address = (0x2001_0db8_0001_u128 << 80) | subnet << 64;
        let client = ClientKey::Address(key_address(std::net::Ipv6Addr::from(address).into()));
        passed += admitted(&table, &rules, &client, 2, at(0));
    }
    // Eight times 9,000 at once.
    assert_eq!(passed, 72_000);
    assert_eq!(table.seated().1, 1);
    assert!(table.seated().0 <= 1 << 12);
}

#[test]
fn a_spray_of_addresses_takes_no_more_memory_than_a_full_table() {
    const MOST: usize = 1 << 12;
    let (table, rules) = (Table::new(MOST), rules(&[pulls(100, 21_600)]));
    let known = address("192.0.2.1");
    assert_eq!(admitted(&table, &rules, &known, 1000, at(0)), 25);
    let mut passed = 0;
    for number in 0..500_000_u128 {
        let address = (0x2001_u128 << 112) | (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff_ffff) << 64;
        let client = ClientKey::Address(key_address(std::net::Ipv6Addr::from(address).into()));
        passed += admitted(&table, &rules, &client, 1, at(0));
    }
    let (clients, networks) = table.seated();
    assert!(clients <= MOST && networks <= MOST, "{clients} {networks}");
    // Who sprays is counted with the crowd once all seats are taken …
    assert!(passed <= clients + networks * 200 + 200, "{passed}");
    // … and frees no client, itself included, of what is owed.
    assert_eq!(admitted(&table, &rules, &known, 1000, at(1)), 0);
    // When the spray is over the seats are given to others.
    let late: usize =
        (0..100).map(|n| admitted(&table, &rules, &address(&format!("10.9.{n}.1")), 1, at(100_000))).sum();
    assert_eq!(late, 100);
    assert!(table.peek(&rules, &address("10.9.99.1"), PULLS, at(100_000)).standings().next().unwrap().remaining == 24);
}

#[test]
fn a_throttle_that_a_client_has_not_used_is_not_shown() {
    let not_found = setting("throttle_unauthenticated_not_found", 100, 3600);
    for not_found in [not_found.clone(), fixed(not_found)] {
        let (table, rules) = (Table::new(16), rules(&[pulls(100, 3600), not_found]));
        let client = address("192.0.2.1");
        let limiting = |now| {
            let decision = table.check(&rules, &client, PULLS, Meter::NotFound.alone(), now);
            assert!(decision.counts(Meter::NotFound) && !decision.counts(Meter::Bytes));
            decision.standings().map(|standing| standing.rule.meter()).collect::<Vec<_>>()
        };
        assert_eq!(limiting(at(0)), [Meter::Pulls]);
        table.charge(&rules, &client, Meter::NotFound, 1, at(0));
        let mut both = limiting(at(1));
        both.sort_by_key(|meter| *meter as u8);
        assert_eq!(both, [Meter::Pulls, Meter::NotFound]);
        // Of its network, too.
        let neighbour = address("192.0.2.2");
        let decision = table.check(&rules, &neighbour, PULLS, Meter::NotFound.alone(), at(1));
        assert_eq!(decision.standings().count(), 2);
        assert_eq!(limiting(at(3700)), [Meter::Pulls]);
    }
}
