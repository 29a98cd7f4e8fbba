//! What an operator changes of the cache, by the API or on a page: pins, refresh, purge. Each change is in the audit with its reason.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    images::{before, is_older},
    name::{cached, in_full, split},
    state::State,
};
use crate::{
    client::{Client, ClientKey},
    limits::audit::{Actor, AdminEvent, Event},
    mirror::{self, Cost, Image, Lookup, Pin, Purged, Refreshed, Repository, Selection, StoreError, warm::WarmError},
    oci::{Reference, matches},
};

/// The longest pattern, and the longest reason for the audit, in bytes.
pub(super) const LONGEST: usize = 500;

/// Why a change was not made.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Of HTTP.
    pub(super) status: u16,
    /// As the API says it.
    pub(super) code: &'static str,
    /// What is wrong, and what would not be.
    pub(super) sentence: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, sentence: impl Into<String>) -> Refusal {
        Refusal { status, code, sentence: sentence.into() }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match error {
            StoreError::Counting => Refusal::new(503, "UNAVAILABLE", error.to_string()),
            StoreError::Unusable(why) => Refusal::new(409, "DENIED", why),
            error => Refusal::new(500, "UNKNOWN", error.to_string()),
        }
    }
}

impl From<WarmError> for Refusal {
    fn from(error: WarmError) -> Refusal {
        let (status, code) = match error {
            WarmError::Invalid(_) => (400, "INVALID"),
            WarmError::Full(_) | WarmError::Ended => (409, "DENIED"),
            WarmError::Unknown => (404, "NOT_FOUND"),
            WarmError::Journal(_) => (507, "UNKNOWN"),
        };
        Refusal::new(status, code, error.to_string())
    }
}

fn check_reason(reason: &str) -> Result<(), Refusal> {
    match reason.len() > LONGEST {
        true => Err(Refusal::new(400, "INVALID", "write a reason of at most 500 bytes")),
        false => Ok(()),
    }
}

/// Keeps the images of a pattern from eviction; gives how many are cached.
pub(super) async fn pin(state: &State, by: &Actor, pattern: String, reason: String) -> Result<usize, Refusal> {
    let is_pattern = !pattern.is_empty() && !pattern.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_pattern || pattern.len() > LONGEST || reason.len() > LONGEST {
        let why = "write an image, a repository or a pattern of images, such as docker.io/library/*, and a reason, \
                   of at most 500 bytes each";
        return Err(Refusal::new(400, "INVALID", why));
    }
    let routes = state.settings.routes.load();
    let pattern = in_full(&routes, &pattern);
    let repository = cached(&routes, split(&pattern).0);
    if let Some(hosted) = repository.ok().filter(Repository::is_hosted) {
        let why = format!("{} is hosted here; nothing of it is ever evicted, so that it needs no pin", hosted.name);
        return Err(Refusal::new(409, "DENIED", why));
    }
    let now = SystemTime::now();
    let pin = Pin { pattern: pattern.clone(), by: by.name.clone(), reason: reason.clone(), at: now };
    let covered = state.mirror.images().covered(std::slice::from_ref(&pin)).len();
    state.mirror.images().pin(pin).await?;
    state.limits.record_event(by, Event::Admin(AdminEvent::Pinned { pattern, reason }), now);
    Ok(covered)
}

/// Takes a pin back.
pub(super) async fn unpin(state: &State, by: &Actor, pattern: String, reason: String) -> Result<(), Refusal> {
    check_reason(&reason)?;
    // As it was pinned; a pin that was made of a short name is found by both.
    let full = in_full(&state.settings.routes.load(), &pattern);
    let pins = state.mirror.images();
    let (is_unpinned, pattern) = match pins.unpin(&pattern).await? {
        true => (true, pattern),
        false => (pins.unpin(&full).await?, full),
    };
    if !is_unpinned {
        let why = "no pin has this pattern; GET /api/v1/cache/pins lists them";
        return Err(Refusal::new(404, "NOT_FOUND", why));
    }
    state.limits.record_event(by, Event::Admin(AdminEvent::Unpinned { pattern, reason }), SystemTime::now());
    Ok(())
}

/// Asks upstream what a tag names now; gives the image's name and what became of it.
pub(super) async fn refresh(
    state: &State,
    by: &Actor,
    (repository, reference): (&str, &str),
    reason: String,
) -> Result<(String, Refreshed), Refusal> {
    let invalid = |code, why: &str| Refusal::new(400, code, why);
    let repository = cached(&state.settings.routes.load(), repository).map_err(|why| invalid("NAME_INVALID", why))?;
    let Ok(Reference::Tag(tag)) = reference.parse() else {
        return Err(invalid("TAG_INVALID", "name a tag; what a digest names never changes"));
    };
    check_reason(&reason)?;
    if repository.is_hosted() {
        return Err(Refusal::new(409, "DENIED", format!("{} is hosted here; no upstream has it", repository.name)));
    }
    if let Some(sentence) = state.limits.config().repositories.refuse(&repository.upstream, &repository.name) {
        return Err(Refusal::new(403, "DENIED", sentence));
    }
    let now = SystemTime::now();
    let image = format!("{}:{tag}", repository.full_name());
    let Repository { upstream, name: repository } = repository;
    let lookup =
        Lookup { upstream, repository, client: Arc::new(operator(by)), cached_only: None, cost: Cost::default() };
    match state.mirror.manifests.refresh(&lookup, &tag).await {
        Ok(refreshed) => {
            let moved = refreshed.before.as_ref() != Some(&refreshed.digest);
            let event = AdminEvent::Refreshed { image: image.clone(), moved, reason };
            state.limits.record_event(by, Event::Admin(event), now);
            Ok((image, refreshed))
        }
        Err(error) => {
            let status = match &error {
                mirror::Error::NameUnknown | mirror::Error::ManifestUnknown | mirror::Error::BlobUnknown => 404,
                mirror::Error::BudgetSpent { .. }
                | mirror::Error::Throttled(_)
                | mirror::Error::UpstreamLimited { .. } => 429,
                mirror::Error::UpstreamUnavailable { .. } => 503,
                mirror::Error::UpstreamMalformed { .. } => 502,
                mirror::Error::Internal => 500,
            };
            Err(Refusal::new(status, "UNKNOWN", format!("{image}: {error}")))
        }
    }
}

/// An operator as a client, who may have what only an account of ours may read.
fn operator(actor: &Actor) -> Client {
    let address = actor.from.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    Client {
        key: ClientKey::Principal(actor.name.as_str().into()),
        pull: Arc::from(["*".to_owned()]),
        ..Client::anonymous(address, address)
    }
}

/// What a purge selects, and the words for it.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) selections: Vec<Selection>,
    pub(super) words: String,
}

/// A repository, or a reference of it.
pub(super) fn select_one(state: &State, repository: &str, reference: Option<&str>) -> Result<Selected, Refusal> {
    let repository =
        cached(&state.settings.routes.load(), repository).map_err(|why| Refusal::new(400, "NAME_INVALID", why))?;
    let words = repository.full_name();
    if repository.is_hosted() {
        let why = format!("{words} is hosted here, and a purge is of the cache; delete it as a client of the registry");
        return Err(Refusal::new(409, "DENIED", why));
    }
    let (selection, words) = match reference.map(str::parse) {
        None => (Selection::Repository(repository), words),
        Some(Ok(Reference::Tag(tag))) => {
            let words = format!("{words}:{tag}");
            (Selection::Tag(repository, tag), words)
        }
        Some(Ok(Reference::Digest(digest))) => {
            let words = format!("{words}@{digest}");
            (Selection::Manifest(repository, digest), words)
        }
        Some(Err(_)) => return Err(Refusal::new(400, "TAG_INVALID", "this is no tag")),
    };
    Ok(Selected { selections: vec![selection], words })
}

/// Many images by what they have in common; what is absent does not count.
#[derive(Debug, Default)]
pub(super) struct Many {
    pub(super) pattern: Option<String>,
    pub(super) registry: Option<String>,
    /// No client pulled it for so long.
    pub(super) older_than: Option<Duration>,
    /// It came longer ago.
    pub(super) not_arrived_within: Option<Duration>,
}

impl Many {
    pub(super) fn is_any(&self) -> bool {
        let has_span = self.older_than.is_some() || self.not_arrived_within.is_some();
        self.pattern.is_some() || self.registry.is_some() || has_span
    }
}

/// The mirrored images that have all of this.
pub(super) fn select_many(state: &State, many: &Many) -> Selected {
    let (images, now) = (state.mirror.images(), SystemTime::now());
    let reading = images.read();
    let routes = state.settings.routes.load();
    let pattern = many.pattern.as_deref().map(|pattern| in_full(&routes, pattern));
    // A repository is a pattern of all its images, as in a pin.
    let has_name = |image: &Image, pattern: &str| {
        matches(pattern, &image.name()) || (!pattern.contains('*') && image.repository.full_name() == pattern)
    };
    let is_selected = |image: &Image| {
        !image.repository.is_hosted()
            && many.registry.as_ref().is_none_or(|registry| *image.repository.upstream == **registry)
            && pattern.as_deref().is_none_or(|pattern| has_name(image, pattern))
            && many.older_than.is_none_or(|span| images.idle_since(image) < before(now, span))
            && many.not_arrived_within.is_none_or(|span| is_older(&reading, image, before(now, span)))
    };
    let select = |image: Image| match image.tag {
        Some(tag) => Selection::Tag(image.repository, tag),
        None => Selection::Manifest(image.repository, image.digest),
    };
    let selections = reading.images(None).filter(is_selected).map(select).collect();
    let registry = many.registry.as_ref().map(|registry| format!("{registry}/*"));
    let mut words = pattern.clone().or(registry).unwrap_or_else(|| "*".to_owned());
    for (span, what) in [(many.older_than, "not pulled for"), (many.not_arrived_within, "here for longer than")] {
        if let Some(span) = span {
            words += &format!(" {what} {}", humantime::format_duration(span));
        }
    }
    Selected { selections, words }
}

/// Removes what is selected; `dry_run` says what would go.
pub(super) async fn purge(
    state: &State,
    by: &Actor,
    selected: Selected,
    dry_run: bool,
    reason: String,
) -> Result<Purged, Refusal> {
    check_reason(&reason)?;
    let Selected { selections, words } = selected;
    let purged = state.mirror.purge(selections, dry_run).await?;
    if !dry_run {
        tracing::info!(target: "weir::admin", selection = %words, ?purged, "purged");
        let event = AdminEvent::Purged { selection: words, freed: purged.freed, reason };
        state.limits.record_event(by, Event::Admin(event), SystemTime::now());
    }
    Ok(purged)
}
