//! end-7a and end-7b: a manifest is kept as it was sent, under the names it was sent for, or refused.

use std::sync::Arc;

use serde_json::json;

use super::{
    Check, Registry, check,
    content::{IMAGE, Manifest, sha256},
    server::{by, manifest, putting},
};
use crate::check::{Failure, Outcome, ensure};

pub(super) const CHECKS: &[Check] = &[
    check!("every byte is kept: blanks, order, fields nobody knows", "end-7a MUST", exact),
    check!("a tag that is pushed again moves, and the old manifest stays", "end-7a MUST", moved),
    check!("a tag of 128 characters", "end-7a MUST", long_tag),
    check!("parameters of the Content-Type are not looked at", "end-7a SHOULD", parameters),
    check!("PUT by the digest of other bytes is refused, and nothing is kept", "end-7a MUST", mismatch),
    check!("PUT by what is neither tag nor digest is refused", "end-7a MUST", bad_reference),
    check!("a manifest beyond all measure is 413", "end-7a SHOULD", too_large),
    check!("what is no manifest is refused", "end-7a MUST", no_manifest),
    check!("PUT with ten tags sets ten tags", "end-7b SHOULD", ten_tags),
];

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

/// An image manifest of so many bytes.
async fn sized(registry: &Registry, repository: &str, size: usize) -> Result<Manifest, Failure> {
    let mut parts = registry.parts(repository).await?;
    let bare = Manifest::of(IMAGE, parts.clone()).bytes.len() + r#","annotations":{"filler":""}"#.len();
    parts["annotations"] = json!({ "filler": "A".repeat(size - bare) });
    Ok(Manifest::of(IMAGE, parts))
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

async fn ten_tags(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    let pushed = Manifest::of(IMAGE, registry.parts(&repository).await?);
    let tags: Vec<String> = (0..10).map(|number| format!("tag-{number}")).collect();
    let answer = registry.put(&repository, &format!("{}?tag={}", pushed.digest, tags.join("&tag=")), &pushed).await?;
    let named = answer.head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("oci-tag"));
    let named: Vec<&str> = named.flat_map(|(_, value)| value.split(',').map(str::trim)).collect();
    if named.is_empty() && registry.ask(manifest(&repository, &tags[0])).await?.status() == 404 {
        return Err(Failure::NotRun("this registry does not take tags with a digest, as it may".into()));
    }
    ensure!(named.len() == 10, "OCI-Tag names {named:?}");
    for tag in &tags {
        ensure!(named.contains(&tag.as_str()), "OCI-Tag names {named:?} and not {tag}");
        let pulled = registry.want(&[200], manifest(&repository, tag)).await?;
        ensure!(pulled.body == pushed.bytes, "{tag}: other bytes");
    }
    Ok(named.join(", "))
}
