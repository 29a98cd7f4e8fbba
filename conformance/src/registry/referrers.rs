//! end-12a and end-12b: which referrers a manifest has, early, late, many and filtered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Check, Registry, check,
    content::{IMAGE, INDEX, Manifest, descriptor},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("referrers of a malformed digest are 400", "end-12a MUST", malformed),
    check!("artifactType is absent where an index has none", "end-12a MUST", index_without_type),
    check!("a referrer that came before its subject is listed", "end-12a MUST", early),
    check!("a referrer in another repository is not listed", "end-12a MUST", elsewhere),
    check!("forty referrers are all listed, following each Link", "end-12a MUST", many),
    check!("one that a client lists under the fallback tag is listed once", "end-12a SHOULD", fallback),
    check!("a filter that nothing passes leaves an empty list", "end-12b MUST", filtered_out),
];

const SBOM: &str = "application/vnd.example.sbom.v1";

/// Pushes an artifact that refers to `subject`; `annotations` go into its manifest.
async fn refer(
    registry: &Registry,
    repository: &str,
    subject: &Value,
    annotations: Value,
) -> Result<Manifest, Failure> {
    let (empty, content) = (b"{}", registry.bytes(50));
    let config = descriptor("application/vnd.oci.empty.v1+json", &registry.blob(repository, empty).await?, empty.len());
    let layer = descriptor(SBOM, &registry.blob(repository, &content).await?, content.len());
    let manifest = Manifest::of(
        IMAGE,
        json!({ "artifactType": SBOM, "config": config, "layers": [layer], "subject": subject, "annotations": annotations }),
    );
    registry.put(repository, &manifest.digest, &manifest).await?;
    Ok(manifest)
}

fn asking(repository: &str, digest: &str, query: &str) -> Request {
    Request::get(format!("/v2/{repository}/referrers/{digest}{query}"))
}

/// The descriptors of a page, and the page.
async fn list(
    registry: &Registry,
    repository: &str,
    digest: &str,
    query: &str,
) -> Result<(Vec<Value>, Response), Failure> {
    let answer = registry.want(&[200, 404], asking(repository, digest, query)).await?;
    if answer.status() == 404 {
        return Err(Failure::NotRun("there are no referrers here".into()));
    }
    match answer.json()["manifests"].as_array() {
        Some(manifests) => Ok((manifests.clone(), answer)),
        None => Err(format!("no manifests in {}", answer.text()).into()),
    }
}

/// The one descriptor of a list that names this manifest.
async fn only(registry: &Registry, repository: &str, subject: &str, wanted: &Manifest) -> Result<Value, Failure> {
    let (found, answer) = list(registry, repository, subject, "").await?;
    ensure!(found.len() == 1, "{} referrers, wanted one: {}", found.len(), answer.text());
    ensure!(found[0]["digest"] == *wanted.digest, "{} and not {}", found[0]["digest"], wanted.digest);
    Ok(found[0].clone())
}

async fn malformed(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    list(&registry, &repository, &image.digest, "").await?;
    for digest in ["sha256:abc", "latest", "sha256:"] {
        registry.want(&[400], asking(&repository, digest, "")).await?;
    }
    Ok("400".into())
}

async fn index_without_type(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let index = json!({ "manifests": [image.descriptor()], "subject": image.descriptor() });
    let index = Manifest::of(INDEX, index);
    registry.put(&repository, &index.digest, &index).await?;
    let found = only(&registry, &repository, &image.digest, &index).await?;
    ensure!(found.get("artifactType").is_none(), "{found}");
    Ok("absent".into())
}

async fn early(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let subject = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let referrer = refer(&registry, &repository, &subject.descriptor(), json!({})).await?;
    only(&registry, &repository, &subject.digest, &referrer).await?;
    registry.put(&repository, "v1", &subject).await?;
    only(&registry, &repository, &subject.digest, &referrer).await?;
    Ok("before and after".into())
}

async fn elsewhere(registry: Arc<Registry>) -> Outcome {
    let (repository, other) = (registry.repository(), registry.repository());
    let image = registry.image(&repository, Some("v1")).await?;
    registry.image(&other, Some("v1")).await?;
    registry.parts(&other).await?;
    refer(&registry, &other, &image.descriptor(), json!({})).await?;
    let (found, answer) = list(&registry, &repository, &image.digest, "").await?;
    ensure!(found.is_empty(), "{}", answer.text());
    Ok("not listed".into())
}

async fn many(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let mut pushed = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let large = json!({ "filler": "A".repeat(1000) });
        pushed.insert(refer(&registry, &repository, &image.descriptor(), large).await?.digest);
    }
    let (mut found, mut answer) = list(&registry, &repository, &image.digest, "").await?;
    let mut pages = 1;
    while let Some(link) = answer.head.header("link") {
        ensure!(pages < 50, "the pages do not end");
        let target = link.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let (target, rest) = target.ok_or_else(|| format!("Link: {link}"))?;
        ensure!(rest.contains("next"), "Link: {link}");
        answer = registry.want(&[200], Request::get(target)).await?;
        found.extend(answer.json()["manifests"].as_array().cloned().unwrap_or_default());
        pages += 1;
    }
    let have: Vec<&str> = found.iter().filter_map(|one| one["digest"].as_str()).collect();
    let all = have.len() == 40 && have.iter().all(|digest| pushed.contains(*digest));
    ensure!(all, "{} referrers in {pages} pages", have.len());
    Ok(format!("{pages} pages"))
}

async fn fallback(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let referrer = refer(&registry, &repository, &image.descriptor(), json!({})).await?;
    let mut entry = referrer.descriptor();
    entry["artifactType"] = json!(SBOM);
    let index = Manifest::of(INDEX, json!({ "manifests": [entry] }));
    registry.put(&repository, &image.digest.replace(':', "-"), &index).await?;
    only(&registry, &repository, &image.digest, &referrer).await?;
    Ok("once".into())
}

async fn filtered_out(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    refer(&registry, &repository, &image.descriptor(), json!({})).await?;
    let (found, answer) =
        list(&registry, &repository, &image.digest, "?artifactType=application/vnd.example.none").await?;
    let applied = answer.head.header("oci-filters-applied");
    if found.len() == 1 && applied.is_none() {
        return Err(Failure::NotRun("this registry does not filter".into()));
    }
    let says_so = applied.is_some_and(|value| value.split(',').any(|word| word.trim() == "artifactType"));
    ensure!(found.is_empty() && says_so, "{found:?}, OCI-Filters-Applied {applied:?}");
    Ok("empty".into())
}
