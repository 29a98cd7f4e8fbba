//! end-4a, end-4b, end-4c and end-6: a blob in one piece, by POST and PUT or by POST alone.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::{sha256, sha512},
    server::{blob, by, chunk, closing, location, uploads},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("POST begins an upload: 202 and where it goes on", "end-4a MUST", begins),
    check!("two uploads are two sessions", "end-4a MUST", two_sessions),
    check!("PUT ends it: 201 and where the blob is, which can be pulled there", "end-6 MUST", ends),
    check!("where 201 names a digest, it is the blob's", "end-6 MUST", named),
    check!("a session that has ended is 404", "end-6 MUST", ended),
    check!("a session that never was is 404, by PUT", "end-6 MUST", unknown),
    check!("bytes of another digest are 400, and nothing is kept", "end-6 SHOULD", mismatch),
    check!("a malformed digest is 400", "end-6 SHOULD", malformed),
    check!("a digest of an unknown algorithm is 400", "end-6 SHOULD", unknown_algorithm),
    check!("no digest is 400", "end-6 SHOULD", no_digest),
    check!("POST with a digest: 201, or 202 and the upload goes on", "end-4b SHOULD", post_answers),
    check!("POST with a digest: the blob is where 201 says it is", "end-4b MUST", post_alone),
    check!("POST with the digest of other bytes is 400, and nothing is kept", "end-4b SHOULD", post_mismatch),
    check!("POST with a malformed digest is 400", "end-4b SHOULD", post_malformed),
    check!("POST that announces sha512, then chunks and PUT by it", "end-4c SHOULD", announced),
    check!("POST that announces an unknown algorithm is 400", "end-4c SHOULD", announced_unknown),
];

async fn begins(registry: Arc<Registry>) -> Outcome {
    let at = registry.open(&registry.repository()).await?;
    Ok(at.chars().take(60).collect())
}

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

/// Pushes a blob whose digest is `digest`, and pulls it from where the answer says it is.
async fn round(registry: &Registry, repository: &str, bytes: &[u8], digest: &str) -> Result<Response, Failure> {
    let at = registry.open(repository).await?;
    let answer = registry.want(&[201], closing(&at, digest).body(bytes)).await?;
    let pulled = registry.want(&[200], Request::get(location(&answer)?)).await?;
    ensure!(pulled.body == bytes, "the Location of 201 leads to {}", pulled.describe());
    Ok(answer)
}

async fn ends(registry: Arc<Registry>) -> Outcome {
    let bytes = registry.bytes(300_000);
    let answer = round(&registry, &registry.repository(), &bytes, &sha256(&bytes)).await?;
    location(&answer)
}

async fn named(registry: Arc<Registry>) -> Outcome {
    let bytes = registry.bytes(1000);
    let answer = round(&registry, &registry.repository(), &bytes, &sha256(&bytes)).await?;
    match answer.head.digest() {
        Some(named) if named != sha256(&bytes) => Err(format!("named {named}").into()),
        Some(named) => Ok(named.to_owned()),
        None => Ok("not named".into()),
    }
}

async fn ended(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(100));
    let at = registry.open(&repository).await?;
    registry.want(&[201], closing(&at, &sha256(&bytes)).body(&*bytes)).await?;
    registry.want(&[404], Request::get(&*at)).await?;
    registry.want(&[404], closing(&at, &sha256(&bytes)).body(&*bytes)).await?;
    Ok("404".into())
}

async fn unknown(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(100));
    registry.open(&repository).await?;
    let at = format!("{}11111111-2222-4333-8444-555555555555", uploads(&repository));
    registry.want(&[404], closing(&at, &sha256(&bytes)).body(&*bytes)).await?;
    Ok("404".into())
}

async fn mismatch(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(1000));
    for digest in [sha256(&registry.bytes(1000)), sha512(&registry.bytes(1000))] {
        let at = registry.open(&repository).await?;
        registry.want(&[400], closing(&at, &digest).body(&*bytes)).await?;
        registry.want(&[404], by("HEAD", blob(&repository, &digest))).await?;
    }
    registry.want(&[404], by("HEAD", blob(&repository, &sha256(&bytes)))).await?;
    Ok("400, nothing kept".into())
}

async fn malformed(registry: Arc<Registry>) -> Outcome {
    for digest in ["sha256:abc", "sha256:", "abc"] {
        let at = registry.open(&registry.repository()).await?;
        registry.want(&[400], closing(&at, digest).body("abc")).await?;
    }
    Ok("400".into())
}

async fn unknown_algorithm(registry: Arc<Registry>) -> Outcome {
    let at = registry.open(&registry.repository()).await?;
    let digest = format!("rot13:{}", "ab".repeat(32));
    let answer = registry.want(&[400], closing(&at, &digest).body("abc")).await?;
    Ok(answer.describe())
}

async fn no_digest(registry: Arc<Registry>) -> Outcome {
    let at = registry.open(&registry.repository()).await?;
    let answer = registry.want(&[400], Request::new("PUT", at).body("abc")).await?;
    Ok(answer.describe())
}

fn posting(repository: &str, digest: &str, bytes: &[u8]) -> Request {
    let path = format!("{}?digest={digest}", uploads(repository));
    Request::new("POST", path).with("Content-Type", "application/octet-stream").body(bytes)
}

async fn post_answers(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(1000));
    let digest = sha256(&bytes);
    let answer = registry.want(&[201, 202], posting(&repository, &digest, &bytes)).await?;
    if answer.status() == 202 {
        registry.want(&[201], closing(&location(&answer)?, &digest).body(&*bytes)).await?;
    }
    registry.want(&[200], blob(&repository, &digest)).await?;
    Ok(answer.describe())
}

async fn post_alone(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(100_000));
    let answer = registry.want(&[201, 202], posting(&repository, &sha256(&bytes), &bytes)).await?;
    if answer.status() == 202 {
        return Err(Failure::NotRun("this registry wants a PUT, as it may".into()));
    }
    let pulled = registry.want(&[200], Request::get(location(&answer)?)).await?;
    ensure!(pulled.body == bytes, "the Location of 201 leads to {}", pulled.describe());
    location(&answer)
}

async fn post_mismatch(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes, digest) = (registry.repository(), registry.bytes(1000), sha256(&registry.bytes(1000)));
    let answer = registry.want(&[400, 202], posting(&repository, &digest, &bytes)).await?;
    if answer.status() == 202 {
        return Err(Failure::NotRun("this registry wants a PUT, as it may".into()));
    }
    registry.want(&[404], by("HEAD", blob(&repository, &digest))).await?;
    Ok(answer.describe())
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
