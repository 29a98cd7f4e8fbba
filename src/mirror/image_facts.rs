//! What is known of cached images, gathered from the cache alone: facts of each platform's manifest and config, and the signatures
//! and attestations beside them. Upstream is asked nothing.
//!
//! Facts are kept by digest, since they never change. What is beside an image changes, and is looked at each time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::Semaphore};
use weir_storage::{Error, Image, Images, Reading, ReferrersPage, Repository, Source, Store};

use super::{
    handles::Handles,
    layers::Layers,
    manifest_history::ManifestHistory,
    scans::{Scanned, Scans},
    small_blob::{self, NoBytes},
};
use crate::{
    clock,
    oci::{Child, Description, Digest, Malformed, Manifest, Name, Tag, is_platform, unambiguous},
    policy::{
        Attested, Base, Contents, Facts, Known, MOST_CONFIG_BYTES, ManifestKind, Rules, Supply, Verdict, nearest_base,
    },
};

/// Images whose facts are remembered: some 20 MiB.
const REMEMBERED: u64 = 10_000;
/// Configs that are read at once; each may take 64 MiB while it is parsed.
const AT_ONCE: usize = 2;
/// Manifests of an index that are looked at. The largest official indexes name 20, with their attestations.
const MOST_PLATFORMS: usize = 64;
/// Images that are looked at for a base: a scan in memory.
const MOST_BASES: usize = 20_000;
/// Referrers of an image that are looked at.
const MOST_REFERRERS: usize = 1000;
const MOST_REFERRER_BYTES: usize = 4 << 20;
/// Of a layer that calls itself an attestation, which is read to know whether it is one. The largest SBOMs have some 20 MiB.
const MOST_TEXT: u64 = 64 << 20;
/// A tag that was confirmed upstream longer ago does not show that a base did not move on.
const CONFIRMED: Duration = Duration::from_secs(7 * 86_400);
/// Images of a repository that are looked at for an index that names a manifest, and such indexes.
const MOST_IMAGES: usize = 1000;
const MOST_INDEXES: usize = 4;

/// The platform that an index claims for an attestation.
pub(super) const NO_PLATFORM: &str = "unknown/unknown";

/// Why there are no facts of a manifest; each is a part of a sentence about the image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFacts {
    /// No client pulled this platform.
    #[error("has no manifest in the cache, as no client pulled this platform")]
    NoManifest,
    /// No client pulled its config.
    #[error("has no config in the cache, as no client pulled it")]
    NoConfig(Digest),
    /// No client pulled a layer by which an attestation is told from an image.
    #[error("has a layer that calls itself an attestation and is not in the cache")]
    NoLayer(Digest),
    /// It is an artifact, such as a signature or an attestation.
    #[error("is no container image")]
    NoImage,
    /// It may be an artifact, or an image of a kind that Weir does not know.
    #[error("is neither a container image nor an artifact of a known kind")]
    Unclear,
    /// It has no config.
    #[error("is an image of schema 1, of which the cache knows nothing")]
    Schema1,
    /// Two readers could read it in two ways, or it is no manifest.
    #[error("has a manifest that is no evidence: {0}")]
    Ambiguous(String),
    /// What is here is no evidence.
    #[error("has a config that is no evidence: {0}")]
    Unusable(String),
}

/// What is known of one manifest of an image.
#[derive(Clone, Debug)]
pub struct PlatformFacts {
    /// As the index claims it, else as the config says it; empty when neither does.
    pub platform: String,
    /// The manifest.
    pub digest: Digest,
    /// The facts, or why there are none.
    pub facts: Result<Arc<Facts>, NoFacts>,
    /// The indexes here that name it, whose signatures cover it.
    pub indexes: Vec<Digest>,
    /// Attestations that BuildKit put into them.
    pub attestations: Vec<Digest>,
    /// What is beside it.
    pub supply: Supply,
    /// The cached image on whose layers it is built, when it names no base itself.
    pub base: Option<Base>,
    /// Whether the name of its base stands for another image by now; `None` when the cache does not know.
    pub has_moved: Option<bool>,
    /// What its layers hold, as far as they were looked at.
    pub contents: Contents,
    /// What a scanner found last, and when.
    pub scanned: Option<Scanned>,
    /// When its config first came into the cache.
    pub arrived: Option<SystemTime>,
    /// Its config, when it is an image.
    pub config: Option<Digest>,
}

impl PlatformFacts {
    /// The config or layer that has to be fetched to know more: facts are remembered for longer than a config.
    pub(super) fn missing_blob(&self, wants_arrival: bool) -> Option<Digest> {
        match &self.facts {
            Err(NoFacts::NoConfig(blob) | NoFacts::NoLayer(blob)) => Some(blob.clone()),
            Ok(_) if wants_arrival && self.arrived.is_none() => self.config.clone(),
            _ => None,
        }
    }

    /// The manifests beside which its signatures may be: itself first.
    pub(super) fn signed_as(&self) -> Vec<Digest> {
        std::iter::once(&self.digest).chain(&self.indexes).cloned().collect()
    }

    /// What rules say of it.
    pub fn verdicts(&self, rules: &Rules, now: SystemTime) -> Vec<Verdict> {
        let why = self.facts.as_ref().err().map(NoFacts::to_string).unwrap_or_default();
        let known = Known {
            supply: &self.supply,
            shared: self.base.as_ref(),
            has_moved: self.has_moved,
            contents: &self.contents,
            scanned: self.scanned.as_deref(),
            arrived: self.arrived,
        };
        rules.judge(self.facts.as_deref().map_err(|_| &*why), &known, now)
    }
}

/// Gathers facts, and keeps them. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ImageFacts {
    store: Store,
    layers: Layers,
    scans: Scans,
    history: ManifestHistory,
    runtime: Handle,
    known: moka::sync::Cache<Digest, Arc<Facts>>,
    permits: Arc<Semaphore>,
}

impl ImageFacts {
    pub(super) fn new(handles: &Handles, layers: Layers, (scans, history): (Scans, ManifestHistory)) -> ImageFacts {
        ImageFacts {
            store: handles.sources.store.clone(),
            layers,
            scans,
            history,
            runtime: handles.runtime.clone(),
            known: moka::sync::Cache::new(REMEMBERED),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What is known of an image: of the manifest that it names or, when that is an index, of each manifest of a platform; of `platform`
    /// alone when one is given. Empty when the manifest is not here, or no manifest is for that platform.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn of(&self, image: &Image, platform: Option<&str>) -> Result<Vec<PlatformFacts>, Error> {
        let Some(root) = self.store.cache.manifests.load(&image.digest).await? else { return Ok(Vec::new()) };
        let is_wanted = |of: &str| platform.is_none_or(|wanted| is_platform(of, wanted));
        if !root.media_type.is_index() {
            let found = self.platform(image, &root, String::new(), root.digest.clone()).await?;
            return Ok(if is_wanted(&found.platform) { vec![found] } else { Vec::new() });
        }
        let children = root.describe().map(|description| description.children).unwrap_or_default();
        let mut found = Vec::new();
        for child in children.into_iter().filter(|child| child.is_manifest).take(MOST_PLATFORMS) {
            let of = child.platform.as_deref().unwrap_or_default().to_owned();
            if of != NO_PLATFORM && is_wanted(&of) {
                found.push(self.platform(image, &root, of, child.digest).await?);
            }
        }
        Ok(found)
    }

    /// The platform that the config of a manifest says, when its facts are remembered. No system call.
    pub fn platform_of(&self, manifest: &Digest) -> Option<String> {
        self.known.get(manifest).map(|facts| facts.platform.clone())
    }

    /// These layers are looked at next, unless they were.
    pub(super) fn look_at(&self, layers: &[Digest]) {
        self.layers.look(layers);
    }

    /// What is known of a manifest that is no index, by itself.
    ///
    /// # Errors
    /// As [`ImageFacts::of`].
    pub(super) async fn of_manifest(&self, image: &Image, manifest: &Manifest) -> Result<PlatformFacts, Error> {
        self.platform(image, manifest, String::new(), manifest.digest.clone()).await
    }

    async fn platform(
        &self,
        image: &Image,
        root: &Manifest,
        platform: String,
        digest: Digest,
    ) -> Result<PlatformFacts, Error> {
        let mut indexes = self.indexes(image, &digest);
        if root.digest != digest && !indexes.contains(&root.digest) {
            indexes.insert(0, root.digest.clone());
            indexes.truncate(MOST_INDEXES);
        }
        let (supply, attestations) = self.supply(image, &indexes, &digest).await?;
        let scanned = self.scans.known(&digest);
        let mut found = PlatformFacts {
            facts: Err(NoFacts::NoManifest),
            platform,
            digest,
            indexes,
            attestations,
            scanned,
            supply,
            base: None,
            has_moved: None,
            contents: Contents::default(),
            arrived: None,
            config: None,
        };
        let Some(manifest) = self.store.cache.manifests.load(&found.digest).await? else { return Ok(found) };
        let (kind, description, config) = match image_of(&manifest) {
            Ok(image) => image,
            Err(why) => {
                found.facts = Err(why);
                return Ok(found);
            }
        };
        if kind == ManifestKind::ByItsLayers
            && let Err(why) = self.is_image(&description).await?
        {
            found.facts = Err(why);
            return Ok(found);
        }
        found.config = Some(config.digest.clone());
        let stored = self.store.blobs.stored(&config.digest).await?.map(|(_, at)| at);
        found.arrived = self.history.arrived(&found.digest, stored);
        found.facts = self.facts(&found.digest, description, &config).await?;
        if kind != ManifestKind::Image && found.facts.as_ref().is_ok_and(|facts| !facts.has_root) {
            found.facts = Err(NoFacts::Unclear);
        }
        if let Ok(facts) = &found.facts {
            if found.platform.is_empty() {
                found.platform.clone_from(&facts.platform);
            }
            found.contents = Contents::of(&self.layers.look(&facts.layers));
            if facts.base.is_none() {
                found.base = self.shared_base(facts.layers.clone()).await;
            }
            found.has_moved = facts.base.as_ref().or(found.base.as_ref()).and_then(|base| self.has_moved(base));
        }
        Ok(found)
    }

    /// Whether an engine could unpack a layer of a manifest whose layers all call themselves attestations.
    async fn is_image(&self, description: &Description) -> Result<Result<(), NoFacts>, Error> {
        // The first child is the config.
        for layer in description.children.iter().skip(1).filter(|child| !child.is_manifest) {
            // It is not fetched to be too long.
            if layer.size > MOST_TEXT {
                return Ok(Err(NoFacts::Unclear));
            }
            match small_blob::is_text(&self.store, &layer.digest, MOST_TEXT).await? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(NoBytes::Absent) => return Ok(Err(NoFacts::NoLayer(layer.digest.clone()))),
                Err(NoBytes::TooLong | NoBytes::Unreadable(_)) => return Ok(Err(NoFacts::Unclear)),
            }
        }
        Ok(Err(NoFacts::NoImage))
    }

    async fn facts(
        &self,
        digest: &Digest,
        description: Description,
        config: &Child,
    ) -> Result<Result<Arc<Facts>, NoFacts>, Error> {
        if let Some(known) = self.known.get(digest) {
            return Ok(Ok(known));
        }
        let unusable = |why: &str| Ok(Err(NoFacts::Unusable(why.to_owned())));
        // It is never closed.
        let Ok(_permit) = self.permits.acquire().await else { return unusable("it was not looked at") };
        let bytes = match self.config(&config.digest).await? {
            Ok(bytes) => bytes,
            Err(why) => return Ok(Err(why)),
        };
        let read = self.runtime.spawn_blocking(move || Facts::read(&description, &bytes)).await;
        match read {
            Ok(Ok(facts)) => {
                let facts = Arc::new(facts);
                self.known.insert(digest.clone(), facts.clone());
                Ok(Ok(facts))
            }
            Ok(Err(error)) => unusable(&error.0),
            Err(_) => unusable("it could not be read"),
        }
    }

    /// The bytes of a config that is here.
    async fn config(&self, digest: &Digest) -> Result<Result<Bytes, NoFacts>, Error> {
        Ok(match small_blob::read(&self.store, digest, MOST_CONFIG_BYTES).await? {
            Ok(bytes) => Ok(bytes),
            Err(NoBytes::Absent) => Err(NoFacts::NoConfig(digest.clone())),
            Err(NoBytes::TooLong) => Err(NoFacts::Unusable("it is too long to be read".to_owned())),
            Err(NoBytes::Unreadable(why)) => Err(NoFacts::Unusable(why.to_owned())),
        })
    }

    /// The indexes of this repository that are here and name a manifest.
    fn indexes(&self, image: &Image, digest: &Digest) -> Vec<Digest> {
        let reading = self.store.images.read();
        let names_it = |index: &Digest| {
            index != digest
                && reading.objects(index).iter().any(|(child, _)| child.is_manifest && child.digest == *digest)
        };
        let mut indexes = Vec::new();
        for image in reading.images_of(&image.repository).into_iter().take(MOST_IMAGES) {
            if indexes.len() < MOST_INDEXES && !indexes.contains(&image.digest) && names_it(&image.digest) {
                indexes.push(image.digest);
            }
        }
        indexes
    }

    /// What the cache knows beside a manifest: what is beside its index is beside it too.
    async fn supply(&self, image: &Image, indexes: &[Digest], digest: &Digest) -> Result<(Supply, Vec<Digest>), Error> {
        let mut supply = Supply::default();
        for beside in self.store.images.read().images_of(&image.repository) {
            if let Some(tag) = &beside.tag {
                indexes.iter().chain([digest]).for_each(|digest| supply.add_tag(tag.as_str(), digest));
            }
        }
        let mut attestations = Vec::new();
        for index in indexes {
            let Some(index) = self.store.cache.manifests.load(index).await? else { continue };
            attestations.extend(Supply::attestations(&index.bytes, digest).unwrap_or_default());
        }
        attestations.truncate(MOST_PLATFORMS);
        for attestation in &attestations {
            match self.store.cache.manifests.load(attestation).await? {
                Some(manifest) if supply.add_attestation(&manifest.bytes).is_ok() => {}
                _ => supply.add(Attested::Other),
            }
        }
        for digest in indexes.iter().chain([digest]) {
            for artifact_type in self.referrers(image, digest).await? {
                supply.add_artifact(&artifact_type);
            }
        }
        Ok((supply, attestations))
    }

    /// The artifact types of what is known to refer to a manifest.
    async fn referrers(&self, image: &Image, digest: &Digest) -> Result<Vec<String>, Error> {
        let descriptors = if image.repository.is_hosted() {
            let page = ReferrersPage {
                artifact_type: None,
                last: None,
                most: MOST_REFERRERS,
                most_bytes: MOST_REFERRER_BYTES,
            };
            self.store.repositories.referrers(&image.repository.name, digest, Vec::new(), page).await?.0
        } else {
            let Image { repository, credential, .. } = image;
            let source = Source {
                upstream: repository.upstream.clone(),
                credential: credential.clone(),
                repository: repository.name.clone(),
            };
            let kind = format!("referrers-{}-{}", digest.algorithm().as_str(), digest.hex());
            let listing = self.store.cache.listings.load(&source, &kind).await?;
            listing.and_then(|listing| serde_json::from_slice(&listing.body).ok()).unwrap_or_default()
        };
        let artifact_type = |descriptor: &serde_json::Value| descriptor["artifactType"].as_str().map(str::to_owned);
        Ok(descriptors.iter().take(MOST_REFERRERS).filter_map(artifact_type).collect())
    }

    /// Whether the name of a base stands for another image here than when it was built on, or still for the same.
    fn has_moved(&self, base: &Base) -> Option<bool> {
        let (path, tag) = base.name().rsplit_once(':')?;
        let (upstream, name) = path.split_once('/')?;
        let repository = Repository { upstream: upstream.into(), name: name.parse::<Name>().ok()? };
        let tag = tag.parse::<Tag>().ok()?;
        let reading = self.store.images.read();
        let current = reading.images_of(&repository).into_iter().find(|image| image.tag.as_ref() == Some(&tag))?;
        let is_other = |built_on: &Digest| {
            let is_child = || reading.objects(&current.digest).iter().any(|(child, _)| child.digest == *built_on);
            current.digest != *built_on && !is_child()
        };
        let has_moved = match base {
            Base::Named { digest, .. } => is_other(digest.as_ref()?),
            // Otherwise it was found by the layers that the name stands for now.
            Base::Shared { once, .. } => once.as_ref().is_some_and(is_other),
        };
        let since = current.checked_at.and_then(|at| clock::now().duration_since(at).ok()).unwrap_or_default();
        let is_confirmed = since <= CONFIRMED && self.store.cache.imports.of(&current).is_none();
        (has_moved || is_confirmed).then_some(has_moved)
    }

    /// The cached image with the longest chain of layers on which these are built.
    async fn shared_base(&self, layers: Vec<Digest>) -> Option<Base> {
        let images: Images = self.store.images.clone();
        let search = move || {
            let reading = images.read();
            let mut known = Vec::new();
            for image in reading.images(None).take(MOST_BASES) {
                let name = image.name();
                let chains = chains(&reading, &image.digest, layers.first()?);
                known.extend(chains.into_iter().map(|chain| (name.clone(), chain)));
            }
            nearest_base(&layers, known.iter().map(|(name, chain)| (&**name, &**chain)))
        };
        let base = self.runtime.spawn_blocking(search).await.ok().flatten()?;
        // No tag names it any more, but one did.
        let once = base.name().rsplit_once('@').and_then(|(_, digest)| digest.parse::<Digest>().ok());
        match (once.as_ref().and_then(|digest| self.history.name_of(digest)), base) {
            (Some(name), Base::Shared { layers, .. }) => Some(Base::Shared { name, layers, once }),
            (_, base) => Some(base),
        }
    }
}

/// What kind of image a manifest is, what it says, and its config.
fn image_of(manifest: &Manifest) -> Result<(ManifestKind, Description, Child), NoFacts> {
    let ambiguous = |Malformed(why): Malformed| NoFacts::Ambiguous(why);
    unambiguous(&manifest.bytes).map_err(ambiguous)?;
    let description = manifest.describe().map_err(ambiguous)?;
    let kind = ManifestKind::of(manifest);
    match kind {
        ManifestKind::Image | ManifestKind::ByItsConfig | ManifestKind::ByItsLayers => {}
        ManifestKind::Artifact => return Err(NoFacts::NoImage),
        ManifestKind::Schema1 => return Err(NoFacts::Schema1),
        ManifestKind::Unclear => return Err(NoFacts::Unclear),
    }
    // The first child is the config.
    let config = description.children.first().filter(|child| !child.is_manifest).cloned().ok_or(NoFacts::Unclear)?;
    Ok((kind, description, config))
}

/// The layers of the manifests that a digest names and that begin with this one.
fn chains(reading: &Reading<'_>, digest: &Digest, lowest: &Digest) -> Vec<Vec<Digest>> {
    let objects = reading.objects(digest);
    let (manifests, blobs): (Vec<_>, Vec<_>) =
        objects.into_iter().map(|(child, _)| child).partition(|child| child.is_manifest);
    let of_image = |blobs: Vec<Child>| -> Option<Vec<Digest>> {
        // The first one is the config.
        let layers: Vec<Digest> = blobs.into_iter().skip(1).map(|child| child.digest).collect();
        (layers.first() == Some(lowest)).then_some(layers)
    };
    let below = manifests.into_iter().take(MOST_PLATFORMS).filter_map(|child| {
        let objects = reading.objects(&child.digest).into_iter().map(|(child, _)| child);
        of_image(objects.filter(|child| !child.is_manifest).collect())
    });
    below.chain(of_image(blobs)).collect()
}
