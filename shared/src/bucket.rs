//! The bucket as its users see it: requests while it answers, none while it does not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;
use weir_storage::setting::ConfigError;

use crate::{
    breaker::Breaker,
    client::{Client, Object, Parts, Stream, Version},
    error::Error,
    keys,
    probe::{self, Unfit},
    random::unique,
    settings::S3,
};

/// How often a bucket that is away is tried.
const RETRY: Duration = Duration::from_secs(2);

/// Small reads at once; more would wait for the store all the same.
const READS: usize = 64;

/// A bucket and whether it answers. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    breaker: Arc<Breaker>,
    reads: Arc<Semaphore>,
}

impl Bucket {
    /// Sends no request yet: it is away until [`Bucket::probe`] succeeds.
    ///
    /// # Errors
    /// Files that cannot be read, or hold nothing of use.
    pub fn open(settings: &S3) -> Result<Bucket, ConfigError> {
        let breaker = Arc::new(Breaker::new("s3"));
        Ok(Bucket { client: Client::open(settings)?, breaker, reads: Arc::new(Semaphore::new(READS)) })
    }

    /// Tries out what replicas need of it: about ninety small requests and one upload of 8 MiB. It is used from then on.
    ///
    /// # Errors
    /// [`Unfit`].
    pub async fn probe(&self) -> Result<(), Unfit> {
        probe::run(&self.client, &unique()).await?;
        self.breaker.rise();
        Ok(())
    }

    /// Tries a bucket that is away again and again until it answers, and until it is fit before the first use. Never returns but for
    /// a bucket that cannot be used at all.
    pub(crate) async fn watch(&self, mut is_proven: bool) {
        loop {
            tokio::time::sleep(RETRY).await;
            if self.breaker.is_up() {
                is_proven = true;
            } else if is_proven {
                // Whether the key is there is all the same.
                let began = Instant::now();
                if self.client.size(&keys::probe("alive")).await.is_ok() && !self.is_late(began) {
                    self.breaker.rise();
                }
            } else {
                match self.probe().await {
                    Ok(()) | Err(Unfit::Unreachable(_)) => {}
                    Err(unfit) => return tracing::error!(%unfit, "the bucket is not used; mend it and restart"),
                }
            }
        }
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.breaker.is_up()
    }

    pub(crate) fn show(&self, gauge: Gauge) {
        self.breaker.show(gauge);
    }

    pub(crate) async fn risen(&self) {
        self.breaker.risen().await;
    }

    pub(crate) async fn get(&self, key: &str, most: u64) -> Result<Option<Object>, Error> {
        self.small(self.client.get(key, most)).await
    }

    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        self.small(self.client.size(key)).await
    }

    pub(crate) async fn stream(&self, key: &str, from: u64) -> Result<Option<Stream>, Error> {
        self.through(self.client.stream(key, from)).await
    }

    /// The next piece of a stream, whose failures count as those of requests.
    pub(crate) async fn next(&self, stream: &mut Stream) -> Result<Option<Bytes>, Error> {
        self.judge(stream.next().await)
    }

    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Version, Error> {
        self.through(self.client.create(key, bytes)).await
    }

    pub(crate) async fn update(&self, key: &str, bytes: Bytes, version: Version) -> Result<Version, Error> {
        self.through(self.client.update(key, bytes, version)).await
    }

    pub(crate) async fn begin(&self, key: &str) -> Result<Parts, Error> {
        self.through(self.client.begin(key)).await
    }

    pub(crate) async fn append(&self, parts: &mut Parts, bytes: Bytes) -> Result<(), Error> {
        self.through(self.client.append(parts, bytes)).await
    }

    pub(crate) async fn complete(&self, parts: &mut Parts) -> Result<(), Error> {
        self.through(self.client.complete(parts)).await
    }

    pub(crate) async fn abort(&self, parts: &mut Parts) -> Result<(), Error> {
        self.through(self.client.abort(parts)).await
    }

    /// Takes an object out of the way. It goes even where it cannot be copied, as S3 copies nothing above 5 GiB: a copy is for the
    /// operator to look at, and what stays would fail the next reader.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let copied = self.through(self.client.copy(from, to)).await;
        self.through(self.client.remove(from)).await?;
        copied
    }

    /// A small read, which clients wait for. A late answer is used, and counts as a failure: one lookup makes several of these reads, and
    /// without that a bucket that is always just in time would cost each cold pull many times the time-out.
    async fn small<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let _turn = self.read().await?;
        if !self.breaker.is_up() {
            return Err(Error::Away);
        }
        let began = Instant::now();
        let outcome = request.await;
        if outcome.is_ok() && self.is_late(began) {
            self.breaker.failed("its answers are late");
            return outcome;
        }
        self.judge(outcome)
    }

    fn is_late(&self, began: Instant) -> bool {
        began.elapsed() > self.client.timeout() / 2
    }

    /// A turn among the small reads. A request that gets none soon goes on as if the bucket were away, which says nothing about it.
    async fn read(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        let turn = tokio::time::timeout(Duration::from_secs(1), self.reads.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(Error::Away)
    }

    async fn through<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if !self.breaker.is_up() {
            return Err(Error::Away);
        }
        self.judge(request.await)
    }

    fn judge<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            // A right that was withdrawn makes it as useless as a bucket that is gone.
            Err(error @ (Error::Unreachable(_) | Error::Refused(_))) => self.breaker.failed(&error.to_string()),
            Err(Error::Away) => {}
            Ok(_) | Err(Error::Conflict | Error::Malformed(_)) => self.breaker.succeeded(),
        }
        outcome
    }
}
