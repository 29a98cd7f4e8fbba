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

mod children;
mod named;
mod references;
mod whole;

use std::{
    collections::HashSet,
    num::NonZeroU64,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use foldhash::quality::RandomState;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};

use self::references::{Number, References};
pub(crate) use self::{
    children::{Children, Named},
    whole::DEPTH,
};
use crate::{
    Source,
    capacity::seconds,
    oci::{Digest, Manifest, Name, Tag},
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
    // Held while it is found which manifests are whole: for a list of what is complete, and never for a pull.
    settling: Mutex<()>,
    complete: AtomicBool,
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Now {
    state: State,
    references: References,
    /// Manifests of which it is not known whether they are whole, since they came or went: those of a second, after which they are looked at.
    unsettled: Vec<Digest>,
    /// What went while the files are read: what the reader found before is not believed.
    gone: HashSet<Entry>,
}

/// What is cached, at a moment. Cloning is cheap, and the clone stays as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    repositories: RedBlackTreeMapSync<Repository, Contents>,
    manifests: HashTrieMapSync<Digest, Known, RandomState>,
    /// Tags and memberships.
    names: u64,
}

/// What is known of a manifest.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What it names; `None` when it is not here.
    children: Option<Children>,
    /// Tags that name it, each as often as there are credentials under which it does.
    tags: u32,
    /// Repositories that have it, each as often as there are credentials under which it does.
    members: u32,
    /// Stands for it in the references while it is here.
    number: Number,
    /// How many levels of manifests stand below it; `None` when something that it names is not here.
    height: Option<u8>,
    /// When it came, in seconds since 1970, while it is here.
    arrived: u32,
    /// Bytes that it claims for what it names, each object once; `None` for an index, whose manifests name more, and for nothing.
    claimed: Option<NonZeroU64>,
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

    /// Which of these objects a manifest names that is none of them.
    pub(crate) fn named_elsewhere<'a>(&self, objects: &'a HashSet<Digest>) -> Vec<&'a Digest> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let names = |parent: &Digest, digest: &Digest| {
            let children = now.state.children(parent).into_iter().flat_map(|children| children.iter());
            children.into_iter().any(|child| child.digest == *digest)
        };
        let is_named = |digest: &&Digest| {
            let mut parents = now.references.parents(digest).filter(|parent| !objects.contains(*parent));
            parents.any(|parent| names(parent, digest))
        };
        objects.iter().filter(is_named).collect()
    }

    /// Whether a name or a manifest that is here names this object.
    pub(crate) fn is_named(&self, digest: &Digest) -> bool {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let names = |parent: &Digest| {
            let children = now.state.children(parent).into_iter().flat_map(|children| children.iter());
            children.into_iter().any(|child| child.digest == *digest)
        };
        let is_listed = now.state.manifests.get(digest).is_some_and(|known| known.tags > 0 || known.members > 0);
        is_listed || now.references.parents(digest).any(names)
    }

    /// A number that is another one after each change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Now> {
        self.changes.fetch_add(1, Ordering::AcqRel);
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
        let key = (tag.clone(), source.credential.clone());
        let before = now.state.change(source.into(), |contents| {
            let before = contents.tags.get(&key).map(|(digest, _)| digest.clone());
            if !(found && before.is_some()) {
                contents.tags.insert_mut(key, (digest.clone(), checked_at));
            }
            before
        });
        match before {
            Some(_) if found => return,
            Some(before) => now.state.count(&before, |known| known.tags = known.tags.saturating_sub(1)),
            None => now.state.names += 1,
        }
        now.state.count(digest, |known| known.tags += 1);
    }

    pub(crate) fn untag(&self, source: &Source, tag: &Tag) {
        self.removed(Entry::Tag(source.clone(), tag.clone()), |state| {
            let key = (tag.clone(), source.credential.clone());
            let taken = state.take(&source.into(), |contents| {
                let digest = contents.tags.get(&key).map(|(digest, _)| digest.clone());
                contents.tags.remove_mut(&key);
                digest
            });
            if let Some(digest) = taken.flatten() {
                state.names -= 1;
                state.count(&digest, |known| known.tags = known.tags.saturating_sub(1));
            }
        });
    }

    /// The source has this manifest.
    pub(crate) fn member(&self, source: &Source, digest: &Digest, found: bool) {
        let mut now = self.write();
        if found && now.gone.contains(&Entry::Member(source.clone(), digest.clone())) {
            return;
        }
        let key = (digest.clone(), source.credential.clone());
        let is_new = now.state.change(source.into(), |contents| {
            let is_new = !contents.manifests.contains(&key);
            if is_new {
                contents.manifests.insert_mut(key);
            }
            is_new
        });
        if is_new {
            now.state.names += 1;
            now.state.count(digest, |known| known.members += 1);
        }
    }

    /// Whether a manifest is here and not listed under this source.
    pub(crate) fn lacks_member(&self, source: &Source, digest: &Digest) -> bool {
        let state = self.read();
        state.children(digest).is_some()
            && state
                .repositories
                .get(&source.into())
                .is_none_or(|contents| !contents.manifests.contains(&(digest.clone(), source.credential.clone())))
    }

    pub(crate) fn unmember(&self, source: &Source, digest: &Digest) {
        self.removed(Entry::Member(source.clone(), digest.clone()), |state| {
            let taken = state.take(&source.into(), |contents| {
                contents.manifests.remove_mut(&(digest.clone(), source.credential.clone()))
            });
            if taken == Some(true) {
                state.names -= 1;
                state.count(digest, |known| known.members = known.members.saturating_sub(1));
            }
        });
    }

    /// A manifest is here, whose file was written then.
    pub(crate) fn manifest(&self, manifest: &Manifest, written: SystemTime, found: bool) {
        // One that cannot be read names nothing, as for a client.
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        let mut now = self.write();
        if !(found && now.gone.contains(&Entry::Manifest(manifest.digest.clone()))) {
            now.add(&manifest.digest, Children::from(children), seconds(written));
        }
    }

    /// A manifest is here no more.
    pub(crate) fn gone(&self, digest: &Digest) {
        let entry = Entry::Manifest(digest.clone());
        let mut now = self.write();
        if !self.is_complete() {
            now.gone.insert(entry);
        }
        now.remove(digest);
    }

    fn removed(&self, entry: Entry, remove: impl FnOnce(&mut State)) {
        let mut now = self.write();
        if !self.is_complete() {
            now.gone.insert(entry);
        }
        remove(&mut now.state);
    }
}

impl Now {
    /// A manifest names these; what has its digest names the same.
    fn add(&mut self, digest: &Digest, children: Children, arrived: u32) {
        if self.state.children(digest).is_some() {
            return;
        }
        let number = self.references.add(digest, &children);
        let mut seen = HashSet::new();
        let sizes = children.iter().filter(|child| seen.insert(&child.digest)).map(Named::size);
        let claimed = sizes.fold(0, u64::saturating_add);
        let is_index = children.iter().any(Named::is_manifest);
        self.state.count(digest, |known| {
            (known.children, known.number, known.arrived) = (Some(children), number, arrived);
            known.claimed = NonZeroU64::new(claimed).filter(|_| !is_index);
        });
        self.unsettled.push(digest.clone());
    }

    /// What a manifest named counts no more.
    fn remove(&mut self, digest: &Digest) {
        let mut before = None;
        self.state.count(digest, |known| {
            before = known.children.take().map(|children| (known.number, children));
            (known.height, known.claimed) = (None, None);
        });
        let Some((number, children)) = before else { return };
        self.references.remove(number, &children);
        // Those that name it are no more whole.
        self.unsettled.extend(self.references.parents(digest).cloned());
    }
}

impl State {
    fn change<T>(&mut self, repository: Repository, change: impl FnOnce(&mut Contents) -> T) -> T {
        if let Some(contents) = self.repositories.get_mut(&repository) {
            return change(contents);
        }
        let mut contents = Contents::default();
        let changed = change(&mut contents);
        self.repositories.insert_mut(repository, contents);
        changed
    }

    /// Changes what is known of a manifest; nothing is kept of one that is not here and that no name names.
    fn count(&mut self, digest: &Digest, change: impl FnOnce(&mut Known)) {
        let mut known = self.manifests.get(digest).cloned().unwrap_or_default();
        change(&mut known);
        if known.children.is_none() && known.tags == 0 && known.members == 0 {
            self.manifests.remove_mut(digest);
        } else {
            self.manifests.insert_mut(digest.clone(), known);
        }
    }

    /// A repository of which nothing is left is gone.
    fn take<T>(&mut self, repository: &Repository, take: impl FnOnce(&mut Contents) -> T) -> Option<T> {
        let contents = self.repositories.get_mut(repository)?;
        let taken = take(contents);
        if contents.tags.is_empty() && contents.manifests.is_empty() {
            self.repositories.remove_mut(repository);
        }
        Some(taken)
    }

    /// What a manifest names; `None` when it is not here.
    pub(crate) fn children(&self, digest: &Digest) -> Option<&Children> {
        self.manifests.get(digest)?.children.as_ref()
    }

    /// When a manifest that is here came.
    pub(crate) fn arrived(&self, digest: &Digest) -> Option<SystemTime> {
        let known = self.manifests.get(digest).filter(|known| known.children.is_some())?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(known.arrived.into()))
    }

    /// Bytes that a manifest claims for what it names; `None` for an index, for one that claims nothing, and when it is not here.
    pub(crate) fn claimed(&self, digest: &Digest) -> Option<u64> {
        Some(self.manifests.get(digest)?.claimed?.get())
    }

    /// The digest of a manifest that is here or that a name names, as it stands in here.
    pub(crate) fn known(&self, digest: &Digest) -> Option<&Digest> {
        self.manifests.get_key_value(digest).map(|(digest, _)| digest)
    }

    /// Every manifest that is here, with what it names.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&Digest, &Children)> {
        self.manifests.iter().filter_map(|(digest, known)| Some((digest, known.children.as_ref()?)))
    }

    /// Tags and memberships: so much there is to count.
    pub(crate) fn names(&self) -> u64 {
        self.names
    }

    /// Whether another tag names this manifest than the `own` that the asker knows of.
    pub(crate) fn is_tagged_more(&self, digest: &Digest, own: u32) -> bool {
        self.manifests.get(digest).is_some_and(|known| known.tags > own)
    }

    /// Whether another repository has this manifest, which is here.
    pub(crate) fn is_elsewhere(&self, digest: &Digest, repository: &Repository) -> bool {
        let Some(known) = self.manifests.get(digest).filter(|known| known.children.is_some()) else { return false };
        let own = self.repositories.get(repository).map_or(0, |contents| {
            let from = (digest.clone(), Arc::from(""));
            contents.manifests.range(from..).take_while(|(own, _)| own == digest).count()
        });
        known.members as usize > own
    }

    /// The repositories in byte order, from this one on.
    pub(crate) fn repositories(&self, from: Option<&Repository>) -> impl Iterator<Item = &Repository> {
        let from = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        self.repositories.range((from, std::ops::Bound::Unbounded)).map(|(repository, _)| repository)
    }

    /// Whether a repository has an image: memberships alone are none, when the bytes are not here.
    pub(crate) fn has_images(&self, repository: &Repository) -> bool {
        self.repositories.get(repository).is_some_and(|contents| {
            !contents.tags.is_empty() || contents.manifests.iter().any(|(digest, _)| self.children(digest).is_some())
        })
    }

    /// The images of a repository: its tags in byte order, then the manifests that none of them reaches.
    pub(crate) fn images(&self, repository: &Repository) -> Vec<Image> {
        self.images_wanted(repository, None, None)
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
        let children = self.children(digest).into_iter().flat_map(|children| children.iter());
        children.filter(|child| child.is_manifest()).map(|child| &child.digest)
    }

    /// These manifests, and those that stand in them. Blobs are left out, of which there are ten times as many.
    fn manifests_below<'a>(&'a self, from: impl IntoIterator<Item = &'a Digest>) -> HashSet<&'a Digest, RandomState> {
        let mut todo: Vec<&Digest> = from.into_iter().collect();
        let mut found = HashSet::default();
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
            if let Some(children) = self.children(&digest) {
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
        [&leaf, &middle, &top].into_iter().for_each(|manifest| inventory.manifest(manifest, SystemTime::now(), false));
        [&leaf, &top].into_iter().for_each(|manifest| inventory.member(&source, &manifest.digest, false));
        let images = inventory.read().images(&Repository::from(&source));
        assert_eq!(images.iter().map(|image| &image.digest).collect::<Vec<_>>(), [&top.digest]);
    }
}
