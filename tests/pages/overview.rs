//! *Overview*: the figures that an operator looks at first; and the menu of all pages.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weir::limits::{LimitsConfig, audit::Actor};
use weir_conformance::hub::Spec;

use super::harness::{Browser, Harness, rulebook};
use crate::{deploy::PATIENCE, mirror::support::lookup};

fn status(operator: &mut Browser) -> serde_json::Value {
    serde_json::from_str(&operator.get("/api/v1/status").body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hit_ratio_is_shown_by_requests_and_by_bytes() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let page = operator.until("/", " by requests, 75.0 % by bytes").body;
    assert!(!page.contains("75.0 % by requests"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_shown_with_its_latency_once_it_was_asked() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let before = &status(&mut operator)["upstreams"][0];
    assert_eq!((&before["name"], &before["requests"]), (&"docker.io".into(), &0.into()));
    assert_eq!(before.get("mean_seconds"), Some(&serde_json::Value::Null));
    let page = operator.get("/").body;
    assert!(page.contains("Latency") && !page.contains("on average"), "{page}");
    let begun = Instant::now();
    // The minutes of a test are short, so that what was asked is soon no longer of the last ones.
    for number in 0_u64.. {
        assert!(begun.elapsed() < PATIENCE, "no latency is shown");
        let name = format!("library/app-{number}");
        harness.bench.hub.push(Spec::new(&name).seed(number)).unwrap();
        harness.bench.mirror.manifests.get(&lookup(&name, &[]), &"latest".parse().unwrap()).await.unwrap();
        let upstream = &status(&mut operator)["upstreams"][0];
        let page = operator.get("/").body;
        if upstream["mean_seconds"].as_f64().is_some_and(|mean| mean > 0.0) && page.contains(" ms on average, ") {
            assert!(upstream["requests"].as_u64().unwrap() > 0 && page.contains(" in 15 minutes"), "{upstream} {page}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bans_of_the_last_hour_are_counted_whether_or_not_they_are_still_in_force() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    assert_eq!(status(&mut operator)["last_hour"]["bans"], 0);
    let ban = harness.block("10.1.0.7", "shop/api");
    harness.block("10.1.0.8", "shop/api");
    let page = operator.get("/").body;
    assert!(page.contains(" and 2 bans in the last hour") && page.contains("2 bans in force"), "{page}");
    let token = operator.get(&format!("/blocked/{ban}")).token();
    operator.post(&format!("/blocked/{ban}/lift"), &[("csrf", &token), ("reason", "mended")]);
    let page = operator.get("/").body;
    assert!(page.contains(" and 2 bans in the last hour") && page.contains("1 ban in force"), "{page}");
    let status = status(&mut operator);
    assert_eq!((&status["last_hour"]["bans"], &status["bans"]["active"]), (&2.into(), &1.into()));
    assert!(status["last_hour"]["denied"].is_u64(), "{status}");
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(harness.limits.count_banned(later), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_menu_of_an_operator_has_what_there_is_to_do() {
    let harness = Harness::start().await;
    let unblock = "<a href=\"/unblock\">";
    let mut operator = Browser::new(&harness);
    let page = operator.get("/").body;
    assert!(!page.contains(unblock) && page.contains("<a href=\"/login\">"), "{page}");
    assert!(operator.get("/unblock").body.contains("<a href=\"/unblock\" aria-current"), "the page itself is in it");
    let mut ops = Browser::logged_in(&harness, "ops");
    let page = ops.get("/").body;
    assert!(!page.contains(unblock) && !page.contains("<a href=\"/login\">"), "{page}");
    assert!(Browser::logged_in(&harness, "ann").get("/blocked").body.contains(unblock), "it is all that a user has");
    harness.block("10.1.0.7", "shop/api");
    for page in [operator.get("/").body, ops.get("/").body] {
        assert!(page.contains(unblock), "{page}");
    }
    let config = LimitsConfig { accounts: Arc::from([]), ..rulebook() };
    harness.limits.reload(config, &Actor::new("test", None), SystemTime::now());
    assert!(!operator.get("/").body.contains("<a href=\"/login\">"), "no account could log in");
}
