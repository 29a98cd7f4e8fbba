//! end-12a and end-12b: what refers to a manifest; and what a push with a `subject` is answered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Check, Registry, check,
    content::{IMAGE, INDEX, Manifest, descriptor, sha256},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("referrers can be asked for", "end-12a SHOULD", supported),
    check!("a manifest whose subject is not here is taken", "end-7a MUST", missing_subject),
    check!("a push with a subject names that subject", "end-7a MUST", subject_named),
    check!("what nothing refers to has an empty list, never 404", "end-12a MUST", empty),
    check!("an unknown digest has an empty list, never 404", "end-12a MUST", unknown),
    check!("the list is an image index, and says so", "end-12a MUST", form),
    check!("referrers of a malformed digest are 400", "end-12a MUST", malformed),
    check!("a referrer is listed as what it is: type, digest, size", "end-12a MUST", listed),
    check!("an index can refer, too", "end-12a MUST", index),
    check!("artifactType is the manifest's", "end-12a MUST", artifact_type),
    check!("artifactType is the config's type where the manifest has none", "end-12a MUST", config_type),
    check!("artifactType is absent where an index has none", "end-12a MUST", index_without_type),
    check!("annotations are the manifest's", "end-12a MUST", annotations),
    check!("a referrer that came before its subject is listed", "end-12a MUST", early),
    check!("a referrer in another repository is not listed", "end-12a MUST", elsewhere),
    check!("forty referrers are all listed, following each Link", "end-12a MUST", many),
    check!("one that a client lists under the fallback tag is listed once", "end-12a SHOULD", fallback),
    check!("a filter lets its artifactType through, and says that it did", "end-12b MUST", filtered),
    check!("a filter by artifactType is supported", "end-12b SHOULD", filters),
    check!("a filter that nothing passes leaves an empty list", "end-12b MUST", filtered_out),
];

const SBOM: &str = "application/vnd.example.sbom.v1";
const SIGNATURE: &str = "application/vnd.example.signature.v1";

async fn supported(registry: Arc<Registry>) -> Outcome {
    ensure!(registry.refers().await?, "404 for a manifest that is here");
    Ok("200".into())
}

/// Not run where the registry has no referrers at all: one row says so, and not twenty.
async fn wanted(registry: &Registry) -> Result<(), Failure> {
    match registry.refers().await? {
        true => Ok(()),
        false => Err(Failure::NotRun("there are no referrers here".into())),
    }
}

/// Pushes an artifact of this type that refers to `subject`; `extra` goes into its manifest.
async fn refer(
    registry: &Registry,
    repository: &str,
    subject: &Value,
    kind: &str,
    extra: Value,
) -> Result<Manifest, Failure> {
    let (empty, content) = (b"{}", registry.bytes(50));
    let config = descriptor("application/vnd.oci.empty.v1+json", &registry.blob(repository, empty).await?, empty.len());
    let layer = descriptor(kind, &registry.blob(repository, &content).await?, content.len());
    let mut value = json!({ "artifactType": kind, "config": config, "layers": [layer], "subject": subject });
    for (name, extra) in extra.as_object().into_iter().flatten() {
        value[name] = extra.clone();
    }
    let manifest = Manifest::of(IMAGE, value);
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
    wanted(registry).await?;
    let answer = registry.want(&[200], asking(repository, digest, query)).await?;
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

async fn missing_subject(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let subject = descriptor(IMAGE, &sha256(&registry.bytes(10)), 10);
    refer(&registry, &repository, &subject, SBOM, json!({})).await?;
    Ok("201".into())
}

async fn subject_named(registry: Arc<Registry>) -> Outcome {
    wanted(&registry).await?;
    let repository = registry.repository();
    let subject = registry.image(&repository, Some("v1")).await?;
    let mut parts = registry.parts(&repository).await?;
    parts["subject"] = subject.descriptor();
    let manifest = Manifest::of(IMAGE, parts);
    for reference in ["signed", &manifest.digest] {
        let answer = registry.put(&repository, reference, &manifest).await?;
        let named = answer.head.header("oci-subject");
        ensure!(named == Some(&subject.digest), "PUT {reference}: OCI-Subject {named:?}");
    }
    Ok(subject.digest)
}

async fn empty(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let (found, answer) = list(&registry, &repository, &image.digest, "").await?;
    ensure!(found.is_empty(), "{}", answer.text());
    Ok("empty".into())
}

async fn unknown(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    let (found, answer) = list(&registry, &repository, &sha256(&registry.bytes(10)), "").await?;
    ensure!(found.is_empty(), "{}", answer.text());
    Ok("empty".into())
}

async fn form(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    refer(&registry, &repository, &image.descriptor(), SBOM, json!({})).await?;
    let (_, answer) = list(&registry, &repository, &image.digest, "").await?;
    let (kind, json) = (answer.head.header("content-type"), answer.json());
    ensure!(kind == Some(INDEX), "Content-Type {kind:?}");
    ensure!(json["schemaVersion"] == 2 && json["mediaType"] == INDEX, "{}", answer.text());
    Ok(INDEX.into())
}

async fn malformed(registry: Arc<Registry>) -> Outcome {
    wanted(&registry).await?;
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    for digest in ["sha256:abc", "latest", "sha256:"] {
        registry.want(&[400], asking(&repository, digest, "")).await?;
    }
    Ok("400".into())
}

async fn listed(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let referrer = refer(&registry, &repository, &image.descriptor(), SBOM, json!({})).await?;
    let found = only(&registry, &repository, &image.digest, &referrer).await?;
    ensure!(found["mediaType"] == IMAGE && found["size"] == referrer.bytes.len(), "{found}");
    Ok(found.to_string())
}

/// An index that refers to a new image; where, to what, and itself.
async fn indexed(registry: &Registry, extra: Value) -> Result<(String, String, Manifest), Failure> {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let mut value = json!({ "manifests": [image.descriptor()], "subject": image.descriptor() });
    for (name, extra) in extra.as_object().into_iter().flatten() {
        value[name] = extra.clone();
    }
    let index = Manifest::of(INDEX, value);
    registry.put(&repository, &index.digest, &index).await?;
    Ok((repository, image.digest, index))
}

async fn index(registry: Arc<Registry>) -> Outcome {
    let (repository, subject, index) =
        indexed(&registry, json!({ "artifactType": SBOM, "annotations": { "a": "b" } })).await?;
    let found = only(&registry, &repository, &subject, &index).await?;
    let like = found["mediaType"] == INDEX && found["artifactType"] == SBOM && found["annotations"]["a"] == "b";
    ensure!(like, "{found}");
    Ok(found.to_string())
}

async fn artifact_type(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let referrer = refer(&registry, &repository, &image.descriptor(), SBOM, json!({})).await?;
    let found = only(&registry, &repository, &image.digest, &referrer).await?;
    ensure!(found["artifactType"] == SBOM, "{found}");
    Ok(SBOM.into())
}

async fn config_type(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let mut parts = registry.parts(&repository).await?;
    parts["subject"] = image.descriptor();
    let kind = parts["config"]["mediaType"].clone();
    let referrer = Manifest::of(IMAGE, parts);
    registry.put(&repository, &referrer.digest, &referrer).await?;
    let found = only(&registry, &repository, &image.digest, &referrer).await?;
    ensure!(found["artifactType"] == kind, "{found}");
    Ok(kind.to_string())
}

async fn index_without_type(registry: Arc<Registry>) -> Outcome {
    let (repository, subject, index) = indexed(&registry, json!({})).await?;
    let found = only(&registry, &repository, &subject, &index).await?;
    ensure!(found.get("artifactType").is_none(), "{found}");
    Ok("absent".into())
}

async fn annotations(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let said = json!({ "org.example.one": "1", "org.example.é": "\"quoted\" <&>" });
    let referrer = refer(&registry, &repository, &image.descriptor(), SBOM, json!({ "annotations": said })).await?;
    let found = only(&registry, &repository, &image.digest, &referrer).await?;
    ensure!(found["annotations"] == said, "{found}");
    Ok("copied".into())
}

async fn early(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let subject = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let referrer = refer(&registry, &repository, &subject.descriptor(), SBOM, json!({})).await?;
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
    refer(&registry, &other, &image.descriptor(), SBOM, json!({})).await?;
    let (found, answer) = list(&registry, &repository, &image.digest, "").await?;
    ensure!(found.is_empty(), "{}", answer.text());
    Ok("not listed".into())
}

async fn many(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let mut pushed = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let large = json!({ "annotations": { "filler": "A".repeat(1000) } });
        pushed.insert(refer(&registry, &repository, &image.descriptor(), SBOM, large).await?.digest);
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
    let referrer = refer(&registry, &repository, &image.descriptor(), SBOM, json!({})).await?;
    let mut entry = referrer.descriptor();
    entry["artifactType"] = json!(SBOM);
    let index = Manifest::of(INDEX, json!({ "manifests": [entry] }));
    registry.put(&repository, &image.digest.replace(':', "-"), &index).await?;
    only(&registry, &repository, &image.digest, &referrer).await?;
    Ok("once".into())
}

/// An image with one referrer of each type, asked for by a filter.
async fn filter(registry: &Registry, kind: &str) -> Result<(Manifest, Vec<Value>, Option<String>), Failure> {
    let repository = registry.repository();
    let image = registry.image(&repository, Some("v1")).await?;
    let sbom = refer(registry, &repository, &image.descriptor(), SBOM, json!({})).await?;
    refer(registry, &repository, &image.descriptor(), SIGNATURE, json!({})).await?;
    let (found, answer) = list(registry, &repository, &image.digest, &format!("?artifactType={kind}")).await?;
    let applied = answer.head.header("oci-filters-applied").map(str::to_owned);
    Ok((sbom, found, applied))
}

fn says_so(applied: Option<&str>) -> bool {
    applied.is_some_and(|value| value.split(',').any(|word| word.trim() == "artifactType"))
}

async fn filtered(registry: Arc<Registry>) -> Outcome {
    let (sbom, found, applied) = filter(&registry, SBOM).await?;
    if found.len() == 2 && applied.is_none() {
        return Err(Failure::NotRun("this registry does not filter".into()));
    }
    let one = found.len() == 1 && found[0]["digest"] == *sbom.digest;
    ensure!(one, "{} referrers: {found:?}", found.len());
    ensure!(says_so(applied.as_deref()), "OCI-Filters-Applied {applied:?}");
    Ok("artifactType".into())
}

async fn filters(registry: Arc<Registry>) -> Outcome {
    let (_, found, applied) = filter(&registry, SBOM).await?;
    ensure!(found.len() == 1, "{} of 2 referrers, OCI-Filters-Applied {applied:?}", found.len());
    Ok("supported".into())
}

async fn filtered_out(registry: Arc<Registry>) -> Outcome {
    let (_, found, applied) = filter(&registry, "application/vnd.example.none").await?;
    if found.len() == 2 && applied.is_none() {
        return Err(Failure::NotRun("this registry does not filter".into()));
    }
    ensure!(found.is_empty() && says_so(applied.as_deref()), "{found:?}, OCI-Filters-Applied {applied:?}");
    Ok("empty".into())
}
