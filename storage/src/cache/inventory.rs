//! What is cached, in memory: which repository has which tags and manifests, and what each manifest names.
//!
//! Lists, searches, pins and purges are answered from here, so that none of them scans the disk. The parts that write a file
//! report the change; what was there before the start is read from the files in the background. Nothing here is the
//! truth: without it the same answers come from the same files, later.
//!
//! What lists looks at a copy that shares all with the original, so that it holds no lock while it scans.
//!
//! # Cost
//! About 100 bytes for each reference from a manifest to an object, and 500 for each tag.

use std::{
    collections::HashSet,
    sync::{
        Arc, LazyLock, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::{
    Source,
    oci::{Child, Digest, Manifest, Name, Tag},
};

/// The upstream of what is hosted. No upstream can be configured by this name, for it is no host.
const HOSTED: &str = "hosted";

/// A repository of an upstream, whatever the credential; or one that is hosted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository, as upstream names it.
    pub name: Name,
}

impl Repository {
    /// One that is hosted.
    pub fn hosted(name: Name) -> Repository {
        Repository::from(&hosted_source(name))
    }

    /// Whether it is hosted: nothing of it is evicted or purged, and no upstream confirms it.
    pub fn is_hosted(&self) -> bool {
        *self.upstream == *HOSTED
    }

    /// As people write it: `docker.io/library/busybox`, and `team/app` when it is hosted.
    pub fn full_name(&self) -> String {
        let Repository { upstream, name } = self;
        if self.is_hosted() { name.to_string() } else { format!("{upstream}/{name}") }
    }
}

/// What is hosted, as one of the sources of the inventory.
pub(crate) fn hosted_source(name: Name) -> Source {
    static UPSTREAM: LazyLock<Arc<str>> = LazyLock::new(|| HOSTED.into());
    Source { upstream: UPSTREAM.clone(), credential: Source::ANONYMOUS.into(), repository: name }
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
        let mut name = self.repository.full_name();
        match &self.tag {
            Some(tag) => {
                name.push(':');
                name.push_str(tag.as_str());
            }
            None => {
                name.push('@');
                name.push_str(&self.digest.to_string());
            }
        }
        name
    }
}

/// The inventory of a store.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    // Held for a few map operations. No pull takes it but when it changes something.
    now: RwLock<Now>,
    complete: AtomicBool,
}

#[derive(Debug, Default)]
struct Now {
    state: State,
    /// What went while the files are read: what the reader found before is not believed.
    gone: HashSet<Entry>,
}

/// What is cached, at a moment. Cloning is cheap, and the clone stays as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    repositories: RedBlackTreeMapSync<Repository, Contents>,
    manifests: HashTrieMapSync<Digest, Arc<[Child]>>,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    tags: RedBlackTreeMapSync<(Tag, Arc<str>), (Digest, SystemTime)>,
    manifests: RedBlackTreeSetSync<(Digest, Arc<str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Tag(Source, Tag),
    Member(Source, Digest),
    Manifest(Digest),
}

impl Inventory {
    /// What is cached now.
    pub(crate) fn read(&self) -> State {
        self.now.read().unwrap_or_else(PoisonError::into_inner).state.clone()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
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
        let mut now = self.write();
        if found && now.gone.contains(&Entry::Tag(source.clone(), tag.clone())) {
            return;
        }
        now.state.change(source.into(), |contents| {
            let key = (tag.clone(), source.credential.clone());
            if !(found && contents.tags.contains_key(&key)) {
                contents.tags.insert_mut(key, (digest.clone(), checked_at));
            }
        });
    }

    pub(crate) fn untag(&self, source: &Source, tag: &Tag) {
        self.removed(Entry::Tag(source.clone(), tag.clone()), |state| {
            state.take(&source.into(), |contents| {
                contents.tags.remove_mut(&(tag.clone(), source.credential.clone()));
            });
        });
    }

    /// The source has this manifest.
    pub(crate) fn member(&self, source: &Source, digest: &Digest, found: bool) {
        let mut now = self.write();
        if found && now.gone.contains(&Entry::Member(source.clone(), digest.clone())) {
            return;
        }
        let key = (digest.clone(), source.credential.clone());
        now.state.change(source.into(), |contents| contents.manifests.insert_mut(key));
    }

    /// Whether a manifest is here and not listed under this source.
    pub(crate) fn lacks_member(&self, source: &Source, digest: &Digest) -> bool {
        let state = self.read();
        state.manifests.contains_key(digest)
            && state
                .repositories
                .get(&source.into())
                .is_none_or(|contents| !contents.manifests.contains(&(digest.clone(), source.credential.clone())))
    }

    pub(crate) fn unmember(&self, source: &Source, digest: &Digest) {
        self.removed(Entry::Member(source.clone(), digest.clone()), |state| {
            state.take(&source.into(), |contents| {
                contents.manifests.remove_mut(&(digest.clone(), source.credential.clone()));
            });
        });
    }

    /// A manifest is here.
    pub(crate) fn manifest(&self, manifest: &Manifest, found: bool) {
        // One that cannot be read names nothing, as for a client.
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        let mut now = self.write();
        if !(found && now.gone.contains(&Entry::Manifest(manifest.digest.clone()))) {
            now.state.manifests.insert_mut(manifest.digest.clone(), children.into());
        }
    }

    /// A manifest is here no more.
    pub(super) fn gone(&self, digest: &Digest) {
        self.removed(Entry::Manifest(digest.clone()), |state| {
            state.manifests.remove_mut(digest);
        });
    }

    fn removed(&self, entry: Entry, remove: impl FnOnce(&mut State)) {
        let complete = self.is_complete();
        let mut now = self.write();
        if !complete {
            now.gone.insert(entry);
        }
        remove(&mut now.state);
    }
}

impl State {
    fn change(&mut self, repository: Repository, change: impl FnOnce(&mut Contents)) {
        if let Some(contents) = self.repositories.get_mut(&repository) {
            return change(contents);
        }
        let mut contents = Contents::default();
        change(&mut contents);
        self.repositories.insert_mut(repository, contents);
    }

    /// A repository of which nothing is left is gone.
    fn take(&mut self, repository: &Repository, take: impl FnOnce(&mut Contents)) {
        let Some(contents) = self.repositories.get_mut(repository) else { return };
        take(contents);
        if contents.tags.is_empty() && contents.manifests.is_empty() {
            self.repositories.remove_mut(repository);
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

    /// Whether a repository has an image: memberships alone are none, when the bytes are not here.
    pub(crate) fn has_images(&self, repository: &Repository) -> bool {
        self.repositories.get(repository).is_some_and(|contents| {
            !contents.tags.is_empty()
                || contents.manifests.iter().any(|(digest, _)| self.manifests.contains_key(digest))
        })
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
        let mut images: Vec<Image> = Vec::with_capacity(contents.tags.size());
        for ((tag, credential), (digest, checked_at)) in &contents.tags {
            images.push(image(credential, Some(tag.clone()), digest, Some(*checked_at)));
        }
        // An index hides its manifests, and theirs, be it tagged or not.
        let mut reached = self.manifests_below(contents.tags.values().map(|(digest, _)| digest));
        let mut untagged: Vec<_> = contents.manifests.iter().filter(|(digest, _)| !reached.contains(digest)).collect();
        untagged.retain(|(digest, _)| self.manifests.contains_key(digest));
        reached.extend(self.manifests_below(untagged.iter().flat_map(|(digest, _)| self.child_manifests(digest))));
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

    /// Each tag of each repository with what it names.
    pub(crate) fn tags(&self) -> impl Iterator<Item = (&Repository, &Tag, &Digest)> {
        self.repositories.iter().flat_map(|(repository, contents)| {
            contents.tags.iter().map(move |((tag, _), (digest, _))| (repository, tag, digest))
        })
    }

    /// What a repository has, under any credential, whether the bytes are here or not.
    pub(crate) fn digests(&self, repository: &Repository) -> impl Iterator<Item = &Digest> {
        let contents = self.repositories.get(repository).into_iter();
        contents.flat_map(|contents| contents.manifests.iter().map(|(digest, _)| digest))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_lists_keeps_no_writer_waiting_and_sees_one_moment() {
        let (inventory, digest) = (Inventory::default(), Algorithm::Sha256.digest(b"image"));
        let source = hosted_source("team/app".parse().unwrap());
        let repository = Repository::from(&source);
        let tag = |name: &str| name.parse::<Tag>().unwrap();
        inventory.tag(&source, &tag("1"), &digest, SystemTime::UNIX_EPOCH, false);
        let before = inventory.read();
        inventory.tag(&source, &tag("2"), &digest, SystemTime::UNIX_EPOCH, false);
        inventory.untag(&source, &tag("1"));
        let tags = |state: &State| state.images(&repository).iter().map(Image::name).collect::<Vec<_>>();
        assert_eq!(
            (tags(&before), tags(&inventory.read())),
            (vec!["team/app:1".to_owned()], vec!["team/app:2".to_owned()])
        );
        inventory.untag(&source, &tag("2"));
        assert_eq!(inventory.read().repositories(None).count(), 0, "a repository of which nothing is left is gone");
    }

    #[test]
    fn an_index_hides_what_is_in_an_index_of_it_that_its_repository_was_never_asked_for() {
        let (inventory, source) = (Inventory::default(), hosted_source("team/app".parse().unwrap()));
        let index = |children: &[&Manifest]| {
            let entry = |child: &&Manifest| format!(r#"{{"digest":"{}","size":{}}}"#, child.digest, child.bytes.len());
            let entries: Vec<String> = children.iter().map(entry).collect();
            let bytes = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            let bytes = bytes::Bytes::from(bytes);
            let media_type = "application/vnd.oci.image.index.v1+json".parse().unwrap();
            Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
        };
        let leaf = index(&[]);
        let middle = index(&[&leaf]);
        let top = index(&[&middle]);
        [&leaf, &middle, &top].into_iter().for_each(|manifest| inventory.manifest(manifest, false));
        [&leaf, &top].into_iter().for_each(|manifest| inventory.member(&source, &manifest.digest, false));
        let images = inventory.read().images(&Repository::from(&source));
        assert_eq!(images.iter().map(|image| &image.digest).collect::<Vec<_>>(), [&top.digest]);
    }
}
