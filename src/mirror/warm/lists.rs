//! Lists of images that need not be written down: what is pinned, and what clients pulled lately.

use std::{cmp::Reverse, collections::HashSet, time::SystemTime};

use weir_storage::{Image, Images};

use super::{job::Wanted, jobs::MOST_IMAGES};
use crate::{oci::Reference, route::Routes};

/// The images that pins name, and those that are cached of what their patterns cover. What a pin names that is no image with a tag or a
/// digest, such as a repository, is its cached images.
pub(super) fn pinned(images: &Images, routes: &Routes) -> Vec<Wanted> {
    let pins = images.pins();
    let named = pins.iter().filter(|pin| !pin.pattern.contains(['*', '['])).filter_map(|pin| {
        let has_reference = pin.pattern.contains('@') || pin.pattern.rsplit('/').next()?.contains(':');
        let (place, reference) = routes.image(&pin.pattern).ok().filter(|_| has_reference)?;
        Some(Wanted { upstream: place.upstream, repository: place.repository, reference })
    });
    let mut wanted: Vec<Wanted> = named.collect();
    wanted.extend(images.covered(&pins).into_iter().map(of));
    let mut seen = HashSet::new();
    wanted.retain(|image| seen.insert(image.clone()));
    wanted
}

/// The mirrored images that clients pulled at this time or later, as many as one warm takes: those that were pulled last.
pub(super) fn pulled(images: &Images, since: SystemTime) -> Vec<Wanted> {
    let mut pulled = images.pulled_since(since);
    if pulled.len() > MOST_IMAGES {
        pulled.sort_by_cached_key(|image| Reverse(images.pulled(image).map(|pulled| pulled.last)));
        pulled.truncate(MOST_IMAGES);
    }
    pulled.into_iter().map(of).collect()
}

fn of(image: Image) -> Wanted {
    let reference = image.tag.map_or(Reference::Digest(image.digest), Reference::Tag);
    Wanted { upstream: image.repository.upstream, repository: image.repository.name, reference }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use weir_storage::{Puller, Repository, Settings, Source, Store, TagRecord};

    use super::*;
    use crate::oci::{Algorithm, Tag};

    /// A store in which a client pulled each of these tags at so many seconds after 1970, as the record has it.
    async fn pulled_store(root: &std::path::Path, pulls: impl IntoIterator<Item = (String, u64)>) -> Store {
        let store = Store::open(Settings { root: root.to_owned(), ..Settings::default() }).unwrap();
        while !store.images.is_complete() {
            tokio::task::yield_now().await;
        }
        let source = Source {
            upstream: "docker.io".into(),
            credential: Source::ANONYMOUS.into(),
            repository: "acme/app".parse().unwrap(),
        };
        let record = TagRecord {
            digest: Algorithm::Sha256.digest(b""),
            media_type: "application/vnd.oci.image.index.v1+json".parse().unwrap(),
            size: 0,
            checked_at: UNIX_EPOCH,
        };
        for (tag, at) in pulls {
            let tag: Tag = tag.parse().unwrap();
            store.cache.tags.put(&source, &tag, &record).await.unwrap();
            let at = UNIX_EPOCH + Duration::from_secs(at);
            store.images.note_pull(Repository::from(&source), Reference::Tag(tag), &Puller::Address(1), at);
        }
        // Takes what was noted into the record.
        store.close().await;
        store
    }

    #[tokio::test]
    async fn of_more_pulled_images_than_a_warm_takes_the_last_ones_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let most = MOST_IMAGES as u64;
        // In the order of their names, the one that was pulled last comes last.
        let pulls = (0..=most).map(|number| (format!("v{number:05}"), 1 + number));
        let store = pulled_store(root.path(), pulls).await;
        let all = pulled(&store.images, UNIX_EPOCH);
        let has = |number: u64| all.iter().any(|image| image.reference.to_string() == format!("v{number:05}"));
        assert_eq!((all.len(), has(0), has(1), has(most)), (MOST_IMAGES, false, true, true));
        let late = UNIX_EPOCH + Duration::from_secs(most);
        assert_eq!(pulled(&store.images, late).len(), 2);
    }
}
