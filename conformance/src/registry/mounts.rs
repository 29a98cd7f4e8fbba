//! end-11: a blob that another repository has is not sent again.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::sha256,
    server::{blob, closing, location, uploads},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("a mount is 201 or 202; 201 says where the blob is", "end-11 MUST", mounted),
    check!("where the 201 of a mount names a digest, it is the blob's", "end-11 MUST", named),
    check!("a mount of what is not there is 202, and the upload goes on", "end-11 SHOULD", missing),
    check!("a mount without a source is 201 or 202, and goes on", "end-11 SHOULD", anonymous),
    check!("a mount leaves the source as it was", "end-11 MUST", source),
];

fn mount(repository: &str, digest: &str, from: Option<&str>) -> Request {
    let from = from.map_or(String::new(), |from| format!("&from={from}"));
    Request::new("POST", format!("{}?mount={digest}{from}", uploads(repository))).body("")
}

/// A blob in one repository, mounted into another: both, its bytes, and the 201.
async fn mount_one(registry: &Registry) -> Result<(String, String, Vec<u8>, Response), Failure> {
    let (from, to, bytes) = (registry.repository(), registry.repository(), registry.bytes(1000));
    let digest = registry.blob(&from, &bytes).await?;
    let answer = registry.want(&[201, 202], mount(&to, &digest, Some(&from))).await?;
    if answer.status() == 202 {
        registry.want(&[201], closing(&location(&answer)?, &digest).body(&*bytes)).await?;
        return Err(Failure::NotRun("202, and the blob was uploaded: this registry does not mount, as it may".into()));
    }
    Ok((from, to, bytes, answer))
}

async fn mounted(registry: Arc<Registry>) -> Outcome {
    let (_, to, bytes, answer) = mount_one(&registry).await?;
    for request in [Request::get(location(&answer)?), blob(&to, &sha256(&bytes))] {
        let pulled = registry.want(&[200], request).await?;
        ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    }
    location(&answer)
}

async fn named(registry: Arc<Registry>) -> Outcome {
    let (_, _, bytes, answer) = mount_one(&registry).await?;
    match answer.head.digest() {
        Some(named) if named != sha256(&bytes) => Err(format!("named {named}").into()),
        Some(named) => Ok(named.to_owned()),
        None => Ok("not named".into()),
    }
}

async fn missing(registry: Arc<Registry>) -> Outcome {
    let (from, to, bytes) = (registry.repository(), registry.repository(), registry.bytes(1000));
    registry.blob(&from, &registry.bytes(10)).await?;
    let digest = sha256(&bytes);
    let answer = registry.want(&[202], mount(&to, &digest, Some(&from))).await?;
    registry.want(&[201], closing(&location(&answer)?, &digest).body(&*bytes)).await?;
    registry.want(&[200], blob(&to, &digest)).await?;
    Ok("202, then 201".into())
}

async fn anonymous(registry: Arc<Registry>) -> Outcome {
    let (from, to, bytes) = (registry.repository(), registry.repository(), registry.bytes(1000));
    let digest = registry.blob(&from, &bytes).await?;
    let answer = registry.want(&[201, 202], mount(&to, &digest, None)).await?;
    if answer.status() == 202 {
        registry.want(&[201], closing(&location(&answer)?, &digest).body(&*bytes)).await?;
    }
    let pulled = registry.want(&[200], blob(&to, &digest)).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok(answer.describe())
}

async fn source(registry: Arc<Registry>) -> Outcome {
    let (from, _, bytes, _) = mount_one(&registry).await?;
    let pulled = registry.want(&[200], blob(&from, &sha256(&bytes))).await?;
    ensure!(pulled.body == bytes, "other bytes: {}", pulled.describe());
    Ok("still there".into())
}
