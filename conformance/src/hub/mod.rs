//! A Docker Hub on loopback that counts, remembers and misbehaves on request.
//!
//! As a library: [`Hub::start`], [`Hub::push`] an image, point a mirror at [`Hub::registry`], exchange [`Hub::log`] what it cost.
//! As a program: `weir-conformance hub`, with the same buttons as JSON over HTTP for shell scripts.
//!
//! What it guarantees: equal [`Spec`]s make equal bytes; a request is in the log before anything is answered; a [`Fault`]
//! strikes exactly as often as it says, whether or not the client had a token already, since it strikes after authorization;
//! nothing is waited for by time where an event can be had ([`Hub::wait_for`], [`Gate`]). What it refuses to do: take writes,
//! speak TLS, imply `library/`.
//!
//! The words that the command line and the control API understand:
//!
//! ```text
#![doc = include_str!("help.txt")]
//! ```

mod blobs;
mod command;
mod content;
mod control;
mod corpus;
mod exchange;
mod fault;
mod fault_response;
mod gate;
mod hostile;
mod image;
mod listener;
mod listings;
mod log;
mod make;
mod manifests;
mod parse;
mod program;
mod pulls;
mod registry;
mod requester;
mod respond;
mod response;
mod send;
mod server;
mod settings;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use socket2::Socket;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use url::Url;

pub use command::Command;
pub use corpus::{Case, corpus};
pub use fault::{At, Fault, Match, What};
pub use gate::Gate;
pub use image::{Artifact, Blob, Image, Layer, Manifest, Media, Platform, Spec};
pub use log::{Authorization, HostileRequest, Kind, Logged, Progress};
pub use settings::{Account, Challenge, Limit, Settings};

use exchange::Port;
use pulls::Source;
use shared::Shared;

/// The words that the command line and the control API understand.
const HELP: &str = include_str!("help.txt");

/// A running hub. Dropping it stops it: connections are reset, ports are free again, temporary files are gone.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    /// For each port, how many connections may yet be accepted.
    connections: [Arc<Semaphore>; 2],
    at_once: u32,
    /// One task for the registry and one for the CDN; empty while the hub is down.
    serving: Mutex<Vec<JoinHandle<()>>>,
    /// What keeps the ports while the hub is down.
    reserved: Mutex<Vec<Socket>>,
    hostile: JoinHandle<()>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.hostile.abort();
        for task in self.serving.lock().unwrap().drain(..) {
            task.abort();
        }
        self.shared.fallen.send_modify(|falls| *falls += 1);
    }
}

impl Hub {
    /// Starts a hub on the current tokio runtime.
    ///
    /// # Errors
    /// A port that cannot be bound, a temporary directory that cannot be made.
    pub async fn start(mut settings: Settings) -> io::Result<Hub> {
        let registry = listener::listen(settings.registry)?;
        let cdn = listener::listen(settings.cdn)?;
        let hostile = hostile::listen()?;
        settings.registry = registry.local_addr()?;
        settings.cdn = cdn.local_addr()?;
        let at_once = settings.connections.max(2);
        let connections = [(), ()].map(|()| Arc::new(Semaphore::new(at_once as usize)));
        let shared = Arc::new(Shared {
            store: RwLock::default(),
            maker: Mutex::default(),
            log: log::Log::default(),
            faults: fault::Faults::default(),
            gates: gate::Gates::default(),
            tokens: tokens::Tokens::default(),
            pulls: pulls::Pulls::default(),
            released: watch::Sender::new(0),
            fallen: watch::Sender::new(0),
            hostile: Mutex::default(),
            hostile_address: hostile.local_addr()?,
            secret: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos().into(),
            scratch: tempfile::tempdir()?,
            settings: RwLock::new(settings),
        });
        let recorder = Arc::clone(&shared);
        let hostile = tokio::spawn(listener::accept(hostile, Arc::new(Semaphore::new(64)), move |stream, peer| {
            hostile::converse(Arc::clone(&recorder), stream, peer)
        }));
        let hub = Hub { shared, connections, at_once, serving: Mutex::default(), reserved: Mutex::default(), hostile };
        hub.serve(registry, cdn);
        Ok(hub)
    }

    fn serve(&self, registry: tokio::net::TcpListener, cdn: tokio::net::TcpListener) {
        let mut serving = self.serving.lock().unwrap();
        for ((listener, port), connections) in
            [(registry, Port::Registry), (cdn, Port::Cdn)].into_iter().zip(&self.connections)
        {
            serving.push(server::serve(listener, port, Arc::clone(&self.shared), Arc::clone(connections)));
        }
    }

    fn settings(&self) -> Settings {
        self.shared.settings.read().unwrap().clone()
    }

    /// The registry's address, `http://127.0.0.1:<port>/`.
    pub fn registry(&self) -> Url {
        url_of(self.settings().registry)
    }

    /// The CDN's address.
    pub fn cdn(&self) -> Url {
        url_of(self.settings().cdn)
    }

    /// The registry's socket address, for raw clients.
    pub fn registry_address(&self) -> SocketAddr {
        self.settings().registry
    }

    /// Changes how the hub behaves from the next request on. Addresses, `connections` and `patience` are fixed.
    pub fn adjust(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.shared.settings.write().unwrap();
        let (registry, cdn) = (settings.registry, settings.cdn);
        change(&mut settings);
        (settings.registry, settings.cdn) = (registry, cdn);
    }

    /// Makes an image and puts it in its repository. Blocks while the bytes are made (about 1 s for 1 GiB, release build).
    ///
    /// # Errors
    /// The temporary directory is full; a [`Layer::Tar`] cannot be read; no platform, or several without an index.
    pub fn push(&self, spec: Spec) -> io::Result<Image> {
        let (image, blobs) = self.shared.maker.lock().unwrap().make(&spec, self.shared.scratch.path())?;
        self.shared.store.write().unwrap().put(&spec, &image, blobs);
        Ok(image)
    }

    /// Puts an artifact that refers to a manifest in its repository.
    pub fn push_referrer(&self, artifact: Artifact) -> Manifest {
        self.shared.store.write().unwrap().put_referrer(&artifact)
    }

    /// Puts a manifest with its blobs in a repository, byte for byte, and among the referrers of its subject, if it has one.
    pub fn push_manifest(&self, repository: &str, manifest: Bytes, blobs: Vec<Bytes>) -> Manifest {
        self.shared.store.write().unwrap().put_manifest(repository, manifest, blobs)
    }

    /// Lets a tag name that digest from now on. The manifest must be in the repository; else the tag answers 404.
    pub fn retag(&self, repository: &str, tag: &str, digest: &str) {
        self.shared.store.write().unwrap().retag(repository, tag, digest);
    }

    /// Removes a tag, a manifest or a blob from a repository. The bytes stay wherever else they are named.
    pub fn remove(&self, repository: &str, reference: &str) {
        self.shared.store.write().unwrap().remove(repository, reference);
    }

    /// Removes a repository with all that is in it.
    pub fn remove_repository(&self, repository: &str) {
        self.shared.store.write().unwrap().remove_repository(repository);
    }

    /// Sets what is left to every anonymous source; may be negative. Pulls go on from there. Without a limit, Hub's 100 in six hours begins.
    pub fn set_budget(&self, remaining: i64) {
        let limit = *self.shared.settings.write().unwrap().limit.get_or_insert(Limit::hub(100));
        self.shared.pulls.set_addresses(limit, remaining, Instant::now());
    }

    /// The same for an account.
    pub fn set_account_budget(&self, account: &str, remaining: i64) {
        let mut settings = self.shared.settings.write().unwrap();
        if let Some(account) = settings.accounts.iter_mut().find(|known| known.name == account) {
            let limit = *account.limit.get_or_insert(Limit::hub(200));
            self.shared.pulls.set(&Source::Account(account.name.clone()), limit, remaining, Instant::now());
        }
    }

    /// Makes every token given so far invalid; requests that bring one are answered 401 `invalid_token`.
    pub fn revoke_tokens(&self) {
        self.shared.tokens.revoke();
    }

    /// Goes down: both ports refuse connections and those that are open are reset. The ports stay ours.
    pub async fn down(&self) {
        let tasks: Vec<_> = self.serving.lock().unwrap().drain(..).collect();
        if tasks.is_empty() {
            return;
        }
        for task in tasks {
            task.abort();
            // Aborted is what it is meant to be; the listener is closed when this returns.
            let _ = task.await;
        }
        let settings = self.settings();
        let held = [settings.registry, settings.cdn].into_iter().filter_map(|address| listener::bind(address).ok());
        self.reserved.lock().unwrap().extend(held);
        self.shared.fallen.send_modify(|falls| *falls += 1);
        for connections in &self.connections {
            // All permits are back when the last connection is closed.
            drop(connections.acquire_many(self.at_once).await);
        }
    }

    /// Comes up again.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn up(&self) -> io::Result<()> {
        self.reserved.lock().unwrap().clear();
        if self.serving.lock().unwrap().is_empty() {
            let settings = self.settings();
            self.serve(listener::listen(settings.registry)?, listener::listen(settings.cdn)?);
        }
        Ok(())
    }

    /// Arms a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.arm(fault);
    }

    /// The faults still armed, with what is left of their counts.
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.faults.armed()
    }

    /// Disarms every fault. Bodies that are stalled stay so, see [`Hub::release`].
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Lets every stalled body go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|releases| *releases += 1);
    }

    /// Holds every matching request before its answer begins.
    pub fn hold(&self, on: Match) -> Gate {
        self.shared.gates.hold(on, self.settings().patience)
    }

    /// Every request since the start or the last [`Hub::clear_log`], in order of arrival.
    pub fn log(&self) -> Vec<Logged> {
        self.shared.log.all()
    }

    /// How many of them are so.
    pub fn count(&self, which: impl Fn(&Logged) -> bool) -> usize {
        self.log().iter().filter(|logged| which(logged)).count()
    }

    /// How many of each kind, by [`Kind::name`]; kinds never seen are absent.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.shared.log.counts()
    }

    /// Forgets every request so far, also what reached the hostile listener.
    pub fn clear_log(&self) {
        self.shared.log.clear();
        self.shared.hostile.lock().unwrap().clear();
    }

    /// Waits until the log is as `ready` wants it, looking at every change; false when it did not within [`Settings::patience`].
    pub async fn wait_for(&self, ready: impl FnMut(&[Logged]) -> bool) -> bool {
        self.shared.log.wait_for(self.settings().patience, ready).await
    }

    /// Where the hostile listener listens.
    pub fn hostile_address(&self) -> SocketAddr {
        self.shared.hostile_address
    }

    /// What reached the hostile listener.
    pub fn hostile_requests(&self) -> Vec<HostileRequest> {
        self.shared.hostile.lock().unwrap().clone()
    }
}

fn url_of(address: SocketAddr) -> Url {
    // An address and a port are always a URL.
    Url::parse(&format!("http://{address}/")).unwrap()
}
