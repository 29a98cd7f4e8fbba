//! end-5, end-6, end-13 and end-14: a blob in many pieces, in order or not at all; how far it is; and how it is given up.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::{sha256, sha512},
    server::{blob, by, chunk, closing, location, ranged, uploads},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Body, Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("a chunk is 202, with where to go on and what is here", "end-5 MUST", one),
    check!("chunks in order, ended by a PUT without a body", "end-5 MUST", in_order),
    check!("chunks in order, the last of them in the PUT", "end-6 MUST", last_in_put),
    check!("a body of unknown length in one PATCH", "end-5 SHOULD", streamed),
    check!("sha512 that is known only when the upload ends", "end-6 SHOULD", late_sha512),
    check!("a chunk that leaves a gap is 416", "end-5 MUST", gap),
    check!("a chunk that comes twice is 416", "end-5 MUST", twice),
    check!("a first chunk that does not begin at 0 is 416", "end-5 MUST", not_at_zero),
    check!("after 416 the session lives: its status is told, and it goes on", "end-5 MUST", goes_on),
    check!("a last chunk out of order is 416 by PUT, and the session lives", "end-6 MUST", put_out_of_order),
    check!("chunks of another digest are 400, and nothing is kept", "end-6 SHOULD", mismatch),
    check!("a chunk for a session that never was is 404", "end-5 MUST", unknown),
    check!("the status of an upload: 204, where it goes on, what is here", "end-13 MUST", status),
    check!("the status of a new upload is 204 and where it goes on", "end-13 MUST", fresh_status),
    check!("the status of a session that never was is 404", "end-13 MUST", unknown_status),
    check!("an upload is given up: 204, and it is gone", "end-14 SHOULD", cancelled),
    check!("giving up a session that never was is 404 or 400", "end-14 MUST", unknown_cancelled),
];

const PIECE: usize = 10_000;

/// Large enough for the least chunk that a registry may ask for.
async fn begin(registry: &Registry, repository: &str) -> Result<(String, usize), Failure> {
    let answer = registry.want(&[202], Request::new("POST", uploads(repository)).body("")).await?;
    let least = answer.head.header("oci-chunk-min-length").and_then(|value| value.parse().ok());
    Ok((location(&answer)?, least.unwrap_or(PIECE).max(PIECE)))
}

/// `Range: 0-<end>`.
fn ends_at(answer: &Response, end: usize) -> Result<(), Failure> {
    let said = answer.head.header("range");
    ensure!(said == Some(&format!("0-{end}")), "Range {said:?}, wanted 0-{end}");
    Ok(())
}

async fn is(registry: &Registry, repository: &str, bytes: &[u8]) -> Outcome {
    let pulled = registry.want(&[200], blob(repository, &sha256(bytes))).await?;
    ensure!(pulled.complete() && pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok(format!("{} bytes", bytes.len()))
}

/// An upload that holds one chunk: where it goes on, its first piece, and another one.
async fn begun(registry: &Registry, repository: &str) -> Result<(String, Vec<u8>, Vec<u8>), Failure> {
    let (at, piece) = begin(registry, repository).await?;
    let (first, second) = (registry.bytes(piece), registry.bytes(piece));
    let answer = registry.want(&[202], chunk(&at, 0, &first)).await?;
    Ok((location(&answer)?, first, second))
}

async fn one(registry: Arc<Registry>) -> Outcome {
    let (at, piece) = begin(&registry, &registry.repository()).await?;
    let answer = registry.want(&[202], chunk(&at, 0, &registry.bytes(piece))).await?;
    location(&answer)?;
    ends_at(&answer, piece - 1)?;
    Ok(format!("Range: 0-{}", piece - 1))
}

async fn in_order(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (mut at, piece) = begin(&registry, &repository).await?;
    let bytes = registry.bytes(piece * 3 - 5);
    for (number, part) in bytes.chunks(piece).enumerate() {
        let answer = registry.want(&[202], chunk(&at, number * piece, part)).await?;
        ends_at(&answer, number * piece + part.len() - 1)?;
        at = location(&answer)?;
    }
    let answer = registry.want(&[201], closing(&at, &sha256(&bytes)).body("")).await?;
    let pulled = registry.want(&[200], Request::get(location(&answer)?)).await?;
    ensure!(pulled.body == bytes, "the Location of 201 leads to {}", pulled.describe());
    is(&registry, &repository, &bytes).await
}

async fn last_in_put(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (at, first, second) = begun(&registry, &repository).await?;
    let bytes = [first.clone(), second.clone()].concat();
    registry.want(&[201], ranged(bare(closing(&at, &sha256(&bytes))), first.len(), &second)).await?;
    is(&registry, &repository, &bytes).await
}

/// Without the headers that [`ranged`] adds.
fn bare(request: Request) -> Request {
    Request { headers: Vec::new(), ..request }
}

async fn streamed(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(200_000));
    let at = registry.open(&repository).await?;
    let body = Body::Chunked(bytes.chunks(30_000).map(<[u8]>::to_vec).collect());
    let request = Request::new("PATCH", at).with("Content-Type", "application/octet-stream");
    let answer = registry.want(&[202], Request { body, ..request }).await?;
    ends_at(&answer, bytes.len() - 1)?;
    registry.want(&[201], closing(&location(&answer)?, &sha256(&bytes)).body("")).await?;
    is(&registry, &repository, &bytes).await
}

async fn late_sha512(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (at, first, second) = begun(&registry, &repository).await?;
    let at = location(&registry.want(&[202], chunk(&at, first.len(), &second)).await?)?;
    let bytes = [first, second].concat();
    let answer = registry.ask(closing(&at, &sha512(&bytes)).body("")).await?;
    if answer.status() == 400 {
        return Err(Failure::NotRun(format!("no sha512 here: {}", answer.describe())));
    }
    ensure!(answer.status() == 201, "{}", answer.describe());
    let pulled = registry.want(&[200], blob(&repository, &sha512(&bytes))).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok("201".into())
}

async fn gap(registry: Arc<Registry>) -> Outcome {
    let (at, first, second) = begun(&registry, &registry.repository()).await?;
    let answer = registry.want(&[416], chunk(&at, first.len() + 7, &second)).await?;
    Ok(answer.describe())
}

async fn twice(registry: Arc<Registry>) -> Outcome {
    let (at, first, _) = begun(&registry, &registry.repository()).await?;
    let answer = registry.want(&[416], chunk(&at, 0, &first)).await?;
    Ok(answer.describe())
}

async fn not_at_zero(registry: Arc<Registry>) -> Outcome {
    let (at, piece) = begin(&registry, &registry.repository()).await?;
    let answer = registry.want(&[416], chunk(&at, piece, &registry.bytes(piece))).await?;
    Ok(answer.describe())
}

/// Asks how far it is, and sends the rest.
async fn finish(registry: &Registry, repository: &str, at: &str, first: Vec<u8>, second: Vec<u8>) -> Outcome {
    let answer = registry.want(&[204], Request::get(at)).await?;
    ends_at(&answer, first.len() - 1)?;
    let answer = registry.want(&[202], chunk(&location(&answer)?, first.len(), &second)).await?;
    let bytes = [first, second].concat();
    registry.want(&[201], closing(&location(&answer)?, &sha256(&bytes)).body("")).await?;
    is(registry, repository, &bytes).await
}

async fn goes_on(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (at, first, second) = begun(&registry, &repository).await?;
    registry.want(&[416], chunk(&at, first.len() + 1, &second)).await?;
    finish(&registry, &repository, &at, first, second).await
}

async fn put_out_of_order(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (at, first, second) = begun(&registry, &repository).await?;
    let digest = sha256(&[&*first, &*second].concat());
    registry.want(&[416], ranged(bare(closing(&at, &digest)), first.len() + 1, &second)).await?;
    finish(&registry, &repository, &at, first, second).await
}

async fn mismatch(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (at, ..) = begun(&registry, &repository).await?;
    let other = sha256(&registry.bytes(10));
    registry.want(&[400], closing(&at, &other).body("")).await?;
    registry.want(&[404], by("HEAD", blob(&repository, &other))).await?;
    Ok("400, nothing kept".into())
}

/// Like one of this registry's, where it is told by its last part alone; else a path that nobody was given.
async fn never_was(registry: &Registry) -> Result<String, Failure> {
    let repository = registry.repository();
    registry.open(&repository).await?;
    Ok(format!("{}11111111-2222-4333-8444-555555555555", uploads(&repository)))
}

async fn unknown(registry: Arc<Registry>) -> Outcome {
    let at = never_was(&registry).await?;
    let answer = registry.want(&[404], chunk(&at, 0, &registry.bytes(PIECE))).await?;
    Ok(answer.describe())
}

async fn status(registry: Arc<Registry>) -> Outcome {
    let (at, first, _) = begun(&registry, &registry.repository()).await?;
    let answer = registry.want(&[204], Request::get(at)).await?;
    location(&answer)?;
    ends_at(&answer, first.len() - 1)?;
    Ok(format!("Range: 0-{}", first.len() - 1))
}

async fn fresh_status(registry: Arc<Registry>) -> Outcome {
    let at = registry.open(&registry.repository()).await?;
    let answer = registry.want(&[204], Request::get(at)).await?;
    location(&answer)?;
    Ok(format!("Range: {}", answer.head.header("range").unwrap_or("none")))
}

async fn unknown_status(registry: Arc<Registry>) -> Outcome {
    let answer = registry.want(&[404], Request::get(never_was(&registry).await?)).await?;
    Ok(answer.describe())
}

async fn cancelled(registry: Arc<Registry>) -> Outcome {
    let (at, ..) = begun(&registry, &registry.repository()).await?;
    registry.want(&[204], Request::new("DELETE", &*at).body("")).await?;
    registry.want(&[404], Request::get(at)).await?;
    Ok("204, then 404".into())
}

async fn unknown_cancelled(registry: Arc<Registry>) -> Outcome {
    let at = never_was(&registry).await?;
    let answer = registry.want(&[404, 400], Request::new("DELETE", at).body("")).await?;
    Ok(answer.describe())
}
