//! The mirror suite of `weir-conformance` against the Weir that was just built: one test for each of the suite's groups.
//!
//! The group `slow` is left out: it judges how fast a machine is, or waits a minute. `weir-conformance mirror --self` runs it too.

use std::sync::Arc;

use weir_conformance::{
    mirror::{Harness, process::Program, run},
    report::Verdict,
};

async fn holds(group: &str) {
    let harness = Harness::start(Program::Weir(env!("CARGO_BIN_EXE_weir").into())).await.unwrap();
    let report = run(Arc::new(harness), &[group.to_owned()], "weir".into()).await;
    let wrong: Vec<String> =
        report.rows.iter().filter(|row| row.verdict != Verdict::Pass).map(|row| row.line(0)).collect();
    assert!(report.count(Verdict::Pass) > 0 && wrong.is_empty(), "{}\n{}", report.summary(), wrong.join("\n"));
}

macro_rules! groups {
    ($($test:ident = $group:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                holds($group).await;
            }
        )*

        #[test]
        fn every_group_but_the_slow_one_is_run() {
            let groups: std::collections::BTreeSet<_> = weir_conformance::mirror::names().map(|(group, _)| group).collect();
            let run = std::collections::BTreeSet::from(["slow", $($group),*]);
            assert_eq!(groups, run);
        }
    };
}

groups! {
    herd = "herd",
    clients = "clients",
    warm = "warm",
    tags = "tags",
    listings = "listings",
    refusals = "refusals",
    broken = "broken",
    upstream_faults = "upstream faults",
    limits = "limits",
    ledger = "ledger",
    crash = "crash",
}
