//! What each client asked lately: its last requests, its bytes, and the images that it asked for most. For people to look at; nothing is
//! decided by it. Pure.
//!
//! Every request passes here, on every core, so clients are spread over shards, and a record costs one lock, one look-up and one string.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;

use super::time::rfc3339;
use crate::client::ClientKey;

const SHARDS: usize = 16;
/// Clients that are remembered, 1,024 in all. A new one takes the place of the one that has been silent for longest: what is lost is a
/// list for people, never an account.
const CLIENTS_PER_SHARD: usize = 64;
/// Requests that are remembered of a client: a screen of them. With paths of at most [`LONGEST`] bytes that is 7 MiB of all clients.
const REQUESTS: usize = 20;
/// Images that are counted of a client. The least asked for gives way to a new one, which begins with its count (space-saving, Metwally et
/// al. 2005), so that the first few are right when they stand out.
const IMAGES: usize = 12;
/// Bytes of a path, or of an image's name, that are kept.
const LONGEST: usize = 256;

/// One request, as the access log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecentRequest {
    /// When its last byte was sent.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub at: SystemTime,
    /// Of HTTP.
    pub method: &'static str,
    /// Without the query; printable, at most 256 bytes of it.
    pub path: Box<str>,
    /// The registry that `ns=` names.
    pub ns: Option<Box<str>>,
    /// Of HTTP; 499 when the client left before it was answered.
    pub status: u16,
    /// Of the body, that were sent.
    pub bytes: u64,
    /// Until the last byte.
    pub milliseconds: u64,
    /// How the answer came about.
    pub cache: Option<&'static str>,
    /// What refused it.
    pub rule: Option<Box<str>>,
}

/// What one client asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientRecord {
    /// Its first request that is counted here.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub since: SystemTime,
    /// Its last one.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub last: SystemTime,
    /// All of them.
    pub requests: u64,
    /// Those answered 403 or 429.
    pub refused: u64,
    /// Bytes sent to it.
    pub bytes: u64,
    /// The last ones, the newest first.
    pub recent: VecDeque<RecentRequest>,
    /// Images by name, and how often their manifests were asked for, the most first. The counts of the last may be too high.
    pub images: Vec<(Box<str>, u64)>,
}

impl ClientRecord {
    fn new(now: SystemTime) -> ClientRecord {
        ClientRecord {
            since: now,
            last: now,
            requests: 0,
            refused: 0,
            bytes: 0,
            recent: VecDeque::new(),
            images: Vec::new(),
        }
    }

    fn add(&mut self, request: RecentRequest, image: Option<&str>) {
        self.last = request.at;
        self.requests += 1;
        self.refused += u64::from(matches!(request.status, 403 | 429));
        self.bytes += request.bytes;
        if let Some(image) = image {
            self.count(image);
        }
        self.recent.truncate(REQUESTS - 1);
        self.recent.push_front(request);
    }

    fn count(&mut self, image: &str) {
        let image = cut(image);
        if let Some((_, count)) = self.images.iter_mut().find(|(known, _)| &**known == image) {
            *count += 1;
        } else if self.images.len() < IMAGES {
            self.images.push((image.into(), 1));
        } else if let Some((known, count)) = self.images.iter_mut().min_by_key(|(_, count)| *count) {
            (*known, *count) = (image.into(), *count + 1);
        }
    }
}

/// At most [`LONGEST`] bytes of a text, at a boundary of characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

/// The records of all clients.
#[derive(Debug, Default)]
pub(super) struct RecentClients {
    shards: [Mutex<HashMap<ClientKey, ClientRecord>>; SHARDS],
    hasher: RandomState,
}

impl RecentClients {
    /// A request has ended. `image` is what its manifest was asked by, if it was for one.
    pub(super) fn record(&self, client: &ClientKey, mut request: RecentRequest, image: Option<&str>) {
        if request.path.len() > LONGEST {
            request.path = cut(&request.path).into();
        }
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = shard.get_mut(client) {
            record.add(request, image);
            return;
        }
        if shard.len() >= CLIENTS_PER_SHARD {
            let silent = shard.iter().min_by_key(|(_, record)| record.last).map(|(client, _)| client.clone());
            silent.and_then(|silent| shard.remove(&silent));
        }
        let mut record = ClientRecord::new(request.at);
        record.add(request, image);
        shard.insert(client.clone(), record);
    }

    /// What a client asked, with its images sorted.
    pub(super) fn get(&self, client: &ClientKey) -> Option<ClientRecord> {
        let mut record = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner).get(client).cloned()?;
        record.images.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        Some(record)
    }

    /// Every client that is remembered, with its requests and bytes.
    pub(super) fn all(&self) -> Vec<(ClientKey, u64, u64)> {
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        let of = |(client, record): (&ClientKey, &ClientRecord)| (client.clone(), record.requests, record.bytes);
        shards.flat_map(|shard| shard.iter().map(of).collect::<Vec<_>>()).collect()
    }

    fn shard(&self, client: &ClientKey) -> &Mutex<HashMap<ClientKey, ClientRecord>> {
        &self.shards[(self.hasher.hash_one(client) as usize) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn request(seconds: u64, path: &str, status: u16) -> RecentRequest {
        RecentRequest {
            at: at(seconds),
            method: "GET",
            path: path.into(),
            ns: None,
            status,
            bytes: 10,
            milliseconds: 1,
            cache: Some("hit"),
            rule: None,
        }
    }

    fn client(number: u32) -> ClientKey {
        ClientKey::Address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn a_client_has_its_last_requests_its_bytes_and_the_images_it_asks_for_most() {
        let all = RecentClients::default();
        for number in 0..100 {
            all.record(&client(1), request(number, &format!("/v2/{number}"), 200), Some("a/often:1"));
            all.record(&client(1), request(number, "/v2/x", 429), Some(&format!("a/once-{number}:1")));
        }
        let record = all.get(&client(1)).unwrap();
        assert_eq!((record.requests, record.refused, record.bytes), (200, 100, 2000));
        assert_eq!((record.since, record.last), (at(0), at(99)));
        assert_eq!(record.recent.len(), REQUESTS);
        assert_eq!((&*record.recent[0].path, &*record.recent[1].path), ("/v2/x", "/v2/99"));
        assert_eq!(record.images[0], ("a/often:1".into(), 100));
        assert_eq!(record.images.len(), IMAGES);
        assert_eq!(all.get(&client(2)), None);
    }

    #[test]
    fn what_is_kept_has_a_bound_however_many_clients_there_are_and_whatever_they_ask() {
        let all = RecentClients::default();
        let long = "é".repeat(10_000);
        for number in 0..5000 {
            all.record(&client(number), request(u64::from(number), &long, 200), Some(&long));
        }
        let kept = all.all();
        assert!(kept.len() <= SHARDS * CLIENTS_PER_SHARD, "{}", kept.len());
        let record = all.get(&client(4999)).expect("the newest is there");
        assert_eq!((record.recent[0].path.len(), record.images[0].0.len()), (LONGEST, LONGEST));
        assert_eq!(all.get(&client(0)), None, "the one that was silent for longest has gone");
    }
}
