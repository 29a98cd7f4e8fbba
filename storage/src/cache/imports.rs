//! Which names came by an import and were not confirmed by upstream since: a journal, and all of it in memory.
//!
//! A journal, since no upstream can give it again, and since a site that gets a network confirms thousands of names one by one.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    Error, Source,
    cache::{Image, Repository},
    files::{Journal, Journals},
    oci::Reference,
};

/// Names at most, of some 300 bytes of memory each.
const MOST: usize = 200_000;
/// So many records more than there are names, and the journal is written anew.
const SURPLUS: usize = 10_000;

/// That a name came by an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportMark {
    /// When.
    pub at: SystemTime,
    /// The operator who imported it.
    pub by: String,
}

/// The names that came by an import. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ImportMarks {
    journal: Journal,
    // Held for a map operation.
    state: Arc<RwLock<State>>,
    // Of the marks: where there are none, a warm request takes no lock for them.
    count: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    marks: HashMap<(Source, Reference), ImportMark>,
    records: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    source: Source,
    reference: String,
    /// `None`: upstream has confirmed it.
    mark: Option<ImportMark>,
}

impl ImportMarks {
    /// # Errors
    /// [`Error::Io`] when the journal cannot be read.
    pub(crate) fn open(journals: &Journals) -> Result<ImportMarks, Error> {
        let journal = journals.open("imports")?;
        let mut state = State::default();
        for bytes in journal.replay()? {
            state.records += 1;
            let record = serde_json::from_slice::<Record>(&bytes).ok();
            let Some((record, reference)) = record.and_then(|it| it.reference.parse().ok().map(|named| (it, named)))
            else {
                warn!("an import in the journal cannot be read; its names count as confirmed");
                continue;
            };
            match record.mark {
                Some(mark) => drop(state.marks.insert((record.source, reference), mark)),
                None => drop(state.marks.remove(&(record.source, reference))),
            }
        }
        let count = Arc::new(AtomicUsize::new(state.marks.len()));
        Ok(ImportMarks { journal, state: Arc::new(RwLock::new(state)), count })
    }

    /// Whether no name came by an import. One atomic read.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether this name came by an import that upstream has not confirmed. No system call.
    pub fn get(&self, source: &Source, reference: &Reference) -> Option<ImportMark> {
        if self.is_empty() {
            return None;
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.marks.get(&(source.clone(), reference.clone())).cloned()
    }

    /// Whether an image came by an import that upstream has not confirmed. No system call.
    pub fn of(&self, image: &Image) -> Option<ImportMark> {
        if self.is_empty() {
            return None;
        }
        let Image { repository: Repository { upstream, name }, credential, tag, digest, .. } = image;
        let source = Source { upstream: upstream.clone(), credential: credential.clone(), repository: name.clone() };
        let reference = tag.clone().map_or_else(|| Reference::Digest(digest.clone()), Reference::Tag);
        self.get(&source, &reference)
    }

    /// Notes that a name came by an import; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`Error::Unusable`] when there are too many; [`Error::Io`].
    pub async fn mark(&self, source: &Source, reference: &Reference, mark: ImportMark) -> Result<(), Error> {
        if self.state.read().unwrap_or_else(PoisonError::into_inner).marks.len() >= MOST {
            return Err(Error::Unusable(format!("{MOST} imported names wait for upstream's word already; purge some")));
        }
        self.append(source, reference, Some(&mark)).await?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.marks.insert((source.clone(), reference.clone()), mark);
        self.count.store(state.marks.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Upstream has said what the name names: it is as any other from now on. A journal that fails costs another confirmation after the
    /// next start.
    pub async fn confirm(&self, source: &Source, reference: &Reference) {
        if self.get(source, reference).is_none() {
            return;
        }
        let key = (source.clone(), reference.clone());
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.marks.remove(&key);
            self.count.store(state.marks.len(), Ordering::Relaxed);
        }
        if let Err(error) = self.append(source, reference, None).await {
            warn!(%error, %reference, "that upstream confirmed an import could not be kept");
        }
    }

    async fn append(&self, source: &Source, reference: &Reference, mark: Option<&ImportMark>) -> Result<(), Error> {
        self.journal.append(&encoded(source, reference, mark)?).await?;
        let snapshot = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.records += 1;
            // What is appended meanwhile by another would be lost: it is in the map by then, or repeats what the map says.
            (state.records > state.marks.len() + SURPLUS && mark.is_none()).then(|| {
                state.records = state.marks.len();
                state.marks.clone()
            })
        };
        let Some(marks) = snapshot else { return Ok(()) };
        let records =
            marks.iter().map(|((source, reference), mark)| encoded(source, reference, Some(mark)).map(Into::into));
        self.journal.compact(records.collect::<Result<_, Error>>()?).await
    }
}

fn encoded(source: &Source, reference: &Reference, mark: Option<&ImportMark>) -> Result<Vec<u8>, Error> {
    let record = Record { source: source.clone(), reference: reference.to_string(), mark: mark.cloned() };
    serde_json::to_vec(&record).map_err(|error| Error::Unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Store};

    #[tokio::test]
    async fn an_import_is_known_after_a_restart_without_the_index_until_upstream_confirms_it() {
        let root = tempfile::tempdir().unwrap();
        let open = || Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "library/one".parse().unwrap(),
        };
        let [one, two]: [Reference; 2] = ["1", "2"].map(|tag| tag.parse().unwrap());
        let mark = ImportMark { at: SystemTime::UNIX_EPOCH, by: "ops".into() };
        let store = open();
        for reference in [&one, &two] {
            store.cache.imports.mark(&source, reference, mark.clone()).await.unwrap();
        }
        store.cache.imports.confirm(&source, &two).await;
        // It is opened behind the answers.
        while !store.usage().index_ready {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        drop(store);
        std::fs::remove_dir_all(root.path().join("index")).unwrap();
        let store = open();
        assert_eq!(store.cache.imports.get(&source, &one), Some(mark));
        assert_eq!(store.cache.imports.get(&source, &two), None);
    }
}
