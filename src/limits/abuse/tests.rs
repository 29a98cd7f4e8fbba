//! What each level takes, and what does not lead there.

use std::time::UNIX_EPOCH;

use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    client::ClientKey,
    limits::{
        bans::{MAX_DURATION, MIN_DURATION, NewBan},
        penalty::PenaltyLevel,
        throttle::Mode,
    },
    setting::Span,
};

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_100) + Duration::from_millis(millis)
}

fn client(number: u32) -> ClientKey {
    ClientKey::Address(std::net::Ipv4Addr::from(0x0a00_0000 + number).into())
}

fn failure<'a>(client: &'a ClientKey, reference: &'a str, outcome: Outcome) -> Failure<'a> {
    let ClientKey::Address(address) = client else { panic!("an address") };
    Failure { client, address: *address, method: "GET", repository: "shop/api", reference, status: 404, outcome }
}

/// The first step and after how many failures it came; one failure every `gap` ms.
fn record_failure(
    tracker: &mut AbuseTracker,
    settings: &Settings,
    count: u32,
    (start, gap): (u64, u64),
    outcome: Outcome,
    differ: bool,
) -> Option<(u32, NewBan)> {
    let client = client(7);
    (1..=count).find_map(|number| {
        let reference = if differ { format!("{start}-{number}") } else { "latest".to_owned() };
        let step = tracker.record_failure(
            settings,
            failure(&client, &reference, outcome),
            at(start + u64::from(number) * gap),
            at(start + u64::from(number) * gap),
            0.0,
        );
        step.map(|step| (number, step.ban))
    })
}

fn enforced() -> Settings {
    Settings { mode: Mode::Enforce, ..Settings::default() }
}

#[test]
fn asking_for_one_missing_thing_for_ever_stays_on_rung_1() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    // Every five seconds for twelve hours, as a server does whose image was deleted.
    assert!(record_failure(&mut tracker, &settings, 8640, (0, 5000), Outcome::Missing, false).is_none());
    let end = at(8640 * 5000);
    let held = |reference, now| tracker.miss_throttled(&settings, &client(7), "shop/api", reference, now);
    assert_eq!(held("latest", end), Some(Duration::from_secs(15)));
    assert_eq!(held("other", end), None);
    assert_eq!(held("latest", end + Duration::from_secs(300)), None);
    assert_eq!(tracker.miss_throttled(&settings, &client(8), "shop/api", "latest", end), None);
}

#[test]
fn the_wait_on_rung_1_grows_to_five_minutes() {
    let (mut tracker, settings) = (AbuseTracker::default(), Settings { same_reference: 3, ..enforced() });
    let mut waits = Vec::new();
    for number in 0..24 {
        tracker.record_failure(
            &settings,
            failure(&client(7), "latest", Outcome::Missing),
            at(number * 2000),
            at(number * 2000),
            0.0,
        );
        waits.push(
            tracker
                .miss_throttled(&settings, &client(7), "shop/api", "latest", at(number * 2000))
                .map_or(0, |it| it.as_secs()),
        );
    }
    assert_eq!(waits[..10], [0, 0, 0, 15, 15, 15, 30, 30, 30, 60]);
    assert_eq!(waits[23], 300);
}

#[test]
fn enumeration_leads_to_rung_2_and_again_to_rung_3_for_longer() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let (number, ban) = record_failure(&mut tracker, &settings, 1000, (0, 100), Outcome::Missing, true).unwrap();
    assert_eq!((number, ban.level, ban.rule.as_str()), (41, PenaltyLevel::Misses, "not_found_enumeration"));
    assert_eq!((ban.duration, ban.strikes, ban.simulated), (Duration::from_secs(300), 0, false));
    assert_eq!((ban.evidence.len(), ban.repositories), (20, vec!["shop/api".to_owned()]));
    // While it runs an equal step does not come again, a higher one may.
    let (_, ban) = record_failure(&mut tracker, &settings, 1000, (200_000, 10), Outcome::Missing, true).unwrap();
    assert_eq!((ban.level, ban.duration, ban.strikes), (PenaltyLevel::MissesBanned, Duration::from_secs(900), 1));
    assert!(record_failure(&mut tracker, &settings, 1000, (300_000, 10), Outcome::Missing, true).is_none());
    for (hours, minutes) in [(1, 60), (3, 240), (8, 240)] {
        let (_, ban) =
            record_failure(&mut tracker, &settings, 1000, (hours * 3_600_000, 10), Outcome::Missing, true).unwrap();
        assert_eq!(ban.duration, Duration::from_secs(minutes * 60), "{hours} h");
    }
    // Strikes fade: a week later it is the first again.
    let week = 8 * 24 * 3_600_000;
    let (_, ban) = record_failure(&mut tracker, &settings, 1000, (week, 10), Outcome::Missing, true).unwrap();
    assert_eq!((ban.level, ban.duration), (PenaltyLevel::Misses, Duration::from_secs(300)));
}

#[test]
fn forty_different_misses_in_ten_minutes_are_nothing() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    // 40 every ten minutes, for hours.
    assert!(record_failure(&mut tracker, &settings, 1000, (0, 15_000), Outcome::Missing, true).is_none());
}

#[test]
fn retries_are_one_failure() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    // containerd sends six in 2 ms, podman twenty in 35 s.
    assert!(record_failure(&mut tracker, &settings, 100_000, (0, 0), Outcome::Throttled, false).is_none());
    for number in 0..40 {
        let reference = format!("v{number}");
        for _ in 0..6 {
            assert!(
                tracker
                    .record_failure(
                        &settings,
                        failure(&client(9), &reference, Outcome::Missing),
                        at(number),
                        at(number),
                        0.0
                    )
                    .is_none()
            );
        }
    }
    assert!(tracker.miss_throttled(&settings, &client(9), "shop/api", "v1", at(40)).is_none());
}

#[test]
fn failed_logins_lead_to_rung_3_unless_one_succeeds() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    assert!(record_failure(&mut tracker, &settings, 29, (0, 1000), Outcome::AuthFailed, true).is_none());
    assert!(record_failure(&mut tracker, &settings, 1, (29_000, 1000), Outcome::AuthSucceeded, true).is_none());
    let (number, ban) =
        record_failure(&mut tracker, &settings, 100, (30_000, 1000), Outcome::AuthFailed, true).unwrap();
    assert_eq!((number, ban.level, ban.rule.as_str()), (30, PenaltyLevel::MissesBanned, "auth_failures"));
}

#[test]
fn going_on_after_denials_leads_to_rung_4_and_its_own_denials_do_not_prolong_it() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let denied = Outcome::Denied(PenaltyLevel::Misses);
    let (number, ban) = record_failure(&mut tracker, &settings, 10_000, (0, 100), denied, true).unwrap();
    assert_eq!((number, ban.level, ban.rule.as_str()), (601, PenaltyLevel::Client, "denied_requests"));
    let itself = Outcome::Denied(PenaltyLevel::Client);
    assert!(record_failure(&mut tracker, &settings, 100_000, (100_000, 10), itself, true).is_none());
    // Denials by level 2 are no misses.
    let mut tracker = AbuseTracker::default();
    assert!(record_failure(&mut tracker, &settings, 600, (0, 10), denied, true).is_none());
}

#[test]
fn a_quota_exceeded_three_times_leads_to_rung_2() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let (number, ban) =
        record_failure(&mut tracker, &settings, 10, (0, 1000), Outcome::UpstreamExceeded, true).unwrap();
    assert_eq!((number, ban.level, ban.rule.as_str()), (3, PenaltyLevel::Misses, "upstream_quota_exceeded"));
}

#[test]
fn a_dry_run_takes_the_same_steps_simulated_and_off_takes_none() {
    let mut tracker = AbuseTracker::default();
    let (number, ban) =
        record_failure(&mut tracker, &Settings::default(), 1000, (0, 100), Outcome::Missing, true).unwrap();
    assert_eq!((number, ban.simulated), (41, true));
    let off = Settings { mode: Mode::Off, ..Settings::default() };
    for outcome in [Outcome::Missing, Outcome::AuthFailed, Outcome::Throttled] {
        assert!(record_failure(&mut AbuseTracker::default(), &off, 10_000, (0, 10), outcome, true).is_none());
    }
}

#[test]
fn some_are_never_touched() {
    let settings = Settings { exempt: vec!["10.0.0.0/24".parse().unwrap()], ..enforced() };
    let cases = [
        (client(7), "10.0.0.7"),
        (ClientKey::Address([127, 0, 0, 1].into()), "127.0.0.1"),
        (ClientKey::Address("::1".parse().unwrap()), "::1"),
        (ClientKey::Principal("other".into()), "10.0.0.9"),
    ];
    let mut tracker = AbuseTracker::default();
    for (client, address) in &cases {
        for number in 0..2000 {
            let reference = format!("v{number}");
            let failure = Failure {
                client,
                address: address.parse().unwrap(),
                ..failure(&cases[0].0, &reference, Outcome::Missing)
            };
            assert!(tracker.record_failure(&settings, failure, at(number), at(number), 0.0).is_none(), "{client}");
        }
    }
    assert_eq!(tracker.watched(), 0);
}

#[test]
fn durations_are_spread_by_a_tenth() {
    for (jitter, seconds) in [(-1.0, 270), (0.0, 300), (1.0, 330), (99.0, 330)] {
        let (mut tracker, client) = (AbuseTracker::default(), client(7));
        let steps = (0..41).filter_map(|number: u32| {
            let reference = number.to_string();
            tracker.record_failure(&enforced(), failure(&client, &reference, Outcome::Missing), at(0), at(0), jitter)
        });
        assert_eq!(steps.map(|step| step.ban.duration.as_secs()).collect::<Vec<_>>(), [seconds]);
    }
}

#[test]
fn memory_is_bounded_and_who_has_most_to_its_name_stays() {
    let settings = enforced();
    let (mut tracker, known) = (AbuseTracker { max_clients: 100, ..AbuseTracker::default() }, client(7));
    (0..40).for_each(|number: u64| {
        tracker.record_failure(
            &settings,
            failure(&known, &number.to_string(), Outcome::Missing),
            at(number),
            at(number),
            0.0,
        );
    });
    for number in 100..50_000 {
        tracker.record_failure(&settings, failure(&client(number), "latest", Outcome::Missing), at(100), at(100), 0.0);
    }
    assert_eq!((tracker.watched(), tracker.order.len()), (100, 100));
    assert!(
        tracker
            .record_failure(&settings, failure(&known, "one more", Outcome::Missing), at(200), at(200), 0.0)
            .is_some()
    );
    for number in 0..10_000_u64 {
        tracker.record_failure(
            &settings,
            failure(&known, &number.to_string(), Outcome::Missing),
            at(number),
            at(number),
            0.0,
        );
    }
}

#[test]
fn a_pardon_forgets_what_was_counted() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    record_failure(&mut tracker, &settings, 40, (0, 100), Outcome::Missing, true);
    tracker.forget_failures(&client(7));
    assert!(record_failure(&mut tracker, &settings, 40, (10_000, 100), Outcome::Missing, true).is_none());
}

#[test]
fn a_step_is_never_longer_or_shorter_than_a_ban_may_be() {
    for (duration, jitter) in [(MAX_DURATION, 1.0), (MIN_DURATION, -1.0)] {
        let (mut tracker, settings) =
            (AbuseTracker::default(), Settings { durations: [Span(duration); 4], ..enforced() });
        let failures = (0..60).map(|number| format!("missing{number}")).collect::<Vec<_>>();
        let step = failures.iter().find_map(|it| {
            tracker.record_failure(&settings, failure(&client(7), it, Outcome::Missing), at(0), at(0), jitter)
        });
        assert_eq!(step.unwrap().ban.duration, duration);
    }
}

#[test]
fn who_never_wants_rung_1_has_none() {
    let (mut tracker, settings) = (AbuseTracker::default(), Settings { same_reference: u32::MAX, ..enforced() });
    assert!(record_failure(&mut tracker, &settings, 30, (0, 5000), Outcome::Missing, false).is_none());
    assert_eq!(tracker.miss_throttled(&settings, &client(7), "shop/api", "latest", at(150_000)), None);
}

#[test]
fn a_client_that_goes_round_missing_references_is_held_for_each() {
    let (mut tracker, settings) = (AbuseTracker::default(), Settings { same_reference: 3, ..enforced() });
    let held = |tracker: &AbuseTracker, reference, now| {
        tracker.miss_throttled(&settings, &client(7), "shop/api", reference, now).is_some()
    };
    for round in 0..4 {
        let now = at(round * 3000);
        for reference in ["a", "b", "c"] {
            assert!(!held(&tracker, reference, now), "{reference} after {round}");
            tracker.record_failure(&settings, failure(&client(7), reference, Outcome::Missing), now, now, 0.0);
        }
    }
    assert!(["a", "b", "c"].iter().all(|reference| held(&tracker, reference, at(9000))));
}

#[test]
fn misses_older_than_five_minutes_count_no_more() {
    let (mut tracker, settings) = (AbuseTracker::default(), Settings { same_reference: 3, ..enforced() });
    for seconds in [0, 10, 20, 250, 260] {
        let now = at(seconds * 1000);
        tracker.record_failure(&settings, failure(&client(7), "latest", Outcome::Missing), now, now, 0.0);
    }
    let held = |seconds: u64| tracker.miss_throttled(&settings, &client(7), "shop/api", "latest", at(seconds * 1000));
    assert_eq!(held(295), Some(Duration::from_secs(15)));
    assert_eq!(held(305), None);
}

#[test]
fn a_slow_enumeration_is_one_within_ten_minutes() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let (number, _) = record_failure(&mut tracker, &settings, 1000, (0, 14_000), Outcome::Missing, true).unwrap();
    assert_eq!(number, 41);
}

#[test]
fn every_ban_after_the_fourth_lasts_as_long_as_the_fourth() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let durations: Vec<_> = (0..12)
        .map(|number| {
            let start = number * 5 * 3_600_000;
            let (_, ban) = record_failure(&mut tracker, &settings, 100, (start, 10), Outcome::Missing, true).unwrap();
            ban.duration.as_secs() / 60
        })
        .collect();
    assert_eq!(durations[..3], [5, 15, 60]);
    assert_eq!(durations[6..], [240; 6]);
}

#[test]
fn clients_that_fail_by_turns_are_each_counted() {
    let (mut tracker, settings) = (AbuseTracker::default(), enforced());
    let mut banned = Vec::new();
    for number in 0..41_u64 {
        for one in 0..20 {
            let (client, now) = (client(one), at(number * 100));
            let reference = number.to_string();
            let failure = failure(&client, &reference, Outcome::Missing);
            banned.extend(tracker.record_failure(&settings, failure, now, now, 0.0).map(|step| step.client));
        }
    }
    assert_eq!(banned, (0..20).map(client).collect::<Vec<_>>());
}

#[test]
fn retries_of_many_things_at_once_are_one_failure_for_each() {
    let (mut tracker, settings) = (AbuseTracker::default(), Settings { same_reference: 3, ..enforced() });
    let references: Vec<_> = (0..40).map(|number| format!("v{number}")).collect();
    for retry in 0..6 {
        for reference in &references {
            let (one, now) = (client(7), at(retry * 100));
            let step = tracker.record_failure(&settings, failure(&one, reference, Outcome::Missing), now, now, 0.0);
            assert!(step.is_none(), "{reference} {retry}");
        }
    }
    let held = |reference: &String| tracker.miss_throttled(&settings, &client(7), "shop/api", reference, at(600));
    assert_eq!(references.iter().filter_map(held).next(), None);
}

#[test]
fn a_client_that_failed_more_than_once_is_remembered_longer_than_one_with_one_miss() {
    for (count, outcome) in [
        (41, Outcome::Missing),
        (5, Outcome::Missing),
        (20, Outcome::AuthFailed),
        (20, Outcome::Throttled),
        (20, Outcome::Denied(PenaltyLevel::Misses)),
    ] {
        let mut tracker = AbuseTracker { max_clients: 2, ..AbuseTracker::default() };
        record_failure(&mut tracker, &enforced(), count, (0, 10), outcome, true);
        for number in [8, 9] {
            let one = client(number);
            let failure = failure(&one, "latest", Outcome::Missing);
            tracker.record_failure(&enforced(), failure, at(1000), at(1000), 0.0);
        }
        let known = [7, 8, 9].map(|number| tracker.watched.contains_key(&client(number)));
        assert_eq!(known, [true, false, true], "{count} {outcome:?}");
    }
}
