//! A disk that hangs or fails: who needs no disk is answered meanwhile by the same worker, and a pull goes on from upstream.

use weir_storage::{Call, Faults};

use super::*;
use crate::oci::Algorithm;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What a client that waits for too little would wait for.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_in_a_read_holds_no_worker() {
    let faults = Faults::default();
    let settings = hosted::Settings { anonymous_push: true, ..hosted::Settings::default() };
    let hosts = Hosting { namespaces: vec!["local/*".into()], settings, faults: faults.clone(), ..Hosting::default() };
    let world = hosting(patient(), Vec::new(), hosts).await;
    let mirrored = format!("/v2/library/busybox/blobs/{}", layer(&world.image("library/busybox")).digest);
    // Its last bytes are sent a little before it is in its place.
    while world.ask(&format!("GET {mirrored}"), "").await.header("x-cache") != Some("hit") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let digest = Algorithm::Sha256.digest(b"{}");
    let mut client = Raw::to(&world.serving).await;
    client.push(&format!("POST /v2/local/a/blobs/uploads/?digest={digest}"), "", b"{}").await;
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":2}},"layers":[]}}"#
    );
    let header = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
    assert_eq!(client.push("PUT /v2/local/a/manifests/v1", header, image.as_bytes()).await.status, 201);
    for (call, line) in [
        (Call::Open, format!("GET {mirrored}")),
        (Call::Stat, format!("HEAD {mirrored}")),
        (Call::Open, "GET /v2/local/a/manifests/v1".to_owned()),
        (Call::Open, format!("GET /v2/local/a/blobs/{digest}")),
        (Call::Stat, format!("HEAD /v2/local/a/blobs/{digest}")),
    ] {
        let (enter, mut entered) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        faults.before(call, 0, move || {
            enter.send(()).unwrap();
            let _ = released.recv();
        });
        let mut asking = Raw::to(&world.serving).await;
        let asked = line.clone();
        let asking = tokio::spawn(async move { asking.ask(&asked, "").await });
        let hangs = tokio::time::timeout(PATIENCE, entered.recv()).await;
        assert!(matches!(hangs, Ok(Some(()))), "{line} makes no such call: {call:?}");
        let other = tokio::time::timeout(PATIENCE, world.ask("GET /v2/", "")).await;
        drop(release);
        assert_eq!(other.map(|response| response.status), Ok(200), "the worker waits for the disk in {line}");
        assert_eq!(asking.await.unwrap().status, 200, "{line}");
        faults.heal();
    }
}

async fn faulty(faults: &Faults) -> (World, Image) {
    let world = hosting(patient(), Vec::new(), Hosting { faults: faults.clone(), ..Hosting::default() }).await;
    let image = world.hub.push(Spec::new("library/busybox").single().layers([4 << 20])).unwrap();
    (world, image)
}

/// What one client gets of a blob; without a complete body, what came of it.
async fn pull(world: &World, path: &str, headers: &str) -> (u16, Vec<u8>) {
    let mut client = Raw::to(&world.serving).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")).await;
    let all = client.rest().await;
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("no head"));
    let status = std::str::from_utf8(&all[9..12]).unwrap().parse().unwrap();
    (status, all[end + 4..].to_vec())
}

/// For each reader, at its own pace: the rest comes from upstream, and the whole is what the digest says.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_in_the_middle_of_a_blob_cuts_no_client() {
    for errno in [EIO, ENOSPC] {
        for skip in [0, 1, 2] {
            let faults = Faults::default();
            let (world, image) = faulty(&faults).await;
            let layer = layer(&image);
            let path = format!("/v2/library/busybox/blobs/{}", layer.digest);
            faults.fail(Call::Write, skip, u32::MAX, errno);
            let range = format!("Range: bytes={}-\r\n", layer.size - 1000);
            let (a, b, c) = tokio::join!(pull(&world, &path, ""), pull(&world, &path, ""), pull(&world, &path, &range));
            for (status, body) in [&a, &b] {
                assert_eq!((*status, body.len() as u64), (200, layer.size), "{errno} {skip}");
                assert_eq!(Algorithm::Sha256.digest(body).to_string(), layer.digest);
            }
            assert!(c.0 == 206 && c.1 == a.1[a.1.len() - 1000..], "{errno} {skip}: {}", c.0);
            let passed = world.hub.count(|asked| asked.kind == Asked::BlobGet);
            assert!(passed > 1, "{passed} requests");
            // A blob of which nothing can be given before it is verified, too.
            let config = format!("/v2/library/busybox/blobs/{}", image.platforms[0].config.digest);
            let (status, small) = pull(&world, &config, "").await;
            assert_eq!((status, small.len() as u64), (200, image.platforms[0].config.size), "{errno} {skip}");

            faults.heal();
            assert_eq!(pull(&world, &path, "").await.1.len() as u64, layer.size);
            // It is kept again, a moment after its last byte.
            while world.ask(&format!("GET {path}"), "").await.header("x-cache") != Some("hit") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// What was given before the disk failed and what comes after it are verified together.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_in_the_middle_of_a_corrupt_blob_completes_it_for_no_client() {
    for at in [At::Start, At::Last] {
        let faults = Faults::default();
        let (world, image) = faulty(&faults).await;
        let layer = layer(&image);
        // The first request is corrupt where the disk still takes it, or the second where upstream alone has it.
        let corrupt = What::Corrupt(at);
        let fault = if matches!(at, At::Start) { Fault::once(corrupt) } else { Fault::always(corrupt) };
        world.hub.fault(fault.on(Match::kind(Asked::BlobGet)));
        faults.fail(Call::Write, 1, u32::MAX, EIO);
        let (_, body) = pull(&world, &format!("/v2/library/busybox/blobs/{}", layer.digest), "").await;
        assert!((body.len() as u64) < layer.size, "{at:?}: {} bytes of {}", body.len(), layer.size);
    }
}
