//! What the layers hold that are here: looked at in the background, each once, one at a time, and kept by digest.
//!
//! # What it guarantees
//! No pull waits for it: the thread that unpacks runs on cores that nothing else wants, holds no lock and no task of the runtime, and reads the
//! blob by itself. What a report or a policy wants to know comes first; then what is cached, image by image, looked for each minute. A
//! result is in the journal, so that a new process knows it.
//!
//! # What it refuses
//! To keep what was read from a blob that is not verified, that the disk did not give, or while the process ended. A layer that is no layer has
//! a result too, which says so.

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use weir_storage::{Error, Images, Journal, Store};

use super::handles::Handles;
use crate::{
    idle_thread::{core_time, give_way},
    oci::Digest,
    policy::{Bounds, LayerFacts, scan},
};

/// Bytes of results that are remembered, as JSON. Most layers have less than 2 KiB.
const REMEMBERED: u64 = 32 << 20;
/// Bytes that the journal grows by before what is not remembered any more is dropped from it.
const MOST_JOURNAL: usize = 64 << 20;
/// Layers that wait to be looked at; the others are found again a minute later.
const MOST_WAITING: usize = 10_000;
/// Layers that were looked at since the start, of which the walk knows; 50 bytes each.
const MOST_SEEN: usize = 1_000_000;
/// How often what is cached is looked through.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// Time on a core for one layer. One of 10 GiB takes two minutes.
const MOST_WORK: Duration = Duration::from_secs(600);
/// Reads of the clock are system calls, and pieces may be small.
const CLOCK_EVERY: u32 = 64;
/// How long a stopping mirror waits for the layer under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Another number is a result of other rules, and the layer is looked at again.
const VERSION: u32 = 2;

/// A result in the journal.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    digest: Digest,
    facts: LayerFacts,
}

/// What layers hold. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Layers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    runtime: Handle,
    is_wanted: bool,
    known: moka::sync::Cache<Digest, Arc<LayerFacts>>,
    waiting: Mutex<Waiting>,
    /// A layer was wanted.
    wanted: Notify,
    /// How many layers were looked at, for those who wait for one.
    done: watch::Sender<u64>,
    journal: OnceLock<Journal>,
    stop: Arc<AtomicBool>,
    task: Mutex<Option<JoinHandle<()>>>,
    scans: Family<[(&'static str, &'static str); 1], Counter>,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Digest>,
    queued: HashSet<Digest>,
    /// What was looked at, be it remembered or not, so that the walk does not come to it again.
    seen: HashSet<Digest>,
}

impl Layers {
    pub(super) fn new(handles: &Handles) -> Layers {
        let weigh = |_: &Digest, facts: &Arc<LayerFacts>| {
            serde_json::to_vec(&**facts).map_or(u32::MAX, |json| u32::try_from(json.len()).unwrap_or(u32::MAX))
        };
        Layers(Arc::new(Inner {
            store: handles.sources.store.clone(),
            runtime: handles.runtime.clone(),
            is_wanted: handles.settings.load().scan_layers,
            known: moka::sync::Cache::builder().max_capacity(REMEMBERED).weigher(weigh).build(),
            waiting: Mutex::default(),
            wanted: Notify::new(),
            done: watch::Sender::new(0),
            journal: OnceLock::new(),
            stop: Arc::default(),
            task: Mutex::default(),
            scans: Family::default(),
        }))
    }

    /// Takes up what earlier processes found, and looks at layers from now on.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn start(&self) -> Result<(), Error> {
        if !self.0.is_wanted {
            return Ok(());
        }
        let journal = self.0.store.journals.open("layers")?;
        for record in journal.replay()? {
            if let Ok(Record { version: VERSION, digest, facts }) = serde_json::from_slice(&record) {
                self.0.waiting().see(&digest);
                self.0.known.insert(digest, Arc::new(facts));
            }
        }
        if self.0.journal.set(journal).is_ok() {
            let task = self.0.runtime.spawn(run(self.0.clone()));
            *self.0.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        Ok(())
    }

    /// What a layer holds, when it was looked at. No system call.
    pub fn known(&self, digest: &Digest) -> Option<Arc<LayerFacts>> {
        self.0.known.get(digest)
    }

    /// What these layers hold; those that were not looked at come next.
    pub(super) fn look(&self, digests: &[Digest]) -> Vec<Option<Arc<LayerFacts>>> {
        let found: Vec<_> = digests.iter().map(|digest| self.known(digest)).collect();
        let missing = digests.iter().zip(&found).filter(|(_, found)| found.is_none());
        let missing: Vec<&Digest> = missing.map(|(digest, _)| digest).collect();
        if !missing.is_empty() && self.0.journal.get().is_some() {
            let mut waiting = self.0.waiting();
            missing.into_iter().rev().for_each(|digest| waiting.add_first(digest));
            self.0.wanted.notify_one();
        }
        found
    }

    /// Waits until nothing waits to be looked at, for so long at most.
    pub async fn settle(&self, patience: Duration) {
        let mut done = self.0.done.subscribe();
        let settled = done.wait_for(|_| self.waiting() == 0);
        // That it took too long is seen by what is not known.
        let _ = timeout(patience, settled).await;
    }

    /// Layers that wait to be looked at.
    pub fn waiting(&self) -> usize {
        self.0.waiting().queued.len()
    }

    /// Puts what is counted into the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Layers that were looked at, by outcome: sound, problem (it is no sound layer), failed (it was not read)";
        registry.register("layer_scans", help, self.0.scans.clone());
        for outcome in ["sound", "problem", "failed"] {
            drop(self.0.scans.get_or_create(&[("outcome", outcome)]));
        }
    }

    /// Ends the look at the layer under way. It is looked at again after the next start.
    pub async fn close(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.wanted.notify_one();
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // One that does not end is left to the end of the runtime.
            let _ = timeout(STOP_WAIT, task).await;
        }
    }
}

impl Waiting {
    fn add_first(&mut self, digest: &Digest) {
        if self.queued.insert(digest.clone()) {
            self.queue.push_front(digest.clone());
        }
        // The last one waits for the walk.
        while self.queue.len() > MOST_WAITING {
            let last = self.queue.pop_back();
            last.map(|last| self.queued.remove(&last));
        }
    }

    fn see(&mut self, digest: &Digest) {
        if self.seen.len() < MOST_SEEN {
            self.seen.insert(digest.clone());
        }
    }
}

impl Inner {
    // Held for one operation.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, outcome: &'static str) {
        self.scans.get_or_create(&[("outcome", outcome)]).inc();
    }
}

async fn run(inner: Arc<Inner>) {
    let mut written = 0;
    while !inner.has_stopped() {
        let next = inner.waiting().queue.pop_front();
        let Some(digest) = next else {
            inner.done.send_modify(|done| *done += 1);
            if timeout(WALK_EVERY, inner.wanted.notified()).await.is_err() {
                walk(&inner).await;
            }
            continue;
        };
        if inner.known.get(&digest).is_none() {
            match look_at(&inner, &digest).await {
                Ok(Some(facts)) => {
                    inner.count(if facts.problems.is_empty() { "sound" } else { "problem" });
                    written += keep(&inner, &digest, Arc::new(facts), written).await;
                }
                // Evicted, or not here yet.
                Ok(None) => {}
                Err(error) => {
                    inner.count("failed");
                    tracing::warn!(%error, %digest, "a layer could not be looked at");
                }
            }
        }
        inner.waiting().queued.remove(&digest);
        inner.done.send_modify(|done| *done += 1);
    }
}

/// Remembers a result; gives the bytes that the journal grew by.
async fn keep(inner: &Inner, digest: &Digest, facts: Arc<LayerFacts>, written: usize) -> usize {
    inner.waiting().see(digest);
    inner.known.insert(digest.clone(), facts.clone());
    let Some(journal) = inner.journal.get() else { return 0 };
    let record = |digest: &Digest, facts: &LayerFacts| {
        let record = Record { version: VERSION, digest: digest.clone(), facts: facts.clone() };
        serde_json::to_vec(&record).unwrap_or_default()
    };
    let record_of_this = record(digest, &facts);
    let appended = match written + record_of_this.len() > MOST_JOURNAL {
        true => {
            let all = inner.known.iter().map(|(digest, facts)| Bytes::from(record(&digest, &facts))).collect();
            journal.compact(all).await
        }
        false => journal.append(&record_of_this).await,
    };
    if let Err(error) = appended {
        tracing::warn!(%error, %digest, "what a layer holds is not remembered over a restart");
    }
    record_of_this.len()
}

/// Finds the layers that are here and were not looked at.
async fn walk(inner: &Arc<Inner>) {
    let (images, seen) = (inner.store.images.clone(), inner.clone());
    let found = inner.runtime.spawn_blocking(move || unseen(&images, |digest| seen.waiting().seen.contains(digest)));
    let found = found.await.unwrap_or_default();
    let mut waiting = inner.waiting();
    found.iter().rev().for_each(|digest| waiting.add_first(digest));
}

fn unseen(images: &Images, is_seen: impl Fn(&Digest) -> bool) -> Vec<Digest> {
    let reading = images.read();
    let (mut found, mut looked_at) = (HashSet::new(), HashSet::new());
    for image in reading.images(None) {
        let (manifests, blobs): (Vec<_>, Vec<_>) =
            reading.objects(&image.digest).into_iter().partition(|(child, _)| child.is_manifest);
        let below = manifests.into_iter().filter(|(child, _)| looked_at.insert(child.digest.clone()));
        let of_children: Vec<_> = below.map(|(child, _)| reading.objects(&child.digest)).collect();
        for objects in of_children.into_iter().chain([blobs]) {
            // The first one is the config.
            let layers = objects.into_iter().skip(1).filter(|(child, here)| !child.is_manifest && here.is_some());
            found.extend(layers.map(|(child, _)| child.digest).filter(|digest| !is_seen(digest)));
        }
        if found.len() >= MOST_WAITING {
            break;
        }
    }
    found.into_iter().collect()
}

/// Reads of a blob, and whether one failed: that says nothing of the layer.
struct Watched<'a, R> {
    input: R,
    failed: &'a Cell<bool>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).inspect_err(|_| self.failed.set(true))
    }
}

/// What a layer holds; `None` when it is not here, or not known to be what its digest says.
async fn look_at(inner: &Inner, digest: &Digest) -> Result<Option<LayerFacts>, Error> {
    // The reader stays on the runtime, as it takes locks when it is dropped.
    let Some((reader, input)) = inner.store.blobs.inspect(digest).await? else { return Ok(None) };
    let (send, found) = oneshot::channel();
    let stop = inner.stop.clone();
    let work = move || {
        give_way();
        let (failed, calls) = (Cell::new(false), Cell::new(0_u32));
        let may_go_on = || {
            calls.set(calls.get().wrapping_add(1));
            calls.get() % CLOCK_EVERY != 0 || (!stop.load(Ordering::Relaxed) && core_time() < MOST_WORK)
        };
        let facts = scan(Watched { input, failed: &failed }, Bounds::default(), &may_go_on);
        let is_read = !failed.get() && !stop.load(Ordering::Relaxed);
        // The mirror may have ended.
        let _ = send.send(is_read.then_some(facts));
    };
    let started = thread::Builder::new().name("layer-scan".into()).spawn(work);
    started.map_err(|source| Error::Io { call: "spawn", path: "layer-scan".into(), source })?;
    // What makes a decoder panic is no layer either.
    let facts = found.await.unwrap_or_else(|_| Some(LayerFacts::unreadable()));
    Ok(facts.filter(|_| reader.is_whole()))
}
