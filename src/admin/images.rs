//! Which images are looked for, for programs and for the page alike: filters, their order, and the place where a page of a list begins.

use std::{
    cmp::Reverse,
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{json::parameter, name, state::State};
use crate::{
    mirror::{Image, ImageFilter, NameFilter, Pin, Reading, Repository},
    oci::{Child, Digest, Reference, is_platform, matches},
    route::is_registry,
};

/// The parameters of a list but for its paging.
pub(super) const FILTERS: [&str; 12] = [
    "pattern",
    "registry",
    "repository",
    "platform",
    "hosted",
    "complete",
    "stale",
    "pinned",
    "pulled_within",
    "not_pulled_within",
    "not_arrived_within",
    "sort",
];

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// By registry, repository, tag in byte order. Only this one has further pages.
    #[default]
    Name,
    /// The largest first.
    Size,
    /// The one that was pulled last first; those of which no pull is remembered are not listed.
    LastPull,
    /// The one that was not pulled for the longest time first.
    Idle,
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) pattern: String,
    pub(super) registry: Option<String>,
    pub(super) repository: Option<Repository>,
    pub(super) platform: Option<String>,
    pub(super) hosted: Option<bool>,
    pub(super) complete: Option<bool>,
    pub(super) stale: Option<bool>,
    pub(super) pinned: Option<bool>,
    pub(super) pulled_within: Option<Duration>,
    pub(super) not_pulled_within: Option<Duration>,
    pub(super) not_arrived_within: Option<Duration>,
    pub(super) sort: Sort,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) images: Vec<Image>,
    /// After what the next page begins.
    pub(super) next: Option<String>,
}

/// A boolean parameter; `None` when it is not there.
pub(super) fn flag(query: &str, key: &str) -> Result<Option<bool>, String> {
    match parameter(query, key).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(format!("{key} is true or false")),
    }
}

/// A parameter that is a span, such as 30d; `None` when it is not there.
pub(super) fn span(query: &str, key: &str) -> Result<Option<Duration>, String> {
    let Some(text) = parameter(query, key) else { return Ok(None) };
    humantime::parse_duration(&text).map(Some).map_err(|_| format!("{key} is a duration such as 12h or 30d"))
}

/// `names` are those of a repository or of images: a pattern when there is a star, else a part of the name.
pub(super) fn is_wanted(pattern: &str, name: &str) -> bool {
    if pattern.contains('*') { matches(pattern, name) } else { name.contains(pattern) }
}

impl Filter {
    /// Reads it from a query.
    ///
    /// # Errors
    /// A sentence that says which parameter is wrong.
    pub(super) fn parse(state: &State, query: &str) -> Result<Filter, String> {
        let repository = parameter(query, "repository");
        let repository = repository.map(|text| name::cached(&state.settings.routes.load(), &text)).transpose()?;
        let sort = match parameter(query, "sort").as_deref() {
            None | Some("name") => Sort::Name,
            Some("size") => Sort::Size,
            Some("last_pull") => Sort::LastPull,
            Some("idle") => Sort::Idle,
            Some(_) => return Err("sort is name, size, last_pull or idle".to_owned()),
        };
        Ok(Filter {
            pattern: parameter(query, "pattern").unwrap_or_default(),
            registry: parameter(query, "registry"),
            repository,
            platform: parameter(query, "platform"),
            hosted: flag(query, "hosted")?,
            complete: flag(query, "complete")?,
            stale: flag(query, "stale")?,
            pinned: flag(query, "pinned")?,
            pulled_within: span(query, "pulled_within")?,
            not_pulled_within: span(query, "not_pulled_within")?,
            not_arrived_within: span(query, "not_arrived_within")?,
            sort,
        })
    }

    /// A page of at most so many images; a name that several accounts have is not cut in two.
    ///
    /// # Errors
    /// A sentence, when `last` is no name of an image.
    pub(super) fn find(
        &self,
        state: &State,
        reading: &Reading<'_>,
        most: usize,
        last: Option<&str>,
        now: SystemTime,
    ) -> Result<Page, String> {
        let after = match last.map(cursor) {
            Some(None) => return Err("last is the name of an image, as in the last page".to_owned()),
            after => after.flatten(),
        };
        let pins = state.mirror.images().pins();
        let wanted = |image: &Image| self.has(state, reading, image, &pins, now);
        if self.sort != Sort::Name {
            return Ok(Page { images: self.first(state, reading, most, wanted), next: None });
        }
        let is_after = |image: &Image| {
            after.as_ref().is_none_or(|(repository, last)| image.repository != *repository || place(image) > *last)
        };
        let from = after.as_ref().map(|(repository, _)| repository);
        let mut images = self.listed(reading, from).filter(|image| is_after(image) && wanted(image));
        let mut page: Vec<Image> = images.by_ref().take(most).collect();
        let mut next = images.next();
        while let Some(same) = next.take_if(|next| page.last().is_some_and(|last| last.name() == next.name())) {
            page.push(same);
            next = images.next();
        }
        Ok(Page { next: next.and(page.last()).map(Image::name), images: page })
    }

    /// The first of all, in another order than that of their names.
    fn first(&self, state: &State, reading: &Reading<'_>, most: usize, wanted: impl Fn(&Image) -> bool) -> Vec<Image> {
        let images = state.mirror.images();
        let key = |image: &Image| match self.sort {
            Sort::Size | Sort::Name => reading.claimed_size(&image.digest),
            Sort::LastPull => images.last_pull(image).map_or(0, seconds),
            Sort::Idle => u64::MAX - seconds(images.idle_since(image)),
        };
        let all = self.listed(reading, None).filter(wanted).map(|image| (key(&image), image));
        // Of equal ones the first by name comes first.
        let all = all.filter(|(key, _)| *key > 0).enumerate().map(|(at, (key, image))| (Reverse(key), at, image));
        let order = |it: &(Reverse<u64>, usize, Image)| (it.0, it.1);
        // Not all are kept until the last is seen: there may be a hundred thousand.
        let mut first: Vec<(Reverse<u64>, usize, Image)> = Vec::with_capacity(2 * most);
        for image in all {
            first.push(image);
            if first.len() == 2 * most {
                first.select_nth_unstable_by_key(most, order);
                first.truncate(most);
            }
        }
        first.sort_unstable_by_key(order);
        first.truncate(most);
        first.into_iter().map(|(_, _, image)| image).collect()
    }

    /// The images from a repository on that have the registry, the repository, the name and the completeness; of the others nothing is made.
    fn listed<'a>(
        &'a self,
        reading: &'a Reading<'_>,
        from: Option<&'a Repository>,
    ) -> impl Iterator<Item = Image> + 'a {
        let name: Option<NameFilter<'a>> = match self.pattern.is_empty() {
            true => None,
            false => Some(Box::new(|name| is_wanted(&self.pattern, name))),
        };
        let (registry, repository) = (self.registry.as_deref(), self.repository.as_ref());
        reading.images_wanted(from, ImageFilter { registry, repository, name, complete: self.complete })
    }

    fn has(&self, state: &State, reading: &Reading<'_>, image: &Image, pins: &[Pin], now: SystemTime) -> bool {
        let (images, is_hosted) = (state.mirror.images(), image.repository.is_hosted());
        let is = |wanted: Option<bool>, it: &dyn Fn() -> bool| wanted.is_none_or(|wanted| it() == wanted);
        is(self.hosted, &|| is_hosted)
            && is(self.stale, &|| state.mirror.is_stale(image, now))
            && is(self.pinned, &|| is_hosted || pins.iter().any(|pin| pin.covers(image)))
            && self
                .pulled_within
                .is_none_or(|span| images.last_pull(image).is_some_and(|last| last >= before(now, span)))
            && self.not_pulled_within.is_none_or(|span| images.idle_since(image) < before(now, span))
            && self.not_arrived_within.is_none_or(|span| is_older(reading, image, before(now, span)))
            && self.platform.as_ref().is_none_or(|platform| {
                let is_it = |claimed: &str| is_platform(claimed, platform);
                reading.claims_platform(&image.digest, is_it)
                    || state.mirror.facts.platform_of(&image.digest).is_some_and(|claimed| is_it(&claimed))
            })
    }
}

/// Whether `allow` or `deny` of its upstream refuses it to clients, though it is still here.
pub(super) fn is_denied(state: &State, image: &Image) -> bool {
    let Repository { upstream, name } = &image.repository;
    !image.repository.is_hosted() && state.limits.config().repositories.refuses(upstream, name)
}

/// So long ago.
pub(super) fn before(now: SystemTime, span: Duration) -> SystemTime {
    now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whether what an image names came before this moment, and is here.
pub(super) fn is_older(reading: &Reading<'_>, image: &Image, than: SystemTime) -> bool {
    reading.arrived(&image.digest).is_some_and(|arrived| arrived < than)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The place of an image in the list of its repository: tags come before digests.
fn place(image: &Image) -> (bool, String) {
    (image.tag.is_none(), image.name())
}

/// The repository of an image's full name, and the place of the image in it.
fn cursor(name: &str) -> Option<(Repository, (bool, String))> {
    let (path, has_tag) = match name.split_once('@') {
        Some((path, _)) => (path, false),
        None => (name.rsplit_once(':')?.0, true),
    };
    Some((repository(path)?, (!has_tag, name.to_owned())))
}

/// A repository by its full name, as lists print it.
pub(super) fn repository(full_name: &str) -> Option<Repository> {
    match full_name.split_once('/') {
        Some((upstream, name)) if is_registry(upstream) => {
            Some(Repository { upstream: upstream.into(), name: name.parse().ok()? })
        }
        _ => Some(Repository::hosted(full_name.parse().ok()?)),
    }
}

/// A page of repositories in the order of their names, and after what the next begins.
pub(super) fn repositories<'a>(
    reading: &'a Reading<'_>,
    registry: Option<&str>,
    pattern: &str,
    most: usize,
    last: Option<&str>,
) -> Result<(Vec<&'a Repository>, Option<String>), ()> {
    let last = last.map(|last| repository(last).ok_or(())).transpose()?;
    let mut wanted = reading.repositories(last.as_ref()).filter(|it| {
        last.as_ref() != Some(*it)
            && registry.is_none_or(|registry| *it.upstream == *registry)
            && is_wanted(pattern, &it.full_name())
    });
    let page: Vec<&Repository> = wanted.by_ref().take(most).collect();
    let next = wanted.next().and(page.last()).map(|last| last.full_name());
    Ok((page, next))
}

/// Objects of one image that are named in an answer.
const MOST_OBJECTS: usize = 10_000;

/// What an image needs besides its manifest, each object once, and its bytes when it is here: what its manifest names, then what those name.
pub(super) fn objects(reading: &Reading<'_>, digest: &Digest) -> Vec<(Child, Option<u64>)> {
    let (mut seen, mut found) = (HashSet::from([digest.clone()]), reading.objects(digest));
    found.retain(|(child, _)| seen.insert(child.digest.clone()));
    let mut at = 0;
    while let Some((child, _)) = found.get(at).filter(|_| found.len() < MOST_OBJECTS) {
        let mut of_child = if child.is_manifest { reading.objects(&child.digest) } else { Vec::new() };
        of_child.retain(|(child, _)| seen.insert(child.digest.clone()));
        found.extend(of_child);
        at += 1;
    }
    found.truncate(MOST_OBJECTS);
    found
}

/// The image of a name.
pub(super) fn one(reading: &Reading<'_>, repository: &Repository, reference: &Reference) -> Option<Image> {
    let is_meant = |image: &Image| match reference {
        Reference::Tag(tag) => image.tag.as_ref() == Some(tag),
        Reference::Digest(digest) => image.digest == *digest,
    };
    reading.images_of(repository).into_iter().find(is_meant)
}
