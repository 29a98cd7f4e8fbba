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
        "[mirror]\ntag_ttl = \"90s\"\nwarm_images = 6\nahead_ranges = 3\nproxy = \"http://me:hunter2@proxy:1\"\n[limits]\nresponse_text = \"Later <b>\"\n",
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

    let fresh =
        read(directory.path(), "[mirror]\ntag_ttl = \"7m\"\nwarm_images = 7\n[limits]\nresponse_text = \"Soon\"\n");
    harness.reloads.show_settings(effective(&started, &fresh));
    let page = operator.get("/settings?part=tag_ttl").body;
    assert!(page.contains("7m") && !page.contains("1m 30s"), "it is reloaded: {page}");
    let page = operator.get("/settings?part=warm_images").body;
    for words in ["2 settings wait for a restart", "<code>6</code>", "after a restart", "<code>7</code>"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = operator.get("/settings?part=response").body;
    assert!(page.contains("Soon") && !page.contains("after a restart</span>"), "{page}");
    assert_eq!(Browser::logged_in(&harness, "ann").get("/settings").status, 403);
}
