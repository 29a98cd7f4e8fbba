//! Whether the disk takes writes now, found out by writing.
//!
//! No call tells it: a file system is made read-only by its first error, a quota is another user's, inodes run out before bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{Error, files::Files};

/// What was found is believed for so long, so that to ask often costs no disk anything.
const FRESH: Duration = Duration::from_secs(1);
/// A disk that takes longer for one small file does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Written by a probe: one block of most file systems.
const SIZE: usize = 4096;

/// Asks the disk. Cloning shares what is known.
#[derive(Clone, Debug)]
pub struct Probe {
    files: Arc<Files>,
    // Held across one probe, so that there is one at a time, also on a disk that hangs.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<JoinHandle<Option<String>>>,
    last: Option<(Instant, Option<String>)>,
}

impl Probe {
    pub(crate) fn new(files: Arc<Files>) -> Probe {
        Probe { files, state: Arc::default() }
    }

    /// Why nothing can be written, in words for the operator; `None` when a small file was written and removed within the last second.
    pub async fn problem(&self) -> Option<String> {
        let mut state = self.state.lock().await;
        if let Some((at, problem)) = &state.last
            && at.elapsed() < FRESH
        {
            return problem.clone();
        }
        let files = self.files.clone();
        let mut running = state.running.take().unwrap_or_else(|| tokio::task::spawn_blocking(move || problem(&files)));
        let found = match tokio::time::timeout(PATIENCE, &mut running).await {
            Ok(found) => found.unwrap_or_else(|_| Some("the disk could not be asked".to_owned())),
            Err(_) => {
                state.running = Some(running);
                Some(format!("the disk does not answer within {} s", PATIENCE.as_secs()))
            }
        };
        state.last = Some((Instant::now(), found.clone()));
        found
    }
}

fn problem(files: &Files) -> Option<String> {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let path = files.layout.temporary();
    let written = files.disk.create(&path).and_then(|file| {
        let written = files.disk.write_at(&file, &path, &[Bytes::from_static(&[0; SIZE])], 0);
        files.disk.remove(&path).and(written)
    });
    let Err(error) = written else { return None };
    let root = files.layout.root().display();
    Some(match &error {
        Error::Io { source, .. } if source.kind() == ReadOnlyFilesystem => {
            format!("the file system of {root} is read-only; check it, and mount it writable")
        }
        Error::Io { source, .. } if source.kind() == StorageFull => {
            let free = files.disk.free(files.layout.root());
            let inodes = free.is_ok_and(|free| free.inodes > 0 && free.free_inodes == 0);
            let what = if inodes { "inodes" } else { "space" };
            format!(
                "the file system of {root} has no {what} left; remove what is not needed, or lower storage.capacity"
            )
        }
        Error::Io { source, .. } if source.kind() == QuotaExceeded => {
            format!("the disk quota for {root} is used up; raise it, or lower storage.capacity")
        }
        _ => error.to_string(),
    })
}
