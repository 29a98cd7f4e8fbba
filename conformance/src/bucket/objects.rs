//! The objects of a bucket, each with its version, and uploads in parts.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Why nothing was written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Precondition,
    Absent,
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, (Bytes, u64)>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    /// The version that was given last, and the upload.
    last: u64,
}

impl Objects {
    pub(super) fn keys(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<(Bytes, u64)> {
        self.objects.get(key).cloned()
    }

    pub(super) fn put(&mut self, key: &str, bytes: Bytes) -> u64 {
        self.last += 1;
        self.objects.insert(key.to_owned(), (bytes, self.last));
        self.last
    }

    /// Writes a key that must not exist, or have this version.
    pub(super) fn put_if(
        &mut self,
        key: &str,
        bytes: Bytes,
        create: bool,
        update: Option<&str>,
    ) -> Result<u64, Refusal> {
        let version = self.objects.get(key).map(|(_, version)| format!("\"{version}\""));
        match (version, update) {
            (Some(_), _) if create => Err(Refusal::Precondition),
            (Some(version), Some(wanted)) if version != wanted => Err(Refusal::Precondition),
            (None, Some(_)) => Err(Refusal::Absent),
            _ => Ok(self.put(key, bytes)),
        }
    }

    pub(super) fn copy(&mut self, from: &str, to: &str) -> Option<u64> {
        let (bytes, _) = self.get(from)?;
        Some(self.put(to, bytes))
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    pub(super) fn begin(&mut self) -> String {
        self.last += 1;
        let upload = format!("upload{}", self.last);
        self.uploads.insert(upload.clone(), BTreeMap::new());
        upload
    }

    pub(super) fn part(&mut self, upload: &str, number: u32, bytes: Bytes) -> Option<u64> {
        self.last += 1;
        self.uploads.get_mut(upload)?.insert(number, bytes);
        Some(self.last)
    }

    pub(super) fn complete(&mut self, key: &str, upload: &str) -> Option<u64> {
        let parts = self.uploads.remove(upload)?;
        let bytes: Vec<u8> = parts.into_values().flatten().collect();
        Some(self.put(key, bytes.into()))
    }

    pub(super) fn abort(&mut self, upload: &str) {
        self.uploads.remove(upload);
    }
}
