//! Archives of what is cached, out of this Weir and into it.

use std::{
    convert::Infallible,
    fmt::Display,
    pin::pin,
    time::{Duration, SystemTime},
};

use actix_web::{
    HttpResponse,
    web::{self, Bytes},
};
use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use super::{
    authorize::Authorized,
    cache::only,
    changes::{LONGEST, Refusal},
    images::flag,
    json::{parameter, refuse, reply},
    name::{cached, named, split},
    state::State,
};
use crate::{
    limits::audit::{AdminEvent, Event},
    mirror::{ArchiveError, ExportError, ExportRequest, ImportError, ImportTarget, StoreError, Wanted},
    oci::Reference,
    route::{Routes, is_registry},
};

/// Pieces of an archive that may wait for the disk. actix's have up to 64 KiB.
const WAITING: usize = 16;
/// An archive of which nothing comes for so long has been given up. Longer than any pause of a tape that it is read from.
const STALL: Duration = Duration::from_secs(60);
/// What is written for names in the audit, in bytes.
const LONGEST_SELECTION: usize = 1000;

/// The parameters of an export.
fn export_request(state: &State, query: &str) -> Result<ExportRequest, Box<HttpResponse>> {
    only(query, &["name", "platform", "since", "format", "private", "reason"])?;
    let refused = |why: &str| Err(Box::new(refuse(400, "INVALID", why)));
    let private = flag(query, "private").map_err(|why| Box::new(refuse(400, "INVALID", &why)))?;
    let mut request = ExportRequest { private: private.unwrap_or(false), ..ExportRequest::default() };
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "name" => {
                let wanted = wanted(state, &value).map_err(|why| Box::new(refuse(400, "NAME_INVALID", &why)))?;
                request.wanted.push((value.into_owned(), wanted));
            }
            "platform" => request.platforms.extend(value.split(',').map(|platform| platform.trim().to_owned())),
            _ => {}
        }
    }
    if request.wanted.is_empty() {
        return refused(
            "name what is to be exported: ?name=docker.io/library/busybox:1.36, or a pattern such as docker.io/acme/*",
        );
    }
    if request.platforms.iter().any(|platform| !platform.contains('/')) {
        return refused("write platforms as linux/amd64,linux/arm64");
    }
    match parameter(query, "since").map(|since| humantime::parse_rfc3339(&since)) {
        Some(Err(_)) => return refused("write since as 2026-11-29T12:00:00Z"),
        Some(Ok(since)) => request.since = Some(since),
        None => {}
    }
    match parameter(query, "format").as_deref() {
        None | Some("oci") => {}
        Some("docker-archive") => request.docker = true,
        Some(_) => return refused("format is oci or docker-archive"),
    }
    if request.docker && request.since.is_some() {
        return refused("docker load needs every layer: leave out since, or write format oci");
    }
    Ok(request)
}

/// What a name stands for.
fn wanted(state: &State, text: &str) -> Result<Wanted, String> {
    if text.contains('*') {
        return Ok(Wanted::Pattern(text.to_owned()));
    }
    let (repository, reference) = split(text);
    let repository = cached(&state.settings.routes.load(), repository).map_err(|why| format!("{text}: {why}"))?;
    if repository.is_hosted() {
        return Err(format!(
            "{text} is hosted here, and an export is of the cache; copy it with skopeo copy or crane pull"
        ));
    }
    match reference.map(str::parse) {
        None => Ok(Wanted::Repository(repository)),
        Some(Ok(reference)) => Ok(Wanted::Image(repository, reference)),
        Some(Err(_)) => Err(format!("{text}: this ends in neither a tag nor a digest")),
    }
}

/// Sends the archive. A refusal is an answer; what fails later ends the archive early.
pub(super) async fn export(state: &State, authorized: &Authorized, query: &str) -> HttpResponse {
    let request = match export_request(state, query) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let reason = parameter(query, "reason").unwrap_or_default();
    if reason.len() > LONGEST {
        return refuse(400, "INVALID", "write a reason of at most 500 bytes");
    }
    let mut export = match state.mirror.exports.begin(&request).await {
        Ok(export) => export,
        Err(error) => return refused(error),
    };
    let names: Vec<&str> = request.wanted.iter().map(|(name, _)| &**name).collect();
    let selection = selection(&names);
    let event = AdminEvent::Exported { selection, images: export.images.len() as u64, bytes: export.length, reason };
    state.limits.record_event(&authorized.operator, Event::Admin(event), SystemTime::now());
    let length = export.length;
    let pieces = stream::poll_fn(move |cx| export.pieces.poll_recv(cx).map(|piece| piece.map(Ok::<_, Infallible>)));
    HttpResponse::Ok()
        .content_type("application/x-tar")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Content-Disposition", "attachment; filename=\"images.tar\""))
        .no_chunking(length)
        .streaming(pieces)
}

/// Takes an archive in. The body is handed on piece by piece: what is not written yet waits at the client.
pub(super) async fn import(state: &State, authorized: &Authorized, query: &str, payload: web::Payload) -> HttpResponse {
    if let Err(refusal) = only(query, &["name", "reason"]) {
        return *refusal;
    }
    let (name, reason) = (parameter(query, "name"), parameter(query, "reason").unwrap_or_default());
    if reason.len() > LONGEST {
        return refuse(400, "INVALID", "write a reason of at most 500 bytes");
    }
    let (routes, limits) = (state.settings.routes.get(), state.limits.clone());
    let resolve = move |name: &str| {
        let place = target(&routes, name)?;
        match limits.config().repositories.refuse(&place.upstream, &place.repository) {
            Some(sentence) => Err(sentence),
            None => Ok(place),
        }
    };
    let (to, pieces) = mpsc::channel(WAITING);
    let feed = async move {
        feed(payload, to, STALL).await;
        // The end of the archive; the import answers.
        std::future::pending::<()>().await;
    };
    let run = state.mirror.imports.run(pieces, name, authorized.operator.name.clone(), Box::new(resolve));
    let imported = tokio::select! {
        imported = run => imported,
        () = feed => return refuse(500, "UNKNOWN", "the import ended without an answer"),
    };
    match imported {
        Ok(imported) => {
            let names: Vec<&str> = imported.images.iter().map(|image| &*image.name).collect();
            let refused = imported.images.iter().filter(|image| !image.imported).count() as u64;
            let event = AdminEvent::Imported {
                selection: selection(&names),
                images: names.len() as u64 - refused,
                refused,
                reason,
            };
            state.limits.record_event(&authorized.operator, Event::Admin(event), SystemTime::now());
            reply(200, &json!(imported))
        }
        Err(error) => not_imported(error),
    }
}

/// Hands a body on until it ends, breaks off, or sends nothing for so long. Why it broke off comes last.
async fn feed<E: Display>(
    payload: impl Stream<Item = Result<Bytes, E>>,
    to: mpsc::Sender<Result<Bytes, String>>,
    stall: Duration,
) {
    let mut payload = pin!(payload);
    loop {
        let piece = match timeout(stall, payload.next()).await {
            Ok(Some(Ok(piece))) => Ok(piece),
            Ok(Some(Err(error))) => Err(error.to_string()),
            Ok(None) => return,
            Err(_) => Err(format!("nothing came for {} s", stall.as_secs())),
        };
        let is_last = piece.is_err();
        if to.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// Where an image belongs by its full name.
fn target(routes: &Routes, name: &str) -> Result<ImportTarget, String> {
    let (repository, reference) = split(name);
    let Some(reference) = reference.and_then(|reference| reference.parse::<Reference>().ok()) else {
        return Err(format!("{name:?} is no full name of an image; that is such as docker.io/library/busybox:1.36"));
    };
    let place = named(routes, repository).map_err(|why| match repository.split_once('/') {
        Some((registry, _)) if is_registry(registry) && routes.upstream(registry).is_none() => format!(
            "no upstream of this name is configured here; add [[upstream]] with name = {registry:?} and import it again"
        ),
        _ => why.to_owned(),
    })?;
    Ok(ImportTarget { upstream: place.upstream, repository: place.repository, reference })
}

fn not_imported(error: ImportError) -> HttpResponse {
    match error {
        ImportError::Archive(ArchiveError::Store(StoreError::Full { needed })) => {
            let why = format!(
                "no room for {needed} bytes: raise storage.capacity, unpin or purge images, or import in parts; nothing was imported"
            );
            refuse(507, "SIZE_INVALID", &why)
        }
        ImportError::Archive(ArchiveError::Store(error)) => failure(error),
        ImportError::Busy => refuse(503, "UNAVAILABLE", &error.to_string()),
        ImportError::Archive(_) => refuse(400, "INVALID", &error.to_string()),
    }
}

/// Names as the audit has them.
fn selection(names: &[&str]) -> String {
    let mut selection = String::new();
    for name in names {
        if selection.len() + name.len() > LONGEST_SELECTION {
            return selection + " …";
        }
        selection += if selection.is_empty() { "" } else { " " };
        selection += name;
    }
    selection
}

fn failure(error: StoreError) -> HttpResponse {
    let refusal = Refusal::from(error);
    refuse(refusal.status, refusal.code, &refusal.sentence)
}

fn refused(error: ExportError) -> HttpResponse {
    match error {
        ExportError::Busy => refuse(503, "UNAVAILABLE", &error.to_string()),
        ExportError::Unknown(_) => refuse(404, "MANIFEST_UNKNOWN", &error.to_string()),
        ExportError::Private { .. } => refuse(403, "DENIED", &error.to_string()),
        ExportError::Incomplete { .. } | ExportError::Unfit(_) => refuse(409, "DENIED", &error.to_string()),
        ExportError::Store(error) => failure(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an import gets of a body.
    async fn fed(
        payload: impl Stream<Item = Result<Bytes, &'static str>>,
        stall: Duration,
    ) -> Vec<Result<Bytes, String>> {
        let (to, mut pieces) = mpsc::channel(WAITING);
        feed(payload, to, stall).await;
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.push(piece);
        }
        all
    }

    #[tokio::test]
    async fn an_archive_of_which_nothing_more_comes_is_given_up_and_says_so() {
        let first = || stream::iter([Ok(Bytes::from_static(b"first"))]);
        let said = |why: &str| vec![Ok(Bytes::from_static(b"first")), Err(why.to_owned())];
        let never = first().chain(stream::pending());
        assert_eq!(fed(never, Duration::from_millis(1)).await, said("nothing came for 0 s"));
        let broken = first().chain(stream::iter([Err("the connection broke"), Ok(Bytes::from_static(b"more"))]));
        assert_eq!(fed(broken, STALL).await, said("the connection broke"));
        assert_eq!(fed(first(), STALL).await, said("")[..1]);
    }
}
