//! Many clients at once on something cold: one upstream request each object, and bytes that flow to all of them as they come.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Check, Failure, Harness, Outcome, check, ensure};
use crate::{
    client::{Pull, Request, Shape},
    hub::{Fault, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "60 clients, one cold image, HEAD first",
        "invariant 3; bar: 2 manifest GETs, 1 GET a blob, 1 token",
        head_first
    ),
    check!(
        "60 clients, one cold image, GET first",
        "invariant 3; bar: 2 manifest GETs, 1 GET a blob, 1 token",
        get_first
    ),
    check!(
        "60 clients, one cold image, by digest",
        "invariant 3; bar: 2 manifest GETs, 1 GET a blob, 1 token",
        by_digest
    ),
    check!("50 clients, one cold tag list", "invariant 3; 1 upstream request", tag_list),
    check!("50 clients, cold referrers", "invariant 3; 1 upstream request", referrers),
    check!("one blob under two names at once", "invariant 3; shared by digest: 1 download", two_names),
    check!("200 requests for a missing tag", "invariant 3, 5; bar: <= 3 upstream", missing_tag),
    check!("200 requests for a missing repository", "invariant 3, 5; bar: <= 3 upstream", missing_repository),
    check!("a 503 reaches 100 waiters on a tag at once", "invariant 3; <= 3 upstream, no storm", tag_fails),
    check!("a 503 reaches 100 waiters on a blob at once", "invariant 3; <= 3 upstream, no storm", blob_fails),
];

/// Runs `each` for 0..n at once and returns what they return, in that order.
pub(super) async fn at_once<T, F>(n: usize, each: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..n).map(|i| tokio::spawn(each(i))).collect();
    let mut out = Vec::with_capacity(n);
    for task in tasks {
        match task.await {
            Ok(value) => out.push(value),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    out
}

async fn head_first(harness: Arc<Harness>) -> Outcome {
    sixty(harness, Shape::HeadFirst).await
}
async fn get_first(harness: Arc<Harness>) -> Outcome {
    sixty(harness, Shape::TagGet).await
}
async fn by_digest(harness: Arc<Harness>) -> Outcome {
    sixty(harness, Shape::DigestOnly).await
}

async fn sixty(harness: Arc<Harness>, shape: Shape) -> Outcome {
    let image = harness.image("herd", &[1 << 20, 6 << 20]).await?;
    // Slow enough that all sixty are there before the first answer is complete.
    harness.pace(Some(8 << 20), Duration::from_millis(40));
    let reference = if shape == Shape::DigestOnly { image.digest.clone() } else { image.tag.clone() };
    let pulls = at_once(60, |_| {
        let (client, repository, reference) = (harness.client.clone(), image.repository.clone(), reference.clone());
        async move { client.pull(&repository, &reference, shape).await }
    })
    .await;
    let spent = harness.spent(&image);
    let wrong: Vec<String> = pulls.iter().filter_map(|pull| pull.as_ref().err().cloned()).collect();
    ensure!(wrong.is_empty(), "{} of 60 pulls failed, first: {}; upstream: {spent}", wrong.len(), wrong[0]);
    let right: Vec<&Pull> = pulls.iter().flatten().collect();
    ensure!(right.iter().all(|pull| pull.digest == image.digest), "a pull got another image; upstream: {spent}");
    ensure!(spent.is_one_pull(&image), "upstream: {spent}");
    let slowest = right.iter().map(|pull| pull.total).max().unwrap_or_default();
    Ok(format!("60 right, slowest {:.2} s; upstream: {spent}", slowest.as_secs_f64()))
}

async fn tag_list(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("taglist", &[1000]).await?;
    harness.pace(None, Duration::from_millis(100));
    let path = harness.client.path(&image.repository, "tags/list");
    let statuses = all_get(&harness, 50, path).await;
    let spent = harness.spent(&image);
    ensure!(statuses.get(&200) == Some(&50), "answers by status: {statuses:?}; upstream: {spent}");
    ensure!(spent.tags == 1, "{} tag list requests upstream for 50 clients", spent.tags);
    Ok(format!("50 answers; upstream: {} request", spent.tags))
}

async fn referrers(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("referrers", &[1000]).await?;
    harness.pace(None, Duration::from_millis(100));
    let path = harness.client.path(&image.repository, &format!("referrers/{}", image.digest));
    let statuses = all_get(&harness, 50, path).await;
    let spent = harness.spent(&image);
    ensure!(statuses.get(&200) == Some(&50), "answers by status: {statuses:?}; upstream: {spent}");
    ensure!(spent.referrers == 1, "{} referrers requests upstream for 50 clients", spent.referrers);
    Ok(format!("50 answers; upstream: {} request", spent.referrers))
}

/// How many of `n` simultaneous GETs ended with which status; 0 is no answer.
async fn all_get(harness: &Arc<Harness>, n: usize, path: String) -> BTreeMap<u16, usize> {
    let statuses = at_once(n, |_| {
        let (client, path) = (harness.client.clone(), path.clone());
        async move { client.send(&Request::get(path)).await.map_or(0, |answer| answer.status()) }
    })
    .await;
    statuses.into_iter().fold(BTreeMap::new(), |mut counts, status| {
        *counts.entry(status).or_default() += 1;
        counts
    })
}

async fn two_names(harness: Arc<Harness>) -> Outcome {
    let one = harness.image("name-one", &[8 << 20]).await?;
    let two = harness.same_image_elsewhere("name-two", &one).await?;
    harness.pace(Some(8 << 20), Duration::from_millis(40));
    let pulls = at_once(20, |i| {
        let (client, image) = (harness.client.clone(), if i % 2 == 0 { one.clone() } else { two.clone() });
        async move { client.pull(&image.repository, &image.tag, Shape::HeadFirst).await }
    })
    .await;
    if let Some(error) = pulls.iter().find_map(|pull| pull.as_ref().err()) {
        return Err(Failure::Failed(error.clone()));
    }
    let downloads = harness.downloads(&one.layers[0].digest);
    ensure!(downloads == 1, "{downloads} downloads of one layer asked for under two names");
    Ok(format!("20 right pulls under two names; {downloads} download of the layer"))
}

async fn missing_tag(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("has-no-such-tag", &[1000]).await?;
    missing(&harness, &image.repository).await
}

async fn missing_repository(harness: Arc<Harness>) -> Outcome {
    let repository = harness.repository("nowhere");
    missing(&harness, &repository).await
}

async fn missing(harness: &Arc<Harness>, repository: &str) -> Outcome {
    harness.pace(None, Duration::from_millis(20));
    let ask = |i: usize| {
        let (client, repository) = (harness.client.clone(), repository.to_owned());
        async move {
            match i % 2 {
                0 => client.head_manifest(&repository, "no-such-tag").await,
                _ => client.get_manifest(&repository, "no-such-tag").await,
            }
        }
    };
    let begun = Instant::now();
    let mut answers = at_once(100, ask).await;
    for i in 0..100 {
        answers.push(ask(i).await);
    }
    // Weir believes an absence for 15 s: a machine that takes longer for these requests has it confirmed again.
    let allowed = 3 + begun.elapsed().as_secs() / 15;
    let spent = harness.spent_in(repository);
    for answer in answers {
        let answer = answer?;
        ensure!(answer.status() == 404, "want 404, came {}; upstream: {spent}", answer.describe());
        if !answer.body.is_empty() {
            let code = answer.error_code().unwrap_or_default();
            let known = matches!(code.as_str(), "MANIFEST_UNKNOWN" | "NAME_UNKNOWN");
            ensure!(known, "not an OCI error for what is missing: {}", answer.describe());
        }
    }
    let asked = spent.manifest_gets + spent.manifest_heads;
    ensure!(asked <= allowed, "{asked} manifest requests upstream for one missing reference; upstream: {spent}");
    Ok(format!("200 answers of 404; upstream: {asked} manifest requests, {} token", spent.tokens))
}

async fn tag_fails(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("tag-fails", &[1000]).await?;
    harness.pace(None, Duration::from_millis(300));
    harness.hub.fault(Fault::always(What::Status(503)).on(Match::any().repository(&image.repository)));
    let path = harness.client.manifest(&image.repository, &image.tag);
    fails_for_all(&harness, &image, path).await
}

async fn blob_fails(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("blob-fails", &[1 << 20]).await?;
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    let before = harness.spent(&image);
    harness.pace(None, Duration::from_millis(300));
    harness.hub.fault(Fault::always(What::Status(503)).on(Match::any().repository(&image.repository)));
    let path = harness.client.blob(&image.repository, &image.layers[0].digest);
    fails_for_all(&harness, &image, path).await.map(|figure| format!("{figure} (before: {before})"))
}

async fn fails_for_all(harness: &Arc<Harness>, image: &super::Image, path: String) -> Outcome {
    // The token is not what fails, and fetching it is no storm.
    let asked_for_it = |spent: &super::UpstreamCost| spent.requests - spent.tokens;
    let mark = asked_for_it(&harness.spent(image));
    let ends = at_once(100, |_| {
        let (client, path) = (harness.client.clone(), path.clone());
        async move {
            let answer = client.send(&Request::get(path).accepting_manifests()).await;
            (answer, Instant::now())
        }
    })
    .await;
    let spent = harness.spent(image);
    let asked = asked_for_it(&spent) - mark;
    let mut ended = Vec::new();
    for (answer, at) in ends {
        let answer = answer?;
        ensure!(!answer.complete(), "a success while upstream answers 503: {}", answer.describe());
        ensure!(answer.status() != 404, "a failure reported as absence: {}", answer.describe());
        ensure!(answer.status() >= 500 || answer.status() == 429, "want 5xx, came {}", answer.describe());
        ended.push(at);
    }
    let spread = ended.iter().max().zip(ended.iter().min()).map_or(Duration::ZERO, |(last, first)| *last - *first);
    // No wait of one client comes after another's: two requests upstream would take 600 ms, a hundred would take 30 s.
    ensure!(spread <= Duration::from_secs(5), "the last answer came {spread:?} after the first; upstream: {spent}");
    ensure!(asked <= 3, "{asked} requests upstream for one failure; upstream: {spent}");
    Ok(format!("100 answers within {:.0} ms of each other; upstream: {asked} requests", spread.as_secs_f64() * 1e3))
}
