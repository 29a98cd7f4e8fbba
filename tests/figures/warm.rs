//! A warm of many images with a budget that is far too small, killed in the middle, beside a client that pulls all the while.

use std::time::{Duration, Instant};

use serde_json::Value;
use weir_conformance::hub::{self, Hub, Kind, Limit, Spec};

use crate::support::{Weir, number};

const WINDOW: Duration = Duration::from_secs(30);

fn fetched(weir: &Weir) -> u64 {
    let (_, text) = weir.command(&["cache", "warm-status", "1", "--json"]);
    let job: Value = serde_json::from_str(&text).unwrap();
    job["counts"]["fetched"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_of_500_images_with_200_pulls_ends_after_a_kill_and_a_second_one_costs_nothing() {
    let images = number("WEIR_WARM_IMAGES", 500);
    let limit = Limit { pulls: 200, window: WINDOW };
    let hub = Hub::start(hub::Settings { limit: Some(limit), ..hub::Settings::default() }).await.unwrap();
    let mut list = String::new();
    for number in 0..images {
        hub.push(Spec::new(format!("acme/app{number}")).seed(number + 1).single().layers([4096])).unwrap();
        list += &format!("acme/app{number}\n");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), list).unwrap();
    let file = file.path().to_str().unwrap();
    let mut weir = Weir::start(hub.registry(), "", "").await;
    let begun = Instant::now();
    assert_eq!(weir.command(&["cache", "warm", "--file", file, "--detach"]), (true, "1\n".to_owned()));
    let (mut pulled, mut killed) = (0, false);
    loop {
        // A pull a second that is not cached.
        let image =
            hub.push(Spec::new(format!("client/app{pulled}")).seed(90_000 + pulled).single().layers([16])).unwrap();
        let answer = weir.client.get_manifest(&image.repository, "latest").await.unwrap();
        assert_eq!(answer.status(), 200, "the client's pull {pulled}: {}", answer.describe());
        pulled += 1;
        let done = fetched(&weir);
        if !killed && done > images / 2 {
            weir.restart().await;
            assert!(fetched(&weir) >= done, "a result that was told is lost");
            killed = true;
        }
        if done == images {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(3600), "{done} of {images}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(weir.command(&["cache", "warm-status", "1", "--follow"]).0);
    let of_warm = |logged: &hub::Logged| {
        logged.kind == Kind::ManifestGet && logged.counted && logged.repository.starts_with("acme/")
    };
    let counted = hub.count(of_warm) as u64;
    // What was on its way when the process was killed is asked again.
    assert!((images..=images + 4).contains(&counted), "{counted}");
    let took = begun.elapsed().as_secs();
    hub.clear_log();
    assert!(weir.command(&["cache", "warm", "--file", file]).0);
    assert_eq!(hub.count(|logged| logged.counted), 0);
    println!(
        "{images} images with 200 pulls per {} s took {took} s and {counted} pulls, over a kill; {pulled} pulls of a client beside it were all \
         answered; a second warm of them cost none",
        WINDOW.as_secs()
    );
}
