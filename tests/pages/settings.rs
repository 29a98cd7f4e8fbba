//! *Settings*: every value that is in force, where it comes from, and what waits for a restart.

use weir::config::{Config, effective};

use super::harness::{Browser, Harness};

fn read(directory: &std::path::Path, text: &str) -> Config {
    let file = directory.join("weir.toml");
    std::fs::write(&file, text).unwrap();
    let environment = [("WEIR_MIRROR__FILLS".to_owned(), "5".to_owned())];
    Config::load(Some(&file), environment).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_show_value_default_and_origin_and_what_waits_for_a_restart() {
    let (harness, directory) = (Harness::start().await, tempfile::tempdir().unwrap());
    let started = read(
        directory.path(),
        "[mirror]\ntag_ttl = \"90s\"\nproxy = \"http://me:hunter2@proxy:1\"\n[limits]\nresponse_text = \"Later <b>\"\n",
    );
    harness.reloads.show_settings(effective(&started, &started));
    let mut operator = Browser::new(&harness);
    let page = operator.get("/settings").body;
    for words in [
        "[mirror]",
        "tag_ttl",
        "1m 30s",
        "weir.toml:2",
        "WEIR_MIRROR__FILLS",
        "Later &lt;b&gt;",
        "the same",
        "(hidden)@proxy:1",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("hunter2") && !page.contains("after a restart"), "{page}");

    let changed = operator.get("/settings?changed=1").body;
    assert!(changed.contains("tag_ttl") && !changed.contains("the same"), "{changed}");
    let part = operator.get("/settings?part=response").body;
    assert!(part.contains("response_text") && !part.contains("tag_ttl</code>"), "{part}");
    assert!(operator.get("/settings?part=nothing+has+this").body.contains("No setting has such a name."));

    let fresh = read(directory.path(), "[mirror]\ntag_ttl = \"7m\"\n[limits]\nresponse_text = \"Soon\"\n");
    harness.reloads.show_settings(effective(&started, &fresh));
    let page = operator.get("/settings?part=tag_ttl").body;
    for words in ["settings wait for a restart", "1m 30s", "after a restart", "7m"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = operator.get("/settings?part=response").body;
    assert!(page.contains("Soon") && !page.contains("after a restart</span>"), "{page}");
    assert_eq!(Browser::logged_in(&harness, "ann").get("/settings").status, 403);
}
