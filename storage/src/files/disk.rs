//! Every file system call of the store, and so the one place where a test makes a disk fail.
//!
//! Nothing else in the crate names `std::fs`; sled alone opens its own files. Each call is a method that says what it
//! was doing and to which file when it fails. Absence is the only failure that is translated: `NotFound` is `None`
//! or `false`, everything else stays an error, so that a broken disk is never mistaken for an empty one.

use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use crate::Error;

/// The kinds of calls that [`Faults`] can break.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    MakeDirectory,
    List,
    Stat,
    Space,
    Reserve,
    Truncate,
    Lock,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Open => "open",
            Call::Create => "create",
            Call::Read => "read",
            Call::Write => "write",
            Call::Sync => "sync",
            Call::Rename => "rename",
            Call::Remove => "remove",
            Call::MakeDirectory => "mkdir",
            Call::List => "list",
            Call::Stat => "stat",
            Call::Space => "statvfs",
            Call::Reserve => "fallocate",
            Call::Truncate => "truncate",
            Call::Lock => "lock",
        }
    }
}

/// A disk that fails on demand, for tests. Unarmed it costs one relaxed load per call.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct Faults(Arc<Rules>);

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

#[derive(Default)]
struct Rules {
    armed: AtomicBool,
    // Held for a scan of a handful of rules.
    rules: Mutex<Vec<Rule>>,
    // Held for one push. `None`: nothing is recorded.
    calls: Mutex<Option<Vec<(Call, PathBuf)>>>,
    // Held to clone or replace it.
    synced: Mutex<Option<Arc<AfterSync>>>,
}

type AfterSync = dyn Fn(&Path) + Send + Sync;

struct Rule {
    /// `None`: every call.
    call: Option<Call>,
    skip: u32,
    times: u32,
    action: Action,
}

enum Action {
    Fail(i32),
    /// Taken when it runs.
    Run(Option<Box<dyn FnOnce() + Send>>),
}

impl Faults {
    /// The next `times` calls of this kind after `skip` others fail with `errno`.
    pub fn fail(&self, call: Call, skip: u32, times: u32, errno: i32) {
        self.add(Rule { call: Some(call), skip, times, action: Action::Fail(errno) });
    }

    /// From now on every call fails with `errno`, so that the directory stays as it is.
    pub fn fail_all(&self, errno: i32) {
        self.add(Rule { call: None, skip: 0, times: u32::MAX, action: Action::Fail(errno) });
    }

    /// After each sync of a file or directory this runs, with its path, until the last clone is dropped: what a test must know
    /// to tell what a power cut leaves.
    pub fn after_sync(&self, run: impl Fn(&Path) + Send + Sync + 'static) {
        *self.0.synced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(run));
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// Before the next call of this kind after `skip` others this runs, where the call is made.
    pub fn before(&self, call: Call, skip: u32, run: impl FnOnce() + Send + 'static) {
        self.add(Rule { call: Some(call), skip, times: 1, action: Action::Run(Some(Box::new(run))) });
    }

    /// From now on all calls are recorded, until they are healed.
    pub fn record(&self) {
        *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// The calls since [`Faults::record`], in their order.
    pub fn recorded(&self) -> Vec<(Call, PathBuf)> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    fn add(&self, rule: Rule) {
        self.0.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// The disk is well again.
    pub fn heal(&self) {
        self.0.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let watched = self.0.synced.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.0.armed.store(watched, Ordering::Relaxed);
    }

    fn check(&self, call: Call, path: &Path) -> io::Result<()> {
        if !self.0.armed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(calls) = &mut *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner) {
            calls.push((call, path.to_owned()));
        }
        let mut run = None;
        let mut rules = self.0.rules.lock().unwrap_or_else(PoisonError::into_inner);
        for rule in rules.iter_mut().filter(|rule| rule.call.is_none_or(|wanted| wanted == call) && rule.times > 0) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else {
                rule.times -= 1;
                match &mut rule.action {
                    Action::Fail(errno) => return Err(io::Error::from_raw_os_error(*errno)),
                    Action::Run(action) => run = action.take(),
                }
            }
        }
        drop(rules);
        if let Some(run) = run {
            run();
        }
        Ok(())
    }

    fn synced(&self, path: &Path) {
        if self.0.armed.load(Ordering::Relaxed) {
            let run = self.0.synced.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(run) = run {
                run(path);
            }
        }
    }
}

/// What the file system has left for an unprivileged process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free {
    pub(crate) bytes: u64,
    /// What it has of the whole file system when all is free; 0 where that is not counted.
    pub(crate) size: u64,
    /// All inodes of the file system; 0 where it does not count them.
    pub(crate) inodes: u64,
    /// Those of them that are free.
    pub(crate) free_inodes: u64,
}

/// A file as it was at one moment: its size, its inode, and when the file system last changed either bytes or inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The file system. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    faults: Faults,
}

impl Disk {
    pub(crate) fn new(faults: Faults) -> Disk {
        Disk { faults }
    }

    fn run<T>(&self, call: Call, path: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T, Error> {
        let result = self.faults.check(call, path).and_then(|()| work());
        if call == Call::Sync && result.is_ok() {
            self.faults.synced(path);
        }
        result.map_err(|source| Error::Io { call: call.name(), path: path.to_owned(), source })
    }

    /// Opens for reading.
    pub(crate) fn open(&self, path: &Path) -> Result<Option<File>, Error> {
        present(self.run(Call::Open, path, || File::open(path)))
    }

    /// Opens what is there for reading and writing.
    pub(crate) fn open_to_write(&self, path: &Path) -> Result<Option<File>, Error> {
        present(self.run(Call::Open, path, || File::options().read(true).write(true).open(path)))
    }

    /// Creates a small file on its way, over what a crash left under its name: files are written before all is swept.
    fn create_over(&self, path: &Path) -> Result<File, Error> {
        let create =
            || self.run(Call::Create, path, || File::options().write(true).create(true).truncate(true).open(path));
        match present(create())? {
            Some(file) => Ok(file),
            None => {
                self.make_parent(path)?;
                create()
            }
        }
    }

    /// Creates a file that must not exist, and the directories above it when they are missing.
    pub(crate) fn create(&self, path: &Path) -> Result<File, Error> {
        let create =
            || self.run(Call::Create, path, || File::options().read(true).write(true).create_new(true).open(path));
        match present(create())? {
            Some(file) => Ok(file),
            None => {
                self.make_parent(path)?;
                create()
            }
        }
    }

    /// Creates an empty file unless it is there.
    pub(crate) fn touch(&self, path: &Path) -> Result<(), Error> {
        match self.create(path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }

    pub(crate) fn metadata(&self, path: &Path) -> Result<Option<Metadata>, Error> {
        present(self.run(Call::Stat, path, || fs::metadata(path)))
    }

    /// What tells that an open file is the one that was looked at before, and was not written since.
    pub(crate) fn stamp(&self, file: &File, path: &Path) -> Result<Stamp, Error> {
        self.run(Call::Stat, path, || {
            let metadata = file.metadata()?;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Ok(Stamp { size: metadata.len(), inode: metadata.ino(), changed })
        })
    }

    /// The size of an open file.
    pub(crate) fn length(&self, file: &File, path: &Path) -> Result<u64, Error> {
        self.run(Call::Stat, path, || Ok(file.metadata()?.len()))
    }

    /// Fills as much of `buffer` as the file has from `offset` on.
    pub(crate) fn read_at(&self, file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.run(Call::Read, path, || {
            let mut done = 0;
            while done < buffer.len() {
                match file.read_at(&mut buffer[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }

    /// A whole small file. One larger than `most` bytes is an error: nothing here writes such a file.
    pub(crate) fn read(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>, Error> {
        self.open(path)?.map(|file| self.read_whole(&file, path, most)).transpose()
    }

    /// As [`Disk::read`], of a file that is open.
    pub(crate) fn read_whole(&self, file: &File, path: &Path, most: u64) -> Result<Vec<u8>, Error> {
        let length = self.length(file, path)?;
        if length > most {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes are more than {most}"));
            return Err(Error::Io { call: "read", path: path.to_owned(), source });
        }
        let mut bytes = vec![0; length as usize];
        let count = self.read_at(file, path, &mut bytes, 0)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Writes all of `pieces` at `offset`, in as few calls as the kernel takes.
    pub(crate) fn write_at(&self, file: &File, path: &Path, pieces: &[Bytes], mut offset: u64) -> Result<(), Error> {
        self.run(Call::Write, path, || {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut left = &mut slices[..];
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                // POSIX promises no more than 16 slices a call, Linux takes 1,024.
                let count = match rustix::io::pwritev(file, &left[..left.len().min(1024)], offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => count,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                offset += count as u64;
                IoSlice::advance_slices(&mut left, count);
            }
            Ok(())
        })
    }

    /// The data, and what of the metadata is needed to find it again.
    pub(crate) fn sync_data(&self, file: &File, path: &Path) -> Result<(), Error> {
        self.run(Call::Sync, path, || file.sync_data())
    }

    /// The names in a directory.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        self.run(Call::Sync, path, || File::open(path)?.sync_all())
    }

    /// 128 random bits in hexadecimal, from the kernel, so that it cannot be guessed.
    pub(crate) fn random(&self) -> Result<String, Error> {
        let mut bytes = [0; 16];
        self.run(Call::Read, Path::new("random numbers"), || {
            let count = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
            // The kernel promises up to 256 bytes whole.
            if count == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Asks the kernel to start writing a range that was just written, so that the sync at the end is short.
    ///
    /// `sync_file_range` is not to be had without `unsafe`; on Linux `POSIX_FADV_DONTNEED` begins write-back of the
    /// range first and then drops only its clean pages, which a range that was just written has none of.
    pub(crate) fn start_writeback(&self, file: &File, offset: u64, length: u64) {
        let length = std::num::NonZeroU64::new(length);
        // Advice only: that it was not taken changes nothing.
        let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let rename = || self.run(Call::Rename, from, || fs::rename(from, to));
        match present(rename())? {
            Some(()) => Ok(()),
            None => {
                self.make_parent(to)?;
                rename()
            }
        }
    }

    /// Renames within directories that exist; `false` when there is no such file.
    pub(crate) fn take_away(&self, from: &Path, to: &Path) -> Result<bool, Error> {
        present(self.run(Call::Rename, from, || fs::rename(from, to))).map(|done| done.is_some())
    }

    /// Removes a file; `false` when there was none.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool, Error> {
        present(self.run(Call::Remove, path, || fs::remove_file(path))).map(|done| done.is_some())
    }

    /// Removes a directory and all in it.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<bool, Error> {
        present(self.run(Call::Remove, path, || fs::remove_dir_all(path))).map(|done| done.is_some())
    }

    pub(crate) fn make_directory(&self, path: &Path) -> Result<(), Error> {
        self.run(Call::MakeDirectory, path, || fs::create_dir_all(path))
    }

    fn make_parent(&self, path: &Path) -> Result<(), Error> {
        path.parent().map_or(Ok(()), |parent| self.make_directory(parent))
    }

    /// The names in a directory, in no order; a directory that is not there has none.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<String>, Error> {
        let names = present(self.run(Call::List, path, || {
            fs::read_dir(path)?
                .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
                .collect()
        }))?;
        Ok(names.unwrap_or_default())
    }

    pub(crate) fn free(&self, path: &Path) -> Result<Free, Error> {
        self.run(Call::Space, path, || {
            let answer = rustix::fs::statvfs(path)?;
            let bytes = answer.f_bavail.saturating_mul(answer.f_frsize);
            // Some blocks are root's alone.
            let blocks = answer.f_blocks.saturating_sub(answer.f_bfree.saturating_sub(answer.f_bavail));
            let size = blocks.saturating_mul(answer.f_frsize);
            Ok(Free { bytes, size, inodes: answer.f_files, free_inodes: answer.f_favail })
        })
    }

    /// Takes the blocks of the first `length` bytes without making the file longer, so that a full disk shows now.
    pub(crate) fn reserve(&self, file: &File, path: &Path, length: u64) -> Result<(), Error> {
        use rustix::{fs::FallocateFlags, io::Errno};
        self.run(Call::Reserve, path, || {
            match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
                // Some file systems cannot; there a full disk shows when it is written.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Cuts the file to `length` bytes and gives back what was reserved beyond.
    pub(crate) fn truncate(&self, file: &File, path: &Path, length: u64) -> Result<(), Error> {
        self.run(Call::Truncate, path, || file.set_len(length))
    }

    /// An advisory lock for as long as the file is open; `None` when another process has it.
    pub(crate) fn lock(&self, path: &Path) -> Result<Option<File>, Error> {
        use rustix::{fs::FlockOperation, io::Errno};
        self.run(Call::Lock, path, || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(file)),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Replaces `path` by `bytes` through `temporary`, so that a reader sees the old or the new and never a part.
    pub(crate) fn replace(&self, temporary: &Path, path: &Path, pieces: &[Bytes]) -> Result<(), Error> {
        self.replace_after(temporary, path, pieces, |_| Ok(()))
    }

    /// As [`Disk::replace`], and the bytes are on the disk before the name is; the name follows with its directory.
    pub(crate) fn replace_synced(&self, temporary: &Path, path: &Path, pieces: &[Bytes]) -> Result<(), Error> {
        self.replace_after(temporary, path, pieces, |file| self.sync_data(file, temporary))
    }

    fn replace_after(
        &self,
        temporary: &Path,
        path: &Path,
        pieces: &[Bytes],
        before_rename: impl FnOnce(&File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let file = self.create_over(temporary)?;
        let written = self.write_at(&file, temporary, pieces, 0);
        let result = written.and_then(|()| before_rename(&file)).and_then(|()| self.rename(temporary, path));
        if result.is_err() {
            // The failure above is the one to report; what stays behind is swept at the next start.
            let _ = self.remove(temporary);
        }
        result
    }
}

fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
