//! The bucket behind the disk: what is looked for there before upstream, and what goes there in the background.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::{runtime::Handle, task::AbortHandle, time::Instant};
use weir_storage::{
    Manifests, Source, Store, TagRecord,
    oci::{Digest, Manifest, Tag},
    unseal,
};

use crate::{
    answers::{Answers, Said},
    bucket::Bucket,
    client::Stream,
    error::Error,
    fleet_tag::{FleetTag, REFRESH},
    keys::{self, Flight},
    lease::{Asked, Lease, Leases, Told, Turn},
    metrics::{Found, Kind, Metrics},
    peers::Question,
    redis_client::RedisClient,
    redis_settings::Redis,
    settings::S3,
    writes::{Job, TAG_BYTES, Writes},
};

/// A manifest's file; upstream's are bounded by 4 MiB.
const MANIFEST_BYTES: u64 = 5 << 20;

/// Keys that are known to be in the bucket, so that they are not written again and again: about 20 MiB.
const KNOWN: u64 = 100_000;

/// How long a key is known to be there without a look.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

/// Blobs whose bytes in the bucket were wrong, and how long those are not looked at; a good one is written in their place meanwhile.
const DISTRUSTED: u64 = 10_000;
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);

/// The bucket of a fleet, for one replica's store. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tier {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    writes: Writes,
    metrics: Arc<Metrics>,
    known: moka::sync::Cache<Box<str>, ()>,
    /// What this replica lately wrote, or sent to be written, of a tag.
    tags: moka::sync::Cache<Box<str>, Digest>,
    distrusted: moka::sync::Cache<Digest, ()>,
    leases: Option<Leases>,
    answers: Answers,
    redis: Option<RedisClient>,
    watches: Vec<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watches.iter().for_each(AbortHandle::abort);
    }
}

/// A blob as it comes from the bucket.
pub struct BucketBody {
    stream: Stream,
    bucket: Bucket,
}

impl Tier {
    /// Starts what writes and what looks whether the bucket answers. `is_proven`: its probe succeeded; else that is awaited first.
    /// With Redis, one replica at a time asks upstream for an object; `url` is where the others get what this one fetches.
    pub fn start(
        bucket: Bucket,
        settings: &S3,
        redis: Option<(RedisClient, &Redis)>,
        url: Option<Arc<str>>,
        store: &Store,
        is_proven: bool,
        runtime: &Handle,
    ) -> Tier {
        let metrics = Arc::new(Metrics::default());
        let answers = Answers::new(metrics.answers_waiting.clone());
        let writes = Writes::start(&bucket, store, settings.uploads, &metrics, runtime);
        let watched = bucket.clone();
        let mut watches = vec![runtime.spawn(async move { watched.watch(is_proven).await }).abort_handle()];
        let leases = redis.as_ref().map(|(client, settings)| {
            let watched = client.clone();
            watches.push(runtime.spawn(async move { watched.watch().await }).abort_handle());
            Leases::new(client.clone(), settings.follow, url, answers.clone(), metrics.clone(), runtime.clone())
        });
        let redis = redis.map(|(client, _)| client);
        let known = moka::sync::Cache::builder().max_capacity(KNOWN).time_to_live(KNOWN_FOR).build();
        let tags = moka::sync::Cache::builder().max_capacity(KNOWN).time_to_live(REFRESH).build();
        let distrusted = moka::sync::Cache::builder().max_capacity(DISTRUSTED).time_to_live(DISTRUSTED_FOR).build();
        let inner = Inner { bucket, writes, metrics, known, tags, distrusted, leases, answers, redis, watches };
        Tier { inner: Arc::new(inner) }
    }

    /// Puts its figures into the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        self.inner.bucket.show(self.inner.metrics.up("s3"));
        if let Some(redis) = &self.inner.redis {
            redis.show(self.inner.metrics.up("redis"));
        }
    }

    /// Gives what waits a chance to be written, and ends. What is left is on the disk, but not in the bucket.
    pub async fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.inner.writes.waiting() > 0 && self.inner.bucket.is_up() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = self.inner.writes.waiting();
        if left > 0 {
            tracing::warn!(left, "not written to the bucket before the end");
        }
        self.inner.writes.close();
        self.inner.watches.iter().for_each(AbortHandle::abort);
    }

    /// What `look` finds in the bucket, by now or because another replica brings it there, or `follow` gets from the replica with this
    /// URL, which has the lease; else this replica's turn to ask upstream. The lease goes on to [`Tier::keep_blob`] and its like, and until
    /// it is there other replicas wait.
    pub async fn turn<T, F, G>(&self, flight: &Flight, look: impl Fn() -> F, follow: impl Fn(String) -> G) -> Turn<T>
    where
        F: Future<Output = Option<T>>,
        G: Future<Output = Option<T>>,
    {
        match &self.inner.leases {
            // What cannot be handed over is not waited for.
            Some(leases) if self.inner.bucket.is_up() => leases.turn(flight.key(), look, follow).await,
            _ => look().await.map_or(Turn::Ask(None), Turn::Found),
        }
    }

    /// What upstream told another flight for the same, by now or when it ends, if `accept` says that it may be used; else this replica asks.
    /// `fetch` asks the replica with this URL. With Redis and a URL of its own alone.
    pub async fn ask<T, F>(
        &self,
        flight: &Flight,
        fetch: impl Fn(String, Question) -> F,
        accept: impl Fn(Told) -> Option<T>,
    ) -> Asked<T>
    where
        F: Future<Output = Option<Said>>,
    {
        match &self.inner.leases {
            Some(leases) => leases.ask(flight.key(), fetch, accept).await,
            None => Asked::Alone,
        }
    }

    /// What this replica tells the others.
    pub fn answers(&self) -> &Answers {
        &self.inner.answers
    }

    /// The size of a blob in the bucket, when it is there and trusted.
    pub async fn blob_size(&self, digest: &Digest) -> Option<u64> {
        if self.inner.distrusted.contains_key(digest) {
            return None;
        }
        let key = keys::blob(digest);
        let found = self.inner.bucket.size(&key).await;
        self.counted(Kind::Blob, &key, found)
    }

    /// A blob from this offset on, when the bucket has it. What comes is not verified.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Option<BucketBody> {
        if self.inner.distrusted.contains_key(digest) {
            return None;
        }
        let stream = self.inner.bucket.stream(&keys::blob(digest), from).await.ok().flatten()?;
        Some(BucketBody { stream, bucket: self.inner.bucket.clone() })
    }

    /// Takes a blob out of the way that is not what its name says. A replica that fills it writes it anew.
    pub async fn quarantine(&self, digest: &Digest) {
        self.inner.metrics.read(Kind::Blob, Found::Damaged);
        self.inner.distrusted.insert(digest.clone(), ());
        self.inner.known.invalidate(&*keys::blob(digest));
        let moved = self.inner.bucket.rename(&keys::blob(digest), &keys::quarantine(digest)).await;
        tracing::error!(%digest, error = moved.err().map(|error| error.to_string()),
            "a blob of the bucket does not match its digest, and is put aside under quarantine/");
    }

    /// A manifest that matches its digest.
    pub async fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let key = keys::manifest(digest);
        let found = self.inner.bucket.get(&key, MANIFEST_BYTES).await;
        let object = self.counted(Kind::Manifest, &key, found)?;
        let manifest = Manifests::decode(digest, object.bytes);
        if manifest.is_none() {
            self.damaged(Kind::Manifest, &key);
            // It is written once, so that a good one needs the place.
            self.inner.known.invalidate(&*key);
            if let Err(error) = self.inner.bucket.rename(&key, &keys::quarantine(digest)).await {
                tracing::warn!(%error, key, "not put aside");
            }
        }
        manifest
    }

    /// Whether this source is known to hold the digest: upstream told some replica so.
    pub async fn is_member(&self, source: &Source, digest: &Digest) -> bool {
        let key = keys::member(source, digest);
        let found = self.inner.bucket.size(&key).await;
        let found = self.counted(Kind::Member, &key, found).is_some();
        if found {
            self.inner.known.insert(key.into(), ());
        }
        found
    }

    /// What the tag named when a replica last asked upstream.
    pub async fn tag(&self, source: &Source, tag: &Tag) -> Option<FleetTag> {
        let key = keys::tag(source, tag);
        let found = self.inner.bucket.get(&key, TAG_BYTES).await;
        let object = self.counted(Kind::Tag, &key, found)?;
        let record: Option<FleetTag> = unseal(&object.bytes);
        match &record {
            None => self.damaged(Kind::Tag, &key),
            // Another replica wrote since: what this one learns next is to be written, also when it wrote the same before.
            Some(found) => {
                if self.inner.tags.get(&*key) != found.record.as_ref().map(|record| record.digest.clone()) {
                    self.inner.tags.invalidate(&*key);
                }
            }
        }
        record
    }

    /// A blob is whole on this disk: it is to be in the bucket, too.
    pub fn keep_blob(&self, digest: &Digest, lease: Option<&Lease>) {
        self.once(keys::blob(digest), Job::Blob(digest.clone()), lease);
    }

    /// As [`Tier::keep_blob`], of a manifest.
    pub fn keep_manifest(&self, digest: &Digest, lease: Option<&Lease>) {
        self.once(keys::manifest(digest), Job::Manifest(digest.clone()), lease);
    }

    /// Upstream said that this source holds the digest.
    pub fn keep_member(&self, source: &Source, digest: &Digest, lease: Option<&Lease>) {
        self.once(keys::member(source, digest), Job::Member(source.clone(), digest.clone()), lease);
    }

    /// Upstream said what a tag names.
    pub fn keep_tag(&self, source: &Source, tag: &Tag, record: &TagRecord) {
        let key = keys::tag(source, tag);
        if self.inner.tags.get(&*key).as_ref() == Some(&record.digest) {
            return;
        }
        if self.inner.writes.send(Job::Tag(source.clone(), tag.clone(), FleetTag::named(record)), None) {
            self.inner.tags.insert(key.into(), record.digest.clone());
        }
    }

    /// Upstream no longer has the tag.
    pub fn remove_tag(&self, source: &Source, tag: &Tag, at: SystemTime) {
        self.inner.tags.invalidate(&*keys::tag(source, tag));
        self.inner.writes.send(Job::Tag(source.clone(), tag.clone(), FleetTag { record: None, at }), None);
    }

    /// Sends what is not known to be in the bucket.
    fn once(&self, key: String, job: Job, lease: Option<&Lease>) {
        if !self.inner.known.contains_key(&*key) && self.inner.writes.send(job, lease.cloned()) {
            self.inner.known.insert(key.into(), ());
        }
    }

    fn damaged(&self, kind: Kind, key: &str) {
        self.inner.metrics.read(kind, Found::Damaged);
        tracing::error!(key, "an object of the bucket is not what was written; it is not used");
    }

    fn counted<T>(&self, kind: Kind, key: &str, found: Result<Option<T>, Error>) -> Option<T> {
        if matches!(found, Ok(None)) {
            // It was lost, or is not there yet: the replica that brings it is to write it.
            self.inner.known.invalidate(key);
        }
        let (outcome, value) = match found {
            Ok(Some(value)) => (Found::Hit, Some(value)),
            Ok(None) => (Found::Miss, None),
            Err(_) => (Found::Failed, None),
        };
        self.inner.metrics.read(kind, outcome);
        value
    }
}

impl BucketBody {
    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.stream.size
    }

    /// Offset of the first byte that comes.
    pub fn start(&self) -> u64 {
        self.stream.start
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// When the bucket breaks off, or is silent for as long as a request may take.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.bucket.next(&mut self.stream).await
    }
}
