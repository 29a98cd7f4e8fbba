//! The mirror under test with a hub on its other side: new images, and what they cost.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Mutex, MutexGuard};

use super::process::{Process, Program};
use crate::{
    check::Failure,
    client::{Client, Request, Shape},
    hub::{self, Authorization, Hub, Kind, Logged, Spec},
};

/// The pull limit the hub announces unless a check says otherwise: metered, so that a ledger has something to reconcile with.
pub(super) const BUDGET: u32 = 1_000_000;
/// All clients of the suite have one address, and together they ask more often than the default throttle lets one.
const FLEET: &str = "[[throttle]]\nname = \"throttle_unauthenticated_pulls\"\nrequests_per_period = 10000000\nperiod_in_seconds = 3600\n";

/// A mirror that does not pull again within this after the hub is healed has not recovered.
const RECOVERY: Duration = Duration::from_secs(100);

/// What a check must be able to do besides talking to the mirror and to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Restart, kill and measure the mirror: `--self` or `--peer`.
    Process,
    /// Weir's admin API: `--self` or `--admin`.
    Admin,
    /// Tags that grow stale within seconds: `--self` starts a second mirror for it, or else `--tag-ttl`.
    ShortTtl,
    /// Tags that stay fresh for minutes, as is the default.
    LongTtl,
}

/// Everything a check works with.
#[derive(Debug)]
pub struct Harness {
    /// The mirror's upstream.
    pub hub: Arc<Hub>,
    /// Asks the mirror.
    pub client: Client,
    /// Weir's admin API.
    pub admin: Option<SocketAddr>,
    /// How long tags stay fresh when that is seconds; `None` is a mirror as it comes.
    pub tag_ttl: Option<Duration>,
    /// The same hub with another mirror, whose tags stay fresh for seconds.
    short: Option<Arc<Harness>>,
    process: Option<Mutex<Process>>,
    /// Differs between two runs, so that a mirror which kept its data is cold for this one.
    run: u64,
    serial: AtomicU64,
}

/// An image as one client sees it: the platform linux/amd64.
#[derive(Clone, Debug)]
pub struct Image {
    /// A repository of its own.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// What the tag names: an index.
    pub digest: String,
    /// The platform's manifest.
    pub manifest: String,
    /// Its config.
    pub config: hub::Blob,
    /// Its layers.
    pub layers: Vec<hub::Blob>,
    spec: Spec,
}

impl Image {
    /// Digests of config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.config).chain(&self.layers).map(|blob| blob.digest.as_str())
    }
}

impl Harness {
    /// `process` when the mirror was started by us.
    pub fn new(hub: Arc<Hub>, client: Client, admin: Option<SocketAddr>, process: Option<Process>) -> Harness {
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        let harness = Harness {
            hub,
            client,
            admin,
            tag_ttl: None,
            short: None,
            process: process.map(Mutex::new),
            run,
            serial: AtomicU64::new(0),
        };
        harness.heal();
        harness
    }

    /// A hub, and two mirrors of that program in front of it: one as it is by default, one with tags that stay fresh for a second.
    pub async fn start(program: Program) -> Result<Harness, String> {
        let hub = Hub::start(hub::Settings::default()).await.map_err(|e| format!("the hub cannot listen: {e}"))?;
        let hub = Arc::new(hub);
        let upstream = hub.registry_address();
        let fleet = if matches!(program, Program::Weir(_)) { FLEET } else { "" };
        let mirror = Process::start(program.clone(), upstream, fleet).await?;
        let harness = Harness::new(hub.clone(), Client::new(mirror.address, ""), mirror.admin, Some(mirror));
        // docker-registry asks upstream for every tag, so its tags are always stale.
        let (extra, ttl) = match program {
            Program::Weir(_) => ("[mirror]\ntag_ttl = \"1s\"\nlisting_ttl = \"1s\"\n", Duration::from_secs(1)),
            Program::DockerRegistry(_) => ("", Duration::ZERO),
        };
        let short = Process::start(program, upstream, &format!("{extra}{fleet}")).await?;
        let short = Harness::new(hub, Client::new(short.address, ""), short.admin, Some(short)).with_tag_ttl(ttl);
        Ok(harness.with_short(short))
    }

    /// Why a check that needs this cannot run here.
    pub fn lacks(&self, needs: Needs) -> Option<&'static str> {
        match needs {
            Needs::Nothing => None,
            Needs::Process if self.process.is_some() => None,
            Needs::Process => Some("the mirror is not a process of ours (--self)"),
            Needs::Admin if self.admin.is_some() => None,
            Needs::Admin => Some("no admin API (--self, or --admin ADDR)"),
            Needs::ShortTtl if self.tag_ttl.is_some() => None,
            Needs::ShortTtl => Some("tags stay fresh too long, or for how long is not known (--self, or --tag-ttl)"),
            Needs::LongTtl if self.tag_ttl.is_none() => None,
            Needs::LongTtl => Some("tags do not stay fresh (run again without --tag-ttl)"),
        }
    }

    /// With another mirror for checks that need short-lived tags.
    pub fn with_short(self, short: Harness) -> Harness {
        Harness { short: Some(Arc::new(short)), ..self }
    }

    /// With tags that stay fresh so long.
    pub fn with_tag_ttl(self, ttl: Duration) -> Harness {
        Harness { tag_ttl: Some(ttl), ..self }
    }

    /// This harness, or its twin where tags are short-lived when that is what is needed.
    pub fn suited(self: &Arc<Harness>, needs: Needs) -> &Arc<Harness> {
        match (&self.short, needs) {
            (Some(short), Needs::ShortTtl) => short,
            _ => self,
        }
    }

    /// A further process of the same program on the same hub, with `extra` in its configuration, for one check.
    pub async fn beside(&self, extra: &str) -> Result<Harness, Failure> {
        let Program::Weir(path) = self.process().await?.program().clone() else {
            return Err(Failure::NotRun("needs Weir's configuration".into()));
        };
        let process = Process::start(Program::Weir(path), self.hub.registry_address(), extra).await?;
        Ok(Harness::new(self.hub.clone(), Client::new(process.address, ""), process.admin, Some(process)))
    }

    /// A new seed.
    pub fn seed(&self) -> u64 {
        self.next()
    }

    /// A new number.
    fn next(&self) -> u64 {
        self.run.wrapping_add(self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// A new repository. It is not made.
    pub fn repository(&self, what: &str) -> String {
        format!("suite/{what}-{:x}", self.next())
    }

    /// A new image with these layers (bytes) in a repository of its own, tagged `latest`, behind an index.
    pub async fn image(&self, what: &str, layers: &[u64]) -> Result<Image, String> {
        let repository = self.repository(what);
        self.image_in(repository, layers).await
    }

    /// The same in that repository.
    pub async fn image_in(&self, repository: String, layers: &[u64]) -> Result<Image, String> {
        let large = layers.iter().sum::<u64>() > 32 << 20;
        let platforms = if large { &["linux/amd64"][..] } else { &["linux/amd64", "linux/arm64"] };
        let spec =
            Spec::new(repository).platforms(platforms.iter().copied()).layers(layers.iter().copied()).seed(self.next());
        self.push(spec).await
    }

    /// The same bytes under another name.
    pub async fn same_image_elsewhere(&self, what: &str, image: &Image) -> Result<Image, String> {
        self.push(Spec { repository: self.repository(what), ..image.spec.clone() }).await
    }

    /// Other bytes under the same name and tag: the tag moves.
    pub async fn replace(&self, image: &Image) -> Result<Image, String> {
        self.push(image.spec.clone().seed(self.next())).await
    }

    /// The same image, its repository private from now on.
    pub async fn make_private(&self, image: &Image) -> Result<Image, String> {
        self.push(image.spec.clone().private()).await
    }

    /// An image that the mirror has. A mirror may keep a blob a moment after it was sent, so this pulls until a pull downloads nothing
    /// more, for five seconds at most.
    pub async fn warm_image(&self, what: &str, layers: &[u64]) -> Result<Image, String> {
        let image = self.image(what, layers).await?;
        let start = Instant::now();
        loop {
            let before: u64 = self.spent(&image).cdn_gets.values().sum();
            self.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
            let after: u64 = self.spent(&image).cdn_gets.values().sum();
            if before == after || start.elapsed() > Duration::from_secs(5) {
                return Ok(image);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the spec says.
    pub async fn push(&self, spec: Spec) -> Result<Image, String> {
        let (hub, wanted) = (self.hub.clone(), spec.clone());
        let pushed = tokio::task::spawn_blocking(move || hub.push(wanted)).await.map_err(|e| e.to_string())?;
        let pushed = pushed.map_err(|e| format!("the hub cannot make an image: {e}"))?;
        let platform = pushed.platforms.first().ok_or("an image without platforms")?;
        Ok(Image {
            tag: pushed.tags.first().cloned().unwrap_or_default(),
            digest: pushed.digest().to_owned(),
            manifest: platform.manifest.digest.clone(),
            config: platform.config.clone(),
            layers: platform.layers.clone(),
            repository: pushed.repository.clone(),
            spec,
        })
    }

    /// Bytes per second of each upstream body, and how long each upstream answer waits.
    pub fn pace(&self, bandwidth: Option<u64>, latency: Duration) {
        self.hub.adjust(|settings| {
            settings.bandwidth = bandwidth;
            settings.latency = latency;
        });
    }

    /// What this image cost upstream so far.
    pub fn spent(&self, image: &Image) -> UpstreamCost {
        let blobs: Vec<&str> = image.blobs().collect();
        UpstreamCost::of(self.hub.log().iter().filter(|logged| {
            logged.repository == image.repository
                || (matches!(logged.kind, Kind::CdnGet | Kind::CdnHead) && blobs.contains(&logged.reference.as_str()))
        }))
    }

    /// What was asked for this repository so far; the CDN knows none and is left out.
    pub fn spent_in(&self, repository: &str) -> UpstreamCost {
        UpstreamCost::of(self.hub.log().iter().filter(|logged| logged.repository == repository))
    }

    /// Every request upstream so far, whatever for.
    pub fn requests(&self) -> u64 {
        self.hub.log().len() as u64
    }

    /// How often the CDN began to send this blob.
    pub fn downloads(&self, digest: &str) -> u64 {
        self.hub.count(|logged| logged.kind == Kind::CdnGet && logged.reference == digest) as u64
    }

    /// Process id of the mirror when it is ours.
    pub async fn pid(&self) -> Option<u32> {
        self.process.as_ref()?.lock().await.pid()
    }

    /// The mirror's process; only for checks that declared [`Needs::Process`].
    pub async fn process(&self) -> Result<MutexGuard<'_, Process>, String> {
        match &self.process {
            Some(process) => Ok(process.lock().await),
            None => Err("the mirror is not a process of ours".into()),
        }
    }

    /// The admin API; only for checks that declared [`Needs::Admin`].
    pub async fn ask_admin(&self, target: &str) -> Result<serde_json::Value, String> {
        let admin = self.admin.ok_or("no admin API")?;
        let answer = Client::new(admin, "").send(&Request::get(target)).await.map_err(|e| format!("{target}: {e}"))?;
        if !answer.complete() {
            return Err(format!("GET {target}: {}", answer.describe()));
        }
        Ok(answer.json())
    }

    /// The hub as a check finds it: no fault, full speed, a large budget.
    pub fn heal(&self) {
        self.hub.clear_faults();
        self.hub.release();
        let fresh = hub::Settings::default();
        self.hub.adjust(|settings| {
            settings.bandwidth = None;
            settings.latency = Duration::ZERO;
            settings.referrers = fresh.referrers;
            settings.page = fresh.page;
            settings.challenge = fresh.challenge;
            settings.redirect_blobs = fresh.redirect_blobs;
            settings.token_life = fresh.token_life;
            settings.accounts = fresh.accounts;
            settings.limit = Some(hub::Limit::hub(BUDGET));
        });
        self.hub.set_budget(i64::from(BUDGET));
    }

    /// Heals the hub and waits until the mirror pulls something cold again; how long that took.
    pub async fn settle(&self) -> Result<Duration, String> {
        self.heal();
        self.hub.up().await.map_err(|e| format!("the hub does not come up: {e}"))?;
        if let Some(process) = &self.process {
            process.lock().await.revive().await?;
        }
        let start = Instant::now();
        loop {
            // Another image each time: what failed before may be remembered as failed.
            let image = self.image("settle", &[100]).await?;
            let last = match self.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await {
                Ok(_) => break,
                Err(sentence) => sentence,
            };
            if start.elapsed() > RECOVERY {
                return Err(last);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        self.hub.clear_log();
        Ok(start.elapsed())
    }
}

/// What something cost upstream, by kind of request.
#[derive(Clone, Debug, Default)]
pub struct UpstreamCost {
    /// All that were answered with more than a challenge.
    pub requests: u64,
    /// Counted by Hub.
    pub manifest_gets: u64,
    /// Not counted.
    pub manifest_heads: u64,
    /// At the registry, by digest.
    pub blob_gets: BTreeMap<String, u64>,
    /// At the CDN, by digest.
    pub cdn_gets: BTreeMap<String, u64>,
    /// How blobs are vouched for.
    pub blob_heads: u64,
    /// At the token service.
    pub tokens: u64,
    /// Tag lists.
    pub tags: u64,
    /// Referrers lists.
    pub referrers: u64,
    /// Anonymous requests that were answered by a 401: the price of learning where tokens are.
    pub challenges: u64,
}

impl UpstreamCost {
    fn of<'a>(entries: impl Iterator<Item = &'a Logged>) -> UpstreamCost {
        let mut spent = UpstreamCost::default();
        for entry in entries {
            if entry.status == 401 && entry.authorization == Authorization::None {
                spent.challenges += 1;
                continue;
            }
            spent.requests += 1;
            match entry.kind {
                Kind::ManifestGet => spent.manifest_gets += 1,
                Kind::ManifestHead => spent.manifest_heads += 1,
                Kind::BlobGet => *spent.blob_gets.entry(entry.reference.clone()).or_default() += 1,
                Kind::CdnGet => *spent.cdn_gets.entry(entry.reference.clone()).or_default() += 1,
                Kind::BlobHead => spent.blob_heads += 1,
                Kind::Token => spent.tokens += 1,
                Kind::Tags => spent.tags += 1,
                Kind::Referrers => spent.referrers += 1,
                Kind::CdnHead | Kind::Ping | Kind::Other => {}
            }
        }
        spent
    }

    /// The most GETs any one blob took, at the registry or at the CDN.
    pub fn most_for_one_blob(&self) -> u64 {
        self.blob_gets.values().chain(self.cdn_gets.values()).copied().max().unwrap_or(0)
    }

    /// All blob GETs at the registry.
    pub fn all_blob_gets(&self) -> u64 {
        self.blob_gets.values().sum()
    }

    /// Two manifest GETs, one GET for each blob and no other, one token.
    pub fn is_one_pull(&self, image: &Image) -> bool {
        self.manifest_gets == 2
            && self.tokens == 1
            && image.blobs().all(|blob| self.blob_gets.get(blob) == Some(&1) && self.cdn_gets.get(blob) == Some(&1))
            && self.blob_gets.len() == image.blobs().count()
    }
}

impl fmt::Display for UpstreamCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cdn: u64 = self.cdn_gets.values().sum();
        write!(f, "{} manifest GETs, {} HEADs", self.manifest_gets, self.manifest_heads)?;
        write!(f, ", {} blob GETs for {} blobs", self.all_blob_gets(), self.blob_gets.len())?;
        for (count, what) in [
            (cdn, "CDN"),
            (self.blob_heads, "blob HEADs"),
            (self.tokens, "token"),
            (self.tags, "tags/list"),
            (self.referrers, "referrers"),
            (self.challenges, "challenges"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// The value below which `percent` of a sorted list lie; the last for 100.
pub(super) fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let at = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
