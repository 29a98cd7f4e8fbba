//! Who may do what on the admin listener: every route of its router, by every role, with Basic and with a session.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use weir::{
    admin,
    limits::{Account, LimitsConfig, Role, audit::Actor},
};

use super::harness::{Answer, Browser, Harness, account, password, rulebook};

const ROLES: [Option<Role>; 5] = [None, Some(Role::User), Some(Role::Metrics), Some(Role::Viewer), Some(Role::Admin)];

/// What the documents say. A route that is new is for viewers when it is asked by GET, and for admins else.
fn may(role: Option<Role>, method: &str, path: &str) -> bool {
    let is_one = |roles: &[Role]| role.is_some_and(|role| roles.contains(&role));
    match (method, path) {
        (_, "/healthz" | "/readyz" | "/login" | "/language") => true,
        (_, path) if path.starts_with("/assets/") => true,
        (_, "/metrics") => is_one(&[Role::Metrics, Role::Viewer, Role::Admin]),
        (_, "/api/v1/cache/export") => is_one(&[Role::Admin]),
        (_, "/logout") => role != Some(Role::Metrics),
        ("GET", path) if path.starts_with("/unblock") => is_one(&[Role::User, Role::Viewer, Role::Admin]),
        (_, path) if path.starts_with("/unblock") => is_one(&[Role::User, Role::Admin]),
        ("GET", _) => is_one(&[Role::Viewer, Role::Admin]),
        _ => is_one(&[Role::Admin]),
    }
}

/// A listener that asks for a login, and an account of each role, named after it.
async fn start() -> Harness {
    let harness = Harness::with(|settings| settings.login = true).await;
    let of = |role: Role| Account { role, ..account(role.word(), false, &[], &[]) };
    let accounts: Arc<[Account]> = ROLES.into_iter().flatten().map(of).collect();
    let config = LimitsConfig { accounts, ..rulebook() };
    harness.limits.reload(config, &Actor::new("test", None), SystemTime::now());
    harness
}

/// The path of a route with something in place of the id.
fn filled(path: &str) -> String {
    path.split_once("{id")
        .map_or_else(|| path.to_owned(), |(before, rest)| format!("{before}1{}", rest.trim_start_matches(|c| c != '/')))
}

fn basic(role: Role) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", role.word(), password(role.word()))))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_for_the_roles_that_the_table_says() {
    let harness = start().await;
    let endpoints = admin::routes();
    let endpoints = endpoints
        .iter()
        .filter(|(_, path)| path.starts_with("/api/") || ["/healthz", "/readyz", "/metrics"].contains(path));
    for (method, path) in endpoints {
        for role in ROLES {
            let header = role.map(basic);
            let headers: Vec<_> = header.iter().map(|value| ("Authorization", value.as_str())).collect();
            let answer = Browser::new(&harness).send(method, &filled(path), &headers, "");
            let expected = match (may(role, method, path), role) {
                (true, _) => !matches!(answer.status, 401 | 403),
                (false, None) => answer.status == 401,
                (false, Some(_)) => answer.status == 403,
            };
            assert!(expected, "{method} {path} as {role:?}: {} {}", answer.status, answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_and_form_is_for_the_roles_that_the_table_says() {
    let harness = start().await;
    let pages = admin::routes();
    let pages = pages
        .iter()
        .filter(|(_, path)| !path.starts_with("/api/") && !["/healthz", "/readyz", "/metrics"].contains(path));
    for (method, path) in pages.filter(|route| **route != ("POST", "/login")) {
        for role in ROLES.into_iter().filter(|role| *role != Some(Role::Metrics)) {
            let mut visitor = match role {
                Some(role) => Browser::logged_in(&harness, role.word()),
                None => Browser::new(&harness),
            };
            let answer = match *method {
                "GET" if *path == "/log/stream" => {
                    Answer { status: visitor.begin(path), head: String::new(), body: String::new() }
                }
                "GET" => visitor.get(&filled(path)),
                _ => {
                    let start = if role.is_some() { "/unblock" } else { "/login" };
                    let token = visitor.get(start).token();
                    visitor.post(&filled(path), &[("csrf", &token)])
                }
            };
            // A page that is not for the visitor leads elsewhere. The choice of a language leads back.
            let leads_elsewhere = *method == "GET" && answer.status == 303 && *path != "/language";
            let is_refused = matches!(answer.status, 401 | 403) || leads_elsewhere;
            assert_eq!(!is_refused, may(role, method, path), "{method} {path} as {role:?}: {}", answer.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_shown_everything_and_what_it_tries_is_in_the_audit() {
    let harness = start().await;
    let mut viewer = Browser::logged_in(&harness, "viewer");
    let page = viewer.get("/blocked");
    assert!(page.body.contains(r#"<body class="viewer">"#) && page.body.contains("changes nothing"), "{}", page.body);
    let token = page.token();
    let fields = [("csrf", &*token), ("client", "10.9.9.9"), ("reason", "x"), ("for", "1h")];
    assert_eq!(viewer.post("/blocked/add", &fields).status, 403);
    let header = basic(Role::Viewer);
    let answer = viewer.send("POST", "/api/v1/bans", &[("Authorization", &header)], "");
    assert_eq!((answer.status, answer.body.contains("role admin is required")), (403, true), "{}", answer.body);
    assert!(!harness.is_blocked("10.9.9.9"));
    let refusals = harness.refusals();
    let tried = |attempt: &str| refusals.iter().any(|(by, tried, _)| by == "viewer" && tried == attempt);
    assert!(tried("ban") && tried("POST /api/v1/bans"), "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_has_no_session_and_a_session_is_no_login_for_the_api() {
    let harness = start().await;
    let mut scraper = Browser::new(&harness);
    let answer = scraper.log_in("metrics", &password("metrics"), "/");
    assert_eq!((answer.status, scraper.get("/").status), (403, 303), "{}", answer.body);
    let mut admin = Browser::logged_in(&harness, "admin");
    assert_eq!((admin.get("/").status, admin.get("/api/v1/status").status), (200, 401));
    // A session does not outlive the role that it was begun with.
    let config = LimitsConfig {
        accounts: Arc::from([Account { role: Role::Metrics, ..account("admin", false, &[], &[]) }]),
        ..rulebook()
    };
    harness.limits.reload(config, &Actor::new("test", None), SystemTime::now());
    assert_eq!(admin.get("/").status, 303);
}
