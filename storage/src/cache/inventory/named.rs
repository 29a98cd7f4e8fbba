//! Images by their names: those of a repository, and the repositories that a name or the start of one can mean.

use std::{
    collections::HashSet,
    fmt::{Display, Write as _},
    ops::Bound,
    sync::Arc,
};

use foldhash::quality::RandomState;

use super::{Image, Repository, State};
use crate::oci::{Digest, Name};

/// The least name that a repository can have.
const LEAST: &str = "0";

impl State {
    /// As [`State::images`], those whose names and manifests are wanted; of the others no more than the name is made.
    pub(crate) fn images_wanted(
        &self,
        repository: &Repository,
        wanted: Option<&dyn Fn(&str) -> bool>,
        wanted_manifest: Option<&dyn Fn(&Digest) -> bool>,
    ) -> Vec<Image> {
        let Some(contents) = self.repositories.get(repository) else { return Vec::new() };
        let image = |credential: &Arc<str>, tag, digest: &Digest, checked_at| Image {
            repository: repository.clone(),
            credential: credential.clone(),
            tag,
            digest: digest.clone(),
            checked_at,
        };
        let mut name = repository.full_name();
        let path = name.len();
        let mut is_wanted = |mark: char, reference: &dyn Display| {
            wanted.is_none_or(|wanted| {
                name.truncate(path);
                // Writing into memory does not fail.
                let _ = write!(name, "{mark}{reference}");
                wanted(&name)
            })
        };
        let names_wanted = |digest: &Digest| wanted_manifest.is_none_or(|wanted| wanted(digest));
        let mut images: Vec<Image> = Vec::new();
        for ((tag, credential), (digest, checked_at)) in &contents.tags {
            if is_wanted(':', tag) && names_wanted(digest) {
                images.push(image(credential, Some(tag.clone()), digest, Some(*checked_at)));
            }
        }
        // To find out which have no tag costs as much again as all of the above.
        if !contents.manifests.iter().any(|(digest, _)| names_wanted(digest)) {
            return images;
        }
        let tagged: HashSet<&Digest, RandomState> = contents.tags.values().map(|(digest, _)| digest).collect();
        let mut untagged: Vec<_> = contents.manifests.iter().filter(|(digest, _)| !tagged.contains(digest)).collect();
        untagged.retain(|(digest, _)| self.children(digest).is_some());
        if untagged.is_empty() {
            return images;
        }
        // An index hides its manifests, and theirs, be it tagged or not.
        let mut reached = self.manifests_below(tagged);
        untagged.retain(|(digest, _)| !reached.contains(digest));
        reached.extend(self.manifests_below(untagged.iter().flat_map(|(digest, _)| self.child_manifests(digest))));
        // What is not wanted hides what is below it all the same.
        let is_shown = |digest: &Digest| !reached.contains(digest) && names_wanted(digest);
        let shown = untagged.into_iter().filter(|(digest, _)| is_shown(digest) && is_wanted('@', digest));
        images.extend(shown.map(|(digest, credential)| image(credential, None, digest, None)));
        images
    }

    /// The mirrored repositories of which an image can have a full name that begins with `start`; when `whole`, one that is `start`, or that
    /// has `start` for its repository. The others are not looked at, unless `start` ends within the name of a registry.
    pub(crate) fn repositories_named<'a>(
        &'a self,
        start: &'a str,
        whole: bool,
    ) -> Box<dyn Iterator<Item = &'a Repository> + 'a> {
        let Some((upstream, path)) = start.split_once('/') else {
            return match whole {
                true => Box::new(std::iter::empty()),
                false => Box::new(self.repositories(None).filter(|repository| !repository.is_hosted())),
            };
        };
        let place = |name: &str| Some(Repository { upstream: upstream.into(), name: name.parse().ok()? });
        let end = path.find([':', '@']);
        if whole || end.is_some() {
            let one = place(&path[..end.unwrap_or(path.len())]);
            let one = one.and_then(|one| self.repositories.get_key_value(&one));
            return Box::new(one.map(|(repository, _)| repository).into_iter());
        }
        // The start of a name ends with a letter or a digit where it is a name itself; none is less than this one.
        let trimmed = path.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
        let Some(from) = place(if trimmed.is_empty() { LEAST } else { trimmed }) else {
            return Box::new(std::iter::empty());
        };
        let begins = move |name: &Name| name.as_str().starts_with(path);
        let later =
            self.repositories.range((Bound::Included(from), Bound::Unbounded)).map(|(repository, _)| repository);
        let later =
            later.take_while(move |it| *it.upstream == *upstream && (it.name.as_str() < path || begins(&it.name)));
        Box::new(later.filter(move |it| begins(&it.name)))
    }
}
