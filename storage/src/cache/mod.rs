//! What upstream said: manifests, tags, membership and lists. Each is a file, with a memory of it in front.
//!
//! Every read has two forms. `now` looks in memory and makes no system call, so that an async worker may ask it; `load` goes to
//! the disk, elsewhere, and does not wait for a disk that hangs. What is `async` and writes is done even when its future is
//! dropped.

mod imports;
mod inventory;
mod listings;
mod manifests;
mod membership;
mod memory;
mod sources;
mod tags;

use std::sync::Arc;

pub use self::{
    imports::{ImportMark, ImportMarks},
    inventory::{Image, Repository},
    listings::{Listing, Listings},
    manifests::Manifests,
    membership::Membership,
    tags::{TagRecord, Tags},
};
pub(crate) use self::{
    inventory::{Children, DEPTH, Inventory, State, hosted_source},
    sources::{Sources, source_of},
};
use crate::{
    Error, Source,
    blobs::InUse,
    capacity::Capacity,
    files::{Files, blocking, escape, unescape},
    oci::{Name, Tag},
};

/// What upstream said. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Manifests, by digest.
    pub manifests: Manifests,
    /// What tags named.
    pub tags: Tags,
    /// Which digests a repository has.
    pub members: Membership,
    /// Tag lists and referrers.
    pub listings: Listings,
    /// Names that came by an import and that upstream has not confirmed.
    pub imports: ImportMarks,
    files: Arc<Files>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) inventory: Arc<Inventory>,
}

impl Cache {
    /// Of `memory` bytes manifests may have half, tags and members an eighth each, lists a quarter.
    pub(crate) fn new(
        files: Arc<Files>,
        capacity: Arc<Capacity>,
        in_use: InUse,
        imports: ImportMarks,
        memory: u64,
    ) -> Cache {
        let inventory = Arc::<Inventory>::default();
        let manifests = Manifests::new(files.clone(), capacity.clone(), in_use, inventory.clone(), memory / 2);
        let sources = Arc::new(Sources::new(files.clone(), manifests.clone()));
        let (to, from) = (capacity, files.clone());
        Cache {
            tags: Tags::new(from.clone(), to.clone(), sources.clone(), inventory.clone(), memory / 8),
            members: Membership::new(
                from.clone(),
                to.clone(),
                manifests.clone(),
                sources.clone(),
                inventory.clone(),
                memory / 8,
            ),
            listings: Listings::new(from, to, memory / 4),
            imports,
            manifests,
            files,
            sources,
            inventory,
        }
    }

    /// Forgets a repository's tag, or all of the repository and of its members (the bytes leave by eviction), under every
    /// credential. Gives how many tags, members and lists went.
    ///
    /// # Errors
    /// [`Error::Io`]; some may be gone then.
    pub async fn forget(&self, upstream: &str, repository: &Name, tag: Option<&Tag>) -> Result<u64, Error> {
        let (cache, upstream, repository) = (self.clone(), upstream.to_owned(), repository.clone());
        let tag = tag.cloned();
        blocking("forget", move || cache.forget_now(&upstream, &repository, tag.as_ref())).await
    }

    pub(crate) fn forget_now(&self, upstream: &str, repository: &Name, tag: Option<&Tag>) -> Result<u64, Error> {
        let directory = self.files.layout.repositories().join(escape(upstream)?);
        let mut gone = 0;
        for credential in self.files.disk.list(&directory)?.iter().filter_map(|name| unescape(name)) {
            let source = Source { upstream: upstream.into(), credential, repository: repository.clone() };
            if let Some(tag) = tag {
                gone += u64::from(self.tags.forget(&source, tag)?);
                continue;
            }
            for tag in self.tags.all(&source)? {
                gone += u64::from(self.tags.forget(&source, &tag)?);
            }
            gone += self.members.forget(&source)? + self.listings.forget(&source)?;
            self.sources.lost(&source);
        }
        Ok(gone)
    }
}
