//! Manifests: negotiated by `Accept` as Hub does, and counted when they are got (end-3).

use std::time::Instant;

use super::answer::{Answer, Body};
use super::content::{Content, digest};
use super::exchange::Ask;
use super::fault::{Stage, What};
use super::image::{Manifest, Media};
use super::log::Kind;
use super::registry::{Visitor, with_limit};
use super::settings::Settings;
use super::shared::Shared;
use super::store::Repository;

pub(super) fn answer(shared: &Shared, ask: &Ask, settings: &Settings, visitor: &Visitor) -> Answer {
    let store = shared.store.read().unwrap();
    let Some(repository) = store.get(&ask.repository) else { return unknown() };
    // A GET is refused before anyone looks whether there is such a manifest; a HEAD never is.
    let limit = visitor.limit.filter(|_| !repository.exempt);
    let visitor = Visitor { limit, ..visitor.clone() };
    let get = ask.kind == Kind::ManifestGet;
    if get
        && let Some(limit) = limit
        && shared.pulls.remaining(&visitor.source, limit, Instant::now()) <= 0
    {
        return out_of_pulls(&visitor, None);
    }
    let Some(manifest) = negotiate(repository, ask, !settings.referrers) else { return unknown() };
    let mut remaining = None;
    if get && let Some(limit) = limit {
        match shared.pulls.spend(&visitor.source, limit, Instant::now()) {
            Ok(left) => remaining = Some(left),
            Err(_) => return out_of_pulls(&visitor, None),
        }
    }
    let mut answer = found(ask, &manifest);
    answer.counted = get && !repository.exempt;
    if !repository.exempt {
        with_limit(shared, &mut answer, &visitor, remaining);
    }
    match shared.faults.strike(Stage::Head, ask.asked()) {
        Some(What::NoDigestHeader) => answer.set("Docker-Content-Digest", ""),
        Some(What::BadDigestHeader) => answer.set("Docker-Content-Digest", digest(b"another manifest")),
        Some(What::WrongDigest) => {
            if let Some(other) = repository.other_manifest(&manifest.digest) {
                answer.body = whole(other);
            }
        }
        _ => {}
    }
    answer
}

fn found(ask: &Ask, manifest: &Manifest) -> Answer {
    let etag = format!("\"{}\"", manifest.digest);
    // A conditional GET that finds nothing new is counted all the same.
    let unchanged = ask.request.header("if-none-match").is_some_and(|tags| tags.contains(&etag));
    let mut answer = Answer::new(if unchanged { 304 } else { 200 });
    if !unchanged {
        answer.body = whole(manifest);
        answer.set("Content-Type", manifest.media_type.as_str());
    }
    answer.with("Docker-Content-Digest", manifest.digest.as_str()).with("ETag", etag)
}

fn whole(manifest: &Manifest) -> Body {
    Body::Part { of: Content::Memory(manifest.bytes.clone()), start: 0, end: manifest.bytes.len() as u64 }
}

/// The manifest that is meant. Who names a tag and takes no index gets the linux/amd64 manifest, under its own digest.
fn negotiate(repository: &Repository, ask: &Ask, fallback: bool) -> Option<Manifest> {
    let manifest = repository.manifest(&ask.reference, fallback)?;
    let index = [Media::Oci.index(), Media::Docker.index()].contains(&manifest.media_type.as_str());
    let by_digest = ask.reference.contains(':');
    if index && !by_digest && !accepts_an_index(ask) { repository.amd64(&manifest) } else { Some(manifest) }
}

/// `*/*` does not count, as in the code that Hub grew from.
fn accepts_an_index(ask: &Ask) -> bool {
    let accepted = ask.request.headers.iter().filter(|(name, _)| name == "accept");
    accepted
        .flat_map(|(_, value)| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| range == Media::Oci.index() || range == Media::Docker.index())
}

fn unknown() -> Answer {
    Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
}

/// The pull limit's 429, in today's words.
pub(super) fn out_of_pulls(visitor: &Visitor, retry_after: Option<String>) -> Answer {
    let message = match visitor.account {
        None => "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
        Some(_) => {
            "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"
        }
    };
    let mut answer =
        Answer::error(429, "TOOMANYREQUESTS", message).with("Docker-RateLimit-Source", visitor.source.shown());
    answer.set("Retry-After", retry_after.unwrap_or_default());
    answer
}
