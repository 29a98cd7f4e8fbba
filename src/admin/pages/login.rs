//! Logging in and out.

use std::time::Instant;

use actix_web::{HttpResponse, http::header::RETRY_AFTER};
use maud::html;

use super::{
    context::{PageContext, Viewer},
    form::Form,
    html::{self, sentence},
    page::Page,
    texts::text,
};
use crate::{
    admin::{authorize::status, json::parameter},
    identity::{Credentials, MAX_PASSWORD, session::SessionId},
    limits::audit::{AdminEvent, Event},
};

/// The longest name that is looked at, in characters.
const LONGEST_NAME: usize = 255;

pub(super) fn page(context: &PageContext<'_>, wrong: Option<&str>) -> HttpResponse {
    form(context, if wrong.is_some() { 401 } else { 200 }, &next(context.query), wrong)
}

fn form(context: &PageContext<'_>, status: u16, next: &str, wrong: Option<&str>) -> HttpResponse {
    let has_accounts = !context.state.limits.config().accounts.is_empty();
    let body = html! {
        @if let Some(wrong) = wrong { p class="bad" role="alert" { (wrong) } }
        @if !has_accounts {
            p class="bad" { (text!("No accounts are configured, so no user can log in. Ask the operator of this mirror to add an {}.", html::code("[[account]]"))) }
        }
        @if next.starts_with("/unblock") { p { (text!("Log in to see why you were blocked and to lift it.")) } }
        form class="narrow" method="post" action="/login" {
            (html::token(context))
            input type="hidden" name="next" value=(next);
            label for="name" { (text!("Name")) }
            input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength=(LONGEST_NAME) required autofocus;
            label for="password" { (text!("Password")) }
            input id="password" name="password" type="password" autocomplete="current-password" maxlength=(MAX_PASSWORD) required;
            button class="main" { (text!("Log in")) }
        }
    };
    html::page(context, status, html::Tab::None, text!("Log in"), body)
}

pub(super) async fn log_in(context: &mut PageContext<'_>, fields: &Form) -> HttpResponse {
    let (name, password) = (fields.line("name", LONGEST_NAME), fields.get("password"));
    let next = known(fields.get("next"));
    let state = context.state;
    let verified = match password.len() {
        0..=MAX_PASSWORD => state.authenticator.verify(&Credentials::new(&name, password), context.from).await,
        _ => Ok(None),
    };
    let principal = match verified {
        Ok(Some(principal)) => principal,
        Ok(None) => return form(context, 401, &next, Some(text!("Wrong name or password."))),
        Err(error) => {
            let mut response = form(context, status(error), &next, Some(&sentence(&error.to_string())));
            response.headers_mut().insert(RETRY_AFTER, error.retry_after().into());
            return response;
        }
    };
    // A reload may have removed it a moment ago.
    let Some(account) = state.authenticator.account(&principal) else {
        return form(context, 401, &next, Some(text!("Wrong name or password.")));
    };
    if !account.role.has_pages() {
        return form(context, 403, &next, Some(text!("This account reads /metrics alone; no page is for it.")));
    }
    let sessions = &state.sessions;
    // The session that the browser had before is forgotten, whatever site set it.
    sessions.end(&context.session);
    let session = sessions.begin(principal, Instant::now());
    let cookie = context.cookie(&session);
    context.viewer = Viewer::Account(account);
    state.limits.record_event(&context.by(), Event::Admin(AdminEvent::LoggedIn), context.now);
    html::see_other(&next, Some(cookie))
}

pub(super) fn log_out(context: &PageContext<'_>) -> HttpResponse {
    context.state.sessions.end(&context.session);
    html::see_other("/login", Some(context.cookie(&SessionId::random())))
}

fn next(query: &str) -> String {
    known(&parameter(query, "next").unwrap_or_default())
}

/// One of our own pages, or else the start: no visitor is sent elsewhere.
pub(super) fn known(next: &str) -> String {
    let (path, query) = next.split_once('?').unwrap_or((next, ""));
    match Page::find(path) {
        Some(page)
            if page.attempt().is_none() && !page.is_asset() && query.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            next.to_owned()
        }
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_redirects_to_another_site() {
        for (next, path) in [
            ("/unblock/3f2a", "/unblock/3f2a"),
            ("/audit", "/audit"),
            ("/audit?n=9", "/audit?n=9"),
            ("/audit?n=9 a", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example/", "/"),
            ("javascript:alert(1)", "/"),
            ("/unblock/3f2a/lift", "/"),
            ("/logout", "/"),
            ("/login", "/"),
            ("/audit\r\nSet-Cookie: a=b", "/"),
            ("", "/"),
        ] {
            assert_eq!(known(next), path, "{next:?}");
        }
    }
}
