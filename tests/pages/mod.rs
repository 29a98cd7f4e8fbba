//! The pages for people, over real sockets: who may see and do what, and what becomes of everything else.

mod audit;
mod budget;
mod clients;
mod findings;
pub(crate) mod harness;
mod images;
mod language;
mod log;
mod overview;
mod roles;
mod settings;
mod warm;

use std::{sync::Arc, time::SystemTime};

use altcha::{Challenge, Payload, SolveChallengeOptions, solve_challenge};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use weir::limits::{
    audit::{Actor, AdminEvent, Event},
    bans::BanEvent,
    state::BanRequest,
    throttle::Mode,
};

use harness::{Answer, Browser, Harness, account, password, rulebook};

fn solve(page: &Answer) -> String {
    let challenge: Challenge = serde_json::from_str(&page.attribute("id=\"human\"", "data-challenge")).unwrap();
    let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
    BASE64_STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).unwrap())
}

/// Sees the page of a ban, solves its test, and sends the form.
fn lift(visitor: &mut Browser, ban: &str) -> Answer {
    let page = visitor.get(&format!("/unblock/{ban}"));
    assert_eq!(page.status, 200, "{}", page.body);
    let (token, solution) = (page.token(), solve(&page));
    visitor.post(&format!("/unblock/{ban}/lift"), &[("csrf", &token), ("altcha", &solution), ("mended", "1")])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_reads_why_solves_the_test_and_lifts_the_ban() {
    let harness = Harness::start().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let mut ann = Browser::new(&harness);
    ann.host = "weir.example.com".to_owned();

    let answer = ann.get(&format!("/unblock/{ban}"));
    assert_eq!((answer.status, answer.header("location")), (303, &*format!("/login?next=/unblock/{ban}")));
    let answer = ann.log_in("ann", &password("ann"), &format!("/unblock/{ban}"));
    assert_eq!((answer.status, answer.header("location")), (303, &*format!("/unblock/{ban}")));

    let page = ann.get(&format!("/unblock/{ban}"));
    for words in ["10.1.0.7", "different things that do not exist", "a wrong tag", "shop/api", "404"] {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    let answer = lift(&mut ann, &ban);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("half its quota") && answer.body.contains("2 more bans"), "{}", answer.body);
    assert!(!harness.is_blocked("10.1.0.7"));
    let entry = harness.limits.audit(1).remove(0);
    assert_eq!(entry.by, "ann");
    assert!(
        matches!(entry.event, Event::Ban(event) if matches!(&*event, BanEvent::Lifted { record } if record.id == ban))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_lift_of_one_s_own_is_refused_and_in_the_audit() {
    let harness = Harness::start().await;
    let (own, foreign) = (harness.block("10.1.0.7", "shop/api"), harness.block("10.2.0.7", "other/app"));
    let mut ann = Browser::logged_in(&harness, "ann");
    let (path, attempt) = (format!("/unblock/{own}/lift"), format!("lift {own}"));
    let page = ann.get(&format!("/unblock/{own}"));
    let (token, solution) = (page.token(), solve(&page));
    let good = [("csrf", &*token), ("altcha", &*solution), ("mended", "1")];
    let last = |status: u16, answer: Answer, attempt: &str, why: &str| {
        assert_eq!(answer.status, status, "{why}: {}", answer.body);
        let (by, what, reason) = harness.refusals().remove(0);
        assert_eq!((&*by, &*what), ("ann", attempt), "{reason}");
        assert!(reason.contains(why), "{why}: {reason}");
        assert!(harness.is_blocked("10.1.0.7") && harness.is_blocked("10.2.0.7"), "{why}");
    };

    last(403, ann.post(&path, &good[1..]), &attempt, "token");
    last(403, ann.post(&path, &[("csrf", "AAAA"), good[1], good[2]]), &attempt, "token");
    last(403, ann.post_from(&[], &path, &good), &attempt, "no page of ours");
    let own_origin = format!("http://{}", harness.admin);
    last(405, ann.send("GET", &path, &[], ""), &attempt, "by POST");
    last(405, ann.send("PUT", &path, &[("Origin", &own_origin)], ""), &attempt, "by POST");
    last(405, ann.get(&format!("{path}?csrf={token}&altcha={solution}&mended=1")), &attempt, "by POST");

    // Another's: as if there were none, with a test that was solved for it, too.
    let path_of_other = format!("/unblock/{foreign}/lift");
    last(404, ann.post(&path_of_other, &good), &format!("lift {foreign}"), "no such ban");
    assert_eq!(ann.get(&format!("/unblock/{foreign}")).status, 404);
    assert_eq!(ann.get(&format!("/blocked/{own}")).status, 403);
    last(403, ann.post(&format!("/blocked/{own}/lift"), &[good[0], ("reason", "mine")]), &attempt, "not allowed");

    // A solution of another session, of another ban, and none.
    let mut again = Browser::logged_in(&harness, "ann");
    let other = solve(&again.get(&format!("/unblock/{own}")));
    last(403, ann.post(&path, &[good[0], ("altcha", &other), good[2]]), &attempt, "not set to you");
    // What was handed in was taken out: the right one is too late now.
    last(403, ann.post(&path, &good), &attempt, "used before");
    last(403, ann.post(&path, &good[..1]), &attempt, "not solved");

    // From a page elsewhere the cookie does not come along, and would not help.
    for headers in [
        vec![("Origin", "http://evil.example")],
        vec![("Origin", "null")],
        vec![("Origin", &*own_origin), ("Sec-Fetch-Site", "cross-site")],
    ] {
        let answer = ann.post_from(&headers, &path, &good);
        assert_eq!(answer.status, 403);
        assert_eq!(harness.refusals()[0].1, attempt);
    }
    assert!(harness.is_blocked("10.1.0.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_solution_is_good_for_one_lift_and_a_day_for_three() {
    let harness = Harness::start().await;
    let clients = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
    let bans = clients.map(|client| harness.block(client, "shop/api"));
    let mut ann = Browser::logged_in(&harness, "ann");

    let page = ann.get(&format!("/unblock/{}", bans[0]));
    let (token, solution) = (page.token(), solve(&page));
    let fields = [("csrf", &*token), ("altcha", &*solution), ("mended", "1")];
    let path = format!("/unblock/{}/lift", bans[0]);
    assert_eq!(ann.post(&path, &fields).status, 200);
    let again = harness.block(clients[0], "shop/api");
    for (ban, why) in [(&bans[0], "no such ban"), (&bans[1], "used before"), (&again, "used before")] {
        let answer = ann.post(&format!("/unblock/{ban}/lift"), &fields);
        assert!(matches!(answer.status, 403 | 404), "{}", answer.body);
        assert!(harness.refusals()[0].2.contains(why), "{:?}", harness.refusals()[0]);
    }

    assert_eq!(lift(&mut ann, &bans[1]).status, 200);
    let third = lift(&mut ann, &bans[2]);
    assert!(third.status == 200 && third.body.contains("0 more bans"), "{}", third.body);
    let fourth = lift(&mut ann, &bans[3]);
    assert_eq!(fourth.status, 403, "{}", fourth.body);
    assert_eq!(harness.refusals()[0].0, "ann");
    assert!(harness.refusals()[0].2.contains("three bans a day"), "{:?}", harness.refusals()[0]);
    assert!(harness.is_blocked(clients[3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_at_login_and_gone_at_logout() {
    let harness = Harness::start().await;
    let mut ann = Browser::new(&harness);
    let before = ann.get("/login").header("set-cookie").to_owned();
    for part in ["__Host-weir=", "; Path=/", "; HttpOnly", "; SameSite=Strict", "; Secure"] {
        assert!(before.contains(part), "{part}: {before}");
    }
    assert!(!before.contains("Domain"), "{before}");
    let planted = ann.cookie.clone();
    assert_eq!(ann.log_in("ann", &password("ann"), "/").status, 303);
    let session = ann.cookie.clone();
    assert_ne!(session, planted, "the name from before login is not the session's");
    let page = |cookie: &str| {
        let mut visitor = Browser { admin: harness.admin, host: "weir.example.com".into(), cookie: cookie.to_owned() };
        visitor.get("/unblock")
    };
    assert_eq!(page(&planted).status, 303, "a cookie that was planted is no session");
    assert!(page(&session).body.contains("ann"));

    let token = page(&session).token();
    let mut elsewhere = Browser { admin: harness.admin, host: harness.admin.to_string(), cookie: planted };
    assert_eq!(elsewhere.post("/logout", &[("csrf", &token)]).status, 403, "the token is of one cookie");
    assert_eq!(ann.post("/logout", &[("csrf", &token)]).status, 303);
    assert_eq!(page(&session).status, 303, "the session is gone on the server, too");

    // A new password ends the sessions of the old one.
    let bob = Browser::logged_in(&harness, "bob");
    assert_eq!(page(&bob.cookie).status, 200);
    let accounts = Arc::from([weir::limits::Account { name: "bob".into(), ..account("changed", false, &[], &[]) }]);
    let rulebook = weir::limits::LimitsConfig { accounts, ..rulebook() };
    harness.limits.reload(rulebook, &Actor::auto(), SystemTime::now());
    assert_eq!(page(&bob.cookie).status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_off_loopback_the_cookie_is_another_and_the_page_says_so() {
    let harness = Harness::with(|settings| settings.hosts.public_is_https = false).await;
    let mut ann = Browser::new(&harness);
    ann.host = "weir.example.com".to_owned();
    let answer = ann.get("/login");
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("weir=") && !cookie.contains("Secure") && cookie.contains("HttpOnly"), "{cookie}");
    assert!(answer.body.contains("came over plain HTTP"), "{}", answer.body);
    assert_eq!(ann.log_in("ann", &password("ann"), "/").status, 303);
    assert_eq!(ann.get("/unblock").status, 200);
    // The weaker cookie does not stand in for the stronger where that is given out.
    ann.host = harness.admin.to_string();
    assert!(!ann.get("/unblock").body.contains("ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn login_redirects_to_no_other_site_and_guessing_is_slow() {
    let harness = Harness::start().await;
    for next in ["https://evil.example/", "//evil.example", "/\\evil.example", "/logout", "javascript:alert(1)"] {
        let mut ann = Browser::new(&harness);
        let page = ann
            .get(&format!("/login?next={}", url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>()));
        assert_eq!(page.attribute("name=\"next\"", "value"), "/", "{next}");
        assert_eq!(ann.log_in("ann", &password("ann"), next).header("location"), "/", "{next}");
    }
    let mut guesser = Browser::new(&harness);
    let statuses: Vec<u16> = (0..12).map(|guess| guesser.log_in("ann", &guess.to_string(), "/").status).collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 2]);
    let answer = guesser.log_in("bob", &password("bob"), "/");
    assert_eq!(answer.status, 429, "the right password has to wait, too");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(guesser.log_in("ann", &password("ann"), "/").status, 303, "but not what has verified from here before");
    assert!(harness.refusals().iter().any(|(_, attempt, why)| attempt == "log in as ann" && why.contains("wrong")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_a_page_is_a_page_for_browsers_and_json_for_programs() {
    let harness = Harness::start().await;
    let mut browser = Browser::new(&harness);
    let accept = [("Accept", "text/html,application/xhtml+xml")];
    for (path, headers, media_type) in [
        ("/nothing", &accept[..], "text/html; charset=utf-8"),
        ("/nothing", &accept[..0], "application/json"),
        ("/api/v1/nothing", &accept[..], "application/json"),
    ] {
        let answer = browser.send("GET", path, headers, "");
        assert_eq!((answer.status, answer.header("content-type")), (404, media_type), "{path}");
    }
    let answer = browser.send("GET", "/nothing", &accept, "");
    assert!(answer.body.contains("There is no page at this address."), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_forbids_what_it_does_not_need() {
    let harness = Harness::start().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let mut ann = Browser::logged_in(&harness, "ann");
    let human = ann.get(&format!("/unblock/{ban}"));
    let mut operator = Browser::new(&harness);
    let one = format!("/blocked/{ban}");
    let pages = [
        "/",
        "/budget",
        "/policy",
        "/warm",
        "/clients",
        "/client?client=10.1.0.7",
        "/throttles",
        "/blocked",
        &one,
        "/audit",
        "/settings",
        "/unblock",
        "/login",
        "/blocked/nothing",
    ];
    let mut answers: Vec<_> = pages.map(|path| operator.get(path)).into();
    answers.push(operator.post("/throttles/mode", &[]));
    for answer in &answers {
        assert!(
            answer.header("content-security-policy").contains("; script-src 'self'; form-action"),
            "{}",
            answer.head
        );
        let scripts: Vec<&str> =
            answer.body.split("<script").skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
        assert_eq!(scripts, [" src=\"/assets/times.js\""], "{}", answer.body);
    }
    assert!(human.header("content-security-policy").contains("script-src 'self'; worker-src 'self'"), "{}", human.head);
    answers.push(human);
    for answer in &answers {
        for (name, words) in [
            ("content-security-policy", "default-src 'none'; style-src 'self'; img-src 'self'; "),
            ("content-security-policy", "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert!(answer.header(name).contains(words), "{name}: {}", answer.head);
        }
        assert!(!answer.header("content-security-policy").contains("unsafe"), "{}", answer.head);
        for inline in ["style=\"", "<style", " onclick", "http://", "https://"] {
            // The only address that is written out is the one that the notice of plain HTTP gives.
            assert!(!answer.body.contains(inline), "{inline}: {}", answer.body);
        }
    }
    for (path, media_type) in
        [("weir.css", "text/css"), ("weir.svg", "image/svg+xml"), ("proof_of_work.js", "text/javascript")]
    {
        let asset = operator.get(&format!("/assets/{path}"));
        assert_eq!(asset.status, 200);
        assert!(asset.header("content-type").starts_with(media_type), "{}", asset.head);
        assert!(!asset.body.contains("://") || path == "weir.svg", "{path} names another place");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_text_on_every_page() {
    let harness = Harness::start().await;
    let evil = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>";
    let ban = harness.block("10.1.0.7", evil);
    let by = Actor::new(evil, None);
    let wish = BanRequest {
        client: "10.3.0.1".parse().unwrap(),
        duration: std::time::Duration::from_secs(60),
        reason: evil.to_owned(),
        force: false,
    };
    let second = harness.limits.ban(wish, &by, SystemTime::now()).unwrap().id;
    harness.limits.allow(
        "10.4.0.1".parse().unwrap(),
        evil,
        SystemTime::now() + std::time::Duration::from_secs(60),
        &by,
        SystemTime::now(),
    );
    let mut operator = Browser::new(&harness);
    operator.log_in(evil, evil, evil);
    let encoded: String = url::form_urlencoded::byte_serialize(evil.as_bytes()).collect();
    let mut ann = Browser::logged_in(&harness, "ann");
    let mut answers = vec![ann.get(&format!("/unblock/{ban}"))];
    for path in [
        "/",
        "/budget",
        &format!("/client?client={encoded}"),
        &format!("/clients?part={encoded}"),
        "/throttles",
        "/blocked?ended=1",
        &format!("/blocked/{ban}"),
        &format!("/blocked/{second}"),
        "/audit",
    ] {
        answers.push(operator.get(path));
    }
    answers.push(operator.get(&format!("/blocked?namespace={encoded}")));
    answers.push(operator.get(&format!("/login?next={encoded}")));
    let token = operator.get("/blocked").token();
    answers.push(operator.post("/blocked/add", &[("csrf", &token), ("client", evil), ("reason", evil)]));
    let mut seen = 0;
    for answer in &answers {
        assert!(!answer.body.contains("<img src=x") && !answer.body.contains("<script>"), "{}", answer.body);
        seen += usize::from(answer.body.contains("&lt;img src=x"));
    }
    assert!(seen >= 6, "it was there, as text, on {seen} pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_operators_are_for_operators() {
    let harness = Harness::start().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let one = format!("/blocked/{ban}");
    let pages = [
        "/",
        "/budget",
        "/policy",
        "/warm",
        "/clients",
        "/client?client=a",
        "/throttles",
        "/blocked",
        &one,
        "/audit",
        "/settings",
    ];
    let mut local = Browser::new(&harness);
    let (mut visitor, mut through) = (Browser::new(&harness), Browser::new(&harness));
    visitor.host = "weir.example.com".to_owned();
    let (mut ann, mut ops) = (Browser::logged_in(&harness, "ann"), Browser::logged_in(&harness, "ops"));
    ops.host = "weir.example.com".to_owned();
    for path in pages {
        assert_eq!(local.get(path).status, 200, "{path}: on loopback no login is needed");
        assert_eq!(
            visitor.get(path).header("location"),
            "/login",
            "{path}: a request by public_url may come from anywhere"
        );
        let forwarded = through.send("GET", path, &[("X-Forwarded-For", "127.0.0.1")], "");
        assert_eq!(forwarded.header("location"), "/login", "{path}: what comes through a proxy comes from anywhere");
        let user = ann.get(path);
        assert!(user.status == 403 || user.header("location") == "/unblock", "{path}: {}", user.status);
        assert_eq!(ops.get(path).status, 200, "{path}");
    }
    // The JSON API stands behind the same door.
    assert_eq!(local.get("/api/v1/budget").status, 200);
    assert_eq!(visitor.get("/api/v1/budget").status, 401);
    assert_eq!(through.send("GET", "/api/v1/budget", &[("Forwarded", "for=127.0.0.1")], "").status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_page_tells_what_is_left_who_spent_it_and_when_it_comes_back() {
    let harness = Harness::start().await;
    harness.spend().await;
    let page = Browser::new(&harness).get("/budget").body;
    for words in [
        "docker.io as anonymous",
        "75</b> of 100 pulls left",
        "25 spent by this mirror",
        "bulk stops at 40 left",
        "10.5.0.3",
        // Of several identities each table has a name of its own.
        "aria-label=\"Who spent it, docker.io as anonymous\"",
        "aria-label=\"What comes back, docker.io as anonymous\"",
        "docker.io/library/image-8:latest",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let mut operator = Browser::new(&harness);
    let found = operator.get("/budget?client=10.5.0.3&image=image-7:").body;
    let rows = found.split_once("aria-label=\"Newest spends\"").unwrap().1;
    assert!(
        rows.contains("image-7:latest") && !rows.contains("image-8:latest") && !rows.contains("10.5.0.2"),
        "{rows}"
    );
    assert!(operator.get("/budget?class=bulk").body.contains("No spend fits."));
    assert!(operator.get("/budget?first=20").body.contains("25 spends of the last 25."));

    // What if upstream gave 20 pulls, to 25 that were made; and if nothing had had to be fetched twice.
    let page =
        operator.get("/budget?what_if=1&limit=20&bulk=0.4&standard=0&critical=0&client_standard=1&client_bulk=1");
    assert!(page.body.contains("20 of 25 would have been granted"), "{}", page.body);
    assert!(page.body.contains("5 for want of any pull") && page.body.contains("value=\"20\""), "{}", page.body);
    let page = operator.get("/budget?what_if=1&limit=20&bulk=2").body;
    assert!(page.contains("Write a fraction from 0 to 1") && page.contains("value=\"2\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_enforces_lifts_allows_and_blocks() {
    let harness = Harness::start().await;
    let (first, second) = (harness.block("10.1.0.7", "shop/api"), harness.block("10.1.0.8", "library/nginx"));
    let mut operator = Browser::new(&harness);
    harness.pull("10.5.0.1", 15);
    harness.pull("10.5.0.2", 12);

    let page = operator.get("/throttles");
    assert!(page.body.contains("would have denied 7 requests of 2 clients"), "{}", page.body);
    let token = page.token();
    let name = "throttle_unauthenticated_pulls";
    let switch = |operator: &mut Browser, name: &str, mode: &str| {
        operator.post("/throttles/mode", &[("csrf", &token), ("name", name), ("mode", mode)]).status
    };
    assert_eq!(switch(&mut operator, name, "enforce"), 303);
    assert_eq!(harness.limits.throttles()[0].mode, Mode::Enforce);
    assert!(operator.get("/throttles").body.contains("switched by hand"));
    assert_eq!(switch(&mut operator, "*", "off"), 400, "only what the page shows");
    assert_eq!(switch(&mut operator, name, "gone"), 400);
    assert_eq!(harness.limits.throttles()[0].mode, Mode::Enforce);

    let filtered = operator.get("/blocked?namespace=shop/").body;
    assert!(filtered.contains(&first) && !filtered.contains(&second), "{filtered}");
    let post = |operator: &mut Browser, path: String, fields: &[(&str, &str)]| {
        let fields: Vec<_> = [("csrf", &*token)].into_iter().chain(fields.iter().copied()).collect();
        operator.post(&path, &fields)
    };
    let answer = post(&mut operator, format!("/blocked/{first}/lift"), &[("reason", " ")]);
    assert_eq!(answer.status, 400, "a lift says why: {}", answer.body);
    assert_eq!(post(&mut operator, format!("/blocked/{first}/lift"), &[("reason", "mended")]).status, 303);
    assert!(operator.get(&format!("/blocked/{first}")).body.contains("Lifted by"));
    let fields = [("comment", "the build farm"), ("days", "7")];
    assert_eq!(post(&mut operator, format!("/blocked/{second}/allow"), &fields).status, 303);
    assert!(operator.get("/throttles").body.contains("the build farm"));
    assert!(!harness.is_blocked("10.1.0.7") && !harness.is_blocked("10.1.0.8"));

    assert!(operator.get("/blocked?part=asked").body.contains("No client is blocked because of that."));
    let wide = [("client", "10.0.0.0/8"), ("duration", "1h"), ("reason", "all of it")];
    let answer = post(&mut operator, "/blocked/add".into(), &wide);
    assert!(answer.status == 400 && answer.body.contains("wider than a /24"), "{}", answer.body);
    for kept in ["value=\"10.0.0.0/8\"", "value=\"all of it\""] {
        assert!(answer.body.contains(kept), "what was typed is kept: {kept}: {}", answer.body);
    }
    let one = [("client", "10.9.0.1"), ("duration", "1h"), ("reason", "asked to")];
    assert_eq!(post(&mut operator, "/blocked/add".into(), &one).status, 303);
    assert!(harness.is_blocked("10.9.0.1"));
    let found = operator.get("/blocked?part=asked").body;
    assert!(found.contains("1 ban of that.") && found.contains("client=10.9.0.1"), "{found}");

    // The end of a ban is moved, and what it stopped is counted.
    let third = found.split_once("href=\"/blocked/").unwrap().1.split('"').next().unwrap().to_owned();
    for (duration, why, said) in [("soon", "x", "Write a duration"), ("2d", " ", "Say why.")] {
        let answer = post(&mut operator, format!("/blocked/{third}/end"), &[("duration", duration), ("why", why)]);
        assert!(answer.status == 400 && answer.body.contains(said), "{said}: {}", answer.body);
        assert!(answer.body.contains(&format!("value=\"{duration}\"")), "{}", answer.body);
    }
    harness.pull("10.9.0.1", 3);
    let fields = [("duration", "2d"), ("why", "still at it")];
    assert_eq!(post(&mut operator, format!("/blocked/{third}/end"), &fields).status, 303);
    let page = operator.get(&format!("/blocked/{third}")).body;
    assert!(page.contains("in 1 day 23h") && page.contains("3 requests met it since the start"), "{page}");

    let audit = operator.get("/audit").body;
    for words in
        ["still at it", "moved the end of", "switched", "lifted", "allowed", "asked to", "wider than a /24", "operator"]
    {
        assert!(audit.contains(words), "{words}: {audit}");
    }
    let switched = harness
        .limits
        .audit(100)
        .into_iter()
        .filter(|entry| matches!(&entry.event, Event::Admin(AdminEvent::Switched { .. })));
    assert_eq!(switched.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_half_of_it_give_way_to_a_probe() {
    let world = Harness::start().await;
    let probe = || {
        let started = std::time::Instant::now();
        assert_eq!(Browser::new(&world).get("/healthz").status, 200);
        started.elapsed()
    };
    // Far more than the listener holds, of the very address that the probe comes from.
    let mut silent: Vec<_> = (0..400).map(|_| std::net::TcpStream::connect(world.admin).unwrap()).collect();
    let after_silence = probe();
    let head = format!("POST /api/v1/bans HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", world.admin);
    for socket in silent.drain(..100) {
        drop(socket);
    }
    let half_sent: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(world.admin).unwrap();
            std::io::Write::write_all(&mut socket, format!("{head}Content-Length: 1000\r\n\r\n{{").as_bytes()).unwrap();
            socket
        })
        .collect();
    let after_halves = probe();
    // The oldest of this client has given way, long before the time-out of its body.
    let mut oldest = &half_sent[0];
    oldest.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let read = std::io::Read::read(&mut oldest, &mut [0]);
    let is_closed = read.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |n| *n == 0);
    assert!(is_closed, "{read:?}");
    // Without a limit of one client's connections each of them waits for the time-out of others, seconds later.
    for elapsed in [after_silence, after_halves] {
        assert!(elapsed < std::time::Duration::from_millis(1500), "{elapsed:?}");
    }
    drop((silent, half_sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_clients_within_their_shares_the_oldest_give_way() {
    const CAPACITY: usize = 256;
    let world = Harness::start().await;
    let half = format!(
        "POST /api/v1/bans HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{",
        world.admin
    );
    let connect = |host: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        socket.connect(&world.admin.into()).unwrap();
        let mut socket = std::net::TcpStream::from(socket);
        std::io::Write::write_all(&mut socket, half.as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let crowd: Vec<_> = (2..12).flat_map(|host| (0..30).map(move |_| host)).map(connect).collect();
    let would_wait = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    let is_open = |socket: &&std::net::TcpStream| socket.peek(&mut [0]).as_ref().is_err_and(would_wait);
    // Long before the time-out of their bodies.
    let begun = std::time::Instant::now();
    while crowd.iter().filter(is_open).count() > CAPACITY {
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "all are kept");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A probe knows no password and asks at any address.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_that_the_disk_is_read_only_or_full() {
    let harness = Harness::start().await;
    let mut probe = Browser::new(&harness);
    for (errno, said) in [(30, "is read-only"), (28, "has no space left")] {
        harness.bench.faults.fail(weir_storage::Call::Create, 0, u32::MAX, errno);
        let mut disk = |wanted: bool| loop {
            let answer = probe.get("/readyz?verbose");
            let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let disk = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "disk").unwrap().clone();
            if disk["ok"] == wanted {
                assert_eq!((answer.status, json["ready"].as_bool()), (200, Some(true)));
                return disk["problem"].as_str().unwrap_or_default().to_owned();
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        let problem = disk(false);
        assert!(problem.contains(said), "{problem}");
        harness.bench.faults.heal();
        disk(true);
    }
    let plain: serde_json::Value = serde_json::from_str(&probe.get("/readyz").body).unwrap();
    assert!(plain["checks"].is_null(), "{plain}");
}
