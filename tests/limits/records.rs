//! What operators can read of refusals, bans and what was saved: in the log, in the metrics, and after a restart.

use rustix::process::Signal;
use serde_json::Value;

use super::{PROXY, support::World, throttle};
use crate::pages::harness::Browser;

const PULLS: &str = "throttle_unauthenticated_pulls";

/// Lines of the log with this target.
fn lines(world: &World, target: &str) -> Vec<Value> {
    let log = world.weir.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == target).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_logged_and_counted_by_client_resource_and_rule() {
    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 4, "burst = 1"))).await;
    world.images("a", 1);
    let mut throttled = world.client("192.0.2.7");
    assert_eq!((throttled.pull("a0").status, throttled.pull("a0").status), (200, 429));
    let ban = world.admin("POST", "/api/v1/bans", r#"{"client":"192.0.2.8","duration":"1h","reason":"hammering"}"#);
    let mut banned = world.client("192.0.2.8");
    assert_eq!(banned.pull("a0").status, 403);
    // The line of a request is written when its body has gone out.
    while !lines(&world, "weir::access").iter().any(|line| line["status"] == 403) {
        std::thread::yield_now();
    }

    let path = "/v2/library/a0/manifests/latest";
    for (client, status, rule) in [("192.0.2.7", 429, PULLS), ("192.0.2.8", 403, "admin")] {
        let access = lines(&world, "weir::access");
        let line = access.iter().find(|line| line["status"] == status).unwrap_or_else(|| panic!("{access:?}"));
        let said = (&line["client"], &line["path"], &line["rule"]);
        assert_eq!(said, (&client.into(), &path.into(), &rule.into()), "the proxy is no client: {line}");
        assert_eq!(line["upstream"], "docker.io", "{line}");
    }
    let metrics = world.weir.admin("GET", "/metrics", "").body;
    for counted in [
        r#"weir_http_requests_total{kind="manifest",method="GET",status="429"} 1"#,
        r#"weir_http_requests_total{kind="manifest",method="GET",status="4xx"} 1"#,
        r#"weir_throttle_denied_total{throttle="throttle_unauthenticated_pulls"} 1"#,
        "weir_bans_active 1",
    ] {
        assert!(metrics.contains(counted), "{counted}: {metrics}");
    }

    world.admin(
        "POST",
        &format!("/api/v1/bans/{}/lift", ban["id"].as_str().unwrap()),
        r#"{"reason":"talked to them"}"#,
    );
    let refused = world.weir.admin("POST", "/api/v1/bans", r#"{"client":"10.0.0.0/8","duration":"1h"}"#);
    assert_eq!(refused.status, 422);
    let events = lines(&world, "weir::ban");
    let said: Vec<_> = events.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(said, ["banned", "ban lifted", "attempt refused"], "{events:?}");
    for line in &events[..2] {
        let said = (&line["ban"], &line["client"], &line["rule"]);
        assert_eq!(said, (&ban["id"], &"192.0.2.8".into(), &"admin".into()), "{line}");
    }
    assert_eq!(events[1]["reason"], "talked to them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_was_extended_ends_as_late_after_a_kill() {
    let mut world = World::start(None, PROXY).await;
    world.images("a", 1);
    let ban = world.admin("POST", "/api/v1/bans", r#"{"client":"192.0.2.8","duration":"1h","reason":"hammering"}"#);
    let id = ban["id"].as_str().unwrap().to_owned();
    let mut operator = Browser { admin: world.weir.admin, host: world.weir.admin.to_string(), cookie: String::new() };
    let token = operator.get(&format!("/blocked/{id}")).token();
    let fields = [("csrf", &*token), ("duration", "2d"), ("why", "it goes on")];
    assert_eq!(operator.post(&format!("/blocked/{id}/end"), &fields).status, 303);
    let until = |world: &World| world.admin("GET", &format!("/api/v1/bans/{id}"), "")["until"].clone();
    let moved = until(&world);
    assert_ne!(moved, ban["until"]);
    world.restart(Signal::KILL);
    assert_eq!(until(&world), moved);
    assert_eq!(world.client("192.0.2.8").pull("a0").status, 403);
}

/// An automatic ban leaves a line too, with its rule.
#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_ban_is_in_the_log() {
    let world = World::start(None, &format!("{PROXY}[ban]\nmode = \"enforce\"\ndifferent_references = 3\n")).await;
    let mut client = world.client("192.0.2.7");
    (0..5).for_each(|number| drop(client.pull(&format!("missing{number}"))));
    world.weir.until_log(0, "\"target\":\"weir::ban\"");
    let line = &lines(&world, "weir::ban")[0];
    let said = (&line["message"], &line["client"], &line["rule"]);
    assert_eq!(said, (&"banned".into(), &"192.0.2.7".into(), &"not_found_enumeration".into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_survives_a_restart_and_the_figures_of_the_budget_add_up() {
    let mut world = World::start(Some(100), PROXY).await;
    world.images("a", 3);
    let mut client = world.client("192.0.2.7");
    for _ in 0..4 {
        (0..3).for_each(|number| assert_eq!(client.pull(&format!("a{number}")).status, 200));
    }
    // A neighbour behind the same address, and then one more pull of our own.
    world.hub.set_budget(50);
    world.images("b", 1);
    assert_eq!(client.pull("b0").status, 200);
    drop(client);
    let figures = |world: &World| {
        let budget = world.admin("GET", "/api/v1/budget", "");
        let identity = &budget["identities"][0];
        let sum: i64 = ["remaining", "spent", "external_spend", "unexplained"]
            .iter()
            .map(|name| identity[name].as_i64().unwrap_or_else(|| panic!("{name}: {budget}")))
            .sum();
        assert_eq!(Some(sum), identity["limit"].as_i64(), "{budget}");
        assert_eq!((&identity["spent"], &identity["external_spend"]), (&4.into(), &47.into()), "{budget}");
        (budget["saved"].as_u64().unwrap(), budget["saved_since"].clone())
    };
    let before = figures(&world);
    assert_eq!(before.0, 9);
    world.restart(Signal::TERM);
    assert_eq!(figures(&world), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_names_the_upstream_of_what_was_refused_why_the_budget_refused_and_who_paid() {
    let classes = "[[class]]\nname = \"critical\"\ncidr = [\"10.1.0.0/16\"]\n\
                   [[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\n";
    let world = World::start(Some(10), &format!("{PROXY}{classes}")).await;
    world.images("a", 11);
    world.admin("POST", "/api/v1/bans", r#"{"client":"192.0.2.8","duration":"1h","reason":"hammering"}"#);
    let mut scanner = world.client("10.9.0.7");
    let statuses: Vec<u16> = (0..7).map(|number| scanner.pull(&format!("a{number}")).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429], "four of ten are kept from bulk");
    assert_eq!(scanner.pull("a0").status, 200);
    let status = world.admin("GET", "/api/v1/status", "");
    let refused =
        "1 request was refused for want of a pull in the last 15 minutes; the access log has the rule of each.";
    assert_eq!((&status["health"], &status["reasons"]), (&"degraded".into(), &serde_json::json!([refused])));
    let mut production = world.client("10.1.0.1");
    let statuses: Vec<u16> = (6..11).map(|number| production.pull(&format!("a{number}")).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429], "none is left");
    assert_eq!(world.client("192.0.2.8").pull("a0").status, 403);
    while lines(&world, "weir::access").len() < 14 {
        std::thread::yield_now();
    }
    let access = lines(&world, "weir::access");
    let line = |client: &str, image: u64, status: u16| {
        let path = format!("/v2/library/a{image}/manifests/latest");
        let of = |line: &&Value| line["client"] == client && line["path"] == *path && line["status"] == status;
        access.iter().find(of).unwrap_or_else(|| panic!("{client} {path} {status}: {access:?}"))
    };
    for (client, image, status, rule, paid_by) in [
        ("10.9.0.7", 1, 200, None, Some("anonymous")),
        ("10.9.0.7", 6, 429, Some("budget_floor"), None),
        ("10.1.0.1", 6, 200, None, Some("anonymous")),
        ("10.1.0.1", 10, 429, Some("budget_exhausted"), None),
        ("192.0.2.8", 0, 403, Some("admin"), None),
    ] {
        let line = line(client, image, status);
        assert_eq!((line["rule"].as_str(), line["paid_by"].as_str()), (rule, paid_by), "{line}");
        assert_eq!(line["upstream"], "docker.io", "{line}");
    }
    let warm = access.iter().filter(|line| line["path"] == "/v2/library/a0/manifests/latest" && line["cache"] == "hit");
    assert_eq!(warm.map(|line| &line["paid_by"]).collect::<Vec<_>>(), [&Value::Null], "what is cached costs nothing");
    let page = world.weir.admin("GET", "/client?client=10.9.0.7", "").body;
    assert!(page.contains("budget_floor"), "the page of the client says why: {page}");
}
