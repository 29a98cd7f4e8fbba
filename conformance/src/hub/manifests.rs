//! Manifests: negotiated by `Accept` as Hub does, and counted when they are got (end-3).

use std::time::Instant;

use super::content::{Content, digest};
use super::exchange::Exchange;
use super::fault::{Stage, What};
use super::image::{Manifest, Media};
use super::log::Kind;
use super::requester::{Requester, out_of_pulls, with_limit};
use super::response::{Body, Response};
use super::settings::Settings;
use super::shared::Shared;
use super::store::Repository;

pub(super) fn answer(shared: &Shared, exchange: &Exchange, settings: &Settings, requester: &Requester) -> Response {
    let store = shared.store.read().unwrap();
    let Some(repository) = store.get(&exchange.repository) else { return unknown() };
    // A GET is refused before anyone looks whether there is such a manifest; a HEAD never is.
    let limit = requester.limit.filter(|_| !repository.exempt);
    let requester = Requester { limit, ..requester.clone() };
    let get = exchange.kind == Kind::ManifestGet;
    if get
        && let Some(limit) = limit
        && shared.pulls.remaining(&requester.source, limit, Instant::now()) <= 0
    {
        return out_of_pulls(&requester, None);
    }
    let Some(manifest) = negotiate(repository, exchange, !settings.referrers) else { return unknown() };
    let mut remaining = None;
    if get && let Some(limit) = limit {
        match shared.pulls.spend(&requester.source, limit, Instant::now()) {
            Ok(left) => remaining = Some(left),
            Err(_) => return out_of_pulls(&requester, None),
        }
    }
    let mut answer = found(exchange, &manifest);
    answer.counted = get && !repository.exempt;
    if !repository.exempt {
        with_limit(shared, &mut answer, &requester, remaining);
    }
    match shared.faults.strike(Stage::Head, exchange.asked()) {
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

fn found(exchange: &Exchange, manifest: &Manifest) -> Response {
    let etag = format!("\"{}\"", manifest.digest);
    // A conditional GET that finds nothing new is counted all the same.
    let unchanged = exchange.request.header("if-none-match").is_some_and(|tags| tags.contains(&etag));
    let mut answer = Response::new(if unchanged { 304 } else { 200 });
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
fn negotiate(repository: &Repository, exchange: &Exchange, fallback: bool) -> Option<Manifest> {
    let manifest = repository.manifest(&exchange.reference, fallback)?;
    let index = [Media::Oci.index(), Media::Docker.index()].contains(&manifest.media_type.as_str());
    let by_digest = exchange.reference.contains(':');
    if index && !by_digest && !accepts_an_index(exchange) { repository.amd64(&manifest) } else { Some(manifest) }
}

/// `*/*` does not count, as in the code that Hub grew from.
fn accepts_an_index(exchange: &Exchange) -> bool {
    let accepted = exchange.request.headers.iter().filter(|(name, _)| name == "accept");
    accepted
        .flat_map(|(_, value)| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| range == Media::Oci.index() || range == Media::Docker.index())
}

fn unknown() -> Response {
    Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
}
