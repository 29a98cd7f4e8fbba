//! Which hosted repositories hold a digest, and so what eviction must leave alone.
//!
//! Pins are in memory and are read from the directories of the repositories before the store answers; a pin is taken while
//! its object is held against eviction and lasts until the last repository has given the digest up. They also say
//! which repositories exist, how much a namespace holds, and where a blob could be mounted from.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    Error,
    files::Kind,
    oci::{Digest, Name, matches},
};

#[derive(Debug)]
pub(crate) struct Pins {
    // Held for a few map operations; for a walk over the repositories when they are listed.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: Vec<String>,
    capacity: u64,
    pins: HashMap<(Kind, Digest), Pin>,
    repositories: BTreeMap<Name, Held>,
    /// Bytes of each namespace; what several of its repositories hold counts once.
    used: Vec<u64>,
    manifests: (u64, u64),
    blobs: (u64, u64),
}

#[derive(Debug)]
struct Pin {
    size: u64,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    name: Name,
    /// Asked for, mounted or named by a manifest lately, as far as this process knows.
    touched: Option<Instant>,
}

/// What a repository holds, in numbers of digests.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    blobs: u64,
    manifests: u64,
}

impl Pins {
    /// `namespaces` are patterns; each may hold `capacity` bytes, or any number when that is 0.
    pub(crate) fn new(namespaces: Vec<String>, capacity: u64) -> Pins {
        let state = State { used: vec![0; namespaces.len()], namespaces, capacity, ..State::default() };
        Pins { state: Mutex::new(state) }
    }

    /// From now on these patterns, and so much for each. What is held stays, however much it is. Walks all pins.
    pub(crate) fn set_namespaces(&self, namespaces: Vec<String>, capacity: u64) {
        let mut state = self.state();
        state.capacity = capacity;
        if state.namespaces == namespaces {
            return;
        }
        let mut used = vec![0_u64; namespaces.len()];
        for pin in state.pins.values() {
            let mut of: Vec<usize> =
                pin.holders.iter().filter_map(|holder| namespace(&namespaces, &holder.name)).collect();
            of.sort_unstable();
            of.dedup();
            of.into_iter().for_each(|namespace| used[namespace] += pin.size);
        }
        (state.namespaces, state.used) = (namespaces, used);
    }

    /// Bytes that each namespace may hold; 0 is any number.
    pub(crate) fn capacity(&self) -> u64 {
        self.state().capacity
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether some repository holds it.
    pub(crate) fn is_pinned(&self, kind: Kind, digest: &Digest) -> bool {
        self.state().pins.contains_key(&(kind, digest.clone()))
    }

    /// The size of what this repository holds under the digest.
    pub(crate) fn held(&self, kind: Kind, digest: &Digest, name: &Name) -> Option<u64> {
        let state = self.state();
        let pin = state.pins.get(&(kind, digest.clone()))?;
        pin.holders.iter().any(|holder| holder.name == *name).then_some(pin.size)
    }

    /// The repository is still interested: what no manifest names is collected only after it has not been for a while.
    pub(crate) fn touch(&self, kind: Kind, digest: &Digest, name: &Name) {
        if let Some(pin) = self.state().pins.get_mut(&(kind, digest.clone()))
            && let Some(holder) = pin.holders.iter_mut().find(|holder| holder.name == *name)
        {
            holder.touched = Some(Instant::now());
        }
    }

    /// When it was last touched.
    pub(crate) fn touched(&self, kind: Kind, digest: &Digest, name: &Name) -> Option<Instant> {
        let state = self.state();
        state.pins.get(&(kind, digest.clone()))?.holders.iter().find(|holder| holder.name == *name)?.touched
    }

    /// The repository holds it from now on; `false` when it did already.
    ///
    /// # Errors
    /// [`Error::Quota`] when its namespace would hold more than it may.
    pub(crate) fn add(&self, kind: Kind, digest: &Digest, size: u64, name: &Name) -> Result<bool, Error> {
        self.insert(kind, digest, size, name, Some(Instant::now()))
    }

    /// As [`Pins::add`], of what was held when the process started: that is never refused.
    pub(crate) fn find(&self, kind: Kind, digest: &Digest, size: u64, name: &Name) {
        let _ = self.insert(kind, digest, size, name, None);
    }

    fn insert(
        &self,
        kind: Kind,
        digest: &Digest,
        size: u64,
        name: &Name,
        touched: Option<Instant>,
    ) -> Result<bool, Error> {
        let mut state = self.state();
        let state = &mut *state;
        let namespace = namespace(&state.namespaces, name);
        // What was held before is never refused.
        let capacity = touched.map_or(0, |_| state.capacity);
        let key = (kind, digest.clone());
        let holders = state.pins.get_mut(&key).map(|pin| &mut pin.holders);
        if let Some(holder) = holders.and_then(|holders| holders.iter_mut().find(|holder| holder.name == *name)) {
            holder.touched = touched.or(holder.touched);
            return Ok(false);
        }
        if let Some(namespace) = namespace
            && !state.in_namespace(&key, namespace)
        {
            let used = state.used[namespace].saturating_add(size);
            if capacity > 0 && used > capacity {
                return Err(Error::Quota { namespace: state.namespaces[namespace].clone(), capacity });
            }
            state.used[namespace] = used;
        }
        let pin = state.pins.entry(key).or_insert_with(|| {
            let (count, bytes) = match kind {
                Kind::Blob => &mut state.blobs,
                Kind::Manifest => &mut state.manifests,
            };
            *count += 1;
            *bytes += size;
            Pin { size, holders: Vec::with_capacity(1) }
        });
        pin.holders.push(Holder { name: name.clone(), touched });
        let held = state.repositories.entry(name.clone()).or_default();
        *(if kind == Kind::Blob { &mut held.blobs } else { &mut held.manifests }) += 1;
        Ok(true)
    }

    /// The repository holds it no more; `false` when it did not.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest, name: &Name) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let key = (kind, digest.clone());
        let Some(pin) = state.pins.get_mut(&key) else { return false };
        let Some(at) = pin.holders.iter().position(|holder| holder.name == *name) else { return false };
        pin.holders.swap_remove(at);
        let (size, last) = (pin.size, pin.holders.is_empty());
        if let Some(namespace) = namespace(&state.namespaces, name)
            && !state.in_namespace(&key, namespace)
        {
            state.used[namespace] -= size;
        }
        if last {
            state.pins.remove(&key);
            let (count, bytes) = match kind {
                Kind::Blob => &mut state.blobs,
                Kind::Manifest => &mut state.manifests,
            };
            *count -= 1;
            *bytes -= size;
        }
        if let Some(held) = state.repositories.get_mut(name) {
            *(if kind == Kind::Blob { &mut held.blobs } else { &mut held.manifests }) -= 1;
            if held.blobs == 0 && held.manifests == 0 {
                state.repositories.remove(name);
            }
        }
        true
    }

    /// The repositories that hold it.
    pub(crate) fn holders(&self, kind: Kind, digest: &Digest) -> Vec<Name> {
        let state = self.state();
        let pin = state.pins.get(&(kind, digest.clone()));
        pin.map(|pin| pin.holders.iter().map(|holder| holder.name.clone()).collect()).unwrap_or_default()
    }

    /// Everything that is pinned.
    pub(crate) fn all(&self) -> Vec<(Kind, Digest)> {
        self.state().pins.keys().cloned().collect()
    }

    /// All that a repository holds of a kind. Walks all pins.
    pub(crate) fn of(&self, kind: Kind, name: &Name) -> Vec<Digest> {
        let state = self.state();
        let mine = state
            .pins
            .iter()
            .filter(|((found, _), pin)| *found == kind && pin.holders.iter().any(|holder| holder.name == *name));
        mine.map(|((_, digest), _)| digest.clone()).collect()
    }

    /// Whether the repository holds anything.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.state().repositories.contains_key(name)
    }

    /// Every repository that holds something, in byte order, and whether that is a manifest.
    pub(crate) fn repositories(&self) -> Vec<(Name, bool)> {
        self.state().repositories.iter().map(|(name, held)| (name.clone(), held.manifests > 0)).collect()
    }

    /// Number and bytes of what is pinned.
    pub(crate) fn total(&self, kind: Kind) -> (u64, u64) {
        match kind {
            Kind::Blob => self.state().blobs,
            Kind::Manifest => self.state().manifests,
        }
    }

    /// Each namespace and the bytes that it holds, in the order in which they are configured.
    pub(crate) fn used(&self) -> Vec<(String, u64)> {
        let state = self.state();
        state.namespaces.iter().cloned().zip(state.used.iter().copied()).collect()
    }

    /// # Errors
    /// [`Error::Quota`] when the repository's namespace cannot hold so many bytes more.
    pub(crate) fn check_quota(&self, name: &Name, more: u64) -> Result<(), Error> {
        let state = self.state();
        let capacity = state.capacity;
        let Some(namespace) = namespace(&state.namespaces, name).filter(|_| capacity > 0) else { return Ok(()) };
        if state.used[namespace].saturating_add(more) <= capacity {
            return Ok(());
        }
        Err(Error::Quota { namespace: state.namespaces[namespace].clone(), capacity })
    }
}

impl State {
    fn in_namespace(&self, key: &(Kind, Digest), of: usize) -> bool {
        let holders = self.pins.get(key).map(|pin| &pin.holders);
        holders
            .is_some_and(|holders| holders.iter().any(|holder| namespace(&self.namespaces, &holder.name) == Some(of)))
    }
}

/// The first pattern that the name is of.
fn namespace(namespaces: &[String], name: &Name) -> Option<usize> {
    namespaces.iter().position(|pattern| matches(pattern, name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn new_namespaces_count_what_is_held_already_and_refuse_what_is_more() {
        let pins = Pins::new(vec!["a/*".to_owned()], 0);
        let digest = |number: u8| Algorithm::Sha256.digest(&[number]);
        let name = |name: &str| name.parse::<Name>().unwrap();
        for (number, repository) in [(1, "a/one"), (1, "a/two"), (2, "a/two"), (2, "b/one")] {
            assert!(pins.add(Kind::Blob, &digest(number), 10, &name(repository)).unwrap());
        }
        assert_eq!(pins.used(), [("a/*".to_owned(), 20)]);
        pins.set_namespaces(vec!["b/*".to_owned(), "a/two".to_owned()], 25);
        assert_eq!(pins.used(), [("b/*".to_owned(), 10), ("a/two".to_owned(), 20)]);
        let refused = pins.add(Kind::Blob, &digest(3), 10, &name("a/two")).unwrap_err();
        assert!(matches!(refused, Error::Quota { namespace, capacity: 25 } if namespace == "a/two"));
        assert!(pins.add(Kind::Blob, &digest(3), 10, &name("a/one")).unwrap(), "it is of no namespace now");
        assert!(pins.remove(Kind::Blob, &digest(2), &name("b/one")));
        assert_eq!(pins.used(), [("b/*".to_owned(), 0), ("a/two".to_owned(), 20)]);
        pins.set_namespaces(vec!["b/*".to_owned(), "a/two".to_owned()], 0);
        assert!(pins.add(Kind::Blob, &digest(4), 10, &name("a/two")).unwrap(), "there is no bound now");
    }
}
