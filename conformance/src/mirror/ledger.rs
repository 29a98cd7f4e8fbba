//! What the mirror says it spent, against what the hub counted.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{Check, Harness, Outcome, check, ensure, harness::BUDGET, herd::at_once};
use crate::{
    client::Shape,
    hub::{Fault, Kind, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("the ledger is the hub's own count", "invariant 10; spends = counted GETs", equals, Admin),
    check!("budget shows what is left", "invariant 10; limit and remaining as the hub said", remaining, Admin),
    check!("what was not sent is not spent", "invariant 10; refunds", refunds, Admin),
    check!("spending by others is seen", "budget; external_spend", external, Admin),
    check!("the ledger survives kill -9", "invariant 10; restart", survives, Process),
];

/// Spends of repositories that contain `part`.
async fn spends(harness: &Harness, part: &str) -> Result<Vec<Value>, String> {
    let answer = harness.ask_admin("/api/v1/spends").await?;
    let all = answer.get("spends").and_then(Value::as_array).ok_or_else(|| format!("no spends in {answer}"))?;
    let ours = |spend: &&Value| spend.get("repository").and_then(Value::as_str).is_some_and(|name| name.contains(part));
    Ok(all.iter().filter(ours).cloned().collect())
}

fn counted(harness: &Harness, part: &str) -> usize {
    harness.hub.count(|l| l.kind == Kind::ManifestGet && l.counted && l.repository.contains(part))
}

async fn pull_some(harness: &Arc<Harness>, what: &str) -> Result<(), String> {
    for _ in 0..5 {
        let image = harness.image(what, &[1000]).await?;
        let pulls = at_once(10, |i| {
            let (client, image) = (harness.client.clone(), image.clone());
            let shape = [Shape::HeadFirst, Shape::TagGet][i % 2];
            async move { client.pull(&image.repository, &image.tag, shape).await }
        })
        .await;
        for pull in pulls {
            pull?;
        }
    }
    Ok(())
}

async fn equals(harness: Arc<Harness>) -> Outcome {
    pull_some(&harness, "ledger-equals").await?;
    let (listed, hub) = (spends(&harness, "ledger-equals").await?, counted(&harness, "ledger-equals"));
    ensure!(listed.len() == hub, "{} spends, the hub counted {hub}", listed.len());
    ensure!(hub == 10, "50 pulls of 5 images cost {hub}");
    for spend in &listed {
        for key in ["at", "upstream", "identity", "repository", "reference", "client", "class", "reason", "waiters"] {
            let missing = spend.get(key).is_none_or(Value::is_null);
            ensure!(!missing, "a spend without {key}: {spend}");
        }
    }
    Ok(format!("50 pulls of 5 images: {hub} spends, {hub} counted by the hub"))
}

async fn hub_identity(harness: &Harness) -> Result<Value, String> {
    let answer = harness.ask_admin("/api/v1/budget").await?;
    let all = answer.get("identities").and_then(Value::as_array).ok_or_else(|| format!("no identities in {answer}"))?;
    let ours = all.iter().find(|identity| identity.get("upstream").and_then(Value::as_str) == Some("docker.io"));
    ours.cloned().ok_or_else(|| format!("no identity of docker.io in {answer}"))
}

async fn remaining(harness: Arc<Harness>) -> Outcome {
    harness.hub.set_budget(5000);
    pull_some(&harness, "ledger-remaining").await?;
    let identity = hub_identity(&harness).await?;
    let number = |key: &str| identity.get(key).and_then(Value::as_i64);
    ensure!(number("limit") == Some(i64::from(BUDGET)), "limit in {identity}");
    let hub = 5000 - counted(&harness, "ledger-remaining") as i64;
    ensure!(number("remaining") == Some(hub), "the hub has {hub} left; {identity}");
    ensure!(number("window_seconds") == Some(21_600), "window_seconds in {identity}");
    Ok(format!("limit {BUDGET}, remaining {hub}, as the hub has it"))
}

async fn refunds(harness: Arc<Harness>) -> Outcome {
    let missing = harness.repository("ledger-missing");
    for _ in 0..10 {
        harness.client.get_manifest(&missing, "latest").await?;
    }
    let image = harness.image("ledger-503", &[1000]).await?;
    harness
        .hub
        .fault(Fault::always(What::Status(503)).on(Match::kind(Kind::ManifestHead).repository(&image.repository)));
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    let part = "ledger-";
    let listed = spends(&harness, &missing).await?.len() + spends(&harness, &image.repository).await?.len();
    let sent = harness.hub.count(|l| l.kind == Kind::ManifestGet && l.counted && l.repository.contains(part));
    ensure!(listed == sent, "{listed} spends, the hub counted {sent}");
    Ok(format!("11 failed misses: {listed} spends, {sent} counted by the hub"))
}

async fn external(harness: Arc<Harness>) -> Outcome {
    harness.hub.set_budget(4000);
    pull_some(&harness, "ledger-external").await?;
    let number = |identity: &Value| identity.get("external_spend").and_then(Value::as_i64).unwrap_or_default();
    let before = number(&hub_identity(&harness).await?);
    let left = 4000 - counted(&harness, "ledger-external") as i64;
    harness.hub.set_budget(left - 37);
    pull_some(&harness, "ledger-external").await?;
    let seen = number(&hub_identity(&harness).await?) - before;
    ensure!(seen == 37, "37 pulls were spent by others, {seen} were noticed");
    Ok("37 pulls by others, 37 noticed".into())
}

async fn survives(harness: Arc<Harness>) -> Outcome {
    ensure!(harness.admin.is_some(), "no admin API");
    pull_some(&harness, "ledger-survives").await?;
    // Entries may be grouped for a moment before they are on disk.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = spends(&harness, "ledger-survives").await?.len();
    {
        let mut process = harness.process().await?;
        process.kill().await?;
        process.restart().await?;
    }
    let after = spends(&harness, "ledger-survives").await?.len();
    let hub = counted(&harness, "ledger-survives");
    ensure!(before == hub && after == hub, "the hub counted {hub}; {before} spends before kill -9, {after} after");
    Ok(format!("{hub} spends before and after"))
}
