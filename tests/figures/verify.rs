//! `weir verify` on a store with one flipped bit, again and again, from a cold start each time.

use weir_storage::{
    Settings, Store,
    oci::{Algorithm, Manifest},
};

use crate::{
    random::Random,
    support::{number, object, program},
};

const OBJECTS: u64 = 440;

#[tokio::test]
async fn each_cold_start_finds_the_one_flipped_bit_of_440_objects() {
    let runs = number("WEIR_VERIFY_RUNS", 100);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let store = Store::open(Settings { root: root.clone(), ..Settings::default() }).unwrap();
    let mut objects = Vec::new();
    for number in 0..OBJECTS {
        let mut random = Random::new(number);
        if number % 4 == 0 {
            let bytes = bytes::Bytes::from(format!("{{\"schemaVersion\":2,\"a\":{number}}}"));
            let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
            let manifest = Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes };
            store.cache.manifests.put(&manifest).await.unwrap();
            objects.push(("manifests", manifest.digest));
        } else {
            let bytes: Vec<u8> = (0..1 + random.below(50_000)).map(|_| random.next() as u8).collect();
            let digest = Algorithm::Sha256.digest(&bytes);
            let mut writer = store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
            writer.append(bytes.into()).await.unwrap();
            writer.commit().await.unwrap();
            objects.push(("blobs", digest));
        }
    }
    store.close().await;
    drop(store);
    let verify = || program().arg("verify").env("WEIR_STORAGE__ROOT", &root).output().unwrap();
    assert_eq!(verify().status.code(), Some(0));
    let mut random = Random::new(7);
    for run in 0..runs {
        let (kind, digest) = random.pick(&objects);
        let path = object(&root, kind, &digest.to_string());
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(&path, bytes).unwrap();
        let output = verify();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.code() == Some(1) && text.contains(&digest.to_string()),
            "run {run}: {kind} {digest}, byte {at} of {}: {output:?}",
            whole.len()
        );
        std::fs::write(&path, whole).unwrap();
    }
    assert_eq!(verify().status.code(), Some(0));
    println!("{runs} of {runs} runs found the one flipped bit of {OBJECTS} objects, and nothing else");
}
