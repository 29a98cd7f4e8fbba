//! A bucket and stores over it, and what holds for any bucket that is fit.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::runtime::Handle;
use weir_shared::{Bucket, S3, Tier, Unfit};
use weir_storage::{
    Source, Store, TagRecord,
    oci::{Algorithm, Digest, Manifest, Tag},
};

/// The bucket by this name at an endpoint, with credentials in a file of `directory`.
pub(crate) fn settings(endpoint: &str, bucket: &str, directory: &Path) -> S3 {
    let credentials_file = directory.join("credentials");
    std::fs::write(&credentials_file, "[default]\naws_access_key_id = user\naws_secret_access_key = secretsecret\n")
        .unwrap();
    S3 {
        endpoint: endpoint.to_owned(),
        bucket: bucket.to_owned(),
        credentials_file,
        prefix: "a/b".to_owned(),
        ..S3::default()
    }
}

/// What the probe says of it.
pub(crate) async fn probe(settings: &S3) -> Result<(), Unfit> {
    Bucket::open(settings).unwrap().probe().await
}

/// A replica without HTTP: its store, and the tier behind it.
pub(crate) struct Replica {
    pub(crate) store: Store,
    pub(crate) tier: Tier,
    metrics: Registry,
    _directory: tempfile::TempDir,
}

impl Replica {
    pub(crate) async fn start(settings: &S3) -> Replica {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let store = Store::open(weir_storage::Settings { root, ..weir_storage::Settings::default() }).unwrap();
        let bucket = Bucket::open(settings).unwrap();
        let is_proven = bucket.probe().await.is_ok();
        let tier = Tier::start(bucket, settings, None, None, &store, is_proven, &Handle::current());
        let mut metrics = Registry::default();
        tier.register(&mut metrics);
        Replica { store, tier, metrics, _directory: directory }
    }

    /// Puts a blob on this disk and has it kept.
    pub(crate) async fn keep(&self, bytes: &Bytes) -> Digest {
        let digest = Algorithm::Sha256.digest(bytes);
        let mut writer = self.store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes.clone()).await.unwrap();
        writer.commit().await.unwrap();
        self.tier.keep_blob(&digest, None);
        digest
    }

    /// Waits until the figures hold this line.
    pub(crate) async fn shows(&self, line: &str) {
        let mut text = String::new();
        for _ in 0..3000 {
            text.clear();
            encode(&mut text, &self.metrics).unwrap();
            if text.lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{line} is not in\n{text}");
    }

    /// All bytes of a blob in the bucket from an offset on.
    pub(crate) async fn read(&self, digest: &Digest, from: u64) -> Option<Vec<u8>> {
        let mut body = self.tier.blob(digest, from).await?;
        assert_eq!(body.start(), from);
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        Some(bytes)
    }
}

/// Bytes that no two seeds have in common.
pub(crate) fn noise(seed: u8, length: usize) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let next = move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect::<Vec<u8>>().into()
}

pub(crate) fn source(repository: &str) -> Source {
    Source {
        upstream: "docker.io".into(),
        credential: Source::ANONYMOUS.into(),
        repository: repository.parse().unwrap(),
    }
}

fn manifest(text: &'static str) -> Manifest {
    let bytes = Bytes::from_static(text.as_bytes());
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
    Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
}

fn record(manifest: &Manifest, at: SystemTime) -> TagRecord {
    let (digest, media_type) = (manifest.digest.clone(), manifest.media_type.clone());
    TagRecord { digest, media_type, size: manifest.bytes.len() as u64, checked_at: at }
}

/// What one replica kept another one gets: a blob in parts and one in a piece, a manifest, a membership, a tag; and nothing else.
pub(crate) async fn what_one_keeps_another_gets(settings: &S3) {
    let (one, other) = (Replica::start(settings).await, Replica::start(settings).await);
    let (small, large) = (noise(1, 1000), noise(2, 20 << 20));
    let (few, many) = (one.keep(&small).await, one.keep(&large).await);
    let (image, source) = (manifest(r#"{"schemaVersion":2}"#), source("library/a"));
    one.store.cache.manifests.put(&image).await.unwrap();
    one.tier.keep_manifest(&image.digest, None);
    one.tier.keep_member(&source, &image.digest, None);
    let (latest, at): (Tag, _) = ("latest".parse().unwrap(), SystemTime::now());
    one.tier.keep_tag(&source, &latest, &record(&image, at));
    one.shows("shared_writes_waiting 0").await;

    assert_eq!(other.tier.blob_size(&many).await, Some(large.len() as u64));
    assert!(other.read(&few, 0).await.unwrap() == small);
    assert!(other.read(&many, 0).await.unwrap() == large);
    let from = (8 << 20) - 5;
    assert!(other.read(&many, from).await.unwrap() == large[usize::try_from(from).unwrap()..]);
    assert_eq!(other.tier.manifest(&image.digest).await, Some(image.clone()));
    assert!(other.tier.is_member(&source, &image.digest).await);
    assert_eq!(other.tier.tag(&source, &latest).await.unwrap().record, Some(record(&image, at)));

    let absent = Algorithm::Sha256.digest(b"absent");
    let elsewhere = Source { credential: "robot".into(), ..source.clone() };
    assert_eq!((other.tier.blob_size(&absent).await, other.tier.manifest(&absent).await), (None, None));
    assert!(other.read(&absent, 0).await.is_none());
    assert!(!other.tier.is_member(&elsewhere, &image.digest).await, "that is another credential's right");
    assert!(!other.tier.is_member(&source, &absent).await);

    // Of two answers the newer one counts, also when it is written first.
    let moved = manifest(r#"{"schemaVersion":2,"moved":true}"#);
    other.tier.keep_tag(&source, &latest, &record(&moved, at + Duration::from_secs(4)));
    other.shows("shared_writes_waiting 0").await;
    // And one that upstream moved back is written by the replica that wrote it first, too.
    for (replica, image, seconds) in [(&one, &image, 4), (&other, &moved, 5)] {
        assert!(replica.tier.tag(&source, &latest).await.is_some());
        replica.tier.keep_tag(&source, &latest, &record(image, at + Duration::from_millis(seconds * 1000 + 500)));
        replica.shows("shared_writes_waiting 0").await;
        let found = other.tier.tag(&source, &latest).await.unwrap().record.unwrap();
        assert_eq!(found.digest, image.digest);
    }
    one.tier.remove_tag(&source, &latest, at + Duration::from_secs(3));
    one.shows("shared_writes_waiting 0").await;
    let found = one.tier.tag(&source, &latest).await.unwrap();
    assert_eq!(found.record, Some(record(&moved, at + Duration::from_millis(5500))));
    one.tier.remove_tag(&source, &latest, at + Duration::from_secs(9));
    one.shows("shared_writes_waiting 0").await;
    assert_eq!(other.tier.tag(&source, &latest).await.unwrap().record, None);

    // What is put aside is there no more, for the others too, and a good one takes its place.
    other.tier.quarantine(&few).await;
    assert_eq!(one.tier.blob_size(&few).await, None);
    other.keep(&small).await;
    other.shows("shared_writes_waiting 0").await;
    assert!(one.read(&few, 0).await.unwrap() == small);
    one.tier.close(Duration::from_secs(5)).await;
}
