//! Registries and repositories: how many images each has, and how many bytes. What is much is counted beside the requests.

use std::{collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;

use super::{Reading, Seen, Summary};
use crate::{
    cache::{Image, Repository},
    oci::Digest,
};

/// What each registry and each repository had when all was last counted.
#[derive(Debug, Default)]
pub struct Summaries {
    /// The registries, and `hosted`, by name.
    pub registries: Vec<(Arc<str>, Summary)>,
    repositories: HashMap<Repository, Summary>,
}

impl Summaries {
    /// What a repository had; nothing when it is newer than the count.
    pub fn of(&self, repository: &Repository) -> Option<Summary> {
        self.repositories.get(repository).copied()
    }
}

impl Reading<'_> {
    /// The repositories from this one on that have an image, by upstream and name in byte order.
    pub fn repositories(&self, from: Option<&Repository>) -> impl Iterator<Item = &Repository> {
        self.state.repositories(from).filter(|repository| self.state.has_images(repository))
    }

    /// Counts all that is here. With a million objects it takes about half a second.
    pub(crate) fn summaries(&self) -> Summaries {
        let mut summaries = Summaries::default();
        let all: Vec<&Repository> = self.repositories(None).collect();
        for of_one in all.chunk_by(|one, other| one.upstream == other.upstream) {
            // A table that grows leaves all that it was before to the process.
            let mut seen = Seen::with_capacity_and_hasher(self.capacity.objects(), RandomState::default());
            let mut registry = Summary::default();
            for repository in of_one {
                let mut summary = Summary { repositories: 1, ..Summary::default() };
                let mut own = Seen::default();
                summary.images = self.reach_images(repository, &mut own);
                summary.bytes = self.stored(own.iter().copied());
                let new = own.into_iter().filter(|digest| seen.insert(*digest));
                registry.bytes += self.stored(new);
                registry.repositories += 1;
                registry.images += summary.images;
                summaries.repositories.insert((*repository).clone(), summary);
            }
            summaries.registries.push((of_one[0].upstream.clone(), registry));
        }
        summaries
    }

    /// Takes what the images of a repository reach, and gives how many they are.
    fn reach_images<'a>(&'a self, repository: &Repository, seen: &mut Seen<'a>) -> u64 {
        let images = self.state.images(repository);
        images.iter().for_each(|image| self.reach_image(image, seen));
        images.len() as u64
    }

    /// Takes what an image of the state reaches. No digest is copied: there may be a million.
    pub(in crate::images) fn reach_image<'a>(&'a self, image: &Image, seen: &mut Seen<'a>) {
        // What names an image is a key of the state, which outlives the list.
        let mut todo: Vec<&Digest> = self.state.known(&image.digest).into_iter().collect();
        while let Some(digest) = todo.pop() {
            if seen.insert(digest) {
                let children = self.state.children(digest).into_iter().flat_map(|children| children.iter());
                todo.extend(children.map(|child| &child.digest));
            }
        }
    }
}
