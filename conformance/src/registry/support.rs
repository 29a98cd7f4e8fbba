//! end-1, and the grammar of names: what is a registry, and what is a repository.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    server::{blob, manifest, uploads},
};
use crate::{
    check::{Outcome, ensure},
    client::Request,
};

pub(super) const CHECKS: &[Check] = &[
    check!("GET /v2/ says that this is a registry", "end-1 MUST", ping),
    check!("a name with every separator the grammar has", "end-3 MUST", separators),
    check!("a name that the grammar does not have is refused", "end-3 MUST", bad_names),
    check!("no upload begins in a name that the grammar does not have", "end-4a MUST", bad_upload_names),
    check!("a reference that is neither tag nor digest is refused", "end-3 MUST", bad_references),
];

/// Not one of them matches the grammar. Upper case is the one that clients meet.
const BAD_NAMES: [&str; 6] =
    ["Upper/case", "two..dots", "-hyphen/first", "three___underscores", "slash//slash", "dot./last"];

async fn ping(registry: Arc<Registry>) -> Outcome {
    let answer = registry.want(&[200], Request::get("/v2/")).await?;
    Ok(answer.describe())
}

async fn separators(registry: Arc<Registry>) -> Outcome {
    let repository = format!("{}/a.b_c__d-e---f/0", registry.repository());
    let image = registry.image(&repository, Some("v1")).await?;
    let answer = registry.want(&[200], manifest(&repository, "v1")).await?;
    ensure!(answer.body == image.bytes, "another manifest: {}", answer.describe());
    Ok(repository)
}

async fn bad_names(registry: Arc<Registry>) -> Outcome {
    let empty = super::content::sha256(b"");
    for name in BAD_NAMES {
        let name = format!("{}/{name}", registry.repository());
        registry.want(&[400, 404], manifest(&name, "latest")).await?;
        registry.want(&[400, 404], blob(&name, &empty)).await?;
    }
    Ok(format!("{} names", BAD_NAMES.len()))
}

async fn bad_upload_names(registry: Arc<Registry>) -> Outcome {
    for name in BAD_NAMES {
        let name = format!("{}/{name}", registry.repository());
        // A redirect to the name without its empty component is not an upload yet.
        registry.want(&[400, 404, 405, 301, 308], Request::new("POST", uploads(&name)).body("")).await?;
    }
    Ok(format!("{} names", BAD_NAMES.len()))
}

async fn bad_references(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    let long = "t".repeat(129);
    let references = [".dot", "-hyphen", "a+b", "sha256:abc", "sha256:", &long];
    for reference in references {
        registry.want(&[400, 404], manifest(&repository, reference)).await?;
    }
    Ok(format!("{} references", references.len()))
}
