//! The levels of the penalty for abuse, for every kind of object: what is asked for again and again, and what is asked for at random.

use weir_storage::{Call, Faults, Settings, Source, Store};

use super::*;
use crate::{
    limits::{abuse, throttle::Mode},
    oci::{Algorithm, Digest},
};

/// Loopback is never held, so the clients of these tests come through a proxy.
const CLIENT: &str = "X-Forwarded-For: 192.0.2.1\r\n";

async fn banning(abuse: abuse::Settings) -> World {
    banning_on(abuse, Hosting::default()).await
}

async fn banning_on(abuse: abuse::Settings, disk: Hosting) -> World {
    let limits = LimitsConfig {
        abuse: abuse::Settings { mode: Mode::Enforce, ..abuse },
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..LimitsConfig::default()
    };
    let never = mirror::Settings { negative_ttl: Duration::ZERO, ..patient() };
    hosting(never, Vec::new(), Hosting { limits, ..disk }).await
}

fn missing(number: usize) -> Digest {
    Algorithm::Sha256.digest(format!("missing {number}").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_asking_for_what_is_missing_is_answered_without_upstream() {
    let world = banning(abuse::Settings { same_reference: 1, ..abuse::Settings::default() }).await;
    world.image("library/busybox");
    let blob = missing(0);
    for (path, code, sentence) in [
        (
            "library/busybox/manifests/none".to_owned(),
            "MANIFEST_UNKNOWN",
            "docker.io/library/busybox had no manifest none ",
        ),
        (format!("library/busybox/blobs/{blob}"), "BLOB_UNKNOWN", "docker.io/library/busybox had no such blob "),
        ("library/none/tags/list".to_owned(), "NAME_UNKNOWN", "docker.io/library/none did not exist "),
    ] {
        // Another method is another event at once; the same one again counts after two seconds.
        for method in ["GET", "HEAD"] {
            let response = world.ask(&format!("{method} /v2/{path}"), CLIENT).await;
            assert_eq!((response.status, response.header("retry-after")), (404, None), "{method} {path}");
        }
        let asked = world.hub.log().len();
        let held = world.ask(&format!("GET /v2/{path}"), CLIENT).await;
        assert_eq!((held.status, held.code().as_str()), (404, code), "{path}");
        assert_eq!(held.header("retry-after"), Some("15"), "{path}");
        let message = held.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(sentence) && message.contains("keeps asking"), "{message}");
        assert_eq!(world.hub.log().len(), asked, "upstream was asked for {path}");
        // No other client is held.
        let other = world.ask(&format!("GET /v2/{path}"), "X-Forwarded-For: 192.0.2.2\r\n").await;
        assert_eq!((other.status, other.header("retry-after")), (404, None), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_blobs_at_random_is_held_to_what_is_cached() {
    let world = banning(abuse::Settings { different_references: 3, ..abuse::Settings::default() }).await;
    let image = world.image("library/busybox");
    let cached = format!("GET /v2/library/busybox/blobs/{}", layer(&image).digest);
    // Its last bytes are sent a little before it is in its place.
    while world.ask(&cached, CLIENT).await.header("x-cache") != Some("hit") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for number in 0..4 {
        let response = world.ask(&format!("GET /v2/library/busybox/blobs/{}", missing(number)), CLIENT).await;
        assert_eq!(response.status, 404, "{number}");
    }
    for method in ["GET", "HEAD"] {
        let held = world.ask(&format!("{method} /v2/library/busybox/blobs/{}", missing(9)), CLIENT).await;
        assert_eq!(held.status, 429, "{method}");
    }
    assert_eq!(world.ask(&cached, CLIENT).await.status, 200);
}

/// After a restart memory does not know that the client may have the blob, and no reader has it open.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_client_gets_what_only_the_disk_has_by_one_open() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = vec![7; 300_000];
    let digest = Algorithm::Sha256.digest(&bytes);
    let settings = Settings { root: directory.path().to_owned(), capacity: 1 << 30, ..Settings::default() };
    let store = Store::open(settings).unwrap();
    let mut writer = store.blobs.write(&digest, Some(300_000)).await.unwrap();
    writer.append(bytes.clone().into()).await.unwrap();
    writer.commit().await.unwrap();
    let repository = "library/busybox".parse().unwrap();
    let source = Source { upstream: "docker.io".into(), credential: Source::ANONYMOUS.into(), repository };
    store.cache.members.add(&source, std::slice::from_ref(&digest)).await.unwrap();
    drop(store);
    let faults = Faults::default();
    let disk = Hosting { faults: faults.clone(), directory: Some(directory), ..Hosting::default() };
    let world = banning_on(abuse::Settings { different_references: 3, ..abuse::Settings::default() }, disk).await;
    world.image("library/busybox");
    for number in 0..4 {
        let response = world.ask(&format!("GET /v2/library/busybox/blobs/{}", missing(number)), CLIENT).await;
        assert_eq!(response.status, 404, "{number}");
    }
    let held = world.ask(&format!("GET /v2/library/busybox/blobs/{}", missing(9)), CLIENT).await;
    assert_eq!(held.status, 429);
    for method in ["GET", "HEAD"] {
        faults.record();
        let response = world.ask(&format!("{method} /v2/library/busybox/blobs/{digest}"), CLIENT).await;
        assert_eq!((response.status, response.header("content-length")), (200, Some("300000")), "{method}");
        assert!(response.body == bytes || method == "HEAD");
        let opened = faults.recorded().into_iter();
        let opened = opened.filter(|(call, path)| *call == Call::Open && path.ends_with(digest.hex())).count();
        assert_eq!(opened, 1, "{method}");
        faults.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn misses_of_blobs_are_no_misses_of_the_list_of_tags() {
    let world = banning(abuse::Settings { same_reference: 1, ..abuse::Settings::default() }).await;
    world.image("library/busybox");
    // Two methods, since one event counts once in two seconds.
    for (number, method) in ["GET", "HEAD", "GET", "HEAD"].into_iter().enumerate() {
        let response = world.ask(&format!("{method} /v2/library/busybox/blobs/{}", missing(number)), CLIENT).await;
        assert_eq!((response.status, response.header("retry-after")), (404, None));
    }
    assert_eq!(world.ask("GET /v2/library/busybox/tags/list", CLIENT).await.status, 200);
}
