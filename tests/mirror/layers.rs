//! Layers that are looked at in the background: what survives a restart, what a failing disk leaves open, and who has the core.

use std::time::Duration;

use weir::{mirror::Repository, policy::Outcome};
use weir_conformance::hub::{self, Layer, Spec};
use weir_storage::Call;

use super::support::{Bench, Change, pull};

fn armed() -> Spec {
    let file = |path: &str| (path.to_owned(), 0o4755, "x".to_owned());
    Spec { layers: vec![Layer::Files(vec![file("usr/bin/su")])], ..Spec::new("library/armed").single() }
}

/// What `no_setuid` says of the one image that is cached.
async fn setuid(bench: &Bench) -> Outcome {
    let repository = Repository { upstream: "docker.io".into(), name: "library/armed".parse().unwrap() };
    let image = bench.mirror.images().read().images_of(&repository).remove(0);
    bench.mirror.facts.of(&image, None).await.unwrap();
    bench.mirror.layers.settle(Duration::from_secs(60)).await;
    let platforms = bench.mirror.facts.of(&image, None).await.unwrap();
    let rules = weir::policy::Rules::default();
    let verdicts = platforms[0].verdicts(&rules, std::time::SystemTime::now());
    verdicts.into_iter().find(|verdict| verdict.rule.as_str() == "no_setuid").unwrap().outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_layer_holds_is_known_after_a_restart_without_another_look() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    bench.mirror.layers.start().unwrap();
    let image = pull(&bench.hub, &bench.mirror, armed()).await;
    let layer = image.platforms[0].layers[0].digest.parse().unwrap();
    assert_eq!(bench.mirror.layers.known(&layer).unwrap().setuid, ["usr/bin/su"]);
    let bench = bench.restart().await;
    assert!(bench.mirror.layers.known(&layer).is_none());
    bench.mirror.layers.start().unwrap();
    assert_eq!(bench.mirror.layers.known(&layer).unwrap().setuid, ["usr/bin/su"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_disk_does_not_give_is_unknown_and_looked_at_again() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    pull(&bench.hub, &bench.mirror, armed()).await;
    assert_eq!(setuid(&bench).await, Outcome::Unknown, "it does not look before it is started");
    bench.mirror.layers.start().unwrap();
    bench.faults.fail(Call::Read, 0, u32::MAX, 5);
    assert_eq!(setuid(&bench).await, Outcome::Unknown);
    // To ask for the facts queued another look, which has to fail, too: what is looked at is not queued again.
    bench.mirror.layers.settle(Duration::from_secs(60)).await;
    bench.faults.heal();
    assert_eq!(setuid(&bench).await, Outcome::Fail);
    let off = Change::default();
    let change = Change { mirror: weir::mirror::Settings { scan_layers: false, ..off.mirror }, ..off };
    let bench = Bench::start(hub::Settings::default(), change).await;
    bench.mirror.layers.start().unwrap();
    pull(&bench.hub, &bench.mirror, armed()).await;
    assert_eq!(setuid(&bench).await, Outcome::Unknown, "it is switched off");
}

/// The policies of the threads that look at layers: field 41 of proc_pid_stat(5).
fn policies() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let of = |stat: String| stat.split_once("(layer-scan) ")?.1.split(' ').nth(38)?.parse().ok();
    stats.filter_map(of).collect()
}

/// `SCHED_IDLE`
const IDLE: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_looked_at_one_at_a_time_on_cores_that_nothing_else_wants() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let large = Spec::new("library/armed").single().layers([20 << 20, 20 << 20, 20 << 20]);
    pull(&bench.hub, &bench.mirror, large).await;
    bench.mirror.layers.start().unwrap();
    let mut seen = Vec::new();
    let looked = setuid(&bench);
    let mut looked = std::pin::pin!(looked);
    while futures_util::poll!(looked.as_mut()).is_pending() {
        let policies = policies();
        // Of tests beside this one, no other looks at so much.
        seen.extend(policies);
        tokio::task::yield_now().await;
    }
    assert!(seen.contains(&IDLE), "{seen:?}");
}
