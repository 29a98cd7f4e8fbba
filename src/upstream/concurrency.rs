//! How many requests are under way at once: to one host, for bodies, and while upstream has not answered yet.
//!
//! Three bounds, taken in this order. Bodies of blobs, which last, may take most of a host's connections but leave some to
//! manifests and tokens. A host is never asked more than `concurrency` things at once; the permit lives in the body until
//! that ends. And requests that wait for headers start at four and grow by one with every answer while they are short of permits, as TCP
//! starts slowly: when upstream has begun to refuse us, four requests learn it and not all that were in line.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// Requests that may wait for headers at once, to begin with.
const START: usize = 4;
/// After so long without a request the start is slow again.
const IDLE: Duration = Duration::from_secs(1);
/// Hosts that are distinguished; further ones share the bound of the last. A registry has two or three.
const MAX_HOSTS: usize = 64;

/// What a request is, for the order in which it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Done as soon as it is answered.
    Short,
    /// A body that may last for hours.
    Body,
}

#[derive(Debug)]
pub(crate) struct ConcurrencyLimiter {
    concurrency: usize,
    queue: usize,
    waiting: AtomicUsize,
    bodies: Arc<Semaphore>,
    // Both are held for a few lines, never across an await.
    hosts: Mutex<HashMap<Box<str>, Arc<Semaphore>>>,
    opening: Arc<Semaphore>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    size: usize,
    used: Instant,
}

/// Permission to be under way; given back when it drops.
#[derive(Debug)]
pub(crate) struct Permits {
    opening: Option<OwnedSemaphorePermit>,
    _host: OwnedSemaphorePermit,
    _body: Option<OwnedSemaphorePermit>,
}

impl Permits {
    /// The headers are here: others may ask while the body goes on.
    pub(crate) fn opened(&mut self) {
        self.opening = None;
    }
}

impl ConcurrencyLimiter {
    pub(crate) fn new(concurrency: usize, queue: usize) -> ConcurrencyLimiter {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let size = START.min(concurrency);
        ConcurrencyLimiter {
            concurrency,
            queue,
            waiting: AtomicUsize::new(0),
            // One place in eight, and at least one if there are two, is never taken by a body.
            bodies: Arc::new(Semaphore::new((concurrency - (concurrency / 8).max(1)).max(1))),
            hosts: Mutex::default(),
            opening: Arc::new(Semaphore::new(size)),
            window: Mutex::new(Window { size, used: Instant::now() }),
        }
    }

    /// Waits for its turn, no longer than `patience`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when that is over or too many wait.
    pub(crate) async fn take(&self, host: &str, lane: Lane, patience: Duration) -> Result<Permits, Error> {
        let crowded = |why: &str| Error::Unavailable { reason: Arc::from(why), retry_after: Some(PAUSE) };
        let _waiting = Waiting::enter(&self.waiting, self.queue).ok_or_else(|| crowded("too many requests wait"))?;
        let permits = async {
            let body = match lane {
                Lane::Body => Some(self.bodies.clone().acquire_owned().await.ok()?),
                Lane::Short => None,
            };
            let host = self.host(host).acquire_owned().await.ok()?;
            self.start_slowly_after_a_pause();
            let opening = self.opening.clone().acquire_owned().await.ok()?;
            Some(Permits { opening: Some(opening), _host: host, _body: body })
        };
        match tokio::time::timeout(patience, permits).await {
            Ok(Some(permits)) => Ok(permits),
            _ => Err(crowded("all connections are taken")),
        }
    }

    /// Requests that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An answer came: if it was waited for, one more may wait at once.
    pub(crate) fn grow(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.used = Instant::now();
        if self.opening.available_permits() == 0 && window.size < self.concurrency {
            window.size += 1;
            self.opening.add_permits(1);
        }
    }

    fn start_slowly_after_a_pause(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = window.used.elapsed() > IDLE;
        window.used = Instant::now();
        drop(window);
        if idle {
            self.shrink();
        }
    }

    /// A refusal or a failure came: back to the slow start.
    pub(crate) fn shrink(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // What is out cannot be taken back; it shrinks with the next occasion.
        let surplus = window.size.saturating_sub(START.min(self.concurrency));
        window.size -= self.opening.forget_permits(surplus);
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = if hosts.len() < MAX_HOSTS || hosts.contains_key(host) { host } else { "" };
        hosts.entry(host.into()).or_insert_with(|| Arc::new(Semaphore::new(self.concurrency))).clone()
    }
}

/// What those are asked to wait who found no place.
const PAUSE: Duration = Duration::from_secs(2);

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, most: usize) -> Option<Waiting<'a>> {
        // One place more than may wait: the request that is served next is no queue.
        let room = |now: usize| (now <= most).then_some(now + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Waiting(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn bodies_never_take_the_last_connection() {
        let limiter = ConcurrencyLimiter::new(8, 100);
        let mut bodies = Vec::new();
        while let Ok(mut body) = limiter.take("a", Lane::Body, SOON).await {
            body.opened();
            bodies.push(body);
        }
        assert_eq!(bodies.len(), 7);
        assert!(limiter.take("a", Lane::Short, LONG).await.is_ok());
        assert!(limiter.take("b", Lane::Short, LONG).await.is_ok());
        bodies.pop();
        assert!(limiter.take("a", Lane::Body, LONG).await.is_ok());
    }

    #[tokio::test]
    async fn what_waits_for_headers_starts_at_four_and_grows_with_answers() {
        let limiter = ConcurrencyLimiter::new(32, 100);
        let mut open = Vec::new();
        while let Ok(permit) = limiter.take("a", Lane::Short, SOON).await {
            open.push(permit);
        }
        assert_eq!(open.len(), START);
        limiter.grow();
        open.push(limiter.take("a", Lane::Short, LONG).await.unwrap());
        assert!(limiter.take("a", Lane::Short, SOON).await.is_err());
        open.clear();
        limiter.shrink();
        while let Ok(permit) = limiter.take("a", Lane::Short, SOON).await {
            open.push(permit);
        }
        assert_eq!(open.len(), START);
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let limiter = Arc::new(ConcurrencyLimiter::new(1, 0));
        let held = limiter.take("a", Lane::Short, LONG).await.unwrap();
        let waiter = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.take("a", Lane::Short, LONG).await.is_ok() }
        });
        while limiter.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let refused = limiter.take("a", Lane::Short, LONG).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })));
        drop(held);
        assert!(waiter.await.unwrap());
    }
}
