//! Every way an upstream can fail before there is a body: it is down, it refuses, it sends us elsewhere.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Outcome, World, check, ensure, herd::at_once};
use crate::{
    client::{Answer, Shape},
    hub::{Account, Challenge, Fault, Kind, Match, Spec, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!("5xx for a cold manifest", "invariant 5; an error, not absence", manifest_5xx),
    check!("5xx for a cold blob", "invariant 5; an error, not absence", blob_5xx),
    check!("one 5xx in a pull", "the pull completes", one_5xx),
    check!("hub down, cold image", "invariant 5; told within 10 s", down),
    check!("token service down, cold image", "invariant 5; an error, not absence", token_down),
    check!("token service slow, cold image", "the pull completes; 1 token for 20 clients", token_slow),
    check!("token service refuses", "an error, nothing kept", token_refused),
    check!("tokens that expire between pulls", "renewed; the pull completes", token_expires),
    check!("redirect loop", "an error within 10 s, at most 5 hops a try", redirect_loop),
    check!("redirect to a private address", "an error, not followed", redirect_private),
    check!("redirect to a host that asks for credentials", "invariant 11; none sent", redirect_evil),
    check!("a realm on another host", "invariant 11; no credential sent", evil_realm),
    check!("credentials stay with their origin", "invariant 11; account configured", credentials, Process),
    check!("registry without tokens", "client of registries; pull right", nobody),
    check!("blobs sent by the registry itself", "client of registries; pull right", no_redirect),
    check!("Docker schema 2 media types", "client of registries; pull right", docker_media),
];

/// Want 5xx (or 429) with an OCI error.
fn is_failure(answer: &Answer) -> Result<(), Failure> {
    ensure!(!answer.complete(), "a success: {}", answer.describe());
    ensure!(answer.status() != 404, "a failure told as absence: {}", answer.describe());
    ensure!(answer.status() >= 500 || answer.status() == 429, "want 5xx, came {}", answer.describe());
    ensure!(answer.error_code().is_some(), "not an OCI error: {}", answer.describe());
    Ok(())
}

async fn manifest_5xx(world: Arc<World>) -> Outcome {
    let image = world.image("5xx", &[1000]).await?;
    world.hub.fault(Fault::always(What::Status(500)).on(Match::any().repository(&image.repository)));
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let spent = world.spent(&image);
    world.hub.clear_faults();
    right_soon(&world, &image).await?;
    Ok(format!("{}; upstream: {spent}; right once healed", answer.status()))
}

/// The same image is pulled rightly soon after: its failure was not remembered as absence, and no breaker stays open for long.
async fn right_soon(world: &World, image: &super::Image) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    loop {
        match world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await {
            Ok(pull) if pull.digest == image.digest => return Ok(()),
            Ok(pull) => return Err(format!("pulled {}", pull.digest).into()),
            Err(sentence) => ensure!(start.elapsed().as_secs() < 35, "35 s after the fault: {sentence}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn blob_5xx(world: Arc<World>) -> Outcome {
    let image = world.image("blob-5xx", &[100_000]).await?;
    world.client.get_manifest(&image.repository, &image.tag).await?;
    world.hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    let answer = world.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    is_failure(&answer)?;
    world.hub.clear_faults();
    right_soon(&world, &image).await?;
    Ok(format!("{}; right once healed", answer.status()))
}

async fn one_5xx(world: Arc<World>) -> Outcome {
    let image = world.image("once-5xx", &[100_000]).await?;
    world.hub.fault(Fault::once(What::Status(503)).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("right; upstream: {}", world.spent(&image)))
}

async fn down(world: Arc<World>) -> Outcome {
    let image = world.image("down", &[1000]).await?;
    world.hub.down().await;
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let took = answer.timing.headers;
    ensure!(took < Duration::from_secs(10), "told after {took:?}");
    Ok(format!("{} after {:.0} ms", answer.status(), took.as_secs_f64() * 1e3))
}

async fn token_down(world: Arc<World>) -> Outcome {
    let image = world.image("token-down", &[1000]).await?;
    world.hub.fault(Fault::always(What::TokenStatus(503)));
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let spent = world.spent(&image);
    world.hub.clear_faults();
    right_soon(&world, &image).await?;
    Ok(format!("{}; upstream: {spent}; right once healed", answer.status()))
}

async fn token_slow(world: Arc<World>) -> Outcome {
    let image = world.image("token-slow", &[1000]).await?;
    world.hub.fault(Fault::always(What::TokenSlow(Duration::from_secs(3))));
    let pulls = at_once(20, |_| {
        let (client, image) = (world.client.clone(), image.clone());
        async move { client.pull(&image.repository, &image.tag, Shape::HeadFirst).await }
    })
    .await;
    for pull in pulls {
        pull?;
    }
    let spent = world.spent(&image);
    ensure!(spent.tokens == 1, "{} tokens asked for", spent.tokens);
    Ok(format!("20 right, {} token", spent.tokens))
}

async fn token_refused(world: Arc<World>) -> Outcome {
    let image = world.image("token-401", &[1000]).await?;
    world.hub.fault(Fault::always(What::TokenRefused));
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(
        !answer.complete() && answer.status() != 401,
        "came {} (a 401 would make clients ask for a password)",
        answer.describe()
    );
    let spent = world.spent(&image);
    ensure!(spent.tokens <= 3, "{} tokens asked for; Hub locks accounts", spent.tokens);
    world.hub.clear_faults();
    right_soon(&world, &image).await?;
    Ok(format!("{}; {} token requests; right once healed", answer.status(), spent.tokens))
}

async fn token_expires(world: Arc<World>) -> Outcome {
    world.hub.adjust(|settings| settings.token_life = Duration::from_secs(1));
    let image = world.image("token-expires", &[1000, 2000, 3000]).await?;
    world.client.get_manifest(&image.repository, &image.tag).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let spent = world.spent(&image);
    ensure!(spent.tokens <= 8, "upstream: {spent}");
    Ok(format!("right; upstream: {spent}"))
}

/// A blob whose redirect leads nowhere good.
async fn bad_redirect(world: &World, what: What) -> Result<(Answer, usize), Failure> {
    let image = world.image("redirect", &[100_000]).await?;
    world.client.get_manifest(&image.repository, &image.tag).await?;
    let before = world.hub.log().len();
    world.hub.fault(Fault::always(what).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    let answer = world.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    is_failure(&answer)?;
    let took = answer.timing.total;
    ensure!(took < Duration::from_secs(10), "told after {took:?}");
    let asked = world.hub.log().len() - before;
    world.hub.clear_faults();
    right_soon(world, &image).await?;
    Ok((answer, asked))
}

async fn redirect_loop(world: Arc<World>) -> Outcome {
    let (answer, asked) = bad_redirect(&world, What::RedirectLoop).await?;
    // Three tries of a registry request and five hops each.
    ensure!(asked <= 18, "{asked} requests for one blob");
    Ok(format!("{} after {asked} requests; right once healed", answer.status()))
}

async fn redirect_private(world: Arc<World>) -> Outcome {
    let (answer, asked) = bad_redirect(&world, What::RedirectPrivate).await?;
    Ok(format!("{} after {asked} requests; right once healed", answer.status()))
}

async fn redirect_evil(world: Arc<World>) -> Outcome {
    let before = world.hub.evil().len();
    let (answer, _) = bad_redirect(&world, What::RedirectEvil).await?;
    let came = no_credentials(&world, before)?;
    Ok(format!("{}; {came} requests reached it, none with a credential", answer.status()))
}

/// What reached the evil listener since `before` carried no credential.
fn no_credentials(world: &World, before: usize) -> Result<usize, Failure> {
    let evil = world.hub.evil();
    for request in &evil[before.min(evil.len())..] {
        let secret = request.headers.iter().find(|(name, _)| matches!(name.as_str(), "authorization" | "cookie"));
        ensure!(secret.is_none(), "{} carried {secret:?}", request.request);
        let leaks = request.request.contains(PASSWORD) || request.headers.iter().any(|(_, v)| v.contains(PASSWORD));
        ensure!(!leaks, "the password is in {}", request.request);
    }
    Ok(evil.len().saturating_sub(before))
}

async fn evil_realm(world: Arc<World>) -> Outcome {
    let before = world.hub.evil().len();
    let image = world.image("evil-realm", &[1000]).await?;
    world.hub.fault(Fault::always(What::EvilRealm).on(Match::any().repository(&image.repository)));
    let answer = world.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(!answer.complete() && answer.status() != 401, "came {}", answer.describe());
    let came = no_credentials(&world, before)?;
    Ok(format!("{}; {came} requests reached it, none with a credential", answer.status()))
}

const PASSWORD: &str = "s3cret-canary";

/// A Weir with an account, a hub with a private repository, and an evil listener that every fault leads to.
async fn credentials(world: Arc<World>) -> Outcome {
    let secret = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(secret.path(), PASSWORD).map_err(|e| e.to_string())?;
    let account = format!("accounts = [{{ username = \"robot\", password_file = \"{}\" }}]\n", secret.path().display());
    let with_account = world.beside(&account).await?;
    world.hub.adjust(|settings| settings.accounts = vec![Account::new("robot", PASSWORD)]);
    let before = world.hub.evil().len();
    let public = world.image("account", &[1000]).await?;
    with_account.client.pull(&public.repository, &public.tag, Shape::HeadFirst).await?;
    for what in [What::EvilRealm, What::RedirectEvil, What::RedirectLoop] {
        let image = world.image("canary", &[1000]).await?;
        let private = world.make_private(&image).await?;
        world.hub.fault(Fault::always(what).on(Match::any().repository(&private.repository)));
        let _ = with_account.client.get_manifest(&private.repository, &private.tag).await?;
        let _ = with_account.client.get_blob(&private.repository, &private.layers[0].digest).await?;
        world.hub.clear_faults();
    }
    let came = no_credentials(&world, before)?;
    let cdn_with_credential = world.hub.log().iter().any(|l| {
        matches!(l.kind, Kind::CdnGet | Kind::CdnHead) && l.headers.iter().any(|(name, _)| name == "authorization")
    });
    ensure!(!cdn_with_credential, "a credential went to the CDN");
    let used = world.hub.count(|l| l.kind == Kind::Token && l.header("authorization").is_some());
    Ok(format!("{used} authorized token requests at the origin; {came} requests elsewhere, none with a credential"))
}

async fn nobody(world: Arc<World>) -> Outcome {
    world.hub.adjust(|settings| settings.challenge = Challenge::Nobody);
    let image = world.image("nobody", &[100_000]).await?;
    world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("upstream: {}", world.spent(&image)))
}

async fn no_redirect(world: Arc<World>) -> Outcome {
    world.hub.adjust(|settings| settings.redirect_blobs = false);
    let image = world.image("direct", &[100_000]).await?;
    world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("upstream: {}", world.spent(&image)))
}

async fn docker_media(world: Arc<World>) -> Outcome {
    let repository = world.repository("schema2");
    let spec = Spec::new(repository.clone()).media(crate::hub::Media::Docker).layers([100_000]).seed(world.seed());
    let image = world.push(spec).await?;
    world.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let answer = world.client.get_manifest(&repository, &image.tag).await?;
    let kind = answer.head.header("content-type").unwrap_or_default();
    ensure!(kind == crate::hub::Media::Docker.index(), "Content-Type {kind:?}");
    Ok("manifest list, manifest, blobs; media type as upstream has it".into())
}
