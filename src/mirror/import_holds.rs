//! Which objects the imports under way count on: what one has stored is not removed with it while another needs it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::oci::Digest;

/// The objects of the imports under way: each import holds at most as many as an archive may have. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds(Arc<Mutex<HashMap<Digest, Hold>>>);

#[derive(Debug, Default)]
struct Hold {
    imports: usize,
    /// One of them stored it: nothing named it before.
    is_stored: bool,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An import counts on an object from now on, be it here already or not.
    pub(super) fn hold(&self, digest: &Digest) {
        self.lock().entry(digest.clone()).or_default().imports += 1;
    }

    /// An import stored an object that it holds.
    pub(super) fn stored(&self, digest: &Digest) {
        self.lock().entry(digest.clone()).or_default().is_stored = true;
    }

    /// An import ends: `remove` gets what was stored, by whichever import, and is held by none any more. No import begins to hold anything
    /// before it has ended, or it would find an object here that is about to go.
    pub(super) fn release<T>(&self, held: &[Digest], remove: impl FnOnce(Vec<Digest>) -> T) -> T {
        let mut holds = self.lock();
        let mut unheld = Vec::new();
        for digest in held {
            let Some(hold) = holds.get_mut(digest) else { continue };
            hold.imports = hold.imports.saturating_sub(1);
            if hold.imports == 0 {
                unheld.extend(hold.is_stored.then(|| digest.clone()));
                holds.remove(digest);
            }
        }
        remove(unheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_two_imports_hold_is_removed_by_the_last_of_them() {
        let (holds, [one, two, here]) =
            (Holds::default(), ["1", "2", "3"].map(|text| Algorithm::Sha256.digest(text.as_bytes())));
        let all = [one.clone(), two.clone(), here.clone()];
        all.iter().for_each(|digest| holds.hold(digest));
        [&one, &two].into_iter().for_each(|digest| holds.stored(digest));
        holds.hold(&one);
        assert_eq!(holds.release(&all, |unheld| unheld), [two], "what was here before is not removed");
        assert_eq!(holds.release(std::slice::from_ref(&one), |unheld| unheld), [one]);
        assert!(holds.lock().is_empty());
    }
}
