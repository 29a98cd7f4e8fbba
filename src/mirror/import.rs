//! Archives that come in: read and stored first, then named image by image. `archive` says what is guaranteed and what is refused.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use weir_storage::{Error as StoreError, ImportMark, Store};

use super::{
    handles::Handles,
    import_holds::Holds,
    import_image::{ImageImport, ImportTarget, Refusal},
    import_staging::{ArchiveError, Pieces, Staged, Staging},
    settings::SharedSettings,
};
use crate::{
    archive::{self, Listed},
    clock,
    oci::{Digest, Reference},
};

/// How long an import waits for what is stored to be counted, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(50);

/// Why nothing is imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Two others are under way.
    #[error("two exports or imports are under way; try again when one of them has ended")]
    Busy,
    /// The archive cannot be read, or the store takes it not.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// What became of the images of an archive.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    /// Each, in the order of `index.json`.
    pub images: Vec<ImportedImage>,
    /// Objects of the archive that are what their digests say.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects that were not here before and stay.
    pub stored: u64,
}

/// What became of an image.
#[derive(Debug, Serialize)]
pub struct ImportedImage {
    /// Its full name here; what the archive or the operator calls it where that has no place here; empty when neither names it.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Whether it is here now.
    pub imported: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// That upstream confirmed the tag lately, so that it was not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Platforms that were in the archive, when its index names others, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
}

/// Where an image belongs by its full name, or why it has no place here.
pub type Resolve = Box<dyn Fn(&str) -> Result<ImportTarget, String> + Send>;

/// Takes archives in. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Imports {
    store: Store,
    settings: SharedSettings,
    runtime: Handle,
    permits: Arc<Semaphore>,
    holds: Holds,
}

impl Imports {
    /// `permits` bounds exports and imports at once.
    pub(super) fn new(handles: &Handles, permits: Arc<Semaphore>) -> Imports {
        let (store, settings) = (handles.sources.store.clone(), handles.settings.clone());
        Imports { store, settings, runtime: handles.runtime.clone(), permits, holds: Holds::default() }
    }

    /// Reads an archive to its end and names its images. `name` is that of the only image, when the archive gives it none. The work ends
    /// when `pieces` does, whether this is awaited or not.
    ///
    /// # Errors
    /// See [`ImportError`]; an image that is refused is no error.
    pub async fn run(
        &self,
        pieces: Pieces,
        name: Option<String>,
        by: String,
        resolve: Resolve,
    ) -> Result<Imported, ImportError> {
        let mark = ImportMark { at: clock::now(), by };
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| ImportError::Busy)?;
        let until = Instant::now() + PATIENCE;
        while !self.store.images.is_complete() {
            if Instant::now() >= until {
                return Err(ArchiveError::Store(StoreError::Counting).into());
            }
            tokio::time::sleep(EVERY).await;
        }
        let imports = self.clone();
        let work = self.runtime.spawn_blocking(move || imports.work(pieces, name, &mark, &resolve, permit));
        let vanished = |_| ArchiveError::Ended("the mirror is stopping".to_owned());
        Ok(work.await.map_err(vanished)??)
    }

    /// Blocks: the archive is read where it may wait.
    fn work(
        &self,
        pieces: Pieces,
        name: Option<String>,
        mark: &ImportMark,
        resolve: &Resolve,
        _permit: OwnedSemaphorePermit,
    ) -> Result<Imported, ArchiveError> {
        let mut staged = Staged::default();
        let (store, runtime, holds) = (&self.store, &self.runtime, &self.holds);
        let read = Staging { store, runtime, holds, staged: &mut staged }.read(pieces);
        let named = read.and_then(|()| self.runtime.block_on(self.name(&staged, name, mark, resolve)));
        let discarded = self.holds.release(&staged.held, |unheld| self.discard(&staged, unheld));
        let mut imported = named?;
        imported.objects = staged.present.len() as u64;
        imported.bytes = staged.present.values().sum();
        imported.stored = (staged.written.len() as u64).saturating_sub(discarded);
        Ok(imported)
    }

    /// Removes what no image needs, and the manifests, which are stored elsewhere by now. Gives how many of them this import stored.
    fn discard(&self, staged: &Staged, unheld: Vec<Digest>) -> u64 {
        let written: HashSet<&Digest> = staged.written.iter().collect();
        let (own, others): (Vec<Digest>, Vec<Digest>) = unheld.into_iter().partition(|it| written.contains(it));
        let discard = |blobs| {
            self.runtime.block_on(self.store.images.discard(blobs)).unwrap_or_else(|error| {
                tracing::warn!(%error, "what an import left could not be removed; eviction takes it");
                0
            })
        };
        if !others.is_empty() {
            discard(others);
        }
        discard(own)
    }

    async fn name(
        &self,
        staged: &Staged,
        name: Option<String>,
        mark: &ImportMark,
        resolve: &Resolve,
    ) -> Result<Imported, ArchiveError> {
        let listed = archive::listed(&staged.index).map_err(ArchiveError::Malformed)?;
        if listed.is_empty() {
            return Err(ArchiveError::Malformed("index.json names no image".to_owned()));
        }
        let settings = self.settings.load_full();
        let mut import = ImageImport { store: &self.store, settings: &settings, staged, public: None };
        let mut imported = Imported::default();
        for image in &listed {
            let own = if listed.len() == 1 { name.as_deref() } else { None };
            let mut name = own.or(image.name()).unwrap_or_default().to_owned();
            let result = match target(image, &name, resolve) {
                Ok(target) => {
                    // A name may have been given without its registry.
                    name = target.to_string();
                    take(&mut import, &target, image, mark).await
                }
                Err(why) => Err(Refusal::Image(why)),
            };
            let ((platforms, kept), refused) = match result {
                Ok(taken) => (taken, None),
                Err(Refusal::Image(why)) => ((Vec::new(), None), Some(why)),
                Err(Refusal::Store(error)) => return Err(error.into()),
            };
            let digest = image.digest.to_string();
            imported.images.push(ImportedImage { name, digest, imported: refused.is_none(), refused, kept, platforms });
        }
        Ok(imported)
    }
}

/// Where an image belongs.
fn target(image: &Listed, name: &str, resolve: &Resolve) -> Result<ImportTarget, String> {
    if name.is_empty() {
        let short = image.annotations.get(archive::REF_NAME).map(|name| format!(", only {name:?}")).unwrap_or_default();
        return Err(format!(
            "the archive gives it no full name{short}; import it alone with --name, such as docker.io/library/busybox:1.36"
        ));
    }
    let target = resolve(name)?;
    let is_other = |digest: &Digest| *digest != image.digest;
    match &target.reference {
        Reference::Digest(digest) if is_other(digest) => Err(format!("its name says {digest}")),
        _ => Ok(target),
    }
}

async fn take(
    import: &mut ImageImport<'_>,
    target: &ImportTarget,
    image: &Listed,
    mark: &ImportMark,
) -> Result<(Vec<String>, Option<String>), Refusal> {
    let parts = import.gather(image).await?;
    let kept = import.name(target, image, &parts, mark).await?;
    Ok((parts.platforms, kept))
}
