//! Several Weirs over one bucket: what one has, the others serve; and what becomes of clients when the bucket lies or goes away.

use weir_conformance::{
    bucket::{Bucket, Trouble},
    client::Request,
    hub::{self, Image, Kind},
};
use weir_storage::oci::Algorithm;

use crate::{
    deploy::{printed, weir},
    fleet::{Fleet, SECRET, spec, tables},
};

fn key_of(digest: &str) -> String {
    let hex = digest.split(':').nth(1).unwrap();
    format!("v1/blobs/sha256/{}/{hex}", &hex[..2])
}

#[tokio::test]
async fn an_empty_replica_serves_what_the_fleet_had_while_upstream_is_down() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let image = fleet.hub.push(spec("library/shared", 1)).unwrap();
    let mut one = fleet.replica("").await;
    one.pull(&image).await;
    fleet.holds(&image).await;
    one.process.kill().await.unwrap();
    fleet.hub.down().await;
    let other = fleet.replica("").await;
    other.pull(&image).await;
    // What no replica had is still an error.
    assert!(other.manifest("library/other", "latest").await.status() >= 500);
}

#[tokio::test]
async fn what_one_replica_was_told_costs_the_next_no_counted_request_and_no_blob() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let image = fleet.hub.push(spec("library/once", 1)).unwrap();
    let one = fleet.replica("").await;
    one.pull(&image).await;
    fleet.holds(&image).await;
    let counted = |kind: Kind| fleet.hub.count(|logged| logged.kind == kind);
    let before = (counted(Kind::ManifestGet), counted(Kind::BlobGet));
    // Its tags are never fresh, so that it asks by HEAD.
    fleet.replica("[mirror]\ntag_ttl = \"0s\"\n").await.pull(&image).await;
    assert_eq!((counted(Kind::ManifestGet), counted(Kind::BlobGet)), before);
}

#[tokio::test]
async fn a_warm_pull_asks_no_bucket() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let image = fleet.hub.push(spec("library/warm", 1)).unwrap();
    let replica = fleet.replica("").await;
    replica.pull(&image).await;
    fleet.holds(&image).await;
    replica.shows("weir_shared_writes_waiting 0").await;
    let asked = fleet.bucket.requests();
    for _ in 0..3 {
        replica.pull(&image).await;
    }
    assert_eq!(fleet.bucket.requests(), asked);
}

#[tokio::test]
async fn a_blob_of_the_bucket_with_a_flipped_bit_is_not_believed() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let image = fleet.hub.push(spec("library/flipped", 1)).unwrap();
    let one = fleet.replica("").await;
    one.pull(&image).await;
    fleet.holds(&image).await;
    let layer = &image.platforms[0].layers[1];
    let key = key_of(&layer.digest);
    assert!(fleet.bucket.flip(&key, 1000));
    let replica = fleet.replica("").await;
    // Its first request has no token, and is answered 401.
    let fetched = || fleet.hub.count(|logged| logged.kind == Kind::BlobGet && logged.status != 401);
    let got = fetched();
    let first = replica.client.send(&Request::get(replica.client.blob(&image.repository, &layer.digest))).await;
    let was_whole = first.as_ref().is_ok_and(|answer| answer.status() == 200 && answer.complete());
    assert!(!was_whole || first.unwrap().sha256 == layer.digest, "a wrong blob was given whole");
    let hex = layer.digest.split(':').nth(1).unwrap();
    let aside = format!("v1/quarantine/sha256-{hex}");
    assert!(fleet.bucket.wait_for(|keys| keys.contains(&aside)).await, "it is put aside");
    let again = replica.blob(&image.repository, &layer.digest).await;
    assert!(again.status() == 200 && again.sha256 == layer.digest, "{}", again.describe());
    assert_eq!(fetched(), got + 1, "from upstream");
    assert!(fleet.bucket.wait_for(|keys| keys.contains(&key)).await, "a good one takes its place");
    assert_eq!(Algorithm::Sha256.digest(&fleet.bucket.get(&key).unwrap()).to_string(), layer.digest);
}

#[tokio::test]
async fn a_bucket_that_breaks_off_or_goes_away_costs_no_client_an_error() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let images: Vec<Image> =
        (1..6).map(|seed| fleet.hub.push(spec(&format!("library/away{seed}"), seed)).unwrap()).collect();
    let one = fleet.replica("").await;
    for image in &images[..3] {
        one.pull(image).await;
        fleet.holds(image).await;
    }
    let other = fleet.replica("").await;
    // In the midst of each blob, and then altogether, before each and while it is used.
    fleet.bucket.trouble(Trouble::CutsAfter(200_000));
    other.pull(&images[0]).await;
    fleet.bucket.trouble(Trouble::Status(503));
    other.pull(&images[1]).await;
    other.shows("weir_shared_up{engine=\"s3\"} 0").await;
    fleet.bucket.trouble(Trouble::Silent);
    other.pull(&images[2]).await;
    fleet.bucket.trouble(Trouble::Down);
    other.pull(&images[3]).await;
    fleet.bucket.trouble(Trouble::None);
    other.shows("weir_shared_up{engine=\"s3\"} 1").await;
    fleet.holds(&images[3]).await;
    other.pull(&images[4]).await;
    fleet.holds(&images[4]).await;
}

#[tokio::test]
async fn what_an_account_alone_may_read_is_given_to_no_other_client_by_any_replica() {
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", "password")], ..hub::Settings::default() };
    let fleet = Fleet::start(settings).await;
    let image = fleet.hub.push(spec("corp/private", 1).private()).unwrap();
    // Here every client gets what the account may read, there no client does.
    let password = fleet.directory.path().join("password");
    std::fs::write(&password, "password").unwrap();
    let account = |rest: &str| {
        format!("accounts = [{{ username = \"robot\", password_file = \"{}\"{rest} }}]", password.display())
    };
    let shared = fleet.replica(&account(", shared = [\"corp/*\"]")).await;
    shared.pull(&image).await;
    fleet.holds(&image).await;
    let strict = fleet.replica(&account("")).await;
    for is_up in [true, false] {
        if !is_up {
            fleet.hub.down().await;
        }
        for blob in image.blobs() {
            assert!(strict.blob("corp/private", &blob.digest).await.status() >= 400);
            assert!(strict.blob("library/other", &blob.digest).await.status() >= 400);
        }
        assert!(strict.manifest("corp/private", "latest").await.status() >= 400);
        assert!(strict.manifest("corp/private", image.digest()).await.status() >= 400);
    }
    fleet.replica(&account(", shared = [\"corp/*\"]")).await.pull(&image).await;
}

#[tokio::test]
async fn a_tag_that_upstream_deleted_is_brought_back_by_no_replica() {
    let fleet = Fleet::start(hub::Settings::default()).await;
    let image = fleet.hub.push(spec("library/gone", 1)).unwrap();
    let never_fresh = "[mirror]\ntag_ttl = \"0s\"\n";
    let (one, other) = (fleet.replica(never_fresh).await, fleet.replica(never_fresh).await);
    for replica in [&one, &other] {
        replica.pull(&image).await;
        fleet.holds(&image).await;
        replica.shows("weir_shared_writes_waiting 0").await;
    }
    fleet.hub.remove("library/gone", "latest");
    assert_eq!(one.manifest("library/gone", "latest").await.status(), 404);
    one.shows("weir_shared_writes_waiting 0").await;
    fleet.hub.down().await;
    assert!(other.manifest("library/gone", "latest").await.status() >= 500);
    assert!(fleet.replica(never_fresh).await.manifest("library/gone", "latest").await.status() >= 500);
}

#[tokio::test]
async fn a_bucket_that_cannot_be_shared_is_refused_with_what_it_lacks() {
    let (bucket, directory) = (Bucket::start().await.unwrap(), tempfile::tempdir().unwrap());
    let config = directory.path().join("weir.toml");
    let root = directory.path().join("data");
    let text =
        format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[storage]\nroot = {root:?}\n");
    std::fs::write(&config, format!("{text}{}", tables(&bucket, directory.path(), "500ms"))).unwrap();
    let run = async |command: &'static str| {
        let config = config.clone();
        let run = move || weir(&[command, "--config", config.to_str().unwrap()]).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let fine = run("check").await;
    assert!(fine.status.success() && printed(&fine).contains("shares the bucket weir"), "{}", printed(&fine));
    bucket.trouble(Trouble::SeveralWin);
    for command in ["check", "serve"] {
        let refused = run(command).await;
        assert_eq!(refused.status.code(), Some(1), "{}", printed(&refused));
        let said = printed(&refused);
        let lacks = "shared.s3.bucket = \"weir\": this store cannot be shared by replicas: of 24 who create one key at once it lets";
        assert!(said.contains(lacks), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
    bucket.trouble(Trouble::Down);
    let away = run("check").await;
    assert_eq!(away.status.code(), Some(1));
    assert!(printed(&away).contains("the bucket does not answer"), "{}", printed(&away));
}
