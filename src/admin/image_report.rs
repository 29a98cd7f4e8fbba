//! What rules say of an image that is cached, platform by platform.

use std::time::{Duration, SystemTime};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorize::Authorized,
    budget::at,
    cache::only,
    findings,
    images::{self, span},
    json::{MAX_SMALL, parameter, read, refuse, reply},
    state::State,
};
use crate::{
    mirror::{Image, PlatformFacts, Repository},
    oci::Digest,
    policy::{Contents, Created, Facts, LayerLeak, Outcome, Policy, Rule, Severity, Tool, Verdict, Vulnerabilities},
    route::{Mirrored, Route},
};

/// How long an answer may wait for layers that are looked at.
const LONGEST_WAIT: Duration = Duration::from_secs(55);

/// The report of one image. Upstream is asked nothing.
pub(super) async fn show(state: &State, request: &HttpRequest, query: &str) -> HttpResponse {
    if let Err(refusal) = only(query, &["platform", "wait", "format"]) {
        return *refusal;
    }
    let format = parameter(query, "format");
    if !matches!(format.as_deref(), None | Some("json" | "sarif")) {
        return refuse(400, "INVALID", "format is json or sarif");
    }
    let wait = match span(query, "wait") {
        Ok(wait) => wait.map(|wait| wait.min(LONGEST_WAIT)),
        Err(why) => return refuse(400, "INVALID", &why),
    };
    // One segment of the path, so its slashes are encoded.
    let text = request.match_info().query("name").replace("%2F", "/").replace("%2f", "/");
    let image = match find(state, &text) {
        Ok(image) => image,
        Err(refusal) => return *refusal,
    };
    let platform = parameter(query, "platform");
    let mut platforms = state.mirror.facts.of(&image, platform.as_deref()).await;
    let waits = |platforms: &[PlatformFacts]| platforms.iter().any(|platform| platform.contents.waiting > 0);
    if let Some(wait) = wait.filter(|_| platforms.as_deref().is_ok_and(waits)) {
        state.mirror.layers.settle(wait).await;
        platforms = state.mirror.facts.of(&image, platform.as_deref()).await;
    }
    let platforms = match platforms {
        Ok(platforms) => platforms,
        Err(error) => return refuse(500, "UNKNOWN", &error.to_string()),
    };
    if platforms.is_empty() {
        return refuse(404, "MANIFEST_UNKNOWN", "this image has no manifest for that platform in the cache");
    }
    let (policy, judged) = state.mirror.enforcement.report(&image, platforms, SystemTime::now()).await;
    if format.as_deref() == Some("sarif") {
        return findings::sarif_reply(&findings::of_report(&image, &judged));
    }
    let outcomes: Vec<Outcome> = judged.iter().flat_map(|(_, verdicts)| verdicts).map(|it| it.outcome).collect();
    let worst = [Outcome::Fail, Outcome::Unknown].into_iter().find(|worst| outcomes.contains(worst));
    let platforms: Vec<Value> = judged.iter().map(|(platform, verdicts)| describe(platform, verdicts)).collect();
    let answer = json!({
        "name": image.name(),
        "digest": image.digest.to_string(),
        "policy": policy,
        "outcome": worst.unwrap_or(Outcome::Pass).as_str(),
        "platforms": platforms,
    });
    reply(200, &answer)
}

/// What a scanner found in a platform of an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scanned {
    image: String,
    digest: Digest,
    found: Vulnerabilities,
}

/// Keeps what a scanner found in a platform of a cached image.
pub(super) async fn keep_scan(state: &State, authorized: &Authorized, payload: web::Payload) -> HttpResponse {
    let Scanned { image, digest, found } = match read(payload, MAX_SMALL).await {
        Ok(scanned) => scanned,
        Err(refusal) => return refusal,
    };
    if !found.is_sound() {
        return refuse(400, "INVALID", "named has at most five names of vulnerabilities, such as CVE-2026-1234");
    }
    let cached = match find(state, &image) {
        Ok(cached) => cached,
        Err(refusal) => return *refusal,
    };
    let platforms = state.mirror.facts.of(&cached, None).await.unwrap_or_default();
    if !platforms.iter().any(|platform| platform.digest == digest) {
        return refuse(404, "MANIFEST_UNKNOWN", "no platform of this image has this digest");
    }
    tracing::info!(target: "weir::admin", by = authorized.operator.name, image, %digest, critical = found.critical, "scanned");
    match state.mirror.scans.keep(&digest, found, SystemTime::now()).await {
        Ok(()) => {
            state.mirror.enforcement.forget();
            reply(200, &json!({"digest": digest.to_string()}))
        }
        Err(error) => refuse(500, "UNKNOWN", &error.to_string()),
    }
}

/// The policies that are in force, in their order, with what each rule warned of or refused.
pub(super) fn policies(state: &State) -> HttpResponse {
    let policy = |policy: &Policy| {
        let table = policy.table();
        let rule = |(rule, count): (Rule, u64)| json!({"rule": rule.as_str(), "matched": count});
        json!({
            "name": table.name,
            "images": table.images,
            "except": table.except,
            "mode": table.mode.word(),
            "rules": policy.counts().map(rule).collect::<Vec<_>>(),
        })
    };
    let policies: Vec<Value> = state.mirror.enforcement.policies().all().iter().map(policy).collect();
    reply(200, &json!({"policies": policies}))
}

/// The cached image of a name.
fn find(state: &State, text: &str) -> Result<Image, Box<HttpResponse>> {
    let named = state.settings.routes.load().named_image(text);
    let (route, reference) = named.map_err(|why| Box::new(refuse(400, "NAME_INVALID", &why)))?;
    let repository = match route {
        Route::Hosted(name) => Repository::hosted(name),
        Route::Mirrored(Mirrored { upstream, repository, .. }) => Repository { upstream, name: repository },
    };
    let why = "no image of this name is cached; pull it, or weir cache warm it";
    images::one(&state.mirror.images().read(), &repository, &reference)
        .ok_or_else(|| Box::new(refuse(404, "MANIFEST_UNKNOWN", why)))
}

fn describe(platform: &PlatformFacts, verdicts: &[Verdict]) -> Value {
    let verdict = |verdict: &Verdict| {
        json!({
            "rule": verdict.rule.as_str(),
            "outcome": verdict.outcome.as_str(),
            "finding": verdict.finding,
            "mend": verdict.mend,
        })
    };
    json!({
        "platform": platform.platform,
        "digest": platform.digest.to_string(),
        "arrived": platform.arrived.map(at),
        "base": platform.facts.as_ref().ok().and_then(|it| it.base.as_ref()).or(platform.base.as_ref()).map(|it| it.name()),
        "facts": platform.facts.as_ref().ok().map(|facts| describe_facts(facts)),
        "contents": platform.facts.as_ref().ok().map(|_| describe_contents(&platform.contents)),
        "verdicts": verdicts.iter().map(verdict).collect::<Vec<_>>(),
    })
}

fn describe_contents(contents: &Contents) -> Value {
    let secret = |secret: &LayerLeak| {
        json!({
            "kind": secret.leak.kind,
            "path": secret.leak.path,
            "layer": secret.layer,
            "removed": secret.is_removed,
        })
    };
    let tool = |tool: &Tool| json!({"kind": tool.kind, "path": tool.path});
    let problem = |(layer, problem): &(usize, crate::policy::Problem)| json!({"layer": layer, "problem": problem});
    json!({
        "layers": contents.layers,
        "waiting": contents.waiting,
        "secrets": contents.secrets.iter().map(secret).collect::<Vec<_>>(),
        "setuid": contents.setuid,
        "writable": contents.writable,
        "tools": contents.tools.iter().map(tool).collect::<Vec<_>>(),
        "problems": contents.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

fn describe_facts(facts: &Facts) -> Value {
    let created = match facts.created {
        Created::At(time) => Some(at(time)),
        Created::Unknown => None,
    };
    let secrets: Vec<Value> =
        facts.secrets.iter().map(|secret| json!({"kind": secret.kind, "place": secret.place})).collect();
    let lint = facts.lint.iter().map(|lint| {
        let severity = match lint.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        json!({"rule": lint.rule, "severity": severity, "advice": lint.advice, "steps": lint.steps})
    });
    json!({
        "user": facts.user.to_string(),
        "created": created,
        "size": facts.size,
        "layers": facts.layers.len(),
        "low_ports": facts.low_ports,
        "secrets": secrets,
        "lint": lint.collect::<Vec<_>>(),
    })
}
