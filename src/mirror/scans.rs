//! What scanners said of images: kept by the digest of a platform's manifest, in memory and in a journal.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use weir_storage::{Error, Store};

use super::remembered::Remembered;
use crate::{oci::Digest, policy::Vulnerabilities};

/// Images of which a verdict is remembered: some 4 MiB.
const REMEMBERED: u64 = 10_000;

/// What a scanner said.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    /// Seconds since the epoch.
    at: u64,
    found: Vulnerabilities,
}

/// What was found, and when.
pub type Scanned = Arc<(SystemTime, Vulnerabilities)>;

/// What scanners said. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Scans(Remembered<Said>);

impl Scans {
    pub(super) fn new(store: Store) -> Scans {
        Scans(Remembered::new(store, "scans", REMEMBERED))
    }

    /// Takes up what was said in earlier processes.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn start(&self) -> Result<(), Error> {
        self.0.start()
    }

    /// What was found in the image of this manifest, and when. No system call.
    pub fn known(&self, manifest: &Digest) -> Option<Scanned> {
        let said = self.0.get(manifest)?;
        Some(Arc::new((SystemTime::UNIX_EPOCH + Duration::from_secs(said.at), said.found.clone())))
    }

    /// Keeps what a scanner found in the image of this manifest. It is on the disk when this returns.
    ///
    /// # Errors
    /// As [`weir_storage::Journal::append`]; [`Error::Unusable`] before the start.
    pub async fn keep(&self, manifest: &Digest, found: Vulnerabilities, now: SystemTime) -> Result<(), Error> {
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.0.keep(manifest, Said { at, found }).await
    }
}
