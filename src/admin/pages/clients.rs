//! *Clients*, and one client: its class, where it stands with each throttle, its bans, its last requests, its images and bytes.

use std::net::IpAddr;

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    blocked, budget,
    context::PageContext,
    html::{self, Tab},
    texts::{heads, text},
};
use crate::{
    admin::json::parameter,
    client::ClientKey,
    limits::{
        Target,
        address::key_address,
        bans::BanFilter,
        recent::{ClientRecord, RecentRequest},
        state::ClientSummary,
    },
};

/// Clients of one page.
const SHOWN: usize = 50;
/// Spends that are looked at for those of one client, and those of them that are listed.
const LOOKED_AT: usize = 10_000;
const LISTED: usize = 20;
/// The longest name of a client, in bytes: longer ones are no client's.
const LONGEST: usize = 256;

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let part = parameter(context.query, "part").unwrap_or_default();
    let first: usize = parameter(context.query, "first").and_then(|first| first.parse().ok()).unwrap_or(0);
    expire(context);
    let mut clients = context.state.limits.client_summaries();
    clients.retain(|client| client.client.to_string().contains(part.trim()));
    let rows: Vec<_> = clients.iter().skip(first).take(SHOWN).map(|client| row(context, client)).collect();
    let next = (clients.len() > first.saturating_add(SHOWN)).then(|| {
        let mut query = Serializer::new(String::new());
        query.append_pair("part", &part).append_pair("first", &(first + SHOWN).to_string());
        format!("/clients?{}", query.finish())
    });
    let body = html! {
        p { (text!("Clients that asked lately: those that spent most upstream first, then those that asked most. What is counted of them begins with the start of Weir.")) }
        form class="line" method="get" action="/clients" {
            (html::search_field("part", text!("Part of an address or account"), &part, "10.1."))
            button { (text!("Show")) }
        }
        @if rows.is_empty() {
            p { @if part.is_empty() { (text!("No client has asked yet.")) } @else { (text!("No such client has asked lately.")) } }
        } @else {
            (html::table(text!("Clients"), &heads!["Client", "Class", "Pulls upstream", "Requests", "Bytes sent", "Ban"], rows))
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { (text!("Next page")) } } }
    };
    html::page(context, 200, Tab::Clients, text!("Clients"), body)
}

/// Pulls that left their window are no longer spent.
fn expire(context: &PageContext<'_>) {
    let state = context.state;
    state.mirror.budget().iter().for_each(|left| state.limits.expire_spends(left, context.now));
}

fn row(context: &PageContext<'_>, client: &ClientSummary) -> Vec<Markup> {
    let limits = &context.state.limits;
    let view = limits.client_view(&client.client, context.now);
    vec![
        html::client(&view.client),
        html::text(class(context, &client.client)),
        html::text(client.upstream_spent.to_string()),
        html::text(client.requests.to_string()),
        html::text(html::bytes(client.bytes)),
        html! { @if let Some(id) = view.ban { a href={ "/blocked/" (id) } { (id) } } },
    ]
}

fn class(context: &PageContext<'_>, client: &ClientKey) -> &'static str {
    if client.is_warm() { "bulk" } else { context.state.limits.class_of(client).word() }
}

/// The one that the query names.
pub(super) fn one(context: &PageContext<'_>) -> HttpResponse {
    let named = parameter(context.query, "client").unwrap_or_default();
    let named = named.trim();
    if named.is_empty() || named.len() > LONGEST {
        return html::problem(
            context,
            400,
            text!("No such client"),
            text!("Name a client: an address, a /64 of IPv6, or an account."),
        );
    }
    expire(context);
    // An address of a /64 is that client.
    let key = match named.parse::<IpAddr>() {
        Ok(address) => ClientKey::Address(key_address(address)),
        Err(_) => named.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}),
    };
    let (limits, now) = (&context.state.limits, context.now);
    let (view, record) = (limits.client_view(&key, now), limits.recent(&key));
    let bans = BanFilter { client: Some(Target::of(&key)), ended: true, ..BanFilter::default() };
    let bans = limits.bans(&bans, now);
    let spends = context.state.mirror.spends(LOOKED_AT);
    let spends: Vec<_> =
        spends.iter().filter(|spend| *spend.client == *view.client).take(LISTED).map(budget::row).collect();
    let throttles = limits.throttles().into_iter().map(|throttle| {
        let standing = view.throttles.iter().find(|standing| standing.name == throttle.name);
        vec![
            html! { code { (throttle.name) } },
            html::limit(throttle.requests_per_period.into(), throttle.period_in_seconds.into()),
            html::text(html::mode(throttle.mode)),
            html::text(standing.map_or(text!("none").to_owned(), |standing| standing.observed.to_string())),
            html::text(standing.map_or(text!("all").to_owned(), |standing| standing.remaining.to_string())),
        ]
    });
    let throttles: Vec<_> = throttles.collect();
    let body = html! {
        @if let Some(ban) = &view.ban { p class="bad" { (text!("It is blocked: {}.", html! { a href={ "/blocked/" (ban) } { (text!("ban {}", ban)) } })) } }
        (about(class(context, &key), view.upstream_spent, record.as_ref()))
        h2 { (text!("Throttles")) }
        @if throttles.is_empty() { p { (text!("None is configured.")) } } @else {
            (html::table(text!("Throttles"), &heads!["Throttle", "Limit", "Mode", "Used", "Left"], throttles))
        }
        @if let Some(record) = &record {
            @if !record.images.is_empty() {
                h2 { (text!("Images that it asks for")) }
                (html::table(text!("Images that it asks for"), &heads!["Image", "Requests"], record.images.iter().map(|(image, count)| {
                    vec![html! { code { (image) } }, html::text(count.to_string())]
                }).collect()))
            }
            h2 { (text!("Last requests")) }
            (html::table(text!("Last requests"), &heads!["When", "Request", "Answer", "Bytes", "Took", "Because"], record.recent.iter().map(request).collect()))
        }
        @if !spends.is_empty() {
            h2 { (text!("What it spent upstream")) }
            (html::table(text!("What it spent upstream"), &budget::heads(), spends))
        }
        h2 { (text!("Bans")) }
        @if bans.is_empty() { p { (text!("None that is remembered.")) } } @else {
            (html::table(text!("Bans"), &blocked::heads(), bans.iter().take(LISTED).map(|record| blocked::row(context, record)).collect()))
        }
        p { a href="/clients" { (text!("All clients")) } }
    };
    html::page(context, 200, Tab::Clients, &view.client, body)
}

fn about(class: &str, spent: u32, record: Option<&ClientRecord>) -> Markup {
    let mut facts = vec![
        (text!("Class"), html::text(class)),
        (
            text!("Upstream"),
            text!("{} spent within the window", html::count(u64::from(spent), text!("pull"), text!("pulls"))),
        ),
    ];
    match record {
        None => facts.push((text!("Requests"), html::text(text!("nothing is remembered of them")))),
        Some(record) => {
            let requests = html::count(record.requests, text!("request"), text!("requests"));
            facts.extend([
                (text!("Requests"), text!("{}, {} refused", requests, record.refused)),
                (text!("Bytes"), text!("{} sent to it", html::bytes(record.bytes))),
                (text!("Since"), html::time(record.since)),
                (text!("Last"), html::time(record.last)),
            ]);
        }
    }
    html::facts(&facts)
}

fn request(request: &RecentRequest) -> Vec<Markup> {
    vec![
        html::time(request.at),
        html! { code { (request.method) " " (request.path) @if let Some(ns) = &request.ns { "?ns=" (ns) } } },
        html::text(request.status.to_string()),
        html::text(html::bytes(request.bytes)),
        html! { (request.milliseconds) " ms" },
        html! { (request.rule.as_deref().or(request.cache).unwrap_or_default()) },
    ]
}
