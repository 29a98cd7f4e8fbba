//! A mirror in this process, in front of a Docker Hub on loopback, without the HTTP in between.

use std::{future::poll_fn, path::Path, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use weir::{
    client::Client,
    limits::{Limits, LimitsConfig},
    mirror::{Cost, Extent, Lookup, Mirror, Reader, Repository, Settings, Stopped},
    upstream::{self, Account, Ledger, Upstream},
};
use weir_conformance::hub::{self, Hub, Image, Spec};
use weir_storage::{Faults, Store};

/// A mirror, its hub and the directory it keeps.
pub(crate) struct Bench {
    pub(crate) hub: Hub,
    pub(crate) mirror: Mirror,
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    directory: tempfile::TempDir,
    change: Change,
}

/// What a test wants otherwise than by default.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) mirror: Settings,
    pub(crate) capacity: u64,
    pub(crate) rulebook: LimitsConfig,
    pub(crate) accounts: Vec<(&'static str, &'static str)>,
    pub(crate) idle_timeout: Duration,
}

impl Default for Change {
    fn default() -> Change {
        Change {
            mirror: Settings {
                tag_ttl: Duration::ZERO,
                stale_if_error: Duration::from_secs(3600),
                listing_ttl: Duration::ZERO,
                negative_entries: 1000,
                ..Settings::default()
            },
            capacity: 1 << 30,
            rulebook: LimitsConfig::default(),
            accounts: Vec::new(),
            idle_timeout: Duration::from_secs(15),
        }
    }
}

impl Bench {
    pub(crate) async fn start(hub: hub::Settings, change: Change) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let hub = Hub::start(hub).await.unwrap();
        let faults = Faults::default();
        let (mirror, store) = assemble(directory.path(), hub.registry(), &change, faults.clone());
        Bench { hub, mirror, store, faults, directory, change }
    }

    /// The same directory, another process: what a restart is, but for the process.
    pub(crate) async fn restart(self) -> Bench {
        let Bench { hub, mirror, store, directory, change, .. } = self;
        mirror.close().await;
        drop((mirror, store));
        let faults = Faults::default();
        let (mirror, store) = assemble(directory.path(), hub.registry(), &change, faults.clone());
        Bench { hub, mirror, store, faults, directory, change }
    }
}

/// A mirror of the registry at `url`.
pub(crate) fn assemble(root: &Path, url: url::Url, change: &Change, faults: Faults) -> (Mirror, Store) {
    let settings = weir_storage::Settings {
        root: root.to_owned(),
        capacity: change.capacity,
        ..weir_storage::Settings::default()
    };
    let store = Store::open_on(settings, faults).unwrap();
    (over(&store, url, change), store)
}

/// A mirror of the registry at `url`, on that store.
pub(crate) fn over(store: &Store, url: url::Url, change: &Change) -> Mirror {
    let keep = |_: Vec<Vec<u8>>| -> upstream::ledger::WriteFuture { Box::pin(std::future::ready(Ok(()))) };
    let ledger = Ledger::new(Vec::new(), Arc::new(keep));
    let account = |(username, password): &(&str, &str)| Account::with_password(username, password);
    let settings = upstream::Settings {
        default: true,
        accounts: change.accounts.iter().map(account).collect(),
        idle_timeout: change.idle_timeout,
        ..upstream::Settings::new("docker.io", url)
    };
    let upstream = Upstream::new(settings, ledger.clone()).unwrap();
    let limits = Limits::in_memory(change.rulebook.clone());
    Mirror::new(change.mirror.clone(), store.clone(), vec![upstream], ledger, limits, Handle::current())
}

/// A client at an address, who may pull what `pull` names beyond what anonymous may.
pub(crate) fn lookup(repository: &str, pull: &[&str]) -> Lookup {
    Lookup {
        upstream: "docker.io".into(),
        repository: repository.parse().unwrap(),
        client: Arc::new(Client {
            pull: pull.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..Client::anonymous([127, 0, 0, 1].into(), [127, 0, 0, 1].into())
        }),
        cached_only: None,
        cost: Cost::default(),
    }
}

/// All bytes from `start` to `end`, or why they stopped.
pub(crate) async fn read(reader: &mut Reader, start: u64, end: u64) -> Result<Vec<u8>, Stopped> {
    use std::os::unix::fs::FileExt;
    let (mut bytes, mut at) = (Vec::new(), start);
    while at < end {
        let piece = match poll_fn(|cx| reader.poll_extent(cx, at, end)).await? {
            Extent::File { file, offset, length } => {
                let mut piece = vec![0; usize::try_from(length).unwrap()];
                file.read_exact_at(&mut piece, offset).unwrap();
                piece
            }
            Extent::Bytes(piece) => piece.to_vec(),
        };
        if piece.is_empty() {
            return Err(Stopped("it ended early".into()));
        }
        at += piece.len() as u64;
        bytes.extend(piece);
    }
    Ok(bytes)
}

/// Brings an image of one platform whole, and waits until its layers were looked at.
pub(crate) async fn pull(hub: &Hub, mirror: &Mirror, spec: Spec) -> Image {
    let image = hub.push(spec).unwrap();
    let lookup = lookup(&image.repository, &[]);
    mirror.manifests.get(&lookup, &"latest".parse().unwrap()).await.unwrap();
    for blob in image.platforms[0].blobs() {
        let mut answer = mirror.blobs.get(&lookup, &blob.digest.parse().unwrap(), None).await.unwrap();
        let size = answer.reader.size();
        read(&mut answer.reader, 0, size).await.unwrap();
    }
    while mirror.blobs.fills() > 0 {
        tokio::task::yield_now().await;
    }
    let repository = Repository { upstream: "docker.io".into(), name: image.repository.parse().unwrap() };
    let cached = mirror.images().read().images_of(&repository).remove(0);
    mirror.facts.of(&cached, None).await.unwrap();
    mirror.layers.settle(Duration::from_secs(60)).await;
    image
}
