//! What is cached, in memory: which repository has which tags and manifests, and what each manifest names.
//!
//! Lists, searches, pins and purges are answered from here, so that none of them scans the disk. The parts that write a file
//! report the change; what was there before the start is read from the files in the background. Nothing here is the
//! truth: without it the same answers come from the same files, later.
//!
//! # Cost
//! About 100 bytes for each reference from a manifest to an object, and 200 for each tag.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use crate::{
    Source,
    oci::{Child, Digest, Manifest, Name, Tag},
};

/// A repository of an upstream, whatever the credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository, as upstream names it.
    pub name: Name,
}

/// What a repository has cached under a tag, or under a digest that none of its tags reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub repository: Repository,
    /// Whose answer it is: [`Source::ANONYMOUS`] or an account.
    pub credential: Arc<str>,
    /// The tag, unless it was pulled by digest alone.
    pub tag: Option<Tag>,
    /// The manifest that it names.
    pub digest: Digest,
    /// When upstream last confirmed the tag.
    pub checked_at: Option<SystemTime>,
}

impl Image {
    /// `docker.io/library/busybox:1.36`, as patterns see it; with `@` and the digest when there is no tag.
    pub fn name(&self) -> String {
        let Repository { upstream, name } = &self.repository;
        match &self.tag {
            Some(tag) => format!("{upstream}/{name}:{tag}"),
            None => format!("{upstream}/{name}@{}", self.digest),
        }
    }
}

/// The inventory of a store.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    // Held for a few map operations by what writes, and for a scan in memory by what lists. No pull takes it but when it changes
    // something.
    state: RwLock<State>,
    complete: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    repositories: BTreeMap<Repository, Contents>,
    manifests: HashMap<Digest, Arc<[Child]>>,
    /// What went while the files are read: what the reader found before is not believed.
    gone: HashSet<Entry>,
}

#[derive(Debug, Default)]
struct Contents {
    tags: BTreeMap<(Tag, Arc<str>), (Digest, SystemTime)>,
    manifests: BTreeSet<(Digest, Arc<str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Tag(Source, Tag),
    Member(Source, Digest),
    Manifest(Digest),
}

impl Inventory {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything that was there before the start has been read.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The files have been read; `false` while they are read anew.
    pub(crate) fn set_complete(&self, complete: bool) {
        if complete {
            self.write().gone = HashSet::new();
        }
        self.complete.store(complete, Ordering::Release);
    }

    /// A tag names this, as upstream said at `checked_at`. `found`: a file says so that was there before the start, and anything newer wins.
    pub(crate) fn tag(&self, source: &Source, tag: &Tag, digest: &Digest, checked_at: SystemTime, found: bool) {
        let mut state = self.write();
        if found && state.gone.contains(&Entry::Tag(source.clone(), tag.clone())) {
            return;
        }
        let tags = &mut state.repositories.entry(source.into()).or_default().tags;
        let (key, value) = ((tag.clone(), source.credential.clone()), (digest.clone(), checked_at));
        match found {
            true => drop(tags.entry(key).or_insert(value)),
            false => drop(tags.insert(key, value)),
        }
    }

    pub(super) fn untag(&self, source: &Source, tag: &Tag) {
        self.removed(Entry::Tag(source.clone(), tag.clone()), |state| {
            let Some(contents) = state.repositories.get_mut(&source.into()) else { return };
            contents.tags.remove(&(tag.clone(), source.credential.clone()));
            state.drop_empty(&source.into());
        });
    }

    /// The source has this manifest.
    pub(crate) fn member(&self, source: &Source, digest: &Digest, found: bool) {
        let mut state = self.write();
        if found && state.gone.contains(&Entry::Member(source.clone(), digest.clone())) {
            return;
        }
        let contents = state.repositories.entry(source.into()).or_default();
        contents.manifests.insert((digest.clone(), source.credential.clone()));
    }

    pub(super) fn unmember(&self, source: &Source, digest: &Digest) {
        self.removed(Entry::Member(source.clone(), digest.clone()), |state| {
            let Some(contents) = state.repositories.get_mut(&source.into()) else { return };
            contents.manifests.remove(&(digest.clone(), source.credential.clone()));
            state.drop_empty(&source.into());
        });
    }

    /// A manifest is here.
    pub(crate) fn manifest(&self, manifest: &Manifest, found: bool) {
        // One that cannot be read names nothing, as for a client.
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        let mut state = self.write();
        if !(found && state.gone.contains(&Entry::Manifest(manifest.digest.clone()))) {
            state.manifests.insert(manifest.digest.clone(), children.into());
        }
    }

    /// A manifest is here no more.
    pub(super) fn gone(&self, digest: &Digest) {
        self.removed(Entry::Manifest(digest.clone()), |state| drop(state.manifests.remove(digest)));
    }

    fn removed(&self, entry: Entry, remove: impl FnOnce(&mut State)) {
        let complete = self.is_complete();
        let mut state = self.write();
        if !complete {
            state.gone.insert(entry);
        }
        remove(&mut state);
    }
}

impl State {
    fn drop_empty(&mut self, repository: &Repository) {
        if self.repositories.get(repository).is_some_and(|it| it.tags.is_empty() && it.manifests.is_empty()) {
            self.repositories.remove(repository);
        }
    }

    /// What a manifest names; `None` when it is not here.
    pub(crate) fn children(&self, digest: &Digest) -> Option<&Arc<[Child]>> {
        self.manifests.get(digest)
    }

    /// Every manifest that is here, with what it names.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&Digest, &Arc<[Child]>)> {
        self.manifests.iter()
    }

    /// The repositories in byte order, from this one on.
    pub(crate) fn repositories(&self, from: Option<&Repository>) -> impl Iterator<Item = &Repository> {
        let from = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        self.repositories.range((from, std::ops::Bound::Unbounded)).map(|(repository, _)| repository)
    }

    /// The images of a repository: its tags in byte order, then the manifests that none of them reaches.
    pub(crate) fn images(&self, repository: &Repository) -> Vec<Image> {
        let Some(contents) = self.repositories.get(repository) else { return Vec::new() };
        let image = |credential: &Arc<str>, tag, digest: &Digest, checked_at| Image {
            repository: repository.clone(),
            credential: credential.clone(),
            tag,
            digest: digest.clone(),
            checked_at,
        };
        let mut images: Vec<Image> = Vec::with_capacity(contents.tags.len());
        for ((tag, credential), (digest, checked_at)) in &contents.tags {
            images.push(image(credential, Some(tag.clone()), digest, Some(*checked_at)));
        }
        // An index hides its manifests, be it tagged or not.
        let mut reached = self.manifests_below(contents.tags.values().map(|(digest, _)| digest));
        let mut untagged: Vec<_> = contents.manifests.iter().filter(|(digest, _)| !reached.contains(digest)).collect();
        untagged.retain(|(digest, _)| self.manifests.contains_key(digest));
        for (digest, _) in &untagged {
            reached.extend(self.child_manifests(digest));
        }
        images.extend(
            untagged
                .into_iter()
                .filter(|(digest, _)| !reached.contains(digest))
                .map(|(digest, credential)| image(credential, None, digest, None)),
        );
        images
    }

    /// The tags of a repository that name one of these, whatever the credential; each with what it names.
    pub(crate) fn tags_of(&self, repository: &Repository, wanted: &HashSet<&Digest>) -> Vec<(Tag, Digest)> {
        let tags = self.repositories.get(repository).into_iter().flat_map(|contents| &contents.tags);
        let mut named: Vec<(Tag, Digest)> = tags
            .filter(|(_, (digest, _))| wanted.contains(digest))
            .map(|((tag, _), (digest, _))| (tag.clone(), digest.clone()))
            .collect();
        // Several accounts may have the same.
        named.dedup();
        named
    }

    fn child_manifests(&self, digest: &Digest) -> impl Iterator<Item = &Digest> {
        let children = self.manifests.get(digest).into_iter().flat_map(|children| children.iter());
        children.filter(|child| child.is_manifest).map(|child| &child.digest)
    }

    /// These manifests, and those that stand in them. Blobs are left out, of which there are ten times as many.
    fn manifests_below<'a>(&'a self, from: impl Iterator<Item = &'a Digest>) -> HashSet<&'a Digest> {
        let mut todo: Vec<&Digest> = from.collect();
        let mut found = HashSet::new();
        while let Some(digest) = todo.pop() {
            if found.insert(digest) {
                todo.extend(self.child_manifests(digest));
            }
        }
        found
    }

    /// The manifests that a repository has, under any credential, whether their bytes are here or not.
    pub(crate) fn members(&self, repository: &Repository) -> impl Iterator<Item = (Source, &Digest)> {
        self.repositories.get(repository).into_iter().flat_map(|contents| &contents.manifests).map(
            |(digest, credential)| {
                let Repository { upstream, name } = repository.clone();
                (Source { upstream, credential: credential.clone(), repository: name }, digest)
            },
        )
    }

    /// These manifests and all that they name, manifests in manifests included; each once.
    pub(crate) fn reach<'a>(&self, from: impl IntoIterator<Item = &'a Digest>) -> HashSet<Digest> {
        self.reach_without(from, &HashSet::new())
    }

    /// As [`State::reach`], as if these manifests were not here.
    pub(crate) fn reach_without<'a>(
        &self,
        from: impl IntoIterator<Item = &'a Digest>,
        without: &HashSet<Digest>,
    ) -> HashSet<Digest> {
        let mut todo: Vec<Digest> = from.into_iter().filter(|digest| !without.contains(*digest)).cloned().collect();
        let mut reached = HashSet::new();
        while let Some(digest) = todo.pop() {
            // An index may name a manifest a thousand times.
            if reached.contains(&digest) {
                continue;
            }
            if let Some(children) = self.manifests.get(&digest) {
                todo.extend(
                    children
                        .iter()
                        .map(|child| &child.digest)
                        .filter(|child| !reached.contains(*child) && !without.contains(*child))
                        .cloned(),
                );
            }
            reached.insert(digest);
        }
        reached
    }
}

impl From<&Source> for Repository {
    fn from(source: &Source) -> Repository {
        Repository { upstream: source.upstream.clone(), name: source.repository.clone() }
    }
}
