//! What the cache knew of manifests before: when each came first, and which tag named it before that tag moved on.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use weir_storage::{Error, Source, Store};

use super::remembered::Remembered;
use crate::oci::{Digest, Tag};

/// Manifests of which the first arrival is remembered: some 15 MiB. One that is forgotten is as old as its config in the cache, which is
/// younger: no rule passes for it.
const MOST_ARRIVALS: u64 = 50_000;
/// Manifests of which the tag is remembered that moved on: some 4 MiB.
const MOST_MOVED: u64 = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct Arrival {
    /// Seconds since the epoch.
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    /// The full name that stood for it.
    name: Box<str>,
}

/// The history of manifests. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ManifestHistory {
    arrivals: Remembered<Arrival>,
    moved: Remembered<Moved>,
    runtime: Handle,
}

impl ManifestHistory {
    pub(super) fn new(store: &Store, runtime: Handle) -> ManifestHistory {
        ManifestHistory {
            arrivals: Remembered::new(store.clone(), "arrivals", MOST_ARRIVALS),
            moved: Remembered::new(store.clone(), "moved-tags", MOST_MOVED),
            runtime,
        }
    }

    /// Takes up what earlier processes knew.
    ///
    /// # Errors
    /// When a journal cannot be read.
    pub fn start(&self) -> Result<(), Error> {
        self.arrivals.start()?;
        self.moved.start()
    }

    /// When a manifest came first, of which the config that is here came at this time. Remembers that behind the answer.
    pub(super) fn arrived(&self, manifest: &Digest, config: Option<SystemTime>) -> Option<SystemTime> {
        let known = self.arrivals.get(manifest).map(|known| SystemTime::UNIX_EPOCH + Duration::from_secs(known.at));
        let first = [known, config].into_iter().flatten().min()?;
        // To the second, in which arrivals are kept.
        if known.is_none_or(|known| first + Duration::from_secs(1) <= known) {
            let at = first.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            self.arrivals.keep_behind(manifest, Arrival { at }, &self.runtime);
        }
        Some(first)
    }

    /// A tag named this manifest until now. Remembers that behind the answer.
    pub(super) fn tag_moved(&self, source: &Source, tag: &Tag, old: &Digest) {
        let name = format!("{}/{}:{tag}", source.upstream, source.repository).into();
        self.moved.keep_behind(old, Moved { name }, &self.runtime);
    }

    /// The full name that stood for a manifest before it stood for another one. No system call.
    pub(super) fn name_of(&self, manifest: &Digest) -> Option<Box<str>> {
        Some(self.moved.get(manifest)?.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use weir_storage::Settings;

    use super::*;
    use crate::oci::Algorithm;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn the_first_arrival_and_the_tag_that_moved_on_are_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { root: directory.path().to_owned(), ..Settings::default() };
        let store = Store::open(settings).unwrap();
        let start = || {
            let history = ManifestHistory::new(&store, Handle::current());
            history.start().unwrap();
            history
        };
        let digest = |text: &str| Algorithm::Sha256.digest(text.as_bytes());
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "library/debian".parse().unwrap(),
        };
        let history = start();
        assert_eq!(history.arrived(&digest("a"), None), None);
        assert_eq!(history.arrived(&digest("a"), Some(at(1000))), Some(at(1000)));
        assert_eq!(history.arrived(&digest("a"), Some(at(5000))), Some(at(1000)), "it came again");
        assert_eq!(history.arrived(&digest("a"), Some(at(400))), Some(at(400)), "the clock was wrong");
        assert_eq!(history.arrived(&digest("b"), Some(at(5000))), Some(at(5000)));
        history.tag_moved(&source, &"12".parse().unwrap(), &digest("a"));
        for (name, records) in [("arrivals", 3), ("moved-tags", 1)] {
            while store.journals.open(name).unwrap().replay().unwrap().len() < records {
                tokio::task::yield_now().await;
            }
        }
        let history = start();
        assert_eq!(history.arrived(&digest("a"), None), Some(at(400)));
        assert_eq!(history.arrived(&digest("a"), Some(at(9000))), Some(at(400)));
        assert_eq!(history.name_of(&digest("a")).as_deref(), Some("docker.io/library/debian:12"));
        assert_eq!(history.name_of(&digest("b")), None);
    }
}
