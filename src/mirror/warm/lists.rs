//! Lists of images that need not be written down: what is pinned, and what clients pulled lately.

use std::{collections::HashSet, time::SystemTime};

use weir_storage::{Image, Images};

use super::job::Wanted;
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
    let reading = images.read();
    let is_pinned = |image: &Image| !image.repository.is_hosted() && pins.iter().any(|pin| pin.covers(image));
    wanted.extend(reading.images(None).filter(is_pinned).map(of));
    let mut seen = HashSet::new();
    wanted.retain(|image| seen.insert(image.clone()));
    wanted
}

/// The mirrored images that clients pulled at this time or later.
pub(super) fn pulled(images: &Images, since: SystemTime) -> Vec<Wanted> {
    images.pulled_since(since).into_iter().map(of).collect()
}

fn of(image: Image) -> Wanted {
    let reference = image.tag.map_or(Reference::Digest(image.digest), Reference::Tag);
    Wanted { upstream: image.repository.upstream, repository: image.repository.name, reference }
}
