//! What Docker Hub does when nothing is wrong.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::super::{Limit, Settings, Spec};
use super::client::{ask_with, blob, exchange, hub, send, token};

const NAME: &str = "library/hello";

#[tokio::test]
async fn an_image_pulls_from_challenge_to_last_layer() {
    let hub = hub(Settings { limit: Some(Limit::hub(100)), ..Settings::default() }).await;
    let image = hub.push(Spec::new(NAME)).unwrap();

    let challenge = send(hub.registry_address(), "GET", "/v2/", &[]).await;
    assert_eq!(challenge.status, 401);
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"registry.docker.io\"", hub.registry_address());
    assert_eq!(challenge.header("www-authenticate"), realm);

    let head = exchange(&hub, "HEAD", NAME, "manifests/latest").await;
    assert_eq!((head.status, head.declared()), (200, image.root.bytes.len()));
    assert!(head.body.is_empty());
    assert_eq!(head.header("docker-content-digest"), image.digest());
    assert_eq!(head.header("ratelimit-remaining"), "100;w=21600");

    let index = exchange(&hub, "GET", NAME, "manifests/latest").await;
    assert_eq!(index.digest(), image.digest());
    assert_eq!(index.header("content-type"), image.root.media_type);
    assert_eq!(index.header("etag"), format!("\"{}\"", image.digest()));
    assert_eq!(index.header("ratelimit-limit"), "100;w=21600");
    assert_eq!(index.header("ratelimit-remaining"), "99;w=21600");
    assert_eq!(index.header("docker-ratelimit-source"), "127.0.0.1");

    for platform in &image.platforms {
        let manifest = exchange(&hub, "GET", NAME, &format!("manifests/{}", platform.manifest.digest)).await;
        assert_eq!(manifest.body, platform.manifest.bytes);
        let config = blob(&hub, NAME, &platform.config.digest, &[]).await;
        assert_eq!(config.digest(), platform.config.digest);
        let diff_ids = config.json()["rootfs"]["diff_ids"].clone();
        for (layer, diff_id) in platform.layers.iter().zip(diff_ids.as_array().unwrap()) {
            let reply = blob(&hub, NAME, &layer.digest, &[]).await;
            assert_eq!((reply.digest(), reply.body.len() as u64), (layer.digest.clone(), layer.size));
            let mut tar = Vec::new();
            flate2::read::GzDecoder::new(reply.body.as_slice()).read_to_end(&mut tar).unwrap();
            let hash: String = Sha256::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(format!("sha256:{hash}"), diff_id.as_str().unwrap());
            let sizes: Vec<u64> =
                tar::Archive::new(tar.as_slice()).entries().unwrap().map(|entry| entry.unwrap().size()).collect();
            assert_eq!(sizes.last(), Some(&(64 << 10)));
        }
    }
    let counts = hub.counts();
    assert_eq!((counts["manifest_get"], counts["manifest_head"], counts["blob_get"], counts["cdn_get"]), (3, 1, 8, 8));
    assert_eq!(hub.count(|logged| logged.counted), 3);
    assert!(!token(&hub, NAME, None).await.is_empty());
    assert_eq!(ask_with(&hub, "GET", NAME, "tags/list", &[]).await.json()["tags"][0], "latest");
}
