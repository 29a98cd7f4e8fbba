//! Both of Docker Hub's 429s: the pull limit, which leaves HEADs free, and the abuse limit, which stops everything.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Harness, Outcome, check, ensure, herd::at_once};
use crate::{
    client::{Request, Response, Shape},
    hub::{Fault, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("no pulls left, cold tag", "429 TOOMANYREQUESTS and Retry-After; 0 counted GETs", no_budget),
    check!("no pulls left, 50 cold tags", "bar: few counted GETs reach upstream", no_budget_herd),
    check!("pulls come back: another image", "upward reconciliation; pulls again at once", comes_back_elsewhere),
    check!("pulls come back: the refused image", "pulls again when Retry-After is over", comes_back),
    check!("pull limit in every form of Retry-After", "429 with whole seconds", retry_after_forms),
    check!("abuse 429, 50 cold images", "bar: <= 5 upstream, 50 OCI 429s with Retry-After", abuse),
    check!("abuse 429 on a cold tag list", "OCI 429 that names the cause", abuse_list),
    check!("abuse 429 on a cached tag list", "bar: goes on, with Warning: 299", abuse_cached_list, ShortTtl),
    check!("abuse 429 on a cold blob", "429 with Retry-After, never 404 or 500", abuse_blob),
];

/// An OCI 429 that every client prints and that says when to come back; the seconds.
pub(super) fn is_too_many(answer: &Response) -> Result<u64, Failure> {
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

pub(super) fn message(answer: &Response) -> String {
    answer.json().pointer("/errors/0/message").and_then(|m| m.as_str()).unwrap_or_default().to_owned()
}

async fn no_budget(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("no-budget", &[1000]).await?;
    harness.hub.set_budget(0);
    let first = harness.client.get_manifest(&image.repository, &image.tag).await?;
    let seconds = is_too_many(&first)?;
    let spent = harness.spent(&image);
    ensure!(spent.manifest_gets <= 1, "{} counted GETs with nothing left", spent.manifest_gets);
    let head = harness.client.head_manifest(&image.repository, &image.tag).await?;
    ensure!(matches!(head.status(), 200 | 429), "HEAD with nothing left: {}", head.describe());
    Ok(format!("429 with Retry-After {seconds}: {}; {} counted GETs sent", message(&first), spent.manifest_gets))
}

async fn no_budget_herd(harness: Arc<Harness>) -> Outcome {
    let images = cold_images(&harness, 50).await?;
    harness.hub.set_budget(0);
    let before = counted(&harness);
    let answers = ask_all(&harness, &images).await;
    for answer in answers {
        is_too_many(&answer?)?;
    }
    let gets = counted(&harness) - before;
    ensure!(gets <= 5, "{gets} counted GETs for 50 cold tags with nothing left");
    Ok(format!("50 OCI 429s, {gets} manifest GETs sent"))
}

fn counted(harness: &Harness) -> usize {
    harness.hub.count(|logged| logged.kind == crate::hub::Kind::ManifestGet && logged.status != 401)
}

async fn cold_images(harness: &Harness, count: usize) -> Result<Vec<super::Image>, String> {
    let mut images = Vec::new();
    for _ in 0..count {
        images.push(harness.image("cold", &[100]).await?);
    }
    Ok(images)
}

async fn ask_all(harness: &Arc<Harness>, images: &[super::Image]) -> Vec<Result<Response, crate::client::Error>> {
    at_once(images.len(), |i| {
        let (client, image) = (harness.client.clone(), images[i].clone());
        async move { client.get_manifest(&image.repository, &image.tag).await }
    })
    .await
}

async fn comes_back_elsewhere(harness: Arc<Harness>) -> Outcome {
    let (refused, other) = (harness.image("refused", &[1000]).await?, harness.image("other", &[1000]).await?);
    harness.hub.set_budget(0);
    is_too_many(&harness.client.get_manifest(&refused.repository, &refused.tag).await?)?;
    harness.hub.set_budget(100);
    let start = std::time::Instant::now();
    harness.client.pull(&other.repository, &other.tag, Shape::HeadFirst).await?;
    harness.client.pull(&refused.repository, &refused.tag, Shape::HeadFirst).await?;
    Ok(format!("both images {:.1} s after the hub has pulls", start.elapsed().as_secs_f64()))
}

async fn comes_back(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("comes-back", &[1000]).await?;
    harness.hub.set_budget(0);
    let seconds = is_too_many(&harness.client.get_manifest(&image.repository, &image.tag).await?)?;
    harness.hub.set_budget(100);
    let (start, patience) = (std::time::Instant::now(), seconds.min(90) + 5);
    loop {
        match harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await {
            Ok(_) => break,
            Err(sentence) => {
                let spent = harness.spent(&image);
                let over = start.elapsed().as_secs() > patience;
                ensure!(!over, "Retry-After was {seconds}; {patience} s later: {sentence}; upstream: {spent}");
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(format!("Retry-After was {seconds}; pulls again after {:.1} s", start.elapsed().as_secs_f64()))
}

async fn retry_after_forms(harness: Arc<Harness>) -> Outcome {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    let mut figures = Vec::new();
    for form in ["2".to_owned(), date, "880.092\u{b5}s".to_owned(), "1.5".to_owned(), "soon".to_owned()] {
        let image = harness.image("retry-after", &[1000]).await?;
        let fault = Fault::always(What::PullLimit(Some(form.clone())));
        harness.hub.fault(fault.on(Match::any().repository(&image.repository)));
        let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
        let seconds = is_too_many(&answer).map_err(|failure| match failure {
            Failure::Failed(sentence) => Failure::Failed(format!("Retry-After {form:?} upstream: {sentence}")),
            other => other,
        })?;
        figures.push(format!("{form:?} became {seconds}"));
        harness.settle().await?;
    }
    Ok(figures.join(", "))
}

async fn abuse(harness: Arc<Harness>) -> Outcome {
    let images = cold_images(&harness, 50).await?;
    // A mirror may have much under way after the bursts of other checks; what counts is how it meets the limit from rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.hub.fault(Fault::always(What::Abuse(Some(3))));
    let before = harness.requests();
    let answers = ask_all(&harness, &images).await;
    let asked = harness.requests() - before;
    for answer in answers {
        is_too_many(&answer?)?;
    }
    ensure!(asked <= 5, "{asked} requests upstream while it says 429");
    Ok(format!("50 OCI 429s with Retry-After, {asked} requests upstream"))
}

async fn abuse_list(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("abuse-list", &[1000]).await?;
    harness.hub.fault(Fault::always(What::Abuse(Some(2))));
    let answer = harness.client.send(&Request::get(harness.client.path(&image.repository, "tags/list"))).await?;
    let seconds = is_too_many(&answer)?;
    Ok(format!("Retry-After {seconds}: {}", message(&answer)))
}

async fn abuse_cached_list(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("abuse-cached", &[1000]).await?;
    let list = Request::get(harness.client.path(&image.repository, "tags/list"));
    let fresh = harness.client.send(&list).await?;
    ensure!(fresh.status() == 200, "the list before: {}", fresh.describe());
    tokio::time::sleep(harness.tag_ttl.unwrap_or_default() + Duration::from_millis(1100)).await;
    harness.hub.fault(Fault::always(What::Abuse(Some(2))));
    let stale = harness.client.send(&list).await?;
    ensure!(stale.status() == 200 && stale.json() == fresh.json(), "the cached list: {}", stale.describe());
    let warning = stale.head.header("warning").unwrap_or("none").to_owned();
    ensure!(warning.starts_with("299 - \""), "a stale list with Warning: {warning}");
    Ok(warning)
}

async fn abuse_blob(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("abuse-blob", &[1000]).await?;
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    harness.hub.fault(Fault::always(What::Abuse(Some(2))));
    let answer = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    let seconds = is_too_many(&answer)?;
    Ok(format!("Retry-After {seconds}"))
}
