//! What upstream told one replica, kept for the other replicas that want to know the same.
//!
//! # What it guarantees
//! * The answer of a flight that has a lease goes to each replica that asks for it by the lease's token and the object's key: when the flight
//!   ends to those that wait, and for [`KEPT`] to those that come later. With it goes how long it had ended when the request came, by the
//!   clock of this replica alone, so that no replica's clock decides what is old.
//! * A flight that ended without an answer, or vanished, is gone at once: those that wait race for the lease.
//! * A token is of one flight. A token that is not known here is of a flight that is over, and who learns so may take the lease.
//!
//! # What it refuses to do
//! * It does not know what an answer means, nor whether it may be used. The replica that asked decides: it knows when its own flight began.
//! * It keeps no more than [`BYTES`], and no answer that is larger than [`LARGEST`]: then each replica asks upstream in its turn.
//!
//! # What breaks if a line is moved
//! * A flight is noted *before* its lease is taken. In the other order another replica could find the lease, ask for its token, learn that
//!   it is of no flight, and take the lease from an owner that has just begun.
//! * An answer is kept *before* the flight is no longer under way, or a request between the two would find neither.
//! * The key is compared with the token's: who can write to Redis could else have the answer for one tag given for another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// How long an answer is kept: as long as those that wait for the bucket do, and a little.
const KEPT: Duration = Duration::from_secs(30);

/// Bytes of all answers that are kept.
const BYTES: u64 = 64 << 20;

/// Bytes of one answer, about twice what a manifest may have.
pub(crate) const LARGEST: usize = 8 << 20;

/// How long a replica that asks waits here before it is told that the flight goes on. Shorter than a lease lasts, so that it soon learns
/// of an owner that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answers of one replica. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Answers {
    // Held for a map operation.
    under_way: Arc<Mutex<HashMap<Arc<str>, Flight>>>,
    kept: moka::sync::Cache<Arc<str>, Answer>,
    waiting: Gauge,
}

/// Counts one that waits, until it is dropped.
struct Waiter(Gauge);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug)]
struct Flight {
    key: Arc<str>,
    end: watch::Receiver<Option<Bytes>>,
}

#[derive(Clone, Debug)]
struct Answer {
    key: Arc<str>,
    body: Bytes,
    ended: Instant,
}

/// What the owner of a lease says of its flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It goes on. Ask again.
    UnderWay,
    /// It is over, and no answer of it is to be had.
    Gone,
    /// Its answer.
    Given {
        /// How long the flight had ended when it was asked for; zero when it had not.
        age: Duration,
        /// What the owner published.
        body: Bytes,
    },
}

/// A flight of this replica. When it is dropped before [`Pending::publish`], those that wait learn that there is no answer.
#[derive(Debug)]
pub(crate) struct Pending {
    answers: Answers,
    token: Arc<str>,
    key: Arc<str>,
    tell: watch::Sender<Option<Bytes>>,
}

impl Answers {
    /// None yet; `waiting` shows how many requests wait for one.
    pub(crate) fn new(waiting: Gauge) -> Answers {
        let size = |_: &Arc<str>, answer: &Answer| u32::try_from(answer.body.len() + 256).unwrap_or(u32::MAX);
        let kept = moka::sync::Cache::builder().max_capacity(BYTES).weigher(size).time_to_live(KEPT).build();
        Answers { under_way: Arc::default(), kept, waiting }
    }

    /// Notes a flight that is about to take its lease.
    pub(crate) fn begin(&self, token: &str, key: &str) -> Pending {
        let (tell, end) = watch::channel(None);
        let key: Arc<str> = key.into();
        let flight = Flight { key: key.clone(), end };
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(token.into(), flight);
        Pending { answers: self.clone(), token: token.into(), key, tell }
    }

    /// What is known of the flight with this token, which must be for this key. Waits for two seconds at most while it goes on.
    pub async fn wait(&self, token: &str, key: &str) -> Said {
        let flight = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned();
        let Some(mut flight) = flight else {
            return match self.kept.get(token).filter(|answer| *answer.key == *key) {
                Some(answer) => Said::Given { age: answer.ended.elapsed(), body: answer.body },
                None => Said::Gone,
            };
        };
        if *flight.key != *key {
            return Said::Gone;
        }
        self.waiting.inc();
        let _waiter = Waiter(self.waiting.clone());
        let ended = timeout(PATIENCE, flight.end.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(body)) => match &*body {
                Some(body) => Said::Given { age: Duration::ZERO, body: body.clone() },
                None => Said::Gone,
            },
            Ok(Err(_)) => Said::Gone,
            Err(_) => Said::UnderWay,
        }
    }
}

impl Said {
    /// As it is sent: a line, and the answer.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Said::UnderWay => b"under way\n".to_vec(),
            Said::Gone => b"gone\n".to_vec(),
            Said::Given { age, body } => {
                let mut bytes = format!("given {}\n", age.as_micros()).into_bytes();
                bytes.extend_from_slice(body);
                bytes
            }
        }
    }

    /// What was sent. `None` when it is nothing of this kind.
    pub fn parse(bytes: &Bytes) -> Option<Said> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        match std::str::from_utf8(bytes.get(..end)?).ok()? {
            "under way" => Some(Said::UnderWay),
            "gone" => Some(Said::Gone),
            line => {
                let micros = line.strip_prefix("given ")?.parse().ok()?;
                Some(Said::Given { age: Duration::from_micros(micros), body: bytes.slice(end + 1..) })
            }
        }
    }
}

impl Pending {
    /// Gives the answer to those that wait, and keeps it for those that come.
    pub(crate) fn publish(self, body: Bytes) {
        if body.len() > LARGEST {
            return;
        }
        let answer = Answer { key: self.key.clone(), body: body.clone(), ended: Instant::now() };
        self.answers.kept.insert(self.token.clone(), answer);
        self.tell.send_replace(Some(body));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.answers.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn who_waits_gets_the_answer_and_who_comes_later_its_age() {
        let answers = Answers::new(Gauge::default());
        let pending = answers.begin("token", "key");
        let mut waiting = pin!(answers.wait("token", "key"));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        pending.publish(Bytes::from_static(b"body"));
        let body = Bytes::from_static(b"body");
        assert_eq!(waiting.await, Said::Given { age: Duration::ZERO, body: body.clone() });
        let Said::Given { age, body: later } = answers.wait("token", "key").await else { panic!("it is kept") };
        assert!(age > Duration::ZERO && later == body, "{age:?}");
        assert_eq!(answers.wait("token", "another").await, Said::Gone, "it is the answer for another key");
        assert_eq!(answers.wait("another", "key").await, Said::Gone);
    }

    #[tokio::test]
    async fn a_flight_that_ends_without_an_answer_is_gone_for_those_that_wait() {
        let answers = Answers::new(Gauge::default());
        let pending = answers.begin("token", "key");
        let mut waiting = pin!(answers.wait("token", "key"));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(answers.wait("token", "another").await, Said::Gone, "it is a flight for another key");
        drop(pending);
        assert_eq!(waiting.await, Said::Gone);
        assert_eq!(answers.wait("token", "key").await, Said::Gone);
        let pending = answers.begin("large", "key");
        pending.publish(vec![0; LARGEST + 1].into());
        assert_eq!(answers.wait("large", "key").await, Said::Gone, "it is too large to be kept");
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let body = Bytes::from_static(b"a\nb");
        for age in [Duration::ZERO, Duration::from_micros(1), Duration::from_secs(20)] {
            for said in [Said::UnderWay, Said::Gone, Said::Given { age, body: body.clone() }] {
                assert_eq!(Said::parse(&said.to_bytes().into()), Some(said));
            }
        }
        for bad in ["", "\n", "given\n", "given -1\n", "given x\nbody", "under way", "gone away\n"] {
            assert_eq!(Said::parse(&Bytes::from(bad)), None, "{bad}");
        }
    }
}
