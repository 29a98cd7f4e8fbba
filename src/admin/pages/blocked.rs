//! *Blocked*: who is turned away, until when and because of what; one ban with its evidence; lifting, allowing, banning.

use std::time::{Duration, SystemTime};

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    form::Form,
    html::{self, sentence},
    texts::{heads, text},
};
use crate::{
    admin::json::parameter,
    client::ClientKey,
    limits::{
        Target,
        bans::{BanFilter, BanRecord, MAX_DURATION, Origin},
        penalty::PenaltyLevel,
        state::BanRequest,
    },
};

/// Bans of one page.
const SHOWN: usize = 100;
/// The longest reason or comment, in characters.
const LONGEST_REASON: usize = 500;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `refused` is why a form was, and the form, so that what was typed stays.
pub(super) fn page(context: &PageContext<'_>, refused: Option<(&str, &Form)>) -> HttpResponse {
    let [namespace, part] = ["namespace", "part"].map(|name| parameter(context.query, name).unwrap_or_default());
    let first: usize = parameter(context.query, "first").and_then(|first| first.parse().ok()).unwrap_or(0);
    let ended = parameter(context.query, "ended").is_some();
    let filter =
        BanFilter { namespace: Some(namespace.clone()).filter(|it| !it.is_empty()), ended, ..BanFilter::default() };
    let mut bans = context.state.limits.bans(&filter, context.now);
    bans.retain(|record| is_found(record, part.trim()));
    let rows: Vec<_> = bans.iter().skip(first).take(SHOWN).map(|record| row(context, record)).collect();
    let next = (bans.len() > first.saturating_add(SHOWN)).then(|| {
        let mut query = Serializer::new(String::new());
        query.append_pair("namespace", &namespace).append_pair("part", &part);
        if ended {
            query.append_pair("ended", "1");
        }
        format!("/blocked?{}", query.append_pair("first", &(first + SHOWN).to_string()).finish())
    });
    let is_filtered = !namespace.is_empty() || !part.is_empty();
    let body = html! {
        @if let Some((wrong, _)) = refused { p class="bad" role="alert" { (wrong) } }
        form class="line" method="get" action="/blocked" {
            (html::search_field("part", text!("Client, rule, reason or ID"), &part, "10.1."))
            (html::search_field("namespace", text!("Because of requests to"), &namespace, "library/"))
            label { input type="checkbox" name="ended" value="1" checked[ended]; " " (text!("ended ones, too")) }
            button { (text!("Show")) }
        }
        @if rows.is_empty() {
            p { @if is_filtered { (text!("No client is blocked because of that.")) } @else { (text!("No client is blocked.")) } }
        } @else {
            p { (html::count(bans.len() as u64, text!("ban"), text!("bans"))) @if is_filtered { " " (text!("of that")) } "." }
            (html::table(text!("Blocked clients"), &heads(), rows))
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { (text!("Next page")) } } }
        (block(context, refused.map(|(_, form)| form)))
    };
    html::page(context, if refused.is_some() { 400 } else { 200 }, html::Tab::Blocked, text!("Blocked"), body)
}

fn is_found(record: &BanRecord, part: &str) -> bool {
    part.is_empty()
        || [&record.client.to_string(), &record.rule, &record.reason, &record.id].iter().any(|text| text.contains(part))
}

/// The form that makes a ban, with what was typed when it was refused.
fn block(context: &PageContext<'_>, typed: Option<&Form>) -> Markup {
    let of = |name: &str| typed.map(|form| form.get(name)).unwrap_or_default();
    html! {
        details open[typed.is_some()] {
            summary { (text!("Block a client")) }
            form class="narrow" method="post" action="/blocked/add" {
                (html::token(context))
                label for="client" { (text!("Address, CIDR or account")) }
                input id="client" name="client" value=(of("client")) required spellcheck="false" autocapitalize="none";
                label for="duration" { (text!("For how long")) }
                input id="duration" name="duration" value=(typed.map_or("1h", |form| form.get("duration"))) required;
                label for="reason" { (text!("Why; the owner of the client reads it, too")) }
                input id="reason" name="reason" value=(of("reason")) required maxlength=(LONGEST_REASON);
                label { input type="checkbox" name="force" value="1" checked[!of("force").is_empty()]; " " (text!("though it is wider than a /24 (/48), loopback, or myself")) }
                button class="main" { (text!("Block")) }
            }
        }
    }
}

/// The heads of a table of bans.
pub(super) fn heads() -> [&'static str; 8] {
    heads!["ID", "Source", "Client", "Reason", "Action", "Met", "Ends", "Made"]
}

/// A ban, as a row below [`heads`].
pub(super) fn row(context: &PageContext<'_>, record: &BanRecord) -> Vec<Markup> {
    let now = context.now;
    let ends = match &record.lifted {
        Some(lift) => text!("lifted by {}", lift.by),
        None if record.is_live(now) => html! { (html::until(record.until, now)) },
        None => html::text(text!("ended")),
    };
    vec![
        html! { a href={ "/blocked/" (record.id) } { (record.id) } },
        source(record),
        html! { (client(&record.client)) @if record.simulated { " " span class="chip" { (text!("dry run")) } } },
        html! { code { (record.rule) } br; small { (record.reason) } },
        html::text(action(record.level)),
        html::text(context.state.limits.met(&record.id).to_string()),
        ends,
        html::time(record.created),
    ]
}

/// Whom a ban is of, with a link when that is one client and no network of many.
fn client(target: &Target) -> Markup {
    let name = target.to_string();
    let is_one = name.parse::<ClientKey>().is_ok_and(|key| Target::of(&key) == *target);
    html! { b { @if is_one { (html::client(&name)) } @else { (name) } } }
}

fn source(record: &BanRecord) -> Markup {
    match record.origin {
        Origin::Auto => html::text(text!("a rule")),
        Origin::Admin => html::text(&record.created_by),
        Origin::Imported => text!("imported by {}", record.created_by),
    }
}

fn action(level: PenaltyLevel) -> &'static str {
    match level {
        PenaltyLevel::Reference | PenaltyLevel::ClientReference => text!("misses of a reference"),
        PenaltyLevel::Misses => text!("misses: 429"),
        PenaltyLevel::MissesBanned => text!("misses: 403"),
        PenaltyLevel::Client => text!("everything: 403"),
    }
}

/// The same in words for the owner of the client.
fn effect(level: PenaltyLevel) -> &'static str {
    match level {
        PenaltyLevel::Reference | PenaltyLevel::ClientReference => text!("what does not exist is answered from memory"),
        PenaltyLevel::Misses => text!("what is not cached is refused (429); what is cached is served"),
        PenaltyLevel::MissesBanned => text!("what is not cached is refused (403); what is cached is served"),
        PenaltyLevel::Client => text!("every request is refused (403)"),
    }
}

/// One ban. `refused` is why a form was, and the form, so that what was typed stays.
pub(super) fn one(context: &PageContext<'_>, id: &str, refused: Option<(&str, &Form)>) -> HttpResponse {
    let Some(record) = context.state.limits.get_ban(id) else {
        return html::problem(
            context,
            404,
            text!("No such ban"),
            text!("There is no ban of this id; the audit may still know it."),
        );
    };
    let now = context.now;
    let earlier = BanFilter { client: Some(record.client.clone()), ended: true, ..BanFilter::default() };
    let mut earlier = context.state.limits.bans(&earlier, now);
    earlier.retain(|other| other.id != record.id);
    let met = html::count(context.state.limits.met(id), text!("request"), text!("requests"));
    let body = html! {
        @if let Some((wrong, _)) = refused { p class="bad" role="alert" { (wrong) } }
        (about(&record, now))
        p { (text!("{} met it since the start.", met)) " " (client(&record.client)) }
        @if record.is_live(now) { (changes(context, id, refused.map(|(_, form)| form))) }
        (evidence(&record))
        @if !earlier.is_empty() {
            h2 { (text!("Other bans that it meets or met")) }
            (html::table(text!("Other bans"), &heads(), earlier.iter().take(50).map(|record| row(context, record)).collect()))
        }
    };
    html::page(context, if refused.is_some() { 400 } else { 200 }, html::Tab::Blocked, text!("Ban {}", id), body)
}

/// What can be done about a ban that is in force.
fn changes(context: &PageContext<'_>, id: &str, typed: Option<&Form>) -> Markup {
    let of = |name: &str| typed.map(|form| form.get(name)).unwrap_or_default();
    let days = Some(of("days")).filter(|days| !days.is_empty()).unwrap_or("7");
    html! {
        h2 { (text!("Lift")) }
        form class="line" method="post" action={ "/blocked/" (id) "/lift" } {
            (html::token(context))
            (html::reason_field("reason", "reason", of("reason")))
            button class="main" { (text!("Lift")) }
        }
        h2 { (text!("Extend or shorten")) }
        form class="line" method="post" action={ "/blocked/" (id) "/end" } {
            (html::token(context))
            (html::field("duration", text!("From now on, for"), html! { input id="duration" name="duration" value=(of("duration")) placeholder="2h" required spellcheck="false" autocapitalize="none"; }))
            (html::reason_field("why", "why", of("why")))
            button { (text!("Move the end")) }
        }
        h2 { (text!("Allow")) }
        p { (text!("Lifts it and puts the client on the allowlist until the next start at the longest: no throttle and no automatic ban touches it.")) }
        form class="line" method="post" action={ "/blocked/" (id) "/allow" } {
            (html::token(context))
            (html::reason_field("comment", "comment", of("comment")))
            (html::field("days", text!("Days"), html! { input id="days" name="days" type="number" min="1" max="365" value=(days) required; }))
            button { (text!("Lift and allow")) }
        }
    }
}

/// What is known of it, in a list.
pub(super) fn about(record: &BanRecord, now: SystemTime) -> Markup {
    let ends = html! {
        (html::time(record.until))
        @if record.is_live(now) { ", " (html::until(record.until, now)) }
    };
    let lifted = record.lifted.as_ref();
    html! {
        (html::facts(&[
            (text!("Client"), html! { b { (record.client) } @if record.simulated { " " span class="chip" { (text!("dry run: not blocked")) } } }),
            (text!("Reason"), html! { (record.reason) " " small { "(" (text!("rule {}", html::code(&record.rule))) ")" } }),
            (text!("Effect"), html::text(effect(record.level))),
            (text!("Made"), text!("{} by {}", html::time(record.created), source(record))),
            (text!("Ends"), ends),
            (text!("Strikes before"), html::text(record.strikes.to_string())),
        ]))
        @if let Some(lift) = lifted {
            p class="good" { (text!("Lifted by {} at {}: {}", html::bold(&lift.by), html::time(lift.at), lift.reason)) }
        }
    }
}

/// The requests that led to it, and the repositories concerned.
pub(super) fn evidence(record: &BanRecord) -> Markup {
    let rows = record.evidence.iter().rev().map(|seen| {
        vec![
            html::time(seen.at),
            html::text(&seen.method),
            html::image(&seen.repository, &seen.reference),
            html::text(seen.status.to_string()),
        ]
    });
    html! {
        @if !record.evidence.is_empty() {
            h2 { (text!("Evidence")) }
            (html::table(text!("Evidence"), &heads!["When", "Method", "On what", "Answer"], rows.collect()))
        }
        @if !record.repositories.is_empty() {
            h2 { (text!("Repositories concerned")) }
            ul class="flow" { @for repository in &record.repositories { li { code { (repository) } } } }
        }
    }
}

pub(super) fn lift(context: &PageContext<'_>, id: &str, form: &Form) -> HttpResponse {
    match context.state.limits.lift(id, &form.line("reason", LONGEST_REASON), &context.by(), context.now) {
        Ok(record) => html::see_other(&format!("/blocked/{}", record.id), None),
        Err(refused) => one(context, id, Some((&sentence(&refused.to_string()), form))),
    }
}

pub(super) fn allow(context: &PageContext<'_>, id: &str, form: &Form) -> HttpResponse {
    let comment = form.line("comment", LONGEST_REASON);
    let days = form.get("days").parse::<u32>().ok().filter(|days| (1..=365).contains(days));
    let Some(days) = days else { return one(context, id, Some((text!("Allow for 1 to 365 days."), form))) };
    let by = context.by();
    match context.state.limits.lift(id, &comment, &by, context.now) {
        Ok(record) => {
            let expires = context.now + DAY * days;
            context.state.limits.allow(record.client, &comment, expires, &by, context.now);
            html::see_other(&format!("/blocked/{}", record.id), None)
        }
        Err(refused) => one(context, id, Some((&sentence(&refused.to_string()), form))),
    }
}

fn write_a_duration() -> &'static str {
    text!("Write a duration of at most 30 days, such as 1h or 2d.")
}

fn duration(form: &Form) -> Option<Duration> {
    humantime::parse_duration(form.get("duration").trim()).ok().filter(|duration| *duration <= MAX_DURATION)
}

pub(super) fn move_end(context: &PageContext<'_>, id: &str, form: &Form) -> HttpResponse {
    let Some(duration) = duration(form) else { return one(context, id, Some((write_a_duration(), form))) };
    let reason = form.line("why", LONGEST_REASON);
    match context.state.limits.move_end(id, duration, &reason, &context.by(), context.now) {
        Ok(record) => html::see_other(&format!("/blocked/{}", record.id), None),
        Err(refused) => one(context, id, Some((&sentence(&refused.to_string()), form))),
    }
}

pub(super) fn add(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let client = match form.get("client").trim().parse::<Target>() {
        Ok(client) => client,
        Err(why) => return page(context, Some((&sentence(&why), form))),
    };
    let Some(duration) = duration(form) else {
        return page(context, Some((write_a_duration(), form)));
    };
    let reason = form.line("reason", LONGEST_REASON);
    if reason.is_empty() {
        return page(context, Some((text!("Say why."), form)));
    }
    let wish = BanRequest { client, duration, reason, force: form.get("force") == "1" };
    match context.state.limits.ban(wish, &context.by(), context.now) {
        Ok(record) => html::see_other(&format!("/blocked/{}", record.id), None),
        Err(refused) => page(context, Some((&sentence(&refused.to_string()), form))),
    }
}
