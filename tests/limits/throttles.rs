//! Throttles on `/v2`: what they count, what they say, and whom they leave alone.

use rustix::process::Signal;
use weir_conformance::hub::Spec;

use super::{
    PROXY,
    support::{RawResponse, World},
    throttle,
};

const PULLS: &str = "throttle_unauthenticated_pulls";

/// What `RateLimit` says is left of this throttle.
fn left_of(response: &RawResponse, throttle: &str) -> u32 {
    let field = response.header("ratelimit").unwrap_or_else(|| panic!("{response:?}"));
    let rest = field.strip_prefix(&format!("\"{throttle}\";r=")).unwrap_or_else(|| panic!("{field}"));
    rest.split(';').next().unwrap().parse().unwrap()
}

/// What a client has left of a throttle, as the operator sees it.
fn left_to(world: &World, client: &str, throttle: &str) -> u64 {
    let clients = world.admin("GET", "/api/v1/clients", "");
    let found = clients["clients"].as_array().unwrap().iter().find(|found| found["client"] == client);
    let throttles = &found.unwrap_or_else(|| panic!("{client}: {clients}"))["throttles"];
    let found = throttles.as_array().unwrap().iter().find(|found| found["name"] == throttle);
    found.unwrap_or_else(|| panic!("{throttle}: {clients}"))["remaining"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_shown_in_a_sentence_and_in_fields_and_a_head_is_free() {
    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 20, "burst = 5"))).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    let mut left = Vec::new();
    for _ in 0..5 {
        let response = client.pull("a0");
        assert_eq!(response.status, 200, "{response:?}");
        let policy = format!("\"{PULLS}\";q=20;w=3600");
        assert_eq!(response.header("ratelimit-policy"), Some(&*policy));
        // Docker Hub's fields are about pulls from upstream, which says nothing of them here.
        assert!(
            response.header("ratelimit-limit").is_none() && response.header("ratelimit-remaining").is_none(),
            "{response:?}"
        );
        left.push((left_of(&response, PULLS), response.header("warning").is_some()));
    }
    let expected = |left: u32, warned| (left, warned);
    assert_eq!(
        left,
        [expected(4, false), expected(3, false), expected(2, false), expected(1, true), expected(0, true)]
    );

    let response = client.pull("a0");
    assert_eq!((response.status, &*response.reason), (429, "Too Many Requests: quota of this mirror reached"));
    let message = response.message("TOOMANYREQUESTS");
    assert!(message.starts_with("192.0.2.7 is over its limit until "), "{message}");
    assert!(message.find("Z: 20 in 3600 s").unwrap() < 80 && message.ends_with("Retry later"), "{message}");
    // Of the 180 s or more, which the sentence tells: clients sleep as long as this says.
    assert_eq!(response.header("retry-after"), Some("60"));
    let sleeper = client.send("GET", "/v2/library/a0/manifests/latest", "User-Agent: skopeo/1.9.3\r\n", "");
    // It sleeps as long as it is told before each of its own tries, in silence.
    assert_eq!(sleeper.header("retry-after"), Some("0"));

    // The recipe of scanners' manuals, however often.
    for _ in 0..20 {
        assert_eq!(client.head("a0").status, 200);
    }
    assert_eq!(client.get("/v2/").status, 200);
    assert_eq!(world.client("192.0.2.8").pull("a0").status, 200);
    let unknown = client.send("HEAD", "/v2/library/a0/manifests/latest", "Authorization: Bearer x\r\n", "");
    assert_eq!(unknown.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_docker_hub_say_what_the_class_may_use_of_the_upstream_budget() {
    let class = "[[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\n";
    // A throttle that acts says nothing in them: its limit and its burst would read as if pulls were used up.
    let world = World::start(Some(100), &format!("{PROXY}{class}{}", throttle(PULLS, 900, "burst = 9"))).await;
    world.images("a", 1);
    let fields = |client: &str| {
        let response = world.client(client).head("a0");
        ["ratelimit-limit", "ratelimit-remaining", "docker-ratelimit-source"]
            .map(|name| response.header(name).unwrap_or_else(|| panic!("{response:?}")).to_owned())
    };
    // Nothing was spent: all of it is left.
    assert_eq!(fields("10.9.0.1"), ["60;w=21600", "60;w=21600", "10.9.0.1"]);
    assert_eq!(fields("10.1.0.1"), ["100;w=21600", "100;w=21600", "10.1.0.1"]);
    let response = world.client("10.1.0.1").pull("a0");
    assert_eq!((response.status, left_of(&response, PULLS)), (200, 8));
    assert_eq!(fields("10.1.0.1")[1], "99;w=21600");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_dry_run_of_everything_nothing_is_denied_and_everything_counted() {
    let config = format!(
        "{PROXY}{}{}[limits]\ndry_run = [\"*\"]\n[ban]\nmode = \"enforce\"\n[log]\nrefusal_lines = 0\n",
        throttle(PULLS, 4, "burst = 1"),
        throttle("throttle_unauthenticated_not_found", 4, "burst = 1"),
    );
    let world = World::start(None, &config).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    for round in 0..50 {
        let response = client.pull("a0");
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("warning").is_some_and(|text| text.contains("dry run")), round > 0, "{response:?}");
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
        let left = ["192.0.2.7", "192.0.2.8", "2001:db8::/64"].map(|client| left_to(world, client, PULLS));
        let bans = world.admin("GET", "/api/v1/bans", "");
        let budget = &world.admin("GET", "/api/v1/budget", "")["identities"][0];
        (left, bans, (budget["remaining"].clone(), budget["spent"].clone(), budget["spenders"].clone()))
    };
    let before = seen(&world);
    assert_eq!(before.0, [97, 70, 95]);
    world.restart(Signal::TERM);
    assert_eq!(before, seen(&world));
    // Of the fixed window, too.
    let response = world.client("192.0.2.8").head("a0");
    assert_eq!((response.status, left_of(&response, "throttle_unauthenticated_registry_api")), (200, 9));
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
    // No proxy is trusted: all are one peer.
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
    let world = World::start(Some(100), &server).await;
    world.images("a", 1);
    let path = "/v2/library/a0/manifests/latest";
    // bo:secret, then bo:wrong
    for (header, source) in [
        ("Authorization: Basic Ym86c2VjcmV0\r\n", "bo"),
        ("X-Weir-Token: bo:secret\r\n", "bo"),
        ("Authorization: Basic Ym86d3Jvbmc=\r\n", "192.0.2.7"),
        ("X-Weir-Token: bo:wrong\r\n", "192.0.2.7"),
    ] {
        let response = world.client("192.0.2.7").send("HEAD", path, header, "");
        assert_eq!((response.status, response.header("docker-ratelimit-source")), (200, Some(source)), "{header}");
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
    let response = reader.get(&path);
    assert!(response.message("TOOMANYREQUESTS").contains("throttle_unauthenticated_bytes"), "{response:?}");

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

/// Argon2id of what cannot be guessed, with parameters that cost nothing.
const HASH: &str = "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$8YEsh5yFnxDe5K7oFTsvEg";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_beyond_its_upstream_quota_is_kept_to_the_cache() {
    let upstream = throttle("throttle_unauthenticated_upstream", 4, "burst = 2");
    let world = World::start(Some(100), &format!("{PROXY}{upstream}[ban]\nmode = \"enforce\"\n")).await;
    world.images("a", 8);
    let mut client = world.client("192.0.2.7");
    let response: Vec<_> = (0..8).map(|number| client.pull(&format!("a{number}"))).collect();
    let statuses: Vec<_> = response.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429, 429, 429]);
    assert!(response[2].message("TOOMANYREQUESTS").contains("throttle_unauthenticated_upstream"), "{:?}", response[2]);
    assert!(response[7].message("TOOMANYREQUESTS").contains("blocked from uncached content"), "{:?}", response[7]);
    assert_eq!(client.pull("a0").status, 200);
    assert_eq!(world.client("192.0.2.8").pull("a7").status, 200);
    let clients = world.admin("GET", "/api/v1/clients", "");
    let first = &clients["clients"][0];
    assert_eq!((&first["client"], &first["upstream_spent"]), (&"192.0.2.7".into(), &2.into()), "{clients}");
    assert!(first["ban"].is_string() && first["throttles"].is_array(), "{clients}");
}
