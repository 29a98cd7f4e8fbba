//! *Clients* and one client: what is known of it, and what it asked lately.

use std::{sync::Arc, time::SystemTime};

use weir::limits::{
    LimitsConfig,
    audit::Actor,
    throttle::{Algorithm, Mode, Rules, Throttle},
};

use super::harness::{Browser, Harness, rulebook};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_class_its_throttles_its_bans_and_what_it_asked_lately() {
    let harness = Harness::start().await;
    harness.spend().await;
    harness.pull("10.5.0.1", 15);
    harness.ask("10.5.0.1", 9);
    harness.ask("10.5.0.2", 1);
    let ban = harness.block("10.5.0.2", "library/nginx");
    let mut operator = Browser::new(&harness);
    let list = operator.get("/clients").body;
    assert!(list.contains("href=\"/client?client=10.5.0.1\"") && list.contains("8.8 KiB"), "{list}");
    assert!(list.contains(&format!("href=\"/blocked/{ban}\"")), "{list}");
    let part = operator.get("/clients?part=0.0.2").body;
    assert!(!part.contains("client=10.5.0.1") && part.contains("No such client"), "{part}");

    let page = operator.get("/client?client=10.5.0.1");
    for words in [
        "standard",
        "throttle_unauthenticated_pulls",
        ">15<",
        "9 requests, 1 refused",
        "8.8 KiB sent to it",
        "library/image-0:latest",
        "GET /v2/library/image-8/manifests/latest?ns=docker.io",
        "429",
        "None that is remembered.",
    ] {
        assert!(page.status == 200 && page.body.contains(words), "{words}: {}", page.body);
    }
    // The budget of the harness knows other limits than its pages, but the ledger names who spent.
    assert!(page.body.contains("What it spent upstream") && page.body.contains("docker.io/library/image-"));
    let images = page.body.split_once("Images that it asks for").unwrap().1;
    assert!(images.find("image-0:latest") < images.find("image-1:latest"), "the most asked for first: {images}");

    let banned = operator.get("/client?client=10.5.0.2").body;
    assert!(banned.contains("It is blocked") && banned.contains(&format!("/blocked/{ban}")), "{banned}");
    let unknown = operator.get("/client?client=2001:db8::7");
    assert!(unknown.body.contains("<h1>2001:db8::/64</h1>"), "an address of a /64 is that client: {}", unknown.body);
    assert!(unknown.body.contains("nothing is remembered of them"));
    for nonsense in ["/client", "/client?client=+", &format!("/client?client={}", "a".repeat(300))] {
        assert_eq!(operator.get(nonsense).status, 400, "{nonsense}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_and_a_mode_are_said_in_the_language_of_the_page() {
    let harness = Harness::start().await;
    harness.ask("10.5.0.1", 1);
    let throttle = Throttle {
        name: "throttle_unauthenticated_pulls".to_owned(),
        requests_per_period: 36_000,
        period_in_seconds: 21_600,
        burst: None,
        algorithm: Algorithm::Gcra,
        mode: Mode::DryRun,
    };
    let config =
        LimitsConfig { throttles: Rules::new(&[throttle], &[], 8).unwrap(), accounts: Arc::from([]), ..rulebook() };
    harness.limits.reload(config, &Actor::new("test", None), SystemTime::now());
    let mut operator = Browser::new(&harness);
    for path in ["/throttles", "/client?client=10.5.0.1"] {
        for (language, limit, mode) in [("en", "36,000 in 6 h", ">dry run<"), ("de", "36.000 in 6 h", ">Probelauf<")] {
            let page = operator.send("GET", path, &[("Accept-Language", language)], "").body;
            let table = page.split_once("<tbody").unwrap().1.split_once("</tbody>").unwrap().0;
            assert!(table.contains(limit) && table.contains(mode) && !table.contains(">dry_run<"), "{table}");
        }
    }
}
