//! Which sources have anything at all: noted for the index as it changes, or found by a walk over the directories.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::manifests::Manifests;
use crate::{
    Error, Source,
    files::{Files, MEMBERS, TAGS, unescape, unflat},
    oci::Name,
};

/// Sources that wait for the index; with more of them it is made anew instead.
const WAITING: usize = 100_000;

/// What the index does not have yet of sources.
#[derive(Debug)]
pub(crate) struct Sources {
    files: Arc<Files>,
    manifests: Manifests,
    // Held for one map operation. `true`: it has something; `false`: it has nothing any more.
    noted: Mutex<HashMap<Vec<u8>, bool>>,
    overflowed: AtomicBool,
}

impl Sources {
    pub(super) fn new(files: Arc<Files>, manifests: Manifests) -> Sources {
        Sources { files, manifests, noted: Mutex::default(), overflowed: AtomicBool::new(false) }
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<Vec<u8>, bool>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source has something.
    pub(super) fn found(&self, source: &Source) {
        self.note(source, true);
    }

    /// It has nothing any more.
    pub(super) fn lost(&self, source: &Source) {
        self.note(source, false);
    }

    fn note(&self, source: &Source, there: bool) {
        let mut noted = self.noted();
        if noted.len() < WAITING {
            noted.insert(key(&source.upstream, source.repository.as_str(), &source.credential), there);
        } else {
            self.overflowed.store(true, Ordering::Release);
        }
    }

    /// Takes what was noted, by key; `None` when some of it was dropped since the last time.
    pub(crate) fn take(&self) -> Option<HashMap<Vec<u8>, bool>> {
        let noted = mem::take(&mut *self.noted());
        (!self.overflowed.swap(false, Ordering::AcqRel)).then_some(noted)
    }

    /// Notes all sources that the directories have. What was noted meanwhile is newer and stays.
    pub(crate) fn note_all(&self) -> Result<usize, Error> {
        let keys = self.walk()?;
        let count = keys.len();
        let mut noted = self.noted();
        for key in keys {
            noted.entry(key).or_insert(true);
        }
        Ok(count)
    }

    /// The key of every source with a tag or a manifest, by walking the directories.
    pub(crate) fn walk(&self) -> Result<BTreeSet<Vec<u8>>, Error> {
        let mut keys = BTreeSet::new();
        let (disk, root) = (&self.files.disk, self.files.layout.repositories());
        for upstream in disk.list(&root)? {
            for credential in disk.list(&root.join(&upstream))? {
                let (Some(upstream_text), Some(credential_text)) = (unescape(&upstream), unescape(&credential)) else {
                    continue;
                };
                let base = root.join(&upstream).join(&credential);
                let mut below = disk.list(&base)?;
                while let Some(path) = below.pop() {
                    let Ok(name) = path.parse::<Name>() else { continue };
                    let children = disk.list(&base.join(&path))?;
                    if self.has_content(&base.join(&path), &children)? {
                        keys.insert(key(&upstream_text, name.as_str(), &credential_text));
                    }
                    below.extend(children.iter().map(|child| format!("{path}/{child}")));
                }
            }
        }
        Ok(keys)
    }

    fn has_content(&self, directory: &Path, children: &[String]) -> Result<bool, Error> {
        let has = |name: &str| children.iter().any(|child| child == name);
        if has(TAGS) && !self.files.disk.list(&directory.join(TAGS))?.is_empty() {
            return Ok(true);
        }
        if has(MEMBERS) {
            for digest in self.files.disk.list(&directory.join(MEMBERS))?.iter().filter_map(|name| unflat(name)) {
                if self.manifests.contains(&digest)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Sorts by upstream, repository, credential.
fn key(upstream: &str, repository: &str, credential: &str) -> Vec<u8> {
    format!("{upstream}\0{repository}\0{credential}").into_bytes()
}

/// The source of a key.
pub(crate) fn source_of(key: &[u8]) -> Option<Source> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
    let (upstream, repository, credential) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Source { upstream: upstream.into(), credential: credential.into(), repository: repository.parse().ok()? })
}
