//! The pages in real browsers, headless Chromium and Firefox: `cargo test --test browser`. Not among the tests of a plain `cargo test`, for it
//! needs Debian's chromium, chromium-driver, firefox-esr and npm; `.ci/run` installs and runs it.
//!
//! What each page looks like, wide and narrow, light and dark, is in `target/screenshots` afterwards, to be looked at.

#[path = "browser/axe.rs"]
mod axe;
#[path = "browser/driver.rs"]
mod driver;
#[path = "browser/firefox.rs"]
mod firefox;
#[expect(dead_code, reason = "the tests over real sockets use what this does not")]
#[path = "pages/harness.rs"]
mod harness;
#[path = "browser/look.rs"]
mod look;
#[path = "browser/states.rs"]
mod states;
#[expect(dead_code, reason = "the tests over real sockets use what this does not")]
#[path = "mirror/support.rs"]
mod support;

// Where the tests over real sockets have it.
use crate as mirror;

use std::time::{Duration, Instant};

use driver::{Browser, Window as _};
use firefox::Firefox;
use harness::{Harness, password};
use look::Look;
use weir::{limits::throttle::Mode, route::Routes};
use weir_conformance::hub::Spec;

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

const ACCESS: &str = r#"{"timestamp":"2026-11-29T20:00:01.5Z","level":"INFO","method":"GET","path":"/v2/library/a-rather-long-name-of-an-image/manifests/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","status":200,"bytes":7,"client":"10.1.0.7","cache":"hit","target":"weir::access"}"#;
const EVENT: &str = r#"{"timestamp":"2026-11-29T20:00:02.5Z","level":"WARN","message":"upstream fails","upstream":"docker.io","target":"weir::upstream"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_while_its_page_is_open() {
    let harness = Harness::start().await;
    harness.log.push(ACCESS);
    let browser = Browser::start(true);
    browser.open(&format!("http://{}/log", harness.admin));
    browser.wait("the log is live", |browser| browser.text("#live").contains("Live"));
    harness.log.push(EVENT);
    browser.wait("the line is there", |browser| browser.text("tbody tr").contains("upstream fails"));
    browser.click("#live button");
    harness.log.push("it rains");
    harness.log.push("it pours");
    browser.click("#live button");
    browser.wait("what waited is there", |browser| browser.text("tbody tr").contains("it pours"));
    assert_eq!(browser.evaluate("return document.querySelectorAll('tbody tr').length"), 4);
    assert_eq!(browser.errors(), Vec::<String>::new());

    let without = Browser::start(false);
    without.open(&format!("http://{}/log?kind=access", harness.admin));
    let text = without.text("main");
    assert!(text.contains("10.1.0.7") && text.contains("Load the page again") && !text.contains("it pours"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_goes_on_while_its_page_is_open_and_is_not_paused() {
    let harness = Harness::start().await;
    let browser = Browser::start(true);
    browser.open(&format!("http://{}/", harness.admin));
    browser.wait("the overview is live", |browser| browser.text("#live").contains("Live"));
    harness.block("10.1.0.7", "shop/api");
    browser.wait("the ban is counted", |browser| browser.text("#figures").contains("1 ban in force"));
    browser.click("#live button");
    browser.wait("it is paused", |browser| browser.text("#live").contains("Paused"));
    assert_eq!(browser.evaluate("return stream.readyState === EventSource.CLOSED"), true);
    harness.block("10.1.0.8", "shop/api");
    browser.click("#live button");
    browser.wait("it goes on", |browser| browser.text("#figures").contains("2 bans in force"));
    // The part in which the viewer is stays as it is, and the others go on.
    browser.evaluate("document.querySelector('#figures a').focus()");
    harness.block("10.1.0.9", "shop/api");
    browser.evaluate("document.getElementById('verdict').textContent = ''");
    browser.wait("another part is read again", |browser| browser.text("#verdict").contains("Healthy"));
    assert!(browser.text("#figures").contains("2 bans in force"), "{}", browser.text("#figures"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

/// Asks until the hour that the graphs show has begun.
fn until_graphs(browser: &Browser, harness: &Harness) {
    browser.open(&format!("http://{}/", harness.admin));
    while !browser.has("svg.graph polyline") {
        browser.open(&format!("http://{}/", harness.admin));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_its_window_and_is_accessible() {
    let harness = Harness::start().await;
    harness.spend().await;
    let own = harness.block("10.1.0.7", "shop/a-team/a-service-with-a-name-that-is-rather-long");
    harness.block("10.2.0.7", "library/nginx");
    harness.block("2001:db8:1:2::", "library/postgres");
    harness.pull("10.5.0.1", 15);
    harness.ask("10.5.0.1", 9);
    states::show_settings(&harness);
    states::warm(&harness, &["library/image-1:latest", "library/absent:1"]).await;
    let browser = Browser::start(true);
    until_graphs(&browser, &harness);
    let look = Look::new(&browser, &harness);
    look.at("overview", "/");
    look.at("budget", "/budget");
    look.at("images", "/images");
    look.at("images-none", "/images?pattern=none");
    look.at("registry", "/images?registry=docker.io");
    look.at("image", "/image?repository=library/image-1&reference=latest");
    look.at("purge", "/image/remove?repository=library/image-1&reference=latest");
    states::bring(&harness, "library/findings").await;
    look.at("findings", "/policy?rule=non_root&not_arrived_within=1s");
    look.at("findings-image", "/image?repository=library/findings&reference=latest");
    look.at("warm", "/warm?list=night");
    look.at("warm-one", "/warm/1");
    look.at("clients", "/clients");
    look.at("client", "/client?client=10.5.0.1");
    look.at("throttles", "/throttles");
    look.at("throttle-off", "/throttles/off?name=throttle_unauthenticated_pulls");
    look.at("blocked", "/blocked");
    look.at("ban", &format!("/blocked/{own}"));
    look.at("audit", "/audit");
    look.at("audit-none", "/audit?event=pinned&by=ann&text=10.1.");
    for line in [ACCESS, EVENT] {
        harness.log.push(line);
    }
    look.at("log", "/log");
    look.at("settings", "/settings");
    look.at("login", &format!("/login?next=/unblock/{own}"));
    log_in(&browser, "ann");
    look.at("unblock", "/unblock");
    look.at("unblock-one", &format!("/unblock/{own}"));
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pulls_left_have_axes_and_a_value_at_each_moment_and_are_a_drawing_without_javascript() {
    let harness = Harness::start().await;
    harness.spend().await;
    let browser = Browser::start(true);
    until_graphs(&browser, &harness);
    let budget = format!("http://{}/budget", harness.admin);
    browser.open(&budget);
    browser.wait("it is drawn with axes", |browser| browser.has("figure .plot canvas"));
    assert!(!browser.has("figure svg.graph"));
    let drawn = "const canvas = document.querySelector('.plot canvas'); \
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(part => part)";
    browser.wait("the canvas is not empty", |browser| browser.evaluate(drawn) == true);
    // By keyboard: the last moment, and the one before.
    let press = |key: &str| {
        let event = format!("new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}})");
        browser.evaluate(&format!(
            "document.querySelector('.plot').focus(); document.querySelector('.plot').dispatchEvent({event})"
        ));
        browser.evaluate("const plot = document.querySelector('.plot'); return [plot.ariaValueNow, plot.ariaValueMax, plot.ariaValueText].map(String)")
    };
    let end = press("End");
    assert!(end[0] == end[1] && end[2].as_str().unwrap().ends_with(": 75"), "{end}");
    assert_eq!(end[2], browser.text("figcaption"), "the same is there to be seen");
    let before = press("ArrowLeft");
    let index = |number: &serde_json::Value| number.as_str().unwrap().parse::<u32>().unwrap();
    assert_eq!(index(&before[0]) + 1, index(&end[0]), "{before}");
    // It is as wide as its window, whatever that becomes.
    for width in [390, 1280] {
        browser.resize(width, "dark");
        browser.wait("it fits", |browser| {
            browser.evaluate("const plot = document.querySelector('.plot'); return Math.abs(plot.clientWidth - plot.querySelector('.uplot').clientWidth)") == 0
        });
    }
    assert_eq!(browser.errors(), Vec::<String>::new());

    let without = Browser::start(false);
    without.open(&budget);
    assert!(without.has("figure svg.graph polyline") && !without.has(".plot"));
}

/// Lists that are as long as a busy registry's, and how long the server takes for the first page of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_images_fit_their_window_and_are_there_at_once() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    let begun = Instant::now();
    states::fill(&harness, IMAGES).await;
    println!("{IMAGES} images were made in {:.1?}", begun.elapsed());
    let list = format!("http://{}/images", harness.admin);
    browser.open(&list);
    browser.wait("all are counted", |browser| {
        browser.open(&list);
        browser.text("table").contains(&IMAGES.to_string())
    });
    let mut operator = harness::Browser::new(&harness);
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            let page = operator.get("/images").body;
            let took = begun.elapsed();
            assert!(page.contains("a-service-with-a-name-that-is-rather-long"), "{page}");
            took
        })
        .collect();
    times.sort();
    println!("the first page of Images took {:.1?}", times[4]);
    assert!(times[4] < Duration::from_millis(100), "{times:?}");
    let look = Look::new(&browser, &harness);
    look.at("many-images", "/images");
    look.at("many-images-found", "/images?pattern=team7/*");
    look.at("many-images-overview", "/");
    look.done();
}

const IMAGES: usize = 100_000;

/// What an image can be, and each step that asks once more.
#[tokio::test(flavor = "multi_thread")]
async fn one_image_of_each_kind_and_each_second_step_fit_their_window_and_are_accessible() {
    let routes = Routes::new(Some("docker.io"), ["docker.io"]).hosting(&["team/*".to_owned()]);
    let harness = Harness::with(|settings| settings.routes = routes.into()).await;
    harness.spend().await;
    states::bring(&harness, "library/whole").await;
    states::import(&harness, "library/image-1").await;
    states::host(&harness, "team/app").await;
    let browser = Browser::start(true);
    let look = Look::new(&browser, &harness);
    let says = |words: &str| assert!(browser.text("main").contains(words), "{words}: {}", browser.text("main"));
    let image = |repository: &str, tag: &str| format!("/image?repository={repository}&reference={tag}");
    look.at("image-imported", &image("library/image-1", "latest"));
    says("by the operator of the other site, not confirmed by upstream");
    look.at("image-hosted", &image("team/app", "v1"));
    says("no upstream is asked for it");
    look.at("images-all-kinds", "/images?sort=size");
    for chip in ["imported", "hosted"] {
        assert!(browser.text("table").contains(chip), "{chip}: {}", browser.text("table"));
    }

    let whole = image("library/whole", "latest");
    let because =
        "the release of tomorrow needs it, and the old one has a flaw that the scanner of the security team found";
    browser.open(&format!("http://{}{whole}", harness.admin));
    browser.type_into("#pin-reason", because);
    browser.click("form[action='/image/pin'] button");
    browser.wait("it is pinned", |browser| browser.has("form[action='/image/unpin']"));
    look.here("image-pinned");
    browser.type_into("#refresh-reason", because);
    browser.go("form[action='/image/refresh'] button");
    assert!(browser.text("h1").starts_with("Refresh docker.io/library/whole"), "{}", browser.text("h1"));
    look.here("refresh-asks");
    browser.go("button[value=no]");
    assert_eq!(browser.evaluate("return document.querySelector('#refresh-reason').value"), because);
    look.here("image-typed");
    browser.go("a[href^='/image/remove']");
    look.here("purge-asks");
    browser.type_into("#reason", because);
    browser.go("form[action='/image/purge'] button");
    look.here("purged");
    says("Purged.");

    states::exhaust(&harness).await;
    harness.bench.hub.push(Spec::new("library/waits")).unwrap();
    states::warm(&harness, &["library/waits:latest"]).await;
    browser.open(&format!("http://{}/warm?list=night", harness.admin));
    browser.type_into("#reason", because);
    browser.go("form[action='/warm/start'] button");
    look.here("warm-asks");
    browser.open(&format!("http://{}/warm/1", harness.admin));
    browser.type_into("#reason", because);
    browser.go("form[action='/warm/1/cancel'] button");
    assert_eq!(browser.text("h1"), "Cancel warm 1?");
    look.here("cancel-asks");
    browser.go("button[value=yes]");
    look.here("warm-cancelled");
    says("cancelled");
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_arrives_is_shown_on_an_accessible_page() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    let clients = states::arrive(&harness).await;
    browser.open(&format!("http://{}/", harness.admin));
    browser.wait("clients wait", |browser| browser.text("#arriving").contains("of 4.0 MiB"));
    let look = Look::new(&browser, &harness);
    look.at("arriving", "/");
    harness.bench.hub.release();
    clients.join_all().await;
    look.done();
}

/// The lists that are most often empty, each as it is on the first day.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_weir_is_accessible() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    let look = Look::new(&browser, &harness);
    for name in [
        "",
        "budget",
        "images",
        "policy",
        "warm",
        "clients",
        "throttles",
        "blocked",
        "audit",
        "log",
        "settings",
        "unblock",
    ] {
        look.at(&format!("empty-{}", if name.is_empty() { "overview" } else { name }), &format!("/{name}"));
    }
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_said_on_accessible_pages() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    states::exhaust(&harness).await;
    states::warm(&harness, &["library/waits:1"]).await;
    until_graphs(&browser, &harness);
    let look = Look::new(&browser, &harness);
    look.at("exhausted-overview", "/");
    assert!(browser.text("main").contains("Nothing is left"), "{}", browser.text("main"));
    look.at("exhausted-budget", "/budget");
    assert!(browser.text("main").contains("0 of 100 pulls left"), "{}", browser.text("main"));
    look.at("exhausted-warm-one", "/warm/1");
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_said_on_accessible_pages() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    harness.spend().await;
    states::warm(&harness, &["library/waits:1"]).await;
    until_graphs(&browser, &harness);
    let look = Look::new(&browser, &harness);
    for (name, path, words) in [
        ("overview", "/", "Images that are not cached cannot be pulled."),
        ("budget", "/budget", "docker.io fails ("),
        ("images", "/images", "library/image-1"),
        ("warm-one", "/warm/1", "library/waits"),
    ] {
        states::fail(&harness).await;
        look.at(&format!("outage-{name}"), path);
        assert!(browser.text("main").contains(words), "{name}: {}", browser.text("main"));
    }
    look.done();
}

/// German has longer words than English.
#[tokio::test(flavor = "multi_thread")]
async fn the_german_pages_fit_their_window_and_show_the_time_of_the_viewer() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    harness.spend().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    harness.ask("10.5.0.1", 9);
    until_graphs(&browser, &harness);
    browser.go("footer a[lang=de]");
    assert_eq!(
        (browser.evaluate("return document.documentElement.lang"), browser.text("h1")),
        ("de".into(), "Übersicht".into())
    );
    browser.set_time_zone("Asia/Kolkata");
    let look = Look::new(&browser, &harness);
    look.at("german-overview", "/");
    for name in
        ["budget", "images", "warm", "clients", "throttles", "blocked", "audit", "log", "settings", "unblock", "login"]
    {
        look.at(&format!("german-{name}"), &format!("/{name}"));
    }
    look.at("german-ban", &format!("/blocked/{ban}"));
    let minutes = browser.evaluate(
        "const time = document.querySelector('dd time[title]'); \
         return (Date.parse(time.textContent.replace(' ', 'T') + 'Z') - Date.parse(time.title.replace(' UTC', 'Z').replace(' ', 'T'))) / 60000",
    );
    assert_eq!(minutes, 330, "{}", browser.text("main"));
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_is_said_on_accessible_pages() {
    let (harness, browser) = (Harness::start().await, Browser::start(true));
    for number in 1..=60 {
        harness.block(&format!("10.7.{number}.9"), "library/absent");
        harness.pull(&format!("10.8.0.{number}"), 15);
    }
    until_graphs(&browser, &harness);
    let look = Look::new(&browser, &harness);
    look.at("attack-overview", "/");
    assert!(browser.text("main").contains("60 bans in force"), "{}", browser.text("main"));
    for name in ["clients", "throttles", "blocked", "audit"] {
        look.at(&format!("attack-{name}"), &format!("/{name}"));
    }
    look.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_fit_and_are_accessible_in_firefox_too() {
    let harness = Harness::start().await;
    harness.spend().await;
    let ban = harness.block("10.1.0.7", "shop/a-team/a-service-with-a-name-that-is-rather-long");
    harness.ask("10.5.0.1", 9);
    harness.log.push(ACCESS);
    let (source, mut problems) = (axe::source(), Vec::new());
    let ban = format!("blocked/{ban}");
    for scheme in ["light", "dark"] {
        let mut firefox = Firefox::start(scheme);
        for page in [
            "",
            "budget",
            "images",
            "warm",
            "clients",
            "throttles",
            "blocked",
            &ban,
            "audit",
            "log",
            "settings",
            "unblock",
        ] {
            firefox.open(&format!("http://{}/{page}", harness.admin));
            // A window of Firefox is not narrower.
            for width in [1280, 500] {
                firefox.resize(width);
                let wide = firefox.evaluate("return document.documentElement.scrollWidth - innerWidth");
                if wide.as_i64().is_none_or(|wide| wide > 0) {
                    problems.push(format!("/{page} is wider than {width} by {wide}"));
                }
                let found = axe::violations(&mut firefox, &source);
                problems.extend(found.into_iter().map(|found| format!("/{page}, {width}, {scheme}: {found}")));
                let name = if page.is_empty() { "overview" } else { page.split('/').next().unwrap() };
                look::keep(&format!("firefox-{name}-{width}-{scheme}"), &firefox.screenshot());
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
