//! The shapes clients ask in: whole pulls, resumes, far-ahead and suffix ranges, leavers and stallers.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{Check, Harness, Image, Outcome, check, ensure, herd::at_once};
use crate::{
    client::{Connection, Request, Response, Shape, hex},
    hub::{Fault, Kind, Match, Progress, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("one docker pull of a 4-blob image", "bar: 4 blob GETs, 2 manifest GETs, 1 token", docker),
    check!("one containerd pull", "client shape: HEAD first", containerd),
    check!("one podman pull", "client shape: tag GET", podman),
    check!("one pull by digest", "client shape: digest only", pinned),
    check!("HEAD of a cold blob downloads nothing", "client shape; Content-Length without a GET", head_blob),
    check!("cold resume, bytes=N-", "client shape: ranged resume; 1 download", cold_resume),
    check!("warm ranges: closed, open, suffix, first byte", "client shape; RFC 9110 section 14", warm_ranges),
    check!("ranges that cannot be met", "client shape; 416, malformed is ignored", odd_ranges),
    check!("closed range far ahead of a cold fill", "client shape: lazy puller; 1 whole download", far_ahead),
    check!("suffix range of a cold blob", "client shape: lazy puller; 1 whole download", cold_suffix),
    check!("open ranges cut early by the client", "client shape: containerd chunks; 1 download", cut_early),
    check!("the only client leaves", "invariant 4; 1 download", only_client_leaves),
    check!("the first of ten clients leaves", "invariant 4; 9 right pulls, 1 download", leader_leaves),
    check!("one client stalls, another does not notice", "invariant 4", staller),
    check!("a late client reads from byte 0 of a running fill", "invariant 3; 1 download", late),
];

async fn docker(harness: Arc<Harness>) -> Outcome {
    one_pull(harness, Shape::Docker, &[1 << 20, 2 << 20, 300_000]).await
}
async fn containerd(harness: Arc<Harness>) -> Outcome {
    one_pull(harness, Shape::HeadFirst, &[1 << 20, 300_000]).await
}
async fn podman(harness: Arc<Harness>) -> Outcome {
    one_pull(harness, Shape::TagGet, &[1 << 20, 300_000]).await
}
async fn pinned(harness: Arc<Harness>) -> Outcome {
    one_pull(harness, Shape::DigestOnly, &[1 << 20, 300_000]).await
}

async fn one_pull(harness: Arc<Harness>, shape: Shape, layers: &[u64]) -> Outcome {
    let image = harness.image("one", layers).await?;
    let reference = if shape == Shape::DigestOnly { &image.digest } else { &image.tag };
    let pull = harness.client.pull(&image.repository, reference, shape).await?;
    let spent = harness.spent(&image);
    ensure!(pull.digest == image.digest, "pulled {}, pushed {}", pull.digest, image.digest);
    ensure!(spent.is_one_pull(&image), "upstream: {spent}");
    Ok(format!("upstream: {spent}"))
}

async fn head_blob(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("head", &[1 << 20]).await?;
    let layer = &image.layers[0];
    let head = Request::head(harness.client.blob(&image.repository, &layer.digest));
    let answer = harness.client.send(&head).await?;
    ensure!(answer.status() == 200, "HEAD of a cold blob: {}", answer.describe());
    let length = answer.head.content_length();
    ensure!(length == Some(layer.size), "Content-Length {length:?} for {} bytes", layer.size);
    ensure!(answer.head.digest() == Some(&layer.digest), "Docker-Content-Digest {:?}", answer.head.digest());
    let spent = harness.spent(&image);
    ensure!(spent.all_blob_gets() == 0, "upstream: {spent}");
    Ok(format!("upstream: {spent}"))
}

/// GET of a range of the image's first layer.
async fn ranged(harness: &Harness, image: &Image, range: &str) -> Result<Response, String> {
    let get = Request::get(harness.client.blob(&image.repository, &image.layers[0].digest)).range(range);
    harness.client.send(&get).await.map_err(|e| format!("Range: {range}: {e}"))
}

/// A 206 of exactly these bytes (end inclusive), by its headers and its length.
fn is_part(answer: &Response, first: u64, last: u64, size: u64) -> Result<(), String> {
    let want = format!("bytes {first}-{last}/{size}");
    let have = answer.head.header("content-range").unwrap_or("none");
    if answer.status() != 206 || !answer.complete() || have != want || answer.length != last + 1 - first {
        return Err(format!("want 206 {want}, came {} with Content-Range {have}", answer.describe()));
    }
    Ok(())
}

async fn cold_resume(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("resume", &[4 << 20]).await?;
    let size = image.layers[0].size;
    harness.pace(Some(8 << 20), Duration::ZERO);
    let from = size / 2;
    let tail = ranged(&harness, &image, &format!("bytes={from}-")).await?;
    is_part(&tail, from, size - 1, size)?;
    let head = ranged(&harness, &image, &format!("bytes=0-{}", from - 1)).await?;
    is_part(&head, 0, from - 1, size)?;
    joined(&[&head, &tail], &image)?;
    let downloads = harness.downloads(&image.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads for one resumed pull");
    Ok(format!("both halves right, {downloads} download"))
}

/// The parts, one after the other, are the image's first layer.
fn joined(parts: &[&Response], image: &Image) -> Result<(), String> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(&part.body);
    }
    let digest = format!("sha256:{}", crate::client::hex(&hash.finalize()));
    if digest == image.layers[0].digest { Ok(()) } else { Err(format!("the parts together are {digest}")) }
}

async fn warm_ranges(harness: Arc<Harness>) -> Outcome {
    let image = harness.warm_image("ranges", &[1 << 20]).await?;
    let size = image.layers[0].size;
    let whole = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    ensure!(whole.complete() && whole.sha256 == image.layers[0].digest, "the whole: {}", whole.describe());
    let kind = whole.head.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("application/octet-stream"), "Content-Type {kind:?} of a blob (Clair takes octet-stream)");
    let wants = [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        ("bytes=5000-", 5000, size - 1),
        ("bytes=-100", size - 100, size - 1),
    ];
    for (range, first, last) in wants {
        let part = ranged(&harness, &image, range).await?;
        is_part(&part, first, last, size).map_err(|e| format!("{range}: {e}"))?;
        let same = part.body == whole.body[first as usize..=last as usize];
        ensure!(same, "{range}: other bytes than the whole has there");
    }
    let beyond = ranged(&harness, &image, &format!("bytes=100-{}", size * 2)).await?;
    is_part(&beyond, 100, size - 1, size).map_err(|e| format!("an end past the end: {e}"))?;
    Ok("0-0, 1000-1999, 5000-, -100 and an end past the end: right".into())
}

async fn odd_ranges(harness: Arc<Harness>) -> Outcome {
    let image = harness.warm_image("odd", &[100_000]).await?;
    let size = image.layers[0].size;
    let past = ranged(&harness, &image, &format!("bytes={size}-")).await?;
    let content_range = past.head.header("content-range").unwrap_or("none").to_owned();
    ensure!(past.status() == 416, "bytes=<size>-: want 416, came {}", past.describe());
    ensure!(content_range == format!("bytes */{size}"), "416 with Content-Range {content_range}");
    for odd in ["bytes=abc", "lines=1-2", "bytes=9-5", "bytes="] {
        let answer = ranged(&harness, &image, odd).await?;
        let fine = answer.status() == 200 && answer.sha256 == image.layers[0].digest;
        ensure!(fine || matches!(answer.status(), 400 | 416), "Range: {odd}: {}", answer.describe());
    }
    let several = ranged(&harness, &image, "bytes=0-1,5-6").await?;
    let kind = several.head.header("content-type").unwrap_or_default().to_owned();
    let fine = match several.status() {
        200 => several.sha256 == image.layers[0].digest,
        206 => kind.starts_with("multipart/byteranges"),
        status => status == 400,
    };
    ensure!(fine, "two ranges at once: {} as {kind} (podman takes 200, multipart or 400)", several.describe());
    Ok(format!("416 past the end; two ranges: {}", several.status()))
}

async fn far_ahead(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("lazy", &[48 << 20]).await?;
    let size = image.layers[0].size;
    harness.pace(Some(4 << 20), Duration::ZERO);
    let range = format!("bytes={}-{}", size - 100_000, size - 50_000);
    let lazy = ranged(&harness, &image, &range).await?;
    is_part(&lazy, size - 100_000, size - 50_000, size)?;
    let took = lazy.timing.total;
    harness.pace(None, Duration::ZERO);
    let whole = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    ensure!(whole.complete() && whole.sha256 == image.layers[0].digest, "the whole afterwards: {}", whole.describe());
    let again = ranged(&harness, &image, &range).await?;
    ensure!(again.sha256 == lazy.sha256, "the cold range had other bytes than the warm one");
    let (whole_downloads, ranged_downloads) = downloads_by_kind(&harness, &image);
    ensure!(whole_downloads <= 1, "{whole_downloads} whole downloads");
    ensure!(took < Duration::from_secs(6), "the range took {took:?} while the whole takes 12 s");
    Ok(format!(
        "answered after {:.0} ms; upstream: {whole_downloads} whole, {ranged_downloads} ranged",
        took.as_secs_f64() * 1e3
    ))
}

/// Downloads of the first layer without and with a closed range.
fn downloads_by_kind(harness: &Harness, image: &Image) -> (usize, usize) {
    let of_it =
        |logged: &&crate::hub::Logged| logged.kind == Kind::CdnGet && logged.reference == image.layers[0].digest;
    let log = harness.hub.log();
    let closed = |logged: &crate::hub::Logged| logged.range.as_deref().is_some_and(|range| !range.ends_with('-'));
    let all = log.iter().filter(of_it).count();
    let ranged = log.iter().filter(of_it).filter(|logged| closed(logged)).count();
    (all - ranged, ranged)
}

async fn cold_suffix(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("suffix", &[8 << 20]).await?;
    let size = image.layers[0].size;
    harness.pace(Some(16 << 20), Duration::ZERO);
    let cold = ranged(&harness, &image, "bytes=-1000").await?;
    is_part(&cold, size - 1000, size - 1, size)?;
    let whole = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    ensure!(whole.complete() && whole.sha256 == image.layers[0].digest, "the whole afterwards: {}", whole.describe());
    let warm = ranged(&harness, &image, "bytes=-1000").await?;
    ensure!(warm.sha256 == cold.sha256, "the cold suffix had other bytes than the warm one");
    let (whole_downloads, ranged_downloads) = downloads_by_kind(&harness, &image);
    ensure!(whole_downloads <= 1, "{whole_downloads} whole downloads");
    Ok(format!("right; upstream: {whole_downloads} whole, {ranged_downloads} ranged"))
}

async fn cut_early(harness: Arc<Harness>) -> Outcome {
    const CHUNK: u64 = 2 << 20;
    let image = harness.image("chunks", &[16 << 20]).await?;
    let size = image.layers[0].size;
    harness.pace(Some(16 << 20), Duration::ZERO);
    let chunks = size.div_ceil(CHUNK);
    let parts = at_once(chunks as usize, |i| {
        let (harness, image) = (harness.clone(), image.clone());
        async move { read_then_leave(&harness, &image, i as u64 * CHUNK, CHUNK).await }
    })
    .await;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part?);
    }
    let digest = format!("sha256:{}", crate::client::hex(&hash.finalize()));
    ensure!(digest == image.layers[0].digest, "the chunks together are {digest}");
    let downloads = harness.downloads(&image.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads for {chunks} open ranges");
    Ok(format!("{chunks} chunks right, {downloads} download"))
}

/// `bytes=from-`, of which `length` bytes are read before the connection is dropped.
async fn read_then_leave(harness: &Harness, image: &Image, from: u64, length: u64) -> Result<Vec<u8>, String> {
    let text = |e: crate::client::Error| format!("bytes={from}-: {e}");
    let mut connection = Connection::open_small(harness.client.address(), 64 << 10).await.map_err(text)?;
    let get =
        Request::get(harness.client.blob(&image.repository, &image.layers[0].digest)).range(format!("bytes={from}-"));
    let mut incoming = connection.start(&get).await.map_err(text)?;
    if incoming.head.status != 206 {
        return Err(format!("bytes={from}-: {}", incoming.head.status));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length && incoming.piece(|piece| bytes.extend_from_slice(piece)).await.map_err(text)? {
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}

async fn only_client_leaves(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("leaver", &[12 << 20]).await?;
    harness.pace(Some(8 << 20), Duration::ZERO);
    leave_after(&harness, &image, 1 << 20).await?;
    finished(&harness, &image.layers[0].digest).await?;
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let downloads = harness.downloads(&image.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads: the fill did not go on when its client left");
    Ok(format!("the fill went on; {downloads} download, next pull right in {:.2} s", pull.total.as_secs_f64()))
}

/// A client that reads so many bytes of the first layer and drops the connection.
async fn leave_after(harness: &Harness, image: &Image, bytes: u64) -> Result<(), String> {
    let text = |e: crate::client::Error| format!("the client that leaves: {e}");
    let mut connection = harness.client.connect().await.map_err(text)?;
    let get = Request::get(harness.client.blob(&image.repository, &image.layers[0].digest));
    let mut incoming = connection.start(&get).await.map_err(text)?;
    incoming.discard(bytes).await.map_err(text)
}

/// Waits until the CDN has sent all of that blob once.
async fn finished(harness: &Harness, digest: &str) -> Result<(), String> {
    let done = |log: &[crate::hub::Logged]| {
        log.iter().any(|l| l.kind == Kind::CdnGet && l.reference == digest && l.progress == Progress::Sent)
    };
    if harness.hub.wait_for(done).await { Ok(()) } else { Err("the download did not go on to its end".into()) }
}

async fn leader_leaves(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("leader", &[12 << 20]).await?;
    harness.pace(Some(8 << 20), Duration::ZERO);
    let leaver = {
        let (harness, image) = (harness.clone(), image.clone());
        tokio::spawn(async move { leave_after(&harness, &image, 2 << 20).await })
    };
    let started = |log: &[crate::hub::Logged]| {
        log.iter().any(|l| l.kind == Kind::CdnGet && l.reference == image.layers[0].digest && l.bytes_sent > 0)
    };
    ensure!(harness.hub.wait_for(started).await, "the leader's download never began");
    let pulls = at_once(9, |_| {
        let (client, image) = (harness.client.clone(), image.clone());
        async move { client.pull(&image.repository, &image.tag, Shape::HeadFirst).await }
    })
    .await;
    leaver.await.map_err(|e| e.to_string())??;
    for pull in pulls {
        pull?;
    }
    let downloads = harness.downloads(&image.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads");
    Ok(format!("9 right pulls, {downloads} download"))
}

async fn staller(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("staller", &[24 << 20]).await?;
    harness.pace(Some(12 << 20), Duration::ZERO);
    let mut stalled = Connection::open_small(harness.client.address(), 8 << 10).await?;
    let get = Request::get(harness.client.blob(&image.repository, &image.layers[0].digest));
    let mut incoming = stalled.start(&get).await?;
    incoming.discard(1).await?;
    let other = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    let took = other.timing.total;
    ensure!(other.complete() && other.sha256 == image.layers[0].digest, "the other client: {}", other.describe());
    let downloads = harness.downloads(&image.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads");
    // A client that does not read is closed after 30 s at the earliest: who waited for it would take longer.
    ensure!(took < Duration::from_secs(20), "the other client took {took:?}; upstream alone takes 2 s");
    Ok(format!("the other took {:.2} s, upstream alone 2 s; {downloads} download", took.as_secs_f64()))
}

/// Upstream stops half-way until the late client has its first byte, so the byte can only come from the running fill.
async fn late(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("late", &[12 << 20]).await?;
    let digest = image.layers[0].digest.clone();
    harness.hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::CdnGet).reference(digest.clone())));
    let first = {
        let (client, repository, digest) = (harness.client.clone(), image.repository.clone(), digest.clone());
        tokio::spawn(async move { client.get_blob(&repository, &digest).await })
    };
    let half_way = |log: &[crate::hub::Logged]| {
        log.iter().any(|l| l.kind == Kind::CdnGet && l.reference == digest && l.bytes_sent > 4 << 20)
    };
    ensure!(harness.hub.wait_for(half_way).await, "the download never came to 4 MiB");
    let mut connection = Connection::open(harness.client.address()).await?;
    let mut incoming = connection.start(&Request::get(harness.client.blob(&image.repository, &digest))).await?;
    let mut hash = Sha256::new();
    incoming.piece(|piece| hash.update(piece)).await?;
    harness.hub.release();
    while incoming.piece(|piece| hash.update(piece)).await? {}
    let late = format!("sha256:{}", hex(&hash.finalize()));
    let first = first.await.map_err(|e| e.to_string())??;
    ensure!(first.sha256 == digest && first.complete(), "the first client: {}", first.describe());
    ensure!(late == digest, "the late client got {late}");
    let downloads = harness.downloads(&digest);
    ensure!(downloads == 1, "{downloads} downloads");
    Ok(format!("its first byte came while upstream stood still; {downloads} download"))
}
