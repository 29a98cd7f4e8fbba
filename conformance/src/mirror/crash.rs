//! kill -9 and SIGTERM: what is served afterwards is right, and what was paid for is not paid twice.

use std::{sync::Arc, time::Duration};

use super::{Check, Harness, Outcome, check, ensure, process::Program};
use crate::{
    client::{Request, Shape},
    hub::Kind,
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "kill -9 in the middle of a cold pull",
        "bar: right bytes, at most one more GET an object",
        mid_pull,
        Process
    ),
    check!("kill -9, then warm pulls with the hub down", "invariants 7, 8; all served", warm_after, Process),
    check!("starts with the hub down", "start needs no upstream", starts_alone, Process),
    check!("SIGTERM lets bodies in flight finish", "drain; exit code 0", drains, Process),
    check!("the index is lost", "invariant 8; all served, 0 requests upstream", index_lost, Process),
    check!("partial files are never served", "invariant 2; truncated on disk, whole to the client", partials, Process),
];

async fn mid_pull(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("kill", &[24 << 20, 500_000]).await?;
    let digest = image.layers[0].digest.clone();
    harness.pace(Some(8 << 20), Duration::ZERO);
    let pulling = {
        let (client, image) = (harness.client.clone(), image.clone());
        tokio::spawn(async move { client.pull(&image.repository, &image.tag, Shape::HeadFirst).await })
    };
    let half_way = |log: &[crate::hub::Logged]| {
        log.iter().any(|l| l.kind == Kind::CdnGet && l.reference == digest && l.bytes_sent > 8 << 20)
    };
    ensure!(harness.hub.wait_for(half_way).await, "the layer never came to 8 MiB");
    let started = {
        let mut process = harness.process().await?;
        process.kill().await?;
        process.restart().await?
    };
    ensure!(pulling.await.map_err(|e| e.to_string())?.is_err(), "a pull survived kill -9");
    harness.pace(None, Duration::ZERO);
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let spent = harness.spent(&image);
    ensure!(pull.digest == image.digest, "pulled {}", pull.digest);
    ensure!(spent.manifest_gets <= 4 && spent.most_for_one_blob() <= 2, "upstream: {spent}");
    let log = harness.hub.log();
    let again: Vec<_> = log.iter().filter(|l| l.kind == Kind::CdnGet && l.reference == digest).collect();
    let resumed = again.last().and_then(|l| l.range.clone()).unwrap_or_else(|| "from 0".into());
    Ok(format!(
        "answers {:.0} ms after its start; right bytes, the layer {resumed}; upstream: {spent}",
        started.as_secs_f64() * 1e3
    ))
}

async fn warm_after(harness: Arc<Harness>) -> Outcome {
    let image = harness.warm_image("warm-kill", &[1 << 20, 300_000]).await?;
    harness.hub.down().await;
    {
        let mut process = harness.process().await?;
        process.kill().await?;
        process.restart().await?;
    }
    for (shape, reference) in
        [(Shape::HeadFirst, &image.tag), (Shape::TagGet, &image.tag), (Shape::DigestOnly, &image.digest)]
    {
        harness.client.pull(&image.repository, reference, shape).await?;
    }
    Ok("pulled by tag and by digest".into())
}

async fn starts_alone(harness: Arc<Harness>) -> Outcome {
    harness.hub.down().await;
    let mut process = harness.process().await?;
    process.kill().await?;
    let took = process.restart().await?;
    Ok(format!("answers /v2/ after {:.0} ms", took.as_secs_f64() * 1e3))
}

async fn drains(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("drain", &[12 << 20]).await?;
    let digest = image.layers[0].digest.clone();
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    harness.pace(Some(6 << 20), Duration::ZERO);
    let mut connection = harness.client.connect().await?;
    let mut incoming = connection.start(&Request::get(harness.client.blob(&image.repository, &digest))).await?;
    // Not read, so that finish() hashes all of it.
    ensure!(incoming.head.status == 200, "{}", incoming.head.status);
    let ended = {
        let mut process = harness.process().await?;
        process.terminate()?;
        incoming.discard(0).await?;
        let answer = incoming.finish().await?;
        let ended = process.ended(Duration::from_secs(35)).await;
        process.restart().await?;
        ensure!(answer.complete() && answer.sha256 == digest, "the body in flight: {}", answer.describe());
        ended?
    };
    ensure!(ended, "the exit code is not 0");
    Ok("the body in flight was finished; exit code 0".into())
}

async fn index_lost(harness: Arc<Harness>) -> Outcome {
    let image = harness.warm_image("index", &[300_000]).await?;
    {
        let mut process = harness.process().await?;
        if !matches!(process.program(), Program::Weir(_)) {
            return Err(super::Failure::NotRun("only Weir has an index to lose".into()));
        }
        process.kill().await?;
        let index = process.data().join("index");
        ensure!(index.is_dir(), "no index directory in the data directory");
        std::fs::remove_dir_all(&index).map_err(|e| e.to_string())?;
        process.restart().await?;
    }
    harness.hub.down().await;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    harness.client.pull(&image.repository, &image.digest, Shape::DigestOnly).await?;
    Ok("pulled by tag and by digest with an index made anew and the hub down".into())
}

/// Every file that a reader could take for a blob is whole: the names under `blobs/` are digests, and hashing the files gives them.
async fn partials(harness: Arc<Harness>) -> Outcome {
    use sha2::{Digest as _, Sha256};
    harness.warm_image("files", &[400_000]).await?;
    let process = harness.process().await?;
    if !matches!(process.program(), Program::Weir(_)) {
        return Err(super::Failure::NotRun("knows only Weir's directories".into()));
    }
    let blobs = process.data().join("blobs/sha256");
    let (mut files, mut wrong) = (0, Vec::new());
    let mut directories = vec![blobs];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
            let hex = crate::client::hex(&Sha256::digest(&bytes));
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            files += 1;
            if name.trim_start_matches("sha256:") != hex {
                wrong.push(format!("{} ({} bytes)", path.display(), bytes.len()));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {files} files under blobs/ are not what their name says: {}",
        wrong.len(),
        wrong[0]
    );
    ensure!(files > 0, "no files under blobs/sha256");
    Ok(format!("{files} files under blobs/, each is what its name says"))
}
