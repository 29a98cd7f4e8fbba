//! Signatures and attestations beside an image: looked up once, in the class of background work, and remembered, their absence too.
//!
//! What is beside a manifest is what three places name: the tags that cosign makes of its digest, its referrers, and the attestations that
//! BuildKit puts into an index. Each is got as a client would get it, by the same flights and fills, so that it is cached, and what it
//! costs upstream stands in the ledger. No policy is asked about any of it.
//!
//! The number, the bytes and the time of a look-up are bounded. What failed is asked for again after a minute.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};
use weir_storage::Store;

use super::{
    blobs::{Blobs, Kept},
    error::Error,
    flight::{AGE_LIMIT, Flights},
    handles::Handles,
    listings::Listings,
    lookup::{Key, Lookup, Object},
    manifests::Manifests,
    outcome::FlightKind,
    small_blob::{self, NoBytes},
};
use crate::{
    oci::{Digest, Reference, Tag},
    policy::{
        Beside, Evidence, Finding, Layer, LookedUp, MOST_BYTES_BESIDE, MOST_SIGNATURE_BYTES, MOST_SIGNATURES,
        is_signature,
    },
};

/// How long what was found is believed to be all, and how long an absence is: an image is often signed a moment after it is pushed.
const FOUND: Duration = Duration::from_secs(3600);
const ABSENT: Duration = Duration::from_secs(600);
/// When what could not be had is asked for again.
const FAILED: Duration = Duration::from_secs(60);
/// Bytes of signatures that are remembered.
const REMEMBERED: u64 = 32 << 20;
/// What one that holds no bytes counts as.
const ENTRY: usize = 512;
/// Look-ups at once, and those that wait for their turn. What finds no place is looked up when it is next asked for.
const AT_ONCE: usize = 8;
const WAITING: usize = 128;
/// A look-up ends after this time, whatever is missing then.
const LONGEST: Duration = Duration::from_secs(60);

/// What was found beside one manifest.
#[derive(Clone, Debug)]
struct Found {
    evidence: Arc<[Evidence]>,
    is_whole: bool,
    until: Instant,
}

/// Looks for signatures, and remembers what it found. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Signatures {
    store: Store,
    manifests: Arc<Manifests>,
    listings: Arc<Listings>,
    blobs: Arc<Blobs>,
    known: moka::sync::Cache<Key, Found>,
    flights: Flights<Key, ()>,
    places: Arc<Semaphore>,
    permits: Arc<Semaphore>,
}

/// What a look-up has so far.
#[derive(Default)]
struct Gathering {
    evidence: Vec<Evidence>,
    bytes: u64,
    is_partial: bool,
}

impl Signatures {
    pub(super) fn new(
        handles: &Handles,
        manifests: Arc<Manifests>,
        listings: Arc<Listings>,
        blobs: Arc<Blobs>,
    ) -> Signatures {
        let weight = |_: &Key, found: &Found| {
            let bytes = found.evidence.iter().map(Evidence::size).sum::<usize>() + ENTRY;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let known = moka::sync::Cache::builder().weigher(weight).max_capacity(REMEMBERED).time_to_live(FOUND);
        Signatures {
            store: handles.sources.store.clone(),
            manifests,
            listings,
            blobs,
            known: known.build(),
            flights: Flights::new(FlightKind::signatures, handles.metrics.clone(), handles.runtime.clone()),
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What is remembered of what is beside these manifests. Asks upstream nothing.
    pub(super) fn known(&self, lookup: &Lookup, digests: &[Digest]) -> Beside {
        let found: Vec<Option<Found>> = digests.iter().map(|digest| self.get(&key(lookup, digest))).collect();
        let looked_up = match (found.iter().all(Option::is_some), found.iter().flatten().all(|found| found.is_whole)) {
            (true, true) => LookedUp::Wholly,
            (true, false) => LookedUp::Partly,
            (false, _) => LookedUp::No,
        };
        Beside {
            digests: digests.to_vec(),
            repository: format!("{}/{}", lookup.upstream, lookup.repository),
            found: found.into_iter().flatten().map(|found| found.evidence).collect(),
            looked_up,
        }
    }

    /// Forgets what was found, and what was not.
    pub(super) fn forget(&self) {
        self.known.invalidate_all();
    }

    fn get(&self, key: &Key) -> Option<Found> {
        self.known.get(key).filter(|found| Instant::now() < found.until)
    }

    /// Looks up what is not known of these manifests, as long as it takes; goes on when the caller leaves. `attested` are attestations that
    /// BuildKit wrote, to be cached.
    pub(super) async fn look_up(&self, lookup: &Lookup, digests: &[Digest], attested: &[Digest]) {
        for digest in digests {
            let key = key(lookup, digest);
            if self.get(&key).is_some() {
                continue;
            }
            let (signatures, lookup, of, attested) =
                (self.clone(), lookup.in_background(), digest.clone(), attested.to_vec());
            let work = |_| async move {
                let _place = signatures.places.try_acquire().map_err(|_| Error::Internal)?;
                let _permit = signatures.permits.acquire().await.map_err(|_| Error::Internal)?;
                let found = signatures.find(&lookup, &of, &attested).await;
                signatures.known.insert(self::key(&lookup, &of), found);
                Ok(())
            };
            // What found no place stays unknown, and the next who asks looks again.
            if self.flights.join(key, AGE_LIMIT, work).await.is_err() {
                return;
            }
        }
    }

    async fn find(&self, lookup: &Lookup, of: &Digest, attested: &[Digest]) -> Found {
        let mut gathering = Gathering::default();
        let gathered = timeout(LONGEST, self.gather(lookup, of, attested, &mut gathering)).await;
        gathering.is_partial |= gathered.is_err();
        let lasts = match (gathering.is_partial, gathering.evidence.is_empty()) {
            (true, _) => FAILED,
            (false, true) => ABSENT,
            (false, false) => FOUND,
        };
        Found { evidence: gathering.evidence.into(), is_whole: !gathering.is_partial, until: Instant::now() + lasts }
    }

    async fn gather(&self, lookup: &Lookup, of: &Digest, attested: &[Digest], gathering: &mut Gathering) {
        for end in ["sig", "att"] {
            let Ok(tag) = format!("{}-{}.{end}", of.algorithm().as_str(), of.hex()).parse::<Tag>() else { continue };
            self.add_manifest(lookup, &Reference::Tag(tag), gathering).await;
        }
        match self.listings.referrers(lookup, of).await {
            Ok(answer) => {
                let referrers = answer
                    .descriptors
                    .iter()
                    .filter(|descriptor| descriptor["artifactType"].as_str().is_some_and(is_signature));
                let digests = referrers.filter_map(|descriptor: &Value| descriptor["digest"].as_str()?.parse().ok());
                for digest in digests {
                    if gathering.is_full() {
                        break;
                    }
                    self.add_manifest(lookup, &Reference::Digest(digest), gathering).await;
                }
            }
            Err(error) => gathering.failed(lookup, of, &error),
        }
        for digest in attested.iter().take(MOST_SIGNATURES) {
            if let Err(error) = self.manifests.get(lookup, &Reference::Digest(digest.clone())).await {
                gathering.failed(lookup, digest, &error);
            }
        }
    }

    /// Adds the signatures in a manifest, if there is one.
    async fn add_manifest(&self, lookup: &Lookup, reference: &Reference, gathering: &mut Gathering) {
        let manifest = match self.manifests.get(lookup, reference).await {
            Ok(answer) => answer.manifest,
            Err(error) if error.is_absence() => return,
            Err(error) => return gathering.failed(lookup, reference, &error),
        };
        let Ok(layers) = Layer::read(&manifest.bytes) else {
            return gathering.add(Evidence::Unread(Finding::Malformed));
        };
        for layer in layers {
            if gathering.is_full() {
                return;
            }
            match self.evidence(lookup, layer).await {
                Ok(evidence) => gathering.add(evidence),
                Err(error) => gathering.failed(lookup, reference, &error),
            }
        }
    }

    async fn evidence(&self, lookup: &Lookup, layer: Layer) -> Result<Evidence, Error> {
        if let Some(unread) = layer.unread() {
            return Ok(unread);
        }
        if self.blobs.keep(lookup, &layer.digest).await? == Kept::NoSpace {
            let message = "a signature finds no space on the disk".into();
            return Err(Error::UpstreamUnavailable { retry_after: None, message });
        }
        let read = small_blob::read(&self.store, &layer.digest, MOST_SIGNATURE_BYTES).await?;
        match read {
            Ok(bytes) => Ok(layer.evidence(bytes)),
            // A manifest may claim a size that is not that of the blob.
            Err(NoBytes::TooLong) => Ok(Evidence::Unread(Finding::TooLarge)),
            Err(NoBytes::Absent | NoBytes::Unreadable(_)) => Err(Error::Internal),
        }
    }
}

impl Gathering {
    fn add(&mut self, evidence: Evidence) {
        self.bytes += evidence.size() as u64;
        self.evidence.push(evidence);
        if self.evidence.len() == MOST_SIGNATURES || self.bytes >= MOST_BYTES_BESIDE {
            self.evidence.push(Evidence::Unread(Finding::TooMany));
        }
    }

    fn is_full(&self) -> bool {
        self.evidence.len() > MOST_SIGNATURES || self.bytes >= MOST_BYTES_BESIDE
    }

    fn failed(&mut self, lookup: &Lookup, what: impl std::fmt::Display, error: &Error) {
        tracing::info!(%error, %what, upstream = %lookup.upstream, repository = %lookup.repository, "a signature could not be looked up");
        self.is_partial = true;
    }
}

fn key(lookup: &Lookup, digest: &Digest) -> Key {
    lookup.key(Object::Signatures(digest.clone()))
}
