//! Who of several replicas asks upstream for an object: the one that has its lease. The others wait for what it brings, or is told.
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
//! * With `[shared.peers]` the answers of upstream that go to no bucket are shared, too ([`Leases::ask`]): those who wait ask the owner what it
//!   was told, an absence or a failure among it. An owner that has no answer for them says so, and they race for the lease. The token stays
//!   for [`KEPT_FOR`] when there is an answer, so that a replica that asks a moment later finds it; who cannot use it takes the lease over.
//! * Nothing that is on the disk waits for Redis. What is not waits for one answer, `timeout`, and for another replica at most `follow`.
//!
//! # What it refuses to do
//! * It passes on no bytes itself. Without `[shared.peers]` those who wait get a blob when the owner has all of it and the bucket too, and
//!   the first byte then; after `follow` they fetch it for themselves. A large blob that all replicas want at once is fetched once by each.
//! * It shares no failure and no absence of a blob or of a manifest by digest: the error of one replica may be of its own way to upstream.
//!   One of a tag or a list goes only to those who waited for it.
//! * It holds no lease of what goes to the bucket while that is away, since nothing could be handed over.
//! * It keeps no lease for longer than [`AGE_LIMIT`], and no more than [`HELD`] at once; beyond, each replica asks for itself.
//!
//! # What breaks if a line is moved
//! * The lease is taken *before* the bucket is looked into. In the other order the owner may write and let go between the two, and the
//!   object is fetched twice.
//! * The lease goes with the writes to the bucket (`writes`), and is let go by the last of them. If the fill let it go, those who wait
//!   would look before anything is there.
//! * Each lease has a token of its own, which renewing and releasing compare: an owner that was paused for longer than [`LIFE`] must not
//!   free, or hold, what another has by now.
//! * A lease is taken over only from a token whose flight its owner calls ended, and by a command that compares the token: of several that
//!   learned so, one has it.
//! * The time that a flight has gone on is read *before* the owner is asked. After that it would hold the way there, and a failure that ended
//!   before this flight began could be taken for its own.
//! * A command that was not answered may have taken the lease. It is released in the background; else others would wait for one that does
//!   not know that it owns.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    answers::{Answers, Pending, Said},
    metrics::{Metrics, Way},
    peers::{Question, hash_of, owner_of},
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

/// How long the lease of a flight that has its answer still names its owner, for those who ask a moment later.
const KEPT_FOR: Duration = Duration::from_secs(3);

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
    answers: Answers,
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

/// What upstream says to this replica or to another one.
#[derive(Debug)]
pub enum Asked<T> {
    /// Another flight was told, and this is it.
    Told(T),
    /// This replica asks upstream, and the others wait for what it is told.
    Lead(Leading),
    /// This replica asks upstream, and others may do so, too.
    Alone,
}

/// The right to ask upstream for what other replicas want to know, too. Dropped without an answer, one of them has the right.
#[derive(Debug)]
pub struct Leading {
    lease: Lease,
    pending: Pending,
}

/// An answer of a flight, this replica's or another one's, that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What the owner published.
    pub body: Bytes,
    /// How long the flight had ended when it was asked.
    pub age: Duration,
    /// Whether the flight ended after this one began, so that it is the answer to what is asked now.
    pub is_shared: bool,
}

/// What is left in Redis when a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The word of an owner that failed.
    Failure,
    /// The token, for those who ask its owner for the answer.
    Owner,
}

/// Tells the task that holds the lease how it ended.
#[derive(Debug)]
struct End {
    left: Mutex<Left>,
    tell: Option<oneshot::Sender<Left>>,
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
        answers: Answers,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Leases {
        Leases { redis, follow, url, answers, held: Arc::new(Semaphore::new(HELD)), metrics, runtime }
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
            let taken = self.take(key, &unique(), "", Left::Failure).await;
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

    /// What another flight for this key was told, of which `accept` says whether it may be used; else the right to ask upstream, or not even
    /// that. `fetch` asks the replica with this URL. Needs a URL of this replica's own.
    pub(crate) async fn ask<T, F>(
        &self,
        key: &str,
        fetch: impl Fn(String, Question) -> F,
        accept: impl Fn(Told) -> Option<T>,
    ) -> Asked<T>
    where
        F: Future<Output = Option<Said>>,
    {
        let Some(own) = self.url.as_deref() else { return Asked::Alone };
        let hash = hash_of(key);
        let began = Instant::now();
        let deadline = began + self.follow;
        let mut over = String::new();
        let way = loop {
            let word = unique();
            let pending = self.answers.begin(&word, &hash);
            let token = match self.take(key, &word, &over, Left::Nothing).await {
                Taken::Mine(lease) => {
                    self.metrics.flight(Way::Led);
                    return Asked::Lead(Leading { lease, pending });
                }
                Taken::Unknown => break Way::Alone,
                Taken::Held(token) => token,
            };
            drop(pending);
            if Instant::now() >= deadline {
                break Way::Split;
            }
            let asked_after = began.elapsed();
            let said = match (token.split_once(' '), owner_of(&token, own)) {
                (Some((word, url)), None) if url == own => Some(self.answers.wait(word, &hash).await),
                (Some((word, _)), Some(owner)) => match Question::of(word, &hash) {
                    Some(question) => timeout_at(deadline, fetch(owner.to_owned(), question)).await.unwrap_or_default(),
                    None => None,
                },
                _ => None,
            };
            match said {
                Some(Said::Given { age, body }) => {
                    if let Some(told) = accept(Told { body, age, is_shared: age <= asked_after }) {
                        self.metrics.flight(Way::Told);
                        return Asked::Told(told);
                    }
                    over = token;
                }
                Some(Said::Gone) => over = token,
                Some(Said::UnderWay) => {}
                // It is silent, or cannot be reached from here.
                None => match self.wait(key, &token, deadline).await {
                    Wait::Over => {}
                    Wait::TooLong => break Way::Split,
                    Wait::Unknown => break Way::Alone,
                },
            }
        };
        self.metrics.flight(way);
        Asked::Alone
    }

    /// Takes the lease if it is free, or is that of the token `over`, whose flight has ended. `left` stays when no one says how it ended.
    async fn take(&self, key: &str, word: &str, over: &str, left: Left) -> Taken {
        if !self.redis.is_up() {
            return Taken::Unknown;
        }
        let Ok(place) = self.held.clone().try_acquire_owned() else { return Taken::Unknown };
        let token = match &self.url {
            Some(url) => format!("{word} {url}"),
            None => word.to_owned(),
        };
        match self.redis.take(key, &token, over, LIFE).await {
            Ok(None) => {
                let (tell, told) = oneshot::channel();
                let keeper = Keeper { redis: self.redis.clone(), key: key.to_owned(), token, _place: place };
                self.runtime.spawn(keeper.keep(told));
                Taken::Mine(Lease { end: Arc::new(End { left: left.into(), tell: Some(tell) }) })
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
        self.ends(Left::Nothing);
    }

    fn ends(&self, left: Left) {
        *self.end.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}

impl Leading {
    /// Gives the other replicas what upstream said. `is_kept`: also those that ask within a few seconds, without having waited.
    pub fn publish(self, body: Bytes, is_kept: bool) {
        let Leading { lease, pending } = self;
        if is_kept {
            lease.ends(Left::Owner);
        }
        pending.publish(body);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            // The task ends by itself when the lease was lost.
            let _ = tell.send(*self.left.get_mut().unwrap_or_else(PoisonError::into_inner));
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
    async fn keep(self, mut told: oneshot::Receiver<Left>) {
        let deadline = Instant::now() + AGE_LIMIT;
        loop {
            tokio::select! {
                left = &mut told => {
                    let (word, span) = match left.unwrap_or(Left::Failure) {
                        Left::Nothing => ("", FAILED_FOR),
                        Left::Failure => (FAILED, FAILED_FOR),
                        Left::Owner => (&*self.token, KEPT_FOR),
                    };
                    // What is not released ends by itself.
                    let _ = self.redis.release(&self.key, &self.token, word, span).await;
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
