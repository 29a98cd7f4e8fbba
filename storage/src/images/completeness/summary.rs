//! Registries and repositories: how many images each has, and how many bytes.

use std::collections::HashSet;

use super::{Reading, Summary};
use crate::{cache::Repository, oci::Digest};

impl Reading<'_> {
    /// The repositories from this one on that have an image, by upstream and name in byte order.
    pub fn repositories(&self, from: Option<&Repository>) -> impl Iterator<Item = &Repository> {
        self.state.repositories(from).filter(|repository| self.state.has_images(repository))
    }

    /// What these repositories have together.
    pub fn summary<'a>(&self, repositories: impl IntoIterator<Item = &'a Repository>) -> Summary {
        let (mut summary, mut roots): (Summary, HashSet<Digest>) = Default::default();
        for repository in repositories {
            let images = self.state.images(repository);
            summary.repositories += 1;
            summary.images += images.len() as u64;
            roots.extend(images.into_iter().map(|image| image.digest));
        }
        summary.bytes = self.stored(&self.state.reach(&roots));
        summary
    }
}
