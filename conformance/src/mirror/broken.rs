//! Every way an upstream body can be wrong. A client may get an error or a body that stops short; never a complete body that is
//! not what the digest says; and once upstream is well again, the next pull is right.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Harness, Image, Outcome, check, ensure, herd::at_once, process};
use crate::{
    client::{Request, Response, Shape},
    hub::{At, Fault, Kind, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("blob cut half-way", "bar: the pull completes, resumed by Range", cut),
    check!("blob reset half-way", "bar: the pull completes, resumed by Range", reset),
    check!("blob stalls half-way", "the pull completes, resumed by Range", stalls),
    check!("blob cut every time", "invariant 1; never complete, next pull right", cut_always),
    check!("blob with its first byte wrong", "invariant 1; never complete, nothing kept", corrupt_start),
    check!("blob with a middle byte wrong", "invariant 1; never complete, nothing kept", corrupt_middle),
    check!("blob with its last byte wrong", "invariant 1; never complete, nothing kept", corrupt_last),
    check!("a corrupt blob asked for by 30 at once", "invariants 1, 3; 30 told, no storm", corrupt_herd),
    check!("a corrupt blob assembled from ranges", "invariant 1; no way round it", corrupt_ranges),
    check!("a small corrupt blob", "invariant 1; below the bytes withheld", corrupt_small),
    check!("blob shorter than it is, by Content-Length", "invariant 1; never complete", short_length),
    check!("blob longer than it is, by Content-Length", "invariant 1; never complete", long_length),
    check!("blob gzip'd unasked", "invariants 1, 6; right bytes or an error", encoded),
    check!("HTML with 200 for a blob", "invariant 1; never complete, nothing kept", html_blob),
    check!("HTML with 200 for a manifest", "invariant 1; an error, nothing kept", html_manifest),
    check!("a corrupt manifest", "invariant 1; an error, nothing kept", corrupt_manifest),
    check!("another manifest under the asked digest", "invariant 1; an error, nothing kept", wrong_digest),
    check!("a Docker-Content-Digest that is not the body's", "invariant 1; an error or the right digest", bad_header),
    check!("a manifest cut half-way", "invariant 1; an error, next pull right", cut_manifest),
    check!("a manifest without end", "invariant 12; an error, memory bounded", endless),
];

/// An image whose manifests the mirror has, so that only blobs are still asked upstream.
async fn known(harness: &Harness, what: &str, layer: u64) -> Result<Image, Failure> {
    let image = harness.image(what, &[layer]).await?;
    for reference in [&image.tag, &image.digest, &image.manifest] {
        let answer = harness.client.get_manifest(&image.repository, reference).await?;
        ensure!(answer.complete(), "manifest {reference}: {}", answer.describe());
    }
    Ok(image)
}

fn on_layer(image: &Image) -> Match {
    Match::kind(Kind::BlobGet).reference(&image.layers[0].digest)
}

async fn layer(harness: &Harness, image: &Image) -> Result<Response, Failure> {
    Ok(harness.client.get_blob(&image.repository, &image.layers[0].digest).await?)
}

/// One broken download that the mirror mends before any client gets an error.
async fn mended(harness: Arc<Harness>, what: What) -> Outcome {
    let image = known(&harness, "mended", 4 << 20).await?;
    harness.hub.fault(Fault::once(what).on(on_layer(&image)));
    let answer = layer(&harness, &image).await?;
    let ranges = ranges_asked(&harness, &image);
    let downloads = harness.downloads(&image.layers[0].digest);
    let right = answer.complete() && answer.sha256 == image.layers[0].digest;
    ensure!(right, "the client got {}; {downloads} downloads upstream, ranges {ranges:?}", answer.describe());
    ensure!(!ranges.is_empty(), "completed, but by {downloads} whole downloads and no Range");
    ensure!(downloads <= 3, "{downloads} downloads, ranges {ranges:?}");
    Ok(format!(
        "right bytes after {:.1} s; upstream went on at {}",
        answer.timing.total.as_secs_f64(),
        ranges.join(", ")
    ))
}

fn ranges_asked(harness: &Harness, image: &Image) -> Vec<String> {
    let log = harness.hub.log();
    let of_it = log.iter().filter(|l| l.kind == Kind::CdnGet && l.reference == image.layers[0].digest);
    of_it.filter_map(|l| l.range.clone()).collect()
}

async fn cut(harness: Arc<Harness>) -> Outcome {
    mended(harness, What::Truncate(0.5)).await
}
async fn reset(harness: Arc<Harness>) -> Outcome {
    mended(harness, What::Reset(0.5)).await
}
async fn stalls(harness: Arc<Harness>) -> Outcome {
    mended(harness, What::Stall(0.5)).await
}

/// While `what` lasts no client gets a complete wrong body; when it is over, the pull is right.
async fn never_complete(harness: &Arc<Harness>, image: &Image, what: What) -> Outcome {
    harness.hub.fault(Fault::always(what).on(on_layer(image)));
    let digest = &image.layers[0].digest;
    let first = layer(harness, image).await?;
    let second = layer(harness, image).await?;
    for answer in [&first, &second] {
        let wrong = answer.complete() && answer.sha256 != *digest;
        ensure!(!wrong, "A COMPLETE WRONG BODY: {}, {}", answer.describe(), answer.sha256);
    }
    let bad = harness.downloads(digest);
    harness.hub.clear_faults();
    let healed = healed(harness, image).await?;
    Ok(format!("{}; {bad} downloads for two clients; {healed}", first.describe()))
}

/// A mirror may hold off for a moment from an upstream that has just lied to it; within 35 s it must pull again, and rightly.
async fn healed(harness: &Harness, image: &Image) -> Result<String, Failure> {
    let start = std::time::Instant::now();
    loop {
        let answer = layer(harness, image).await?;
        if answer.complete() && answer.status() == 200 {
            ensure!(answer.sha256 == image.layers[0].digest, "KEPT: after the fault a complete wrong body");
            break;
        }
        ensure!(start.elapsed().as_secs() < 35, "35 s after the fault: {}", answer.describe());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let after = start.elapsed();
    Ok(if after.as_secs() < 1 {
        "next pull right".into()
    } else {
        format!("right again after {:.1} s", after.as_secs_f64())
    })
}

async fn with_layer(harness: Arc<Harness>, bytes: u64, what: What) -> Outcome {
    let image = known(&harness, "broken", bytes).await?;
    never_complete(&harness, &image, what).await
}

async fn cut_always(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::Truncate(0.5)).await
}
async fn corrupt_start(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::Corrupt(At::Start)).await
}
async fn corrupt_middle(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::Corrupt(At::Middle)).await
}
async fn corrupt_last(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::Corrupt(At::Last)).await
}
async fn corrupt_small(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 500, What::Corrupt(At::Middle)).await
}
async fn short_length(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::ShortLength(1000)).await
}
async fn long_length(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::LongLength(1000)).await
}
async fn encoded(harness: Arc<Harness>) -> Outcome {
    with_layer(harness, 1 << 20, What::ContentEncoding).await
}
async fn html_blob(harness: Arc<Harness>) -> Outcome {
    let image = known(&harness, "html", 1 << 20).await?;
    // The registry itself answers with the page, as a captive portal would, instead of the redirect.
    never_complete(&harness, &image, What::Html).await
}

async fn corrupt_herd(harness: Arc<Harness>) -> Outcome {
    let image = known(&harness, "corrupt-herd", 4 << 20).await?;
    let digest = image.layers[0].digest.clone();
    harness.pace(Some(8 << 20), Duration::ZERO);
    harness.hub.fault(Fault::always(What::Corrupt(At::Middle)).on(on_layer(&image)));
    let answers = at_once(30, |_| {
        let (harness, image) = (harness.clone(), image.clone());
        async move { layer(&harness, &image).await }
    })
    .await;
    for answer in answers.into_iter().flatten() {
        ensure!(!answer.complete() || answer.sha256 == digest, "A COMPLETE WRONG BODY: {}", answer.describe());
    }
    let downloads = harness.downloads(&digest);
    ensure!(downloads <= 4, "{downloads} downloads of one corrupt blob for 30 clients");
    harness.pace(None, Duration::ZERO);
    harness.hub.clear_faults();
    let healed = healed(&harness, &image).await?;
    Ok(format!("30 got an error, {downloads} downloads; {healed}"))
}

async fn corrupt_ranges(harness: Arc<Harness>) -> Outcome {
    let image = known(&harness, "corrupt-ranges", 1 << 20).await?;
    let (digest, size) = (&image.layers[0].digest, image.layers[0].size);
    harness.hub.fault(Fault::always(What::Corrupt(At::Middle)).on(on_layer(&image)));
    let path = harness.client.blob(&image.repository, digest);
    // Overlapping parts, asked one after the other: together they would be the whole wrong body.
    let (mut got, step) = (Vec::new(), size / 4);
    for first in (0..size).step_by(step as usize) {
        let last = (first + step - 1).min(size - 1);
        let part = harness.client.send(&Request::get(path.clone()).range(format!("bytes={first}-{last}"))).await?;
        if part.complete() && part.length == last - first + 1 {
            got.push((first, last));
        }
    }
    let covered: u64 = got.iter().map(|(first, last)| last - first + 1).sum();
    ensure!(covered < size, "ranges cover the whole corrupt blob: {got:?}");
    harness.hub.clear_faults();
    let healed = healed(&harness, &image).await?;
    Ok(format!("{covered} of {size} bytes could be had; {healed}"))
}

/// While `what` lasts, a manifest asked by `by_digest` or by tag is an error (or right); afterwards it is right.
async fn manifest_never_wrong(harness: Arc<Harness>, what: What) -> Outcome {
    let image = harness.image("bad-manifest", &[1000]).await?;
    harness.hub.fault(Fault::always(what).on(Match::kind(Kind::ManifestGet).repository(&image.repository)));
    let mut figures = Vec::new();
    for reference in [&image.tag, &image.manifest] {
        let want = if *reference == image.tag { &image.digest } else { reference };
        let answer = harness.client.get_manifest(&image.repository, reference).await?;
        let wrong = answer.complete() && answer.sha256 != *want;
        ensure!(!wrong, "A COMPLETE WRONG MANIFEST for {reference}: {}, {}", answer.describe(), answer.sha256);
        ensure!(answer.status() != 404, "a broken answer reported as absence: {}", answer.describe());
        figures.push(answer.status().to_string());
    }
    let spent = harness.spent(&image);
    harness.hub.clear_faults();
    let start = std::time::Instant::now();
    loop {
        match harness.client.pull(&image.repository, &image.tag, Shape::TagGet).await {
            Ok(pull) if pull.digest == image.digest => break,
            Ok(pull) => return Err(format!("KEPT: after the fault the tag is {}", pull.digest).into()),
            Err(sentence) => ensure!(start.elapsed().as_secs() < 35, "35 s after the fault: {sentence}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(format!("by tag {}, by digest {}; upstream meanwhile: {spent}; next pull right", figures[0], figures[1]))
}

async fn html_manifest(harness: Arc<Harness>) -> Outcome {
    manifest_never_wrong(harness, What::Html).await
}
async fn corrupt_manifest(harness: Arc<Harness>) -> Outcome {
    manifest_never_wrong(harness, What::Corrupt(At::Middle)).await
}
async fn wrong_digest(harness: Arc<Harness>) -> Outcome {
    manifest_never_wrong(harness, What::WrongDigest).await
}
async fn bad_header(harness: Arc<Harness>) -> Outcome {
    manifest_never_wrong(harness, What::BadDigestHeader).await
}
async fn cut_manifest(harness: Arc<Harness>) -> Outcome {
    manifest_never_wrong(harness, What::Truncate(0.5)).await
}
async fn endless(harness: Arc<Harness>) -> Outcome {
    let pid = harness.pid().await;
    if let Some(pid) = pid {
        process::forget_peak(pid);
    }
    let before = pid.and_then(process::resident).unwrap_or_default();
    let figure = manifest_never_wrong(harness, What::Endless(1 << 30)).await?;
    let Some(pid) = pid else { return Ok(figure) };
    let grown = process::peak(pid).unwrap_or_default().saturating_sub(before) >> 20;
    ensure!(grown < 64, "memory grew by {grown} MiB");
    Ok(format!("{figure}; memory grew by {grown} MiB"))
}
