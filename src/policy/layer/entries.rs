//! The entries of a tar as they stream by (POSIX pax and ustar, and GNU's long names and sparse files), as engines read them.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header, PaxExtensions};

use super::{bounds::Bounds, problem::Problem};

const BLOCK: usize = 512;
/// Go's reader, which engines use, takes no longer extended header either.
const MOST_EXTENDED: u64 = 1 << 20;
/// Read at once.
const PIECE: usize = 64 << 10;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// A hard link.
    Link,
    Symlink,
    Directory,
    /// A device, a pipe.
    Other,
}

/// An entry without its contents.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    /// What a link leads to.
    pub(super) target: Vec<u8>,
    pub(super) kind: Kind,
    /// Permissions, with setuid, setgid and sticky.
    pub(super) mode: u32,
    /// Bytes of its contents in the tar.
    pub(super) size: u64,
    /// Whether the contents in the tar are those of the file without its holes.
    pub(super) is_sparse: bool,
}

/// Reads entries one after the other.
pub(super) struct Entries<'a, R> {
    input: R,
    bounds: Bounds,
    may_go_on: &'a dyn Fn() -> bool,
    /// Bytes of the contents of the last entry that were not read yet, and what fills up its last block.
    left: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

/// What extended headers say of the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl<'a, R: Read> Entries<'a, R> {
    pub(super) fn new(input: R, bounds: Bounds, may_go_on: &'a dyn Fn() -> bool) -> Entries<'a, R> {
        Entries { input, bounds, may_go_on, left: 0, padding: 0, entries: 0, bytes: 0, buffer: vec![0; PIECE] }
    }

    /// Entries and bytes so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// The next entry; `None` at the end of the tar.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Problem> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.left.saturating_add(self.padding))?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(Problem::Entries);
            }
            let kind = header.entry_type();
            let stated = header.entry_size().map_err(|_| Problem::NoTar)?;
            match kind {
                EntryType::XHeader => self.pax(stated, &mut extended)?,
                EntryType::GNULongName => extended.path = Some(self.long(stated)?),
                EntryType::GNULongLink => extended.target = Some(self.long(stated)?),
                // It is of the whole tar, and says nothing that is looked at.
                EntryType::XGlobalHeader => self.begin(stated),
                _ => return self.entry(&header, kind, stated, extended).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, kind: EntryType, stated: u64, extended: Extended) -> Result<Entry, Problem> {
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::Link,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Directory,
            _ => Kind::Other,
        };
        if let Some(gnu) = header.as_gnu().filter(|_| header.entry_type() == EntryType::GNUSparse) {
            let mut is_extended = gnu.is_extended();
            while is_extended {
                let mut more = GnuExtSparseHeader::new();
                self.exactly(more.as_mut_bytes())?;
                is_extended = more.is_extended();
            }
        }
        let size = extended.size.unwrap_or(stated);
        // Links and devices have no contents, whatever they state.
        let size = if matches!(kind, Kind::Link | Kind::Symlink) || is_empty(header) { 0 } else { size };
        self.begin(size);
        let target = extended.target.or_else(|| header.link_name_bytes().map(|target| target.into_owned()));
        Ok(Entry {
            path: extended.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            target: target.unwrap_or_default(),
            kind,
            mode: header.mode().map_err(|_| Problem::NoTar)?,
            size,
            is_sparse: extended.is_sparse || header.entry_type() == EntryType::GNUSparse,
        })
    }

    /// The contents of the last entry, at most so many bytes from its beginning.
    pub(super) fn content(&mut self, content: &mut Vec<u8>, most: usize) -> Result<(), Problem> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        content.clear();
        while content.len() < wanted {
            let piece = (wanted - content.len()).min(PIECE);
            let begin = content.len();
            content.resize(begin + piece, 0);
            self.exactly(&mut content[begin..])?;
            self.left -= piece as u64;
        }
        Ok(())
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// The next header; `None` at the end: two empty blocks or, as engines take it, no more bytes.
    fn header(&mut self) -> Result<Option<Header>, Problem> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            if self.block(&mut second)? && second != [0; BLOCK] {
                return Err(Problem::NoTar);
            }
            self.drain()?;
            return Ok(None);
        }
        let sum = header.cksum().map_err(|_| Problem::NoTar)?;
        let (before, rest) = header.as_bytes().split_at(148);
        // The checksum itself counts as eight spaces.
        let actual = before.iter().chain(&rest[8..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if sum == actual { Ok(Some(header)) } else { Err(Problem::NoTar) }
    }

    /// Fills a block; `false` when there is no byte more.
    fn block(&mut self, block: &mut [u8]) -> Result<bool, Problem> {
        let first = loop {
            match self.input.read(&mut block[..1]) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::of(&error)),
            }
        };
        if first == 0 {
            return Ok(false);
        }
        self.bytes += 1;
        self.exactly(&mut block[1..])?;
        Ok(true)
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), Problem> {
        self.input.read_exact(bytes).map_err(|error| Problem::of(&error))?;
        self.count(bytes.len())
    }

    fn skip(&mut self, mut count: u64) -> Result<(), Problem> {
        while count > 0 {
            let piece = usize::try_from(count).unwrap_or(PIECE).min(PIECE);
            self.input.read_exact(&mut self.buffer[..piece]).map_err(|error| Problem::of(&error))?;
            self.count(piece)?;
            count -= piece as u64;
        }
        Ok(())
    }

    /// Reads what stands behind the end, of which the compression has a checksum.
    fn drain(&mut self) -> Result<(), Problem> {
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.count(count)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::of(&error)),
            }
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes += bytes as u64;
        match self.bytes {
            bytes if bytes > self.bounds.bytes => Err(Problem::Bytes),
            _ if !(self.may_go_on)() => Err(Problem::Work),
            _ => Ok(()),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if size > MOST_EXTENDED {
            return Err(Problem::Header);
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.content(&mut bytes, MOST_EXTENDED as usize)?;
        Ok(bytes)
    }

    fn long(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        let mut text = self.extension(size)?;
        // GNU's are ended by a zero.
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        Ok(text)
    }

    fn pax(&mut self, size: u64, extended: &mut Extended) -> Result<(), Problem> {
        let bytes = self.extension(size)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(|_| Problem::NoTar)?;
            let value = extension.value_bytes();
            extended.is_sparse |= extension.key_bytes().starts_with(b"GNU.sparse.");
            match extension.key_bytes() {
                // Sparse files of version 1.0 have their name there.
                b"path" | b"GNU.sparse.name" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.target = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).ok();
                    extended.size = Some(text.and_then(|text| text.parse().ok()).ok_or(Problem::NoTar)?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether an entry of this type has no contents, as Go's reader has it.
fn is_empty(header: &Header) -> bool {
    matches!(header.entry_type(), EntryType::Directory | EntryType::Char | EntryType::Block | EntryType::Fifo)
}
