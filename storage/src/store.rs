//! The store as everybody else sees it: what is asked often is answered on the spot, the rest on a blocking thread.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Faults, Journal, Listing, Reader, Scrubbed, Settings, TagRecord, Writer,
    blob::{Holds, Stripes},
    core::{Bell, Core, blocking},
    disk::Disk,
    evict::Space,
    index,
    layout::{Kind, Layout},
    memory::Memory,
    oci::{Digest, Manifest, Name, Tag},
    partial::Partials,
    pins::Pins,
    recover,
    upload::Uploads,
};

/// How often the housekeeper looks when nobody calls it.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Whose answer something is: an upstream, the credential it was asked with, and the repository.
///
/// The credential is part of it so that what only one credential may read never answers for another. What anonymous may
/// read is kept under [`Source::ANONYMOUS`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The upstream's configured name, such as `docker.io`.
    pub upstream: Arc<str>,
    /// [`Source::ANONYMOUS`], or the account's user name.
    pub credential: Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
}

impl Source {
    /// The credential of those who have none.
    pub const ANONYMOUS: &'static str = "anonymous";
}

/// What is used, in bytes and in numbers of things.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes that may be used.
    pub capacity: u64,
    /// Bytes of whole blobs. Complete when the count after the start is.
    pub blob_bytes: u64,
    /// Whole blobs.
    pub blobs: u64,
    /// Bytes of manifests.
    pub manifest_bytes: u64,
    /// Manifests.
    pub manifests: u64,
    /// Bytes of partial files and of what writers have reserved.
    pub partial_bytes: u64,
    /// Objects evicted since start.
    pub evicted: u64,
    /// Objects found corrupt since start.
    pub quarantined: u64,
    /// Writers that were refused for want of room, since start.
    pub full: u64,
    /// Whether the index answers; `false` while it is rebuilt.
    pub index_ready: bool,
}

/// Everything on the disk. Cloning is cheap.
///
/// Methods may block on the disk for as long as one small file takes, but for those that are `async`, which run
/// elsewhere, in the tokio runtime they are called in, and finish even when their future is dropped.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    // Held to look up or open a journal.
    journals: Mutex<HashMap<&'static str, Journal>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.bell.end();
        for thread in self.threads.drain(..) {
            // The directory must be free when the store is gone. A thread that panicked has said so.
            let _ = thread.join();
        }
        self.core.uploads.forget();
    }
}

impl Store {
    /// Takes the directory, sweeps what a crash left, and answers; counting and the index follow in the background.
    ///
    /// # Errors
    /// [`Error::Unusable`] when another process has the directory or another version made it; [`Error::Io`].
    pub fn open(settings: Settings) -> Result<Store, Error> {
        Store::open_on(settings, Faults::default())
    }

    /// As [`Store::open`], on a disk that fails on demand.
    #[doc(hidden)]
    pub fn open_on(settings: Settings, faults: Faults) -> Result<Store, Error> {
        let disk = Disk::new(faults);
        let layout = Layout::new(settings.root.clone());
        let lock = recover::take(&disk, &layout)?;
        let space = Space::new();
        let inodes = disk.free(layout.root())?.inodes;
        if inodes > 0 {
            space.most_manifests.store(inodes / 10, Ordering::Relaxed);
        }
        let uploads = Uploads::of(recover::server(&disk, &layout)?);
        let pins = Pins::new(settings.namespaces.clone(), settings.namespace_capacity);
        let core = Arc::new(Core {
            memory: Memory::new(settings.memory_cache),
            settings,
            disk,
            layout,
            space,
            holds: Holds::new(),
            partials: Partials::default(),
            stripes: Stripes::new(),
            repositories: Stripes::new(),
            quarantined: Default::default(),
            collected: Default::default(),
            index_ready: Default::default(),
            index: Default::default(),
            verifier: Default::default(),
            bell: Bell::default(),
            pins,
            durable: Default::default(),
            uploads,
            _lock: lock,
        });
        recover::sweep(&core)?;
        core.recover_hosted()?;
        core.recover_uploads()?;
        let mut inner = Inner { core: core.clone(), threads: Vec::new(), journals: Mutex::default() };
        let counted = core.clone();
        inner.start("recover", move || {
            recover::count(&counted);
            if !counted.bell.has_ended() {
                counted.open_index();
            }
        })?;
        inner.start("housekeeper", move || {
            let (mut written, mut mended) = (Instant::now(), Instant::now());
            while core.bell.wait(HOUSEKEEPING) {
                core.tidy();
                core.expire_uploads();
                if written.elapsed() >= index::EVERY {
                    core.flush_index();
                    written = Instant::now();
                }
                if mended.elapsed() >= index::MEND_EVERY {
                    core.mend_index();
                    mended = Instant::now();
                }
            }
            core.flush_index();
        })?;
        Ok(Store(Arc::new(inner)))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The whole blob, held against eviction while the reader lives; `None` when it is not here. One `open`, one `fstat`; when
    /// somebody is reading it already, neither. On the first reading of what an earlier run stored, the last 64 KiB are given
    /// when it was verified, as of a blob that arrives.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Reader>, Error> {
        let core = self.core();
        if let Some(shared) = core.holds.opened(digest) {
            core.space.note(Kind::Blob, digest);
            return Ok(Some(Reader::of(&shared)));
        }
        let hold = core.holds.hold(digest);
        let path = core.layout.object(Kind::Blob, digest);
        let Some(file) = core.disk.open(&path)? else { return Ok(None) };
        let size = core.disk.length(&file, &path)?;
        core.space.note(Kind::Blob, digest);
        Ok(core.share_blob(digest, file, size, hold)?.map(|shared| Reader::of(&shared)))
    }

    /// The size of a whole blob in bytes. One `stat`.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let core = self.core();
        Ok(core.disk.metadata(&core.layout.object(Kind::Blob, digest))?.map(|metadata| metadata.len()))
    }

    /// Starts to write a blob, adopting a partial file of an earlier attempt: [`Writer::written`] says where to go on.
    ///
    /// `expected` bytes are reserved on disk and in the capacity, after eviction when that is needed. Of two writers of one
    /// digest at most one adopts; both may commit.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no room.
    pub async fn writer(&self, digest: &Digest, expected: Option<u64>) -> Result<Writer, Error> {
        Writer::begin(self, digest.clone(), expected).await
    }

    /// A manifest, from memory when it was read lately. Checked against its digest when read from disk: what does not match is
    /// quarantined and absent.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        self.core().manifest(digest)
    }

    /// Keeps a manifest whose bytes match its digest. Not synced: upstream can give it again.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Full`], [`Error::Io`].
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        let (core, manifest) = (self.core().clone(), manifest.clone());
        blocking("put manifest", move || core.put_manifest(&manifest)).await
    }

    /// What a tag named when upstream was last asked. One look in memory, else one small file.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence; a torn record is absent.
    pub fn tag(&self, source: &Source, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        self.core().tag(source, tag)
    }

    /// Notes what a tag names.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    pub async fn put_tag(&self, source: &Source, tag: &Tag, record: &TagRecord) -> Result<(), Error> {
        let (core, source, tag, record) = (self.core().clone(), source.clone(), tag.clone(), record.clone());
        blocking("put tag", move || core.put_tag(&source, &tag, &record)).await
    }

    /// Forgets a tag.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn remove_tag(&self, source: &Source, tag: &Tag) -> Result<(), Error> {
        let (core, source, tag) = (self.core().clone(), source.clone(), tag.clone());
        blocking("remove tag", move || core.remove_tag(&source, &tag).map(drop)).await
    }

    /// The cached tags of a repository, in byte order. Lists one directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn tags(&self, source: &Source) -> Result<Vec<Tag>, Error> {
        let (core, source) = (self.core().clone(), source.clone());
        blocking("tags", move || core.tags(&source)).await
    }

    /// Whether this source vouched for the digest. One look in memory, else one `stat`.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn vouches(&self, source: &Source, digest: &Digest) -> Result<bool, Error> {
        self.core().vouches(source, digest)
    }

    /// Notes that this source vouched for these digests. A manifest is put before it is vouched for, or the source is not in
    /// [`Store::catalog`] until it has a tag.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`]; some may be noted then.
    pub async fn vouch(&self, source: &Source, digests: &[Digest]) -> Result<(), Error> {
        let (core, source, digests) = (self.core().clone(), source.clone(), digests.to_vec());
        blocking("vouch", move || core.vouch(&source, &digests)).await
    }

    /// Takes it back, when upstream says that the digest is gone there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn unvouch(&self, source: &Source, digest: &Digest) -> Result<(), Error> {
        let (core, source, digest) = (self.core().clone(), source.clone(), digest.clone());
        blocking("unvouch", move || core.unvouch(&source, &digest).map(drop)).await
    }

    /// A list as it was last seen. `kind` is `tags` or `referrers-<algorithm>-<hex>`.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence; [`Error::Unusable`] for another kind of `kind`.
    pub fn listing(&self, source: &Source, kind: &str) -> Result<Option<Listing>, Error> {
        self.core().listing(source, kind)
    }

    /// Keeps a list. Its body is UTF-8.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::Unusable`] as for [`Store::listing`].
    pub async fn put_listing(&self, source: &Source, kind: &str, listing: &Listing) -> Result<(), Error> {
        let (core, source, kind, listing) = (self.core().clone(), source.clone(), kind.to_owned(), listing.clone());
        blocking("put listing", move || core.put_listing(&source, &kind, &listing)).await
    }

    /// Every source that has at least one tag or manifest cached, by upstream, repository, credential in byte order. From the
    /// index, or by walking the directories while it is not to be had. The caller picks the credentials that may be shown.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn catalog(&self) -> Result<Vec<Source>, Error> {
        let core = self.core().clone();
        blocking("catalog", move || core.catalog()).await
    }

    /// Forgets a repository's tag, or all of the repository and what it vouched for (the bytes leave by eviction), under every
    /// credential. Gives how many tags, memberships and listings went.
    ///
    /// # Errors
    /// [`Error::Io`]; some may be gone then.
    pub async fn forget(&self, upstream: &str, repository: &Name, tag: Option<&Tag>) -> Result<u64, Error> {
        let (core, upstream, repository) = (self.core().clone(), upstream.to_owned(), repository.clone());
        let tag = tag.cloned();
        blocking("forget", move || core.forget(&upstream, &repository, tag.as_ref())).await
    }

    /// The journal of that name (lower-case letters, digits, dashes); the same one each time. See [`Journal`].
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or begun.
    pub fn journal(&self, name: &'static str) -> Result<Journal, Error> {
        let mut journals = self.0.journals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = journals.get(name) {
            return Ok(journal.clone());
        }
        let journal = Journal::open(self.core(), name)?;
        journals.insert(name, journal.clone());
        Ok(journal)
    }

    /// What is used, for metrics, readiness and the dashboard. Takes one lock.
    pub fn usage(&self) -> Usage {
        let core = self.core();
        let books = core.space.books();
        Usage {
            capacity: core.settings.capacity,
            blob_bytes: books.blobs.bytes(),
            blobs: books.blobs.count(),
            manifest_bytes: books.manifests.bytes(),
            manifests: books.manifests.count(),
            partial_bytes: books.reserved + books.idle,
            evicted: core.space.evicted.load(Ordering::Relaxed),
            quarantined: core.quarantined.load(Ordering::Relaxed),
            full: core.space.full.load(Ordering::Relaxed),
            index_ready: core.index_ready.load(Ordering::Acquire),
        }
    }

    /// Hashes every stored object again, at most `bytes_per_second` (0: as fast as it goes), and quarantines what does not
    /// match. Ends when its future is dropped.
    ///
    /// # Errors
    /// None at present: an object that cannot be read is logged and left.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<Scrubbed, Error> {
        crate::scrub::scrub(self.core().clone(), bytes_per_second).await
    }

    /// Flushes the index; called when the process ends. Further calls still work.
    pub async fn close(&self) {
        let core = self.core().clone();
        // There is nobody left to tell, and the index is rebuilt from the files.
        let _ = blocking("close", move || {
            core.space.drain_accesses();
            core.flush_index();
            Ok(())
        })
        .await;
    }
}

impl Inner {
    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(format!("storage-{name}")).spawn(work);
        let thread = thread.map_err(|source| Error::Io { call: "spawn", path: name.into(), source })?;
        self.threads.push(thread);
        Ok(())
    }
}
