//! Fetching one image: its manifests, then the blobs that are missing, by the flights and fills that clients share.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{job::Wanted, platforms::Platforms};
use crate::{
    answer::{CacheStatus, ManifestAnswer},
    client::Client,
    limits::Limits,
    mirror::{
        blobs::{Blobs, Kept},
        error::Error,
        lookup::{Cost, Lookup},
        manifests::Manifests,
    },
    oci::{Child, Digest, Reference},
};

/// How deep indexes stand in indexes, as for completeness.
const DEPTH: usize = 4;
/// Manifests of one image at most; an index of Docker Hub has some 20.
const MOST_MANIFESTS: usize = 1000;
/// How soon an upstream that limits us is asked again, whatever it says.
const LIMITED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// What an image is fetched by. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    pub(super) manifests: Arc<Manifests>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) images: weir_storage::Images,
    pub(super) limits: Limits,
}

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) manifests: u64,
}

/// Why an image is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Another try would find the same.
    Refused(String),
    /// Clients need what is left of the budget.
    Budget(String),
    /// Upstream asks to wait, and so do all images of it.
    Limited(String, Duration),
    /// It may be otherwise next time.
    Trouble(String),
}

/// Bytes that a job may still bring. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<AtomicU64>);

impl Room {
    pub(super) fn new(bytes: u64) -> Room {
        Room(Arc::new(AtomicU64::new(bytes)))
    }

    /// Takes so many bytes; what is left when these are too many.
    fn take(&self, bytes: u64) -> Result<(), u64> {
        let take = |left: u64| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(drop)
    }

    fn give(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Fetcher {
    /// Sees to it that all that is wanted of an image is here.
    pub(super) async fn fetch(
        &self,
        client: &Arc<Client>,
        wanted: &Wanted,
        platforms: &Platforms,
        room: &Room,
    ) -> Result<Got, Failed> {
        if let Some(sentence) = self.limits.config().repositories.refuse(&wanted.upstream, &wanted.repository) {
            return Err(Failed::Refused(sentence));
        }
        // Without accounts all is public, and a warm shares its requests with clients that have no rights.
        let client = match self.manifests.has_accounts(&wanted.upstream) {
            true => client.clone(),
            false => Arc::new(Client { pull: Arc::from([]), ..(**client).clone() }),
        };
        let lookup = Lookup {
            upstream: wanted.upstream.clone(),
            repository: wanted.repository.clone(),
            client,
            cached_only: None,
            cost: Cost::default(),
        };
        let (digest, manifests, blobs) = self.manifests(&lookup, &wanted.reference, platforms).await?;
        let mut missing = Vec::new();
        for blob in blobs {
            if self.blobs.whole(&lookup, &blob.digest).await.map_err(failed)?.is_none() {
                missing.push(blob);
            }
        }
        let needed = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
        room.take(needed).map_err(|left| Failed::Refused(no_room(needed, left)))?;
        let mut bytes = 0;
        let fetched = self.blobs(&lookup, &missing, &mut bytes).await;
        room.give(needed.saturating_sub(bytes));
        fetched?;
        // The inventory has the last word: what came may have been evicted or purged meanwhile.
        match platforms.are_here(&self.images.read(), &digest) {
            true => Ok(Got { digest, bytes, manifests }),
            false => Err(Failed::Trouble("some of it was evicted or purged while the rest came".to_owned())),
        }
    }

    /// What a reference names, how many manifests came for it, and the blobs that the wanted ones name, each once.
    async fn manifests(
        &self,
        lookup: &Lookup,
        reference: &Reference,
        platforms: &Platforms,
    ) -> Result<(Digest, u64, Vec<Child>), Failed> {
        let top = self.manifests.confirm(lookup, reference).await.map_err(failed)?;
        let mut came = u64::from(is_miss(&top));
        let digest = top.manifest.digest.clone();
        let children = children(&top)?;
        let index: Vec<&Child> = children.iter().filter(|child| child.is_manifest).collect();
        if !index.is_empty() && !index.iter().any(|child| platforms.want(child)) {
            let mut has: Vec<&str> = index.iter().filter_map(|child| child.platform.as_deref()).collect();
            has.dedup();
            has.truncate(20);
            return Err(Failed::Refused(format!("it has no {}; it has {}", platforms.0.join(", "), has.join(", "))));
        }
        let (mut blobs, mut seen) = (Vec::new(), HashSet::from([digest.clone()]));
        let wanted = children.into_iter().filter(|child| !child.is_manifest || platforms.want(child));
        let mut todo: Vec<(Child, usize)> = wanted.map(|child| (child, 1)).collect();
        while let Some((child, depth)) = todo.pop() {
            if !seen.insert(child.digest.clone()) {
                continue;
            }
            if !child.is_manifest {
                blobs.push(child);
                continue;
            }
            if depth > DEPTH || seen.len() > MOST_MANIFESTS {
                return Err(Failed::Refused("it has too many manifests, or indexes too deep in indexes".to_owned()));
            }
            let answer = self.manifests.confirm(lookup, &Reference::Digest(child.digest)).await.map_err(failed)?;
            came += u64::from(is_miss(&answer));
            todo.extend(self::children(&answer)?.into_iter().map(|child| (child, depth + 1)));
        }
        Ok((digest, came, blobs))
    }

    async fn blobs(&self, lookup: &Lookup, missing: &[Child], bytes: &mut u64) -> Result<(), Failed> {
        for blob in missing {
            match self.blobs.keep(lookup, &blob.digest).await.map_err(failed)? {
                Kept::Here => {}
                Kept::Fetched(size) => *bytes += size,
                Kept::NoSpace => {
                    let why =
                        "the disk has no space for it, and nothing that may go; raise storage.capacity or unpin images";
                    return Err(Failed::Refused(why.to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn is_miss(answer: &ManifestAnswer) -> bool {
    answer.facts.status == CacheStatus::Miss
}

fn children(answer: &ManifestAnswer) -> Result<Vec<Child>, Failed> {
    let described = answer.manifest.describe();
    described.map(|described| described.children).map_err(|error| Failed::Refused(error.to_string()))
}

fn no_room(needed: u64, left: u64) -> String {
    let text = |bytes: u64| match bytes {
        0..0x0010_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    };
    format!(
        "it does not fit: {} of it are missing, and this warm may bring {} more without displacing too much that clients use; raise \
         storage.capacity or mirror.warm_displaces",
        text(needed),
        text(left)
    )
}

fn failed(error: Error) -> Failed {
    let why = error.to_string();
    match error {
        Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown | Error::Throttled(_) => Failed::Refused(why),
        Error::BudgetSpent { .. } => Failed::Budget(why),
        Error::UpstreamLimited { retry_after, .. } => {
            let (least, most) = LIMITED;
            Failed::Limited(why, retry_after.clamp(least, most))
        }
        Error::UpstreamUnavailable { .. } | Error::UpstreamMalformed { .. } | Error::Internal => Failed::Trouble(why),
    }
}
