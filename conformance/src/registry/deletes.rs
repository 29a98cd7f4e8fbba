//! end-9 and end-10: what is deleted is gone at once, here and nowhere else; or deletion is disabled, and says so.

use std::sync::Arc;

use serde_json::json;

use super::{
    Check, Registry, check,
    content::{IMAGE, Manifest, sha256},
    server::{blob, by, manifest},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::Request,
};

pub(super) const CHECKS: &[Check] = &[
    check!("a deleted tag is 404 and not listed; its manifest stays", "end-9 MUST", tag_gone),
    check!("a deleted manifest is 404, and so is every tag that named it", "end-9 MUST", gone),
    check!("a manifest deleted here stays in other repositories", "end-9 MUST", stays),
    check!("a deleted referrer is listed no more", "end-9 MUST", referrer),
    check!("deleting a tag or manifest that is not there is 404", "end-9 MUST", missing),
    check!("deleting in a repository that is not there is 404", "end-9 MUST", missing_repository),
    check!("a deleted manifest can be pushed again", "end-9 MUST", again),
    check!("a blob deleted here stays in other repositories", "end-10 MUST", blob_stays),
    check!("deleting a blob that is not there is 404", "end-10 MUST", blob_missing),
    check!("a deleted blob can be pushed again", "end-10 MUST", blob_again),
];

/// 202; not run where the registry says that it does not delete.
async fn delete(registry: &Registry, request: Request) -> Result<(), Failure> {
    let answer = registry.ask(by("DELETE", request)).await?;
    match answer.status() {
        202 => Ok(()),
        400 | 405 => Err(Failure::NotRun(format!("not deleted, as a registry may: {}", answer.describe()))),
        _ => Err(format!("DELETE: {}", answer.describe()).into()),
    }
}

async fn tag_gone(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    registry.put(&repository, "v2", &image).await?;
    delete(&registry, manifest(&repository, "v1")).await?;
    registry.want(&[404], manifest(&repository, "v1")).await?;
    registry.want(&[200], manifest(&repository, "v2")).await?;
    registry.want(&[200], manifest(&repository, &image.digest)).await?;
    let list = registry.want(&[200], Request::get(format!("/v2/{repository}/tags/list"))).await?;
    ensure!(list.json()["tags"] == json!(["v2"]), "{}", list.text());
    Ok("one of two".into())
}

async fn gone(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    registry.put(&repository, "v2", &image).await?;
    delete(&registry, manifest(&repository, &image.digest)).await?;
    for reference in ["v1", "v2", &image.digest] {
        for method in ["HEAD", "GET"] {
            registry.want(&[404], by(method, manifest(&repository, reference))).await?;
        }
    }
    Ok("digest and two tags".into())
}

async fn stays(registry: Arc<Registry>) -> Outcome {
    let (repository, other, config) = (registry.repository(), registry.repository(), registry.bytes(100));
    for repository in [&repository, &other] {
        registry.blob(repository, &config).await?;
    }
    let config = super::content::descriptor(super::content::CONFIG, &sha256(&config), config.len());
    let image = Manifest::of(IMAGE, json!({ "config": config, "layers": [] }));
    for repository in [&repository, &other] {
        registry.put(repository, "v1", &image).await?;
    }
    delete(&registry, manifest(&repository, &image.digest)).await?;
    registry.want(&[404], manifest(&repository, "v1")).await?;
    registry.want(&[200], manifest(&other, "v1")).await?;
    registry.want(&[200], manifest(&other, &image.digest)).await?;
    Ok("there".into())
}

async fn referrer(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let mut parts = registry.parts(&repository).await?;
    parts["subject"] = image.descriptor();
    let referrer = Manifest::of(IMAGE, parts);
    registry.put(&repository, &referrer.digest, &referrer).await?;
    let list = Request::get(format!("/v2/{repository}/referrers/{}", image.digest));
    let before = registry.want(&[200, 404], list.clone()).await?;
    if before.status() == 404 {
        return Err(Failure::NotRun("there are no referrers here".into()));
    }
    ensure!(before.text().contains(&referrer.digest), "{}", before.text());
    delete(&registry, manifest(&repository, &referrer.digest)).await?;
    let after = registry.want(&[200], list).await?;
    ensure!(after.json()["manifests"] == json!([]), "{}", after.text());
    Ok("empty".into())
}

async fn missing(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    delete(&registry, manifest(&repository, &image.digest)).await?;
    for reference in [&image.digest, &sha256(&registry.bytes(10))] {
        registry.want(&[404], by("DELETE", manifest(&repository, reference))).await?;
    }
    let tag = registry.want(&[404, 400, 405], by("DELETE", manifest(&repository, "v9"))).await?;
    Ok(format!("tag: {}", tag.describe()))
}

async fn missing_repository(registry: Arc<Registry>) -> Outcome {
    let digest = sha256(&registry.bytes(10));
    let answer = registry.ask(by("DELETE", manifest(&registry.repository(), &digest))).await?;
    if matches!(answer.status(), 400 | 405) {
        return Err(Failure::NotRun(format!("not deleted, as a registry may: {}", answer.describe())));
    }
    ensure!(answer.status() == 404, "{}", answer.describe());
    Ok(answer.describe())
}

async fn again(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    delete(&registry, manifest(&repository, &image.digest)).await?;
    registry.put(&repository, "v1", &image).await?;
    let pulled = registry.want(&[200], manifest(&repository, &image.digest)).await?;
    ensure!(pulled.body == image.bytes, "other bytes: {}", pulled.describe());
    Ok("201, 200".into())
}

async fn blob_stays(registry: Arc<Registry>) -> Outcome {
    let (repository, other, bytes) = (registry.repository(), registry.repository(), registry.bytes(1000));
    let digest = registry.blob(&repository, &bytes).await?;
    registry.blob(&other, &bytes).await?;
    delete(&registry, blob(&repository, &digest)).await?;
    registry.want(&[404], blob(&repository, &digest)).await?;
    let pulled = registry.want(&[200], blob(&other, &digest)).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok("there".into())
}

async fn blob_missing(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let digest = registry.blob(&repository, &registry.bytes(1000)).await?;
    delete(&registry, blob(&repository, &digest)).await?;
    for digest in [&digest, &sha256(&registry.bytes(10))] {
        registry.want(&[404], by("DELETE", blob(&repository, digest))).await?;
    }
    Ok("404".into())
}

async fn blob_again(registry: Arc<Registry>) -> Outcome {
    let (repository, bytes) = (registry.repository(), registry.bytes(1000));
    let digest = registry.blob(&repository, &bytes).await?;
    delete(&registry, blob(&repository, &digest)).await?;
    registry.blob(&repository, &bytes).await?;
    let pulled = registry.want(&[200], blob(&repository, &digest)).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok("201, 200".into())
}
