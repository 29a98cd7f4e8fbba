//! Tag lists, referrers, the catalog: complete, paged as the spec says, and cached.

use std::sync::Arc;

use super::{Check, Failure, Harness, Image, Outcome, check, ensure};
use crate::{
    client::{Request, Response, Shape},
    hub::{Artifact, Fault, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("a tag list that upstream pages is complete", "spec end-8a; every page followed", complete),
    check!("a tag list in pages of n, by Link", "spec end-8b; n, last, n=0", paged),
    check!("a warm tag list", "invariant 9; 0 requests upstream", warm_list, LongTtl),
    check!("the tag list of a missing repository", "invariant 5; OCI 404", missing_list),
    check!("referrers where upstream offers them", "spec end-12; filter announced", native),
    check!("referrers where upstream does not", "spec end-12; from the tag schema", fallback),
    check!("referrers of what has none", "spec end-12a; empty index, not 404", none),
    check!("_catalog lists what is cached", "extension; what was pulled is in it", catalog),
    check!("a Link to another host is not followed", "invariant 11; nothing reaches it", link_evil),
    check!("a Link that leads back to itself", "invariant 12; bounded", link_loop),
];

async fn tagged(harness: &Harness, what: &str, count: usize) -> Result<(Image, Vec<String>), String> {
    let image = harness.image(what, &[1000]).await?;
    // Byte order: capitals before small letters, 10 before 9.
    let mut tags: Vec<String> =
        (1..count).map(|i| if i % 5 == 0 { format!("V{i}") } else { format!("v{i}") }).collect();
    for tag in &tags {
        harness.hub.retag(&image.repository, tag, &image.digest);
    }
    tags.push(image.tag.clone());
    tags.sort();
    Ok((image, tags))
}

fn tags_of(answer: &Response) -> Result<Vec<String>, Failure> {
    ensure!(answer.status() == 200 && answer.complete(), "tags/list: {}", answer.describe());
    let json = answer.json();
    let tags = json.get("tags").and_then(|tags| tags.as_array()).ok_or("tags/list without tags")?;
    Ok(tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
}

async fn list(harness: &Harness, image: &Image, query: &str) -> Result<Response, Failure> {
    Ok(harness.client.send(&Request::get(harness.client.path(&image.repository, &format!("tags/list{query}")))).await?)
}

async fn complete(harness: Arc<Harness>) -> Outcome {
    let (image, tags) = tagged(&harness, "pages", 40).await?;
    harness.hub.adjust(|settings| settings.page = Some(7));
    let answer = list(&harness, &image, "").await?;
    let have = tags_of(&answer)?;
    ensure!(have == tags, "{} of {} tags, or in another order: {have:?}", have.len(), tags.len());
    Ok(format!("{} tags in byte order; upstream: {}", have.len(), harness.spent(&image)))
}

async fn paged(harness: Arc<Harness>) -> Outcome {
    let (image, tags) = tagged(&harness, "paging", 25).await?;
    let (mut have, mut query, mut pages) = (Vec::new(), "?n=10".to_owned(), 0);
    loop {
        let answer = list(&harness, &image, &query).await?;
        let page = tags_of(&answer)?;
        ensure!(page.len() <= 10, "n=10 answered with {}", page.len());
        have.extend(page);
        pages += 1;
        let Some(link) = answer.head.header("link") else { break };
        let next = next_of(link).ok_or_else(|| format!("Link: {link}"))?;
        ensure!(next.contains("/tags/list?"), "Link leads to {next}");
        query = next[next.find('?').unwrap_or_default()..].to_owned();
        ensure!(pages < 10, "the pages do not end");
    }
    ensure!(have == tags, "by pages {have:?}");
    let after = tags_of(&list(&harness, &image, &format!("?last={}", tags[4])).await?)?;
    ensure!(after == tags[5..], "last={}: {after:?}", tags[4]);
    let zero = list(&harness, &image, "?n=0").await?;
    ensure!(tags_of(&zero)?.is_empty() && zero.head.header("link").is_none(), "n=0: {}", zero.text());
    Ok(format!("25 tags in {pages} pages; last; n=0 empty without Link"))
}

/// The target of `<target>; rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(target)
}

async fn warm_list(harness: Arc<Harness>) -> Outcome {
    let (image, tags) = tagged(&harness, "warm-list", 5).await?;
    list(&harness, &image, "").await?;
    let before = harness.requests();
    let again = tags_of(&list(&harness, &image, "").await?)?;
    let paged = tags_of(&list(&harness, &image, "?n=2").await?)?;
    let asked = harness.requests() - before;
    ensure!(again == tags && paged == tags[..2], "{again:?}, {paged:?}");
    ensure!(asked == 0, "{asked} requests upstream for a warm list");
    Ok("2 lists, 0 requests upstream".into())
}

async fn missing_list(harness: Arc<Harness>) -> Outcome {
    let path = harness.client.path(&harness.repository("nowhere"), "tags/list");
    let answer = harness.client.send(&Request::get(path)).await?;
    let code = answer.error_code();
    ensure!(answer.status() == 404 && code.as_deref() == Some("NAME_UNKNOWN"), "came {}", answer.describe());
    Ok("404 NAME_UNKNOWN".into())
}

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom";

async fn signed(harness: &Harness, what: &str) -> Result<(Image, Vec<String>), String> {
    let image = harness.image(what, &[1000]).await?;
    let mut digests = Vec::new();
    for (kind, content) in [(SIGNATURE, "signed"), (SBOM, "{}")] {
        let artifact = Artifact {
            repository: image.repository.clone(),
            subject: image.digest.clone(),
            artifact_type: kind.to_owned(),
            annotations: vec![("org.example.of".to_owned(), image.digest.clone())],
            content: bytes::Bytes::from_static(content.as_bytes()),
        };
        digests.push(harness.hub.push_referrer(artifact).digest);
    }
    Ok((image, digests))
}

async fn ask_referrers(harness: &Harness, image: &Image, query: &str) -> Result<(Response, Vec<String>), Failure> {
    let path = harness.client.path(&image.repository, &format!("referrers/{}{query}", image.digest));
    let answer = harness.client.send(&Request::get(path)).await?;
    ensure!(answer.status() == 200, "referrers{query}: {}; upstream: {}", answer.describe(), harness.spent(image));
    let kind = answer.head.header("content-type").unwrap_or_default();
    ensure!(kind == "application/vnd.oci.image.index.v1+json", "referrers as {kind:?}");
    let json = answer.json();
    let manifests = json.get("manifests").and_then(|m| m.as_array()).ok_or("an index without manifests")?;
    let digests = manifests.iter().filter_map(|m| m.get("digest")?.as_str().map(str::to_owned)).collect();
    Ok((answer, digests))
}

async fn both_and_one(harness: &Harness, image: &Image, digests: &[String]) -> Result<(), Failure> {
    let (_, mut all) = ask_referrers(harness, image, "").await?;
    all.sort();
    let mut want = digests.to_vec();
    want.sort();
    ensure!(all == want, "referrers are {all:?}, pushed {want:?}; upstream: {}", harness.spent(image));
    let (answer, one) = ask_referrers(harness, image, &format!("?artifactType={SIGNATURE}")).await?;
    let applied = answer.head.header("oci-filters-applied").unwrap_or("none");
    ensure!(one == digests[..1], "artifactType={SIGNATURE}: {one:?}");
    ensure!(applied == "artifactType", "a filtered list with OCI-Filters-Applied: {applied}");
    Ok(())
}

async fn native(harness: Arc<Harness>) -> Outcome {
    let (image, digests) = signed(&harness, "signed").await?;
    both_and_one(&harness, &image, &digests).await?;
    Ok(format!("2 referrers, 1 filtered; upstream: {}", harness.spent(&image)))
}

async fn fallback(harness: Arc<Harness>) -> Outcome {
    harness.hub.adjust(|settings| settings.referrers = false);
    let (image, digests) = signed(&harness, "signed-by-tag").await?;
    both_and_one(&harness, &image, &digests).await?;
    Ok(format!("2 referrers, 1 filtered; upstream: {}", harness.spent(&image)))
}

async fn none(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("unsigned", &[1000]).await?;
    let (_, with_api) = ask_referrers(&harness, &image, "").await?;
    harness.hub.adjust(|settings| settings.referrers = false);
    let image = harness.image("unsigned", &[1000]).await?;
    let (_, without) = ask_referrers(&harness, &image, "").await?;
    ensure!(with_api.is_empty() && without.is_empty(), "{with_api:?}, {without:?}");
    Ok("an empty index, with and without the API upstream".into())
}

async fn catalog(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("catalog", &[1000]).await?;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let answer = harness.client.send(&Request::get("/v2/_catalog?n=10000")).await?;
    ensure!(answer.status() == 200, "_catalog: {}", answer.describe());
    let json = answer.json();
    let names = json.get("repositories").and_then(|r| r.as_array()).ok_or("_catalog without repositories")?;
    let listed = names.iter().filter_map(|name| name.as_str()).any(|name| name.ends_with(&image.repository));
    ensure!(listed, "{} was pulled and is not among {} repositories", image.repository, names.len());
    Ok(format!("{} repositories", names.len()))
}

async fn link_evil(harness: Arc<Harness>) -> Outcome {
    let (image, _) = tagged(&harness, "evil-link", 5).await?;
    let before = harness.hub.hostile_requests().len();
    harness.hub.adjust(|settings| settings.page = Some(2));
    harness.hub.fault(Fault::always(What::LinkEvil).on(Match::any().repository(&image.repository)));
    let answer = list(&harness, &image, "").await?;
    let reached = harness.hub.hostile_requests().len() - before;
    ensure!(reached == 0, "{reached} requests followed a Link to another host");
    Ok(format!("not followed; the client got {}", answer.status()))
}

async fn link_loop(harness: Arc<Harness>) -> Outcome {
    let (image, _) = tagged(&harness, "link-loop", 5).await?;
    harness.hub.adjust(|settings| settings.page = Some(2));
    harness.hub.fault(Fault::always(What::LinkLoop).on(Match::any().repository(&image.repository)));
    let answer = list(&harness, &image, "").await?;
    let spent = harness.spent(&image);
    ensure!(spent.tags <= 101, "{} pages asked for", spent.tags);
    ensure!(answer.timing.total.as_secs() <= 10, "took {:?}", answer.timing.total);
    Ok(format!("{} after {} pages", answer.status(), spent.tags))
}
