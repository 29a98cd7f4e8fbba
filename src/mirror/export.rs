//! What an export has in it: the images that are asked for, each whole, and the files of the archive.
//!
//! `archive` says what is guaranteed and what is refused. Here it is looked at before the first byte goes out: a refusal is an answer, and
//! only a disk that fails or damages what it holds ends an archive that has begun.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};
use weir_storage::{Image, Repository, Source, Store};

use super::{
    archive_entries::{Entry, WAITING, length, send},
    handles::Handles,
    listings::referrers_kind,
};
use crate::{
    archive::{self, Listed},
    oci::{Child, Digest, Manifest, Reference, matches},
};

/// Images of one archive: their names are in memory, as are the digests of what they name.
const MOST_IMAGES: usize = 20_000;
/// How deep indexes stand in indexes.
const DEPTH: usize = 4;
/// Missing objects that a refusal names.
const NAMED: usize = 5;

/// What is to be exported.
#[derive(Clone, Debug, Default)]
pub struct ExportRequest {
    /// Images, each as it was written and as what is meant.
    pub wanted: Vec<(String, Wanted)>,
    /// Only these platforms of an index, as `linux/arm64`; all when empty.
    pub platforms: Vec<String>,
    /// Leave out the blobs that were stored before; names and manifests are there all the same.
    pub since: Option<SystemTime>,
    /// Private content of accounts, too.
    pub private: bool,
    /// With `manifest.json` for `docker load`; one image of one platform.
    pub docker: bool,
}

/// Which images are meant by a name.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// All that the pattern names.
    Pattern(String),
    /// All of a repository.
    Repository(Repository),
    /// One.
    Image(Repository, Reference),
}

/// An archive that can be sent.
#[derive(Debug)]
pub struct Export {
    /// Full names of the images.
    pub images: Vec<String>,
    /// Bytes of the archive.
    pub length: u64,
    /// The archive, in pieces. It is whole when so many bytes came.
    pub pieces: mpsc::Receiver<Bytes>,
}

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Two others are under way.
    #[error("two exports or imports are under way; try again when one of them has ended")]
    Busy,
    /// Nothing is cached under this name.
    #[error("nothing of {0} is cached; weir cache list shows what is")]
    Unknown(String),
    /// Something is missing.
    #[error("{name} is not complete here: {} missing, such as {}; {hint}", objects(.missing.len()), first(.missing))]
    Incomplete {
        /// The image.
        name: String,
        /// What is missing.
        missing: Vec<Digest>,
        /// What to do.
        hint: String,
    },
    /// It belongs to an account.
    #[error(
        "{name} is private content of the account {account}, and would be readable by every client where it is imported; export it with \
         --private (private=true) if that is meant"
    )]
    Private {
        /// The image.
        name: String,
        /// The account.
        account: Arc<str>,
    },
    /// It cannot be in an archive of this kind.
    #[error("{0}")]
    Unfit(String),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] weir_storage::Error),
}

fn objects(missing: usize) -> String {
    format!("{missing} of its objects {}", if missing == 1 { "is" } else { "are" })
}

fn first(missing: &[Digest]) -> String {
    missing.iter().take(NAMED).map(Digest::to_string).collect::<Vec<_>>().join(", ")
}

/// Makes archives of what is cached. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Exports {
    store: Store,
    runtime: Handle,
    permits: Arc<Semaphore>,
}

/// The files that images need, each once, in the order in which they were found.
#[derive(Default)]
struct Files {
    seen: HashSet<Digest>,
    entries: Vec<Entry>,
}

/// What was found of one image.
#[derive(Default)]
struct Found {
    missing: Vec<Digest>,
    /// Platforms of an index that are in the archive, when not all are.
    platforms: Vec<String>,
    /// Manifests without manifests in them, attestations not counted.
    leaves: Vec<Manifest>,
}

impl Exports {
    /// `permits` bounds exports and imports at once.
    pub(super) fn new(handles: &Handles, permits: Arc<Semaphore>) -> Exports {
        Exports { store: handles.sources.store.clone(), runtime: handles.runtime.clone(), permits }
    }

    /// Looks whether all that is asked for is here, and begins to send it.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub async fn begin(&self, request: &ExportRequest) -> Result<Export, ExportError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| ExportError::Busy)?;
        let images = self.select(request).await?;
        let (mut files, mut listed, mut docker) = (Files::default(), Vec::new(), None);
        for image in &images {
            let found = self.find(image, request, &mut files).await?;
            let name = image.name();
            if !found.missing.is_empty() {
                let hint = self.hint(&image.digest);
                return Err(ExportError::Incomplete { name, missing: found.missing, hint });
            }
            if request.docker {
                docker = Some(self.docker(&name, &found, images.len())?);
            }
            listed.push(self.listed(image, found.platforms).await?);
        }
        let mut entries = vec![
            Entry::bytes("oci-layout", archive::VERSION.into()),
            Entry::bytes("index.json", archive::index(&listed)),
        ];
        entries.extend(docker.map(|bytes| Entry::bytes("manifest.json", bytes)));
        entries.extend(files.entries);
        let (to, pieces) = mpsc::channel(WAITING);
        let length = length(&entries);
        self.runtime.spawn(send(self.store.clone(), entries, to, permit));
        Ok(Export { images: images.iter().map(Image::name).collect(), length, pieces })
    }

    /// The images that are asked for, in byte order of their names, with the signatures and attestations of each that are cached whole:
    /// under cosign's tags, and those that a cached list of referrers names.
    async fn select(&self, request: &ExportRequest) -> Result<Vec<Image>, ExportError> {
        let mut chosen = self.choose(request)?;
        if !request.docker {
            for other in self.referrers(&chosen).await? {
                chosen.entry(other.name()).or_insert(other);
            }
        }
        for image in chosen.values() {
            if *image.credential != *Source::ANONYMOUS && !request.private {
                return Err(ExportError::Private { name: image.name(), account: image.credential.clone() });
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// What refers to these images, to their platforms, and to what refers to them, by lists that are cached; as far as it is here whole.
    async fn referrers(&self, chosen: &BTreeMap<String, Image>) -> Result<Vec<Image>, ExportError> {
        let mut todo: Vec<(Image, Digest)> = Vec::new();
        for image in chosen.values() {
            let objects = self.store.images.read().objects(&image.digest);
            let manifests = objects.into_iter().map(|(child, _)| child).filter(|child| child.is_manifest);
            let subjects = manifests.map(|child| child.digest).chain([image.digest.clone()]);
            todo.extend(subjects.map(|subject| (image.clone(), subject)));
        }
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        while let Some((image, subject)) = todo.pop() {
            let Repository { upstream, name } = image.repository.clone();
            let source = Source { upstream, credential: image.credential.clone(), repository: name };
            if !seen.insert((source.clone(), subject.clone())) {
                continue;
            }
            let list = self.store.cache.listings.load(&source, &referrers_kind(&subject)).await?;
            let Some(list) = list else { continue };
            let listed: HashSet<Digest> = digests(&list.body).collect();
            let reading = self.store.images.read();
            let others = reading.images_of(&image.repository).into_iter();
            for other in others.filter(|it| listed.contains(&it.digest) && reading.is_complete(&it.digest)) {
                todo.push((other.clone(), other.digest.clone()));
                found.push(other);
            }
            if found.len() > MOST_IMAGES {
                let why = format!("an archive has at most {MOST_IMAGES} images; name fewer");
                return Err(ExportError::Unfit(why));
            }
        }
        Ok(found)
    }

    /// The images that are named, and what is cached of each under cosign's tags.
    fn choose(&self, request: &ExportRequest) -> Result<BTreeMap<String, Image>, ExportError> {
        let reading = self.store.images.read();
        let mut chosen: BTreeMap<String, Image> = BTreeMap::new();
        for (text, wanted) in &request.wanted {
            let found: Vec<Image> = match wanted {
                Wanted::Pattern(pattern) => {
                    reading.images(None).filter(|image| matches(pattern, &image.name())).take(MOST_IMAGES + 1).collect()
                }
                Wanted::Repository(repository) => reading.images_of(repository),
                Wanted::Image(repository, reference) => reading
                    .images_of(repository)
                    .into_iter()
                    .filter(|image| match reference {
                        Reference::Tag(tag) => image.tag.as_ref() == Some(tag),
                        Reference::Digest(digest) => image.digest == *digest,
                    })
                    .collect(),
            };
            // What is hosted has no upstream that an import could put it under.
            let found: Vec<Image> = found.into_iter().filter(|image| !image.repository.is_hosted()).collect();
            if found.is_empty() {
                return Err(ExportError::Unknown(text.clone()));
            }
            for image in found {
                // What an account and anonymous may read is the same content; anonymous comes first in the list of the two.
                let is_public = *image.credential == *Source::ANONYMOUS;
                let name = image.name();
                if is_public || !chosen.contains_key(&name) {
                    chosen.insert(name, image);
                }
            }
            if chosen.len() > MOST_IMAGES {
                let why = format!("an archive has at most {MOST_IMAGES} images; name fewer");
                return Err(ExportError::Unfit(why));
            }
        }
        if !request.docker {
            let mut beside = Vec::new();
            for image in chosen.values() {
                let prefix = format!("{}-{}", image.digest.algorithm().as_str(), image.digest.hex());
                let refers = |other: &Image| other.tag.as_ref().is_some_and(|tag| tag.as_str().starts_with(&prefix));
                let others = reading.images_of(&image.repository).into_iter().filter(refers);
                beside.extend(others.filter(|other| reading.is_complete(&other.digest)));
            }
            for other in beside {
                chosen.entry(other.name()).or_insert(other);
            }
        }
        Ok(chosen)
    }

    /// Adds the files of an image, from its manifest down.
    async fn find(&self, image: &Image, request: &ExportRequest, files: &mut Files) -> Result<Found, ExportError> {
        let mut found = Found::default();
        let mut todo = vec![(image.digest.clone(), None, 0)];
        let mut seen = HashSet::new();
        while let Some((digest, platform, depth)) = todo.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let Some(manifest) = self.store.cache.manifests.load(&digest).await? else {
                found.missing.push(digest);
                continue;
            };
            if digest.algorithm().digest(&manifest.bytes) != digest {
                let why =
                    format!("{} has a signed manifest of schema 1, which an OCI layout cannot hold", image.name());
                return Err(ExportError::Unfit(why));
            }
            let described = manifest.describe().map_err(|error| ExportError::Unfit(format!("{digest}: {error}")))?;
            if files.seen.insert(digest.clone()) {
                files.entries.push(Entry::manifest(&digest, manifest.bytes.len() as u64));
            }
            let (manifests, blobs): (Vec<Child>, Vec<Child>) =
                described.children.into_iter().partition(|child| child.is_manifest);
            if manifests.is_empty() && platform.as_deref() != Some("unknown/unknown") {
                found.leaves.push(manifest);
            }
            let kept: Vec<&Child> = manifests.iter().filter(|child| child.is_for(&request.platforms)).collect();
            if !manifests.is_empty() && kept.is_empty() {
                let has: Vec<&str> = manifests.iter().filter_map(|child| child.platform.as_deref()).collect();
                let why = format!("{} has none of these platforms; it has {}", image.name(), has.join(", "));
                return Err(ExportError::Unfit(why));
            }
            if kept.len() < manifests.len() {
                found.platforms.extend(kept.iter().filter_map(|child| child.platform.as_deref().map(str::to_owned)));
            }
            // The first is looked at first.
            for child in kept.into_iter().rev().filter(|_| depth < DEPTH) {
                todo.push((child.digest.clone(), child.platform.clone(), depth + 1));
            }
            for blob in blobs {
                self.add_blob(blob, request, files, &mut found).await?;
            }
        }
        Ok(found)
    }

    async fn add_blob(
        &self,
        blob: Child,
        request: &ExportRequest,
        files: &mut Files,
        found: &mut Found,
    ) -> Result<(), ExportError> {
        if files.seen.contains(&blob.digest) {
            return Ok(());
        }
        match self.store.blobs.stored(&blob.digest).await? {
            Some((size, at)) => {
                if request.since.is_none_or(|since| at >= since) {
                    files.entries.push(Entry::blob(&blob.digest, size));
                }
                files.seen.insert(blob.digest);
            }
            // Clients fetch it from where its own descriptor says.
            None if blob.is_foreign => {}
            None => found.missing.push(blob.digest),
        }
        Ok(())
    }

    /// The image as `index.json` names it.
    async fn listed(&self, image: &Image, platforms: Vec<String>) -> Result<Listed, ExportError> {
        let manifest = self.store.cache.manifests.load(&image.digest).await?;
        let name = image.name();
        let manifest = manifest.ok_or_else(|| ExportError::Unknown(name.clone()))?;
        let mut annotations: BTreeMap<String, String> =
            [archive::REF_NAME, archive::NAME].map(|key| (key.to_owned(), name.clone())).into();
        if !platforms.is_empty() {
            annotations.insert(archive::PLATFORMS.to_owned(), platforms.join(","));
        }
        let size = manifest.bytes.len() as u64;
        Ok(Listed { media_type: manifest.media_type, digest: manifest.digest, size, annotations })
    }

    /// The `manifest.json` of the one image.
    fn docker(&self, name: &str, found: &Found, images: usize) -> Result<Vec<u8>, ExportError> {
        let unfit = |why: String| Err(ExportError::Unfit(why));
        let [leaf] = &found.leaves[..] else {
            return unfit(format!("docker-archive has one platform, and {name} has {}; name one", found.leaves.len()));
        };
        if images != 1 {
            return unfit(format!("docker-archive has one image, and {images} are selected; name one, with its tag"));
        }
        let children = leaf.describe().map(|described| described.children).unwrap_or_default();
        match &children.iter().map(|child| child.digest.clone()).collect::<Vec<_>>()[..] {
            [config, layers @ ..] => Ok(archive::docker(name, config, layers)),
            [] => unfit(format!("{name} has no config and is no image that docker could load")),
        }
    }

    /// What to do about an image that is not complete.
    fn hint(&self, digest: &Digest) -> String {
        let platforms = self.store.images.read().completeness(digest).platforms;
        let complete: Vec<String> =
            platforms.into_iter().filter(|it| it.complete).filter_map(|it| it.platform).map(String::from).collect();
        match &complete[..] {
            [] => "pull it through Weir first".to_owned(),
            complete => {
                format!(
                    "pull them through Weir first, or export the platforms that are complete: {}",
                    complete.join(",")
                )
            }
        }
    }
}

/// The digests of a list of descriptors.
fn digests(list: &[u8]) -> impl Iterator<Item = Digest> {
    let descriptors: Vec<serde_json::Value> = serde_json::from_slice(list).unwrap_or_default();
    descriptors.into_iter().filter_map(|descriptor| descriptor["digest"].as_str()?.parse().ok())
}
