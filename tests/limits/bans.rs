//! Bans: by operators and by rules, and what a banned client prints.

use weir_conformance::hub::{Kind, Spec};

use super::{PROXY, support::World};

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_client_gets_a_sentence_everywhere_and_is_let_in_again() {
    let admin = "[admin]\npublic_url = \"https://mirror.example\"\n";
    let world = World::start(None, &format!("{PROXY}{admin}")).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    assert_eq!(client.pull("a0").status, 200);
    let body = r#"{"client":"192.0.2.7","duration":"1h","reason":"hammering"}"#;
    let ban = world.weir.admin("POST", "/api/v1/bans", body);
    assert_eq!(ban.status, 201);
    let ban = ban.json();
    for key in ["id", "client", "until", "rung", "rule", "origin", "evidence", "repositories"] {
        assert!(!ban[key].is_null(), "{key}: {ban}");
    }
    let id = ban["id"].as_str().unwrap();
    for (method, path) in [
        ("GET", "/v2/library/a0/manifests/latest"),
        ("GET", "/v2/library/a0/tags/list"),
        ("GET", "/v2/_catalog"),
        ("POST", "/v2/library/a0/blobs/uploads/"),
        ("DELETE", "/v2/library/a0/manifests/latest"),
        ("GET", "/v2/no/such/thing"),
    ] {
        let response = client.send(method, path, "", "");
        assert_eq!((response.status, &*response.reason), (403, "Blocked by mirror"), "{method} {path}");
        let message = response.message("TOOMANYREQUESTS");
        let first: String = message.chars().take(80).collect();
        assert!(first.starts_with("192.0.2.7 blocked until ") && first.contains("Z (rule admin"), "{message}");
        assert!(message.ends_with(&format!("id {id}): hammering; https://mirror.example/unblock/{id}")), "{message}");
    }
    let head = client.head("a0");
    assert_eq!((head.status, &*head.reason, &*head.body), (403, "Blocked by mirror", ""));
    assert_eq!(client.get("/v2/").status, 200, "the ping always answers");
    assert_eq!(world.client("192.0.2.8").pull("a0").status, 200);

    let refused = |body: &str| {
        let response = world.weir.admin("POST", "/api/v1/bans", body);
        (response.status, response.json()["errors"][0]["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(refused(r#"{"client":"10.0.0.0/8","duration":"1h"}"#).0, 422);
    assert_eq!(refused(r#"{"client":"127.0.0.1","duration":"1h"}"#).0, 422);
    assert_eq!(refused(r#"{"client":"10.0.0.1","duration":"31d"}"#).0, 400);
    assert_eq!(refused(r#"{"client":"10.0.0.1"}"#).0, 400);
    assert!(refused(r#"{"client":"127.0.0.1","duration":"1h"}"#).1.contains("force"));
    assert_eq!(world.weir.admin("POST", &format!("/api/v1/bans/{id}/lift"), r#"{"reason":" "}"#).status, 400);
    let lifted = world.admin("POST", &format!("/api/v1/bans/{id}/lift"), r#"{"reason":"talked to them"}"#);
    assert_eq!(lifted["lifted"]["reason"], "talked to them");
    assert_eq!(client.pull("a0").status, 200);
    let audit = world.admin("GET", "/api/v1/audit", "");
    let events: Vec<_> =
        audit["audit"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!((events[0], *events.last().unwrap()), ("lifted", "banned"), "{events:?}");
    assert!(events.contains(&"refused"));
}

/// The GitLab issue: a server that asks for what does not exist, for hours.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_for_missing_images_cost_upstream_little_and_end_at_a_rung() {
    const REFERENCES: usize = 50;
    for mode in ["dry_run", "enforce"] {
        // Refusals 2 s apart are events of their own: how many there are, and so level 4, would depend on the machine.
        let ban = format!("[ban]\nmode = \"{mode}\"\ndenied_requests = 10_000\n");
        let world = World::start(None, &format!("{PROXY}{ban}")).await;
        world.images("cached", 1);
        let mut client = world.client("192.0.2.7");
        assert_eq!(client.pull("cached0").status, 200);
        let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
        let begun = std::time::Instant::now();
        for number in 0..10_000 {
            let name = format!("missing{}", number % REFERENCES);
            let response = if number % 2 == 0 { client.head(&name) } else { client.pull(&name) };
            *statuses.entry(response.status).or_default() += 1;
        }
        let mut upstream = std::collections::HashMap::<String, usize>::new();
        for request in world.hub.log().iter().filter(|request| request.repository.contains("missing")) {
            *upstream.entry(request.repository.clone()).or_default() += 1;
        }
        let most = upstream.values().max().copied().unwrap_or(0);
        // An absence is believed for 15 s. To ask costs three requests at most: one that is refused, a token, and one with it.
        let allowed = 3 * (1 + begun.elapsed().as_secs() as usize / 15);
        assert!(most <= allowed, "{most} upstream requests for one reference, {allowed} allowed");
        let bans = world.admin("GET", "/api/v1/bans?namespace=library/", "");
        let ban = &bans["bans"][0];
        assert_eq!(ban["rule"], "not_found_enumeration", "{bans}");
        assert_eq!(ban["simulated"], mode == "dry_run");
        assert_eq!(ban["evidence"].as_array().unwrap().len(), 20);
        assert!(ban["repositories"][0].as_str().unwrap().contains("library/missing"), "{ban}");
        assert!(world.admin("GET", "/api/v1/bans?namespace=grafana", "")["bans"].as_array().unwrap().is_empty());
        println!(
            "{mode}: {statuses:?}, {} upstream requests, {most} for one reference",
            upstream.values().sum::<usize>()
        );
        match mode {
            "dry_run" => assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [404]),
            _ => {
                assert!([2, 3].contains(&ban["rung"].as_u64().unwrap()), "{ban}");
                assert!(statuses[&429] > 9_000, "{statuses:?}");
                let response = client.pull("missing0");
                let message = response.message("TOOMANYREQUESTS");
                assert!(message.starts_with("192.0.2.7 blocked from uncached content until "), "{message}");
            }
        }
        assert_eq!(client.pull("cached0").status, 200, "what is cached goes on");
        assert_eq!(client.get("/v2/").status, 200);
    }
}

/// The thresholds of the levels are the operator's.
#[tokio::test(flavor = "multi_thread")]
async fn the_rungs_are_where_the_operator_put_them() {
    let ban = "[ban]\nmode = \"enforce\"\ndifferent_references = 3\ndurations = [\"2h\", \"2h\", \"3h\", \"4h\"]\n";
    let world = World::start(None, &format!("{PROXY}{ban}")).await;
    let mut client = world.client("192.0.2.7");
    let statuses: Vec<_> = (0..5).map(|number| client.pull(&format!("missing{number}")).status).collect();
    assert_eq!(statuses, [404, 404, 404, 404, 429]);
    let bans = world.admin("GET", "/api/v1/bans", "");
    assert_eq!(bans["bans"][0]["rung"], 2, "{bans}");
    let time = |key: &str| humantime::parse_rfc3339(bans["bans"][0][key].as_str().unwrap()).unwrap();
    let lasts = time("until").duration_since(time("created")).unwrap().as_secs();
    assert!((2 * 3600 * 9 / 10..=2 * 3600 * 11 / 10).contains(&lasts), "{lasts}");
}

/// Level 2: nothing is fetched for such a client, a tag that moved no more than one that was never here.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_held_to_what_is_cached_gets_the_old_manifest_of_a_moved_tag() {
    let config = "[ban]\nmode = \"enforce\"\n[mirror]\ntag_ttl = \"1s\"\n";
    let world = World::start(None, &format!("{PROXY}{config}")).await;
    world.images("moves", 1);
    let (mut held, mut other) = (world.client("192.0.2.7"), world.client("192.0.2.8"));
    let old = held.pull("moves0");
    assert_eq!(old.status, 200);
    let digest = old.header("docker-content-digest");
    assert!((0..200).any(|number| held.pull(&format!("missing{number}")).status == 429), "never held back");
    let counted = || {
        let moves = |repository: &str| repository.ends_with("/moves0");
        world.hub.count(|request| request.kind == Kind::ManifestGet && moves(&request.repository))
    };
    let before = counted();

    world.hub.push(Spec::new("library/moves0").seed(77).single().layers([100])).unwrap();
    while other.head("moves0").header("docker-content-digest") == digest {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let asked = || world.hub.count(|request| request.repository.ends_with("/moves0"));
    let heads = asked();
    for _ in 0..2 {
        for response in [held.head("moves0"), held.pull("moves0")] {
            assert_eq!((response.status, response.header("docker-content-digest")), (200, digest), "{response:?}");
            let warning = response.header("warning").unwrap_or_default();
            assert!(warning.contains("192.0.2.7 blocked from uncached content"), "{response:?}");
        }
    }
    assert_eq!(held.pull("moves0").body, old.body);
    assert_eq!((counted(), asked()), (before, heads), "nothing was fetched for it, nor asked");

    let new = other.pull("moves0");
    assert_ne!(new.header("docker-content-digest"), digest);
    assert_eq!((new.status, counted()), (200, before + 1));
    let response = held.pull("moves0");
    assert_eq!(response.header("docker-content-digest"), new.header("docker-content-digest"), "it is cached now");
}
