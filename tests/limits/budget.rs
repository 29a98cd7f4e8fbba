//! The shared budget: who gets a pull, who reads why not, and whether the ledger has the hub's own count.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::runtime::Handle;
use weir_conformance::hub::{self, Fault, Kind, Limit, Logged, Match, What};

use super::{PROXY, support::World, throttle};

fn counted(request: &Logged) -> bool {
    request.kind == Kind::ManifestGet && request.counted
}

const CLASSES: &str = "[[class]]\nname = \"critical\"\ncidr = [\"10.1.0.0/16\"]\n\
                       [[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_that_floods_leaves_production_every_pull_it_asks_for() {
    let world = World::start(Some(100), &format!("{PROXY}{CLASSES}")).await;
    world.images("scanned", 400);
    world.images("deployed", 20);
    let scanned: Vec<(u16, String)> = std::thread::scope(|threads| {
        let scans: Vec<_> = (0..8)
            .map(|thread| {
                let world = &world;
                threads.spawn(move || {
                    let mut scanner = world.client("10.9.0.7");
                    let scan = |number: u64| {
                        let response = scanner.pull(&format!("scanned{number}"));
                        let message = (response.status != 200).then(|| response.message("TOOMANYREQUESTS"));
                        (response.status, message.unwrap_or_default())
                    };
                    (0..50).map(|step| step * 8 + thread).map(scan).collect::<Vec<_>>()
                })
            })
            .collect();
        let deployed = threads.spawn(|| {
            (0..20)
                .map(|number| {
                    world.client(&format!("10.1.0.{}", number % 12)).pull(&format!("deployed{number}")).status
                })
                .collect::<Vec<_>>()
        });
        assert_eq!(deployed.join().unwrap(), [200; 20]);
        scans.into_iter().flat_map(|scan| scan.join().unwrap()).collect()
    });
    let granted = scanned.iter().filter(|(status, _)| *status == 200).count();
    println!("production 20 of 20, scanner {granted} of 400, hub {}", world.hub.count(counted));
    assert_eq!(world.hub.count(counted), granted + 20);
    assert!((30..=60).contains(&granted), "{granted}");
    for (_, message) in scanned.iter().filter(|(status, _)| *status != 200) {
        assert!(
            message.contains("class bulk") && message.contains("would help") | message.contains("share"),
            "{message}"
        );
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
    }
    let budget = world.admin("GET", "/api/v1/budget", "");
    assert_eq!(budget["identities"][0]["spent"], granted + 20);
    assert_eq!(budget["identities"][0]["external_spend"], 0, "{budget}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shared_with_no_other_client() {
    // The scanner asks first, production joins its flight: one pull is enough and production has it.
    let world = World::start(Some(100), &format!("{PROXY}{CLASSES}")).await;
    world.images("a", 3);
    assert_eq!(world.client("10.1.0.1").pull("a1").status, 200);
    world.hub.set_budget(20);
    assert_eq!(world.client("10.1.0.1").head("a2").status, 200);
    let gate = world.hub.hold(Match::kind(Kind::ManifestHead));
    let statuses = std::thread::scope(|threads| {
        let ask = |client: &'static str| {
            let world = &world;
            threads.spawn(move || world.client(client).get("/v2/library/a0/manifests/latest").status)
        };
        let leader = ask("10.9.0.7");
        assert!(tokio::task::block_in_place(|| Handle::current().block_on(gate.started())));
        let asked = [leader, ask("10.9.0.8"), ask("10.1.0.1"), ask("10.1.0.2")];
        // They join the flight as soon as they are read, and the hub's answer has a way to go when the last is connected.
        let start = Instant::now();
        while !world.weir.admin("GET", "/metrics", "").body.contains("weir_http_open_connections 4\n") {
            assert!(start.elapsed() < Duration::from_secs(60), "they do not connect");
            std::thread::yield_now();
        }
        drop(gate);
        asked.map(|asked| asked.join().unwrap())
    });
    // The second of the scanner's class asks again and may find what production fetched.
    assert_eq!([statuses[0], statuses[2], statuses[3]], [429, 200, 200]);
    assert_eq!(world.hub.count(|request| counted(request) && request.repository == "library/a0"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_pull_gets_it_when_it_comes_back() {
    let limit = Limit { pulls: 2, window: Duration::from_secs(4) };
    let settings = hub::Settings { limit: Some(limit), ..hub::Settings::default() };
    let world = World::with(settings, PROXY).await;
    world.images("a", 4);
    let start = Instant::now();
    let mut client = world.client("192.0.2.7");
    let response: Vec<_> = (0..3).map(|number| client.pull(&format!("a{number}"))).collect();
    let statuses: Vec<_> = response.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 200, 200], "{response:?}");
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let waits = || world.weir.log().matches("\"wait_ms\":").count();
    while waits() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(waits(), 1, "the line of the third says that it waited");
    let what_if = world.admin("GET", "/api/v1/budget/what-if", "");
    let then = json!({"granted": 3, "queued": 1, "refused": 0, "fetched_again": 0});
    assert_eq!(what_if["identities"][0]["then"], then, "{what_if}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_decided_once_more_with_other_floors_and_limits_also_after_a_restart() {
    let mut world = World::start(Some(10), &format!("{PROXY}{CLASSES}[mirror]\ntag_ttl = \"0s\"\n")).await;
    world.images("a", 10);
    let mut scanner = world.client("10.9.0.7");
    let statuses: Vec<u16> = (0..10).map(|number| scanner.pull(&format!("a{number}")).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429, 429, 429], "four of ten are kept from bulk");
    (0..3).for_each(|_| assert_eq!(scanner.pull("a9").status, 429));
    assert_eq!(world.client("10.1.0.1").pull("a9").status, 200);
    // What the client has of it is stale now, and it is told of no manifest that it could not get.
    world.hub.push(hub::Spec::new("library/a0").seed(77).single().layers([100])).unwrap();
    assert_eq!((scanner.head("a0").status, scanner.head("a0").status), (200, 200));

    let what_if = |world: &World, query: &str| {
        world.admin("GET", &format!("/api/v1/budget/what-if?{query}"), "")["identities"][0].clone()
    };
    let as_it_is = what_if(&world, "");
    assert_eq!(as_it_is["then"], json!({"granted": 7, "queued": 0, "refused": 5, "fetched_again": 0}), "{as_it_is}");
    assert_eq!((&as_it_is["limit"], &as_it_is["window_seconds"]), (&json!(10), &json!(21600)), "{as_it_is}");
    let result = |world: &World, query: &str| {
        let then = &what_if(world, query)["what_if"];
        let number = |name: &str| then[name].as_u64().unwrap();
        ["granted", "gained", "lost", "spared", "least_left"].map(number)
    };
    assert_eq!(result(&world, ""), [7, 0, 0, 0, 3], "the settings that are in force change nothing");
    // Without a floor the scanner has a9 before production wants it; and then nothing is left for what changed.
    assert_eq!(result(&world, "bulk=0"), [10, 4, 0, 1, 0]);
    assert_eq!(result(&world, "bulk=0&limit=200"), [11, 5, 0, 1, 189]);
    assert_eq!(result(&world, "limit=5"), [4, 0, 3, 0, 1]);
    let refused = &what_if(&world, "limit=5")["what_if"];
    assert_eq!(refused["refused"], json!({"exhausted": 0, "floor": 8, "share": 0}), "{refused}");
    assert_eq!(refused["refused_by_class"]["bulk"], 8, "{refused}");
    assert!(what_if(&world, "account=docker.io+as+ci").is_null());
    assert_eq!(what_if(&world, "account=docker.io+as+anonymous"), as_it_is);

    world.restart(Signal::TERM);
    assert_eq!(what_if(&world, ""), as_it_is, "what was held back is known after a restart");
    for query in ["bulk=2", "bulk=x", "limit=-1", "limit=2000000", "floor=0"] {
        let response = world.weir.admin("GET", &format!("/api/v1/budget/what-if?{query}"), "");
        assert_eq!(response.status, 400, "{query}: {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_has_the_hub_s_own_count() {
    let off = throttle("throttle_unauthenticated_pulls", 1, "mode = \"off\"");
    let mut world = World::start(Some(2000), &format!("{PROXY}{off}")).await;
    world.images("hit", 1);
    world.images("cold", 10);
    let mut client = world.client("192.0.2.7");
    (0..10_000).for_each(|_| assert_eq!(client.pull("hit0").status, 200));
    // A hundred coalesced misses: ten clients each, ten images.
    std::thread::scope(|threads| {
        for client in 0..10 {
            let world = &world;
            threads.spawn(move || {
                for image in 0..10 {
                    let response = world.client(&format!("192.0.2.{client}")).pull(&format!("cold{image}"));
                    assert_eq!(response.status, 200, "{response:?}");
                }
            });
        }
    });
    // Fifty misses that fail: not there, and broken on the way.
    (0..25).for_each(|number| assert_eq!(client.pull(&format!("missing{number}")).status, 404));
    world.images("broken", 25);
    world.hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::ManifestGet)));
    for number in 0..25 {
        let status = client.pull(&format!("broken{number}")).status;
        assert!(status >= 429, "{status}");
    }
    world.hub.clear_faults();
    let equal = |world: &World, when: &str| {
        let budget = world.admin("GET", "/api/v1/budget", "");
        let identity = &budget["identities"][0];
        let counted = world.hub.count(counted);
        println!("{when}: hub counted {counted}, ledger {}", identity["remaining"]);
        assert_eq!(identity["remaining"], 2000 - counted, "{when}: {budget}");
        assert_eq!(identity["external_spend"], 0, "{when}: {budget}");
    };
    equal(&world, "before the restart");
    world.restart(Signal::TERM);
    equal(&world, "after the restart");
    let spends = world.admin("GET", "/api/v1/spends?n=1000", "");
    let first =
        spends["spends"].as_array().unwrap().iter().find(|spend| spend["repository"] == "library/cold0").unwrap();
    assert!(first["split"].as_f64().unwrap() <= 1.0, "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_spend_is_seen_shown_and_said() {
    let world = World::start(Some(100), PROXY).await;
    world.images("a", 3);
    let mut client = world.client("192.0.2.7");
    assert_eq!(client.pull("a0").status, 200);
    // A neighbour behind the same address.
    world.hub.set_budget(60);
    assert_eq!(client.pull("a1").status, 200);
    let budget = world.admin("GET", "/api/v1/budget", "");
    let identity = &budget["identities"][0];
    assert_eq!((&identity["external_spend"], &identity["spent"]), (&39.into(), &2.into()), "{budget}");
    let others = "others behind the same address spend from this budget";
    assert_eq!(identity["alert"], format!("{others}: 39 pulls within the window"), "{identity}");
    assert!(world.weir.log().contains(others));
    let metrics = world.weir.admin("GET", "/metrics", "").body;
    for (name, value) in
        [("external_spend", 39), ("spent", 2), ("limit", 100), ("remaining", 59), ("window_seconds", 21600)]
    {
        let sample = format!("weir_budget_{name}{{upstream=\"docker.io\",identity=\"anonymous\"}} {value}\n");
        assert!(metrics.contains(&sample), "{sample}{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_hub_s_two_limits_opens_its_own_breaker() {
    let world = World::start(Some(100), PROXY).await;
    world.images("a", 3);
    let mut client = world.client("192.0.2.7");
    assert_eq!(client.pull("a0").status, 200);
    // The pull limit: GETs stop, HEADs go on.
    world.hub.fault(Fault::always(What::PullLimit(None)).on(Match::kind(Kind::ManifestGet)));
    assert_eq!(client.pull("a1").status, 429);
    world.hub.clear_log();
    assert_eq!(client.head("a2").status, 200);
    assert!(world.hub.count(|request| request.kind == Kind::ManifestHead) > 0);
    drop(world);
    // The abuse limit: nothing at all is asked.
    let world = World::start(Some(100), PROXY).await;
    world.images("a", 3);
    world.hub.fault(Fault::always(What::Abuse(None)));
    let mut client = world.client("192.0.2.7");
    let response = client.pull("a0");
    assert_eq!(response.status, 429, "{response:?}");
    world.hub.clear_log();
    assert_eq!((client.pull("a1").status, client.head("a2").status), (429, 429));
    assert_eq!(world.hub.log().len(), 0);
}
