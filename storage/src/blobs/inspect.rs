//! Reading a whole blob on a thread of the caller's own, for work in the background that no client waits for.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use crate::files::Files;

/// Reads a blob from its beginning to its end. Each read is one system call on the thread that reads.
#[derive(Debug)]
pub struct Inspection {
    files: Arc<Files>,
    file: Arc<File>,
    path: PathBuf,
    at: u64,
}

impl Inspection {
    pub(super) fn new(files: Arc<Files>, file: Arc<File>, path: PathBuf) -> Inspection {
        Inspection { files, file, path, at: 0 }
    }
}

impl Read for Inspection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.files.disk.read_at(&self.file, &self.path, buffer, self.at).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
