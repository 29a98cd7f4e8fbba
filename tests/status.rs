//! `weir status`, `weir healthcheck` and the API behind them.

use rustix::process::Signal;
use serde_json::Value;
use weir_conformance::hub::{self, Fault, Hub, Spec, What};

use crate::deploy::{Running, ask, printed, weir};

fn command(running: &Running, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = format!("http://{}", running.admin);
    let output = weir(&[arguments, &["--admin", &admin]].concat()).output().unwrap();
    (output.status.code(), printed(&output))
}

fn api(running: &Running, path: &str) -> Value {
    let (status, _, body) = ask(running.admin, "GET", path, "");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn get(running: &Running, path: &str) -> u16 {
    ask(running.registry, "GET", path, "Accept: */*\r\n").0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_was_served_from_the_cache_and_what_was_fetched() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let image = hub.push(Spec::new("library/app").single()).unwrap();
    let running = Running::start(&[("WEIR_UPSTREAM__0__URL", &format!("http://{}", hub.registry_address()))]);
    let before = api(&running, "/api/v1/status");
    assert_eq!((&before["health"], &before["hit_ratio"]), (&"healthy".into(), &Value::Null));
    assert_eq!(before.get("byte_hit_ratio"), Some(&Value::Null));
    let layer = image.platforms[0].blobs().max_by_key(|blob| blob.size).unwrap();
    let paths = ["manifests/latest".to_owned(), format!("blobs/{}", layer.digest)];
    for _ in ["cold", "warm"] {
        for path in &paths {
            assert_eq!(get(&running, &format!("/v2/library/app/{path}")), 200);
        }
        // A blob that still arrives is no answer from the cache.
        while api(&running, "/api/v1/status")["fills"] != 0 {
            std::thread::yield_now();
        }
    }
    let status = api(&running, "/api/v1/status");
    let totals = &status["totals"];
    assert_eq!((&totals["requests"], &totals["answers"], &totals["from_cache"]), (&4.into(), &4.into(), &2.into()));
    assert_eq!(status["hit_ratio"], 0.5);
    assert_eq!(totals["received_bytes"], layer.size, "a warm pull receives nothing");
    assert!(totals["sent_bytes"].as_u64().unwrap() > 2 * layer.size, "{totals}");
    let metrics = ask(running.admin, "GET", "/metrics", "").2;
    for line in [
        r#"weir_http_first_byte_seconds_count{kind="manifest",cache="miss"} 1"#,
        r#"weir_http_first_byte_seconds_count{kind="manifest",cache="hit"} 1"#,
        r#"weir_http_request_seconds_count{kind="blob",cache="hit"} 1"#,
        r#"weir_upstream_request_seconds_count{upstream="docker.io",kind="blob_get"} 1"#,
        "weir_fill_seconds_count 1",
        r#"weir_http_upstream_requests_total{upstream="docker.io",cache="miss"} 2"#,
        r#"weir_http_upstream_requests_total{upstream="docker.io",cache="hit"} 2"#,
        r#"weir_budget_decisions_total{class="standard",decision="spent"} 1"#,
        r#"weir_budget_decisions_total{class="standard",decision="denied"} 0"#,
        "weir_budget_wait_seconds_count 0",
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line}\n{metrics}");
    }
    let figure = |begin: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_else(|| panic!("{begin}"));
        line.trim().parse::<u64>().unwrap()
    };
    let sent = |cache: &str| {
        figure(&format!(r#"weir_http_upstream_sent_bytes_total{{upstream="docker.io",cache="{cache}"}}"#))
    };
    assert_eq!((sent("hit"), sent("hit") + sent("miss")), (sent("miss"), totals["sent_bytes"].as_u64().unwrap()));
    let (free, all) = (figure("weir_storage_filesystem_free_bytes "), figure("weir_storage_filesystem_bytes "));
    assert!(free > 0 && free < all, "{free} of {all}");
    let (code, text) = command(&running, &["status"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("healthy (weir ") && text.contains("50.0 %"), "{text}");
    let (code, json) = command(&running, &["status", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["totals"], *totals);
    // One more blob from the cache is one of five answers and more than a fifth of their bytes.
    let sent = totals["sent_bytes"].as_u64().unwrap();
    assert_eq!(get(&running, &format!("/v2/library/app/{}", paths[1])), 200);
    let status = loop {
        let status = api(&running, "/api/v1/status");
        if status["totals"]["sent_bytes"] == sent + layer.size {
            break status;
        }
        std::thread::yield_now();
    };
    let by_bytes = (sent / 2 + layer.size) as f64 / (sent + layer.size) as f64;
    assert_eq!((&status["hit_ratio"], &status["byte_hit_ratio"]), (&0.6.into(), &by_bytes.into()));
    let said = format!("60.0 % of answers, {:.1} % of bytes", 100.0 * by_bytes);
    let (_, text) = command(&running, &["status"]);
    assert!(text.contains(&said) && !said.contains(" 60.0 % of bytes"), "{said}: {text}");
    assert_eq!(api(&running, "/api/v1/history?n=1440"), serde_json::json!({"minutes": []}), "no minute is over");
    assert_eq!(ask(running.admin, "GET", "/api/v1/history?n=x", "").0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn weir_is_down_when_no_upstream_answers_and_the_status_says_why() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let running = Running::start(&[("WEIR_UPSTREAM__0__URL", &format!("http://{}", hub.registry_address()))]);
    for number in 0..10 {
        hub.push(Spec::new(format!("library/x{number}")).seed(number)).unwrap();
    }
    hub.fault(Fault::always(What::Status(503)));
    let mut asked = 0;
    while api(&running, "/api/v1/status")["health"] == "healthy" {
        // The failures of one repository say nothing of the others.
        assert_eq!(get(&running, &format!("/v2/library/x{asked}/manifests/latest")), 503);
        asked += 1;
    }
    let (code, text) = command(&running, &["status"]);
    assert_eq!(code, Some(1), "{text}");
    // The pause of the upstream, half a second at least, may be over when the command asks.
    let why = ["not asked until ", "failed, and the next request shows whether it still does: "];
    let is_said = why.iter().any(|why| text.contains(&format!("upstream docker.io: {why}")));
    assert!(text.contains("down (weir ") && is_said, "{text}");
    assert!(text.contains("it is down"), "{text}");
    assert_eq!(command(&running, &["healthcheck"]), (Some(0), String::new()), "the process answers all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weir_that_does_not_answer_fails_the_health_check_and_has_no_status() {
    let running = Running::start(&[]);
    assert_eq!(command(&running, &["healthcheck", "--ready"]), (Some(0), String::new()));
    let admin = format!("http://{}", running.admin);
    running.signal(Signal::KILL);
    drop(running);
    for (arguments, expected) in [(&["healthcheck"][..], 1), (&["status"], 2)] {
        let output = weir(&[arguments, &["--admin", &admin]].concat()).output().unwrap();
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(expected), "{text}");
        assert!(text.contains("no weir answers on "), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_refused_is_in_the_status_and_the_metrics_until_it_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weir.toml");
    std::fs::write(&file, "[server]\n").unwrap();
    let running = Running::start(&[("WEIR_CONFIG", file.to_str().unwrap())]);
    assert_eq!(api(&running, "/api/v1/status")["reload"], Value::Null);
    let successful = |value: u8| {
        let line = format!("\nweir_config_last_reload_successful {value}\n");
        ask(running.admin, "GET", "/metrics", "").2.contains(&line)
    };
    assert!(successful(1));
    std::fs::write(&file, "[sever]\n").unwrap();
    running.signal(Signal::HUP);
    while api(&running, "/api/v1/status")["reload"] == Value::Null {
        std::thread::yield_now();
    }
    let status = api(&running, "/api/v1/status");
    assert_eq!(status["health"], "degraded");
    let reason = status["reasons"][0].as_str().unwrap();
    assert!(
        reason.contains("The configuration that is written now is not used") && reason.contains("sever"),
        "{reason}"
    );
    assert!(successful(0));
    std::fs::write(&file, "[server]\n").unwrap();
    running.signal(Signal::HUP);
    while api(&running, "/api/v1/status")["health"] != "healthy" {
        std::thread::yield_now();
    }
    assert!(successful(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_with_nothing_left_is_a_reason_until_a_pull_comes_back() {
    let hub = Hub::start(hub::Settings { limit: Some(hub::Limit::hub(2)), ..hub::Settings::default() }).await.unwrap();
    let running = Running::start(&[("WEIR_UPSTREAM__0__URL", &format!("http://{}", hub.registry_address()))]);
    for number in 0..3 {
        hub.push(Spec::new(format!("library/x{number}")).seed(number).single()).unwrap();
    }
    assert_eq!(get(&running, "/v2/library/x0/manifests/latest"), 200);
    assert_eq!(api(&running, "/api/v1/status")["health"], "healthy", "a pull is left");
    assert_eq!(get(&running, "/v2/library/x1/manifests/latest"), 200);
    assert_eq!(get(&running, "/v2/library/x2/manifests/latest"), 429);
    let status = api(&running, "/api/v1/status");
    assert_eq!(status["health"], "degraded");
    let reason = status["reasons"][0].as_str().unwrap();
    let next = status["budget"][0]["next_at"].as_str().unwrap();
    let begin = "docker.io as anonymous: none of 2 pulls is left, so that what is not cached waits or is refused; ";
    assert_eq!(reason, format!("{begin}the next one comes back at {next} by forecast."));
    let refused =
        "1 request was refused for want of a pull in the last 15 minutes; the access log has the rule of each.";
    assert_eq!(status["reasons"].as_array().unwrap()[1..], [Value::from(refused)]);
    let (code, text) = command(&running, &["status"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("degraded (weir ") && text.contains(begin), "{text}");
    let page = ask(running.admin, "GET", "/", "Accept: text/html\r\n").2;
    assert!(page.contains(begin) && !page.contains("Everything works."), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_by_a_ban_or_deny_are_denials_as_those_for_want_of_budget_are() {
    let hub = Hub::start(hub::Settings { limit: Some(hub::Limit::hub(1)), ..hub::Settings::default() }).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weir.toml");
    let url = hub.registry();
    let config = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[[upstream]]\nname = \"docker.io\"\ndefault = true\n\
         url = \"{url}\"\ndeny = [\"library/secret\"]\n"
    );
    std::fs::write(&file, config).unwrap();
    let running = Running::start(&[("WEIR_CONFIG", file.to_str().unwrap())]);
    for number in 0..2 {
        hub.push(Spec::new(format!("library/x{number}")).seed(number).single()).unwrap();
    }
    let denied = || {
        let status = api(&running, "/api/v1/status");
        (status["totals"]["denied"].as_u64().unwrap(), status["last_hour"]["denied"].as_u64().unwrap())
    };
    assert_eq!(get(&running, "/v2/library/x0/manifests/latest"), 200);
    assert_eq!(get(&running, "/v2/library/none/manifests/latest"), 404);
    assert_eq!(denied(), (0, 0));
    assert_eq!(get(&running, "/v2/library/x1/manifests/latest"), 429);
    assert_eq!(denied(), (1, 1));
    assert_eq!(get(&running, "/v2/library/secret/manifests/latest"), 403);
    assert_eq!(denied(), (2, 2));
    let (code, text) = command(&running, &["ban", "add", "192.0.2.7", "--reason", "hammering"]);
    assert_eq!(code, Some(0), "{text}");
    let banned = "Accept: */*\r\nX-Forwarded-For: 192.0.2.7\r\n";
    assert_eq!(ask(running.registry, "GET", "/v2/library/x0/manifests/latest", banned).0, 403);
    assert_eq!(denied(), (3, 3));
    let page = ask(running.admin, "GET", "/", "Accept: text/html\r\n").2;
    assert!(page.contains("3 requests and 1 ban in the last hour"), "{page}");
}
