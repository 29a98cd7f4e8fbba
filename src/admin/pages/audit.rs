//! *Audit*: what was done to whom, by whom and why, newest first, and what was tried and refused.

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    html,
    texts::{heads, text},
};
use crate::{
    admin::{json::parameter, throttles::audit_filter},
    limits::{
        audit::{AdminEvent, AuditFilter, AuditPage, EVENTS, Entry, Event},
        bans::BanEvent,
    },
};

/// Entries of one page.
const SHOWN: usize = 100;

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let filter = audit_filter(context.query);
    let before = parameter(context.query, "before").and_then(|before| before.parse().ok());
    let AuditPage { entries, next } = context.state.limits.find_in_audit(&filter, before, SHOWN);
    let AuditFilter { event, by, text } = &filter;
    let is_filtered = [event, by, text].iter().any(|typed| !typed.is_empty());
    let next = next.map(|next| {
        let mut query = Serializer::new(String::new());
        query.append_pair("event", event).append_pair("by", by).append_pair("text", text);
        format!("/audit?{}", query.append_pair("before", &next.to_string()).finish())
    });
    let events = [("", text!("every event"))].into_iter().chain(EVENTS.iter().map(|event| (*event, *event)));
    let body = html! {
        p { (text!("What was done, by whom and why, and what was tried and refused; newest first. Entries are only ever added.")) }
        form class="line" method="get" action="/audit" {
            (html::choice_field("event", text!("Event"), events, event))
            (html::search_field("by", text!("Who"), by, ""))
            (html::search_field("text", text!("Client, image, ID or reason"), text, "10.1."))
            button { (text!("Show")) }
        }
        @if entries.is_empty() {
            p { @if is_filtered { (text!("No entry fits.")) } @else { (text!("Nothing yet.")) } }
        } @else {
            (html::table(text!("Audit"), &heads!["When", "Who", "From", "What", "Why"], entries.iter().map(row).collect()))
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { (text!("Next page")) } } }
    };
    html::page(context, 200, html::Tab::Audit, text!("Audit"), body)
}

fn row(entry: &Entry) -> Vec<Markup> {
    let (what, why) = match &entry.event {
        Event::Ban(event) => of_ban(event),
        Event::Admin(AdminEvent::Switched { selection, mode, reason }) => {
            (text!("switched {} to {}", html::code(selection), mode.as_str()), reason.as_str())
        }
        Event::Admin(AdminEvent::Allowed { client, comment, expires }) => {
            (text!("allowed {} until {}", html::bold(client), html::time(*expires)), comment.as_str())
        }
        Event::Admin(AdminEvent::Purged { selection, freed, reason }) => {
            (text!("purged {}, {} bytes", html::code(selection), freed), reason.as_str())
        }
        Event::Admin(AdminEvent::Refreshed { image, moved, reason }) => (
            html! { (text!("refreshed {}", html::code(image))) @if *moved { ", " (text!("which moved")) } },
            reason.as_str(),
        ),
        Event::Admin(AdminEvent::Warmed { job, images, reason }) => {
            (text!("began warm {} of {} images", job, images), reason.as_str())
        }
        Event::Admin(AdminEvent::WarmCancelled { job, reason }) => (text!("cancelled warm {}", job), reason.as_str()),
        Event::Admin(AdminEvent::Exported { selection, images, bytes, reason }) => {
            let what = text!("exported {}, {} images in {} bytes", html::code(selection), images, bytes);
            (what, reason.as_str())
        }
        Event::Admin(AdminEvent::Imported { selection, images, refused, reason }) => {
            let what = html! {
                (text!("imported {} images of {}", images, html::code(selection)))
                @if *refused > 0 { ", " (text!("{} refused", refused)) }
            };
            (what, reason.as_str())
        }
        Event::Admin(AdminEvent::Pinned { pattern, reason }) => {
            (text!("pinned {}", html::code(pattern)), reason.as_str())
        }
        Event::Admin(AdminEvent::Unpinned { pattern, reason }) => {
            (text!("unpinned {}", html::code(pattern)), reason.as_str())
        }
        Event::Admin(AdminEvent::Reloaded) => (html! { (text!("took the configuration anew")) }, ""),
        Event::Admin(AdminEvent::LoggedIn) => (html! { (text!("logged in")) }, ""),
    };
    let from = entry.from.map(|from| from.to_string()).unwrap_or_default();
    vec![html::time(entry.at), html::text(&entry.by), html::text(from), what, html::text(why)]
}

/// What, and why.
fn of_ban(event: &BanEvent) -> (Markup, &str) {
    match event {
        BanEvent::Banned { record } => {
            let (client, until, ban) = (html::bold(&record.client), html::time(record.until), ban(&record.id));
            let what = match record.simulated {
                true => text!("would have banned {} until {}, {}", client, until, ban),
                false => text!("banned {} until {}, {}", client, until, ban),
            };
            (what, &record.reason)
        }
        BanEvent::Lifted { record } => {
            let why = record.lifted.as_ref().map_or("", |lift| &lift.reason);
            (text!("lifted {} of {}", ban(&record.id), html::bold(&record.client)), why)
        }
        BanEvent::EndMoved { record, before, reason } => {
            let what = text!(
                "moved the end of {} of {} from {} to {}",
                ban(&record.id),
                html::bold(&record.client),
                html::time(*before),
                html::time(record.until)
            );
            (what, reason)
        }
        BanEvent::Expired { id, client } => (text!("{} of {} ended by itself", ban(id), html::bold(client)), ""),
        BanEvent::Refused { attempt, reason, .. } => {
            (html! { span class="chip bad" { (text!("refused")) } " " (attempt) }, reason)
        }
    }
}

fn ban(id: &str) -> Markup {
    text!("ban {}", html! { a href={ "/blocked/" (id) } { (id) } })
}
