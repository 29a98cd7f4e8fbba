//! *Throttles*: what each allows, what it did or would have done, and the button that puts it in force.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{
    context::PageContext,
    form::Form,
    html,
    texts::{heads, text},
};
use crate::admin::{changes::LONGEST, json::parameter};
use crate::limits::{
    allowlist::AllowlistEntry,
    repositories::RepositoryRule,
    state::ThrottleView,
    throttle::{Algorithm, Mode},
};

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let throttles = context.state.limits.throttles();
    let heads = heads!["Name", "Limit", "Mode", "Matches since the start", "Switch"];
    let rows = throttles.iter().map(|view| row(context, view)).collect();
    let allowlist = context.state.limits.config().allowlist.clone();
    let repositories = context.state.limits.config().repositories.clone();
    let body = html! {
        p {
            (text!("How often a client may ask. A throttle in {} denies nothing and counts what it would have denied; read that, then enforce it.", html! { em { (text!("dry run")) } })) " "
            (text!("A switch lasts until the next start; to keep it, write the mode into the configuration."))
        }
        @if throttles.is_empty() {
            p { (text!("No throttles are configured. The recommended ones stand in {} as comments.", html::code("deploy.toml"))) }
        } @else {
            (html::table(text!("Throttles"), &heads, rows))
        }
        h2 { (text!("Allowlist")) }
        @if allowlist.0.is_empty() {
            p { (text!("No client. A client that stands here is not throttled and not banned by a rule; the budget still binds.")) }
        } @else {
            (html::table(text!("Allowlist"), &heads!["Client", "Comment", "Expires"], allowlist.0.iter().map(allowed).collect()))
        }
        h2 { (text!("Repositories that are not mirrored")) }
        @if repositories.all().is_empty() {
            p { (text!("None: whatever an upstream has is mirrored. {} and {} of an upstream say otherwise.", html::code("allow"), html::code("deny"))) }
        } @else {
            (html::table(text!("Repositories"), &heads!["Upstream", "Rule", "Refused"], repositories.all().iter().map(refusing).collect()))
        }
    };
    html::page(context, 200, html::Tab::Throttles, text!("Throttles"), body)
}

fn row(context: &PageContext<'_>, view: &ThrottleView) -> Vec<Markup> {
    let limit = html! {
        (html::limit(view.requests_per_period.into(), view.period_in_seconds.into()))
        @if let Some(burst) = view.burst { br; small { (text!("{} at once", burst)) } }
        @if view.algorithm == Algorithm::FixedWindow { br; small { (text!("fixed window")) } }
    };
    let mode = html! {
        span class=(if view.mode == Mode::Enforce { "chip on" } else { "chip" }) { (html::mode(view.mode)) }
        @if view.switched { br; small { (text!("switched by hand")) } }
    };
    let matches = &view.matches;
    let clients = html::count(matches.clients as u64, text!("client"), text!("clients"));
    let matches = html! {
        @if matches.would_have_denied > 0 {
            (text!("would have denied {} of {}", html::count(matches.would_have_denied, text!("request"), text!("requests")), clients))
            @if matches.denied > 0 { br; }
        }
        @if matches.denied > 0 { (text!("denied {} of {}", html::count(matches.denied, text!("request"), text!("requests")), clients)) }
        @if matches.denied == 0 && matches.would_have_denied == 0 { (text!("none")) }
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
    let off = html! {
        form method="get" action="/throttles/off" {
            button name="name" value=(view.name) aria-label={ (text!("Off")) " " (view.name) } { (text!("Off")) }
        }
    };
    let switch = html! {
        div class="buttons" {
            @if view.mode != Mode::Enforce { (button(Mode::Enforce, text!("Enforce"), "main")) }
            @if view.mode != Mode::DryRun { (button(Mode::DryRun, text!("Dry run"), "")) }
            @if view.mode != Mode::Off { (off) }
        }
    };
    vec![html! { code { (view.name) } }, limit, mode, matches, switch]
}

fn allowed(entry: &AllowlistEntry) -> Vec<Markup> {
    vec![
        html::text(entry.client.to_string()),
        html::text(&entry.comment),
        entry.expires.map_or_else(|| html::text(text!("never")), html::time),
    ]
}

fn refusing(rule: &RepositoryRule) -> Vec<Markup> {
    vec![
        html::text(&*rule.upstream),
        html! { (rule.verdict.word()) " " code { (rule.patterns.join(", ")) } },
        html! { (html::count(rule.refused(), text!("request"), text!("requests"))) },
    ]
}

/// Asks whether a throttle is to be off, and why.
pub(super) fn confirm(context: &PageContext<'_>) -> HttpResponse {
    ask(context, &parameter(context.query, "name").unwrap_or_default(), None)
}

fn ask(context: &PageContext<'_>, name: &str, refused: Option<&str>) -> HttpResponse {
    if !is_known(context, name) {
        return unknown(context);
    }
    let body = html! {
        @if let Some(wrong) = refused { p class="bad" role="alert" { (wrong) } }
        p { (text!("From then on it denies nothing and counts nothing, until it is switched again or Weir starts again.")) }
        form class="line" method="post" action="/throttles/mode" {
            (html::token(context))
            input type="hidden" name="name" value=(name);
            (html::reason_field("reason", "reason", ""))
            button class="main" name="mode" value=(Mode::Off.as_str()) { (text!("Off")) }
        }
        p { a href="/throttles" { (text!("Throttles")) } }
    };
    let status = if refused.is_some() { 400 } else { 200 };
    html::page(context, status, html::Tab::Throttles, text!("Switch {} off", name), body)
}

/// One throttle by its whole name: a page must not switch what it does not show.
fn is_known(context: &PageContext<'_>, name: &str) -> bool {
    context.state.limits.throttles().iter().any(|view| view.name == name)
}

fn unknown(context: &PageContext<'_>) -> HttpResponse {
    html::problem(context, 400, text!("No such throttle"), text!("There is no throttle of this name, or no such mode."))
}

pub(super) fn switch(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let mode = [Mode::Enforce, Mode::DryRun, Mode::Off].into_iter().find(|mode| mode.as_str() == form.get("mode"));
    let (name, reason) = (form.line("name", 100), form.line("reason", LONGEST));
    match mode {
        Some(Mode::Off) if reason.is_empty() => ask(context, &name, Some(text!("Say why."))),
        Some(mode) if is_known(context, &name) => {
            context.state.limits.set_mode(&name, mode, &reason, &context.by(), context.now);
            html::see_other("/throttles", None)
        }
        _ => unknown(context),
    }
}
