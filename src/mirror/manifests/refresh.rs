//! Refreshing a tag: upstream is asked at once, be the tag fresh or not, and what it names is fetched when it moved.

use std::{collections::HashSet, sync::Arc};

use super::Manifests;
use crate::{
    clock,
    mirror::{
        error::Error,
        lookup::{Lookup, Object},
        refreshed::Refreshed,
    },
    oci::{Digest, Reference, Tag},
    upstream::ledger::Reason,
};

impl Manifests {
    /// Asks upstream what a tag names now. When that changed, its manifest is fetched, and with an index the manifests of the
    /// platforms of which the old one had something here; the layers come with the next pull. A tag that is gone upstream is
    /// forgotten as an expired one is.
    ///
    /// # Errors
    /// As [`Manifests::get`], but no stale answer stands in.
    pub async fn refresh(self: &Arc<Self>, lookup: &Lookup, tag: &Tag) -> Result<Refreshed, Error> {
        let before = self.tags.load(lookup, tag).await?.map(|(_, record)| record.digest);
        let wanted = before.as_ref().map(|digest| self.platforms_here(digest)).unwrap_or_default();
        let key = lookup.key(Object::Revalidation(tag.clone()));
        let (manifests, owned, name) = (self.clone(), lookup.clone(), tag.clone());
        let work = move |waiters| {
            let (manifests, owned, name) = (manifests.clone(), owned.clone(), name.clone());
            async move {
                let resolution = manifests.tags.resolve(&owned, &name).await?;
                manifests.fetch_named(&owned, &name, resolution, &waiters).await
            }
        };
        let answer = match self.flights.coalesce(&key, lookup, work).await {
            Ok(answer) => answer,
            Err(error) => {
                // Whatever stands in for a client, the operator is told what upstream said.
                self.tags.stale(lookup, tag, &error, clock::now()).await?;
                return Err(error);
            }
        };
        self.negative.forget(&lookup.key(Object::Manifest(Reference::Tag(tag.clone()))));
        let mut refreshed = Refreshed { before, digest: answer.manifest.digest.clone(), platforms: 0 };
        if refreshed.before.as_ref() != Some(&refreshed.digest) {
            let children = answer.manifest.describe().map(|description| description.children).unwrap_or_default();
            for child in children.iter().filter(|child| child.is_manifest) {
                if child.platform.as_ref().is_some_and(|platform| wanted.contains(platform)) {
                    self.by_digest(lookup, &child.digest, Reason::Changed, false).await?;
                    refreshed.platforms += 1;
                }
            }
        }
        Ok(refreshed)
    }

    /// The platforms of an index of which something is here. No system call.
    fn platforms_here(&self, index: &Digest) -> HashSet<Box<str>> {
        let platforms = self.sources.store.images.read().completeness(index).platforms;
        platforms.into_iter().filter(|platform| platform.here > 0).filter_map(|platform| platform.platform).collect()
    }
}
