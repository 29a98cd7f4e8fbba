//! What operators do with bans and read of clients, and what clients use of upstream and of logins.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    client::Client,
    limits::{
        bans::{BanError, BanFilter},
        permit::{AdmissionRequest, RequestInfo, RequestKind},
        throttle::{Algorithm, Throttle},
    },
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

fn ops() -> Actor {
    Actor::new("ops", None)
}

fn client() -> Client {
    Client::anonymous([192, 0, 2, 7].into(), [192, 0, 2, 7].into())
}

fn limits(throttle: &str, requests_per_period: u32) -> Limits {
    let (name, algorithm) = (throttle.to_owned(), Algorithm::FixedWindow);
    let setting =
        Throttle { name, requests_per_period, period_in_seconds: 3600, burst: None, algorithm, mode: Mode::Enforce };
    Limits::in_memory(LimitsConfig { throttles: Rules::new(&[setting], &[], 0).unwrap(), ..LimitsConfig::default() })
}

fn wish(client: &str, force: bool) -> BanRequest {
    let client = client.parse().unwrap();
    BanRequest { client, duration: Duration::from_secs(60), reason: String::new(), force }
}

#[test]
fn an_upstream_quota_counts_what_was_fetched_and_not_what_was_given_back() {
    let (limits, client) = (limits("throttle_unauthenticated_upstream", 3), client());
    let about = RequestInfo { method: "GET", repository: "docker.io/library/a", reference: "1" };
    let may_fetch = || limits.admit_upstream(&client, about, now()).is_ok();
    assert_eq!([may_fetch(), may_fetch(), may_fetch()], [true; 3]);
    limits.refund_upstream(&client, now());
    assert_eq!([may_fetch(), may_fetch()], [true, false]);
}

#[test]
fn a_login_that_fails_is_counted_and_one_that_succeeds_is_not() {
    let (limits, client) = (limits("throttle_unauthenticated_auth", 3), Arc::new(client()));
    let about = RequestInfo { method: "GET", repository: "", reference: "" };
    let admitted = || {
        let request = AdmissionRequest { client: client.clone(), kind: RequestKind::Registry, about, bypass: None };
        limits.admit(&request, now()).is_ok()
    };
    (0..10).for_each(|_| limits.record_login(&client, true, now()));
    assert!(admitted());
    (0..10).for_each(|_| limits.record_login(&client, false, now()));
    assert!(!admitted());
}

#[test]
fn a_ban_of_an_account_that_is_not_configured_must_be_meant_and_one_of_no_address_is_refused() {
    let limits = limits("throttle_unauthenticated_pulls", 10);
    let ban = |client, force| limits.ban(wish(client, force), &ops(), now()).map(|record| record.client.to_string());
    assert!(matches!(ban("cii", false), Err(BanError::UnknownAccount(_))));
    assert_eq!(ban("cii", true), Ok("cii".to_owned()));
    for force in [false, true] {
        assert!(matches!(ban("10.1.2.300", force), Err(BanError::NotAnAddress(_))));
    }
    for name in ["robot.1", "a.b"] {
        assert_eq!(ban(name, true), Ok(name.to_owned()));
    }
    assert_eq!(ban("10.1.2.3", false), Ok("10.1.2.3".to_owned()));
}

#[test]
fn bans_are_counted_shown_exported_and_imported() {
    let (one, other) = (limits("throttle_unauthenticated_pulls", 10), limits("throttle_unauthenticated_pulls", 10));
    let record = one.ban(wish("192.0.2.7", false), &ops(), now()).unwrap();
    assert_eq!((one.count_bans(now()), other.count_bans(now())), ((1, 0), (0, 0)));
    assert_eq!(one.get_ban(&record.id), Some(record.clone()));
    let imported = other.import(&one.export(), false, &ops(), now()).unwrap();
    assert_eq!(imported.iter().map(|record| record.client.clone()).collect::<Vec<_>>(), [record.client]);
    assert_eq!(other.bans(&BanFilter::default(), now()), imported);
}

#[test]
fn records_that_cannot_be_read_are_counted_and_a_throttle_is_switched_only_by_hand() {
    let records = vec![b"{".to_vec(), Vec::new()];
    for (usage, unreadable) in [(None, 2), (Some(b"[".to_vec()), 3)] {
        let kept = PersistedState { records: records.clone(), usage };
        let sink = Arc::new(|_: &Entry| ());
        let (_, found) = Limits::new(LimitsConfig::default(), &kept, sink, Box::new(|| 1), now());
        assert_eq!(found, unreadable);
    }
    let limits = limits("throttle_unauthenticated_pulls", 10);
    assert_eq!((limits.throttles()[0].switched, limits.throttles()[0].burst), (false, None));
    limits.set_mode("*", Mode::Off, "", &ops(), now());
    assert!(limits.throttles()[0].switched);
}
