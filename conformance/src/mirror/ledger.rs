//! What the mirror says it spent, against what the hub counted.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{Check, Outcome, World, check, ensure, herd::at_once, world::BUDGET};
use crate::{
    client::Shape,
    hub::{Fault, Kind, Match, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("the ledger is the hub's own count", "invariant 10; spends = counted GETs", equals, Admin),
    check!("budget shows what is left", "invariant 10; limit and remaining as the hub said", remaining, Admin),
    check!("what was not sent is not spent", "invariant 10; refunds", refunds, Admin),
    check!("spending by others is seen", "budget; external_spend", external, Admin),
    check!("the ledger survives kill -9", "invariant 10; RS-33", survives, Process),
];

/// Spends of repositories that contain `part`.
async fn spends(world: &World, part: &str) -> Result<Vec<Value>, String> {
    let answer = world.ask_admin("/api/v1/spends").await?;
    let all = answer.get("spends").and_then(Value::as_array).ok_or_else(|| format!("no spends in {answer}"))?;
    let ours = |spend: &&Value| spend.get("repository").and_then(Value::as_str).is_some_and(|name| name.contains(part));
    Ok(all.iter().filter(ours).cloned().collect())
}

fn counted(world: &World, part: &str) -> usize {
    world.hub.count(|l| l.kind == Kind::ManifestGet && l.counted && l.repository.contains(part))
}

async fn pull_some(world: &Arc<World>, what: &str) -> Result<(), String> {
    for _ in 0..5 {
        let image = world.image(what, &[1000]).await?;
        let pulls = at_once(10, |i| {
            let (client, image) = (world.client.clone(), image.clone());
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

async fn equals(world: Arc<World>) -> Outcome {
    pull_some(&world, "ledger-equals").await?;
    let (listed, hub) = (spends(&world, "ledger-equals").await?, counted(&world, "ledger-equals"));
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

async fn hub_identity(world: &World) -> Result<Value, String> {
    let answer = world.ask_admin("/api/v1/budget").await?;
    let all = answer.get("identities").and_then(Value::as_array).ok_or_else(|| format!("no identities in {answer}"))?;
    let ours = all.iter().find(|identity| identity.get("upstream").and_then(Value::as_str) == Some("docker.io"));
    ours.cloned().ok_or_else(|| format!("no identity of docker.io in {answer}"))
}

async fn remaining(world: Arc<World>) -> Outcome {
    world.hub.set_budget(5000);
    pull_some(&world, "ledger-remaining").await?;
    let identity = hub_identity(&world).await?;
    let number = |key: &str| identity.get(key).and_then(Value::as_i64);
    ensure!(number("limit") == Some(i64::from(BUDGET)), "limit in {identity}");
    let hub = 5000 - counted(&world, "ledger-remaining") as i64;
    ensure!(number("remaining") == Some(hub), "the hub has {hub} left; {identity}");
    ensure!(number("window_seconds") == Some(21_600), "window_seconds in {identity}");
    Ok(format!("limit {BUDGET}, remaining {hub}, as the hub has it"))
}

async fn refunds(world: Arc<World>) -> Outcome {
    let missing = world.repository("ledger-missing");
    for _ in 0..10 {
        world.client.get_manifest(&missing, "latest").await?;
    }
    let image = world.image("ledger-503", &[1000]).await?;
    world.hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::ManifestHead).repository(&image.repository)));
    world.client.get_manifest(&image.repository, &image.tag).await?;
    let part = "ledger-";
    let listed = spends(&world, &missing).await?.len() + spends(&world, &image.repository).await?.len();
    let sent = world.hub.count(|l| l.kind == Kind::ManifestGet && l.counted && l.repository.contains(part));
    ensure!(listed == sent, "{listed} spends, the hub counted {sent}");
    Ok(format!("11 failed misses: {listed} spends, {sent} counted by the hub"))
}

async fn external(world: Arc<World>) -> Outcome {
    world.hub.set_budget(4000);
    pull_some(&world, "ledger-external").await?;
    let number = |identity: &Value| identity.get("external_spend").and_then(Value::as_i64).unwrap_or_default();
    let before = number(&hub_identity(&world).await?);
    let left = 4000 - counted(&world, "ledger-external") as i64;
    world.hub.set_budget(left - 37);
    pull_some(&world, "ledger-external").await?;
    let seen = number(&hub_identity(&world).await?) - before;
    ensure!(seen == 37, "37 pulls were spent by others, {seen} were noticed");
    Ok("37 pulls by others, 37 noticed".into())
}

async fn survives(world: Arc<World>) -> Outcome {
    ensure!(world.admin.is_some(), "no admin API");
    pull_some(&world, "ledger-survives").await?;
    // Entries may be grouped for a moment before they are on disk.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = spends(&world, "ledger-survives").await?.len();
    {
        let mut process = world.process().await?;
        process.kill().await?;
        process.restart().await?;
    }
    let after = spends(&world, "ledger-survives").await?.len();
    let hub = counted(&world, "ledger-survives");
    ensure!(before == hub && after == hub, "the hub counted {hub}; {before} spends before kill -9, {after} after");
    Ok(format!("{hub} spends before and after"))
}
