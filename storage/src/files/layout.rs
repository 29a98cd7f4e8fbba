//! Where things lie: from typed values to paths and back, and nothing but that.
//!
//! A path is built from values whose types leave no way to write `..`, `/` or a NUL (digest, name, tag), or from
//! configured text that is escaped here. No string from a client or an upstream gets into a path in any other way.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    Error, Source,
    oci::{Algorithm, Digest, Name, Tag},
};

/// The two kinds of content that are stored under their digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Blob,
    Manifest,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::Manifest, Kind::Blob];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Blob => "blob",
            Kind::Manifest => "manifest",
        }
    }

    pub(crate) fn directory(self) -> &'static str {
        match self {
            Kind::Blob => "blobs",
            Kind::Manifest => "manifests",
        }
    }
}

/// The directory of the store.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    // Makes the names of temporary files unique within the process; the lock makes them so within the directory.
    next: AtomicU64,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        Layout { root, next: AtomicU64::new(0) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Temporary names from now on are above `n`.
    pub(crate) fn start_after(&self, n: u64) {
        self.next.fetch_max(n + 1, Ordering::Relaxed);
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn object(&self, kind: Kind, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = String::with_capacity(160);
        path.push_str(kind.directory());
        for part in [digest.algorithm().as_str(), &hex[..2], &hex] {
            path.push('/');
            path.push_str(part);
        }
        self.root.join(path)
    }

    /// The directories that the objects of a kind and an algorithm are spread over.
    pub(crate) fn shards(&self, kind: Kind, algorithm: Algorithm) -> impl Iterator<Item = PathBuf> + use<> {
        let directory = self.root.join(kind.directory()).join(algorithm.as_str());
        (0..=u8::MAX).map(move |byte| directory.join(format!("{byte:02x}")))
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(crate) fn partial(&self, digest: &Digest, n: u64) -> PathBuf {
        self.root.join(format!("partial/{}.{n}", flat(digest)))
    }

    pub(crate) fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for a small file that is on its way; all of them are swept at start.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join(format!("partial/record.{}", self.unique()))
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Where the scrub in service is.
    pub(crate) fn scrub_cursor(&self) -> PathBuf {
        self.root.join("scrub")
    }

    /// Patterns of images that eviction leaves alone.
    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// A part of the record of pulls.
    pub(crate) fn pulls(&self, part: usize) -> PathBuf {
        self.root.join(format!("pulls/{part:02x}"))
    }

    pub(crate) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    /// Names this server in the ids of its uploads.
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// The bytes of an upload. `id` is one that this server made or that it found as a file's name.
    pub(crate) fn upload(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    /// Whose upload it is.
    pub(crate) fn upload_record(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(format!("{id}.session"))
    }

    pub(crate) fn hosted(&self) -> PathBuf {
        self.root.join("hosted")
    }

    /// The directory of a repository that lives here.
    pub(crate) fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("hosted").join(name.as_str())
    }

    /// That a hosted repository holds a digest. The size is part of the name, so that one listing tells what is held.
    pub(crate) fn held(&self, name: &Name, kind: Kind, digest: &Digest, size: u64) -> PathBuf {
        self.repository(name).join(held_in(kind)).join(format!("{}.{size}", flat(digest)))
    }

    pub(crate) fn hosted_tag(&self, name: &Name, tag: &Tag) -> PathBuf {
        self.repository(name).join(TAGS).join(tag.as_str())
    }

    /// The descriptors of what refers to a subject.
    pub(crate) fn referrers(&self, name: &Name, subject: &Digest) -> PathBuf {
        self.repository(name).join(REFERRERS).join(flat(subject))
    }

    pub(crate) fn journal(&self, name: &str) -> PathBuf {
        self.root.join("journals").join(name)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// What the index is measured against when it is opened.
    pub(crate) fn sentinel(&self) -> PathBuf {
        self.root.join("index.sentinel")
    }

    /// The directory of what a source said.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the configured names are too long to be file names.
    pub(crate) fn source(&self, source: &Source) -> Result<PathBuf, Error> {
        let mut path = self.repositories();
        path.push(escape(&source.upstream)?);
        path.push(escape(&source.credential)?);
        path.push(source.repository.as_str());
        Ok(path)
    }

    pub(crate) fn tag(&self, source: &Source, tag: &Tag) -> Result<PathBuf, Error> {
        Ok(self.source(source)?.join(TAGS).join(tag.as_str()))
    }

    pub(crate) fn member(&self, source: &Source, digest: &Digest) -> Result<PathBuf, Error> {
        Ok(self.source(source)?.join(MEMBERS).join(flat(digest)))
    }

    pub(crate) fn listing(&self, source: &Source, kind: &str) -> Result<PathBuf, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if kind.is_empty() || kind.len() > 160 || !kind.bytes().all(plain) {
            return Err(Error::Unusable(format!("{kind:?} is no kind of listing")));
        }
        Ok(self.source(source)?.join(LISTINGS).join(kind))
    }
}

pub(crate) const TAGS: &str = "_tags";
pub(crate) const MEMBERS: &str = "_members";
pub(crate) const LISTINGS: &str = "_listings";
pub(crate) const REFERRERS: &str = "_referrers";

/// Where a hosted repository keeps what it holds of a kind.
pub(crate) fn held_in(kind: Kind) -> &'static str {
    match kind {
        Kind::Blob => "_blobs",
        Kind::Manifest => "_manifests",
    }
}

/// The digest and the size in a name that [`Layout::held`] made.
pub(crate) fn held_name(name: &str) -> Option<(Digest, u64)> {
    let (digest, size) = name.split_once('.')?;
    Some((unflat(digest)?, size.parse().ok()?))
}

/// A digest as one file name.
pub(crate) fn flat(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that [`flat`] wrote.
pub(crate) fn unflat(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// The digest and number of a partial file's name.
pub(crate) fn partial_name(name: &str) -> Option<(Digest, u64)> {
    let (digest, n) = name.split_once('.')?;
    Some((unflat(digest)?, n.parse().ok()?))
}

/// Configured text as one file name that can be read back: all but letters, digits and `.-_` (and a first dot) is `%XX`.
pub(crate) fn escape(text: &str) -> Result<String, Error> {
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > 255 {
        return Err(Error::Unusable(format!("{text:?} must have 1 to 255 bytes to name a directory")));
    }
    Ok(name)
}

/// The text that [`escape`] was given.
pub(crate) fn unescape(name: &str) -> Option<Arc<str>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_text_cannot_leave_its_directory_and_reads_back() {
        for text in ["docker.io", "localhost:5000", "..", ".", "../../etc", "a/b", "é", "%41", "a\0b", "Ann"] {
            let name = escape(text).unwrap();
            assert!(!name.contains('/') && !name.starts_with('.') && !name.contains('\0'), "{name}");
            assert_eq!(unescape(&name).as_deref(), Some(text));
        }
        assert!(escape("").is_err() && escape(&"a".repeat(256)).is_err());
    }

    #[test]
    fn a_partial_file_names_its_digest() {
        let digest = crate::oci::Algorithm::Sha512.digest(b"x");
        let layout = Layout::new("r".into());
        let path = layout.partial(&digest, 7);
        assert_eq!(partial_name(path.file_name().unwrap().to_str().unwrap()), Some((digest, 7)));
        assert_eq!(partial_name("record.7"), None);
    }
}
