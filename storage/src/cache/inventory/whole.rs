//! Which manifests are whole: all that they name is here. Kept as objects and manifests come and go, so that no list looks at a million
//! objects.

use std::{
    mem,
    sync::{MutexGuard, PoisonError},
};

use super::{Inventory, Known, Named, Now, State};
use crate::{
    capacity::{Accounts, Capacity, Recent},
    oci::Digest,
};

/// How deep indexes stand in indexes that are whole.
pub(crate) const DEPTH: u8 = 4;
/// Manifests that are looked at while a change of the inventory waits: some tens of microseconds.
const AT_ONCE: usize = 64;

impl Inventory {
    /// Takes up what came and went since the last call. Costs what those manifests name that name what came or went.
    pub(crate) fn settle(&self, capacity: &Capacity) {
        // A second one waits, so that it does not look at what the first has not taken up yet.
        let _settling: MutexGuard<'_, ()> = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = capacity.take_recent();
        if matches!(&recent, Recent::Some(objects) if objects.is_empty()) && !self.is_unsettled() {
            return;
        }
        let mut todo = self.unsettled(recent);
        while !todo.is_empty() {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            let accounts = capacity.accounts();
            for _ in 0..AT_ONCE {
                let Some(digest) = todo.pop() else { break };
                if now.state.judge(&accounts, &digest) {
                    todo.extend(now.references.parents(&digest).cloned());
                }
            }
        }
    }

    fn is_unsettled(&self) -> bool {
        !self.now.read().unwrap_or_else(PoisonError::into_inner).unsettled.is_empty()
    }

    /// The manifests of which a change may have made another of what they are.
    fn unsettled(&self, recent: Recent) -> Vec<Digest> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let Now { state, references, unsettled, .. } = &mut *now;
        let mut todo = mem::take(unsettled);
        match recent {
            Recent::All => todo.extend(state.manifests().map(|(digest, _)| digest.clone())),
            Recent::Some(objects) => {
                todo.extend(objects.iter().flat_map(|digest| references.parents(digest)).cloned());
                todo.extend(objects);
            }
        }
        todo
    }
}

impl State {
    /// Whether all that a manifest names was here when the inventory was last settled.
    pub(crate) fn is_whole(&self, digest: &Digest) -> bool {
        self.manifests.get(digest).is_some_and(|known| known.height.is_some())
    }

    /// Looks whether a manifest is whole; `true` when that is another answer than before.
    fn judge(&mut self, accounts: &Accounts, digest: &Digest) -> bool {
        let Some(known) = self.manifests.get(digest) else { return false };
        let height = self.height(accounts, digest, known);
        let is_changed = known.height != height;
        if is_changed {
            self.count(digest, |known| known.height = height);
        }
        is_changed
    }

    /// How many levels of manifests stand below one that is whole.
    fn height(&self, accounts: &Accounts, digest: &Digest, known: &Known) -> Option<u8> {
        accounts.manifests.get(digest)?;
        let below = |child: &Named| match child.is_manifest() {
            true => Some(self.manifests.get(&child.digest)?.height? + 1),
            false => accounts.blobs.get(&child.digest).map(|_| 0),
        };
        let children = known.children.as_ref()?;
        let height = children.iter().try_fold(0, |height: u8, child| below(child).map(|it| it.max(height)))?;
        (height <= DEPTH).then_some(height)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::{
        Settings,
        files::Kind,
        oci::{Algorithm, Manifest},
    };

    fn manifest(list: &str, child: &Digest) -> Manifest {
        let bytes = Bytes::from(format!(r#"{{"schemaVersion":2,"{list}":[{{"digest":"{child}","size":1}}]}}"#));
        let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        Manifest { digest: Algorithm::Sha256.digest(&bytes), media_type, bytes }
    }

    #[test]
    fn what_came_or_went_among_more_than_is_remembered_is_taken_up_too() {
        let (capacity, _demands) = Capacity::new(&Settings::default(), 0);
        let inventory = Inventory::default();
        let layer = Algorithm::Sha256.digest(b"layer");
        let image = manifest("layers", &layer);
        let mut all = vec![image];
        // An index in each of the others, one more than a pull follows.
        for _ in 0..=DEPTH {
            all.push(manifest("manifests", &all.last().unwrap().digest));
        }
        for manifest in &all {
            inventory.manifest(manifest, SystemTime::now(), false);
            capacity.insert(Kind::Manifest, &manifest.digest, 100);
        }
        let whole = || {
            inventory.settle(&capacity);
            let state = inventory.read();
            all.iter().map(|manifest| state.is_whole(&manifest.digest)).collect::<Vec<_>>()
        };
        let (none, mut most) = (vec![false; all.len()], vec![true; all.len()]);
        most[all.len() - 1] = false;
        assert_eq!(whole(), none);
        let noise = || {
            for number in 0..70_000_u32 {
                capacity.insert(Kind::Blob, &Algorithm::Sha256.digest(&number.to_le_bytes()), 1);
            }
        };
        capacity.insert(Kind::Blob, &layer, 1);
        noise();
        assert!(matches!(capacity.accounts().recent, Recent::All), "this is too few to be more than is remembered");
        assert_eq!(whole(), most);
        capacity.removed(Kind::Blob, &layer);
        noise();
        assert_eq!(whole(), none);
        capacity.insert(Kind::Blob, &layer, 1);
        assert_eq!(whole(), most);
        capacity.removed(Kind::Manifest, &all[1].digest);
        assert_eq!(whole()[..3], [true, false, false]);
    }
}
