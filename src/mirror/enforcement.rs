//! What `[[policy]]` makes of a manifest that a client asks for. The answer is kept for a minute, so that a warm pull costs one look-up in
//! memory; without a policy it costs nothing.
//!
//! A manifest that is asked for by tag is judged under that tag; by digest under the tags that lead to it here, of which the most lenient
//! decides, else under its digest. An index is refused when every platform of it is; else its manifests are judged as they are asked for.
//! Artifacts, such as signatures, are no images and always pass.
//!
//! Signatures are looked up when a policy wants to see them, and verified apart from the threads that serve. A policy that only audits has
//! them looked up, and judges, behind the answer, for its reports and counts.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{sleep, timeout},
};
use weir_storage::{Image, Repository, Source, Store};

use super::{
    blobs::Blobs,
    decisions::{Asked, Decisions},
    handles::Handles,
    image_facts::{ImageFacts, NO_PLATFORM, NoFacts, PlatformFacts},
    lookup::{Cost, Lookup},
    signatures::Signatures,
};
use crate::{
    client::{Client, ClientKey},
    clock,
    limits::{Limits, audit::Actor},
    oci::{Digest, Manifest, Reference, unambiguous},
    policy::{Beside, Breach, Decision, LookedUp, Outcome, Policies, Policy, Rule, Rules, Verdict},
};

/// How long a decision is kept. Exemptions expire, images grow old, tags move: all of it is in force so much later.
const KEPT: Duration = Duration::from_secs(60);
/// How long one is kept that may be another when a layer was looked at.
const KEPT_BRIEFLY: Duration = Duration::from_secs(1);
/// A refusal of one image by one policy is in the audit once in this time; its count goes on.
const AUDITED: Duration = Duration::from_secs(3600);
/// Such refusals that are known: more images than that are not refused in an hour by mistake.
const MOST_AUDITED: u64 = 1000;
/// Configs, and images whose layers are fetched, at once because a policy wants to see them. What finds no place is looked at when it is next asked for.
const FETCHES: usize = 8;
/// Blobs of one manifest that are fetched to know whether it is an image: its config, or the layers of an attestation.
const MOST_FETCHED: usize = 8;
/// Tags of a repository that are looked at for those that lead to a digest.
const MOST_TAGS: usize = 1000;
/// Images whose signatures are verified at once; each may take 20 MiB while an attestation is parsed.
const VERIFIED_AT_ONCE: usize = 2;

/// Manifests that wait to be judged behind their answer. One that finds no place is judged when it is asked for again, a minute later.
const AUDITS: usize = 64;
/// How many of them are judged at once, which takes a core.
const AUDITED_AT_ONCE: usize = 1;
/// How long a client has to bring the config of an image of which it got the manifest, until an audit looks again.
const CONFIG_COMES: Duration = Duration::from_secs(5);

/// What becomes of a manifest, and how long that is kept: what is not known yet may be known to the next client.
#[derive(Clone, Debug)]
struct Judged {
    decision: Decision,
    keep: Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Long,
    Briefly,
    No,
}

impl Keep {
    fn time(self) -> Duration {
        match self {
            Keep::Long => KEPT,
            Keep::Briefly => KEPT_BRIEFLY,
            Keep::No => Duration::ZERO,
        }
    }
}

impl Judged {
    fn kept(decision: Decision) -> Judged {
        Judged { decision, keep: Keep::Long }
    }

    fn once(decision: Decision) -> Judged {
        Judged { decision, keep: Keep::No }
    }
}

/// Holds what is asked for to the policies. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Enforcement {
    policies: Arc<ArcSwap<Policies>>,
    decisions: Arc<Decisions>,
    audited: moka::sync::Cache<String, ()>,
    limits: Limits,
    facts: ImageFacts,
    blobs: Arc<Blobs>,
    store: Store,
    signatures: Signatures,
    fetches: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
    audits: Arc<Semaphore>,
    auditing: Arc<Semaphore>,
    runtime: Handle,
}

impl Enforcement {
    pub(super) fn new(
        handles: &Handles,
        facts: ImageFacts,
        (blobs, signatures): (Arc<Blobs>, Signatures),
        limits: Limits,
    ) -> Enforcement {
        Enforcement {
            policies: Arc::default(),
            decisions: Arc::new(Decisions::new()),
            audited: moka::sync::Cache::builder().max_capacity(MOST_AUDITED).time_to_live(AUDITED).build(),
            limits,
            facts,
            blobs,
            store: handles.sources.store.clone(),
            signatures,
            fetches: Arc::new(Semaphore::new(FETCHES)),
            verifying: Arc::new(Semaphore::new(VERIFIED_AT_ONCE)),
            audits: Arc::new(Semaphore::new(AUDITS)),
            auditing: Arc::new(Semaphore::new(AUDITED_AT_ONCE)),
            runtime: handles.runtime.clone(),
        }
    }

    /// These are the policies from now on.
    pub fn set(&self, policies: Policies) {
        self.policies.store(Arc::new(policies.after(&self.policies.load())));
        self.decisions.clear();
    }

    /// Decides anew of everything, with signatures that are looked for again: something is known that was not.
    pub fn forget(&self) {
        self.signatures.forget();
        self.decisions.clear();
    }

    /// The policies that are in force, with what they counted.
    pub fn policies(&self) -> Arc<Policies> {
        self.policies.load_full()
    }

    /// What was decided lately of a manifest, or is clear without a look at it. No system call.
    pub fn now(&self, lookup: &Lookup, reference: &Reference, digest: &Digest, now: SystemTime) -> Option<Decision> {
        if self.policies.load().is_empty() {
            return Some(Decision::Pass);
        }
        self.decisions.get(Asked::new(lookup, reference, digest), now)
    }

    /// What becomes of a manifest that is here, or passes because nothing of it is. Waits for its config as long as its policy says.
    pub async fn decide(&self, lookup: &Lookup, reference: &Reference, digest: &Digest, now: SystemTime) -> Decision {
        if let Some(decision) = self.now(lookup, reference, digest, now) {
            return decision;
        }
        let policies = self.policies.load_full();
        let names = self.names(lookup, reference, digest);
        let is_acted_on = |name: &String| policies.find(name).is_some_and(|policy| policy.acts());
        let judged = match names.iter().all(is_acted_on) {
            true => self.judge(lookup, &policies, &names, digest, now, true).await,
            // A name for which no policy acts passes, and is the most lenient.
            false => {
                if names.iter().filter_map(|name| policies.find(name)).any(|policy| policy.rules().looks_beside()) {
                    self.look_up_behind(lookup, digest);
                }
                if names.iter().all(|name| policies.find(name).is_some()) {
                    self.audit_behind(lookup, (reference, digest), &policies, &names, now);
                }
                Judged::kept(Decision::Pass)
            }
        };
        // By other policies, another decision may be right by now.
        if judged.keep != Keep::No && Arc::ptr_eq(&policies, &self.policies.load()) {
            self.keep(lookup, reference, digest, &judged);
        }
        if let Decision::Refuse(breach) = &judged.decision {
            self.note(lookup, &names, breach, now);
        }
        judged.decision
    }

    fn keep(&self, lookup: &Lookup, reference: &Reference, digest: &Digest, judged: &Judged) {
        let Judged { decision, keep } = judged;
        self.decisions.insert(lookup, reference, digest, decision.clone(), clock::now(), keep.time());
    }

    /// Puts a refusal into the audit, unless the same one is there.
    fn note(&self, lookup: &Lookup, names: &[String], breach: &Breach, now: SystemTime) {
        if self.audited.get(&breach.sentence).is_some() {
            return;
        }
        self.audited.insert(breach.sentence.clone(), ());
        let by = match &lookup.client.key {
            ClientKey::Address(address) => Actor::new("anonymous", Some(*address)),
            ClientKey::Principal(name) => Actor::new(&**name, None),
        };
        let image = names.first().map(String::as_str).unwrap_or_default();
        self.limits.record_refusal(&by, &format!("pull {image}"), &breach.sentence, now);
    }

    /// The full names under which a manifest is judged.
    fn names(&self, lookup: &Lookup, reference: &Reference, digest: &Digest) -> Vec<String> {
        let repository = repository(lookup);
        if let Reference::Tag(tag) = reference {
            return vec![format!("{}:{tag}", repository.full_name())];
        }
        let reading = self.store.images.read();
        let leads_here = |image: &Image| {
            image.digest == *digest || reading.objects(&image.digest).iter().any(|(child, _)| child.digest == *digest)
        };
        let tagged = reading.images_of(&repository).into_iter().filter(|image| image.tag.is_some());
        let names: Vec<String> = tagged.take(MOST_TAGS).filter(leads_here).map(|image| image.name()).collect();
        if names.is_empty() { vec![format!("{}@{digest}", repository.full_name())] } else { names }
    }

    async fn judge(
        &self,
        lookup: &Lookup,
        policies: &Arc<Policies>,
        names: &[String],
        digest: &Digest,
        now: SystemTime,
        may_fetch: bool,
    ) -> Judged {
        let manifest = match self.store.cache.manifests.load(digest).await {
            Ok(Some(manifest)) => manifest,
            // A HEAD gives nothing of what is not here.
            Ok(None) => return Judged::once(Decision::Pass),
            Err(error) => return Judged::once(failed(policies, names, &error, now)),
        };
        // An index that two readers could read in two ways does not say what is judged: it is no evidence itself.
        if !manifest.media_type.is_index() || unambiguous(&manifest.bytes).is_err() {
            return self.judge_image(lookup, policies, names, &manifest, now, may_fetch).await;
        }
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        let mut first = None;
        for child in children.into_iter().filter(|child| child.is_manifest) {
            if child.platform.as_deref() == Some(NO_PLATFORM) {
                continue;
            }
            // What cannot be read is judged when it is asked for.
            let Ok(Some(manifest)) = self.store.cache.manifests.load(&child.digest).await else {
                return Judged::kept(Decision::Pass);
            };
            // An index among them is judged when it is asked for.
            if manifest.media_type.is_index() {
                return Judged::kept(Decision::Pass);
            }
            let judged = self.judge_image(lookup, policies, names, &manifest, now, false).await;
            if !matches!(judged.decision, Decision::Refuse(_) | Decision::Audit(_)) {
                return Judged::kept(Decision::Pass);
            }
            // What is not known is looked up when the platform is asked for.
            if judged.keep == Keep::No {
                return Judged::once(Decision::Pass);
            }
            first = first.or(Some(judged));
        }
        first.unwrap_or(Judged::kept(Decision::Pass))
    }

    /// `may_fetch`: whether a config that is not here is fetched, and signatures are looked up.
    async fn judge_image(
        &self,
        lookup: &Lookup,
        policies: &Arc<Policies>,
        names: &[String],
        manifest: &Manifest,
        now: SystemTime,
        may_fetch: bool,
    ) -> Judged {
        let image = image(lookup, manifest.digest.clone());
        let mut found = match self.facts.of_manifest(&image, manifest).await {
            Ok(found) => found,
            Err(error) => return Judged::once(failed(policies, names, &error, now)),
        };
        let acting: Vec<&Policy> = names.iter().filter_map(|name| policies.find(name)).collect();
        let patience = acting.iter().filter_map(|policy| policy.wait()).min();
        let deadline = patience.map(|patience| Instant::now() + patience);
        let wants_arrival = acting.iter().any(|policy| policy.rules().rules.contains(&Rule::MinAge));
        let mut fetched = 0;
        while let Some(blob) = found.missing_blob(wants_arrival)
            && may_fetch
            && fetched < MOST_FETCHED
            && self.fetch(lookup, &blob, deadline.map(|at| at.saturating_duration_since(Instant::now()))).await
            && let Ok(again) = self.facts.of_manifest(&image, manifest).await
        {
            (found, fetched) = (again, fetched + 1);
        }
        if matches!(found.facts, Err(NoFacts::NoImage)) {
            return Judged::kept(Decision::Pass);
        }
        let looks_beside = acting.iter().any(|policy| policy.rules().looks_beside());
        if looks_beside {
            found = self.with_beside(lookup, manifest, found, may_fetch.then_some(deadline)).await;
        }
        let is_looked_up = !looks_beside || found.supply.beside.looked_up == LookedUp::Wholly;
        let layers = found.facts.as_ref().ok().map(|facts| facts.layers.clone());
        let (misses_blob, waits) = (found.missing_blob(wants_arrival).is_some(), found.contents.waiting > 0);
        let (all, named) = (policies, names);
        let (policies, names) = (policies.clone(), names.to_vec());
        let decide = move || {
            let (mut is_broken, mut is_open) = (false, false);
            let judge = |rules: &Rules| {
                let verdicts = found.verdicts(rules, now);
                is_broken |= verdicts.iter().any(|verdict| verdict.outcome == Outcome::Fail);
                is_open |= verdicts.iter().any(|verdict| verdict.outcome == Outcome::Unknown);
                verdicts
            };
            let decision = policies.decide(&names, judge, now);
            (decision, is_open && !is_broken)
        };
        let decided = if looks_beside { self.apart(decide).await } else { Some(decide()) };
        let Some((decision, is_open)) = decided else {
            return Judged::once(failed(all, named, &"a thread that verifies ended", now));
        };
        let is_waiting = waits && is_open;
        // What is broken already is refused whatever its layers hold.
        if let (true, true, Decision::Refuse(_), Some(layers)) = (is_waiting, may_fetch, &decision, &layers) {
            self.bring(lookup, layers);
        }
        let keep = match () {
            () if misses_blob || !is_looked_up => Keep::No,
            () if is_waiting => Keep::Briefly,
            () => Keep::Long,
        };
        Judged { decision, keep }
    }

    /// Fetches the layers of an image that is refused, so that they can be looked at: its client does not come to ask for them.
    fn bring(&self, lookup: &Lookup, layers: &[Digest]) {
        let Ok(permit) = self.fetches.clone().try_acquire_owned() else { return };
        if lookup.cached_only.is_some() {
            return;
        }
        let (blobs, facts, lookup, layers) = (self.blobs.clone(), self.facts.clone(), lookup.clone(), layers.to_vec());
        self.runtime.spawn(async move {
            let _permit = permit;
            for layer in &layers {
                if let Err(error) = blobs.keep(&lookup, layer).await {
                    tracing::info!(%error, digest = %layer, "a layer of a refused image could not be looked at");
                    return;
                }
            }
            facts.look_at(&layers);
        });
    }

    /// Runs what verifies, on a thread that serves no client; `None` when it panicked.
    async fn apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        // It is never closed.
        let permit = self.verifying.clone().acquire_owned().await.ok()?;
        let work = move || {
            let _permit = permit;
            work()
        };
        self.runtime.spawn_blocking(work).await.ok()
    }

    /// The facts with what is beside the manifest; `until` is there when that may be looked up, and then until when it is waited for.
    async fn with_beside(
        &self,
        lookup: &Lookup,
        manifest: &Manifest,
        mut found: PlatformFacts,
        until: Option<Option<Instant>>,
    ) -> PlatformFacts {
        let digests = found.signed_as();
        let is_known = self.signatures.known(lookup, &digests).looked_up != LookedUp::No;
        if let Some(deadline) = until
            && !is_known
            && lookup.cached_only.is_none()
        {
            let (signatures, owned, of) = (self.signatures.clone(), lookup.clone(), digests.clone());
            let attestations = found.attestations.clone();
            let work = self.runtime.spawn(async move { signatures.look_up(&owned, &of, &attestations).await });
            if let Some(deadline) = deadline
                && tokio::time::timeout_at(deadline.into(), work).await.is_ok()
                // Attestations that came with it are known by what they say.
                && let Ok(again) = self.facts.of_manifest(&image(lookup, found.digest.clone()), manifest).await
            {
                found = again;
            }
        }
        found.supply.beside = self.signatures.known(lookup, &digests);
        found
    }

    /// Judges a manifest for policies that only audit, behind its answer, and counts this answer and those of the next minute. Fetches nothing.
    fn audit_behind(
        &self,
        lookup: &Lookup,
        (reference, digest): (&Reference, &Digest),
        policies: &Arc<Policies>,
        names: &[String],
        now: SystemTime,
    ) {
        let Ok(place) = self.audits.clone().try_acquire_owned() else { return };
        let (this, lookup, policies, names) = (self.clone(), lookup.clone(), policies.clone(), names.to_vec());
        let (reference, digest) = (reference.clone(), digest.clone());
        self.runtime.spawn(async move {
            let _place = place;
            let judge = async || {
                // It is never closed.
                let _turn = this.auditing.acquire().await.ok();
                this.judge(&lookup, &policies, &names, &digest, now, false).await
            };
            let mut judged = judge().await;
            if judged.keep == Keep::No {
                sleep(CONFIG_COMES).await;
                judged = judge().await;
            }
            let Decision::Audit(breach) = &judged.decision else { return };
            if Arc::ptr_eq(&policies, &this.policies.load()) {
                breach.count();
                this.keep(&lookup, &reference, &digest, &Judged::kept(judged.decision));
            }
        });
    }

    /// Has what is beside a manifest looked up, for reports, while its answer goes out.
    fn look_up_behind(&self, lookup: &Lookup, digest: &Digest) {
        let Ok(permit) = self.fetches.clone().try_acquire_owned() else { return };
        if lookup.cached_only.is_some() {
            return;
        }
        let (facts, signatures, store) = (self.facts.clone(), self.signatures.clone(), self.store.clone());
        let (lookup, digest) = (lookup.clone(), digest.clone());
        self.runtime.spawn(async move {
            let _permit = permit;
            let Ok(Some(manifest)) = store.cache.manifests.load(&digest).await else { return };
            // Of an index, each platform is looked at when it is asked for.
            if manifest.media_type.is_index() {
                return;
            }
            let Ok(found) = facts.of_manifest(&image(&lookup, digest), &manifest).await else { return };
            if !matches!(found.facts, Err(NoFacts::NoImage)) {
                signatures.look_up(&lookup, &found.signed_as(), &found.attestations).await;
            }
        });
    }

    /// What a report says of platforms of an image: every rule, with the thresholds of the policy that is for it, whose name comes with it. Asks
    /// upstream nothing.
    pub async fn report(
        &self,
        image: &Image,
        platforms: Vec<PlatformFacts>,
        now: SystemTime,
    ) -> (Option<String>, Vec<(PlatformFacts, Vec<Verdict>)>) {
        self.judge_as(image, platforms, now, Policy::reported).await
    }

    /// What the rules of the policy that is for an image say of its platforms, whatever its mode, and the name of that policy; without
    /// one, what a report says. Asks upstream nothing.
    pub async fn findings(
        &self,
        image: &Image,
        platforms: Vec<PlatformFacts>,
        now: SystemTime,
    ) -> (Option<String>, Vec<(PlatformFacts, Vec<Verdict>)>) {
        self.judge_as(image, platforms, now, |policy| policy.rules().clone()).await
    }

    async fn judge_as(
        &self,
        image: &Image,
        platforms: Vec<PlatformFacts>,
        now: SystemTime,
        rules: impl FnOnce(&Policy) -> Rules,
    ) -> (Option<String>, Vec<(PlatformFacts, Vec<Verdict>)>) {
        let policies = self.policies.load_full();
        let policy = policy_for(&policies, image);
        let rules = policy.map_or_else(Rules::default, rules);
        let verdicts = self.verdicts(image, platforms, rules, now).await;
        (policy.map(|policy| policy.table().name.clone()), verdicts)
    }

    /// What rules say of platforms of an image, with the signatures that are remembered.
    async fn verdicts(
        &self,
        image: &Image,
        platforms: Vec<PlatformFacts>,
        rules: Rules,
        now: SystemTime,
    ) -> Vec<(PlatformFacts, Vec<Verdict>)> {
        let beside = |mut platform: PlatformFacts| {
            platform.supply.beside = self.remembered(image, &platform.signed_as());
            platform
        };
        let platforms: Vec<PlatformFacts> = platforms.into_iter().map(beside).collect();
        let work = move || {
            let judge = |platform: PlatformFacts| {
                let verdicts = platform.verdicts(&rules, now);
                (platform, verdicts)
            };
            platforms.into_iter().map(judge).collect()
        };
        self.apart(work).await.unwrap_or_default()
    }

    /// What was found for clients that may read what only accounts of ours may, else for others.
    fn remembered(&self, image: &Image, digests: &[Digest]) -> Beside {
        let known = |client: Client| {
            let Repository { upstream, name } = image.repository.clone();
            let (client, cached_only, cost) = (Arc::new(client), None, Cost::default());
            self.signatures.known(&Lookup { upstream, repository: name, client, cached_only, cost }, digests)
        };
        let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
        let all = known(Client::warm("report"));
        if all.looked_up == LookedUp::No { known(Client::anonymous(loopback, loopback)) } else { all }
    }

    /// Fetches a config or a layer as the client would; gives whether it is here now. Without patience it goes on behind the answer.
    async fn fetch(&self, lookup: &Lookup, blob: &Digest, patience: Option<Duration>) -> bool {
        let Ok(permit) = self.fetches.clone().try_acquire_owned() else { return false };
        if lookup.cached_only.is_some() {
            return false;
        }
        let (blobs, lookup, blob) = (self.blobs.clone(), lookup.clone(), blob.clone());
        let work = self.runtime.spawn(async move {
            let _permit = permit;
            let kept = blobs.keep(&lookup, &blob).await;
            if let Err(error) = &kept {
                tracing::info!(%error, digest = %blob, "a blob of an image could not be looked at");
            }
            kept.is_ok()
        });
        match patience {
            Some(patience) => timeout(patience, work).await.is_ok_and(|done| done.unwrap_or(false)),
            None => false,
        }
    }
}

/// What becomes of a manifest that could not be judged: nothing is known of it.
fn failed(policies: &Policies, names: &[String], why: &dyn std::fmt::Display, now: SystemTime) -> Decision {
    tracing::warn!(error = %why, image = names.first().map(String::as_str), "an image could not be judged");
    policies.decide(names, |rules| rules.unknown("could not be judged, as the log of this mirror says"), now)
}

/// What is hosted is held to no policy.
fn policy_for<'a>(policies: &'a Policies, image: &Image) -> Option<&'a Policy> {
    policies.find(&image.name()).filter(|_| !image.repository.is_hosted())
}

fn image(lookup: &Lookup, digest: Digest) -> Image {
    let Source { credential, .. } = lookup.public();
    Image { repository: repository(lookup), credential, tag: None, digest, checked_at: None }
}

fn repository(lookup: &Lookup) -> Repository {
    Repository { upstream: lookup.upstream.clone(), name: lookup.repository.clone() }
}
