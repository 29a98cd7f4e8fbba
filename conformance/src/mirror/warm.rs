//! What is here already is served whatever upstream does, and costs nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Check, Harness, Image, Outcome, check, ensure, herd::at_once};
use crate::{
    client::{Request, Shape},
    hub::{Fault, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("warm pulls in every shape ask no upstream", "invariant 9; 0 requests upstream", asks_no_upstream, LongTtl),
    check!("warm: pull limit reached (budget 0)", "bar: served, 0 manifest GETs", no_budget),
    check!("warm: hub down", "bar: served, 0 manifest GETs", hub_down),
    check!("warm: abuse 429", "bar: served, 0 manifest GETs", abuse),
    check!("warm: token service down", "bar: served, 0 manifest GETs", token_down),
    check!("warm: token service slow", "bar: served, not delayed", token_slow, LongTtl),
    check!("warm manifest: headers and If-None-Match", "spec end-3; RFC 9110 section 13", headers),
    check!("warm HEAD is the GET without its body", "spec end-2, end-3", heads),
    check!("200 clients on a warm image", "invariant 9; 200 right, 0 manifest GETs", many),
];

const SHAPES: [Shape; 4] = [Shape::HeadFirst, Shape::Docker, Shape::TagGet, Shape::DigestOnly];

async fn warm_image(harness: &Harness) -> Result<Image, String> {
    harness.warm_image("warm", &[200_000, 1 << 20]).await
}

/// Pulls the image in every shape; how long the slowest took.
async fn all_shapes(harness: &Harness, image: &Image) -> Result<Duration, String> {
    let mut slowest = Duration::ZERO;
    for shape in SHAPES {
        let reference = if shape == Shape::DigestOnly { &image.digest } else { &image.tag };
        let start = Instant::now();
        let pull = harness.client.pull(&image.repository, reference, shape).await;
        let pull =
            pull.map_err(|sentence| format!("{}: {sentence}; upstream: {}", shape.name(), harness.spent(image)))?;
        if pull.digest != image.digest {
            return Err(format!("{}: pulled {}", shape.name(), pull.digest));
        }
        slowest = slowest.max(start.elapsed());
    }
    Ok(slowest)
}

async fn asks_no_upstream(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    let before = harness.requests();
    all_shapes(&harness, &image).await?;
    let asked = harness.requests() - before;
    ensure!(asked == 0, "{asked} requests upstream for 4 warm pulls; in all: {}", harness.spent(&image));
    Ok("4 pulls, 0 requests upstream".into())
}

/// Warm pulls in every shape while `trouble` lasts.
async fn while_in_trouble(harness: Arc<Harness>, image: Image) -> Outcome {
    let before = harness.spent(&image).manifest_gets;
    let slowest = all_shapes(&harness, &image).await?;
    let spent = harness.spent(&image);
    let counted = spent.manifest_gets - before;
    ensure!(counted == 0, "{counted} manifest GETs for warm pulls; upstream: {spent}");
    Ok(format!("4 pulls served, slowest {:.2} s, 0 manifest GETs", slowest.as_secs_f64()))
}

async fn no_budget(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    harness.hub.set_budget(0);
    // One cold pull is refused first, so that the mirror knows.
    let other = harness.image("cold", &[100]).await?;
    harness.client.get_manifest(&other.repository, &other.tag).await?;
    while_in_trouble(harness, image).await
}

async fn hub_down(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    harness.hub.down().await;
    while_in_trouble(harness, image).await
}

async fn abuse(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    harness.hub.fault(Fault::always(What::Abuse(Some(2))));
    let other = harness.repository("cold");
    harness.client.get_manifest(&other, "latest").await?;
    while_in_trouble(harness, image).await
}

async fn token_down(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    harness.hub.fault(Fault::always(What::TokenStatus(503)));
    while_in_trouble(harness, image).await
}

async fn token_slow(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    harness.hub.fault(Fault::always(What::TokenSlow(Duration::from_secs(20))));
    let start = Instant::now();
    let figure = while_in_trouble(harness, image).await?;
    ensure!(start.elapsed() < Duration::from_secs(3), "four warm pulls took {:?}", start.elapsed());
    Ok(figure)
}

async fn headers(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    let kind = answer.head.header("content-type").unwrap_or_default();
    ensure!(kind == "application/vnd.oci.image.index.v1+json", "Content-Type {kind:?} of an OCI index");
    ensure!(answer.head.digest() == Some(&image.digest), "Docker-Content-Digest {:?}", answer.head.digest());
    ensure!(answer.head.header("content-encoding").is_none(), "Content-Encoding on a manifest");
    let etag = answer.head.header("etag").ok_or("no ETag")?.to_owned();
    ensure!(etag == format!("\"{}\"", image.digest), "ETag {etag}");
    let path = harness.client.manifest(&image.repository, &image.tag);
    let same = Request::get(path.clone()).accepting_manifests().with("If-None-Match", etag);
    let same = harness.client.send(&same).await?;
    ensure!(same.status() == 304, "If-None-Match with that ETag: {}", same.describe());
    ensure!(same.length == 0, "a 304 with {} bytes", same.length);
    let other = Request::get(path).accepting_manifests().with("If-None-Match", "\"sha256:0\"");
    let other = harness.client.send(&other).await?;
    ensure!(other.status() == 200, "If-None-Match with another ETag: {}", other.describe());
    Ok("Content-Type bare, Docker-Content-Digest, ETag, 304".into())
}

async fn heads(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    let paths = [
        harness.client.manifest(&image.repository, &image.tag),
        harness.client.manifest(&image.repository, &image.manifest),
        harness.client.blob(&image.repository, &image.layers[0].digest),
    ];
    for path in paths {
        let get = harness.client.send(&Request::get(path.clone()).accepting_manifests()).await?;
        let mut connection = harness.client.connect().await?;
        let head = connection.exchange(&Request::head(path.clone()).accepting_manifests()).await?;
        // The same connection answers again only if the HEAD had no body.
        let again = connection.exchange(&Request::head(path.clone()).accepting_manifests()).await?;
        ensure!(get.status() == 200 && head.status() == 200 && again.status() == 200, "{path}: {}", head.describe());
        for name in ["content-type", "content-length", "docker-content-digest"] {
            let (of_get, of_head) = (get.head.header(name), head.head.header(name));
            ensure!(of_get == of_head && of_get.is_some(), "{path}: {name} is {of_get:?} on GET, {of_head:?} on HEAD");
        }
    }
    Ok("manifest by tag, by digest, blob".into())
}

async fn many(harness: Arc<Harness>) -> Outcome {
    let image = warm_image(&harness).await?;
    let before = harness.spent(&image).manifest_gets;
    let start = Instant::now();
    let pulls = at_once(200, |i| {
        let (client, image) = (harness.client.clone(), image.clone());
        async move { client.pull(&image.repository, &image.tag, SHAPES[i % 3]).await }
    })
    .await;
    let took = start.elapsed();
    for pull in pulls {
        pull?;
    }
    let counted = harness.spent(&image).manifest_gets - before;
    ensure!(counted == 0, "{counted} manifest GETs");
    Ok(format!("200 right in {:.2} s, 0 manifest GETs", took.as_secs_f64()))
}
