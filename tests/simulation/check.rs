//! Carries out operations and compares every answer with the model.

use std::{
    collections::HashSet,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use weir::{
    answer::{CacheStatus, ManifestAnswer},
    client::Client,
    clock,
    hosted::{self, Hosted},
    mirror::{Error, Repository, Selection, StoreError},
    oci::{Algorithm, Digest, Reference},
};
use weir_conformance::hub::{Fault, Kind, Logged, Match, What};

use super::{
    model::Model,
    operation::{End, IMAGES, Operation, PUSHED, Place, REPOSITORIES, Rot, TAGS},
    random::Random,
    world::{Content, Process, World, hosted_name, tag_name, upstream_name},
};
use crate::mirror::support::{lookup, read};

/// The longest that one operation may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the mirror believes that nothing is left before it asks again.
const PROBE: Duration = Duration::from_secs(5);

/// Twenty years, and a little.
const FAR: i64 = 640_000_000;

type Checked = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

pub(super) struct Simulation<'a> {
    world: &'a mut World,
    model: Model,
    random: Random,
    /// What was certainly here before the operation.
    cached: HashSet<Digest>,
    /// Seconds by which the clock is set.
    clock: i64,
}

impl Simulation<'_> {
    /// Runs the operations of a seed, each of which `done` gets before it begins.
    pub(super) async fn run(world: &mut World, mut random: Random, done: &mut Vec<Operation>) -> Checked {
        let mut tags = [[None; TAGS]; REPOSITORIES];
        tags.iter_mut().flatten().for_each(|tag| *tag = Some(random.below(IMAGES as u64) as usize));
        let budget = random.pick(&[4, 20, 1000]);
        let roomy = random.below(3) > 0;
        // All that is upstream is some 900 KB.
        let capacity = if roomy { 1 << 30 } else { 500_000 };
        clock::set(0);
        world.begin(&tags, budget, capacity).await?;
        let model = Model::new(tags, budget, roomy);
        let length = 5 + random.below(30);
        let mut simulation = Simulation { world, model, random, cached: HashSet::new(), clock: 0 };
        for _ in 0..length {
            let operation = Operation::by(&mut simulation.random);
            done.push(operation.clone());
            simulation.step(operation).await?;
        }
        for operation in [Operation::End { how: End::PowerCut, rot: None }, Operation::Read] {
            done.push(operation.clone());
            simulation.step(operation).await?;
        }
        Ok(())
    }

    async fn step(&mut self, operation: Operation) -> Checked {
        let begin = self.world.hub.log().len();
        self.model.look(self.now());
        self.cached.clone_from(&self.model.cached);
        let late = |_| Err(format!("not done within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, self.carry_out(operation.clone(), begin)).await.unwrap_or_else(late)?;
        self.model.look(self.now());
        let asked = self.world.asked(begin);
        self.model.counted += asked.iter().filter(|logged| logged.counted).count() as i64;
        self.ledger(&asked)
    }

    fn now(&self) -> SystemTime {
        let by = Duration::from_secs(self.clock.unsigned_abs());
        if self.clock < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    fn process(&self) -> &Process {
        self.world.process()
    }

    async fn carry_out(&mut self, operation: Operation, begin: usize) -> Checked {
        match operation {
            Operation::PullTag { tag, clients } => {
                let reference = tag_name(tag.1).parse().unwrap();
                let answers = self.manifests(tag.0, &reference, clients).await;
                let asked = self.world.asked(begin);
                self.fresh_tag(tag, &answers, &asked)?;
                for answer in answers {
                    let image = self.by_tag(tag, answer)?;
                    self.economy(&asked, image.map(|image| self.manifest_of((tag.0, image)).digest.clone()))?;
                }
                Ok(())
            }
            Operation::PullDigest { image, clients } => {
                let content = self.manifest_of(image);
                let answers = self.manifests(image.0, &Reference::Digest(content.digest.clone()), clients).await;
                let asked = self.world.asked(begin);
                for answer in answers {
                    let answer = answer.map(|answer| answer.manifest.bytes.to_vec());
                    let whole = self.object(answer, &content, None)?;
                    self.economy(&asked, whole.then(|| content.digest.clone()))?;
                }
                Ok(())
            }
            Operation::PullBlob { image, blob, clients } => {
                let content = self.world.catalogue.images[image.0][image.1].blobs[blob].clone();
                self.pull_blob(image.0, &content, None, clients, begin).await
            }
            Operation::PullRange { image, blob, from, length } => {
                let content = self.world.catalogue.images[image.0][image.1].blobs[blob].clone();
                let size = content.bytes.len() as f64;
                let start = (size * from) as u64;
                let end = start + 1 + ((size - start as f64 - 1.0) * length) as u64;
                self.pull_blob(image.0, &content, Some((start, end)), 1, begin).await
            }
            Operation::MoveTag { tag, image } => {
                self.world.move_tag(tag.0, tag.1, image);
                self.model.tags[tag.0][tag.1] = image;
                Ok(())
            }
            Operation::Budget(left) => {
                if self.model.left() < 1 {
                    self.model.refilled_at = Some(Instant::now());
                }
                self.world.hub.set_budget(left);
                (self.model.budget, self.model.counted, self.model.balance_known) = (left, 0, false);
                Ok(())
            }
            Operation::Forget(repository) => {
                let name = upstream_name(repository).parse().unwrap();
                let purged = Selection::Repository(Repository { upstream: "docker.io".into(), name });
                let forgotten = self.process().mirror.purge(vec![purged], false).await;
                // Soon after a start it is refused, and nothing is lost by that.
                let refused = matches!(forgotten, Err(StoreError::Counting));
                ensure!(forgotten.is_ok() || refused || self.model.disk_failed, "forgetting failed: {forgotten:?}");
                self.model.cached.clear();
                self.model.fresh.clear();
                Ok(())
            }
            Operation::Upstream { what, count, on } => {
                if matches!(what, What::Stall(_)) {
                    // It goes on a moment later, and the client sees nothing of it.
                    self.world.hub.fault(Fault::times(count, What::Slow(500_000)));
                } else {
                    let on = on.map_or_else(Match::any, Match::kind);
                    self.world.hub.fault(Fault::times(count, what).on(on));
                }
                self.model.upstream_failed = true;
                Ok(())
            }
            Operation::UpstreamDown => {
                self.world.hub.down().await;
                self.model.upstream_failed = true;
                // A GET that is written to a kept connection before its reset is seen may have been counted, and so may its two
                // repetitions: the ledger takes each for a spend.
                self.model.surplus.1 += 3;
                Ok(())
            }
            Operation::UpstreamWell => {
                self.world.hub.clear_faults();
                self.world.hub.up().await.map_err(|error| error.to_string())
            }
            Operation::Disk { call, skip, times, errno } => {
                self.process().faults.fail(call, skip, times, errno);
                self.model.disk_failed = true;
                self.model.cached.clear();
                self.model.fresh.clear();
                Ok(())
            }
            Operation::DiskWell => {
                self.process().faults.heal();
                Ok(())
            }
            Operation::Clock(seconds) => {
                // A clock that is far off is set right again.
                self.clock = if (self.clock + seconds).abs() > FAR { 0 } else { self.clock + seconds };
                clock::set(self.clock);
                self.model.balance_known = false;
                Ok(())
            }
            Operation::End { how, rot } => self.end(how, rot).await,
            Operation::Read => self.read_hosted().await,
            change => self.change(change).await,
        }
    }

    fn manifest_of(&self, (repository, image): Place) -> Content {
        self.world.catalogue.images[repository][image].manifest.clone()
    }

    async fn manifests(
        &self,
        repository: usize,
        reference: &Reference,
        clients: usize,
    ) -> Vec<Result<ManifestAnswer, Error>> {
        let lookup = lookup(&upstream_name(repository), &[]);
        join_all((0..clients).map(|_| self.process().mirror.manifests.get(&lookup, reference))).await
    }

    async fn pull_blob(
        &mut self,
        repository: usize,
        content: &Content,
        range: Option<(u64, u64)>,
        clients: usize,
        begin: usize,
    ) -> Checked {
        let pulls = (0..clients).map(|_| self.process().blob(repository, &content.digest, range));
        let answers = join_all(pulls).await;
        self.process().settle().await?;
        let asked = self.world.asked(begin);
        let rotted = self.model.rotted.contains(&content.digest);
        for answer in answers {
            let answer = match answer {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(stopped)) => {
                    ensure!(self.failing() || rotted, "a body was cut: {stopped}");
                    continue;
                }
                Err(error) => Err(error),
            };
            let whole = self.object(answer, content, range)?;
            self.economy(&asked, whole.then(|| content.digest.clone()))?;
        }
        Ok(())
    }

    /// Whether anything may fail now.
    fn failing(&self) -> bool {
        self.model.upstream_failed || self.model.disk_failed
    }

    /// An answer to what is certainly upstream. Gives whether it is here.
    fn object(
        &mut self,
        answer: Result<Vec<u8>, Error>,
        content: &Content,
        range: Option<(u64, u64)>,
    ) -> Result<bool, String> {
        match answer {
            Ok(bytes) => {
                let (start, end) = range.unwrap_or((0, content.bytes.len() as u64));
                ensure!(bytes == content.bytes[start as usize..end as usize], "wrong bytes of {}", content.digest);
                self.model.rotted.remove(&content.digest);
                Ok(true)
            }
            Err(error) => self.failure(&error).map(|()| false),
        }
    }

    /// A failure that is no absence, and that there is a reason for.
    fn failure(&self, error: &Error) -> Checked {
        let allowed = match error {
            Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown => false,
            Error::BudgetSpent { .. } | Error::UpstreamLimited { .. } => {
                // Whether an identity without pulls has some again is asked once in PROBE.
                let refilled = self.model.refilled_at.is_some_and(|at| at.elapsed() < PROBE);
                self.model.left() < 1 || refilled || self.failing()
            }
            Error::Internal => self.model.disk_failed,
            _ => self.failing(),
        };
        ensure!(allowed, "{error:?}, and upstream has it; {} pulls are left there", self.model.left());
        Ok(())
    }

    /// An answer to a tag. Gives the image.
    fn by_tag(&mut self, tag: Place, answer: Result<ManifestAnswer, Error>) -> Result<Option<usize>, String> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Error::NameUnknown | Error::ManifestUnknown) if self.model.absent.contains(&tag) => return Ok(None),
            Err(error) => return self.failure(&error).map(|()| None),
        };
        let bytes = &answer.manifest.bytes;
        let image = (0..IMAGES).find(|image| self.manifest_of((tag.0, *image)).bytes == *bytes);
        let Some(image) = image else { return Err(format!("the tag {tag:?} gave bytes that no image has")) };
        let allowed = match answer.facts.status {
            CacheStatus::Stale => self.model.named_ever(tag, image) && (self.failing() || self.model.left() < 1),
            _ => self.model.named_now(tag) == Some(image) || self.model.named_lately(tag, image, self.now()),
        };
        ensure!(
            allowed,
            "{:?} gave image {image} for the tag {tag:?}, which names {:?}",
            answer.facts.status,
            self.model.named_now(tag)
        );
        self.model.rotted.remove(&self.manifest_of((tag.0, image)).digest);
        Ok(Some(image))
    }

    /// No request for a tag that upstream confirmed within its time to live, when what it named is cached.
    fn fresh_tag(&mut self, tag: Place, answers: &[Result<ManifestAnswer, Error>], asked: &[Logged]) -> Checked {
        let now = self.now();
        let is_fresh = self.model.is_fresh(tag, now);
        let (repository, reference) = (upstream_name(tag.0), tag_name(tag.1));
        let is_tag = |logged: &&Logged| logged.repository == repository && logged.reference == reference;
        let requests = asked.iter().filter(is_tag).count();
        let given = answers.iter().flatten();
        if !self.failing() && self.model.left() >= 1 && given.clone().count() == answers.len() {
            let cached = given.clone().all(|answer| self.cached.contains(&answer.manifest.digest));
            ensure!(!is_fresh || !cached || requests == 0, "{requests} requests for the tag {tag:?}, which is fresh");
        }
        let confirmed =
            |answer: &ManifestAnswer| matches!(answer.facts.status, CacheStatus::Miss | CacheStatus::Revalidated);
        if given.clone().any(confirmed) {
            self.model.confirmed(tag, now);
        } else if !is_fresh {
            self.model.revalidated_behind(tag);
        }
        Ok(())
    }

    /// One request for each object, and none for what is cached. `got` is here now.
    fn economy(&mut self, asked: &[Logged], got: Option<Digest>) -> Checked {
        if self.failing() || self.model.left() < 1 {
            return Ok(());
        }
        let Some(digest) = got else { return Ok(()) };
        let text = digest.to_string();
        for kind in [Kind::ManifestGet, Kind::BlobGet, Kind::CdnGet] {
            let requests = asked.iter().filter(|logged| logged.kind == kind && logged.reference == text);
            // The first was met with a challenge.
            let count = requests.filter(|logged| logged.status != 401).count();
            let most = usize::from(!self.cached.contains(&digest));
            ensure!(count <= most, "{count} of {} for {digest}, cached: {}", kind.name(), most == 0);
        }
        // A HEAD costs no pull, and yet it is a request that what is cached does not need.
        let heads = [Kind::ManifestHead, Kind::BlobHead, Kind::CdnHead];
        let heads = asked.iter().filter(|logged| heads.contains(&logged.kind) && logged.reference == text).count();
        ensure!(heads == 0 || !self.cached.contains(&digest), "{heads} HEADs for {digest}, which is cached");
        if self.model.roomy && self.model.rotted.is_empty() {
            self.model.cached.insert(digest);
        }
        Ok(())
    }

    /// The ledger is what upstream counted.
    fn ledger(&mut self, asked: &[Logged]) -> Checked {
        let spends = self.process().ledger.spends(usize::MAX).len() as i64;
        let log = self.world.hub.log();
        let counted = log.iter().filter(|logged| logged.counted).count() as i64;
        // A request that was answered with a failure may be counted or not.
        let doubtful = |logged: &&Logged| logged.kind == Kind::ManifestGet && !logged.counted && logged.status != 401;
        let doubtful = log.iter().filter(doubtful).count() as i64;
        let (least, most) = self.model.surplus;
        if !self.model.ledger_lost {
            ensure!(spends >= counted + least, "{spends} spends, and upstream counted {counted}");
        }
        ensure!(
            spends <= counted + doubtful + most,
            "{spends} spends, and upstream counted {counted} and answered {doubtful} without"
        );
        if asked.iter().any(|logged| logged.counted) && !self.failing() {
            self.model.balance_known = true;
        }
        if self.model.balance_known && !self.failing() {
            let (said, left) = (self.process().remaining(), self.model.left());
            ensure!(said == Some(left), "the ledger says that {said:?} are left, upstream {left}");
        }
        Ok(())
    }

    async fn end(&mut self, how: End, rot: Option<Rot>) -> Checked {
        let unsettled = self.failing();
        let rotted = self.world.restart(how, rot, &mut self.random).await?;
        if let Some(rotted) = &rotted {
            self.model.cached.remove(rotted);
        }
        self.model.rotted.extend(rotted);
        self.model.restarted(how == End::PowerCut);
        if unsettled {
            // What was refunded a moment before the end counts as spent.
            self.model.surplus.1 += 8;
        }
        self.read_hosted().await
    }

    /// A push or a delete.
    async fn change(&mut self, operation: Operation) -> Checked {
        if let Operation::PushManifest { manifest: (repository, manifest), .. } = operation
            && [0, 1].iter().any(|next| self.model.blobs[&(repository, (manifest + next) % PUSHED)].contains(&false))
        {
            // It would name what is not there.
            return Ok(());
        }
        let (hosted, client) = (self.process().hosted.clone(), self.process().client.clone());
        let outcome = match &operation {
            Operation::Push((repository, blob)) => {
                let content = self.world.catalogue.blobs[*blob].clone();
                push(&hosted, &client, *repository, content).await
            }
            Operation::PushManifest { manifest: (repository, manifest), tag } => {
                let content = self.world.catalogue.manifests[*manifest].clone();
                let media_type = "application/vnd.oci.image.manifest.v1+json".parse().ok();
                let reference = tag_name(*tag).parse().unwrap();
                let name = hosted_name(*repository);
                hosted.put_manifest(&name, &reference, media_type, Vec::new(), content.bytes).await.map(drop)
            }
            Operation::Delete((repository, blob)) => {
                hosted.delete_blob(&hosted_name(*repository), &self.world.catalogue.blobs[*blob].digest).await
            }
            Operation::DeleteManifest((repository, manifest)) => {
                let digest = self.world.catalogue.manifests[*manifest].digest.clone();
                hosted.delete_manifest(&hosted_name(*repository), &Reference::Digest(digest)).await
            }
            Operation::DeleteTag((repository, tag)) => {
                hosted.delete_manifest(&hosted_name(*repository), &tag_name(*tag).parse().unwrap()).await
            }
            other => return Err(format!("{other:?} changes nothing")),
        };
        let done = match outcome {
            Ok(()) => true,
            Err(hosted::Error::BlobUnknown | hosted::Error::ManifestUnknown) => {
                let absent = match &operation {
                    Operation::Delete(place) => self.model.blobs[place].contains(&false),
                    Operation::DeleteManifest(place) => self.model.manifests[place].contains(&false),
                    Operation::DeleteTag(place) => self.model.hosted_tags[place].contains(&None),
                    _ => false,
                };
                ensure!(absent, "it is said to be absent, and was acknowledged");
                return Ok(());
            }
            // What a manifest names is kept from deletion. A disk that is full may have failed after the deletion.
            Err(hosted::Error::Referenced(_)) if self.is_named(&operation) => return Ok(()),
            Err(error) => {
                ensure!(self.model.disk_failed, "{error}");
                false
            }
        };
        match operation {
            Operation::Push(place) => self.model.pushed(done, place),
            Operation::PushManifest { manifest, tag } => self.model.manifest_pushed(done, manifest, tag),
            Operation::Delete(place) => self.model.deleted(done, place),
            Operation::DeleteManifest(place) => self.model.manifest_deleted(done, place),
            Operation::DeleteTag(place) => self.model.tag_deleted(done, place),
            _ => {}
        }
        Ok(())
    }

    /// Whether it deletes a blob that a manifest may name.
    fn is_named(&self, operation: &Operation) -> bool {
        let Operation::Delete((repository, blob)) = operation else { return false };
        [*blob, (blob + PUSHED - 1) % PUSHED]
            .iter()
            .any(|one| self.model.manifests[&(*repository, *one)].contains(&true))
    }

    /// All that was pushed is there, and all that was deleted is not.
    async fn read_hosted(&self) -> Checked {
        let (hosted, client) = (&self.process().hosted, &self.process().client);
        for (place, possible) in &self.model.blobs {
            let content = &self.world.catalogue.blobs[place.1];
            let found = match hosted.blob(client, &hosted_name(place.0), &content.digest).await {
                Ok(mut answer) => {
                    let size = answer.reader.size();
                    match read(&mut answer.reader, 0, size).await {
                        Ok(bytes) => ensure!(bytes == content.bytes, "wrong bytes of the pushed blob {place:?}"),
                        Err(_) => ensure!(self.model.disk_failed, "the pushed blob {place:?} was cut"),
                    }
                    true
                }
                Err(hosted::Error::BlobUnknown) => false,
                Err(_) if self.model.disk_failed => continue,
                Err(error) => return Err(format!("the pushed blob {place:?}: {error}")),
            };
            ensure!(possible.contains(&found), "the pushed blob {place:?} is there: {found}");
        }
        for (place, possible) in &self.model.manifests {
            let content = &self.world.catalogue.manifests[place.1];
            let reference = Reference::Digest(content.digest.clone());
            let found = match hosted.manifest(client, &hosted_name(place.0), &reference).await {
                Ok(answer) => {
                    ensure!(answer.manifest.bytes == content.bytes, "wrong bytes of the pushed manifest {place:?}");
                    true
                }
                Err(hosted::Error::ManifestUnknown) => false,
                Err(_) if self.model.disk_failed => continue,
                Err(error) => return Err(format!("the pushed manifest {place:?}: {error}")),
            };
            ensure!(possible.contains(&found), "the pushed manifest {place:?} is there: {found}");
        }
        for (place, possible) in &self.model.hosted_tags {
            let found = match hosted.manifest(client, &hosted_name(place.0), &tag_name(place.1).parse().unwrap()).await
            {
                Ok(answer) => {
                    let named =
                        (0..PUSHED).find(|one| self.world.catalogue.manifests[*one].bytes == answer.manifest.bytes);
                    ensure!(named.is_some(), "the pushed tag {place:?} gives bytes that were never pushed");
                    named
                }
                Err(hosted::Error::ManifestUnknown) => None,
                Err(_) if self.model.disk_failed => continue,
                Err(error) => return Err(format!("the pushed tag {place:?}: {error}")),
            };
            // A tag whose manifest may be gone may name nothing.
            let hidden = possible.iter().flatten().any(|one| self.model.manifests[&(place.0, *one)].contains(&false));
            let allowed = possible.contains(&found) || found.is_none() && hidden;
            ensure!(allowed, "the pushed tag {place:?} names {found:?} and not {possible:?}");
        }
        Ok(())
    }
}

async fn push(hosted: &Hosted, client: &Client, repository: usize, content: Content) -> Result<(), hosted::Error> {
    let upload = hosted.begin(client, &hosted_name(repository), Algorithm::Sha256).await?;
    upload.append(vec![content.bytes]).await?;
    Ok(upload.commit(&content.digest).await?)
}
