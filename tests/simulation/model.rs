//! What must be true of every answer, whatever was done before: the reference that the simulation is compared with.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use weir::oci::Digest;

use super::{
    operation::{PUSHED, Place, REPOSITORIES, TAGS},
    world::TAG_TTL,
};

/// A reading of the clock may be a little older than the answer that it is compared with.
const SLACK: Duration = Duration::from_secs(5);

/// What something may be: one value, or several after a change that failed.
pub(super) type Possible<T> = BTreeSet<T>;

pub(super) struct Model {
    /// What each tag names upstream.
    pub(super) tags: [[Option<usize>; TAGS]; REPOSITORIES],
    /// What they named, and when, by the clock that Weir reads.
    named: Vec<(SystemTime, [[Option<usize>; TAGS]; REPOSITORIES])>,
    /// Tags that named nothing at some time in this life of the process, which remembers that for a while.
    pub(super) absent: HashSet<Place>,
    pub(super) blobs: BTreeMap<Place, Possible<bool>>,
    pub(super) manifests: BTreeMap<Place, Possible<bool>>,
    pub(super) hosted_tags: BTreeMap<Place, Possible<Option<usize>>>,
    /// Upstream misbehaved in this life of the process, which may have closed its breaker since.
    pub(super) upstream_failed: bool,
    /// The disk failed in this life of the process.
    pub(super) disk_failed: bool,
    /// Rotted on the disk: what is read of it first may be cut off.
    pub(super) rotted: HashSet<Digest>,
    /// Certainly here, so that upstream must not be asked for it.
    pub(super) cached: HashSet<Digest>,
    /// When upstream last confirmed a tag, while nothing that could make Weir ask again has happened.
    pub(super) fresh: HashMap<Place, SystemTime>,
    /// Tags that were asked for upstream behind an answer in this life of the process, which ends at any time.
    behind: HashSet<Place>,
    /// Nothing is evicted.
    pub(super) roomy: bool,
    /// What upstream would give when it was last set, and what it has counted since.
    pub(super) budget: i64,
    pub(super) counted: i64,
    /// The ledger's spends beyond what upstream counted, at least and at most.
    pub(super) surplus: (i64, i64),
    /// The ledger lost what was not written while the disk failed.
    pub(super) ledger_lost: bool,
    /// What the ledger says is left is what upstream said last.
    pub(super) balance_known: bool,
    /// When pulls came back after none was left, which the mirror cannot know at once.
    pub(super) refilled_at: Option<Instant>,
}

impl Model {
    pub(super) fn new(tags: [[Option<usize>; TAGS]; REPOSITORIES], budget: i64, roomy: bool) -> Model {
        let places = |most| (0..REPOSITORIES).flat_map(move |repository| (0..most).map(move |one| (repository, one)));
        Model {
            tags,
            named: Vec::new(),
            absent: HashSet::new(),
            blobs: places(PUSHED).map(|place| (place, Possible::from([false]))).collect(),
            manifests: places(PUSHED).map(|place| (place, Possible::from([false]))).collect(),
            hosted_tags: places(TAGS).map(|place| (place, Possible::from([None]))).collect(),
            upstream_failed: false,
            disk_failed: false,
            rotted: HashSet::new(),
            cached: HashSet::new(),
            fresh: HashMap::new(),
            behind: HashSet::new(),
            roomy,
            budget,
            counted: 0,
            surplus: (0, 0),
            ledger_lost: false,
            balance_known: false,
            refilled_at: None,
        }
    }

    /// Notes what tags name at this time.
    pub(super) fn look(&mut self, now: SystemTime) {
        self.named.push((now, self.tags));
        for (repository, tags) in self.tags.iter().enumerate() {
            for (tag, image) in tags.iter().enumerate() {
                if image.is_none() {
                    self.absent.insert((repository, tag));
                }
            }
        }
    }

    pub(super) fn named_now(&self, tag: Place) -> Option<usize> {
        self.tags[tag.0][tag.1]
    }

    pub(super) fn named_ever(&self, tag: Place, image: usize) -> bool {
        self.named.iter().any(|(_, tags)| tags[tag.0][tag.1] == Some(image))
    }

    /// Whether the tag named this image within the time for which an answer is fresh.
    pub(super) fn named_lately(&self, tag: Place, image: usize, now: SystemTime) -> bool {
        self.named
            .iter()
            .any(|(at, tags)| tags[tag.0][tag.1] == Some(image) && *at <= now + SLACK && now <= *at + TAG_TTL + SLACK)
    }

    /// Whether upstream need not be asked for a tag at this time.
    pub(super) fn is_fresh(&self, tag: Place, now: SystemTime) -> bool {
        self.fresh.get(&tag).is_some_and(|at| *at <= now && now + SLACK < *at + TAG_TTL)
    }

    /// Upstream said what a tag names, by this time.
    pub(super) fn confirmed(&mut self, tag: Place, now: SystemTime) {
        if !self.behind.contains(&tag) {
            self.fresh.insert(tag, now);
        }
    }

    /// Upstream may be asked for a tag after its answer went out.
    pub(super) fn revalidated_behind(&mut self, tag: Place) {
        self.behind.insert(tag);
        self.fresh.remove(&tag);
    }

    /// What upstream would still give.
    pub(super) fn left(&self) -> i64 {
        self.budget - self.counted
    }

    /// Another life of the process begins.
    pub(super) fn restarted(&mut self, power_cut: bool) {
        self.upstream_failed = false;
        self.absent.clear();
        self.fresh.clear();
        self.behind.clear();
        self.ledger_lost |= self.disk_failed;
        self.disk_failed = false;
        self.balance_known = false;
        if power_cut {
            self.cached.clear();
        }
    }

    pub(super) fn pushed(&mut self, done: bool, place: Place) {
        change(self.blobs.get_mut(&place), done, true);
    }

    pub(super) fn deleted(&mut self, done: bool, place: Place) {
        change(self.blobs.get_mut(&place), done, false);
    }

    pub(super) fn manifest_pushed(&mut self, done: bool, (repository, manifest): Place, tag: usize) {
        change(self.manifests.get_mut(&(repository, manifest)), done, true);
        change(self.hosted_tags.get_mut(&(repository, tag)), done, Some(manifest));
    }

    pub(super) fn manifest_deleted(&mut self, done: bool, (repository, manifest): Place) {
        change(self.manifests.get_mut(&(repository, manifest)), done, false);
        for tag in 0..TAGS {
            let Some(possible) = self.hosted_tags.get_mut(&(repository, tag)) else { continue };
            if possible.contains(&Some(manifest)) {
                possible.insert(None);
                if done {
                    possible.remove(&Some(manifest));
                }
            }
        }
    }

    pub(super) fn tag_deleted(&mut self, done: bool, place: Place) {
        change(self.hosted_tags.get_mut(&place), done, None);
    }
}

fn change<T: Ord>(possible: Option<&mut Possible<T>>, done: bool, value: T) {
    let Some(possible) = possible else { return };
    if done {
        possible.clear();
    }
    possible.insert(value);
}
