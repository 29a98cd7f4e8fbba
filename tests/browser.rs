//! The pages in a real browser, headless Chromium: `cargo test --test browser`. Not among the tests of a plain `cargo test`, for it
//! needs Debian's chromium and chromium-driver; `.ci/run` installs and runs it.
//!
//! What each page looks like, wide and narrow, light and dark, is in `target/screenshots` afterwards, to be looked at.

#[path = "browser/driver.rs"]
mod driver;
#[expect(dead_code, reason = "the tests over real sockets use what this does not")]
#[path = "pages/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the tests over real sockets use what this does not")]
#[path = "mirror/support.rs"]
mod support;

use std::path::PathBuf;

// Where the tests over real sockets have it.
use crate as mirror;

use driver::Browser;
use harness::{Harness, password};
use weir::limits::throttle::Mode;

/// Logs in where the browser is, at the login page.
fn log_in(browser: &Browser, name: &str) {
    browser.type_into("#name", name);
    browser.type_into("#password", &password(name));
    browser.go("main button");
}

/// Reads, waits for the human test, confirms, lifts.
fn lift(browser: &Browser, ban: &str) {
    assert!(browser.url().ends_with(&format!("/unblock/{ban}")), "{}", browser.url());
    assert!(browser.text("main").contains("a wrong tag"), "{}", browser.text("main"));
    browser.wait("the human test is solved", |browser| browser.is_enabled("#human button"));
    assert!(browser.text("#human output").starts_with("Done"));
    browser.click("#human input[type=checkbox]");
    browser.go("#human button");
    assert_eq!(browser.text("h1"), "Lifted", "{}", browser.text("main"));
    assert!(browser.text("main").contains("half its quota"), "{}", browser.text("main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_logs_in_solves_the_human_test_and_lifts_the_ban() {
    let harness = Harness::start().await;
    let browser = Browser::start(true);
    // On loopback a browser keeps the Secure cookie though there is no TLS, by either name.
    for (host, client) in [("127.0.0.1", "10.1.0.7"), ("localhost", "10.1.0.8")] {
        let ban = harness.block(client, "shop/api");
        browser.open(&format!("http://{host}:{}/login?next=/unblock/{ban}", harness.admin.port()));
        log_in(&browser, "ann");
        lift(&browser, &ban);
        assert!(!harness.is_blocked(client));
        browser.go(".who button");
        assert!(browser.url().ends_with("/login"), "{}", browser.url());
    }
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_human_test_needs_no_secure_context() {
    let harness = Harness::with(|settings| {
        let port = settings.hosts.listen.port();
        settings.hosts.public = Some(format!("weir.lan:{port}"));
        settings.hosts.public_is_https = false;
    })
    .await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let browser = Browser::start(true);
    browser.open(&format!("http://weir.lan:{}/unblock/{ban}", harness.admin.port()));
    assert_eq!(browser.evaluate("return isSecureContext"), false);
    assert!(browser.text("main").contains("came over plain HTTP"));
    log_in(&browser, "ann");
    lift(&browser, &ban);
    assert!(!harness.is_blocked("10.1.0.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_but_the_human_test_works_without_javascript() {
    let harness = Harness::start().await;
    let (first, second) = (harness.block("10.1.0.7", "shop/api"), harness.block("10.2.0.7", "library/nginx"));
    harness.pull("10.5.0.1", 15);
    let browser = Browser::start(false);
    let at = |path: &str| format!("http://{}{path}", harness.admin);

    browser.open(&at("/"));
    assert_eq!(browser.text("h1"), "Overview");
    assert!(browser.text("main").contains("Healthy"), "{}", browser.text("main"));
    browser.go("nav a[href='/budget']");
    assert!(browser.text("h1") == "Budget" && browser.text("main").contains("docker.io as anonymous"));
    browser.go("nav a[href='/throttles']");
    assert!(browser.text("main").contains("would have denied 5 requests of 1 client"), "{}", browser.text("main"));
    browser.go("button[value=enforce]");
    assert!(browser.text("main").contains("switched by hand"));
    assert!(!browser.has("button[value=enforce]"));
    assert_eq!(harness.limits.throttles()[0].mode, Mode::Enforce);

    browser.go("nav a[href='/blocked']");
    browser.type_into("#namespace", "shop/");
    browser.go("form.line button");
    assert!(browser.text("main").contains(&first) && !browser.text("main").contains(&second));
    browser.go(&format!("a[href='/blocked/{first}']"));
    browser.type_into("#reason", "the tag is mended");
    browser.go("form[action$='/lift'] button");
    assert!(browser.text("main").contains("Lifted by operator"), "{}", browser.text("main"));
    browser.open(&at(&format!("/blocked/{second}")));
    browser.type_into("#comment", "the build farm");
    browser.go("form[action$='/allow'] button");
    assert!(!harness.is_blocked("10.1.0.7") && !harness.is_blocked("10.2.0.7"));
    browser.open(&at("/blocked"));
    browser.click("summary");
    browser.type_into("#client", "10.9.0.1");
    browser.type_into("input[name=reason]", "asked to");
    browser.go("form[action='/blocked/add'] button");
    assert!(harness.is_blocked("10.9.0.1"));
    browser.go("nav a[href='/audit']");
    for words in ["switched", "the tag is mended", "the build farm", "asked to"] {
        assert!(browser.text("main").contains(words), "{words}");
    }

    let ban = harness.block("10.1.0.8", "shop/api");
    browser.open(&at(&format!("/login?next=/unblock/{ban}")));
    log_in(&browser, "ann");
    assert!(browser.text("#human").contains("needs JavaScript"), "{}", browser.text("main"));
    assert!(!browser.is_enabled("#human button"));
    browser.go("nav a[href='/unblock']");
    assert!(browser.text("main").contains(&ban));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_is_wider_than_its_window() {
    let harness = Harness::start().await;
    harness.spend().await;
    let own = harness.block("10.1.0.7", "shop/a-team/a-service-with-a-name-that-is-rather-long");
    harness.block("10.2.0.7", "library/nginx");
    harness.block("2001:db8:1:2::", "library/postgres");
    harness.pull("10.5.0.1", 15);
    let screenshots = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    std::fs::create_dir_all(&screenshots).unwrap();
    let browser = Browser::start(true);
    let look = |name: &str, path: &str| {
        browser.open(&format!("http://{}{path}", harness.admin));
        if browser.has("#human") {
            browser.wait("the human test is solved", |browser| browser.is_enabled("#human button"));
        }
        for (width, scheme) in [(1280, "light"), (390, "light"), (1280, "dark")] {
            browser.resize(width, scheme);
            let wide = browser.evaluate("return document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(wide <= u64::from(width), "{name} is {wide} wide in {width}");
            browser.screenshot(&screenshots.join(format!("{name}-{width}-{scheme}.png")));
        }
        // Every field has a label, and every table heads.
        let unlabelled =
            "return [...document.querySelectorAll('input:not([type=hidden])')].filter(i => !i.labels.length).length";
        assert_eq!(browser.evaluate(unlabelled), 0, "{name}");
        let headless =
            "return [...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope=col]')).length";
        assert_eq!(browser.evaluate(headless), 0, "{name}");
    };
    browser.open(&format!("http://{}/", harness.admin));
    while !browser.has("svg.graph polyline") {
        browser.open(&format!("http://{}/", harness.admin));
    }
    look("overview", "/");
    look("budget", "/budget");
    look("images", "/images");
    look("images-none", "/images?pattern=none");
    look("registry", "/images?registry=docker.io");
    look("image", "/image?repository=library/image-1&reference=latest");
    look("purge", "/image/remove?repository=library/image-1&reference=latest");
    look("throttles", "/throttles");
    look("blocked", "/blocked");
    look("ban", &format!("/blocked/{own}"));
    look("audit", "/audit");
    look("login", &format!("/login?next=/unblock/{own}"));
    log_in(&browser, "ann");
    look("unblock", "/unblock");
    look("unblock-one", &format!("/unblock/{own}"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}
