//! Tag lists and referrers answers as they were last seen upstream, and which sources have anything at all.

use std::{collections::BTreeSet, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Source,
    core::Core,
    layout::{LISTINGS, MEMBERS, TAGS, unescape, unflat},
    oci::{Name, Tag},
};

/// A tag list or a referrers answer as it was last seen upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// When upstream gave it.
    pub checked_at: SystemTime,
    /// JSON whose shape is the caller's.
    #[serde(with = "text")]
    pub body: Vec<u8>,
}

/// JSON kept as text is readable in the file and a fourth of the size of a list of numbers.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(String::into_bytes).map_err(D::Error::custom)
    }
}

impl Core {
    pub(crate) fn listing(&self, source: &Source, kind: &str) -> Result<Option<Listing>, Error> {
        let key = (source.clone(), kind.to_owned());
        if let Some(listing) = self.memory.listings.get(&key) {
            return Ok(Some(listing));
        }
        let _stripe = self.stripes.lock(&key);
        let listing: Option<Listing> = self.read_record(&self.layout.listing(source, kind)?)?;
        if let Some(listing) = &listing {
            self.memory.listings.insert(key, listing.clone());
        }
        Ok(listing)
    }

    pub(crate) fn put_listing(&self, source: &Source, kind: &str, listing: &Listing) -> Result<(), Error> {
        let key = (source.clone(), kind.to_owned());
        let _stripe = self.stripes.lock(&key);
        self.write_record(&self.layout.listing(source, kind)?, listing)?;
        self.memory.listings.insert(key, listing.clone());
        Ok(())
    }

    fn remove_listing(&self, source: &Source, kind: &str) -> Result<bool, Error> {
        let key = (source.clone(), kind.to_owned());
        let _stripe = self.stripes.lock(&key);
        self.memory.listings.invalidate(&key);
        self.disk.remove(&self.layout.listing(source, kind)?)
    }

    /// Forgets one tag of a repository under every credential, or all that they said of it.
    pub(crate) fn forget(&self, upstream: &str, repository: &Name, tag: Option<&Tag>) -> Result<u64, Error> {
        let upstream_directory = self.layout.repositories().join(crate::layout::escape(upstream)?);
        let mut gone = 0;
        for credential in self.disk.list(&upstream_directory)?.iter().filter_map(|name| unescape(name)) {
            let source = Source { upstream: upstream.into(), credential, repository: repository.clone() };
            if let Some(tag) = tag {
                gone += u64::from(self.remove_tag(&source, tag)?);
                continue;
            }
            let directory = self.layout.source(&source)?;
            for tag in self.tags(&source)? {
                gone += u64::from(self.remove_tag(&source, &tag)?);
            }
            for digest in self.disk.list(&directory.join(MEMBERS))?.iter().filter_map(|name| unflat(name)) {
                gone += u64::from(self.unvouch(&source, &digest)?);
            }
            for kind in self.disk.list(&directory.join(LISTINGS))? {
                gone += u64::from(self.remove_listing(&source, &kind)?);
            }
            self.lost_source(&source);
        }
        Ok(gone)
    }

    /// Every source with a tag or a manifest, by walking the directories: what is asked while the index is not to be had.
    pub(crate) fn walk_sources(&self) -> Result<BTreeSet<(String, String, String)>, Error> {
        let mut sources = BTreeSet::new();
        let root = self.layout.repositories();
        for upstream in self.disk.list(&root)? {
            for credential in self.disk.list(&root.join(&upstream))? {
                let (Some(upstream_text), Some(credential_text)) = (unescape(&upstream), unescape(&credential)) else {
                    continue;
                };
                let base = root.join(&upstream).join(&credential);
                let mut below = self.disk.list(&base)?;
                while let Some(path) = below.pop() {
                    let Ok(name) = path.parse::<Name>() else { continue };
                    let children = self.disk.list(&base.join(&path))?;
                    if self.has_content(&base.join(&path), &children)? {
                        let key = (upstream_text.to_string(), name.to_string(), credential_text.to_string());
                        sources.insert(key);
                    }
                    below.extend(children.iter().map(|child| format!("{path}/{child}")));
                }
            }
        }
        Ok(sources)
    }

    fn has_content(&self, directory: &std::path::Path, children: &[String]) -> Result<bool, Error> {
        let has = |name: &str| children.iter().any(|child| child == name);
        if has(TAGS) && !self.disk.list(&directory.join(TAGS))?.is_empty() {
            return Ok(true);
        }
        if has(MEMBERS) {
            for digest in self.disk.list(&directory.join(MEMBERS))?.iter().filter_map(|name| unflat(name)) {
                if self.has_manifest(&digest)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
