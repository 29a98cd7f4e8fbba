//! Pages for people: Budget, Throttles, Blocked, Audit, and Unblock for whoever was blocked. Made here, whole, for each request; without JavaScript
//! but for the human test, and without a request to anybody else.
//!
//! # What it guarantees
//!
//! - Nothing changes by GET. A POST counts when it comes from a page of this origin, as `Origin` or `Sec-Fetch-Site` say, and carries the token
//!   of its cookie. What is refused of that is in the audit.
//! - Who asks from loopback, directly, is the operator and needs no login. Whoever comes through a proxy or by `public_url` logs in, even when
//!   the proxy stands on loopback: everybody who is banned is told to open that URL. An account with role admin is an operator; a user
//!   sees and lifts the bans that are theirs.
//! - Every page has a content security policy that allows no script, no frame and no other origin; the page of the human test allows
//!   scripts of this origin.
//! - Logins are throttled by address and by account; so are refusals, before they fill the audit.

mod audit;
mod blocked;
mod budget;
mod form;
mod html;
mod human;
mod login;
mod session;
mod throttles;
mod unblock;

use std::{net::IpAddr, time::SystemTime};

use actix_web::{HttpRequest, HttpResponse, http::Method, web::Payload};

use self::{form::Form, session::Name};
use super::{State, guard, operator};
use crate::limits::{Account, audit::Operator};

/// What the pages keep between requests.
pub(super) struct Pages {
    sessions: session::Sessions,
    human: human::Human,
    attempts: login::Attempts,
}

impl Pages {
    pub(super) fn new() -> Pages {
        Pages { sessions: session::Sessions::new(), human: human::Human::new(), attempts: login::Attempts::new() }
    }
}

/// Who is looking.
enum Person {
    /// At loopback, where no login is needed.
    Operator,
    /// Logged in.
    Account(Account),
    /// Anybody.
    Nobody,
}

impl Person {
    fn is_operator(&self) -> bool {
        match self {
            Person::Operator => true,
            Person::Account(account) => account.is_admin,
            Person::Nobody => false,
        }
    }
}

/// One request for a page.
struct Visit<'a> {
    state: &'a State,
    person: Person,
    /// The session, or what stands in for one before login.
    name: Name,
    /// The browser does not have it yet.
    is_fresh: bool,
    /// Neither TLS nor loopback.
    in_clear: bool,
    from: IpAddr,
    query: &'a str,
    now: SystemTime,
}

impl Visit<'_> {
    fn token(&self) -> String {
        self.state.pages.sessions.token(&self.name)
    }

    fn fresh_cookie(&self) -> Option<String> {
        self.is_fresh.then(|| self.cookie(&self.name))
    }

    fn cookie(&self, name: &Name) -> String {
        let (cookie, secure) = if self.in_clear { (IN_CLEAR, "") } else { (SECURE, "; Secure") };
        format!("{cookie}={}; Path=/; HttpOnly; SameSite=Strict{secure}", name.text())
    }

    /// As whom the audit knows whoever is looking.
    fn by(&self) -> Operator {
        let name = match &self.person {
            Person::Operator => "operator",
            Person::Account(account) => &account.name,
            Person::Nobody => "nobody",
        };
        Operator::new(name, Some(self.from))
    }

    /// Puts a refused attempt into the audit. A flood of them is throttled like logins, and then only logged.
    fn refused(&self, attempt: &str, reason: &str) {
        let by = self.by();
        tracing::warn!(target: "weir::admin", by = by.name, from = %self.from, attempt, reason, "refused");
        if self.state.pages.attempts.may_be_noted(&by.name, self.from, self.now) {
            self.state.limits.refused(&by, attempt, reason, self.now);
        }
    }
}

const SECURE: &str = "__Host-weir";
const IN_CLEAR: &str = "weir";

/// A place in the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    // By GET.
    Budget,
    Throttles,
    Blocked,
    Ban(String),
    Audit,
    Unblock,
    UnblockOne(String),
    Stylesheet,
    Icon,
    Script,
    // By both.
    Login,
    // By POST.
    Logout,
    Switch,
    Add,
    Lift(String),
    Allow(String),
    LiftOwn(String),
}

impl Place {
    pub(super) fn find(path: &str) -> Option<Place> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let is_id = |id: &str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(match parts[..] {
            [""] => Place::Budget,
            ["throttles"] => Place::Throttles,
            ["throttles", "mode"] => Place::Switch,
            ["blocked"] => Place::Blocked,
            ["blocked", "add"] => Place::Add,
            ["blocked", id] if is_id(id) => Place::Ban(id.to_owned()),
            ["blocked", id, "lift"] if is_id(id) => Place::Lift(id.to_owned()),
            ["blocked", id, "allow"] if is_id(id) => Place::Allow(id.to_owned()),
            ["audit"] => Place::Audit,
            ["unblock"] => Place::Unblock,
            ["unblock", id] if is_id(id) => Place::UnblockOne(id.to_owned()),
            ["unblock", id, "lift"] if is_id(id) => Place::LiftOwn(id.to_owned()),
            ["login"] => Place::Login,
            ["logout"] => Place::Logout,
            ["assets", "weir.css"] => Place::Stylesheet,
            ["assets", "weir.svg"] => Place::Icon,
            ["assets", "human.js"] => Place::Script,
            _ => return None,
        })
    }

    /// What is tried there by POST, as the audit says it; nothing where nothing can be.
    fn attempt(&self) -> Option<String> {
        Some(match self {
            Place::Login => "log in".to_owned(),
            Place::Logout => "log out".to_owned(),
            Place::Switch => "switch a throttle".to_owned(),
            Place::Add => "ban".to_owned(),
            Place::Lift(id) | Place::LiftOwn(id) => format!("lift {id}"),
            Place::Allow(id) => format!("allow the client of {id}"),
            _ => return None,
        })
    }

    fn is_asset(&self) -> bool {
        matches!(self, Place::Stylesheet | Place::Icon | Place::Script)
    }

    /// What only operators see and do.
    fn is_operators(&self) -> bool {
        matches!(
            self,
            Place::Budget
                | Place::Throttles
                | Place::Blocked
                | Place::Ban(_)
                | Place::Audit
                | Place::Switch
                | Place::Add
                | Place::Lift(_)
                | Place::Allow(_)
        )
    }
}

/// The page, what became of a form, or why not: guard → throttle → session.
pub(super) async fn answer(state: &State, request: &HttpRequest, place: Place, payload: Payload) -> HttpResponse {
    if place.is_asset() {
        return asset(&place, request.method());
    }
    let head = guard::Head { takes_form: true, ..guard::Head::of(request) };
    let judged = guard::judge(&state.settings.hosts, &head);
    let visit = visit(state, request, &head, judged.is_ok(), SystemTime::now());
    let asking = match operator::admit_page(state, visit.by(), matches!(visit.person, Person::Account(_))) {
        Ok(asking) => asking,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = judged {
        if let (Some(attempt), &Method::POST) = (place.attempt(), request.method()) {
            visit.refused(&attempt, &refusal.to_string());
        }
        return html::problem(&visit, refusal.status(), "Refused", &refusal.to_string());
    }
    let mut response = match (request.method(), place.attempt()) {
        (&Method::GET | &Method::HEAD, attempt) if attempt.is_none() || place == Place::Login => see(&visit, place),
        (&Method::POST, Some(attempt)) => {
            let response = post(visit, place, &attempt, &head, payload).await;
            // Who was told of a change finds it after a crash.
            (state.settle)().await;
            response
        }
        (_, attempt) => {
            if let Some(attempt) = &attempt {
                visit.refused(attempt, "only a form does that, by POST");
            }
            let allow = match attempt {
                Some(_) if place == Place::Login => "GET, POST",
                Some(_) => "POST",
                None => "GET",
            };
            let mut response = html::problem(&visit, 405, "Not this way", "This address does not take this method.");
            let allow = actix_web::http::header::HeaderValue::from_static(allow);
            response.headers_mut().insert(actix_web::http::header::ALLOW, allow);
            response
        }
    };
    asking.tell(response.headers_mut());
    response
}

/// Who is looking. When the request was not judged well, nobody is.
fn visit<'a>(
    state: &'a State,
    request: &'a HttpRequest,
    head: &guard::Head<'_>,
    is_good: bool,
    now: SystemTime,
) -> Visit<'a> {
    let hosts = &state.settings.hosts;
    let in_clear = !head.host.is_some_and(|host| hosts.is_private(host));
    let from = operator::address(state, request);
    let sent = cookie(request, if in_clear { IN_CLEAR } else { SECURE }).filter(|_| is_good).and_then(Name::parse);
    let rulebook = state.limits.rulebook();
    let session = sent.as_ref().and_then(|name| state.pages.sessions.whose(name, now));
    let account = session.and_then(|session| {
        rulebook.account(&session.account).filter(|account| account.password_hash == session.password_hash).cloned()
    });
    let person = match account {
        Some(account) => Person::Account(account),
        None if is_good && !operator::needs_login(state, request) => Person::Operator,
        None => Person::Nobody,
    };
    let is_fresh = sent.is_none();
    let name = sent.unwrap_or_else(Name::random);
    Visit { state, person, name, is_fresh, in_clear, from, query: request.query_string(), now }
}

/// The value of the cookie of this name.
fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let lines = request.headers().get_all("cookie").filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn see(visit: &Visit<'_>, place: Place) -> HttpResponse {
    let may = match &visit.person {
        Person::Nobody => place == Place::Login,
        person => person.is_operator() || !place.is_operators(),
    };
    if !may {
        return match (&visit.person, place) {
            (Person::Nobody, Place::UnblockOne(id)) => html::see_other(&format!("/login?next=/unblock/{id}"), None),
            (Person::Nobody, Place::Unblock) => html::see_other("/login?next=/unblock", None),
            (Person::Nobody, _) => html::see_other("/login", None),
            // The start of the pages is another for a user.
            (_, Place::Budget) => html::see_other("/unblock", None),
            _ => html::problem(
                visit,
                403,
                "Not yours",
                "Your account sees and lifts its own bans; this page is for operators.",
            ),
        };
    }
    match place {
        Place::Throttles => throttles::page(visit),
        Place::Blocked => blocked::page(visit, None),
        Place::Ban(id) => blocked::one(visit, &id, None),
        Place::Audit => audit::page(visit),
        Place::Unblock => unblock::page(visit),
        Place::UnblockOne(id) => unblock::one(visit, &id, None),
        Place::Login => login::page(visit, None),
        _ => budget::page(visit),
    }
}

async fn post(
    mut visit: Visit<'_>,
    place: Place,
    attempt: &str,
    head: &guard::Head<'_>,
    payload: Payload,
) -> HttpResponse {
    let Some(form) = Form::read(payload).await else {
        visit.refused(attempt, "the form is too long");
        return html::problem(&visit, 413, "Too long", "This form is longer than any of ours.");
    };
    // Before anything else: a form of ours was sent from a page of ours, by the browser it was given to.
    let is_ours = head.origin.is_some() || head.fetch_site == Some("same-origin");
    let has_token = !visit.is_fresh && visit.state.pages.sessions.is_token(&visit.name, form.get("csrf"));
    if !is_ours || !has_token {
        visit.refused(attempt, if is_ours { "without the token of its form" } else { "from no page of ours" });
        let sentence = "This did not come from a page that Weir gave to this browser. Go back, reload the page and send it once more; \
                        cookies must be allowed.";
        return html::problem(&visit, 403, "Refused", sentence);
    }
    let may = match &visit.person {
        person if place.is_operators() => person.is_operator(),
        Person::Account(_) => true,
        _ => !matches!(place, Place::LiftOwn(_)),
    };
    if !may {
        visit.refused(attempt, "not allowed to");
        let sentence = "Log in with an account that may do this. If you were logged in, your session has ended.";
        return html::problem(&visit, 403, "Not allowed", sentence);
    }
    match place {
        Place::Login => login::log_in(&mut visit, &form).await,
        Place::Logout => login::log_out(&visit),
        Place::Switch => throttles::switch(&visit, &form),
        Place::Add => blocked::add(&visit, &form),
        Place::Lift(id) => blocked::lift(&visit, &id, &form),
        Place::Allow(id) => blocked::allow(&visit, &id, &form),
        Place::LiftOwn(id) => unblock::lift(&visit, &id, &form),
        _ => html::problem(&visit, 404, "Nothing here", "There is no such page."),
    }
}

fn asset(place: &Place, method: &Method) -> HttpResponse {
    let (media_type, bytes) = match place {
        Place::Script => ("text/javascript; charset=utf-8", include_str!("assets/human.js")),
        Place::Icon => ("image/svg+xml", include_str!("assets/weir.svg")),
        _ => ("text/css; charset=utf-8", include_str!("assets/weir.css")),
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed().insert_header(("Allow", "GET")).finish();
    }
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header(("Cache-Control", "max-age=300"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        .body(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_path_and_by_no_other_spelling() {
        assert_eq!(Place::find("/"), Some(Place::Budget));
        assert_eq!(Place::find("/blocked/3f2a"), Some(Place::Ban("3f2a".into())));
        assert_eq!(Place::find("/unblock/3f2a/lift"), Some(Place::LiftOwn("3f2a".into())));
        for nowhere in [
            "",
            "//",
            "/blocked/",
            "/blocked//lift",
            "/Blocked",
            "/unblock/../audit",
            "/unblock/%2e",
            "/login/",
            "/assets/",
        ] {
            assert_eq!(Place::find(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn what_can_be_done_by_post_is_said_in_the_audit() {
        for path in [
            "/throttles/mode",
            "/blocked/add",
            "/blocked/1/lift",
            "/blocked/1/allow",
            "/unblock/1/lift",
            "/login",
            "/logout",
        ] {
            assert!(Place::find(path).unwrap().attempt().is_some(), "{path}");
        }
        for path in
            ["/", "/throttles", "/blocked", "/blocked/1", "/audit", "/unblock", "/unblock/1", "/assets/weir.css"]
        {
            assert_eq!(Place::find(path).unwrap().attempt(), None, "{path}");
        }
    }
}
