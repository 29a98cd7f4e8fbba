//! What `[[policy]]` makes of a manifest that a client asks for. The answer is kept for a minute, so that a warm pull costs one look-up in
//! memory; without a policy it costs nothing.
//!
//! A manifest that is asked for by tag is judged under that tag; by digest under the tags that lead to it here, of which the most lenient
//! decides, else under its digest. An index is refused when every platform of it is; else its manifests are judged as they are asked for.
//! Artifacts, such as signatures, are no images and always pass.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use weir_storage::{Image, Repository, Source, Store};

use super::{
    blobs::Blobs,
    handles::Handles,
    image_facts::{ImageFacts, NO_PLATFORM, NoFacts},
    lookup::Lookup,
};
use crate::{
    client::ClientKey,
    limits::{Limits, audit::Actor},
    oci::{Digest, Manifest, Name, Reference, Tag},
    policy::{Breach, Decision, Outcome, Policies, Table},
};

/// How long a decision is kept. Exemptions expire, images grow old, tags move: all of it is in force so much later.
const KEPT: Duration = Duration::from_secs(60);
/// How long one is kept that may be another when a layer was looked at.
const KEPT_BRIEFLY: Duration = Duration::from_secs(1);
/// A refusal of one image by one policy is in the audit once in this time; its count goes on.
const AUDITED: Duration = Duration::from_secs(3600);
/// Such refusals that are known: more images than that are not refused in an hour by mistake.
const MOST_AUDITED: u64 = 1000;
/// Decisions that are kept: some 10 MiB.
const MOST: u64 = 20_000;
/// Configs, and images whose layers are fetched, at once because a policy wants to see them. What finds no place is looked at when it is next asked for.
const FETCHES: usize = 8;
/// Tags of a repository that are looked at for those that lead to a digest.
const MOST_TAGS: usize = 1000;

/// What becomes of a manifest, and how long that is kept: what is not known yet may be known to the next client.
struct Judged {
    decision: Decision,
    keep: Keep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Long,
    Briefly,
    No,
}

impl Judged {
    fn kept(decision: Decision) -> Judged {
        Judged { decision, keep: Keep::Long }
    }

    fn once(decision: Decision) -> Judged {
        Judged { decision, keep: Keep::No }
    }
}

/// What was asked for: upstream, repository, tag and digest.
type Key = (Arc<str>, Name, Option<Tag>, Digest);

/// Holds what is asked for to the policies.
#[derive(Debug)]
pub struct Enforcement {
    policies: ArcSwap<Policies>,
    decisions: moka::sync::Cache<Key, Decision>,
    brief: moka::sync::Cache<Key, Decision>,
    audited: moka::sync::Cache<String, ()>,
    limits: Limits,
    facts: ImageFacts,
    blobs: Arc<Blobs>,
    store: Store,
    fetches: Arc<Semaphore>,
    runtime: Handle,
}

impl Enforcement {
    pub(super) fn new(handles: &Handles, facts: ImageFacts, blobs: Arc<Blobs>, limits: Limits) -> Enforcement {
        let remember = |most, kept| moka::sync::Cache::builder().max_capacity(most).time_to_live(kept);
        Enforcement {
            policies: ArcSwap::default(),
            decisions: remember(MOST, KEPT).build(),
            brief: remember(MOST, KEPT_BRIEFLY).build(),
            audited: moka::sync::Cache::builder().max_capacity(MOST_AUDITED).time_to_live(AUDITED).build(),
            limits,
            facts,
            blobs,
            store: handles.sources.store.clone(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            runtime: handles.runtime.clone(),
        }
    }

    /// These are the policies from now on.
    pub fn set(&self, tables: &[Table]) {
        self.policies.store(Arc::new(Policies::new(tables, &self.policies.load())));
        self.decisions.invalidate_all();
        self.brief.invalidate_all();
    }

    /// The policies that are in force, with what they counted.
    pub fn policies(&self) -> Arc<Policies> {
        self.policies.load_full()
    }

    /// What was decided lately of a manifest, or is clear without a look at it. No system call.
    pub fn now(&self, lookup: &Lookup, reference: &Reference, digest: &Digest) -> Option<Decision> {
        if self.policies.load().is_empty() {
            return Some(Decision::Pass);
        }
        let key = key(lookup, reference, digest);
        self.decisions.get(&key).or_else(|| self.brief.get(&key))
    }

    /// What becomes of a manifest that is here, or passes because nothing of it is. Waits for its config as long as its policy says.
    pub async fn decide(&self, lookup: &Lookup, reference: &Reference, digest: &Digest, now: SystemTime) -> Decision {
        if let Some(decision) = self.now(lookup, reference, digest) {
            return decision;
        }
        let policies = self.policies.load_full();
        let names = self.names(lookup, reference, digest);
        let is_acted_on = |name: &String| policies.find(name).is_some_and(|policy| policy.acts());
        let judged = match names.iter().all(is_acted_on) {
            true => self.judge(lookup, &policies, &names, digest, now).await,
            // A name for which no policy acts passes, and is the most lenient.
            false => Judged::kept(Decision::Pass),
        };
        // By other policies, another decision may be right by now.
        if Arc::ptr_eq(&policies, &self.policies.load()) {
            match judged.keep {
                Keep::Long => self.decisions.insert(key(lookup, reference, digest), judged.decision.clone()),
                Keep::Briefly => self.brief.insert(key(lookup, reference, digest), judged.decision.clone()),
                Keep::No => {}
            }
        }
        if let Decision::Refuse(breach) = &judged.decision {
            self.note(lookup, &names, breach, now);
        }
        judged.decision
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
        policies: &Policies,
        names: &[String],
        digest: &Digest,
        now: SystemTime,
    ) -> Judged {
        // A HEAD gives nothing of what is not here.
        let Some(manifest) = self.manifest(digest).await else { return Judged::once(Decision::Pass) };
        if !manifest.media_type.is_index() {
            return self.judge_image(lookup, policies, names, &manifest, now, true).await;
        }
        let children = manifest.describe().map(|description| description.children).unwrap_or_default();
        let mut first = None;
        for child in children.into_iter().filter(|child| child.is_manifest) {
            if child.platform.as_deref() == Some(NO_PLATFORM) {
                continue;
            }
            let Some(manifest) = self.manifest(&child.digest).await else { return Judged::kept(Decision::Pass) };
            let judged = self.judge_image(lookup, policies, names, &manifest, now, false).await;
            if !matches!(judged.decision, Decision::Refuse(_)) {
                return Judged::kept(Decision::Pass);
            }
            first = first.or(Some(judged));
        }
        first.unwrap_or(Judged::kept(Decision::Pass))
    }

    async fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        self.store.cache.manifests.load(digest).await.ok().flatten()
    }

    /// `may_fetch`: whether a config that is not here is fetched.
    async fn judge_image(
        &self,
        lookup: &Lookup,
        policies: &Policies,
        names: &[String],
        manifest: &Manifest,
        now: SystemTime,
        may_fetch: bool,
    ) -> Judged {
        let Source { credential, .. } = lookup.public();
        let digest = manifest.digest.clone();
        let image = Image { repository: repository(lookup), credential, tag: None, digest, checked_at: None };
        let Ok(mut found) = self.facts.of_manifest(&image, manifest).await else {
            return Judged::once(Decision::Pass);
        };
        if let Err(NoFacts::NoConfig(config)) = &found.facts {
            let patience = names.iter().filter_map(|name| policies.find(name)?.wait()).min();
            if may_fetch
                && self.fetch(lookup, config, patience).await
                && let Ok(again) = self.facts.of_manifest(&image, manifest).await
            {
                found = again;
            }
        }
        if matches!(found.facts, Err(NoFacts::NoImage)) {
            return Judged::kept(Decision::Pass);
        }
        let (mut is_broken, mut is_open) = (false, false);
        let decided = names.iter().filter_map(|name| {
            let policy = policies.find(name)?;
            let verdicts = found.verdicts(policy.rules(), now);
            is_broken |= verdicts.iter().any(|verdict| verdict.outcome == Outcome::Fail);
            is_open |= verdicts.iter().any(|verdict| verdict.outcome == Outcome::Unknown);
            Some(policy.decide(name, &verdicts, now))
        });
        let decision = decided.reduce(Decision::or).unwrap_or(Decision::Pass);
        let is_waiting = found.contents.waiting > 0 && is_open && !is_broken;
        // What is broken already is refused whatever its layers hold.
        if let (true, true, Decision::Refuse(_), Ok(facts)) = (is_waiting, may_fetch, &decision, &found.facts) {
            self.bring(lookup, &facts.layers);
        }
        let keep = match found.facts {
            Err(NoFacts::NoConfig(_)) => Keep::No,
            _ if is_waiting => Keep::Briefly,
            _ => Keep::Long,
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

    /// Fetches a config as the client would; gives whether it is here now. Without patience it goes on behind the answer.
    async fn fetch(&self, lookup: &Lookup, config: &Digest, patience: Option<Duration>) -> bool {
        let Ok(permit) = self.fetches.clone().try_acquire_owned() else { return false };
        if lookup.cached_only.is_some() {
            return false;
        }
        let (blobs, lookup, config) = (self.blobs.clone(), lookup.clone(), config.clone());
        let work = self.runtime.spawn(async move {
            let _permit = permit;
            let kept = blobs.keep(&lookup, &config).await;
            if let Err(error) = &kept {
                tracing::info!(%error, digest = %config, "the config of an image could not be looked at");
            }
            kept.is_ok()
        });
        match patience {
            Some(patience) => timeout(patience, work).await.is_ok_and(|done| done.unwrap_or(false)),
            None => false,
        }
    }
}

fn repository(lookup: &Lookup) -> Repository {
    Repository { upstream: lookup.upstream.clone(), name: lookup.repository.clone() }
}

fn key(lookup: &Lookup, reference: &Reference, digest: &Digest) -> Key {
    let tag = match reference {
        Reference::Tag(tag) => Some(tag.clone()),
        Reference::Digest(_) => None,
    };
    (lookup.upstream.clone(), lookup.repository.clone(), tag, digest.clone())
}
