//! Freshness: what a tag costs to revalidate, how a move is noticed, and what is answered when upstream cannot say.
//!
//! These checks need a mirror whose tags grow stale soon: with `--self` a second Weir with `tag_ttl = "1s"`.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Harness, Image, Outcome, check, ensure, herd::at_once};
use crate::{
    client::{Response, Shape},
    hub::{Fault, Kind, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("a stale tag that did not move", "bar: 0 manifest GETs, HEAD only", unchanged, ShortTtl),
    check!("60 clients on one stale tag", "invariant 3; 1 HEAD, 0 GETs", stale_herd, ShortTtl),
    check!("a tag that moved", "bar: new digest after the TTL, 1 GET", moved, ShortTtl),
    check!("a tag that moved back", "invariant 7; 0 manifest GETs", moved_back, ShortTtl),
    check!("stale answers while the hub is down", "Warning: 299 and Age; 0 GETs", stale_down, ShortTtl),
    check!("stale answers while the hub says 503", "Warning: 299 and Age; 0 GETs", stale_503, ShortTtl),
    check!("stale answers while the hub says abuse 429", "Warning: 299 and Age; 0 GETs", stale_abuse, ShortTtl),
    check!("stale answers while the token service is down", "Warning: 299 and Age; 0 GETs", stale_token, ShortTtl),
    check!("stale answers when a moved tag exceeds the budget", "Warning: 299; served", stale_budget, ShortTtl),
    check!("stale answers while the hub does not answer at all", "Warning: 299, bounded wait", stale_hang, ShortTtl),
    check!("a tag deleted upstream", "invariant 5; 404 after the TTL, not stale", deleted, ShortTtl),
    check!("a repository that became private", "no stale answer to who is refused", became_private, ShortTtl),
    check!("HEAD answers 503, tag cold", "a failed HEAD never becomes a counted GET", head_fails),
    check!("HEAD refused (405), tag cold", "a GET stands in; 2 manifest GETs", head_refused),
    check!("HEAD without Docker-Content-Digest", "pull right; digest computed", no_digest_header),
    check!("digest gone between HEAD and GET", "HEAD once more; the new image, not a 404", gone_between),
];

/// Longer than the TTL, with room for a clock of whole seconds.
async fn grow_stale(harness: &Harness) -> Result<(), String> {
    let ttl = harness.tag_ttl.ok_or("the TTL of tags is not known")?;
    tokio::time::sleep(ttl + Duration::from_millis(1100)).await;
    Ok(())
}

async fn stale_image(harness: &Harness, what: &str) -> Result<Image, String> {
    let image = harness.warm_image(what, &[50_000]).await?;
    grow_stale(harness).await?;
    Ok(image)
}

async fn unchanged(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "unchanged").await?;
    let before = harness.spent(&image);
    for shape in [Shape::HeadFirst, Shape::TagGet, Shape::Docker] {
        let pull = harness.client.pull(&image.repository, &image.tag, shape).await?;
        ensure!(pull.digest == image.digest, "pulled {}", pull.digest);
        ensure!(pull.warnings.is_empty(), "a revalidated answer with {:?}", pull.warnings);
        grow_stale(&harness).await?;
    }
    let spent = harness.spent(&image);
    let (gets, heads) = (spent.manifest_gets - before.manifest_gets, spent.manifest_heads - before.manifest_heads);
    ensure!(gets == 0, "{gets} manifest GETs for a tag that did not move; upstream: {spent}");
    ensure!(heads >= 1, "upstream was not asked, so a move would not be noticed; upstream: {spent}");
    Ok(format!("3 stale pulls: {gets} manifest GETs, {heads} HEADs"))
}

async fn stale_herd(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-herd").await?;
    let before = harness.spent(&image);
    harness.pace(None, Duration::from_millis(200));
    let answers = at_once(60, |i| {
        let (client, image) = (harness.client.clone(), image.clone());
        async move {
            match i % 2 {
                0 => client.head_manifest(&image.repository, &image.tag).await,
                _ => client.get_manifest(&image.repository, &image.tag).await,
            }
        }
    })
    .await;
    for answer in answers {
        let answer = answer?;
        ensure!(answer.head.digest() == Some(&image.digest), "{}", answer.describe());
    }
    let spent = harness.spent(&image);
    let (gets, heads) = (spent.manifest_gets - before.manifest_gets, spent.manifest_heads - before.manifest_heads);
    ensure!(gets == 0 && heads == 1, "{heads} HEADs and {gets} GETs for one revalidation");
    Ok(format!("60 answers, {heads} HEAD, {gets} GETs"))
}

async fn moved(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "moved").await?;
    let new = harness.replace(&image).await?;
    let before = harness.spent(&image).manifest_gets;
    let answers = at_once(20, |_| {
        let (client, image) = (harness.client.clone(), image.clone());
        async move { client.get_manifest(&image.repository, &image.tag).await }
    })
    .await;
    for answer in answers {
        let answer = answer?;
        ensure!(
            answer.sha256 == new.digest,
            "{} that is {}, not the new {}",
            answer.describe(),
            answer.sha256,
            new.digest
        );
    }
    let gets = harness.spent(&image).manifest_gets - before;
    ensure!(gets == 1, "{gets} manifest GETs for the new index");
    harness.client.pull(&new.repository, &new.tag, Shape::HeadFirst).await?;
    Ok(format!("20 clients got the new digest, {gets} manifest GET"))
}

async fn moved_back(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "back").await?;
    let new = harness.replace(&image).await?;
    harness.client.pull(&new.repository, &new.tag, Shape::HeadFirst).await?;
    harness.hub.retag(&image.repository, &image.tag, &image.digest);
    grow_stale(&harness).await?;
    let before = harness.spent(&image).manifest_gets;
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::TagGet).await?;
    ensure!(pull.digest == image.digest, "pulled {}, the tag is back at {}", pull.digest, image.digest);
    let gets = harness.spent(&image).manifest_gets - before;
    ensure!(gets == 0, "{gets} manifest GETs for what is here already");
    Ok("the old digest again, 0 manifest GETs".into())
}

/// A stale tag is served with its age and a warning, and nothing is spent.
async fn served_stale(harness: &Harness, image: &Image) -> Outcome {
    let before = harness.spent(image).manifest_gets;
    let head = harness.client.head_manifest(&image.repository, &image.tag).await?;
    says_stale(&head, image)?;
    let get = harness.client.get_manifest(&image.repository, &image.tag).await?;
    says_stale(&get, image)?;
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    ensure!(pull.digest == image.digest, "pulled {}", pull.digest);
    let gets = harness.spent(image).manifest_gets - before;
    ensure!(gets == 0, "{gets} manifest GETs");
    let warning = get.head.header("warning").unwrap_or_default();
    Ok(format!("after {:.0} ms: {warning}", head.timing.total.as_secs_f64() * 1e3))
}

fn says_stale(answer: &Response, image: &Image) -> Result<(), Failure> {
    ensure!(answer.status() == 200, "want the stale answer, came {}", answer.describe());
    ensure!(answer.head.digest() == Some(&image.digest), "Docker-Content-Digest {:?}", answer.head.digest());
    let warning = answer.head.header("warning").unwrap_or("none");
    ensure!(
        warning.starts_with("299 - \"") && warning.len() <= 4096,
        "stale without `Warning: 299 - \"…\"`: {warning}"
    );
    let age = answer.head.header("age").and_then(|age| age.parse::<u64>().ok());
    ensure!(age.is_some_and(|age| age >= 1), "stale with Age {:?}", answer.head.header("age"));
    Ok(())
}

async fn stale_down(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-down").await?;
    harness.hub.down().await;
    served_stale(&harness, &image).await
}

async fn stale_503(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-503").await?;
    harness.hub.fault(Fault::always(What::Status(503)).on(Match::any().repository(&image.repository)));
    served_stale(&harness, &image).await
}

async fn stale_abuse(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-abuse").await?;
    harness.hub.fault(Fault::always(What::Abuse(Some(2))));
    served_stale(&harness, &image).await
}

async fn stale_token(harness: Arc<Harness>) -> Outcome {
    // Tokens of one second are refused by the registry long before the tag is stale, so that a new one is needed.
    harness.hub.adjust(|settings| settings.token_life = Duration::from_secs(1));
    let image = stale_image(&harness, "stale-token").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    harness.hub.fault(Fault::always(What::TokenStatus(503)));
    let get = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(get.status() == 200, "{}", get.describe());
    match get.head.header("warning") {
        Some(warning) if warning.starts_with("299 ") => Ok(warning.to_owned()),
        // A mirror may use a token for as long as 60 s whatever expires_in says; upstream then refused it.
        other => Err(format!("served without a warning ({other:?}) though no token could be had").into()),
    }
}

async fn stale_budget(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-budget").await?;
    harness.replace(&image).await?;
    harness.hub.set_budget(0);
    let get = harness.client.get_manifest(&image.repository, &image.tag).await?;
    says_stale(&get, &image)?;
    Ok(get.head.header("warning").unwrap_or_default().to_owned())
}

async fn stale_hang(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "stale-hang").await?;
    let gate = harness.hub.hold(Match::any().repository(&image.repository));
    let get = harness.client.get_manifest(&image.repository, &image.tag).await?;
    gate.open();
    says_stale(&get, &image)?;
    let took = get.timing.headers;
    ensure!(took < Duration::from_secs(15), "the stale answer took {took:?}; docker's own time-out is 15 s");
    Ok(format!("answered after {:.1} s", took.as_secs_f64()))
}

async fn deleted(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "deleted").await?;
    harness.hub.remove(&image.repository, &image.tag);
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(answer.status() == 404, "a tag that upstream deleted: {}", answer.describe());
    let by_digest = harness.client.get_manifest(&image.repository, &image.digest).await?;
    ensure!(by_digest.status() == 200, "its digest: {}", by_digest.describe());
    Ok("404 by tag, still 200 by digest".into())
}

async fn became_private(harness: Arc<Harness>) -> Outcome {
    let image = stale_image(&harness, "private").await?;
    harness.make_private(&image).await?;
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(matches!(answer.status(), 401 | 403 | 404), "upstream refuses, the mirror says {}", answer.describe());
    Ok(format!("{} once upstream refuses", answer.status()))
}

async fn head_fails(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("head-503", &[50_000]).await?;
    harness
        .hub
        .fault(Fault::always(What::Status(503)).on(Match::kind(Kind::ManifestHead).repository(&image.repository)));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    let spent = harness.spent(&image);
    ensure!(spent.manifest_gets == 0, "a failed HEAD became {} counted GETs", spent.manifest_gets);
    ensure!(answer.status() >= 500 || answer.status() == 429, "want 5xx, came {}", answer.describe());
    Ok(format!("{}; upstream: {spent}", answer.status()))
}

async fn head_refused(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("head-405", &[50_000]).await?;
    harness.hub.fault(Fault::always(What::NoHead).on(Match::any().repository(&image.repository)));
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let spent = harness.spent(&image);
    ensure!(pull.digest == image.digest, "pulled {}", pull.digest);
    ensure!(spent.manifest_gets == 2, "upstream: {spent}");
    Ok(format!("upstream: {spent}"))
}

async fn no_digest_header(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("no-header", &[50_000]).await?;
    harness.hub.fault(Fault::always(What::NoDigestHeader).on(Match::any().repository(&image.repository)));
    let pull = harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    ensure!(pull.digest == image.digest, "pulled {}", pull.digest);
    Ok(format!("upstream: {}", harness.spent(&image)))
}

async fn gone_between(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("gone", &[50_000]).await?;
    let gate = harness.hub.hold(Match::kind(Kind::ManifestGet).repository(&image.repository));
    let asking = {
        let (client, image) = (harness.client.clone(), image.clone());
        tokio::spawn(async move { client.get_manifest(&image.repository, &image.tag).await })
    };
    ensure!(gate.started().await, "no manifest GET came upstream");
    let new = harness.replace(&image).await?;
    harness.hub.remove(&image.repository, &image.digest);
    gate.open();
    let answer = asking.await.map_err(|e| e.to_string())??;
    let next = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(next.sha256 == new.digest, "the next pull: {}; upstream: {}", next.describe(), harness.spent(&image));
    ensure!(answer.sha256 == new.digest, "came {}; upstream: {}", answer.describe(), harness.spent(&image));
    Ok(format!("the new image; upstream: {}", harness.spent(&image)))
}
