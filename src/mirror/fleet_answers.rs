//! What upstream tells one replica of a fleet, told to the others that want to know the same.
//!
//! # What it guarantees
//! * While Redis answers and the replicas reach one another, one of them at a time asks upstream what a tag names, for a list, or for
//!   referrers. The others wait for what it is told, and act on it as if it had been said to them: success, absence and failure alike.
//! * A failure is given only to flights that had begun when it came. Who asks after that asks upstream, as within one process. What was
//!   found, or found absent, is also given to those who come a few seconds later, while they would take it from their own cache.
//! * Right by right: a flight of clients that may read what only accounts may read has a key of its own, and an answer that was had with an
//!   account is used only where this client may have what that account reads.
//! * A manifest is hashed before it is believed. The rest is believed because a replica of the fleet said it: `weir_shared::PeerSecret` says
//!   what that is worth.
//! * Without `[shared.peers]` the work is done as if this were not here.
//!
//! # What it refuses to do
//! * It shares no refusal that is one client's own, for want of budget or by a throttle, and no failure of a replica's disk: the others race
//!   for the lease, and each flight is admitted for its own client.
//! * It waits for another replica no longer than `shared.redis.follow`. Then, and when Redis is away, this replica asks for itself.
//!
//! # What breaks if a line is moved
//! * It runs within a flight: after this replica's own cache was looked into, or what is here would be waited for; and inside the negative
//!   cache, or an absence that another replica was told of would be asked for again by this one.
//! * The answer is published *after* the owner's work, and before the lease goes. In the other order a replica that finds the lease free
//!   asks upstream once more.

use std::{fmt::Display, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weir_shared::{Asked, Flight, Tier, Told};
use weir_storage::Source;

use super::{error::Error, handles::Handles, lookup::Lookup, peers::Peers};

/// What the other replicas are told, and tell. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct FleetAnswers(Option<(Tier, Peers)>);

/// What goes from one replica to another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<T> {
    Found(T),
    NameUnknown,
    ManifestUnknown,
    Limited { retry_after: Duration, message: Arc<str> },
    Unavailable { retry_after: Option<Duration>, message: Arc<str> },
    Malformed { message: Arc<str> },
}

impl FleetAnswers {
    pub(super) fn new(handles: &Handles) -> FleetAnswers {
        FleetAnswers(handles.sources.tier.clone().zip(handles.peers.clone()))
    }

    /// What another flight of the fleet was told of `object` when it was asked for in the way of `kind`, if `is_usable`; else the outcome of
    /// `work`, which asks upstream. `is_usable` is asked of what was found, with whether it is to be fresh; `absent_for` is how long an
    /// absence is believed.
    pub(super) async fn ask<T>(
        &self,
        (kind, lookup, object): (&'static str, &Lookup, &(dyn Display + Sync)),
        absent_for: Duration,
        is_usable: impl Fn(&T, bool) -> bool,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        let Some((tier, peers)) = &self.0 else { return work.await };
        let flight = Flight::answer(kind, &lookup.upstream, &lookup.repository, lookup.may_read_private(), object);
        let accept = |told: Told| {
            let outcome = read::<T>(&told.body)?;
            let may_use = match &outcome {
                Ok(found) => is_usable(found, !told.is_shared),
                Err(error) => told.is_shared || error.is_absence() && told.age < absent_for,
            };
            may_use.then_some(outcome)
        };
        let asked = Box::pin(tier.ask(&flight, |owner, question| peers.told(owner, question), accept));
        match asked.await {
            Asked::Told(outcome) => outcome,
            Asked::Lead(leading) => {
                let outcome = work.await;
                let (body, outcome) = written(outcome);
                if let Some(body) = body {
                    let is_kept = outcome.as_ref().map_or_else(Error::is_absence, |_| true);
                    leading.publish(body.into(), is_kept);
                }
                outcome
            }
            Asked::Alone => work.await,
        }
    }
}

/// The source of an answer that was had with this credential, if this client may have what that reads.
pub(super) fn source_of(mut readable: impl Iterator<Item = Source>, credential: &str) -> Option<Source> {
    readable.find(|source| *source.credential == *credential)
}

/// The outcome as the other replicas get it, and itself; `None` of what is not shared.
fn written<T: Serialize>(outcome: Result<T, Error>) -> (Option<Vec<u8>>, Result<T, Error>) {
    let failure = match &outcome {
        Ok(_) => None,
        Err(Error::NameUnknown) => Some(Outcome::NameUnknown),
        Err(Error::ManifestUnknown) => Some(Outcome::ManifestUnknown),
        Err(Error::UpstreamLimited { retry_after, message }) => {
            Some(Outcome::Limited { retry_after: *retry_after, message: message.clone() })
        }
        Err(Error::UpstreamUnavailable { retry_after, message }) => {
            Some(Outcome::Unavailable { retry_after: *retry_after, message: message.clone() })
        }
        Err(Error::UpstreamMalformed { message }) => Some(Outcome::Malformed { message: message.clone() }),
        Err(Error::BlobUnknown | Error::BudgetSpent { .. } | Error::Throttled(_) | Error::Internal) => {
            return (None, outcome);
        }
    };
    let body = match (&outcome, failure) {
        (Ok(found), _) => serde_json::to_vec(&Outcome::Found(found)),
        (_, Some(failure)) => serde_json::to_vec::<Outcome<()>>(&failure),
        (_, None) => return (None, outcome),
    };
    (body.ok(), outcome)
}

/// What another replica wrote. `None` when it is nothing of this kind, as from one of another version.
fn read<T: DeserializeOwned>(body: &[u8]) -> Option<Result<T, Error>> {
    Some(match serde_json::from_slice(body).ok()? {
        Outcome::Found(found) => Ok(found),
        Outcome::NameUnknown => Err(Error::NameUnknown),
        Outcome::ManifestUnknown => Err(Error::ManifestUnknown),
        Outcome::Limited { retry_after, message } => Err(Error::UpstreamLimited { retry_after, message }),
        Outcome::Unavailable { retry_after, message } => Err(Error::UpstreamUnavailable { retry_after, message }),
        Outcome::Malformed { message } => Err(Error::UpstreamMalformed { message }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: Result<u8, Error>) -> Option<Result<u8, Error>> {
        read(&written(outcome).0?)
    }

    #[test]
    fn other_replicas_are_told_what_upstream_said_and_no_refusal_that_is_one_clients_own() {
        let message: Arc<str> = "it answered 502".into();
        let retry_after = Duration::from_secs(7);
        assert!(matches!(told(Ok(7)), Some(Ok(7))));
        assert!(matches!(told(Err(Error::NameUnknown)), Some(Err(Error::NameUnknown))));
        assert!(matches!(told(Err(Error::ManifestUnknown)), Some(Err(Error::ManifestUnknown))));
        let limited = told(Err(Error::UpstreamLimited { retry_after, message: message.clone() }));
        assert!(matches!(limited, Some(Err(Error::UpstreamLimited { retry_after: after, message: said }))
            if after == retry_after && said == message));
        let away = told(Err(Error::UpstreamUnavailable { retry_after: Some(retry_after), message: message.clone() }));
        assert!(matches!(away, Some(Err(Error::UpstreamUnavailable { retry_after: Some(after), message: said }))
            if after == retry_after && said == message));
        let wrong = told(Err(Error::UpstreamMalformed { message: message.clone() }));
        assert!(matches!(wrong, Some(Err(Error::UpstreamMalformed { message: said })) if said == message));
        let spent = Error::BudgetSpent { retry_after, message, rule: "budget_exhausted", retry_alone: false };
        assert!(told(Err(spent)).is_none() && told(Err(Error::Internal)).is_none());
        assert!(read::<u8>(b"{\"found\":\"x\"}").is_none() && read::<u8>(b"").is_none());
    }
}
