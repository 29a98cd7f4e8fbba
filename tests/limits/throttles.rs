//! Throttles on `/v2`: what they count, what they say, and whom they leave alone.

use rustix::process::Signal;
use weir_conformance::hub::Spec;

use super::{PROXY, support::World, throttle};

const PULLS: &str = "throttle_unauthenticated_pulls";

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_told_in_every_dialect_and_a_head_is_free() {
    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 20, "burst = 5"))).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    let mut left = Vec::new();
    for _ in 0..5 {
        let heard = client.pull("a0");
        assert_eq!(heard.status, 200, "{heard:?}");
        assert_eq!(heard.header("ratelimit-limit"), Some("20;w=3600"));
        assert_eq!(heard.header("docker-ratelimit-source"), Some("192.0.2.7"));
        let policy = format!("\"{PULLS}\";q=20;w=3600");
        assert_eq!(heard.header("ratelimit-policy"), Some(&*policy));
        assert!(heard.header("ratelimit").unwrap().starts_with(&format!("\"{PULLS}\";r=")), "{heard:?}");
        left.push((heard.header("ratelimit-remaining").unwrap().to_owned(), heard.header("warning").is_some()));
    }
    let told = |left: u32, warned| (format!("{left};w=3600"), warned);
    assert_eq!(left, [told(4, false), told(3, false), told(2, false), told(1, true), told(0, true)]);

    let heard = client.pull("a0");
    assert_eq!((heard.status, &*heard.reason), (429, "Too Many Requests: quota of this mirror reached"));
    let message = heard.message("TOOMANYREQUESTS");
    assert!(message.starts_with("192.0.2.7 is over its limit until "), "{message}");
    assert!(message.find("Z: 20 in 3600 s").unwrap() < 80 && message.ends_with("Retry later"), "{message}");
    // Of the 180 s or more, which the sentence tells: clients sleep as long as this says.
    assert_eq!(heard.header("retry-after"), Some("60"));
    let sleeper = client.send("GET", "/v2/library/a0/manifests/latest", "User-Agent: skopeo/1.9.3\r\n", "");
    assert_eq!(sleeper.header("retry-after"), Some("5"));

    // The recipe of scanners' manuals, however often.
    for _ in 0..20 {
        let heard = client.head("a0");
        assert_eq!((heard.status, heard.header("ratelimit-remaining")), (200, Some("0;w=3600")), "{heard:?}");
    }
    assert_eq!(client.get("/v2/").status, 200);
    assert_eq!(world.client("192.0.2.8").pull("a0").status, 200);
    let unknown = client.send("HEAD", "/v2/library/a0/manifests/latest", "Authorization: Bearer x\r\n", "");
    assert_eq!(unknown.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_throttle_a_head_tells_what_the_class_may_use_of_the_budget() {
    let class = "[[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\n";
    let world = World::start(Some(100), &format!("{PROXY}{class}{}", throttle(PULLS, 9, "mode = \"off\""))).await;
    world.images("a", 1);
    for (client, told) in [("10.9.0.1", "60;w=21600"), ("10.1.0.1", "100;w=21600")] {
        let heard = world.client(client).head("a0");
        assert_eq!(heard.header("ratelimit-limit"), Some(told), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_dry_run_of_everything_nothing_is_denied_and_everything_counted() {
    let config = format!(
        "{PROXY}{}{}[limits]\ndry_run = [\"*\"]\n[ban]\nmode = \"enforce\"\n",
        throttle(PULLS, 4, "burst = 1"),
        throttle("throttle_unauthenticated_not_found", 4, "burst = 1"),
    );
    let world = World::start(None, &config).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    for round in 0..50 {
        let heard = client.pull("a0");
        assert_eq!(heard.status, 200, "{heard:?}");
        assert_eq!(heard.header("warning").is_some_and(|text| text.contains("dry run")), round > 0, "{heard:?}");
    }
    for number in 0..60 {
        assert_eq!(client.pull(&format!("missing{number}")).status, 404);
    }
    let throttles = world.admin("GET", "/api/v1/throttles", "");
    let of = |name: &str| {
        let all = throttles["throttles"].as_array().unwrap();
        all.iter().find(|throttle| throttle["name"] == name).unwrap().clone()
    };
    assert_eq!(of(PULLS)["denied"], 0);
    assert_eq!(of(PULLS)["would_have_denied"], 109);
    assert_eq!(of(PULLS)["clients"], 1);
    assert_eq!(of(PULLS)["mode"], "dry_run");
    assert_eq!(of("throttle_unauthenticated_not_found")["would_have_denied"], 59);
    let bans = world.admin("GET", "/api/v1/bans", "");
    assert_eq!((&bans["bans"][0]["simulated"], &bans["bans"][0]["rung"]), (&true.into(), &2.into()), "{bans}");
    let log = world.weir.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(r#""env":"track""#)).collect();
    assert!(lines.len() >= 109, "{}", lines.len());
    for field in
        [r#""matched":"throttle_unauthenticated_pulls""#, r#""remote_ip":"192.0.2.7""#, r#""request_method":"GET""#]
    {
        assert!(lines[0].contains(field), "{}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_mid_window_leaves_every_client_what_it_had() {
    let fixed = throttle("throttle_unauthenticated_registry_api", 40, "algorithm = \"fixed_window\"");
    let config = format!("{PROXY}{}{fixed}", throttle(PULLS, 400, "burst = 100"));
    let mut world = World::start(Some(100), &config).await;
    world.images("a", 3);
    for (client, count) in [("192.0.2.7", 3), ("192.0.2.8", 30), ("2001:db8::7", 5)] {
        let mut client = world.client(client);
        (0..count).for_each(|number| assert_eq!(client.pull(&format!("a{}", number % 3)).status, 200));
    }
    let body = r#"{"client":"192.0.2.66","duration":"1h","reason":"test"}"#;
    let ban = world.admin("POST", "/api/v1/bans", body);
    let seen = |world: &World| {
        let remaining = ["192.0.2.7", "192.0.2.8", "2001:db8::7"].map(|client| {
            let heard = world.client(client).head("a0");
            assert_eq!(heard.status, 200, "{heard:?}");
            let rest = heard.header("ratelimit").unwrap().to_owned();
            (heard.header("ratelimit-remaining").unwrap().to_owned(), rest)
        });
        let bans = world.admin("GET", "/api/v1/bans", "");
        let budget = &world.admin("GET", "/api/v1/budget", "")["identities"][0];
        (remaining, bans, (budget["remaining"].clone(), budget["spent"].clone(), budget["spenders"].clone()))
    };
    let (remaining, bans, budget) = seen(&world);
    assert_eq!(remaining.each_ref().map(|(pulls, _)| &**pulls), ["97;w=3600", "70;w=3600", "95;w=3600"]);
    world.restart(Signal::TERM);
    let (after, bans_after, budget_after) = seen(&world);
    assert_eq!(remaining.map(|(pulls, _)| pulls), after.each_ref().map(|(pulls, _)| pulls.clone()));
    // The fixed window counted the HEADs of the first look as well.
    assert!(after[1].1.contains("\"throttle_unauthenticated_registry_api\";r=8"), "{after:?}");
    assert_eq!((bans, budget), (bans_after, budget_after));
    assert_eq!(ban["id"], world.admin("GET", "/api/v1/bans", "")["bans"][0]["id"]);
    assert_eq!(world.client("192.0.2.66").pull("a0").status, 403);
    // Whom an operator banned is banned from the moment of the 201, whatever kills the process.
    let body = r#"{"client":"192.0.2.67","duration":"1h","reason":"test"}"#;
    world.admin("POST", "/api/v1/bans", body);
    world.restart(Signal::KILL);
    assert_eq!(world.client("192.0.2.67").pull("a0").status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asking_is_not_for_the_client_to_choose() {
    let world = World::start(None, &throttle(PULLS, 4, "burst = 1")).await;
    world.images("a", 1);
    // Nobody is a trusted proxy: all are one peer.
    let statuses: Vec<_> = (0..5).map(|number| world.client(&format!("192.0.2.{number}")).pull("a0").status).collect();
    assert_eq!(statuses, [200, 429, 429, 429, 429]);
    drop(world);

    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 4, "burst = 1"))).await;
    world.images("a", 1);
    // The client's own invention stands left of what the proxy appended; a /64 is one client.
    for (forwarded, status) in [
        ("1.1.1.1, 192.0.2.7", 200),
        ("9.9.9.9, 192.0.2.7", 429),
        ("::ffff:192.0.2.7", 429),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 200),
    ] {
        assert_eq!(world.client(forwarded).pull("a0").status, status, "{forwarded}");
    }
    // A /48 has eight times as much as one of its clients.
    let passed = (0..20).filter(|net| world.client(&format!("2001:db8:7:{net:x}::1")).pull("a0").status == 200).count();
    assert_eq!(passed, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowlist_and_a_bypass_header_lift_throttles_and_say_so() {
    let limits =
        "[limits]\nbypass_header = \"X-Bypass\"\nallowlist = [{ client = \"192.0.2.0/28\", comment = \"farm\" }]\n";
    let world = World::start(Some(3), &format!("{PROXY}{limits}{}", throttle(PULLS, 4, "burst = 1"))).await;
    world.images("a", 5);
    assert!(world.weir.log().contains(r#""comment":"farm""#), "{}", world.weir.log());
    let mut farm = world.client("192.0.2.7");
    assert!((0..5).all(|_| farm.pull("a0").status == 200));
    let path = "/v2/library/a0/manifests/latest";
    let mut other = world.client("198.51.100.7");
    assert!((0..5).all(|_| other.send("GET", path, "X-Bypass: 1\r\n", "").status == 200));
    assert_eq!(other.send("GET", path, "X-Bypass: true\r\n", "").status, 200, "its own first");
    assert_eq!(other.send("GET", path, "X-Bypass: true\r\n", "").status, 429);
    let log = world.weir.log();
    for word in ["throttle_bypass_header", "throttle_address_allowlist"] {
        assert!(log.contains(&format!(r#""throttle_safelist":"{word}""#)), "{log}");
    }
    // Neither gives a pull that upstream does not.
    let statuses: Vec<_> = (0..5).map(|number| farm.pull(&format!("a{number}")).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_is_known_by_basic_by_its_token_header_and_out_of_an_htpasswd_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    // `htpasswd -nbBC 4 bo secret`
    std::fs::write(&file, format!("bo:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let server = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\nhtpasswd = {:?}\ntoken_header = \"X-Weir-Token\"\n",
        file.to_str().unwrap()
    );
    let world =
        World::start(None, &format!("{server}{}", throttle("throttle_authenticated_pulls", 9, "burst = 3"))).await;
    world.images("a", 1);
    let path = "/v2/library/a0/manifests/latest";
    // bo:secret, then bo:wrong
    for (header, source) in [
        ("Authorization: Basic Ym86c2VjcmV0\r\n", Some("bo")),
        ("X-Weir-Token: bo:secret\r\n", Some("bo")),
        ("Authorization: Basic Ym86d3Jvbmc=\r\n", None),
        ("X-Weir-Token: bo:wrong\r\n", None),
    ] {
        let heard = world.client("192.0.2.7").send("GET", path, header, "");
        assert_eq!((heard.status, heard.header("docker-ratelimit-source")), (200, source), "{header}");
    }
    assert!(!world.weir.log().contains("secret"), "a password is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_afterwards_denies_the_next_request() {
    let config = format!(
        "{PROXY}{}{}{}[[account]]\nname = \"ci\"\npassword_hash = {HASH:?}\n",
        throttle("throttle_unauthenticated_not_found", 12, "burst = 3"),
        throttle("throttle_unauthenticated_bytes", 40, "burst = 10"),
        throttle("throttle_unauthenticated_auth", 12, "burst = 3"),
    );
    let world = World::start(None, &config).await;
    world.images("a", 1);
    let image = world.hub.push(Spec::new("library/big").single().layers([1_000_000])).unwrap();

    let mut missing = world.client("192.0.2.7");
    let statuses: Vec<_> = (0..5).map(|number| missing.pull(&format!("missing{number}")).status).collect();
    assert_eq!(statuses, [404, 404, 404, 429, 429]);
    assert!(missing.pull("a0").message("TOOMANYREQUESTS").contains("throttle_unauthenticated_not_found"));

    // A body of sixteen units is owed, and not begun again.
    let mut reader = world.client("192.0.2.8");
    assert_eq!(reader.pull("big").status, 200);
    let layer = image.blobs().into_iter().max_by_key(|blob| blob.size).unwrap();
    let path = format!("/v2/library/big/blobs/{}", layer.digest);
    assert_eq!(reader.get(&path).status, 200);
    let heard = reader.get(&path);
    assert!(heard.message("TOOMANYREQUESTS").contains("throttle_unauthenticated_bytes"), "{heard:?}");

    let mut guesser = world.client("192.0.2.9");
    let mut guess = |password: &str| {
        let token = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("ci:{password}"));
        let header = format!("Authorization: Basic {token}\r\n");
        guesser.send("GET", "/v2/library/a0/manifests/latest", &header, "").status
    };
    assert_eq!(
        ["a", "b", "c", "d"].map(&mut guess),
        [200, 200, 429, 429],
        "the third is known to be wrong before it is answered"
    );
}

/// Argon2id of nothing anybody will guess, with parameters that cost nothing.
const HASH: &str = "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$8YEsh5yFnxDe5K7oFTsvEg";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_beyond_its_upstream_quota_is_kept_to_the_cache() {
    let upstream = throttle("throttle_unauthenticated_upstream", 4, "burst = 2");
    let world = World::start(Some(100), &format!("{PROXY}{upstream}[ban]\nmode = \"enforce\"\n")).await;
    world.images("a", 8);
    let mut client = world.client("192.0.2.7");
    let heard: Vec<_> = (0..8).map(|number| client.pull(&format!("a{number}"))).collect();
    let statuses: Vec<_> = heard.iter().map(|heard| heard.status).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429, 429, 429]);
    assert!(heard[2].message("TOOMANYREQUESTS").contains("throttle_unauthenticated_upstream"), "{:?}", heard[2]);
    assert!(heard[7].message("TOOMANYREQUESTS").contains("blocked from uncached content"), "{:?}", heard[7]);
    assert_eq!(client.pull("a0").status, 200);
    assert_eq!(world.client("192.0.2.8").pull("a7").status, 200);
    let clients = world.admin("GET", "/api/v1/clients", "");
    let first = &clients["clients"][0];
    assert_eq!((&first["client"], &first["upstream_spent"]), (&"192.0.2.7".into(), &2.into()), "{clients}");
    assert!(first["ban"].is_string() && first["throttles"].is_array(), "{clients}");
}
