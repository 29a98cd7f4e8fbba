//! *Audit*: what was done to whom, by whom and why, newest first, and what was tried and refused.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{
    context::PageContext,
    html,
    texts::{heads, text},
};
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
        p { (text!("What was done, by whom and why, and what was tried and refused; newest first. Entries are only ever added.")) }
        @if entries.is_empty() {
            p { (text!("Nothing yet.")) }
        } @else {
            (html::table(text!("Audit"), &heads!["When", "Who", "From", "What", "Why"], entries.iter().map(row).collect()))
        }
        @if is_full && most < MOST { p { a href={ "/audit?n=" (most.saturating_mul(10)) } { (text!("Show more")) } } }
    };
    html::page(context, 200, html::Tab::Audit, text!("Audit"), body)
}

fn row(entry: &Entry) -> Vec<Markup> {
    let (what, why) = match &entry.event {
        Event::Ban(event) => of_ban(event),
        Event::Admin(AdminEvent::Switched { selection, mode }) => {
            let mode = serde_json::to_value(mode).unwrap_or_default();
            (text!("switched {} to {}", html::code(selection), mode.as_str().unwrap_or_default()), "")
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
