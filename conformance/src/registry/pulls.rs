//! end-2 and end-3: ranges of blobs, and what is not here, although it is elsewhere.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::sha256,
    server::{blob, by, manifest},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::Response,
};

pub(super) const CHECKS: &[Check] = &[
    check!("a blob of another repository is 404 here", "end-2 MUST", elsewhere),
    check!("a malformed digest is 400 or 404", "end-2 SHOULD", malformed),
    check!("ranges: from the start, from the middle, from the end", "end-2 SHOULD", ranges),
    check!("a range past the end is 416 and says how long the blob is", "end-2 SHOULD", past_the_end),
    check!("a range in an unknown unit is not looked at", "end-2 SHOULD", unknown_unit),
    check!("a range on HEAD is not looked at", "end-2 SHOULD", head_range),
    check!("a repository that is not there is 404", "end-3 MUST", missing_repository),
    check!("a manifest of another repository is 404 here", "end-3 MUST", manifest_elsewhere),
];

/// A repository with a blob in it.
async fn pushed(registry: &Registry, length: usize) -> Result<(String, Vec<u8>, String), Failure> {
    let (repository, bytes) = (registry.repository(), registry.bytes(length));
    let digest = registry.blob(&repository, &bytes).await?;
    Ok((repository, bytes, digest))
}

/// A whole body, and these bytes.
fn is(answer: &Response, bytes: &[u8]) -> Result<(), Failure> {
    let same = answer.broken.is_none() && answer.body == bytes;
    ensure!(same, "wanted {} bytes {}, came {} {}", bytes.len(), sha256(bytes), answer.describe(), answer.sha256);
    Ok(())
}

async fn elsewhere(registry: Arc<Registry>) -> Outcome {
    let (_, _, digest) = pushed(&registry, 1000).await?;
    let (other, ..) = pushed(&registry, 10).await?;
    for method in ["GET", "HEAD"] {
        registry.want(&[404], by(method, blob(&other, &digest))).await?;
    }
    Ok("404".into())
}

async fn malformed(registry: Arc<Registry>) -> Outcome {
    let (repository, ..) = pushed(&registry, 10).await?;
    for digest in ["sha256:abc", "sha256:", "abc", "sha256-0000"] {
        registry.want(&[400, 404], blob(&repository, digest)).await?;
    }
    Ok("refused".into())
}

async fn ranges(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes, digest) = pushed(&registry, 2000).await?;
    for (range, from, end) in [
        ("0-0", 0, 1),
        ("500-1499", 500, 1500),
        ("1500-", 1500, 2000),
        ("-500", 1500, 2000),
        ("1999-9999", 1999, 2000),
        ("-9999", 0, 2000),
    ] {
        let answer = registry.want(&[206], blob(&repository, &digest).range(format!("bytes={range}"))).await?;
        is(&answer, &bytes[from..end])?;
        let said = answer.head.header("content-range");
        let wanted = format!("bytes {from}-{}/2000", end - 1);
        ensure!(said == Some(&wanted), "bytes={range}: Content-Range {said:?}, wanted {wanted}");
    }
    Ok("6 ranges".into())
}

async fn past_the_end(registry: Arc<Registry>) -> Outcome {
    let (repository, _, digest) = pushed(&registry, 2000).await?;
    for range in ["2000-", "5000-10000"] {
        let answer = registry.want(&[416], blob(&repository, &digest).range(format!("bytes={range}"))).await?;
        let said = answer.head.header("content-range");
        ensure!(said == Some("bytes */2000"), "bytes={range}: Content-Range {said:?}");
    }
    Ok("bytes */2000".into())
}

async fn unknown_unit(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes, digest) = pushed(&registry, 2000).await?;
    let answer = registry.want(&[200], blob(&repository, &digest).range("lines=1-2")).await?;
    is(&answer, &bytes)?;
    Ok("200".into())
}

async fn head_range(registry: Arc<Registry>) -> Outcome {
    let (repository, _, digest) = pushed(&registry, 2000).await?;
    let answer = registry.want(&[200], by("HEAD", blob(&repository, &digest)).range("bytes=0-9")).await?;
    ensure!(answer.head.content_length() == Some(2000), "length {:?}", answer.head.content_length());
    Ok("200, the whole length".into())
}

async fn missing_repository(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    for method in ["GET", "HEAD"] {
        registry.want(&[404], by(method, manifest(&repository, "latest"))).await?;
    }
    Ok("404".into())
}

async fn manifest_elsewhere(registry: Arc<Registry>) -> Outcome {
    let (repository, other) = (registry.repository(), registry.repository());
    let image = registry.image(&repository, Some("v1")).await?;
    registry.image(&other, Some("v2")).await?;
    registry.want(&[404], manifest(&other, &image.digest)).await?;
    registry.want(&[404], manifest(&other, "v1")).await?;
    Ok("404".into())
}
