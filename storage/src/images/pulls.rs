//! Who pulled what, and when: a bounded record that outlives the process.
//!
//! A pull is a GET of a manifest, as Docker Hub counts it. One by digest counts for every tag of its repository that names the digest
//! then, and for the digest when there is none. What is noted is written 10 s later at most, so a kill forgets so much of it,
//! and a power cut some of the files.
//!
//! A record has a fixed size: a hash stands for the name, since a name is only ever looked up, and a number for the client.

mod clients;

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use tracing::warn;

pub use self::clients::Puller;
use self::clients::{CLIENTS, Clients, Last};
use crate::{
    cache::{Inventory, Repository},
    capacity::seconds,
    files::Files,
    oci::{Algorithm, Digest, Reference, Tag},
};

/// Threads that note pulls each have their own map, up to so many.
const SHARDS: usize = 16;
/// References that a thread notes between two drains, a second apart; more are not counted.
const NOTED: usize = 8192;
/// Files of the record. Only those are written in which something changed.
const PARTS: usize = 256;
/// References that each part remembers: 262,144 in all, of about 100 bytes. The ones that were pulled longest ago are forgotten.
const REMEMBERED: usize = 1024;

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

/// What was noted of a reference. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    last: u32,
    pulls: u32,
    clients: Vec<(Puller, u32)>,
}

impl Noted {
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

/// What is remembered of a reference.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    last: u32,
    pulls: u32,
    clients: Last,
}

/// The first half of the SHA-256 of upstream, repository and reference: no two that anybody made share one.
type Hash = u128;
type Key = (Repository, Reference);

fn hash_of(repository: &Repository, reference: &Reference) -> Hash {
    let mut hasher = Algorithm::Sha256.hasher();
    // Neither an upstream nor a repository has a zero byte in it, nor has a tag.
    hasher.update(repository.upstream.as_bytes());
    hasher.update(b"\0");
    hasher.update(repository.name.as_str().as_bytes());
    hasher.update(b"\0");
    match reference {
        Reference::Tag(tag) => hasher.update(tag.as_str().as_bytes()),
        Reference::Digest(digest) => {
            hasher.update(b"\0");
            hasher.update(digest.bytes());
        }
    }
    hasher.finish().bytes().iter().take(16).fold(0, |sum, byte| sum << 8 | Hash::from(*byte))
}

/// The same in every process, since it names the file.
fn part_of(hash: Hash) -> usize {
    hash as usize % PARTS
}

#[derive(Debug, Default)]
struct Part {
    records: HashMap<Hash, Record, RandomState>,
    changed: bool,
}

/// A line of a part's file: the hash in hexadecimal, and what is remembered.
type Line = (String, Noted);

/// The record of pulls.
#[derive(Debug)]
pub(crate) struct Pulls {
    noted: Vec<Mutex<HashMap<Key, Noted>>>,
    // Each held for a few map operations, or for one copy. The clients are locked first.
    parts: Vec<Mutex<Part>>,
    clients: RwLock<Clients>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

impl Pulls {
    pub(crate) fn new() -> Pulls {
        Pulls {
            noted: (0..SHARDS).map(|_| Mutex::default()).collect(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            clients: RwLock::default(),
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
            let mut by_digest: HashMap<Repository, HashMap<Digest, Noted>> = HashMap::new();
            for ((repository, reference), record) in noted {
                match reference {
                    Reference::Tag(_) => self.add(hash_of(&repository, &reference), &record),
                    Reference::Digest(digest) => drop(by_digest.entry(repository).or_default().insert(digest, record)),
                }
            }
            for (repository, records) in by_digest {
                let wanted: HashSet<&Digest> = records.keys().collect();
                let tags = inventory.read().tags_of(&repository, &wanted);
                let named: HashSet<&Digest> = tags.iter().map(|(_, digest)| digest).collect();
                for (digest, record) in records.iter().filter(|(digest, _)| !named.contains(digest)) {
                    self.add(hash_of(&repository, &Reference::Digest(digest.clone())), record);
                }
                for (tag, digest) in &tags {
                    if let Some(record) = records.get(digest) {
                        self.add(hash_of(&repository, &Reference::Tag(tag.clone())), record);
                    }
                }
            }
        }
    }

    fn add(&self, hash: Hash, noted: &Noted) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        if clients.is_full() {
            self.forget_clients(&mut clients);
        }
        let mut part = lock(&self.parts[part_of(hash)]);
        let record = part.records.entry(hash).or_default();
        record.last = record.last.max(noted.last);
        record.pulls = record.pulls.saturating_add(noted.pulls);
        for (client, at) in &noted.clients {
            if let Some(number) = clients.number(client) {
                record.clients.add(number, *at);
            }
        }
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

    /// Forgets the clients that no record names, and of the others those that pulled longest ago, so that there is space for more.
    fn forget_clients(&self, clients: &mut Clients) {
        let records = |visit: &mut dyn FnMut(&mut Record)| {
            self.parts.iter().for_each(|part| lock(part).records.values_mut().for_each(&mut *visit));
        };
        let mut last = clients.never();
        records(&mut |record| record.clients.iter().for_each(|(number, at)| last.note(number, at)));
        let gone = clients.forget(&last);
        records(&mut |record| record.clients.retain(|number| !gone.contains(&number)));
    }

    fn find(&self, repository: &Repository, tag: Option<&Tag>, digest: &Digest, mut take: impl FnMut(&Record)) {
        for reference in tag.cloned().map(Reference::Tag).into_iter().chain([Reference::Digest(digest.clone())]) {
            let hash = hash_of(repository, &reference);
            if let Some(record) = lock(&self.parts[part_of(hash)]).records.get(&hash) {
                take(record);
            }
        }
    }

    /// When a tag or the digest that it names was last pulled. Half the price of [`Pulls::of`].
    pub(crate) fn last(&self, repository: &Repository, tag: Option<&Tag>, digest: &Digest) -> Option<SystemTime> {
        let mut last = None;
        self.find(repository, tag, digest, |record| last = last.max(Some(record.last)));
        last.map(at)
    }

    /// What is remembered of a tag and of the digest that it names.
    pub(crate) fn of(&self, repository: &Repository, tag: Option<&Tag>, digest: &Digest) -> Option<Pulled> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = Record::default();
        self.find(repository, tag, digest, |record| {
            found.last = found.last.max(record.last);
            found.pulls = found.pulls.saturating_add(record.pulls);
            record.clients.iter().for_each(|(number, at)| found.clients.add(number, at));
        });
        let mut named: Vec<(Puller, u32)> = clients.named(&found.clients);
        named.sort_by_key(|(_, last)| std::cmp::Reverse(*last));
        let clients = named.into_iter().map(|(client, last)| (client, at(last))).collect();
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
            for (hash, noted) in lines {
                if let Ok(hash) = Hash::from_str_radix(&hash, 16) {
                    self.add(hash, &noted);
                }
            }
            lock(&self.parts[part]).changed = false;
        }
    }

    /// Writes what changed. What cannot be written is tried again the next time.
    pub(crate) fn write(&self, files: &Files) {
        for (number, part) in self.parts.iter().enumerate() {
            let lines: Vec<Line> = {
                let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
                let mut part = lock(part);
                if !mem::take(&mut part.changed) {
                    continue;
                }
                let line = |(hash, record): (&Hash, &Record)| {
                    let Record { last, pulls, clients: known } = *record;
                    (format!("{hash:032x}"), Noted { last, pulls, clients: clients.named(&known) })
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
    use crate::{Settings, Source, Store};

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
    fn a_client_of_the_last_pulls_is_known_however_many_there_were_before() {
        let (pulls, repository) = (Pulls::new(), Repository::hosted("a/b".parse().unwrap()));
        let hash = |tag: u32| hash_of(&repository, &Reference::Tag(format!("v{tag}").parse().unwrap()));
        let clients = 200_000;
        for number in 1..=clients {
            let client = Puller::Address(number.into());
            pulls.add(hash(number % 20_000), &Noted { last: number, pulls: 1, clients: vec![(client, number)] });
        }
        let of = |tag: u32| {
            let tag = format!("v{tag}").parse().unwrap();
            pulls.of(&repository, Some(&tag), &Algorithm::Sha256.digest(b"")).unwrap()
        };
        let pulled = of(clients % 20_000);
        assert_eq!((pulled.pulls, &pulled.clients[0]), (10, &(Puller::Address(clients.into()), at(clients))));
        // Whatever number was given again, it is the client's whose pull it was.
        for tag in 0..20_000 {
            let is_own = |(client, last): &(Puller, SystemTime)| *client == Puller::Address(seconds(*last).into());
            assert!(of(tag).clients.iter().all(is_own), "{tag}");
        }
    }

    #[test]
    fn the_last_clients_and_the_last_references_are_remembered() {
        let pulls = Pulls::new();
        let repository = Repository { upstream: "docker.io".into(), name: "a/b".parse().unwrap() };
        let tag = |number: usize| -> Tag { format!("v{number}").parse().unwrap() };
        let inventory = Inventory::default();
        let some = Algorithm::Sha256.digest(b"");
        for last in 1..=7 {
            pulls.note((repository.clone(), Reference::Tag(tag(0))), &client(last), at(u32::from(last)));
        }
        pulls.drain(&inventory);
        let found = pulls.of(&repository, Some(&tag(0)), &some).unwrap();
        let clients: Vec<_> = found.clients.iter().map(|(client, _)| client.clone()).collect();
        assert_eq!((found.pulls, clients), (7, (3..=7).rev().map(client).collect()));
        let most = PARTS * REMEMBERED;
        for number in 1..=most + most / 4 {
            let noted = Noted { last: number as u32, pulls: 1, clients: vec![] };
            pulls.add(hash_of(&repository, &Reference::Tag(tag(number))), &noted);
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
