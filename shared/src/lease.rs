//! Who of several replicas asks upstream for an object: the one that has its lease. The others wait for what it brings.
//!
//! # What it guarantees
//! * While Redis and the bucket answer, one replica at a time asks upstream for an object. It holds the object's lease from before it asks
//!   until what came is in the bucket, so that a replica that finds the lease free finds the object there.
//! * A replica that waits looks into the bucket each time the lease ends, and has the lease itself before it asks upstream.
//! * An owner that is killed is followed by another one within [`LIFE`]. An owner that failed says so, and those who wait ask for
//!   themselves at once: a refusal or an outage is not waited for once for each replica in turn.
//! * Losing Redis, or all that it holds, costs upstream requests: at most one for each replica and object. It costs no client an answer,
//!   and no byte its verification. A lease decides who asks, never what is believed.
//! * With `[shared.peers]` the lease names the URL of its owner, and those who wait for a blob get it from there as it arrives, before they
//!   wait for the bucket.
//! * Nothing that is on the disk waits for Redis. What is not waits for one answer, `timeout`, and for another replica at most `follow`.
//!
//! # What it refuses to do
//! * It passes on no bytes itself. Without `[shared.peers]` those who wait get a blob when the owner has all of it and the bucket too, and
//!   the first byte then; after `follow` they fetch it for themselves. A large blob that all replicas want at once is fetched once by each.
//! * It shares no failure and no absence: the error of one replica may be of its own way to upstream.
//! * It holds no lease while the bucket is away, since nothing could be handed over.
//! * It keeps no lease for longer than [`AGE_LIMIT`], and no more than [`HELD`] at once; beyond, each replica asks for itself.
//!
//! # What breaks if a line is moved
//! * The lease is taken *before* the bucket is looked into. In the other order the owner may write and let go between the two, and the
//!   object is fetched twice.
//! * The lease goes with the writes to the bucket (`writes`), and is let go by the last of them. If the fill let it go, those who wait
//!   would look before anything is there.
//! * Each lease has a token of its own, which renewing and releasing compare: an owner that was paused for longer than [`LIFE`] must not
//!   free, or hold, what another has by now.
//! * A command that was not answered may have taken the lease. It is released in the background; else others would wait for one that does
//!   not know that it owns.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    metrics::{Metrics, Way},
    peers::owner_of,
    random::unique,
    redis_client::{RedisClient, RedisError},
};

/// How long a lease lasts that is not renewed: the time that a killed owner holds others up, and longer than Redis or the network pause.
const LIFE: Duration = Duration::from_secs(6);

/// A third of it, so that one lost command loses no lease.
const RENEW: Duration = Duration::from_secs(2);

/// How long a lease is renewed. Those who wait for the bucket do so for 25 s at most; those who get the bytes from the owner go on without
/// the lease. A replica that wants the object later than this asks upstream.
const AGE_LIMIT: Duration = Duration::from_secs(120);

/// Leases of this replica at once, each a small task that renews it: 512 commands a second at most.
const HELD: usize = 1024;

/// How long the word of an owner that failed stays, for those who wait to find.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// What a failed owner leaves. No token looks so.
const FAILED: &str = "failed";

/// The pauses between looks at a lease that another replica has.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// The leases of one replica. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    redis: RedisClient,
    follow: Duration,
    /// Where the other replicas get what this one fetches.
    url: Option<Arc<str>>,
    held: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

/// The right to ask upstream for an object. It ends when the last clone is dropped, and then says whether the object was got.
#[derive(Clone, Debug)]
pub struct Lease {
    end: Arc<End>,
}

/// What happens to the lookup of one replica.
#[derive(Debug)]
pub enum Turn<T> {
    /// It is in the bucket by now.
    Found(T),
    /// This replica asks upstream. Without a lease others may do so, too.
    Ask(Option<Lease>),
}

/// Tells the task that holds the lease how it ended.
#[derive(Debug)]
struct End {
    got: std::sync::atomic::AtomicBool,
    tell: Option<oneshot::Sender<bool>>,
}

/// Whose the lease is.
enum Taken {
    Mine(Lease),
    /// Another replica's, by its token.
    Held(String),
    /// Redis is away, the owner failed, or this replica has too many: each asks for itself.
    Unknown,
}

/// How a wait for another replica ended.
enum Wait {
    Over,
    TooLong,
    Unknown,
}

impl Leases {
    pub(crate) fn new(
        redis: RedisClient,
        follow: Duration,
        url: Option<Arc<str>>,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Leases {
        Leases { redis, follow, url, held: Arc::new(Semaphore::new(HELD)), metrics, runtime }
    }

    /// What `look` finds in the bucket, now or when another replica has brought it there, or `follow` gets from the replica with this
    /// URL, which has the lease; else the right to ask upstream.
    pub(crate) async fn turn<T, F, G>(&self, key: &str, look: impl Fn() -> F, follow: impl Fn(String) -> G) -> Turn<T>
    where
        F: Future<Output = Option<T>>,
        G: Future<Output = Option<T>>,
    {
        let deadline = Instant::now() + self.follow;
        let mut has_waited = false;
        loop {
            let taken = self.take(key).await;
            if let Some(found) = look().await {
                if has_waited {
                    self.metrics.flight(Way::Followed);
                }
                if let Taken::Mine(lease) = taken {
                    lease.got();
                }
                return Turn::Found(found);
            }
            let (way, lease) = match taken {
                Taken::Mine(lease) => (Way::Led, Some(lease)),
                Taken::Unknown => (Way::Alone, None),
                Taken::Held(token) => {
                    if let Some(owner) = self.owner(&token)
                        && let Ok(Some(found)) = timeout_at(deadline, follow(owner.to_owned())).await
                    {
                        self.metrics.flight(Way::Streamed);
                        return Turn::Found(found);
                    }
                    match self.wait(key, &token, deadline).await {
                        Wait::Over => {
                            has_waited = true;
                            continue;
                        }
                        Wait::TooLong => (Way::Split, None),
                        Wait::Unknown => (Way::Alone, None),
                    }
                }
            };
            self.metrics.flight(way);
            return Turn::Ask(lease);
        }
    }

    async fn take(&self, key: &str) -> Taken {
        if !self.redis.is_up() {
            return Taken::Unknown;
        }
        let Ok(place) = self.held.clone().try_acquire_owned() else { return Taken::Unknown };
        let token = match &self.url {
            Some(url) => format!("{} {url}", unique()),
            None => unique(),
        };
        match self.redis.take(key, &token, LIFE).await {
            Ok(None) => {
                let (tell, told) = oneshot::channel();
                let keeper = Keeper { redis: self.redis.clone(), key: key.to_owned(), token, _place: place };
                self.runtime.spawn(keeper.keep(told));
                Taken::Mine(Lease { end: Arc::new(End { got: false.into(), tell: Some(tell) }) })
            }
            Ok(Some(word)) if word == FAILED => Taken::Unknown,
            Ok(Some(token)) => Taken::Held(token),
            Err(RedisError::Away | RedisError::Refused(_)) => Taken::Unknown,
            Err(RedisError::Unreachable(_)) => {
                let (redis, key) = (self.redis.clone(), key.to_owned());
                self.runtime.spawn(async move { redis.release(&key, &token, "", LIFE).await });
                Taken::Unknown
            }
        }
    }

    /// The URL of the replica whose token this is, when both give one another what arrives.
    fn owner<'a>(&self, token: &'a str) -> Option<&'a str> {
        self.url.as_deref().and_then(|own| owner_of(token, own))
    }

    /// Waits until the lease of this token has ended.
    async fn wait(&self, key: &str, token: &str, deadline: Instant) -> Wait {
        let (mut pause, longest) = POLL;
        loop {
            if Instant::now() + pause >= deadline {
                return Wait::TooLong;
            }
            sleep(pause).await;
            pause = longest.min(pause * 3 / 2);
            match self.redis.get(key).await {
                Ok(Some(found)) if found == token => {}
                Ok(Some(found)) if found == FAILED => return Wait::Unknown,
                Ok(_) => return Wait::Over,
                Err(_) => return Wait::Unknown,
            }
        }
    }
}

impl Lease {
    /// Upstream gave the object. Without this call the lease ends as that of an owner that failed.
    pub fn got(&self) {
        self.end.got.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            // The task ends by itself when the lease was lost.
            let _ = tell.send(*self.got.get_mut());
        }
    }
}

/// The task of one lease.
struct Keeper {
    redis: RedisClient,
    key: String,
    token: String,
    _place: OwnedSemaphorePermit,
}

impl Keeper {
    /// Renews the lease until it ends, is lost, or is too old.
    async fn keep(self, mut told: oneshot::Receiver<bool>) {
        let deadline = Instant::now() + AGE_LIMIT;
        loop {
            tokio::select! {
                got = &mut told => {
                    let word = if got.unwrap_or(false) { "" } else { FAILED };
                    // What is not released ends by itself.
                    let _ = self.redis.release(&self.key, &self.token, word, FAILED_FOR).await;
                    return;
                }
                () = sleep(RENEW) => {
                    // A failure is no loss: the next one may come in time.
                    let is_lost = self.redis.renew(&self.key, &self.token, LIFE).await == Ok(false);
                    if is_lost || Instant::now() >= deadline {
                        return;
                    }
                }
            }
        }
    }
}
