//! *Overview*: the figures that an operator looks at first; and the menu of all pages.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weir::limits::{LimitsConfig, audit::Actor};
use weir_conformance::hub::{Fault, Kind, Match, Spec, What};

use super::harness::{Browser, Harness, password, rulebook};
use crate::{
    deploy::PATIENCE,
    mirror::support::{lookup, read},
};

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
        // That an image does not exist is an answer, and costs no pull.
        let absent = lookup(&format!("library/absent-{number}"), &[]);
        harness.bench.mirror.manifests.get(&absent, &"latest".parse().unwrap()).await.unwrap_err();
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
    let later = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(harness.limits.count_banned(later), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blobs_that_arrive_are_listed_with_their_image_progress_waiting_clients_and_source() {
    let harness = Harness::start().await;
    let bench = &harness.bench;
    let mut operator = Browser::new(&harness);
    let before = operator.get("/").body;
    assert!(!before.contains("Clients that wait") && status(&mut operator)["arriving"] == serde_json::json!([]));
    let image = bench.hub.push(Spec::new("library/app").layers([4 << 20]).single()).unwrap();
    let layer = image.platforms[0].blobs().max_by_key(|blob| blob.size).unwrap();
    let (lookup, digest) = (lookup("library/app", &[]), layer.digest.parse().unwrap());
    bench.mirror.manifests.get(&lookup, &"latest".parse().unwrap()).await.unwrap();
    bench.hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::CdnGet)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut reader = bench.mirror.blobs.get(&lookup, &digest, None).await.unwrap().reader;
        let size = layer.size;
        clients.spawn(async move { read(&mut reader, 0, size).await.unwrap().len() as u64 });
    }
    let begun = Instant::now();
    let fill = loop {
        let fill = status(&mut operator)["arriving"][0].clone();
        if fill["waiting"] == 3 && fill["bytes"] != 0 {
            break fill;
        }
        assert!(begun.elapsed() < PATIENCE, "{fill}");
        tokio::task::yield_now().await;
    };
    assert_eq!((fill["digest"].as_str(), fill["size"].as_u64()), (Some(&*layer.digest), Some(layer.size)));
    assert_eq!((&fill["repository"], &fill["from"]), (&"docker.io/library/app".into(), &"docker.io".into()));
    assert!(fill["bytes"].as_u64().unwrap() < layer.size, "{fill}");
    // A piece that comes wakes all of them for a moment, until half of the blob is there.
    let page = operator.until("/", "<div>3</div>").body;
    let row = page.split_once("Clients that wait").unwrap().1.split_once("</table>").unwrap().0;
    for words in ["docker.io/library/app", &*layer.digest, " of 4.0 MiB", "<div>3</div>", "<div>docker.io</div>"] {
        assert!(row.contains(words), "{words}: {row}");
    }
    bench.hub.release();
    while let Some(read) = clients.join_next().await {
        assert_eq!(read.unwrap(), layer.size);
    }
    while status(&mut operator)["arriving"] != serde_json::json!([]) {
        assert!(begun.elapsed() < PATIENCE, "it is listed for ever");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_the_overview_are_one_event_in_the_language_of_the_page() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let page = operator.get("/").body;
    assert!(page.contains("data-stream=\"/live\"") && page.contains("Load the page again"), "{page}");
    harness.block("10.1.0.7", "shop/<b>");
    for (accept, words) in [("en", "1 ban in force"), ("de", "1 Sperre in Kraft")] {
        let begun = Instant::now();
        let answer = loop {
            let answer = operator.send("GET", "/live", &[("Accept-Language", accept)], "");
            if answer.body.contains(words) {
                break answer;
            }
            // What the page has shown is shared for a while.
            assert!(begun.elapsed() < PATIENCE, "{words}: {}", answer.body);
        };
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
        let event = answer.body.strip_prefix("retry: 5000\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let parts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(event.unwrap()).unwrap();
        for id in parts.keys() {
            assert!(page.contains(&format!("<div id=\"{id}\">")), "{id}: {page}");
        }
        assert!(parts["figures"].as_str().unwrap().contains(words), "{words}: {parts:?}");
        assert_eq!(parts.len(), 6);
    }
}

/// Without that, another ban would be another event at once.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_ask_for_the_overview_at_once_share_an_event_and_the_next_has_what_is_new() {
    let harness = Harness::start().await;
    let [mut one, mut other] = [(); 2].map(|()| Browser::new(&harness));
    let shared = (1..=100).find(|ban| {
        let before = one.get("/live").body;
        harness.block(&format!("10.1.0.{ban}"), "shop/api");
        other.get("/live").body == before
    });
    let bans = shared.expect("a second passed between two requests a hundred times");
    other.until("/live", &format!("{bans} ban{} in force", if bans == 1 { "" } else { "s" }));
    // What a page has just shown is not taken back by what was shared before.
    one.get("/live");
    harness.block("10.2.0.7", "shop/api");
    let words = format!("{} bans in force", bans + 1);
    assert!(other.get("/").body.contains(&words) && other.get("/live").body.contains(&words));
}

/// An account has 32 sessions; the one that was used least lately makes room for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_the_overview_that_is_left_open_does_not_keep_its_session() {
    let harness = Harness::start().await;
    let log_in = |_: usize| {
        let mut visitor = Browser::new(&harness);
        visitor.host = "weir.example.com".to_owned();
        assert_eq!(visitor.log_in("ops", &password("ops"), "/").status, 303);
        visitor
    };
    let mut all: Vec<Browser> = (0..32).map(log_in).collect();
    assert_eq!((all[0].get("/live").status, all[1].get("/").status), (200, 200));
    log_in(32);
    let [open, used] = [0, 1].map(|at: usize| all[at].get("/").status);
    assert_eq!((open, used), (303, 200));
}
