//! end-3: a manifest is the bytes that were pushed, under its digest and under its tags.

use std::sync::Arc;

use serde_json::json;

use super::{
    Check, Registry, check,
    content::{IMAGE, INDEX, Manifest, sha256, sha512},
    server::{by, manifest, putting},
};
use crate::check::{Failure, Outcome, ensure};

pub(super) const CHECKS: &[Check] = &[
    check!("GET by tag and by digest is 200 with the bytes that were pushed", "end-3 MUST", get),
    check!("GET names the digest of its body", "end-3 MUST", get_digest),
    check!("HEAD is 200, with digest and length, by tag and by digest", "end-3 MUST", head),
    check!("the Content-Type is the one that was pushed", "end-3 SHOULD", content_type),
    check!("the Content-Type has no parameters", "end-3 SHOULD", no_parameters),
    check!("a tag that is not there is 404, by GET and by HEAD", "end-3 MUST", missing_tag),
    check!("a digest that is not there is 404, by GET and by HEAD", "end-3 MUST", missing_digest),
    check!("a repository that is not there is 404", "end-3 MUST", missing_repository),
    check!("a manifest of another repository is 404 here", "end-3 MUST", elsewhere),
    check!("a manifest pushed by sha512 is pulled by sha512, and so named", "end-3 MUST", by_sha512),
];

async fn get(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    for reference in ["v1", &image.digest] {
        let answer = registry.want(&[200], manifest(&repository, reference)).await?;
        ensure!(answer.complete() && answer.body == image.bytes, "{reference}: other bytes: {}", answer.describe());
    }
    Ok(format!("{} bytes", image.bytes.len()))
}

async fn get_digest(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    for reference in ["v1", &image.digest] {
        let answer = registry.want(&[200], manifest(&repository, reference)).await?;
        ensure!(answer.head.digest() == Some(&answer.sha256), "{reference}: named {:?}", answer.head.digest());
    }
    Ok(image.digest)
}

async fn head(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    for reference in ["v1", &image.digest] {
        let answer = registry.want(&[200], by("HEAD", manifest(&repository, reference))).await?;
        let (named, length) = (answer.head.digest(), answer.head.content_length());
        ensure!(named == Some(&image.digest), "{reference}: digest {named:?}");
        ensure!(length == Some(image.bytes.len() as u64), "{reference}: length {length:?}");
    }
    Ok("both".into())
}

/// A repository with an image and an index over it.
async fn kinds(registry: &Registry) -> Result<(String, Vec<Manifest>), Failure> {
    let repository = registry.repository();
    let image = registry.image(&repository, None).await?;
    let index = Manifest::of(INDEX, json!({ "manifests": [image.descriptor()] }));
    registry.put(&repository, "index", &index).await?;
    Ok((repository, vec![image, index]))
}

async fn content_type(registry: Arc<Registry>) -> Outcome {
    let (repository, manifests) = kinds(&registry).await?;
    for pushed in &manifests {
        for method in ["GET", "HEAD"] {
            let answer = registry.want(&[200], by(method, manifest(&repository, &pushed.digest))).await?;
            let kind = answer.head.header("content-type").unwrap_or_default();
            let bare = kind.split(';').next().unwrap_or_default().trim();
            ensure!(bare == pushed.kind, "{method}: pushed {}, came {kind:?}", pushed.kind);
        }
    }
    Ok(format!("{} kinds", manifests.len()))
}

async fn no_parameters(registry: Arc<Registry>) -> Outcome {
    let (repository, manifests) = kinds(&registry).await?;
    for pushed in &manifests {
        let answer = registry.want(&[200], manifest(&repository, &pushed.digest)).await?;
        let kind = answer.head.header("content-type").unwrap_or_default();
        ensure!(!kind.contains(';'), "{kind}");
    }
    Ok("none".into())
}

async fn missing_tag(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    for method in ["GET", "HEAD"] {
        registry.want(&[404], by(method, manifest(&repository, "v2"))).await?;
    }
    Ok("404".into())
}

async fn missing_digest(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    let nowhere = sha256(&registry.bytes(10));
    for method in ["GET", "HEAD"] {
        registry.want(&[404], by(method, manifest(&repository, &nowhere))).await?;
    }
    Ok("404".into())
}

async fn missing_repository(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    for method in ["GET", "HEAD"] {
        registry.want(&[404], by(method, manifest(&repository, "latest"))).await?;
    }
    Ok("404".into())
}

async fn elsewhere(registry: Arc<Registry>) -> Outcome {
    let (repository, other) = (registry.repository(), registry.repository());
    let image = registry.image(&repository, Some("v1")).await?;
    registry.image(&other, Some("v2")).await?;
    registry.want(&[404], manifest(&other, &image.digest)).await?;
    registry.want(&[404], manifest(&other, "v1")).await?;
    Ok("404".into())
}

async fn by_sha512(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let digest = sha512(&pushed.bytes);
    let put = registry.ask(putting(&repository, &digest, &pushed)).await?;
    if put.status() == 400 {
        return Err(Failure::NotRun(format!("no sha512 here: {}", put.describe())));
    }
    ensure!(put.status() == 201, "{}", put.describe());
    for method in ["GET", "HEAD"] {
        let answer = registry.want(&[200], by(method, manifest(&repository, &digest))).await?;
        ensure!(answer.head.digest() == Some(&digest), "{method} names {:?}", answer.head.digest());
        ensure!(method == "HEAD" || answer.body == pushed.bytes, "other bytes: {}", answer.describe());
    }
    Ok("named as asked".into())
}
