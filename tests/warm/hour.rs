//! `[[warm]]` at its hour: a running Weir whose clock is set, by a library that is loaded before the C library.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use weir_conformance::hub::Spec;

use super::{World, ask, limited, states};
use crate::deploy::PATIENCE;

const HOUR: Duration = Duration::from_secs(3600);

/// The library, as the C compiler makes it that Weir itself is built with.
fn library(directory: &Path) -> PathBuf {
    let path = directory.join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/warm/clock.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source).status().unwrap();
    assert!(made.success());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_warmed_when_its_hour_comes() {
    let directory = tempfile::tempdir().unwrap();
    let library = library(directory.path());
    // Renamed into its place, so that it is read whole.
    let ahead = directory.path().join("ahead");
    let set = |by: Duration| {
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, by.as_secs().to_string()).unwrap();
        std::fs::rename(&fresh, &ahead).unwrap();
    };
    set(Duration::ZERO);
    let list = directory.path().join("list");
    std::fs::write(&list, "acme/one\n").unwrap();
    let due = humantime::format_rfc3339_seconds(SystemTime::now() + 3 * HOUR).to_string();
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_AHEAD", ahead.to_str().unwrap()),
        ("WEIR_WARM__0__NAME", "night"),
        ("WEIR_WARM__0__FILE", list.to_str().unwrap()),
        ("WEIR_WARM__0__AT", &due[11..16]),
    ];
    let world = World::start(limited(1000), &environment).await;
    world.hub.push(Spec::new("acme/one").single()).unwrap();
    let jobs = || world.api("GET", "/api/v1/cache/warm").1["warms"].as_array().unwrap().len();
    let page = ask(world.running.admin, "GET", "/warm", "").2;
    assert!(page.contains(&due[11..16]), "the page says when it is due: {page}");
    assert_eq!(jobs(), 0);

    set(3 * HOUR);
    let until = Instant::now() + PATIENCE;
    while jobs() == 0 {
        assert!(Instant::now() < until, "{}", world.running.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let job = world.until(1, |job| job["state"] == "done");
    assert_eq!((states(&job), &job["by"]), (vec!["fetched"], &json!("schedule night")), "{job:#}");
    assert_eq!(world.counted(), 1);
    let audit = world.api("GET", "/api/v1/audit").1["audit"][0].clone();
    assert_eq!((&audit["event"], &audit["by"]), (&json!("warmed"), &json!("schedule night")), "{audit}");
}
