//! Purge: which names and objects go, and their removal.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::completeness::Reading;
use crate::{
    Error, Source,
    cache::{Cache, Image, Repository},
    files::Kind,
    oci::{Digest, Tag},
    remove::{Left, Removal, Remover},
};

/// How long a purge waits for pulls that read what it removes, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(8);
const EVERY: Duration = Duration::from_millis(100);

/// What is to be purged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// All of a repository.
    Repository(Repository),
    /// A tag, and what no other image needs of what it names.
    Tag(Repository, Tag),
    /// What a repository has under a digest, with its tags that name it; and what no other image needs of that.
    Manifest(Repository, Digest),
    /// A manifest or blob, wherever it is named.
    Digest(Digest),
    /// Everything that is cached, what no image needs too.
    All,
}

/// What a purge removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Tags that are forgotten.
    pub removed: u64,
    /// Manifests whose bytes are gone.
    pub manifests: u64,
    /// Blobs whose bytes are gone.
    pub blobs: u64,
    /// Bytes of both.
    pub freed: u64,
    /// Objects that stay because a hosted repository holds them, they could not be removed, or a pull still reads them.
    pub kept: u64,
    /// Those of them that a pull still reads: they are removed after it. Not known of what would be removed.
    pub reading: u64,
}

impl Purged {
    fn count(&mut self, kind: Kind, size: u64) {
        *(if kind == Kind::Blob { &mut self.blobs } else { &mut self.manifests }) += 1;
        self.freed += size;
    }
}

/// What a purge forgets and removes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    repositories: HashSet<Repository>,
    tags: HashSet<(Source, Tag)>,
    members: HashSet<(Source, Digest)>,
    manifests: HashSet<Digest>,
    blobs: HashSet<Digest>,
    /// What was selected by its digest alone.
    by_digest: HashSet<Digest>,
}

impl Plan {
    pub(super) fn new(reading: &Reading<'_>, selections: &[Selection]) -> Plan {
        let state = &reading.state;
        let mut plan = Plan::default();
        let (mut by_digest, mut tags, mut manifests) = (HashSet::new(), HashSet::new(), HashSet::new());
        for selection in selections {
            match selection {
                Selection::Repository(repository) => drop(plan.repositories.insert(repository.clone())),
                Selection::Tag(repository, tag) => drop(tags.insert((repository, tag))),
                Selection::Manifest(repository, digest) => drop(manifests.insert((repository, digest))),
                Selection::Digest(digest) => drop(by_digest.insert(digest.clone())),
                Selection::All => {
                    plan.repositories.extend(state.repositories(None).filter(|it| !it.is_hosted()).cloned());
                }
            }
        }
        // What goes is what the selected images reach and no other image does. A manifest that was selected by its digest goes
        // whatever names it, and so does a tag that names it.
        let (mut going, mut staying) = (by_digest.clone(), HashSet::new());
        for repository in state.repositories(None) {
            if repository.is_hosted() {
                staying.extend(state.images(repository).into_iter().map(|image| image.digest));
                continue;
            }
            let all = plan.repositories.contains(repository);
            let (mut going_here, mut staying_here, mut sources) = (HashSet::new(), HashSet::new(), HashSet::new());
            for image in state.images(repository) {
                let Image { credential, tag, digest, .. } = image;
                let by_tag = tag.as_ref().is_some_and(|tag| tags.contains(&(repository, tag)));
                if all || by_tag || by_digest.contains(&digest) || manifests.contains(&(repository, &digest)) {
                    let Repository { upstream, name } = repository.clone();
                    let source = Source { upstream, credential, repository: name };
                    plan.tags.extend(tag.map(|tag| (source.clone(), tag)));
                    sources.insert(source);
                    going_here.insert(digest);
                } else {
                    staying_here.insert(digest);
                }
            }
            if all {
                going_here.extend(state.members(repository).map(|(_, digest)| digest.clone()));
            }
            if !going_here.is_empty() {
                // Though another repository keeps the bytes, this one has no image of them any more.
                let (lost, kept) = (state.reach(&going_here), state.reach_without(&staying_here, &by_digest));
                let members = state.members(repository);
                let members = members.filter(|(_, digest)| lost.contains(*digest) && !kept.contains(*digest));
                plan.members.extend(members.map(|(source, digest)| (source, digest.clone())));
                // A membership of a blob is a file, too.
                for digest in lost.iter().filter(|digest| !kept.contains(*digest) && state.children(digest).is_none()) {
                    plan.members.extend(sources.iter().map(|source| (source.clone(), digest.clone())));
                }
            }
            going.extend(going_here);
            staying.extend(staying_here);
        }
        let staying = state.reach_without(&staying, &by_digest);
        // What goes is looked at from the selected ones down: a manifest that stays keeps what it names.
        let going: HashSet<Digest> =
            state.reach(&going).into_iter().filter(|digest| !staying.contains(digest)).collect();
        for repository in state.repositories(None).filter(|it| !it.is_hosted()) {
            let members = state.members(repository).filter(|(_, digest)| going.contains(*digest));
            plan.members.extend(members.map(|(source, digest)| (source, digest.clone())));
        }
        for digest in going {
            // By digest alone it may be a blob, or a manifest; under both names it is removed.
            if state.children(&digest).is_some() || by_digest.contains(&digest) {
                plan.manifests.insert(digest.clone());
            }
            if state.children(&digest).is_none() {
                plan.blobs.insert(digest);
            }
        }
        if selections.contains(&Selection::All) {
            let accounts = reading.capacity.accounts();
            plan.manifests.extend(accounts.manifests.digests().cloned());
            plan.blobs.extend(accounts.blobs.digests().cloned());
        }
        plan.by_digest = by_digest;
        plan
    }

    /// What would go.
    pub(super) fn rehearse(&self, remover: &Remover) -> Purged {
        let mut purged = Purged::default();
        for (kind, digest) in self.objects() {
            match remover.capacity.size(kind, digest) {
                Some(_) if remover.pins.is_pinned(kind, digest) => purged.kept += 1,
                Some(size) => purged.count(kind, size),
                None => {}
            }
        }
        purged.removed = self.tags.len() as u64;
        purged
    }

    /// Forgets the names, then removes the bytes. Waits for pulls that read them, and leaves to the evictor what they still read then.
    ///
    /// # Errors
    /// [`Error::Io`]; some may be gone then.
    pub(super) fn execute(&self, cache: &Cache, remover: &Remover) -> Result<Purged, Error> {
        let mut purged = Purged::default();
        for (source, tag) in &self.tags {
            purged.removed += u64::from(cache.tags.forget(source, tag)?);
        }
        // The memberships and the lists of a whole repository are no names that an operator knows.
        for repository in &self.repositories {
            cache.forget_now(&repository.upstream, &repository.name, None)?;
        }
        for (source, digest) in &self.members {
            cache.members.forget_one(source, digest)?;
        }
        let mut left: Vec<_> = self.objects().filter(|(kind, it)| remover.capacity.size(*kind, it).is_some()).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            left.retain(|(kind, digest)| {
                match remover.remove(*kind, digest, |capacity| capacity.removed(*kind, digest)) {
                    Removal::Removed(size) => purged.count(*kind, size),
                    Removal::InUse => return true,
                    Removal::Kept => purged.kept += 1,
                }
                false
            });
            if left.is_empty() || Instant::now() >= until || remover.files.is_closing() {
                break;
            }
            std::thread::sleep(EVERY);
        }
        purged.reading = left.len() as u64;
        purged.kept += purged.reading;
        let leave = |(kind, digest): (Kind, &Digest)| {
            let by_digest = self.by_digest.contains(digest);
            Left { kind, digest: digest.clone(), by_digest }
        };
        remover.leave(left.into_iter().map(leave));
        Ok(purged)
    }

    fn objects(&self) -> impl Iterator<Item = (Kind, &Digest)> {
        let manifests = self.manifests.iter().map(|digest| (Kind::Manifest, digest));
        manifests.chain(self.blobs.iter().map(|digest| (Kind::Blob, digest)))
    }
}
