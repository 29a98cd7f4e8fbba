//! Removing one object: eviction and purge do it in the same way.
//!
//! # What this guarantees
//! What a client reads or writes is not removed, nor what a hosted repository holds. The file leaves its name and the accounts
//! while new readers wait, so that a commit of the same digest comes before both or after both; it is unlinked after
//! that, since to unlink a large file takes long.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use crate::{
    blobs::InUse,
    cache::Manifests,
    capacity::Capacity,
    files::{Files, Kind},
    hosted::Pins,
    oci::Digest,
};

/// What it takes to remove an object. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Remover {
    pub(crate) files: Arc<Files>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) in_use: InUse,
    pub(crate) manifests: Manifests,
    pub(crate) pins: Arc<Pins>,
    pub(crate) left: Arc<Mutex<Vec<Left>>>,
}

/// Objects that purges leave to be removed after their readers; of more than that, eviction takes the rest.
const MOST_LEFT: usize = 10_000;

/// An object that a purge did not remove, as a client read it.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
    /// It was purged by its digest: it goes though an image names it.
    pub(crate) by_digest: bool,
}

/// What became of an object that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone; its size in bytes.
    Removed(u64),
    /// A client reads or writes it.
    InUse,
    /// A hosted repository holds it, or it could not be removed.
    Kept,
}

impl Remover {
    /// Removes an object. `account` takes it out of the accounts and gives its size.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest, account: impl FnOnce(&Capacity) -> u64) -> Removal {
        let (disk, layout) = (&self.files.disk, &self.files.layout);
        let trash = layout.temporary();
        let moved = self.in_use.unless_held(digest, || {
            // A pin is taken under a hold, so that none comes between the look and the removal.
            (!self.pins.is_pinned(kind, digest)).then(|| {
                let moved = disk.take_away(&layout.object(kind, digest), &trash);
                moved.map(|_| account(&self.capacity))
            })
        });
        let moved = match moved {
            None => return Removal::InUse,
            Some(None) => return Removal::Kept,
            Some(Some(moved)) => moved,
        };
        if kind == Kind::Manifest {
            self.manifests.forget(digest);
        }
        match moved.and_then(|size| disk.remove(&trash).map(|_| size)) {
            Ok(size) => Removal::Removed(size),
            Err(error) => {
                warn!(%digest, %error, "cannot be removed");
                Removal::Kept
            }
        }
    }

    /// These are removed once no client reads them. It is forgotten by a restart; eviction takes them then.
    pub(crate) fn leave(&self, objects: impl Iterator<Item = Left>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let most = MOST_LEFT.saturating_sub(left.len());
        left.extend(objects.take(most));
    }

    /// Removes what purges left and no client reads any more. What an image has come to need again stays.
    pub(crate) fn remove_left(&self, is_needed: impl Fn(&Digest) -> bool) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        if left.is_empty() {
            return;
        }
        let still_read = left.into_iter().filter(|Left { kind, digest, by_digest }| {
            if !by_digest && is_needed(digest) {
                return false;
            }
            let removal = self.remove(*kind, digest, |capacity| capacity.removed(*kind, digest));
            if let Removal::Removed(freed) = removal {
                info!(%digest, freed, "removed what a purge left to a pull");
            }
            removal == Removal::InUse
        });
        self.leave(still_read.collect::<Vec<_>>().into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Store, oci::Algorithm};

    /// A blob that is stored while it is evicted is either gone or counted.
    #[tokio::test]
    async fn what_leaves_its_name_leaves_the_accounts_before_it_can_be_stored_again() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Settings { root: root.path().to_owned(), ..Settings::default() }).unwrap();
        let bytes = bytes::Bytes::from_static(b"a blob");
        let digest = Algorithm::Sha256.digest(&bytes);
        let mut writer = store.blobs.write(&digest, Some(bytes.len() as u64)).await.unwrap();
        writer.append(bytes).await.unwrap();
        writer.commit().await.unwrap();
        let remover = store.images.remover.clone();
        let (work, path) = (remover.clone(), remover.files.layout.object(Kind::Blob, &digest));
        let removed = tokio::task::spawn_blocking(move || {
            work.remove(Kind::Blob, &digest, |capacity| {
                assert!(!path.exists(), "it is accounted for and has its name still");
                // Neither a reader nor a writer begins now, for each begins with a hold.
                assert!(remover.in_use.unless_held(&digest, || ()).is_none(), "another use of it can begin");
                capacity.evicted(Kind::Blob, &digest)
            })
        });
        assert_eq!(removed.await.unwrap(), Removal::Removed(6));
        assert_eq!(store.usage().blobs, 0);
    }
}
