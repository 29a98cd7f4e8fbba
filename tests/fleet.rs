//! Several Weirs over one bucket and one upstream, and what their clients do.

use std::{path::Path, time::Duration};

use weir_conformance::{
    bucket::Bucket,
    client::{Client, Request, Response},
    hub::{self, Hub, Image, Spec},
    mirror::process::{Process, Program},
};

/// What must not be printed.
pub(crate) const SECRET: &str = "canary-of-the-bucket";

/// A fleet: its upstream and its bucket. Replicas come and go.
pub(crate) struct Fleet {
    pub(crate) hub: Hub,
    pub(crate) bucket: Bucket,
    pub(crate) directory: tempfile::TempDir,
    /// How long its bucket has for an answer.
    pub(crate) timeout: &'static str,
}

/// One Weir of it, with an empty disk.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) client: Client,
    admin: Client,
}

/// The settings of a bucket, with its credentials in a file of `directory`.
pub(crate) fn tables(bucket: &Bucket, directory: &Path, timeout: &str) -> String {
    let file = directory.join("credentials");
    std::fs::write(&file, format!("[default]\naws_access_key_id = me\naws_secret_access_key = {SECRET}\n")).unwrap();
    format!(
        "[shared.s3]\nendpoint = \"http://{}\"\nbucket = \"{}\"\ncredentials_file = \"{}\"\ntimeout = \"{timeout}\"\n",
        bucket.address,
        Bucket::NAME,
        file.display()
    )
}

impl Fleet {
    pub(crate) async fn start(settings: hub::Settings) -> Fleet {
        let hub = Hub::start(settings).await.unwrap();
        let (bucket, directory) = (Bucket::start().await.unwrap(), tempfile::tempdir().unwrap());
        Fleet { hub, bucket, directory, timeout: "500ms" }
    }

    pub(crate) async fn replica(&self, extra: &str) -> Replica {
        let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
        let extra = format!("{extra}\n{}", tables(&self.bucket, self.directory.path(), self.timeout));
        let process = Process::start(program, self.hub.registry_address(), &extra).await.unwrap();
        let (client, admin) = (Client::new(process.address, ""), Client::new(process.admin.unwrap(), ""));
        Replica { process, client, admin }
    }

    /// Waits until all of an image is in the bucket.
    pub(crate) async fn holds(&self, image: &Image) {
        let digests = image.blobs().into_iter().map(|blob| blob.digest.clone());
        let manifests = image.platforms.iter().map(|platform| platform.manifest.digest.clone());
        let all: Vec<String> = digests.chain(manifests).chain([image.digest().to_owned()]).collect();
        let is_there = |keys: &[String], digest: &str| {
            let hex = digest.split(':').nth(1).unwrap();
            let object = |key: &&String| key.ends_with(hex) && !key.contains("/_members/");
            let member = |key: &&String| key.ends_with(hex) && key.contains("/_members/");
            keys.iter().any(|key| object(&key)) && keys.iter().any(|key| member(&key))
        };
        let tag = |keys: &[String]| keys.iter().any(|key| key.ends_with(&format!("{}/_tags/latest", image.repository)));
        let ready = |keys: &[String]| tag(keys) && all.iter().all(|digest| is_there(keys, digest));
        assert!(self.bucket.wait_for(ready).await, "{:?}", self.bucket.keys());
    }
}

impl Replica {
    pub(crate) async fn send(&self, request: Request) -> Response {
        let answer = self.client.send(&request).await;
        answer.unwrap_or_else(|error| panic!("{error:?}: {}", self.process.log_tail()))
    }

    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Response {
        self.send(Request::get(self.client.manifest(repository, reference)).accepting_manifests()).await
    }

    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Response {
        self.send(Request::get(self.client.blob(repository, digest))).await
    }

    /// Pulls all of an image, and looks at each byte of it.
    pub(crate) async fn pull(&self, image: &Image) {
        pull(&self.client, image).await;
    }

    pub(crate) async fn shows(&self, line: &str) {
        shows(&self.admin, line).await;
    }
}

/// Pulls all of an image, and looks at each byte of it.
pub(crate) async fn pull(client: &Client, image: &Image) {
    let repository = &image.repository;
    let head = client.head_manifest(repository, "latest").await.unwrap();
    assert_eq!((head.status(), head.head.digest()), (200, Some(image.digest())), "{}", head.describe());
    let root = client.get_manifest(repository, "latest").await.unwrap();
    assert!(root.status() == 200 && root.body == image.root.bytes, "{}", root.describe());
    for platform in &image.platforms {
        let manifest = client.get_manifest(repository, &platform.manifest.digest).await.unwrap();
        assert!(manifest.status() == 200 && manifest.body == platform.manifest.bytes, "{}", manifest.describe());
    }
    for blob in image.blobs() {
        let answer = client.get_blob(repository, &blob.digest).await.unwrap();
        assert!(answer.status() == 200 && answer.complete(), "{}", answer.describe());
        assert_eq!(answer.sha256, blob.digest);
    }
}

/// Waits until the metrics of the Weir with this admin listener have the line.
pub(crate) async fn shows(admin: &Client, line: &str) {
    for _ in 0..2000 {
        // It may be about to start.
        if let Ok(metrics) = admin.send(&Request::get("/metrics")).await
            && metrics.text().lines().any(|found| found == line)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line} is not shown");
}

/// An image with layers of one piece, of several that are streamed, and of parts.
pub(crate) fn spec(repository: &str, seed: u64) -> Spec {
    Spec::new(repository).seed(seed).layers([1000, 300 << 10, 9 << 20])
}
