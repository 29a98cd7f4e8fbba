//! Who pulled what, and when: a bounded record that outlives the process.
//!
//! A pull is a GET of a manifest, as Docker Hub counts it. One by digest counts for every tag of its repository that names the digest
//! then, and for the digest when there is none. What is noted is written 10 s later at most, so a kill forgets so much of it,
//! and a power cut some of the files.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    cache::{Inventory, Repository},
    capacity::seconds,
    files::Files,
    oci::{Digest, Reference, Tag},
};

/// Threads that note pulls each have their own map, up to so many.
const SHARDS: usize = 16;
/// References that a thread notes between two drains, a second apart; more are not counted.
const NOTED: usize = 8192;
/// Files of the record. Only those are written in which something changed.
const PARTS: usize = 256;
/// References that each part remembers: 262,144 in all, of about 250 bytes. The ones that were pulled longest ago are forgotten.
const REMEMBERED: usize = 1024;
/// The last clients that are remembered of a reference.
const CLIENTS: usize = 5;

/// The client of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Puller {
    /// Anonymous: the bits of its IPv6 address, into which that of IPv4 is mapped. Storage knows no network.
    Address(u128),
    /// The name of its account.
    Account(std::sync::Arc<str>),
}

/// How an image was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// When it was last pulled.
    pub last: SystemTime,
    /// How often, as far as that is remembered.
    pub pulls: u64,
    /// The clients that pulled it last and when each did, the newest first; five at most.
    pub clients: Vec<(Puller, SystemTime)>,
}

/// What is remembered of a reference. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    last: u32,
    pulls: u32,
    clients: Vec<(Puller, u32)>,
}

impl Record {
    fn add(&mut self, more: &Record) {
        self.last = self.last.max(more.last);
        self.pulls = self.pulls.saturating_add(more.pulls);
        for (client, at) in &more.clients {
            self.add_client(client, *at);
        }
    }

    fn add_client(&mut self, client: &Puller, at: u32) {
        if let Some((_, last)) = self.clients.iter_mut().find(|(known, _)| known == client) {
            *last = at.max(*last);
        } else if self.clients.len() < CLIENTS {
            self.clients.push((client.clone(), at));
        } else if let Some(oldest) =
            self.clients.iter_mut().min_by_key(|(_, last)| *last).filter(|(_, last)| *last <= at)
        {
            *oldest = (client.clone(), at);
        }
    }
}

type Key = (Repository, Reference);

#[derive(Debug, Default)]
struct Part {
    records: HashMap<Key, Record>,
    changed: bool,
}

/// A line of a part's file: upstream, repository, reference, record.
type Line = (String, String, String, Record);

/// The record of pulls.
#[derive(Debug)]
pub(crate) struct Pulls {
    noted: Vec<Mutex<HashMap<Key, Record>>>,
    // Each held for a few map operations, or for one copy.
    parts: Vec<Mutex<Part>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same in every process, since it names the file.
fn part_of((repository, reference): &Key) -> usize {
    let mut sum = crc32fast::Hasher::new();
    sum.update(repository.upstream.as_bytes());
    sum.update(repository.name.as_str().as_bytes());
    sum.update(reference.to_string().as_bytes());
    sum.finalize() as usize % PARTS
}

impl Pulls {
    pub(crate) fn new() -> Pulls {
        Pulls {
            noted: (0..SHARDS).map(|_| Mutex::default()).collect(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Notes a pull. Costs one lock that only this thread takes, but once a second.
    pub(crate) fn note(&self, key: Key, client: &Puller, now: SystemTime) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut noted = lock(&self.noted[MINE.get() % SHARDS]);
        if noted.len() >= NOTED && !noted.contains_key(&key) {
            return;
        }
        let (record, now) = (noted.entry(key).or_default(), seconds(now));
        record.last = record.last.max(now);
        record.pulls = record.pulls.saturating_add(1);
        record.add_client(client, now);
    }

    /// Takes what was noted into the record.
    pub(crate) fn drain(&self, inventory: &Inventory) {
        for shard in &self.noted {
            let noted = mem::take(&mut *lock(shard));
            let mut by_digest: HashMap<Repository, HashMap<Digest, Record>> = HashMap::new();
            for ((repository, reference), record) in noted {
                match reference {
                    Reference::Tag(_) => self.add((repository, reference), &record),
                    Reference::Digest(digest) => drop(by_digest.entry(repository).or_default().insert(digest, record)),
                }
            }
            for (repository, records) in by_digest {
                let wanted: HashSet<&Digest> = records.keys().collect();
                let tags = inventory.read().tags_of(&repository, &wanted);
                let named: HashSet<&Digest> = tags.iter().map(|(_, digest)| digest).collect();
                for (digest, record) in records.iter().filter(|(digest, _)| !named.contains(digest)) {
                    self.add((repository.clone(), Reference::Digest(digest.clone())), record);
                }
                for (tag, digest) in &tags {
                    if let Some(record) = records.get(digest) {
                        self.add((repository.clone(), Reference::Tag(tag.clone())), record);
                    }
                }
            }
        }
    }

    fn add(&self, key: Key, record: &Record) {
        let mut part = lock(&self.parts[part_of(&key)]);
        part.records.entry(key).or_default().add(record);
        part.changed = true;
        if part.records.len() > REMEMBERED {
            // A sixteenth at once, so that it is not done at each pull.
            let mut ages: Vec<u32> = part.records.values().map(|record| record.last).collect();
            let (_, oldest, _) = ages.select_nth_unstable(REMEMBERED / 16);
            let (oldest, mut left) = (*oldest, REMEMBERED / 16);
            part.records.retain(|_, record| {
                let goes = record.last <= oldest && left > 0;
                left -= usize::from(goes);
                !goes
            });
        }
    }

    /// What is remembered of a tag and of the digest that it names.
    pub(crate) fn of(&self, repository: &Repository, tag: Option<&Tag>, digest: &Digest) -> Option<Pulled> {
        let mut found = Record::default();
        for reference in tag.cloned().map(Reference::Tag).into_iter().chain([Reference::Digest(digest.clone())]) {
            let key = (repository.clone(), reference);
            if let Some(record) = lock(&self.parts[part_of(&key)]).records.get(&key) {
                found.add(record);
            }
        }
        let at = |at: u32| UNIX_EPOCH + Duration::from_secs(at.into());
        found.clients.sort_by_key(|(_, last)| std::cmp::Reverse(*last));
        let clients = found.clients.into_iter().map(|(client, last)| (client, at(last))).collect();
        (found.pulls > 0).then(|| Pulled { last: at(found.last), pulls: found.pulls.into(), clients })
    }

    /// Takes up what an earlier process wrote. A file that cannot be read costs what is in it.
    pub(crate) fn load(&self, files: &Files) {
        for part in 0..PARTS {
            let lines: Vec<Line> = match files.read_record(&files.layout.pulls(part)) {
                Ok(lines) => lines.unwrap_or_default(),
                Err(error) => {
                    warn!(%error, "a part of the record of pulls cannot be read");
                    continue;
                }
            };
            for (upstream, name, reference, record) in lines {
                if let (Ok(name), Ok(reference)) = (name.parse(), reference.parse()) {
                    self.add((Repository { upstream: upstream.into(), name }, reference), &record);
                }
            }
            lock(&self.parts[part]).changed = false;
        }
    }

    /// Writes what changed. What cannot be written is tried again the next time.
    pub(crate) fn write(&self, files: &Files) {
        for (number, part) in self.parts.iter().enumerate() {
            let lines: Vec<Line> = {
                let mut part = lock(part);
                if !mem::take(&mut part.changed) {
                    continue;
                }
                let line = |((repository, reference), record): (&Key, &Record)| {
                    let Repository { upstream, name } = repository;
                    (upstream.to_string(), name.to_string(), reference.to_string(), record.clone())
                };
                part.records.iter().map(line).collect()
            };
            if let Err(error) = files.write_record(&files.layout.pulls(number), &lines) {
                lock(part).changed = true;
                warn!(%error, "the record of pulls cannot be written; trying again");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Source, Store, oci::Algorithm};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn client(last: u8) -> Puller {
        Puller::Address(u128::MAX - u128::from(last))
    }

    fn store(root: &std::path::Path) -> Store {
        let store = Store::open(Settings { root: root.to_owned(), ..Settings::default() }).unwrap();
        while !store.images.is_complete() {
            std::thread::yield_now();
        }
        store
    }

    #[tokio::test]
    async fn pulls_are_counted_by_tag_and_are_there_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let first = store(root.path());
        let (digest, other) = (Algorithm::Sha256.digest(b"image"), Algorithm::Sha256.digest(b"platform"));
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "a/b".parse().unwrap(),
        };
        let repository = Repository::from(&source);
        let [one, two]: [Tag; 2] = ["1", "2"].map(|tag| tag.parse().unwrap());
        for tag in [&one, &two] {
            first.cache.inventory.tag(&source, tag, &digest, at(1), false);
        }
        let note = |reference, last, seconds| {
            first.images.note_pull(repository.clone(), reference, &client(last), at(seconds));
        };
        note(Reference::Tag(one.clone()), 1, 1000);
        note(Reference::Digest(digest.clone()), 2, 2000);
        note(Reference::Digest(other.clone()), 3, 3000);
        first.images.pulls.drain(&first.cache.inventory);
        let pulled = |store: &Store, tag: Option<&Tag>, digest| {
            let found = store.images.pulls.of(&repository, tag, digest).unwrap();
            let clients: Vec<_> = found.clients.into_iter().map(|(client, at)| (client, seconds(at))).collect();
            (seconds(found.last), found.pulls, clients)
        };
        let check = |store: &Store| {
            let (early, late) = ((client(1), 1000), (client(2), 2000));
            assert_eq!(pulled(store, Some(&one), &digest), (2000, 2, vec![late.clone(), early]));
            assert_eq!(pulled(store, Some(&two), &digest), (2000, 1, vec![late]), "by digest it counts for each tag");
            assert_eq!(pulled(store, None, &other), (3000, 1, vec![(client(3), 3000)]));
            assert_eq!(store.images.pulls.of(&repository, None, &digest), None, "the tags have it");
        };
        check(&first);
        let names = |since| first.images.pulled_since(at(since)).iter().map(|image| image.name()).collect::<Vec<_>>();
        assert_eq!(names(2000), ["docker.io/a/b:1", "docker.io/a/b:2"]);
        assert_eq!(names(2001), Vec::<String>::new(), "a platform is no image");
        first.close().await;
        drop(first);
        check(&store(root.path()));
    }

    #[test]
    fn the_last_clients_and_the_last_references_are_remembered() {
        let pulls = Pulls::new();
        let repository = Repository { upstream: "docker.io".into(), name: "a/b".parse().unwrap() };
        let tag = |number: usize| -> Tag { format!("v{number}").parse().unwrap() };
        let inventory = Inventory::default();
        let some = Algorithm::Sha256.digest(b"");
        for last in 1..=7 {
            pulls.note((repository.clone(), Reference::Tag(tag(0))), &client(last), at(u64::from(last)));
        }
        pulls.drain(&inventory);
        let found = pulls.of(&repository, Some(&tag(0)), &some).unwrap();
        let clients: Vec<_> = found.clients.iter().map(|(client, _)| client.clone()).collect();
        assert_eq!((found.pulls, clients), (7, (3..=7).rev().map(client).collect()));
        let most = PARTS * REMEMBERED;
        for number in 1..=most + most / 4 {
            pulls.add(
                (repository.clone(), Reference::Tag(tag(number))),
                &Record { last: number as u32, pulls: 1, clients: vec![] },
            );
        }
        let kept: usize = pulls.parts.iter().map(|part| lock(part).records.len()).sum();
        assert!(kept <= most && kept > most * 3 / 4, "{kept}");
        assert!(pulls.of(&repository, Some(&tag(most + most / 4)), &some).is_some());
        assert!(
            pulls.of(&repository, Some(&tag(8)), &some).is_none(),
            "the ones that were pulled longest ago are forgotten"
        );
    }
}
