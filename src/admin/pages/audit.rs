//! *Audit*: what was done to whom, by whom and why, newest first, and what was tried and refused.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{context::PageContext, html};
use crate::{
    admin::json::parameter,
    limits::{
        audit::{AdminEvent, Entry, Event},
        bans::BanEvent,
    },
};

/// Entries on a page, and at most.
const SHOWN: usize = 200;
const MOST: usize = 10_000;

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let most = parameter(context.query, "n").and_then(|n| n.parse().ok()).unwrap_or(SHOWN).min(MOST);
    let entries = context.state.limits.audit(most);
    let is_full = entries.len() == most;
    let body = html! {
        p { "What was done, by whom and why, and what was tried and refused; newest first. Entries are only ever added." }
        @if entries.is_empty() {
            p { "Nothing yet." }
        } @else {
            (html::table("Audit", &["When", "Who", "From", "What", "Why"], entries.iter().map(row).collect()))
        }
        @if is_full && most < MOST { p { a href={ "/audit?n=" (most.saturating_mul(10)) } { "Show more" } } }
    };
    html::page(context, 200, html::Tab::Audit, "Audit", body)
}

fn row(entry: &Entry) -> Vec<Markup> {
    let (what, why) = match &entry.event {
        Event::Ban(event) => of_ban(event),
        Event::Admin(AdminEvent::Switched { selection, mode }) => {
            let mode = serde_json::to_value(mode).unwrap_or_default();
            (html! { "switched " code { (selection) } " to " (mode.as_str().unwrap_or_default()) }, "")
        }
        Event::Admin(AdminEvent::Allowed { client, comment, expires }) => {
            (html! { "allowed " b { (client) } " until " (html::time(*expires)) }, comment.as_str())
        }
        Event::Admin(AdminEvent::Purged { selection, freed, reason }) => {
            (html! { "purged " code { (selection) } ", " (freed) " bytes" }, reason.as_str())
        }
        Event::Admin(AdminEvent::Refreshed { image, moved, reason }) => {
            (html! { "refreshed " code { (image) } @if *moved { ", which moved" } }, reason.as_str())
        }
        Event::Admin(AdminEvent::Warmed { job, images, reason }) => {
            (html! { "began warm " (job) " of " (images) " images" }, reason.as_str())
        }
        Event::Admin(AdminEvent::WarmCancelled { job, reason }) => (html! { "cancelled warm " (job) }, reason.as_str()),
        Event::Admin(AdminEvent::Exported { selection, images, bytes, reason }) => {
            let what = html! { "exported " code { (selection) } ", " (images) " images in " (bytes) " bytes" };
            (what, reason.as_str())
        }
        Event::Admin(AdminEvent::Imported { selection, images, refused, reason }) => {
            let what = html! {
                "imported " (images) " images" @if *refused > 0 { " and refused " (refused) } " " code { (selection) }
            };
            (what, reason.as_str())
        }
        Event::Admin(AdminEvent::Pinned { pattern, reason }) => {
            (html! { "pinned " code { (pattern) } }, reason.as_str())
        }
        Event::Admin(AdminEvent::Unpinned { pattern, reason }) => {
            (html! { "unpinned " code { (pattern) } }, reason.as_str())
        }
        Event::Admin(AdminEvent::Reloaded) => (html! { "took the configuration anew" }, ""),
        Event::Admin(AdminEvent::LoggedIn) => (html! { "logged in" }, ""),
    };
    let from = entry.from.map(|from| from.to_string()).unwrap_or_default();
    vec![html::time(entry.at), html::text(&entry.by), html::text(from), what, html::text(why)]
}

/// What, and why.
fn of_ban(event: &BanEvent) -> (Markup, &str) {
    match event {
        BanEvent::Banned { record } => {
            let what = if record.simulated { "would have banned " } else { "banned " };
            let what =
                html! { (what) b { (record.client) } " until " (html::time(record.until)) ", " (ban(&record.id)) };
            (what, &record.reason)
        }
        BanEvent::Lifted { record } => {
            let why = record.lifted.as_ref().map_or("", |lift| &lift.reason);
            (html! { "lifted " (ban(&record.id)) " of " b { (record.client) } }, why)
        }
        BanEvent::EndMoved { record, before, reason } => {
            let what = html! {
                "moved the end of " (ban(&record.id)) " of " b { (record.client) } " from " (html::time(*before)) " to " (html::time(record.until))
            };
            (what, reason)
        }
        BanEvent::Expired { id, client } => (html! { (ban(id)) " of " b { (client) } " ended by itself" }, ""),
        BanEvent::Refused { attempt, reason, .. } => {
            (html! { span class="chip bad" { "refused" } " " (attempt) }, reason)
        }
    }
}

fn ban(id: &str) -> Markup {
    html! { "ban " a href={ "/blocked/" (id) } { (id) } }
}
