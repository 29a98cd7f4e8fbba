//! Blobs that upstream corrupts: no client receives a complete body that its digest does not name.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_blob_is_never_a_complete_body() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    let layer = layer(&image);
    world.hub.fault(Fault::always(What::Corrupt(At::Last)).on(Match::kind(Asked::BlobGet)));
    let mut client = Raw::to(&world.serving).await;
    client.get(&format!("/v2/library/busybox/blobs/{}", layer.digest)).await;
    let all = client.rest().await;
    assert!((all.len() as u64) < layer.size, "{} bytes of {}", all.len(), layer.size);
    world.hub.clear_faults();
    let healed = world.ask(&format!("GET /v2/library/busybox/blobs/{}", layer.digest), "").await;
    assert_eq!(crate::oci::Algorithm::Sha256.digest(&healed.body).to_string(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_that_upstream_corrupts_is_a_502_with_its_sentence() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    let small = image.platforms[0].layers.iter().min_by_key(|layer| layer.size).unwrap();
    let path = format!("/v2/library/busybox/blobs/{}", small.digest);
    let mut client = Raw::to(&world.serving).await;
    for (what, sentence) in [
        (What::Corrupt(At::Last), "docker.io/library/busybox: the blob was not fetched"),
        (
            What::ShortLength(small.size),
            "docker.io sent a wrong answer, which was thrown away: it sent no byte of the blob",
        ),
    ] {
        world.hub.fault(Fault::always(what).on(Match::kind(Asked::BlobGet)));
        let refused = client.ask(&format!("GET {path}"), "").await;
        assert_eq!((refused.status, refused.code().as_str()), (502, "UNAVAILABLE"));
        let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(sentence), "{message}");
        world.hub.clear_faults();
    }
    // On the same connection.
    let healed = client.ask(&format!("GET {path}"), "").await;
    assert_eq!((healed.status, healed.body.len() as u64), (200, small.size));
}
