//! *Throttles*: what each allows, what it did or would have done, and the button that puts it in force.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{context::PageContext, form::Form, html};
use crate::limits::{
    allowlist::AllowlistEntry,
    repositories::RepositoryRule,
    state::ThrottleView,
    throttle::{Algorithm, Mode},
};

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let throttles = context.state.limits.throttles();
    let heads = ["Name", "Limit", "Mode", "Matches since the start", "Switch"];
    let rows = throttles.iter().map(|view| row(context, view)).collect();
    let allowlist = context.state.limits.config().allowlist.clone();
    let repositories = context.state.limits.config().repositories.clone();
    let body = html! {
        p {
            "How often a client may ask. A throttle in " em { "dry run" } " denies nothing and counts what it would have denied; read that, then enforce it. "
            "A switch lasts until the next start; to keep it, write the mode into the configuration."
        }
        @if throttles.is_empty() {
            p { "No throttles are configured. The recommended ones stand in " code { "deploy.toml" } " as comments." }
        } @else {
            (html::table("Throttles", &heads, rows))
        }
        h2 { "Allowlist" }
        @if allowlist.0.is_empty() {
            p { "No client. A client that stands here is not throttled and not banned by a rule; the budget still binds." }
        } @else {
            (html::table("Allowlist", &["Client", "Comment", "Expires"], allowlist.0.iter().map(allowed).collect()))
        }
        h2 { "Repositories that are not mirrored" }
        @if repositories.all().is_empty() {
            p { "None: whatever an upstream has is mirrored. " code { "allow" } " and " code { "deny" } " of an upstream say otherwise." }
        } @else {
            (html::table("Repositories", &["Upstream", "Rule", "Refused"], repositories.all().iter().map(refusing).collect()))
        }
    };
    html::page(context, 200, html::Tab::Throttles, "Throttles", body)
}

fn row(context: &PageContext<'_>, view: &ThrottleView) -> Vec<Markup> {
    let limit = html! {
        (view.requests_per_period) " in " (view.period_in_seconds) " s"
        @if let Some(burst) = view.burst { br; small { (burst) " at once" } }
        @if view.algorithm == Algorithm::FixedWindow { br; small { "fixed window" } }
    };
    let mode = html! {
        span class=(if view.mode == Mode::Enforce { "chip on" } else { "chip" }) { (view.mode.as_str()) }
        @if view.switched { br; small { "switched by hand" } }
    };
    let matches = &view.matches;
    let clients = html::count(matches.clients as u64, "client", "clients");
    let matches = html! {
        @if matches.would_have_denied > 0 {
            "would have denied " (html::count(matches.would_have_denied, "request", "requests")) " of " (clients)
            @if matches.denied > 0 { br; }
        }
        @if matches.denied > 0 { "denied " (html::count(matches.denied, "request", "requests")) " of " (clients) }
        @if matches.denied == 0 && matches.would_have_denied == 0 { "none" }
    };
    let button = |mode: Mode, label: &str, class: &str| {
        html! {
            form method="post" action="/throttles/mode" {
                (html::token(context))
                input type="hidden" name="name" value=(view.name);
                button class=(class) name="mode" value=(mode.as_str()) aria-label={ (label) " " (view.name) } { (label) }
            }
        }
    };
    let switch = html! {
        div class="buttons" {
            @if view.mode != Mode::Enforce { (button(Mode::Enforce, "Enforce", "main")) }
            @if view.mode != Mode::DryRun { (button(Mode::DryRun, "Dry run", "")) }
            @if view.mode != Mode::Off { (button(Mode::Off, "Off", "")) }
        }
    };
    vec![html! { code { (view.name) } }, limit, mode, matches, switch]
}

fn allowed(entry: &AllowlistEntry) -> Vec<Markup> {
    vec![
        html::text(entry.client.to_string()),
        html::text(&entry.comment),
        entry.expires.map_or_else(|| html::text("never"), html::time),
    ]
}

fn refusing(rule: &RepositoryRule) -> Vec<Markup> {
    vec![
        html::text(&*rule.upstream),
        html! { (rule.verdict.word()) " " code { (rule.patterns.join(", ")) } },
        html! { (html::count(rule.refused(), "request", "requests")) },
    ]
}

pub(super) fn switch(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let mode = [Mode::Enforce, Mode::DryRun, Mode::Off].into_iter().find(|mode| mode.as_str() == form.get("mode"));
    let name = form.line("name", 100);
    // One throttle by its whole name: a page must not switch what it does not show.
    let is_known = context.state.limits.throttles().iter().any(|view| view.name == name);
    match mode {
        Some(mode) if is_known => {
            context.state.limits.set_mode(&name, mode, &context.by(), context.now);
            html::see_other("/throttles", None)
        }
        _ => html::problem(context, 400, "No such throttle", "There is no throttle of this name, or no such mode."),
    }
}
