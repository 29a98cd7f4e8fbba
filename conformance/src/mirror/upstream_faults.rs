//! Every way an upstream can fail before there is a body: it is down, it refuses, it sends us elsewhere.

use std::{sync::Arc, time::Duration};

use super::{Check, Failure, Harness, Outcome, check, ensure, herd::at_once};
use crate::{
    client::{Response, Shape},
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
fn is_failure(answer: &Response) -> Result<(), Failure> {
    ensure!(!answer.complete(), "a success: {}", answer.describe());
    ensure!(answer.status() != 404, "a failure reported as absence: {}", answer.describe());
    ensure!(answer.status() >= 500 || answer.status() == 429, "want 5xx, came {}", answer.describe());
    ensure!(answer.error_code().is_some(), "not an OCI error: {}", answer.describe());
    Ok(())
}

async fn manifest_5xx(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("5xx", &[1000]).await?;
    harness.hub.fault(Fault::always(What::Status(500)).on(Match::any().repository(&image.repository)));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let spent = harness.spent(&image);
    harness.hub.clear_faults();
    right_soon(&harness, &image).await?;
    Ok(format!("{}; upstream: {spent}; right once healed", answer.status()))
}

/// The same image is pulled rightly soon after: its failure was not remembered as absence, and no breaker stays open for long.
async fn right_soon(harness: &Harness, image: &super::Image) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    loop {
        match harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await {
            Ok(pull) if pull.digest == image.digest => return Ok(()),
            Ok(pull) => return Err(format!("pulled {}", pull.digest).into()),
            Err(sentence) => ensure!(start.elapsed().as_secs() < 35, "35 s after the fault: {sentence}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn blob_5xx(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("blob-5xx", &[100_000]).await?;
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    harness.hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    let answer = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    is_failure(&answer)?;
    harness.hub.clear_faults();
    right_soon(&harness, &image).await?;
    Ok(format!("{}; right once healed", answer.status()))
}

async fn one_5xx(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("once-5xx", &[100_000]).await?;
    harness.hub.fault(Fault::once(What::Status(503)).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("right; upstream: {}", harness.spent(&image)))
}

async fn down(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("down", &[1000]).await?;
    harness.hub.down().await;
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let took = answer.timing.headers;
    ensure!(took < Duration::from_secs(10), "an answer after {took:?}");
    Ok(format!("{} after {:.0} ms", answer.status(), took.as_secs_f64() * 1e3))
}

async fn token_down(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("token-down", &[1000]).await?;
    harness.hub.fault(Fault::always(What::TokenStatus(503)));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    is_failure(&answer)?;
    let spent = harness.spent(&image);
    harness.hub.clear_faults();
    right_soon(&harness, &image).await?;
    Ok(format!("{}; upstream: {spent}; right once healed", answer.status()))
}

async fn token_slow(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("token-slow", &[1000]).await?;
    harness.hub.fault(Fault::always(What::TokenSlow(Duration::from_secs(3))));
    let pulls = at_once(20, |_| {
        let (client, image) = (harness.client.clone(), image.clone());
        async move { client.pull(&image.repository, &image.tag, Shape::HeadFirst).await }
    })
    .await;
    for pull in pulls {
        pull?;
    }
    let spent = harness.spent(&image);
    ensure!(spent.tokens == 1, "{} tokens asked for", spent.tokens);
    Ok(format!("20 right, {} token", spent.tokens))
}

async fn token_refused(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("token-401", &[1000]).await?;
    harness.hub.fault(Fault::always(What::TokenRefused));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(
        !answer.complete() && answer.status() != 401,
        "came {} (a 401 would make clients ask for a password)",
        answer.describe()
    );
    let spent = harness.spent(&image);
    ensure!(spent.tokens <= 3, "{} tokens asked for; Hub locks accounts", spent.tokens);
    harness.hub.clear_faults();
    right_soon(&harness, &image).await?;
    Ok(format!("{}; {} token requests; right once healed", answer.status(), spent.tokens))
}

async fn token_expires(harness: Arc<Harness>) -> Outcome {
    harness.hub.adjust(|settings| settings.token_life = Duration::from_secs(1));
    let image = harness.image("token-expires", &[1000, 2000, 3000]).await?;
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let spent = harness.spent(&image);
    ensure!(spent.tokens <= 8, "upstream: {spent}");
    Ok(format!("right; upstream: {spent}"))
}

/// A blob whose redirect leads nowhere good.
async fn bad_redirect(harness: &Harness, what: What) -> Result<(Response, usize), Failure> {
    let image = harness.image("redirect", &[100_000]).await?;
    harness.client.get_manifest(&image.repository, &image.tag).await?;
    let before = harness.hub.log().len();
    harness.hub.fault(Fault::always(what).on(Match::kind(Kind::BlobGet).repository(&image.repository)));
    let answer = harness.client.get_blob(&image.repository, &image.layers[0].digest).await?;
    is_failure(&answer)?;
    let took = answer.timing.total;
    ensure!(took < Duration::from_secs(10), "an answer after {took:?}");
    let asked = harness.hub.log().len() - before;
    harness.hub.clear_faults();
    right_soon(harness, &image).await?;
    Ok((answer, asked))
}

async fn redirect_loop(harness: Arc<Harness>) -> Outcome {
    let (answer, asked) = bad_redirect(&harness, What::RedirectLoop).await?;
    // Three tries of a registry request and five hops each.
    ensure!(asked <= 18, "{asked} requests for one blob");
    Ok(format!("{} after {asked} requests; right once healed", answer.status()))
}

async fn redirect_private(harness: Arc<Harness>) -> Outcome {
    let (answer, asked) = bad_redirect(&harness, What::RedirectPrivate).await?;
    Ok(format!("{} after {asked} requests; right once healed", answer.status()))
}

async fn redirect_evil(harness: Arc<Harness>) -> Outcome {
    let before = harness.hub.hostile_requests().len();
    let (answer, _) = bad_redirect(&harness, What::RedirectEvil).await?;
    let came = no_credentials(&harness, before)?;
    Ok(format!("{}; {came} requests reached it, none with a credential", answer.status()))
}

/// What reached the evil listener since `before` carried no credential.
fn no_credentials(harness: &Harness, before: usize) -> Result<usize, Failure> {
    let evil = harness.hub.hostile_requests();
    for request in &evil[before.min(evil.len())..] {
        let secret = request.headers.iter().find(|(name, _)| matches!(name.as_str(), "authorization" | "cookie"));
        ensure!(secret.is_none(), "{} carried {secret:?}", request.request);
        let leaks = request.request.contains(PASSWORD) || request.headers.iter().any(|(_, v)| v.contains(PASSWORD));
        ensure!(!leaks, "the password is in {}", request.request);
    }
    Ok(evil.len().saturating_sub(before))
}

async fn evil_realm(harness: Arc<Harness>) -> Outcome {
    let before = harness.hub.hostile_requests().len();
    let image = harness.image("evil-realm", &[1000]).await?;
    harness.hub.fault(Fault::always(What::EvilRealm).on(Match::any().repository(&image.repository)));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    ensure!(!answer.complete() && answer.status() != 401, "came {}", answer.describe());
    let came = no_credentials(&harness, before)?;
    Ok(format!("{}; {came} requests reached it, none with a credential", answer.status()))
}

const PASSWORD: &str = "s3cret-canary";

/// A Weir with an account, a hub with a private repository, and an evil listener that every fault leads to.
async fn credentials(harness: Arc<Harness>) -> Outcome {
    let secret = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(secret.path(), PASSWORD).map_err(|e| e.to_string())?;
    let account = format!("accounts = [{{ username = \"robot\", password_file = \"{}\" }}]\n", secret.path().display());
    let with_account = harness.beside(&account).await?;
    harness.hub.adjust(|settings| settings.accounts = vec![Account::new("robot", PASSWORD)]);
    let before = harness.hub.hostile_requests().len();
    let public = harness.image("account", &[1000]).await?;
    with_account.client.pull(&public.repository, &public.tag, Shape::HeadFirst).await?;
    for what in [What::EvilRealm, What::RedirectEvil, What::RedirectLoop] {
        let image = harness.image("canary", &[1000]).await?;
        let private = harness.make_private(&image).await?;
        harness.hub.fault(Fault::always(what).on(Match::any().repository(&private.repository)));
        let _ = with_account.client.get_manifest(&private.repository, &private.tag).await?;
        let _ = with_account.client.get_blob(&private.repository, &private.layers[0].digest).await?;
        harness.hub.clear_faults();
    }
    let came = no_credentials(&harness, before)?;
    let cdn_with_credential = harness.hub.log().iter().any(|l| {
        matches!(l.kind, Kind::CdnGet | Kind::CdnHead) && l.headers.iter().any(|(name, _)| name == "authorization")
    });
    ensure!(!cdn_with_credential, "a credential went to the CDN");
    let used = harness.hub.count(|l| l.kind == Kind::Token && l.header("authorization").is_some());
    Ok(format!("{used} authorized token requests at the origin; {came} requests elsewhere, none with a credential"))
}

async fn nobody(harness: Arc<Harness>) -> Outcome {
    harness.hub.adjust(|settings| settings.challenge = Challenge::Nobody);
    let image = harness.image("nobody", &[100_000]).await?;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("upstream: {}", harness.spent(&image)))
}

async fn no_redirect(harness: Arc<Harness>) -> Outcome {
    harness.hub.adjust(|settings| settings.redirect_blobs = false);
    let image = harness.image("direct", &[100_000]).await?;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    Ok(format!("upstream: {}", harness.spent(&image)))
}

async fn docker_media(harness: Arc<Harness>) -> Outcome {
    let repository = harness.repository("schema2");
    let spec = Spec::new(repository.clone()).media(crate::hub::Media::Docker).layers([100_000]).seed(harness.seed());
    let image = harness.push(spec).await?;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let answer = harness.client.get_manifest(&repository, &image.tag).await?;
    let kind = answer.head.header("content-type").unwrap_or_default();
    ensure!(kind == crate::hub::Media::Docker.index(), "Content-Type {kind:?}");
    Ok("manifest list, manifest, blobs; media type as upstream has it".into())
}
