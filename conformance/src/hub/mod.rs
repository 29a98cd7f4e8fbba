//! A Docker Hub on loopback that counts, remembers and misbehaves on request.

mod command;
mod fault;
mod gate;
mod image;
mod log;
mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use url::Url;

pub use command::Command;
pub use fault::{At, Fault, Match, What};
pub use gate::Gate;
pub use image::{Artifact, Blob, Image, Layer, Manifest, Media, Platform, Spec};
pub use log::{Authorization, Kind, Logged, Progress};
pub use settings::{Account, Challenge, Limit, Settings};

/// A running hub. Dropping it stops it: connections are reset, ports are free again, temporary files are gone.
#[derive(Debug)]
pub struct Hub {
    _private: (),
}

/// A request that reached the evil listener, where nothing should ever arrive with a credential.
#[derive(Clone, Debug)]
pub struct Evil {
    /// Method and target, as sent.
    pub request: String,
    /// Every header, in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Hub {
    /// Starts a hub on the current tokio runtime.
    ///
    /// # Errors
    /// A port that cannot be bound, a temporary directory that cannot be made.
    pub async fn start(settings: Settings) -> std::io::Result<Hub> {
        let _ = settings;
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// The registry's address, `http://127.0.0.1:<port>/`.
    pub fn registry(&self) -> Url {
        unimplemented!()
    }

    /// The CDN's address.
    pub fn cdn(&self) -> Url {
        unimplemented!()
    }

    /// The registry's socket address, for raw clients.
    pub fn registry_address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Changes how the hub behaves from the next request on. Addresses, `connections` and `patience` are fixed.
    pub fn adjust(&self, change: impl FnOnce(&mut Settings)) {
        let _ = change;
    }

    /// Makes an image and puts it in its repository. Blocks while the bytes are made (about 1 s for 1 GiB, release build).
    ///
    /// # Errors
    /// The temporary directory is full; a [`Layer::Tar`] cannot be read.
    pub fn push(&self, spec: Spec) -> std::io::Result<Image> {
        let _ = spec;
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Puts an artifact that refers to a manifest in its repository.
    ///
    /// # Errors
    /// As [`Hub::push`].
    pub fn push_referrer(&self, artifact: Artifact) -> std::io::Result<Manifest> {
        let _ = artifact;
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Lets a tag name that digest from now on. The manifest must be in the repository; else the tag answers 404.
    pub fn retag(&self, repository: &str, tag: &str, digest: &str) {
        let _ = (repository, tag, digest);
    }

    /// Removes a tag, a manifest or a blob from a repository. The bytes stay wherever else they are named.
    pub fn remove(&self, repository: &str, reference: &str) {
        let _ = (repository, reference);
    }

    /// Removes a repository with all that is in it.
    pub fn remove_repository(&self, repository: &str) {
        let _ = repository;
    }

    /// Sets what is left to every anonymous source; may be negative. Pulls go on from there. Without a limit, Hub's 100 in six hours begins.
    pub fn set_budget(&self, remaining: i64) {
        let _ = remaining;
    }

    /// The same for an account.
    pub fn set_account_budget(&self, account: &str, remaining: i64) {
        let _ = (account, remaining);
    }

    /// Goes down: both ports refuse connections and those that are open are reset. The ports stay ours.
    pub async fn down(&self) {}

    /// Comes up again.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn up(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Arms a fault.
    pub fn fault(&self, fault: Fault) {
        let _ = fault;
    }

    /// The faults still armed, with what is left of their counts.
    pub fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }

    /// Disarms every fault. Bodies that are stalled stay so, see [`Hub::release`].
    pub fn clear_faults(&self) {}

    /// Lets every stalled body go on.
    pub fn release(&self) {}

    /// Holds every matching request before its answer begins.
    pub fn hold(&self, on: Match) -> Gate {
        let _ = on;
        unimplemented!()
    }

    /// Every request since the start or the last [`Hub::clear_log`], in order of arrival.
    pub fn log(&self) -> Vec<Logged> {
        Vec::new()
    }

    /// How many of them are so.
    pub fn count(&self, which: impl Fn(&Logged) -> bool) -> usize {
        self.log().iter().filter(|logged| which(logged)).count()
    }

    /// How many of each kind, by [`Kind::name`]; kinds never seen are absent.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }

    /// Forgets every request so far.
    pub fn clear_log(&self) {}

    /// Waits until the log is as `ready` wants it, looking at every change; false when it did not within [`Settings::patience`].
    pub async fn wait_for(&self, ready: impl FnMut(&[Logged]) -> bool) -> bool {
        let _ = ready;
        false
    }

    /// What reached the evil listener.
    pub fn evil(&self) -> Vec<Evil> {
        Vec::new()
    }
}
