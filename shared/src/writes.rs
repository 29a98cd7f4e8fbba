//! What goes to the bucket in the background: bounded in number and memory, never in a client's way, and kept while it is away.
//!
//! Two queues: one for what is small, one for blobs, so that an image's manifest does not wait for the layers of another. Each holds
//! names and no bytes; the bytes are read from the disk when their turn comes. What finds a queue full is lost for the bucket, and
//! counted: it is on this disk, and another replica gets it from upstream.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    runtime::Handle,
    sync::{Mutex, mpsc, watch},
};
use weir_storage::{
    Manifests, Reader, Source, Store,
    oci::{Digest, Tag},
    seal, unseal,
};

use crate::{
    bucket::Bucket,
    client::{PART, Parts},
    error::Error,
    fleet_tag::FleetTag,
    keys,
    lease::Lease,
    metrics::{Kind, Metrics, Written},
};

/// Small writes that wait: a digest, a source and a record each, so a few MiB.
const SMALL: usize = 16_384;

/// Blobs that wait. While the bucket is away, so many are caught up with.
const BLOBS: usize = 4_096;

/// Small writes at once.
const WRITERS: usize = 4;

/// Attempts of a write that fails while the bucket answers.
const ATTEMPTS: u32 = 4;

/// The wait before the second attempt, doubled for each further one.
const PAUSE: Duration = Duration::from_millis(250);

/// A file of a tag; what is larger is none.
pub(crate) const TAG_BYTES: u64 = 64 << 10;

/// One thing to write.
#[derive(Debug)]
pub(crate) enum Job {
    Blob(Digest),
    Manifest(Digest),
    Member(Source, Digest),
    Tag(Source, Tag, FleetTag),
}

impl Job {
    fn kind(&self) -> Kind {
        match self {
            Job::Blob(_) => Kind::Blob,
            Job::Manifest(_) => Kind::Manifest,
            Job::Member(..) => Kind::Member,
            Job::Tag(..) => Kind::Tag,
        }
    }
}

/// What waits, with the lease of the replica that fetched it: others wait for it until it is written.
#[derive(Debug)]
struct Waiting {
    job: Job,
    lease: Option<Lease>,
}

/// The way to the bucket. Its tasks end when it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Writes {
    small: mpsc::Sender<Waiting>,
    blobs: mpsc::Sender<Waiting>,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
}

impl Writes {
    /// Starts its tasks on `runtime`.
    pub(crate) fn start(
        bucket: &Bucket,
        store: &Store,
        uploads: usize,
        metrics: &Arc<Metrics>,
        runtime: &Handle,
    ) -> Writes {
        let ((small, few), (blobs, large)) = (mpsc::channel(SMALL), mpsc::channel(BLOBS));
        let stop = watch::Sender::new(false);
        for (jobs, writers) in [(few, WRITERS), (large, uploads)] {
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..writers {
                let (bucket, store, metrics) = (bucket.clone(), store.clone(), metrics.clone());
                let writer = Writer { bucket, store, metrics };
                runtime.spawn(writer.run(jobs.clone(), stop.subscribe()));
            }
        }
        Writes { small, blobs, metrics: metrics.clone(), stop }
    }

    /// Puts it into its queue, or counts it as lost; says whether it did.
    pub(crate) fn send(&self, job: Job, lease: Option<Lease>) -> bool {
        let (kind, queue) = (job.kind(), if matches!(job, Job::Blob(_)) { &self.blobs } else { &self.small });
        let sent = queue.try_send(Waiting { job, lease }).is_ok();
        if sent {
            self.metrics.waiting.inc();
        } else {
            self.metrics.wrote(kind, Written::Lost);
        }
        sent
    }

    /// What waits or is being written.
    pub(crate) fn waiting(&self) -> i64 {
        self.metrics.waiting.get()
    }

    /// Ends its tasks; what is in the midst of being written is given up.
    pub(crate) fn close(&self) {
        self.stop.send_replace(true);
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.close();
    }
}

struct Writer {
    bucket: Bucket,
    store: Store,
    metrics: Arc<Metrics>,
}

impl Writer {
    async fn run(self, jobs: Arc<Mutex<mpsc::Receiver<Waiting>>>, mut stop: watch::Receiver<bool>) {
        let work = async {
            loop {
                let waiting = jobs.lock().await.recv().await;
                let Some(Waiting { job, mut lease }) = waiting else { return };
                let outcome = self.write_for_sure(&job, &mut lease).await;
                drop(lease);
                self.metrics.wrote(job.kind(), outcome);
                self.metrics.waiting.dec();
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Writes it, after a while when the bucket is away; the other replicas do not wait for that.
    async fn write_for_sure(&self, job: &Job, lease: &mut Option<Lease>) -> Written {
        let mut failures = 0;
        loop {
            if !self.bucket.is_up() {
                *lease = None;
                self.bucket.risen().await;
            }
            match self.write(job).await {
                Ok(outcome) => return outcome,
                Err(Error::Away) => {}
                Err(error) => {
                    failures += 1;
                    if failures >= ATTEMPTS && self.bucket.is_up() {
                        tracing::warn!(%error, ?job, "not written to the bucket");
                        return Written::Lost;
                    }
                    tokio::time::sleep(PAUSE * 2u32.pow(failures.min(ATTEMPTS) - 1)).await;
                }
            }
        }
    }

    async fn write(&self, job: &Job) -> Result<Written, Error> {
        match job {
            Job::Blob(digest) => self.blob(digest).await,
            Job::Manifest(digest) => match self.store.cache.manifests.load(digest).await {
                Ok(Some(manifest)) => self.create(&keys::manifest(digest), Manifests::encode(&manifest)).await,
                _ => Ok(Written::Lost),
            },
            // Stores differ about objects without a byte.
            Job::Member(source, digest) => {
                self.create(&keys::member(source, digest), Bytes::from_static(b"weir1\n")).await
            }
            Job::Tag(source, tag, record) => self.tag(&keys::tag(source, tag), record).await,
        }
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<Written, Error> {
        match self.bucket.create(key, bytes).await {
            Ok(_) => Ok(Written::Done),
            Err(Error::Conflict) => Ok(Written::There),
            Err(error) => Err(error),
        }
    }

    /// Replaces an older record, and no newer one.
    async fn tag(&self, key: &str, record: &FleetTag) -> Result<Written, Error> {
        let Ok(bytes) = seal(record) else { return Ok(Written::Lost) };
        let written = match self.bucket.get(key, TAG_BYTES).await? {
            None => self.bucket.create(key, bytes).await,
            // A record that cannot be read is replaced by one that can.
            Some(object) => match unseal::<FleetTag>(&object.bytes) {
                Some(old) if !record.replaces(&old) => return Ok(Written::There),
                _ => self.bucket.update(key, bytes, object.version).await,
            },
        };
        // Another replica came between: the next attempt looks at what it wrote.
        written.map(|_| Written::Done)
    }

    /// Writes a blob from the disk, in parts when it is large. It is hashed once more on its way: what rotted here must not spread.
    async fn blob(&self, digest: &Digest) -> Result<Written, Error> {
        let key = keys::blob(digest);
        let Ok(Some(mut reader)) = self.store.blobs.load(digest).await else { return Ok(Written::Lost) };
        let size = reader.size();
        if size <= PART as u64 {
            return match self.read(&mut reader, digest, 0, size).await {
                Some(bytes) if digest.algorithm().digest(&bytes) == *digest => self.create(&key, bytes).await,
                _ => Ok(Written::Lost),
            };
        }
        if self.bucket.size(&key).await?.is_some() {
            return Ok(Written::There);
        }
        let mut parts = self.bucket.begin(&key).await?;
        let written = self.parts(&mut parts, &mut reader, digest, size).await;
        if !matches!(written, Ok(Written::Done)) {
            // The store would keep the parts for ever; when it does not take this either, the bucket's own rule removes them.
            let _ = self.bucket.abort(&mut parts).await;
        }
        written
    }

    async fn parts(
        &self,
        parts: &mut Parts,
        reader: &mut Reader,
        digest: &Digest,
        size: u64,
    ) -> Result<Written, Error> {
        let (mut at, mut hasher) = (0, digest.algorithm().hasher());
        while at < size {
            let Some(part) = self.read(reader, digest, at, size.min(at + PART as u64)).await else {
                return Ok(Written::Lost);
            };
            hasher.update(&part);
            at += part.len() as u64;
            self.bucket.append(parts, part).await?;
        }
        if hasher.finish() != *digest {
            return Ok(Written::Lost);
        }
        self.bucket.complete(parts).await?;
        Ok(Written::Done)
    }

    /// The bytes from `start` to `end`; `None` when the disk does not give them.
    async fn read(&self, reader: &mut Reader, digest: &Digest, start: u64, end: u64) -> Option<Bytes> {
        let mut bytes = BytesMut::with_capacity(usize::try_from(end - start).ok()?);
        while start + (bytes.len() as u64) < end {
            let at = start + bytes.len() as u64;
            let extent = poll_fn(|cx| reader.poll_extent(cx, at, end)).await.ok()?;
            let piece = self.store.blobs.copy(digest, extent, usize::try_from(end - at).ok()?).await.ok()?;
            if piece.is_empty() {
                return None;
            }
            bytes.extend_from_slice(&piece);
        }
        Some(bytes.freeze())
    }
}
