//! Both of Docker Hub's 429s: the pull limit, which leaves HEADs free, and the abuse limit, which stops everything.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Outcome, World, check, ensure, herd::at_once};
use crate::{
    client::{Answer, Request, Shape},
    hub::{Fault, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("no pulls left, cold tag", "429 TOOMANYREQUESTS and Retry-After; 0 counted GETs", no_budget),
    check!("no pulls left, 50 cold tags", "bar: few counted GETs reach upstream", no_budget_herd),
    check!("pulls come back: another image", "upward reconciliation; pulls again at once", comes_back_elsewhere),
    check!("pulls come back: the refused image", "pulls again when Retry-After is over", comes_back),
    check!("pull limit in every form of Retry-After", "429 with whole seconds", retry_after_forms),
    check!("abuse 429, 50 cold images", "bar: <= 5 upstream, 50 OCI 429s with Retry-After", abuse),
    check!("abuse 429 without Retry-After", "429 with a Retry-After of the mirror's own", abuse_bare),
    check!("abuse 429 on a cold tag list", "OCI 429 that names the cause", abuse_list),
    check!("abuse 429 on a cached tag list", "bar: goes on, with Warning: 299", abuse_cached_list, ShortTtl),
    check!("abuse 429 on a cold blob", "429 with Retry-After, never 404 or 500", abuse_blob),
];

/// An OCI 429 that every client prints and that says when to come back; the seconds.
fn is_too_many(answer: &Answer) -> Result<u64, Failure> {
    let code = answer.error_code();
    let right = answer.status() == 429 && code.as_deref() == Some("TOOMANYREQUESTS");
    ensure!(right, "want an OCI 429, came {}", answer.describe());
    let retry = answer.head.header("retry-after").unwrap_or("none");
    let seconds = retry.parse::<u64>().map_err(|_| format!("429 with Retry-After {retry}"))?;
    ensure!(seconds > 0, "429 with Retry-After 0");
    let json = answer.json();
    let message = json.pointer("/errors/0/message").and_then(|m| m.as_str()).unwrap_or_default();
    ensure!(message.len() > 10, "429 without a sentence: {}", answer.text());
    Ok(seconds)
}

fn message(answer: &Answer) -> String {
    answer.json().pointer("/errors/0/message").and_then(|m| m.as_str()).unwrap_or_default().to_owned()
}

async fn no_budget(world: Arc<World>) -> Outcome {
    let image = world.image("no-budget", &[1000]).await?;
    world.hub.set_budget(0);
    let first = world.client.get_manifest(&image.repository, &image.tag).await?;
    let seconds = is_too_many(&first)?;
    let told = world.spent(&image);
    ensure!(told.manifest_gets <= 1, "{} counted GETs with nothing left", told.manifest_gets);
    let head = world.client.head_manifest(&image.repository, &image.tag).await?;
    ensure!(matches!(head.status(), 200 | 429), "HEAD with nothing left: {}", head.describe());
    Ok(format!("429 with Retry-After {seconds}: {}; {} counted GETs sent", message(&first), told.manifest_gets))
}

async fn no_budget_herd(world: Arc<World>) -> Outcome {
    let images = cold_images(&world, 50).await?;
    world.hub.set_budget(0);
    let before = counted(&world);
    let answers = ask_all(&world, &images).await;
    for answer in answers {
        is_too_many(&answer?)?;
    }
    let gets = counted(&world) - before;
    ensure!(gets <= 5, "{gets} counted GETs for 50 cold tags with nothing left");
    Ok(format!("50 OCI 429s, {gets} manifest GETs sent"))
}

fn counted(world: &World) -> usize {
    world.hub.count(|logged| logged.kind == crate::hub::Kind::ManifestGet && logged.status != 401)
}

async fn cold_images(world: &World, count: usize) -> Result<Vec<super::Image>, String> {
    let mut images = Vec::new();
    for _ in 0..count {
        images.push(world.image("cold", &[100]).await?);
    }
    Ok(images)
}

async fn ask_all(world: &Arc<World>, images: &[super::Image]) -> Vec<Result<Answer, crate::client::Error>> {
    at_once(images.len(), |i| {
        let (client, image) = (world.client.clone(), images[i].clone());
        async move { client.get_manifest(&image.repository, &image.tag).await }
    })
    .await
}

async fn comes_back_elsewhere(world: Arc<World>) -> Outcome {
    let (refused, other) = (world.image("refused", &[1000]).await?, world.image("other", &[1000]).await?);
    world.hub.set_budget(0);
    is_too_many(&world.client.get_manifest(&refused.repository, &refused.tag).await?)?;
    world.hub.set_budget(100);
    let start = std::time::Instant::now();
    world.client.pull(&other.repository, &other.tag, Shape::HeadFirst).await?;
    world.client.pull(&refused.repository, &refused.tag, Shape::HeadFirst).await?;
    Ok(format!("both images {:.1} s after the hub has pulls", start.elapsed().as_secs_f64()))
}

async fn comes_back(world: Arc<World>) -> Outcome {
    let image = world.image("comes-back", &[1000]).await?;
    world.hub.set_budget(0);
    let seconds = is_too_many(&world.client.get_manifest(&image.repository, &image.tag).await?)?;
    world.hub.set_budget(100);
    let (start, patience) = (std::time::Instant::now(), seconds.min(90) + 5);
    loop {
        match world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await {
            Ok(_) => break,
            Err(sentence) => {
                let spent = world.spent(&image);
                let over = start.elapsed().as_secs() > patience;
                ensure!(!over, "Retry-After was {seconds}; {patience} s later: {sentence}; upstream: {spent}");
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(format!("Retry-After was {seconds}; pulls again after {:.1} s", start.elapsed().as_secs_f64()))
}

async fn retry_after_forms(world: Arc<World>) -> Outcome {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    let mut figures = Vec::new();
    for form in ["2".to_owned(), date, "880.092\u{b5}s".to_owned(), "1.5".to_owned(), "soon".to_owned()] {
        let image = world.image("retry-after", &[1000]).await?;
        let fault = Fault::always(What::PullLimit(Some(form.clone())));
        world.hub.fault(fault.on(Match::any().repository(&image.repository)));
        let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
        let seconds = is_too_many(&answer).map_err(|failure| match failure {
            Failure::Failed(sentence) => Failure::Failed(format!("Retry-After {form:?} upstream: {sentence}")),
            other => other,
        })?;
        figures.push(format!("{form:?} became {seconds}"));
        world.settle().await?;
    }
    Ok(figures.join(", "))
}

async fn abuse(world: Arc<World>) -> Outcome {
    let images = cold_images(&world, 50).await?;
    // A mirror may have much under way after the bursts of other checks; what counts is how it meets the limit from rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.hub.fault(Fault::always(What::Abuse(Some(3))));
    let before = world.requests();
    let answers = ask_all(&world, &images).await;
    let asked = world.requests() - before;
    for answer in answers {
        is_too_many(&answer?)?;
    }
    ensure!(asked <= 5, "{asked} requests upstream while it says 429");
    Ok(format!("50 OCI 429s with Retry-After, {asked} requests upstream"))
}

async fn abuse_bare(world: Arc<World>) -> Outcome {
    let image = world.image("abuse-bare", &[1000]).await?;
    world.hub.fault(Fault::once(What::Abuse(None)));
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    let seconds = is_too_many(&answer)?;
    ensure!(seconds <= 60, "Retry-After {seconds}; podman sleeps that long");
    Ok(format!("Retry-After {seconds}: {}", message(&answer)))
}

async fn abuse_list(world: Arc<World>) -> Outcome {
    let image = world.image("abuse-list", &[1000]).await?;
    world.hub.fault(Fault::always(What::Abuse(Some(2))));
    let answer = world.client.send(&Request::get(world.client.path(&image.repository, "tags/list"))).await?;
    let seconds = is_too_many(&answer)?;
    Ok(format!("Retry-After {seconds}: {}", message(&answer)))
}

async fn abuse_cached_list(world: Arc<World>) -> Outcome {
    let image = world.image("abuse-cached", &[1000]).await?;
    let list = Request::get(world.client.path(&image.repository, "tags/list"));
    let fresh = world.client.send(&list).await?;
    ensure!(fresh.status() == 200, "the list before: {}", fresh.describe());
    tokio::time::sleep(world.tag_ttl.unwrap_or_default() + Duration::from_millis(1100)).await;
    world.hub.fault(Fault::always(What::Abuse(Some(2))));
    let stale = world.client.send(&list).await?;
    ensure!(stale.status() == 200 && stale.json() == fresh.json(), "the cached list: {}", stale.describe());
    let warning = stale.head.header("warning").unwrap_or("none").to_owned();
    ensure!(warning.starts_with("299 - \""), "a stale list with Warning: {warning}");
    Ok(warning)
}

async fn abuse_blob(world: Arc<World>) -> Outcome {
    let image = world.image("abuse-blob", &[1000]).await?;
    world.client.get_manifest(&image.repository, &image.tag).await?;
    world.hub.fault(Fault::always(What::Abuse(Some(2))));
    let answer = world.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    let seconds = is_too_many(&answer)?;
    Ok(format!("Retry-After {seconds}"))
}
