//! Giving up what was pushed, is named by no manifest of its repository, and was not asked for in a while.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use tracing::{debug, info, warn};

use super::Inner;
use crate::{
    Error,
    files::Kind,
    oci::{Digest, Name},
};

impl Inner {
    /// See [`Repositories::collect`](super::Repositories::collect).
    pub(super) fn collect(&self) -> u64 {
        let ttl = self.unnamed_ttl;
        let mut gone = 0;
        for (name, _) in self.pins.repositories() {
            match self.collect_repository(&name, ttl) {
                Ok(0) => {}
                Ok(count) => {
                    info!(repository = %name, blobs = count, "gave up blobs that no manifest names");
                    gone += count;
                }
                Err(error) => warn!(repository = %name, %error, "cannot tell which blobs are named; all stay"),
            }
        }
        gone
    }

    fn collect_repository(&self, name: &Name, ttl: Duration) -> Result<u64, Error> {
        let mut idle = HashSet::new();
        for digest in self.pins.of(Kind::Blob, name) {
            if self.is_idle(name, &digest, ttl)? {
                idle.insert(digest);
            }
        }
        if idle.is_empty() {
            return Ok(0);
        }
        for digest in self.pins.of(Kind::Manifest, name) {
            // Without its bytes it is not known what it names.
            let described = self.manifests.look_at_file(&digest)?.and_then(|manifest| manifest.describe().ok());
            let Some(description) = described else {
                debug!(%digest, repository = %name, "a manifest cannot be read");
                return Err(Error::Unusable(format!("{digest} cannot be read")));
            };
            for child in &description.children {
                idle.remove(&child.digest);
            }
        }
        let mut gone = 0;
        for digest in idle {
            // A push that names it meanwhile touches it under the same lock.
            let _stripe = self.lock(name);
            let size = self.pins.held(Kind::Blob, &digest, name).unwrap_or(0);
            if self.is_idle(name, &digest, ttl)? && self.give_up(Kind::Blob, name, &digest)? {
                gone += 1;
                self.collected.add(size);
            }
        }
        Ok(gone)
    }

    fn is_idle(&self, name: &Name, digest: &Digest, ttl: Duration) -> Result<bool, Error> {
        if let Some(at) = self.pins.touched(Kind::Blob, digest, name) {
            return Ok(at.elapsed() >= ttl);
        }
        let Some(size) = self.pins.held(Kind::Blob, digest, name) else { return Ok(false) };
        let metadata = self.files.disk.metadata(&self.files.layout.held(name, Kind::Blob, digest, size))?;
        let pushed = metadata.and_then(|metadata| metadata.modified().ok());
        let age = pushed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        Ok(age >= ttl)
    }
}
