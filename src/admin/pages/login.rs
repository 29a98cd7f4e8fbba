//! Logging in and out, and how often that may be tried.

use std::{net::IpAddr, sync::Arc, time::Duration, time::SystemTime};

use actix_web::HttpResponse;
use maud::html;

use super::{Page, PageContext, Viewer, form::Form, html};
use crate::{
    admin::parameter,
    client::ClientKey,
    limits::{
        audit::{AdminEvent, Event},
        client,
        throttle::{Algorithm, Meter, Mode, Rules, Table, Throttle},
    },
};

/// Tries from one address in five minutes, and so many times eight from its /24 or /48.
const BY_ADDRESS: u32 = 20;
/// Tries for one account in five minutes, wherever they come from. Above the other, so that no single address can lock an account.
const BY_ACCOUNT: u32 = 30;
const PERIOD: u32 = 300;
/// Refusals of one address or account that are noted in an hour.
const NOTED: u32 = 100;
/// Addresses and accounts that are told apart; past it newcomers are counted together.
const MOST: usize = 4096;
/// The longest name that is looked at, in characters, and the longest password, in bytes.
const LONGEST_NAME: usize = 255;
const LONGEST_PASSWORD: usize = 1024;

/// Counts logins, and refusals that go into the audit. On throttles of our own that no setting can switch off.
pub(super) struct Attempts {
    login_rules: Rules,
    logins: Table,
    refusal_rules: Rules,
    refusals: Table,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        let setting = |who: &str, requests_per_period, period_in_seconds| Throttle {
            name: format!("throttle_{who}_auth"),
            requests_per_period,
            period_in_seconds,
            burst: Some(requests_per_period / 2),
            algorithm: Algorithm::Gcra,
            mode: Mode::Enforce,
        };
        let rules = |by_address, by_account, period| {
            let settings =
                [setting("unauthenticated", by_address, period), setting("authenticated", by_account, period)];
            // The settings are constants that a test has seen accepted.
            Rules::new(&settings, &[], 8).unwrap_or_default()
        };
        Attempts {
            login_rules: rules(BY_ADDRESS, BY_ACCOUNT, PERIOD),
            logins: Table::new(MOST),
            refusal_rules: rules(NOTED, NOTED, 3600),
            refusals: Table::new(MOST),
        }
    }

    /// Counts a try; how long to wait when it is one too many.
    fn try_once(&self, name: &str, from: IpAddr, now: SystemTime) -> Result<(), Duration> {
        keys(name, from).iter().try_for_each(|key| {
            let decision = self.logins.check(&self.login_rules, key, Meter::Auth.alone(), Meter::Auth.alone(), now);
            decision.denied().map_or(Ok(()), |standing| Err(standing.more_in))
        })
    }

    /// It was the right password after all.
    fn succeeded(&self, name: &str, from: IpAddr, now: SystemTime) {
        for key in keys(name, from) {
            self.logins.refund(&self.login_rules, &key, Meter::Auth, 1, now);
        }
    }

    /// Whether one more refusal of this one goes into the audit. That holds 10,000 entries and is where lifts are counted by the day: at 100 an
    /// hour no account can push its own lifts out within the day.
    pub(super) fn may_be_noted(&self, name: &str, from: IpAddr, now: SystemTime) -> bool {
        let meter = Meter::Auth.alone();
        let check = |key| self.refusals.check(&self.refusal_rules, key, meter, meter, now);
        keys(name, from).iter().all(|key| check(key).denied().is_none())
    }
}

fn keys(name: &str, from: IpAddr) -> [ClientKey; 2] {
    [ClientKey::Address(client::key_address(from)), ClientKey::Principal(Arc::from(name))]
}

pub(super) fn page(context: &PageContext<'_>, wrong: Option<&str>) -> HttpResponse {
    form(context, if wrong.is_some() { 401 } else { 200 }, &next(context.query), wrong)
}

fn form(context: &PageContext<'_>, status: u16, next: &str, wrong: Option<&str>) -> HttpResponse {
    let has_accounts = !context.state.limits.config().accounts.is_empty();
    let body = html! {
        @if let Some(wrong) = wrong { p class="bad" role="alert" { (wrong) } }
        @if !has_accounts {
            p class="bad" { "No accounts are configured, so nobody can log in. Ask whoever operates this mirror to add an " code { "[[account]]" } "." }
        }
        @if next.starts_with("/unblock") { p { "Log in to see why you were blocked and to lift it." } }
        form class="narrow" method="post" action="/login" {
            (html::token(context))
            input type="hidden" name="next" value=(next);
            label for="name" { "Name" }
            input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength=(LONGEST_NAME) required autofocus;
            label for="password" { "Password" }
            input id="password" name="password" type="password" autocomplete="current-password" maxlength=(LONGEST_PASSWORD) required;
            button class="main" { "Log in" }
        }
    };
    html::page(context, status, html::Tab::None, "Log in", body)
}

pub(super) async fn log_in(context: &mut PageContext<'_>, fields: &Form) -> HttpResponse {
    let (name, password) = (fields.line("name", LONGEST_NAME), fields.get("password"));
    let next = known(fields.get("next"));
    let attempt = format!("log in as {name}");
    let attempts = &context.state.pages.attempts;
    if let Err(wait) = attempts.try_once(&name, context.from, context.now) {
        context.refused(&attempt, "too many tries");
        let seconds = wait.as_secs() + 1;
        let sentence = format!("Too many tries to log in. Wait {}.", html::about(Duration::from_secs(seconds)));
        let mut response = form(context, 429, &next, Some(&sentence));
        response.headers_mut().insert(actix_web::http::header::RETRY_AFTER, seconds.into());
        return response;
    }
    let verified = match password.len() {
        0..=LONGEST_PASSWORD => context.state.login.verify(&name, password.to_owned()).await,
        _ => Ok(None),
    };
    match verified {
        Err(super::super::login::Busy) => {
            form(context, 503, &next, Some("Too many passwords are being verified. Try again in a second."))
        }
        Ok(None) => {
            context.refused(&attempt, "wrong name or password");
            form(context, 401, &next, Some("Wrong name or password."))
        }
        Ok(Some(account)) => {
            attempts.succeeded(&name, context.from, context.now);
            let sessions = &context.state.pages.sessions;
            // What the browser was called before is forgotten, whoever gave it that name.
            sessions.end(&context.name);
            let name = sessions.begin(account.name.clone(), account.password_hash.clone(), context.now);
            let cookie = context.cookie(&name);
            context.viewer = Viewer::Account(account);
            context.state.limits.record_event(&context.by(), Event::Admin(AdminEvent::LoggedIn), context.now);
            html::see_other(&next, Some(cookie))
        }
    }
}

pub(super) fn log_out(context: &PageContext<'_>) -> HttpResponse {
    context.state.pages.sessions.end(&context.name);
    html::see_other("/login", Some(context.cookie(&super::session::SessionId::random())))
}

fn next(query: &str) -> String {
    known(&parameter(query, "next").unwrap_or_default())
}

/// One of our own pages, or else the start: nobody is sent elsewhere.
fn known(next: &str) -> String {
    match Page::find(next) {
        Some(page) if page.attempt().is_none() && !page.is_asset() => next.to_owned(),
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        for (next, path) in [
            ("/unblock/3f2a", "/unblock/3f2a"),
            ("/audit", "/audit"),
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

    #[test]
    fn guessing_is_slow_for_an_address_and_for_an_account() {
        let attempts = Attempts::new();
        let from = |last: u8| IpAddr::from([10, 0, last, 1]);
        let tried = (0..100).filter(|_| attempts.try_once("ann", from(1), at(0)).is_ok()).count();
        assert_eq!(tried, 10);
        assert!(attempts.try_once("ann", from(2), at(0)).is_ok(), "another address still can");
        let tried = (3..250).filter(|last| attempts.try_once("ann", from(*last), at(0)).is_ok()).count();
        assert_eq!(tried, 4, "15 from everywhere together");
        let wait = attempts.try_once("bob", from(1), at(0)).unwrap_err();
        assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(40), "{wait:?}");
        assert!(attempts.try_once("bob", from(1), at(300)).is_ok());
    }

    #[test]
    fn a_flood_of_refusals_does_not_fill_the_audit() {
        let attempts = Attempts::new();
        let day = (0..86_400).filter(|second| attempts.may_be_noted("ann", [10, 0, 0, 1].into(), at(*second))).count();
        assert!((1000..2000).contains(&day), "{day} of 86,400");
    }

    #[test]
    fn the_right_password_costs_nothing() {
        let attempts = Attempts::new();
        for _ in 0..100 {
            attempts.try_once("ann", [10, 0, 0, 1].into(), at(0)).unwrap();
            attempts.succeeded("ann", [10, 0, 0, 1].into(), at(0));
        }
    }
}
