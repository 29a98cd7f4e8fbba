//! *Unblock*: what a blocked client's owner reads and does: why, how to mend it, a human test, and a button.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{
    blocked,
    context::{PageContext, Viewer},
    form::Form,
    html::{self, Tab, sentence},
    texts::{heads, text},
};
use crate::limits::{
    Access, Account,
    bans::{BanFilter, BanRecord, Origin},
};

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let body = match &context.viewer {
        Viewer::Account(account) => html! { (own(context, account)) },
        _ => html! {
            p { (text!("Here the owners of blocked clients lift their bans themselves: after logging in they see those of their networks, namespaces and name.")) }
            p { (text!("You need no login and may lift any: see {}, or {} as an account.", html! { a href="/blocked" { (text!("Blocked")) } }, html! { a href="/login?next=/unblock" { (text!("log in")) } })) }
        },
    };
    html::page(context, 200, Tab::Unblock, text!("Unblock"), body)
}

fn own(context: &PageContext<'_>, account: &Account) -> Markup {
    let mut bans = context.state.limits.bans(&BanFilter::default(), context.now);
    bans.retain(|record| account.owns(record) && !record.simulated);
    let mut networks = account.networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    networks.extend(account.namespaces.iter().map(|namespace| format!("{} {namespace}", text!("requests to"))));
    html! {
        @if bans.is_empty() {
            p class="good" { (text!("Nothing of yours is blocked.")) }
        } @else {
            (html::table(text!("Your bans"), &heads!["Ban", "Client", "Reason", "Ends"], bans.iter().map(|record| vec![
                html! { a href={ "/unblock/" (record.id) } { (record.id) } },
                html! { b { (record.client) } },
                html::text(&record.reason),
                html::text(html::until(record.until, context.now)),
            ]).collect()))
        }
        p { small { (text!("Yours is what asks as {}", html::bold(&account.name)))
            @if !networks.is_empty() { ", " (text!("and: {}", networks.join(", "))) } "." } }
    }
}

/// One ban, as its owner sees it. Any other account reads no more than that there is none.
pub(super) fn one(context: &PageContext<'_>, id: &str, wrong: Option<&str>) -> HttpResponse {
    let record = context.state.limits.get_ban(id).filter(|record| match &context.viewer {
        Viewer::Account(account) => account.role.may(Access::Read) || account.owns(record),
        viewer => viewer.is_operator(),
    });
    let Some(record) = record else {
        return html::problem(
            context,
            404,
            text!("No such ban"),
            text!("There is no such ban that is yours. It may be of another address or account."),
        );
    };
    let lift = match &context.viewer {
        Viewer::Account(account) if record.is_live(context.now) && !record.simulated => Some(account),
        _ => None,
    };
    let is_own = lift.is_some_and(|account| {
        context.state.limits.own_bans(&account.name, context.now).iter().any(|own| own.id == id)
    });
    let proof_of_work = &context.state.proof_of_work;
    let challenge = is_own.then(|| proof_of_work.issue(&context.session, id, context.now)).flatten();
    let body = html! {
        @if let Some(wrong) = wrong { p class="bad" role="alert" { (wrong) } }
        (blocked::about(&record, context.now))
        @if record.lifted.is_none() && !record.is_live(context.now) { p class="good" { (text!("This ban is over.")) } }
        @if record.is_live(context.now) {
            h2 { (text!("What to mend")) }
            p { (fix(&record)) }
        }
        @if let Some(challenge) = &challenge {
            h2 { (text!("Lift it yourself")) }
            p { (text!("Mend it first. You may lift three bans a day; for an hour after that the client has half its quota, and the next ban lasts longer.")) }
            form id="human" method="post" action={ "/unblock/" (id) "/lift" } data-challenge=(challenge)
                data-working=(text!("Your browser is working on it; this takes a few seconds …")) data-done=(text!("Done. You can lift the ban now."))
                data-failed=(text!("Your browser could not solve it. Reload the page, or ask the operator to lift the ban.")) {
                (html::token(context))
                input type="hidden" name="altcha" value="";
                p { output for="human" aria-live="polite" { (text!("The human test needs JavaScript; without it, ask the operator to lift the ban.")) } }
                label { input type="checkbox" name="mended" value="1" required; " " (text!("I know what caused this, and it is mended.")) }
                button class="main" disabled { (text!("Lift the ban")) }
            }
            script src="/assets/proof_of_work.js" {}
        } @else if record.is_live(context.now) {
            @if context.viewer.is_operator() {
                p { (text!("You are an operator: {}.", html! { a href={ "/blocked/" (id) } { (text!("lift it there")) } })) }
            } @else {
                p { (text!("Only an operator can lift this one: it was made by a person, or turns everything away. It ends by itself {}.", html::until(record.until, context.now))) }
            }
        }
        (blocked::evidence(&record))
    };
    let title = text!("Why {} is blocked", record.client);
    let status = if wrong.is_some() { 403 } else { 200 };
    match challenge {
        Some(_) => html::page_with_script(context, status, Tab::Unblock, title, body),
        None => html::page(context, status, Tab::Unblock, title, body),
    }
}

/// What would have kept it from happening, in plain words.
fn fix(record: &BanRecord) -> &'static str {
    match (record.origin, &*record.rule) {
        (Origin::Admin | Origin::Imported, _) => {
            text!("An operator of this mirror did this by hand; the reason above is theirs. Ask them.")
        }
        (_, "not_found_enumeration") => {
            text!(
                "The client asked for many images that do not exist: a deployment with a wrong tag that is retried for ever, or a scanner that guesses names. Look at the evidence below, correct the name or push the image, and let whatever retries wait longer between tries."
            )
        }
        (_, "upstream_quota_exceeded") => {
            text!(
                "The client went on asking for images that are not cached after it had used up its share of upstream pulls. Spread its pulls over the day, pin images by digest so that they come from the cache, or ask the operator for another class or a larger share."
            )
        }
        (_, "auth_failures") => {
            text!(
                "The client offered a password that was wrong, again and again. Correct the stored credentials: docker logout and docker login, the pull secret, or the password file."
            )
        }
        (_, "denied_requests") => {
            text!(
                "The client went on asking after it had been refused. Make it wait as long as Retry-After says; a container that restarts every few seconds does not."
            )
        }
        _ => text!("A rule of this mirror saw what the reason above says; the evidence below shows the requests."),
    }
}

/// Tries to lift. Session, form and rights were looked at before.
pub(super) fn lift(context: &PageContext<'_>, id: &str, form: &Form) -> HttpResponse {
    let Viewer::Account(account) = &context.viewer else {
        return html::problem(context, 403, text!("Not allowed"), text!("Log in first."));
    };
    // Whose it is before the test: an account that may not know of a ban learns nothing by solving.
    if !context.state.limits.own_bans(&account.name, context.now).iter().any(|own| own.id == id) {
        context.refused(&format!("lift {id}"), "there is no such ban that is theirs to lift");
        return html::problem(context, 404, text!("No such ban"), text!("There is no such ban that is yours to lift."));
    }
    if let Err(wrong) = context.state.proof_of_work.verify(&context.session, form.get("altcha"), id) {
        context.refused(&format!("lift {id}"), &wrong.to_string());
        return one(context, id, Some(&sentence(&wrong.to_string())));
    }
    if form.get("mended") != "1" {
        return one(context, id, Some(text!("Confirm that it is mended.")));
    }
    match context.state.limits.lift_own(id, &account.name, Some(context.from), context.now) {
        Ok(lifted) => {
            let body = html! {
                p class="good" role="status" { (text!("Lifted. {} may pull again.", html::bold(&lifted.record.client))) }
                p { (text!("Until {} it has half its quota. Today you may lift {} yourself.", html::time(lifted.probation), html::count(lifted.left_today as u64, text!("more ban"), text!("more bans")))) }
                p { a href="/unblock" { (text!("Back")) } }
            };
            html::page(context, 200, Tab::Unblock, text!("Lifted"), body)
        }
        Err(why) => one(context, id, Some(&sentence(&why))),
    }
}
