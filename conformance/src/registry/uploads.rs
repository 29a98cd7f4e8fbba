//! end-4 to end-6, end-11, end-13 and end-14: how a blob is pushed, what ends its session, and what is refused.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::{sha256, sha512},
    server::{blob, by, chunk, closing, location, uploads},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::Request,
};

pub(super) const CHECKS: &[Check] = &[
    check!("two uploads are two sessions", "end-4a MUST", two_sessions),
    check!("a chunk is 202, with where to go on and what is here", "end-5 MUST", chunked),
    check!("a session that has ended is 404", "end-6 MUST", ended),
    check!("a session that never was is 404, by PATCH, PUT and GET", "end-13 MUST", unknown),
    check!("bytes of another digest are 400, and nothing is kept", "end-6 SHOULD", mismatch),
    check!("a malformed digest, an unknown algorithm or no digest is 400", "end-6 SHOULD", malformed),
    check!("POST with a malformed digest is 400", "end-4b SHOULD", post_malformed),
    check!("POST that announces sha512, then chunks and PUT by it", "end-4c SHOULD", announced),
    check!("POST that announces an unknown algorithm is 400", "end-4c SHOULD", announced_unknown),
    check!("a mount leaves the source as it was", "end-11 MUST", mounted),
    check!("an upload is given up: 204, and it is gone", "end-14 SHOULD", cancelled),
    check!("giving up a session that never was is 404 or 400", "end-14 MUST", unknown_cancelled),
];

/// A chunk of this length, or of the least that a registry asks for.
const PIECE: usize = 10_000;

async fn two_sessions(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (one, two) = (registry.open(&repository).await?, registry.open(&repository).await?);
    ensure!(one != two, "both at {one}");
    let (first, second) = (registry.bytes(100), registry.bytes(200));
    registry.want(&[202], chunk(&one, 0, &first)).await?;
    registry.want(&[201], closing(&two, &sha256(&second)).body(&*second)).await?;
    registry.want(&[200], blob(&repository, &sha256(&second))).await?;
    Ok("one goes on, the other ends".into())
}

/// An upload that holds one chunk: where it goes on, and the chunk's length.
async fn begun(registry: &Registry, repository: &str) -> Result<(String, usize), Failure> {
    let answer = registry.want(&[202], Request::new("POST", uploads(repository)).body("")).await?;
    let least = answer.head.header("oci-chunk-min-length").and_then(|value| value.parse().ok());
    let length = least.unwrap_or(PIECE).max(PIECE);
    let answer = registry.want(&[202], chunk(&location(&answer)?, 0, &registry.bytes(length))).await?;
    let (said, wanted) = (answer.head.header("range"), format!("0-{}", length - 1));
    ensure!(said == Some(&wanted), "Range {said:?}, wanted {wanted}");
    Ok((location(&answer)?, length))
}

async fn chunked(registry: Arc<Registry>) -> Outcome {
    let (_, length) = begun(&registry, &registry.repository()).await?;
    Ok(format!("Range: 0-{}", length - 1))
}

async fn ended(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(100));
    let at = registry.open(&repository).await?;
    registry.want(&[201], closing(&at, &sha256(&bytes)).body(&*bytes)).await?;
    registry.want(&[404], Request::get(&*at)).await?;
    registry.want(&[404], closing(&at, &sha256(&bytes)).body(&*bytes)).await?;
    Ok("404".into())
}

/// Like a session of this registry, where its last part alone identifies it.
async fn never_was(registry: &Registry) -> Result<String, Failure> {
    let repository = registry.repository();
    registry.open(&repository).await?;
    Ok(format!("{}11111111-2222-4333-8444-555555555555", uploads(&repository)))
}

async fn unknown(registry: Arc<Registry>) -> Outcome {
    let (at, bytes) = (never_was(&registry).await?, registry.bytes(PIECE));
    for request in [chunk(&at, 0, &bytes), closing(&at, &sha256(&bytes)).body(&*bytes), Request::get(&*at)] {
        registry.want(&[404], request).await?;
    }
    Ok("404".into())
}

async fn mismatch(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(1000));
    for digest in [sha256(&registry.bytes(1000)), sha512(&registry.bytes(1000))] {
        let (whole, (chunked, _)) = (registry.open(&repository).await?, begun(&registry, &repository).await?);
        registry.want(&[400], closing(&whole, &digest).body(&*bytes)).await?;
        registry.want(&[400], closing(&chunked, &digest).body("")).await?;
        // 202: this registry takes no body with a POST, as it may.
        registry.want(&[400, 202], posting(&repository, &digest, &bytes)).await?;
        registry.want(&[404], by("HEAD", blob(&repository, &digest))).await?;
    }
    registry.want(&[404], by("HEAD", blob(&repository, &sha256(&bytes)))).await?;
    Ok("400, nothing kept".into())
}

async fn malformed(registry: Arc<Registry>) -> Outcome {
    let unknown = format!("rot13:{}", "ab".repeat(32));
    for digest in ["sha256:abc", "sha256:", "abc", &unknown] {
        let at = registry.open(&registry.repository()).await?;
        registry.want(&[400], closing(&at, digest).body("abc")).await?;
    }
    let at = registry.open(&registry.repository()).await?;
    let answer = registry.want(&[400], Request::new("PUT", at).body("abc")).await?;
    Ok(answer.describe())
}

fn posting(repository: &str, digest: &str, bytes: &[u8]) -> Request {
    let path = format!("{}?digest={digest}", uploads(repository));
    Request::new("POST", path).with("Content-Type", "application/octet-stream").body(bytes)
}

async fn post_malformed(registry: Arc<Registry>) -> Outcome {
    let answer = registry.want(&[400, 202], posting(&registry.repository(), "sha256:abc", b"abc")).await?;
    if answer.status() == 202 {
        return Err(Failure::NotRun("this registry wants a PUT, as it may".into()));
    }
    Ok(answer.describe())
}

async fn announced(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(2000));
    let request = Request::new("POST", format!("{}?digest-algorithm=sha512", uploads(&repository))).body("");
    let at = location(&registry.want(&[202], request).await?)?;
    let at = location(&registry.want(&[202], chunk(&at, 0, &bytes)).await?)?;
    let digest = sha512(&bytes);
    let answer = registry.ask(closing(&at, &digest).body("")).await?;
    if answer.status() == 400 {
        return Err(Failure::NotRun(format!("no sha512 here: {}", answer.describe())));
    }
    ensure!(answer.status() == 201, "{}", answer.describe());
    let pulled = registry.want(&[200], blob(&repository, &digest)).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok(digest.chars().take(20).collect())
}

async fn announced_unknown(registry: Arc<Registry>) -> Outcome {
    let request = Request::new("POST", format!("{}?digest-algorithm=rot13", uploads(&registry.repository()))).body("");
    let answer = registry.want(&[400], request).await?;
    Ok(answer.describe())
}

async fn mounted(registry: Arc<Registry>) -> Outcome {
    let (from, to, bytes) = (registry.repository(), registry.repository(), registry.bytes(1000));
    let digest = registry.blob(&from, &bytes).await?;
    let request = Request::new("POST", format!("{}?mount={digest}&from={from}", uploads(&to))).body("");
    if registry.want(&[201, 202], request).await?.status() == 202 {
        return Err(Failure::NotRun("202: this registry does not mount, as it may".into()));
    }
    for repository in [&from, &to] {
        let pulled = registry.want(&[200], blob(repository, &digest)).await?;
        ensure!(pulled.body == bytes, "{repository}: other bytes: {}", pulled.describe());
    }
    Ok("in both".into())
}

async fn cancelled(registry: Arc<Registry>) -> Outcome {
    let (at, _) = begun(&registry, &registry.repository()).await?;
    registry.want(&[204], Request::new("DELETE", &*at).body("")).await?;
    registry.want(&[404], Request::get(at)).await?;
    Ok("204, then 404".into())
}

async fn unknown_cancelled(registry: Arc<Registry>) -> Outcome {
    let at = never_was(&registry).await?;
    let answer = registry.want(&[404, 400], Request::new("DELETE", at).body("")).await?;
    Ok(answer.describe())
}
