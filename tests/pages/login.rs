//! *Log in* and *Log out*: when a session begins and ends, which cookie it has, and where a login leads.

use std::{sync::Arc, time::SystemTime};

use weir::limits::audit::Actor;

use super::harness::{Browser, Harness, account, password, rulebook};

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
