//! The tier over a bucket that fails on demand.

mod support;

use std::time::Duration;

use weir_conformance::bucket::{Bucket, Trouble};
use weir_shared::{S3, Unfit};
use weir_storage::oci::Algorithm;

use self::support::{Replica, noise, probe, settings, what_one_keeps_another_gets};

async fn start() -> (Bucket, S3, tempfile::TempDir) {
    let (bucket, directory) = (Bucket::start().await.unwrap(), tempfile::tempdir().unwrap());
    let settings = settings(&format!("http://{}", bucket.address), Bucket::NAME, directory.path());
    let settings = S3 { timeout: Duration::from_millis(500), ..settings };
    (bucket, settings, directory)
}

#[tokio::test]
async fn a_fit_bucket_passes_the_probe_which_leaves_nothing_behind() {
    let (bucket, settings, _directory) = start().await;
    probe(&settings).await.unwrap();
    assert_eq!(bucket.keys(), [""; 0]);
}

#[tokio::test]
async fn a_store_that_lacks_something_is_refused_by_what_it_lacks() {
    let (bucket, settings, _directory) = start().await;
    for (trouble, lacks) in [
        (Trouble::SeveralWin, "who create one key at once it lets "),
        (Trouble::TakesOldVersions, "it takes an update of an old version (If-Match)"),
        (Trouble::NoRanges, "it does not give the range"),
    ] {
        bucket.trouble(trouble);
        let said = probe(&settings).await.unwrap_err();
        assert!(matches!(&said, Unfit::Lacks(what) if what.contains(lacks)), "{trouble:?}: {said}");
    }
    let elsewhere = S3 { bucket: "another".to_owned(), ..settings.clone() };
    let said = probe(&elsewhere).await.unwrap_err();
    assert!(matches!(said, Unfit::Refused(_)), "{said}");
    for trouble in [Trouble::Down, Trouble::Silent, Trouble::Status(503)] {
        bucket.trouble(trouble);
        let said = probe(&settings).await.unwrap_err();
        assert!(matches!(said, Unfit::Unreachable(_)), "{trouble:?}: {said}");
    }
}

#[tokio::test]
async fn what_one_replica_keeps_another_gets() {
    let (bucket, settings, _directory) = start().await;
    what_one_keeps_another_gets(&settings).await;
    assert!(bucket.keys().iter().all(|key| key.starts_with("a/b/v1/")), "{:?}", bucket.keys());
}

#[tokio::test]
async fn a_bucket_that_is_away_is_not_asked_and_caught_up_with_when_it_is_back() {
    let (bucket, settings, _directory) = start().await;
    let replica = Replica::start(&settings).await;
    replica.shows("shared_up{engine=\"s3\"} 1").await;
    bucket.trouble(Trouble::Down);
    let absent = Algorithm::Sha256.digest(b"absent");
    for _ in 0..3 {
        assert_eq!(replica.tier.blob_size(&absent).await, None);
    }
    replica.shows("shared_up{engine=\"s3\"} 0").await;
    bucket.trouble(Trouble::Silent);
    let bytes = noise(3, 20 << 20);
    let digest = replica.keep(&bytes).await;
    let asked = bucket.requests();
    for _ in 0..100 {
        assert_eq!(replica.tier.blob_size(&digest).await, None);
    }
    assert!(bucket.requests() <= asked + 1, "but for what looks whether it is back");
    bucket.trouble(Trouble::None);
    replica.shows("shared_up{engine=\"s3\"} 1").await;
    replica.shows("shared_writes_waiting 0").await;
    assert!(replica.read(&digest, 0).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_bucket_whose_answers_are_late_is_not_asked_until_they_are_not() {
    let (bucket, settings, _directory) = start().await;
    let replica = Replica::start(&settings).await;
    let digest = replica.keep(&noise(5, 1000)).await;
    replica.shows("shared_writes_waiting 0").await;
    bucket.trouble(Trouble::Late(settings.timeout * 3 / 4));
    for _ in 0..3 {
        assert_eq!(replica.tier.blob_size(&digest).await, Some(1000), "a late answer is used");
    }
    replica.shows("shared_up{engine=\"s3\"} 0").await;
    let asked = bucket.requests();
    for _ in 0..100 {
        assert_eq!(replica.tier.blob_size(&digest).await, None);
    }
    assert!(bucket.requests() <= asked + 1, "but for what looks whether it is quick again");
    bucket.trouble(Trouble::None);
    replica.shows("shared_up{engine=\"s3\"} 1").await;
    assert_eq!(replica.tier.blob_size(&digest).await, Some(1000));
}

#[tokio::test]
async fn a_bucket_that_was_away_at_the_start_is_tried_out_before_it_is_used() {
    let (bucket, settings, _directory) = start().await;
    bucket.trouble(Trouble::Down);
    let replica = Replica::start(&settings).await;
    let digest = replica.keep(&noise(4, 1000)).await;
    bucket.trouble(Trouble::SeveralWin);
    let asked = bucket.requests();
    // One create, the one that is refused, two updates, a race.
    while bucket.requests() < asked + 28 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bucket.trouble(Trouble::None);
    let written = bucket.wait_for(|keys| keys.iter().any(|key| key.contains("/blobs/")));
    assert!(tokio::time::timeout(Duration::from_secs(5), written).await.is_err(), "what is unfit is not used");

    bucket.trouble(Trouble::Down);
    let other = Replica::start(&settings).await;
    other.keep(&noise(4, 1000)).await;
    bucket.trouble(Trouble::None);
    other.shows("shared_writes_waiting 0").await;
    assert!(other.read(&digest, 0).await.is_some());
}

#[tokio::test]
async fn a_manifest_that_changed_in_the_bucket_is_none_and_makes_place_for_a_good_one() {
    let (bucket, settings, _directory) = start().await;
    what_one_keeps_another_gets(&settings).await;
    let replica = Replica::start(&settings).await;
    let digest = Algorithm::Sha256.digest(br#"{"schemaVersion":2}"#);
    let hex = digest.hex();
    let key = format!("a/b/v1/manifests/sha256/{}/{hex}", &hex[..2]);
    let good = bucket.get(&key).unwrap();
    for at in 0..good.len() {
        bucket.put(&key, good.clone());
        assert!(bucket.flip(&key, at));
        assert_eq!(replica.tier.manifest(&digest).await, None, "byte {at}");
        assert!(bucket.get(&key).is_none(), "byte {at}");
    }
}
