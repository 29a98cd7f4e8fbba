//! What is simulated: a Docker Hub on loopback and, before it, mirror, store, ledger and hosted repositories of one process.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Handle;
use weir::{
    client::Client,
    hosted::{self, Hosted},
    limits::{Limits, LimitsConfig},
    mirror::{self, Mirror},
    oci::{Algorithm, Digest},
    record_journal::RecordJournal,
    upstream::{self, Identity, Ledger, Upstream},
};
use weir_conformance::hub::{self, Hub, Limit, Logged, Spec};
use weir_storage::{Faults, Store};

use super::{
    operation::{BLOBS, End, IMAGES, PUSHED, REPOSITORIES, Rot, TAGS},
    power::{Power, Tree, lay_out},
    random::Random,
};
use crate::mirror::support::{Change, lookup, read};

/// How long a tag is fresh.
pub(super) const TAG_TTL: Duration = Duration::from_secs(60);

/// Content and its digest.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

impl Content {
    fn new(bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        Content { digest: Algorithm::Sha256.digest(&bytes), bytes }
    }
}

/// An image upstream.
pub(super) struct Image {
    pub(super) manifest: Content,
    pub(super) blobs: Vec<Content>,
}

/// What there is, upstream and to be pushed; the same in every run.
pub(super) struct Catalogue {
    pub(super) images: Vec<Vec<Image>>,
    pub(super) blobs: Vec<Content>,
    pub(super) manifests: Vec<Content>,
}

pub(super) fn upstream_name(repository: usize) -> String {
    format!("library/r{repository}")
}

pub(super) fn hosted_name(repository: usize) -> weir::oci::Name {
    format!("local/r{repository}").parse().unwrap()
}

pub(super) fn tag_name(tag: usize) -> String {
    format!("t{tag}")
}

/// One life of the process.
pub(super) struct Process {
    pub(super) mirror: Mirror,
    pub(super) hosted: Hosted,
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    pub(super) client: Client,
    power: Power,
    _store: Store,
    _directory: TempDir,
}

impl Process {
    fn start(hub: &Hub, tree: &Tree, capacity: u64) -> Result<Process, String> {
        // In memory where there is room for it: the simulation loses what was not synced, whatever the file system does.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let directory = directory.map_err(|error| error.to_string())?;
        let root = directory.path().join("data");
        lay_out(tree, &root);
        let faults = Faults::default();
        let power = Power::watch(&root, &faults);
        let settings = weir_storage::Settings {
            root,
            capacity,
            high_watermark: 0.8,
            low_watermark: 0.6,
            scrub: Duration::ZERO,
            namespaces: vec!["local/*".into()],
            ..weir_storage::Settings::default()
        };
        let store = Store::open_on(settings, faults.clone()).map_err(|error| format!("it does not start: {error}"))?;
        let journal = store.journals.open("ledger").map_err(|error| error.to_string())?;
        let records = journal.replay().map_err(|error| error.to_string())?;
        let ledger = Ledger::new(records, Arc::new(RecordJournal(journal)));
        let settings = upstream::Settings { default: true, ..upstream::Settings::new("docker.io", hub.registry()) };
        let upstream = Upstream::new(settings, ledger.clone()).map_err(|error| error.to_string())?;
        let limits = Limits::in_memory(LimitsConfig::default());
        let settings = mirror::Settings { tag_ttl: TAG_TTL, ..Change::default().mirror };
        let mirror = Mirror::new(settings, store.clone(), vec![upstream], ledger.clone(), limits, Handle::current());
        let settings = hosted::Settings { anonymous_push: true, ..hosted::Settings::default() };
        let hosted = Hosted::new(settings, store.clone());
        let client = Client::anonymous([127, 0, 0, 1].into(), [127, 0, 0, 1].into());
        Ok(Process { mirror, hosted, ledger, faults, client, power, _store: store, _directory: directory })
    }

    /// What the ledger knows of what is left, when upstream said.
    pub(super) fn remaining(&self) -> Option<i64> {
        let identity = Identity { upstream: "docker.io".into(), account: None };
        self.mirror.budget().into_iter().find(|balance| balance.identity == identity)?.remaining
    }

    /// Waits until no blob arrives any more.
    pub(super) async fn settle(&self) -> Result<(), String> {
        let settled = async {
            while self.mirror.blobs.fills() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), settled).await.map_err(|_| "a fill never ended".to_owned())
    }

    /// All bytes of a blob between two places, or why there are none.
    pub(super) async fn blob(
        &self,
        repository: usize,
        digest: &Digest,
        range: Option<(u64, u64)>,
    ) -> Result<Result<Vec<u8>, String>, mirror::Error> {
        let wanted = range.map(|(start, end)| (start, Some(end)));
        let lookup = lookup(&upstream_name(repository), &[]);
        let mut answer = self.mirror.blobs.get(&lookup, digest, wanted).await?;
        let (start, end) = range.unwrap_or((0, answer.reader.size()));
        Ok(read(&mut answer.reader, start, end).await.map_err(|stopped| stopped.0.to_string()))
    }
}

/// A worker's hub, and the process before it.
pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) catalogue: Catalogue,
    process: Option<Process>,
    capacity: u64,
}

impl World {
    pub(super) async fn new() -> World {
        let hub = Hub::start(hub::Settings { limit: Some(Limit::hub(1_000_000)), ..hub::Settings::default() });
        let hub = hub.await.unwrap();
        let process = Process::start(&hub, &Tree::new(), 1 << 30).unwrap();
        let mut images = Vec::new();
        for repository in 0..REPOSITORIES {
            let mut of = Vec::new();
            for image in 0..IMAGES {
                let seed = (repository * IMAGES + image) as u64;
                // Some have more than the last 64 KiB, which wait for the digest, and some have not.
                let layers = [3_000 + seed * 700, 50_000 + seed * 9_000];
                let tags: [&str; 0] = [];
                let spec = Spec::new(upstream_name(repository)).tags(tags).single().layers(layers).seed(seed);
                let pushed = hub.push(spec).unwrap();
                let mut blobs = Vec::new();
                for blob in pushed.blobs() {
                    let digest = blob.digest.parse().unwrap();
                    let content = Content::new(process.blob(repository, &digest, None).await.unwrap().unwrap());
                    assert_eq!(content.digest, digest);
                    blobs.push(content);
                }
                assert_eq!(blobs.len(), BLOBS);
                of.push(Image { manifest: Content::new(pushed.root.bytes.clone()), blobs });
            }
            images.push(of);
        }
        let blobs: Vec<Content> = (0..PUSHED)
            .map(|blob| {
                let mut random = Random::new(blob as u64);
                Content::new((0..500 + blob * 9_000).map(|_| random.next() as u8).collect::<Vec<u8>>())
            })
            .collect();
        let manifest = |number: usize| {
            let descriptor = |content: &Content| {
                format!(
                    r#"{{"mediaType":"application/x","digest":"{}","size":{}}}"#,
                    content.digest,
                    content.bytes.len()
                )
            };
            let (config, layer) = (descriptor(&blobs[number]), descriptor(&blobs[(number + 1) % PUSHED]));
            Content::new(format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#))
        };
        let manifests = (0..PUSHED).map(manifest).collect();
        World { hub, catalogue: Catalogue { images, blobs, manifests }, process: Some(process), capacity: 1 << 30 }
    }

    pub(super) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Begins anew: an empty directory, an upstream that is well, its tags and budget as given.
    pub(super) async fn begin(
        &mut self,
        tags: &[[Option<usize>; TAGS]],
        budget: i64,
        capacity: u64,
    ) -> Result<(), String> {
        self.process = None;
        self.capacity = capacity;
        self.hub.up().await.map_err(|error| error.to_string())?;
        self.hub.clear_faults();
        for (repository, tags) in tags.iter().enumerate() {
            for (tag, image) in tags.iter().enumerate() {
                self.move_tag(repository, tag, *image);
            }
        }
        self.hub.set_budget(budget);
        self.hub.clear_log();
        self.process = Some(Process::start(&self.hub, &Tree::new(), capacity)?);
        Ok(())
    }

    pub(super) fn move_tag(&self, repository: usize, tag: usize, image: Option<usize>) {
        let (name, tag) = (upstream_name(repository), tag_name(tag));
        match image {
            Some(image) => {
                self.hub.retag(&name, &tag, &self.catalogue.images[repository][image].manifest.digest.to_string())
            }
            None => self.hub.remove(&name, &tag),
        }
    }

    /// Ends the process and starts the next on what is left; gives the digest of what rotted meanwhile. The upstream is well again.
    pub(super) async fn restart(
        &mut self,
        how: End,
        rot: Option<Rot>,
        random: &mut Random,
    ) -> Result<Option<Digest>, String> {
        let process = self.process.take().unwrap();
        let mut tree = match how {
            End::Stop => {
                process.mirror.close().await;
                process.power.kill()
            }
            End::Kill => process.power.kill(),
            End::PowerCut => process.power.cut(random),
        };
        drop(process);
        let rotted = rot.and_then(|rot| self.rot(&mut tree, rot, random));
        self.hub.clear_faults();
        self.hub.up().await.map_err(|error| error.to_string())?;
        self.process = Some(Process::start(&self.hub, &tree, self.capacity)?);
        Ok(rotted)
    }

    /// Damages one object that upstream can give again.
    fn rot(&self, tree: &mut Tree, rot: Rot, random: &mut Random) -> Option<Digest> {
        let images = self.catalogue.images.iter().flatten();
        let contents = images.flat_map(|image| image.blobs.iter().chain([&image.manifest]));
        let digests: Vec<&Digest> = contents.map(|content| &content.digest).collect();
        let stored = tree.iter().filter(|(_, bytes)| bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()));
        let named = stored.filter_map(|(path, _)| {
            let name = path.file_name()?.to_str()?;
            let kept = path.starts_with("blobs") || path.starts_with("manifests");
            Some((path.clone(), (*digests.iter().find(|digest| kept && digest.hex() == name)?).clone()))
        });
        let found: Vec<(std::path::PathBuf, Digest)> = named.collect();
        if found.is_empty() {
            return None;
        }
        let (path, digest) = random.pick(&found);
        let bytes = tree.get_mut(&path)?.as_mut()?;
        let at = random.below(bytes.len() as u64) as usize;
        match rot {
            Rot::Flip => bytes[at] ^= 1,
            Rot::Cut => bytes.truncate(at),
            Rot::Lose => drop(tree.remove(&path)),
        }
        Some(digest)
    }

    /// What was asked upstream after the first `begin` entries of the log.
    pub(super) fn asked(&self, begin: usize) -> Vec<Logged> {
        self.hub.log().split_off(begin)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What the dying process still does must not reach its directory, which is about to go.
        self.faults.fail_all(5);
    }
}
