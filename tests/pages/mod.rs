//! The pages for people, over real sockets: who may see and do what, and what becomes of everything else.

mod audit;
mod budget;
mod changes;
mod clients;
mod connections;
mod findings;
pub(crate) mod harness;
mod images;
mod language;
mod log;
mod login;
mod overview;
mod roles;
mod settings;
mod unblock;
mod warm;

use std::time::SystemTime;

use weir::limits::{audit::Actor, state::BanRequest};

use harness::{Browser, Harness};

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
    for (at, answer) in answers.iter().enumerate() {
        // Overview asks for its figures again, and no other of these pages asks for anything.
        let (script, policy) = match at {
            0 => (Some(" src=\"/assets/live.js\""), "; script-src 'self'; connect-src 'self'; form-action"),
            _ => (None, "; script-src 'self'; form-action"),
        };
        assert!(answer.header("content-security-policy").contains(policy), "{}", answer.head);
        let scripts: Vec<&str> =
            answer.body.split("<script").skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
        let expected: Vec<_> = script.into_iter().chain([" src=\"/assets/times.js\""]).collect();
        assert_eq!(scripts, expected, "{}", answer.body);
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
