//! What was decided lately of manifests, kept in memory. A look-up copies nothing and writes to no memory that threads share, since every
//! warm pull makes one; an entry that is kept copies the shard that it goes to.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::lookup::Lookup;
use crate::{
    oci::{Digest, Name, Reference, Tag},
    policy::Decision,
};

/// Each is copied when an entry is kept in it.
const SHARDS: usize = 128;
/// Decisions that a shard keeps: 20,480 in all, some 10 MiB. The one that expires first makes room for another.
const MOST_OF_SHARD: usize = 160;

/// What was asked for, as it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked<'a> {
    upstream: &'a str,
    repository: &'a Name,
    /// `None` when it was asked for by its digest.
    tag: Option<&'a Tag>,
    digest: &'a Digest,
}

impl<'a> Asked<'a> {
    pub(super) fn new(lookup: &'a Lookup, reference: &'a Reference, digest: &'a Digest) -> Asked<'a> {
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        Asked { upstream: &lookup.upstream, repository: &lookup.repository, tag, digest }
    }
}

#[derive(Debug)]
struct Kept {
    upstream: Arc<str>,
    repository: Name,
    tag: Option<Tag>,
    digest: Digest,
    decision: Decision,
    at: SystemTime,
    keep: Duration,
}

impl Kept {
    fn asked(&self) -> Asked<'_> {
        let Kept { upstream, repository, tag, digest, .. } = self;
        Asked { upstream, repository, tag: tag.as_ref(), digest }
    }

    /// A request that began before it was decided may use it. A clock that was set back further ends it.
    fn is_in_force(&self, now: SystemTime) -> bool {
        let apart = now.duration_since(self.at).unwrap_or_else(|before| before.duration());
        apart < self.keep
    }
}

/// Entries by the hash of what was asked for; of two with one hash, the later is kept.
type Shard = HashMap<u64, Arc<Kept>, RandomState>;

/// Decisions by what was asked for.
#[derive(Debug)]
pub(super) struct Decisions {
    shards: Vec<ArcSwap<Shard>>,
    hashes: RandomState,
}

impl Decisions {
    pub(super) fn new() -> Decisions {
        Decisions { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(), hashes: RandomState::default() }
    }

    fn shard(&self, hash: u64) -> &ArcSwap<Shard> {
        &self.shards[hash as usize % SHARDS]
    }

    /// What was decided, unless that is over. No system call.
    pub(super) fn get(&self, asked: Asked<'_>, now: SystemTime) -> Option<Decision> {
        let hash = self.hashes.hash_one(asked);
        let shard = self.shard(hash).load();
        let kept = shard.get(&hash).filter(|kept| kept.asked() == asked && kept.is_in_force(now))?;
        Some(kept.decision.clone())
    }

    /// This is decided from `at` on, for so long.
    pub(super) fn insert(
        &self,
        lookup: &Lookup,
        reference: &Reference,
        digest: &Digest,
        decision: Decision,
        at: SystemTime,
        keep: Duration,
    ) {
        let asked = Asked::new(lookup, reference, digest);
        let hash = self.hashes.hash_one(asked);
        let kept = Arc::new(Kept {
            upstream: lookup.upstream.clone(),
            repository: lookup.repository.clone(),
            tag: asked.tag.cloned(),
            digest: digest.clone(),
            decision,
            at,
            keep,
        });
        self.shard(hash).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            if shard.len() >= MOST_OF_SHARD && !shard.contains_key(&hash) {
                shard.retain(|_, kept| kept.is_in_force(at));
                let ends = |(_, kept): &(&u64, &Arc<Kept>)| kept.at.checked_add(kept.keep);
                let first = shard.iter().min_by_key(ends).map(|(hash, _)| *hash);
                if let Some(first) = first.filter(|_| shard.len() >= MOST_OF_SHARD) {
                    shard.remove(&first);
                }
            }
            shard.insert(hash, kept.clone());
            shard
        });
    }

    /// Nothing is decided.
    pub(super) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.store(Arc::default()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{client::Client, mirror::lookup::Cost, oci::Algorithm};

    const MINUTE: Duration = Duration::from_secs(60);

    fn lookup(upstream: &str, repository: &str) -> Lookup {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        Lookup {
            upstream: upstream.into(),
            repository: repository.parse().unwrap(),
            client: Arc::new(Client::anonymous(loopback, loopback)),
            cached_only: None,
            cost: Cost::default(),
        }
    }

    fn digest(text: &str) -> Digest {
        Algorithm::Sha256.digest(text.as_bytes())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_decision_is_found_under_exactly_what_it_was_made_of() {
        let (decisions, of, by_tag) = (Decisions::new(), lookup("docker.io", "library/a"), "1".parse().unwrap());
        decisions.insert(&of, &by_tag, &digest("a"), Decision::Pass, at(0), MINUTE);
        let is_known = |lookup: &Lookup, reference: &Reference, of: &str| {
            decisions.get(Asked::new(lookup, reference, &digest(of)), at(0)).is_some()
        };
        assert!(is_known(&of, &by_tag, "a"));
        let others = [lookup("ghcr.io", "library/a"), lookup("docker.io", "library/b")];
        for other in &others {
            assert!(!is_known(other, &by_tag, "a"), "{other:?}");
        }
        assert!(!is_known(&of, &"2".parse().unwrap(), "a"), "another tag");
        assert!(!is_known(&of, &Reference::Digest(digest("a")), "a"), "by digest it may be judged by another policy");
        assert!(!is_known(&of, &by_tag, "b"), "the tag has moved");
        decisions.clear();
        assert!(!is_known(&of, &by_tag, "a"));
    }

    #[test]
    fn two_that_have_one_hash_are_not_mistaken_for_each_other() {
        let (decisions, of, by_tag) = (Decisions::new(), lookup("docker.io", "library/a"), "1".parse().unwrap());
        let (one, other) = (digest("a"), digest("b"));
        decisions.insert(&of, &by_tag, &one, Decision::Pass, at(0), MINUTE);
        let hash = |digest| decisions.hashes.hash_one(Asked::new(&of, &by_tag, digest));
        let kept = decisions.shard(hash(&one)).load().get(&hash(&one)).unwrap().clone();
        decisions.shard(hash(&other)).store(Arc::new(Shard::from_iter([(hash(&other), kept)])));
        assert!(decisions.get(Asked::new(&of, &by_tag, &other), at(0)).is_none());
    }

    #[test]
    fn a_decision_is_in_force_for_its_own_time_and_no_longer_when_the_clock_is_set_back() {
        let (decisions, of, by_tag) = (Decisions::new(), lookup("docker.io", "library/a"), "1".parse().unwrap());
        let second = Duration::from_secs(1);
        for (text, keep) in [("a", MINUTE), ("b", second)] {
            decisions.insert(&of, &by_tag, &digest(text), Decision::Pass, at(100), keep);
        }
        let is_known =
            |of_digest: &str, now| decisions.get(Asked::new(&of, &by_tag, &digest(of_digest)), now).is_some();
        assert!(is_known("a", at(159)) && !is_known("a", at(160)));
        assert!(is_known("b", at(100)) && !is_known("b", at(101)));
        assert!(is_known("a", at(99)), "that request waited for the decision of another");
        assert!(!is_known("a", at(40)));
    }

    #[test]
    fn a_shard_that_is_full_loses_what_is_over_and_then_what_is_over_first() {
        let (decisions, of, by_tag) = (Decisions::new(), lookup("docker.io", "library/a"), "1".parse().unwrap());
        let most = SHARDS * MOST_OF_SHARD;
        let insert = |text: &str, now, keep| decisions.insert(&of, &by_tag, &digest(text), Decision::Pass, now, keep);
        let kept = || decisions.shards.iter().map(|shard| shard.load().len()).sum::<usize>();
        for number in 0..most * 2 {
            insert(&format!("{number}"), at(number as u64), MINUTE * 1_000_000);
        }
        assert_eq!(kept(), most, "each shard is full");
        let is_known = |text: String, now| decisions.get(Asked::new(&of, &by_tag, &digest(&text)), now).is_some();
        let last = at(most as u64 * 2);
        assert!(!is_known("0".to_owned(), last), "it ends before every other one of its shard");
        assert!(is_known(format!("{}", most * 2 - 1), last));
        insert("late", last + MINUTE * 1_000_001, MINUTE);
        assert_eq!(kept(), most - MOST_OF_SHARD + 1, "all of that shard was over");
    }
}
