//! The store: what its parts are, the order in which they begin, and the threads behind them.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    Error, Faults, Settings,
    blobs::Blobs,
    cache::{Cache, ImportMarks},
    capacity::{Capacity, Usage},
    evict::Evictor,
    files::{Disk, Files, Journals, Layout, blocking, reading},
    hosted::{Repositories, Uploads},
    images::{Images, Pinned, Pulls},
    index::{self, Index},
    probe::Probe,
    recover,
    remove::Remover,
    scrub::Scrub,
};

/// How often the housekeeper looks for what has expired.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How often the record of pulls is written: a kill forgets so much of it.
const PULLS_EVERY: Duration = Duration::from_secs(10);

/// Everything on the disk, part by part. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Store {
    /// Content under its digest.
    pub blobs: Blobs,
    /// What upstream said.
    pub cache: Cache,
    /// What lives here.
    pub repositories: Repositories,
    /// Uploads into what lives here.
    pub uploads: Uploads,
    /// What no upstream can give again.
    pub journals: Journals,
    /// What is cached, image by image: lists, pins, purge.
    pub images: Images,
    /// What is cached, by source.
    pub index: Index,
    /// Looks for what rotted.
    pub scrub: Scrub,
    /// Whether the disk takes writes.
    pub probe: Probe,
    capacity: Arc<Capacity>,
    threads: Arc<Threads>,
}

/// The file system that holds a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all that an unprivileged process may have; 0 where that is not counted.
    pub bytes: u64,
    /// Bytes that an unprivileged process may still use.
    pub free_bytes: u64,
    /// Inodes in all; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// The threads of a store, which end with it.
#[derive(Debug)]
struct Threads {
    files: Arc<Files>,
    capacity: Arc<Capacity>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(format!("storage-{name}")).spawn(work);
        let thread = thread.map_err(|source| Error::Io { call: "spawn", path: name.into(), source })?;
        self.running.push(thread);
        Ok(())
    }
}

/// The capacity, or the size of the disk when that is less: otherwise the disk would be full before eviction began, and each pull
/// would take the place of the one before it.
fn within(capacity: u64, size: u64) -> u64 {
    if (1..capacity).contains(&size) {
        warn!(capacity, disk = size, "storage.capacity is more than the disk has, whose size counts instead");
        return size;
    }
    capacity
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.files.close();
        self.capacity.wake_evictor();
        for thread in self.running.drain(..) {
            thread.thread().unpark();
            // The directory must be free when the store is gone. A thread that panicked has said so.
            let _ = thread.join();
        }
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

    /// Whether a process has the directory now. One that cannot be looked at has none.
    pub fn is_in_use(settings: &Settings) -> bool {
        matches!(Disk::default().lock(&Layout::new(settings.root.clone()).lock()), Ok(None))
    }

    /// As [`Store::open`], of a directory that a store has made before; makes nothing when it is not there.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it is not one; those of [`Store::open`].
    pub fn open_existing(settings: Settings) -> Result<Store, Error> {
        recover::must_exist(&Disk::default(), &Layout::new(settings.root.clone()))?;
        Store::open(settings)
    }

    /// As [`Store::open`], on a disk that fails on demand.
    #[doc(hidden)]
    pub fn open_on(settings: Settings, faults: Faults) -> Result<Store, Error> {
        let (disk, layout) = (Disk::new(faults), Layout::new(settings.root.clone()));
        let lock = recover::take(&disk, &layout)?;
        let server = recover::server(&disk, &layout)?;
        let free = disk.free(layout.root())?;
        let inodes = free.inodes;
        let settings = Settings { capacity: within(settings.capacity, free.size), ..settings };
        let files = Arc::new(Files::new(disk, layout, lock));
        let (capacity, demands) = Capacity::new(&settings, inodes);
        let blobs = Blobs::new(files.clone(), capacity.clone(), &settings);
        let journals = Journals::new(files.clone());
        let imports = ImportMarks::open(&journals)?;
        let cache = Cache::new(files.clone(), capacity.clone(), blobs.in_use.clone(), imports, settings.memory_cache);
        let (manifests, sources) = (cache.manifests.clone(), cache.sources.clone());
        let inventory = cache.inventory.clone();
        let repositories =
            Repositories::new(files.clone(), capacity.clone(), blobs.clone(), manifests.clone(), inventory, &settings);
        let uploads = Uploads::new(files.clone(), capacity.clone(), repositories.clone(), server, &settings);
        let index = Index::new(files.clone(), capacity.clone(), sources, settings.index_cache);
        let scrub = Scrub {
            files: files.clone(),
            capacity: capacity.clone(),
            verifier: blobs.verifier.clone(),
            manifests: manifests.clone(),
            pins: repositories.pins().clone(),
            repositories: repositories.clone(),
            served: Arc::default(),
            job: Arc::default(),
        };
        let remover = Remover {
            files: files.clone(),
            capacity: capacity.clone(),
            in_use: blobs.in_use.clone(),
            manifests: manifests.clone(),
            pins: repositories.pins().clone(),
            left: Arc::default(),
        };
        let pinned = Pinned::open(files.clone(), capacity.clone(), cache.inventory.clone(), settings.pinned_share)?;
        let pinned = Arc::new(pinned);
        let images = Images {
            cache: cache.clone(),
            capacity: capacity.clone(),
            remover: remover.clone(),
            pinned: pinned.clone(),
            pulls: Arc::new(Pulls::new()),
            counted: Arc::default(),
        };
        let evictor = Evictor {
            files: files.clone(),
            capacity: capacity.clone(),
            partials: blobs.partials.clone(),
            pins: repositories.pins().clone(),
            pinned,
            inventory: cache.inventory.clone(),
            remover,
            max_idle: settings.max_idle,
            demands,
        };
        recover::sweep(&files, &blobs.partials, settings.partial_ttl)?;
        // Before the evictor starts, for it leaves alone only what is pinned.
        repositories.recover()?;
        let mut threads = Threads { files: files.clone(), capacity: capacity.clone(), running: Vec::new() };
        threads.start("evictor", move || evictor.run())?;
        uploads.recover()?;
        let (counted, in_use, opened) = (capacity.clone(), blobs.in_use.clone(), index.clone());
        let (closing, listed, hosted) = (files.clone(), images.clone(), repositories.clone());
        threads.start("recover", move || {
            recover::count(&files, &counted, &in_use);
            if !files.is_closing() {
                opened.open();
                listed.fill(&files, &hosted);
            }
        })?;
        let (expiring, written, pulled) = (uploads.clone(), index.clone(), images.clone());
        threads.start("housekeeper", move || keep_house(&closing, &expiring, &written, &pulled))?;
        let scrubbing = scrub.clone();
        if !settings.scrub.is_zero() {
            threads.start("scrub", move || scrubbing.serve(settings.scrub))?;
        }
        let probe = Probe::new(threads.files.clone());
        let threads = Arc::new(threads);
        Ok(Store { blobs, cache, repositories, uploads, journals, images, index, scrub, probe, capacity, threads })
    }

    /// What is used, for metrics, readiness and the dashboard. Takes one lock.
    pub fn usage(&self) -> Usage {
        Usage { index_ready: self.index.is_ready(), ..self.capacity.usage() }
    }

    /// What the file system has, asked of it now.
    ///
    /// # Errors
    /// When it cannot be asked, or does not answer in time.
    pub async fn space(&self) -> Result<Space, Error> {
        let files = self.threads.files.clone();
        let free = reading("space", move || files.disk.free(files.layout.root())).await?;
        Ok(Space { bytes: free.size, free_bytes: free.bytes, inodes: free.inodes, free_inodes: free.free_inodes })
    }

    /// Flushes the index; called when the process ends. Further calls still work.
    pub async fn close(&self) {
        let (capacity, index) = (self.capacity.clone(), self.index.clone());
        let (images, files) = (self.images.clone(), self.threads.files.clone());
        // There is no one left to tell, and the index is rebuilt from the files.
        let _ = blocking("close", move || {
            capacity.drain_accesses();
            index.flush();
            images.keep_pulls(&files, true);
            Ok(())
        })
        .await;
    }
}

/// Ends what expired and writes the index and the record of pulls, until the store is closed.
fn keep_house(files: &Files, uploads: &Uploads, index: &Index, images: &Images) {
    let (mut written, mut mended, mut pulled) = (Instant::now(), Instant::now(), Instant::now());
    while !files.is_closing() {
        std::thread::park_timeout(HOUSEKEEPING);
        uploads.expire();
        let due = pulled.elapsed() >= PULLS_EVERY;
        images.keep_pulls(files, due);
        images.count();
        if due {
            pulled = Instant::now();
        }
        if written.elapsed() >= index::EVERY {
            index.flush();
            written = Instant::now();
        }
        if mended.elapsed() >= index::MEND_EVERY {
            index.mend();
            mended = Instant::now();
        }
    }
    index.flush();
    images.keep_pulls(files, true);
}
