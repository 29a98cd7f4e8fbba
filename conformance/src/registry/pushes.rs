//! end-7a and end-7b: a manifest is kept as it was sent, under the names it was sent for, or refused.

use std::sync::Arc;

use serde_json::json;

use super::{
    Check, Registry, check,
    content::{IMAGE, INDEX, LAYER, Manifest, descriptor, sha256, sha512},
    server::{by, location, manifest, putting},
};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("PUT is 201, and its Location leads to the manifest", "end-7a MUST", put),
    check!("PUT by digest names that digest", "end-7a MUST", put_digest),
    check!("every byte is kept: blanks, order, fields nobody knows", "end-7a MUST", exact),
    check!("a tag that is pushed again moves, and the old manifest stays", "end-7a MUST", moved),
    check!("a tag of 128 characters", "end-7a MUST", long_tag),
    check!("parameters of the Content-Type are not looked at", "end-7a SHOULD", parameters),
    check!("a manifest without layers", "end-7a MUST", no_layers),
    check!("an index over manifests that are here", "end-7a MUST", index),
    check!("PUT by the digest of other bytes is refused, and nothing is kept", "end-7a MUST", mismatch),
    check!("PUT by what is neither tag nor digest is refused", "end-7a MUST", bad_reference),
    check!("a manifest over a blob that is not here: taken, or MANIFEST_BLOB_UNKNOWN", "end-7a MUST", missing_blob),
    check!("an index over a manifest that is not here: taken, or MANIFEST_BLOB_UNKNOWN", "end-7a MUST", missing_child),
    check!("a manifest of 4 MB is taken", "end-7a SHOULD", large),
    check!("a manifest beyond all measure is 413", "end-7a SHOULD", too_large),
    check!("what is no manifest is refused", "end-7a MUST", no_manifest),
    check!("PUT with tags names each tag it set", "end-7b MUST", tagged),
    check!("PUT with ten tags sets ten tags", "end-7b SHOULD", ten_tags),
];

async fn put(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    for reference in ["v1", &pushed.digest] {
        let answer = registry.put(&repository, reference, &pushed).await?;
        let pulled = registry.want(&[200], Request::get(location(&answer)?).accepting_manifests()).await?;
        ensure!(pulled.body == pushed.bytes, "{reference}: the Location of 201 leads to {}", pulled.describe());
    }
    Ok("by tag and by digest".into())
}

async fn put_digest(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let answer = registry.put(&repository, &pushed.digest, &pushed).await?;
    ensure!(answer.head.digest() == Some(&pushed.digest), "named {:?}", answer.head.digest());
    let digest = sha512(&pushed.bytes);
    let answer = registry.ask(putting(&repository, &digest, &pushed)).await?;
    ensure!(
        answer.status() == 400 || answer.head.digest() == Some(&digest),
        "sha512: named {:?}",
        answer.head.digest()
    );
    Ok(format!("sha256; sha512: {}", answer.status()))
}

async fn exact(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let parts = registry.parts(&repository).await?;
    let (config, layers) = (&parts["config"], &parts["layers"]);
    let text = format!(
        "\n{{  \"zebra\": [1.0, 1e2, \"\\u00e9\"],\t\"layers\":{layers},\r\n \"config\" : {config}, \"mediaType\":\"{IMAGE}\",\n\"schemaVersion\":2}}\n\n"
    );
    let pushed = Manifest::new(IMAGE, text);
    registry.put(&repository, "v1", &pushed).await?;
    let pulled = registry.want(&[200], manifest(&repository, "v1")).await?;
    ensure!(pulled.body == pushed.bytes, "other bytes: {}", pulled.text());
    Ok(format!("{} bytes", pushed.bytes.len()))
}

async fn moved(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let old = registry.image(&repository, Some("v1")).await?;
    let new = registry.image(&repository, Some("v1")).await?;
    let pulled = registry.want(&[200], manifest(&repository, "v1")).await?;
    ensure!(pulled.body == new.bytes, "the tag names {:?}", pulled.head.digest());
    registry.want(&[200], manifest(&repository, &old.digest)).await?;
    Ok("moved".into())
}

async fn long_tag(registry: Arc<Registry>) -> Outcome {
    let (repository, tag) = (registry.repository(), format!("_A.b-{}", "9".repeat(123)));
    registry.image(&repository, Some(&tag)).await?;
    registry.want(&[200], manifest(&repository, &tag)).await?;
    Ok(format!("{} characters", tag.len()))
}

async fn parameters(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let said = Manifest { kind: format!("{IMAGE}; charset=utf-8"), ..pushed.clone() };
    registry.put(&repository, "v1", &said).await?;
    let pulled = registry.want(&[200], manifest(&repository, "v1")).await?;
    let kind = pulled.head.header("content-type");
    ensure!(kind == Some(IMAGE) && pulled.body == pushed.bytes, "comes back as {kind:?}");
    Ok("taken, and dropped".into())
}

async fn no_layers(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let config = registry.parts(&repository).await?["config"].take();
    let pushed = Manifest::of(IMAGE, json!({ "config": config, "layers": [] }));
    registry.put(&repository, "v1", &pushed).await?;
    Ok("201".into())
}

async fn index(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let (one, two) = (registry.image(&repository, None).await?, registry.image(&repository, None).await?);
    let inner = Manifest::of(INDEX, json!({ "manifests": [one.descriptor(), two.descriptor()] }));
    registry.put(&repository, &inner.digest, &inner).await?;
    let outer = Manifest::of(INDEX, json!({ "manifests": [inner.descriptor()] }));
    registry.put(&repository, "v1", &outer).await?;
    let pulled = registry.want(&[200], manifest(&repository, "v1")).await?;
    ensure!(pulled.body == outer.bytes, "other bytes: {}", pulled.describe());
    Ok("and an index over that".into())
}

async fn mismatch(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let other = sha256(&registry.bytes(10));
    let answer = registry.want(&[400], putting(&repository, &other, &pushed)).await?;
    for digest in [&other, &pushed.digest] {
        registry.want(&[404], by("HEAD", manifest(&repository, digest))).await?;
    }
    Ok(answer.describe())
}

async fn bad_reference(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let long = "t".repeat(129);
    for reference in ["sha256:baddigeststring", "-hyphen", ".dot", "a+b", &long] {
        registry.want(&[400, 404], putting(&repository, reference, &pushed)).await?;
    }
    Ok("refused".into())
}

/// 201, or the one error there is for it.
fn taken_or_unknown(answer: &Response) -> Outcome {
    let codes = answer.json();
    let codes = codes["errors"].as_array().map(|errors| errors.iter().all(|e| e["code"] == "MANIFEST_BLOB_UNKNOWN"));
    match (answer.status(), codes) {
        (201, _) => Ok("taken".into()),
        (400..=499, Some(true)) => Ok(answer.describe()),
        _ => Err(answer.describe().into()),
    }
}

async fn missing_blob(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let mut parts = registry.parts(&repository).await?;
    parts["layers"] = json!([descriptor(LAYER, &sha256(&registry.bytes(10)), 10)]);
    taken_or_unknown(&registry.ask(putting(&repository, "v1", &Manifest::of(IMAGE, parts))).await?)
}

async fn missing_child(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, None).await?;
    let child = descriptor(IMAGE, &sha256(&registry.bytes(10)), 10);
    let pushed = Manifest::of(INDEX, json!({ "manifests": [child] }));
    taken_or_unknown(&registry.ask(putting(&repository, "v1", &pushed)).await?)
}

/// An image manifest of so many bytes.
async fn sized(registry: &Registry, repository: &str, size: usize) -> Result<Manifest, Failure> {
    let mut parts = registry.parts(repository).await?;
    let bare = Manifest::of(IMAGE, parts.clone()).bytes.len() + r#","annotations":{"filler":""}"#.len();
    parts["annotations"] = json!({ "filler": "A".repeat(size - bare) });
    Ok(Manifest::of(IMAGE, parts))
}

async fn large(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = sized(&registry, &repository, 4_000_000).await?;
    registry.put(&repository, "v1", &pushed).await?;
    let pulled = registry.want(&[200], manifest(&repository, "v1")).await?;
    ensure!(pulled.body == pushed.bytes, "other bytes: {}", pulled.describe());
    Ok(format!("{} bytes", pushed.bytes.len()))
}

async fn too_large(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = sized(&registry, &repository, 40_000_000).await?;
    let answer = registry.want(&[413], putting(&repository, "v1", &pushed)).await?;
    registry.want(&[404], by("HEAD", manifest(&repository, "v1"))).await?;
    Ok(format!("40 MB: {}", answer.describe()))
}

async fn no_manifest(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    for text in ["", "no JSON", "[]", "{\"schemaVersion\":2"] {
        let answer = registry.want(&[400], putting(&repository, "v2", &Manifest::new(IMAGE, text))).await?;
        ensure!(answer.broken.is_none(), "{text:?}: {}", answer.describe());
    }
    Ok("400".into())
}

/// Pushes by digest with so many tags; the tags, and the `OCI-Tag` values of the answer.
async fn with_tags(registry: &Registry, count: usize) -> Result<(String, Manifest, Vec<String>, Vec<String>), Failure> {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let tags: Vec<String> = (0..count).map(|number| format!("tag-{number}")).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let reference = format!("{}?{}", pushed.digest, query.join("&"));
    let answer = registry.put(&repository, &reference, &pushed).await?;
    let named = answer.head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("oci-tag"));
    let named: Vec<String> = named.flat_map(|(_, value)| value.split(',').map(|tag| tag.trim().to_owned())).collect();
    if named.is_empty() && registry.ask(manifest(&repository, &tags[0])).await?.status() == 404 {
        return Err(Failure::NotRun(
            "no tag was set: this registry does not take tags with a digest, as it may".into(),
        ));
    }
    Ok((repository, pushed, tags, named))
}

async fn tagged(registry: Arc<Registry>) -> Outcome {
    let (repository, pushed, tags, named) = with_tags(&registry, 3).await?;
    for tag in &tags {
        ensure!(named.contains(tag), "OCI-Tag names {named:?} and not {tag}");
        let pulled = registry.want(&[200], manifest(&repository, tag)).await?;
        ensure!(pulled.body == pushed.bytes, "{tag}: other bytes");
    }
    Ok(named.join(", "))
}

async fn ten_tags(registry: Arc<Registry>) -> Outcome {
    let (repository, _, tags, named) = with_tags(&registry, 10).await?;
    for tag in &tags {
        registry.want(&[200], manifest(&repository, tag)).await?;
    }
    ensure!(named.len() == 10, "OCI-Tag names {named:?}");
    Ok(format!("{} tags", tags.len()))
}
