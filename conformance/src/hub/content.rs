//! Bytes the hub serves: in memory when they are few, in an unlinked file when they are many.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Above this a body lives in a file, so that an image of many gigabytes costs the hub no memory.
const IN_MEMORY: usize = 4 << 20;

/// The bytes of one object. Cloning costs a reference count.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Bytes),
    File(Arc<File>, u64),
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, size) => *size,
        }
    }

    /// Fills `buffer` with the bytes from `offset` on. The file was written by this process a moment ago and comes from the
    /// page cache, so the read is not handed to a thread of its own.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Content::Memory(bytes) => {
                let part = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start + buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Content::File(file, _) => file.read_exact_at(buffer, offset),
        }
    }
}

/// The digest of some bytes, `sha256:` and hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

fn named(hash: &[u8]) -> String {
    let mut digest = String::with_capacity(7 + 2 * hash.len());
    digest.push_str("sha256:");
    for byte in hash {
        for nibble in [byte >> 4, byte & 15] {
            digest.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    digest
}

/// Takes bytes as they are made, and hashes them on the way.
pub(super) struct Sink<'a> {
    scratch: &'a Path,
    memory: Vec<u8>,
    file: Option<File>,
    size: u64,
    hash: Sha256,
}

impl<'a> Sink<'a> {
    /// Large contents will be an unlinked file in the directory `scratch`.
    pub(super) fn new(scratch: &'a Path) -> Sink<'a> {
        Sink { scratch, memory: Vec::new(), file: None, size: 0, hash: Sha256::new() }
    }

    /// The digest and the bytes.
    pub(super) fn finish(mut self) -> io::Result<(String, Content)> {
        let digest = named(self.hash.finalize().as_slice());
        let content = match self.file.take() {
            None => Content::Memory(self.memory.into()),
            Some(mut file) => {
                file.write_all(&self.memory)?;
                Content::File(Arc::new(file), self.size)
            }
        };
        Ok((digest, content))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > IN_MEMORY {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => tempfile::tempfile_in(self.scratch)?,
            };
            file.write_all(&self.memory)?;
            self.memory.clear();
            self.file = Some(file);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what passes through.
pub(super) struct Tee<W> {
    pub(super) inner: W,
    hash: Sha256,
}

impl<W: Write> Tee<W> {
    pub(super) fn new(inner: W) -> Tee<W> {
        Tee { inner, hash: Sha256::new() }
    }

    /// The digest of what passed, and the writer it passed to.
    pub(super) fn finish(self) -> (String, W) {
        (named(self.hash.finalize().as_slice()), self.inner)
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
