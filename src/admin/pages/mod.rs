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
mod login;
mod proof_of_work;
mod throttles;
mod unblock;

use std::{
    net::IpAddr,
    time::{Instant, SystemTime},
};

use actix_web::{HttpRequest, HttpResponse, http::Method, web::Payload};

use self::form::Form;
use super::{State, authorize, origin};
use crate::{
    identity::session::{SessionId, Sessions},
    limits::{Account, audit::Actor},
};

/// What the pages keep between requests.
pub(super) struct Pages {
    sessions: Sessions,
    proof_of_work: proof_of_work::ProofOfWork,
}

impl Pages {
    pub(super) fn new() -> Pages {
        Pages { sessions: Sessions::new(), proof_of_work: proof_of_work::ProofOfWork::new() }
    }
}

/// Who is looking.
enum Viewer {
    /// At loopback, where no login is needed.
    Operator,
    /// Logged in.
    Account(Account),
    /// Anybody.
    Anonymous,
}

impl Viewer {
    fn is_operator(&self) -> bool {
        match self {
            Viewer::Operator => true,
            Viewer::Account(account) => account.is_admin,
            Viewer::Anonymous => false,
        }
    }
}

/// One request for a page.
struct PageContext<'a> {
    state: &'a State,
    viewer: Viewer,
    /// The session, or what stands in for one before login.
    session: SessionId,
    /// The browser does not have it yet.
    is_new: bool,
    /// Neither TLS nor loopback.
    in_clear: bool,
    from: IpAddr,
    query: &'a str,
    now: SystemTime,
}

impl PageContext<'_> {
    fn token(&self) -> String {
        self.state.pages.sessions.token(&self.session)
    }

    fn fresh_cookie(&self) -> Option<String> {
        self.is_new.then(|| self.cookie(&self.session))
    }

    fn cookie(&self, session: &SessionId) -> String {
        let (cookie, secure) = if self.in_clear { (IN_CLEAR, "") } else { (SECURE, "; Secure") };
        format!("{cookie}={}; Path=/; HttpOnly; SameSite=Strict{secure}", session.text())
    }

    /// As whom the audit knows whoever is looking.
    fn by(&self) -> Actor {
        let name = match &self.viewer {
            Viewer::Operator => "operator",
            Viewer::Account(account) => &account.name,
            Viewer::Anonymous => "anonymous",
        };
        Actor::new(name, Some(self.from))
    }

    fn refused(&self, attempt: &str, reason: &str) {
        self.state.authenticator.note_refusal(&self.by(), attempt, reason, self.now);
    }
}

const SECURE: &str = "__Host-weir";
const IN_CLEAR: &str = "weir";

/// A page, a form or an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
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

impl Page {
    pub(super) fn find(path: &str) -> Option<Page> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let is_id = |id: &str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(match parts[..] {
            [""] => Page::Budget,
            ["throttles"] => Page::Throttles,
            ["throttles", "mode"] => Page::Switch,
            ["blocked"] => Page::Blocked,
            ["blocked", "add"] => Page::Add,
            ["blocked", id] if is_id(id) => Page::Ban(id.to_owned()),
            ["blocked", id, "lift"] if is_id(id) => Page::Lift(id.to_owned()),
            ["blocked", id, "allow"] if is_id(id) => Page::Allow(id.to_owned()),
            ["audit"] => Page::Audit,
            ["unblock"] => Page::Unblock,
            ["unblock", id] if is_id(id) => Page::UnblockOne(id.to_owned()),
            ["unblock", id, "lift"] if is_id(id) => Page::LiftOwn(id.to_owned()),
            ["login"] => Page::Login,
            ["logout"] => Page::Logout,
            ["assets", "weir.css"] => Page::Stylesheet,
            ["assets", "weir.svg"] => Page::Icon,
            ["assets", "proof_of_work.js"] => Page::Script,
            _ => return None,
        })
    }

    /// What is tried there by POST, as the audit says it; nothing where nothing can be.
    fn attempt(&self) -> Option<String> {
        Some(match self {
            Page::Login => "log in".to_owned(),
            Page::Logout => "log out".to_owned(),
            Page::Switch => "switch a throttle".to_owned(),
            Page::Add => "ban".to_owned(),
            Page::Lift(id) | Page::LiftOwn(id) => format!("lift {id}"),
            Page::Allow(id) => format!("allow the client of {id}"),
            _ => return None,
        })
    }

    fn is_asset(&self) -> bool {
        matches!(self, Page::Stylesheet | Page::Icon | Page::Script)
    }

    /// What only operators see and do.
    fn is_operators(&self) -> bool {
        matches!(
            self,
            Page::Budget
                | Page::Throttles
                | Page::Blocked
                | Page::Ban(_)
                | Page::Audit
                | Page::Switch
                | Page::Add
                | Page::Lift(_)
                | Page::Allow(_)
        )
    }
}

/// The page, what became of a form, or why not: host and origin → throttle → session.
pub(super) async fn answer(state: &State, request: &HttpRequest, page: Page, payload: Payload) -> HttpResponse {
    if page.is_asset() {
        return asset(&page, request.method());
    }
    let head = origin::Head { takes_form: true, ..origin::Head::of(request) };
    let judged = origin::judge(&state.settings.hosts, &head);
    let context = context(state, request, &head, judged.is_ok(), SystemTime::now());
    let authorized = match authorize::authorize_page(state, context.by(), matches!(context.viewer, Viewer::Account(_)))
    {
        Ok(authorized) => authorized,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = judged {
        if let (Some(attempt), &Method::POST) = (page.attempt(), request.method()) {
            context.refused(&attempt, &refusal.to_string());
        }
        return html::problem(&context, refusal.status(), "Refused", &refusal.to_string());
    }
    let mut response = match (request.method(), page.attempt()) {
        (&Method::GET | &Method::HEAD, attempt) if attempt.is_none() || page == Page::Login => see(&context, page),
        (&Method::POST, Some(attempt)) => {
            let response = post(context, page, &attempt, &head, payload).await;
            state.settled(response).await
        }
        (_, attempt) => {
            if let Some(attempt) = &attempt {
                context.refused(attempt, "only a form does that, by POST");
            }
            let allow = match attempt {
                Some(_) if page == Page::Login => "GET, POST",
                Some(_) => "POST",
                None => "GET",
            };
            let mut response = html::problem(&context, 405, "Not this way", "This address does not take this method.");
            let allow = actix_web::http::header::HeaderValue::from_static(allow);
            response.headers_mut().insert(actix_web::http::header::ALLOW, allow);
            response
        }
    };
    authorized.tell(response.headers_mut());
    response
}

/// Who is looking. When the request was not judged well, nobody is.
fn context<'a>(
    state: &'a State,
    request: &'a HttpRequest,
    head: &origin::Head<'_>,
    is_good: bool,
    now: SystemTime,
) -> PageContext<'a> {
    let hosts = &state.settings.hosts;
    let in_clear = !head.host.is_some_and(|host| hosts.is_private(host));
    let from = authorize::address(state, request);
    let sent = cookie(request, if in_clear { IN_CLEAR } else { SECURE }).filter(|_| is_good).and_then(SessionId::parse);
    let principal = sent.as_ref().and_then(|session| state.pages.sessions.principal(session, Instant::now()));
    let account = principal.and_then(|principal| state.authenticator.account(&principal));
    let viewer = match account {
        Some(account) => Viewer::Account(account),
        None if is_good && !authorize::needs_login(state, request) => Viewer::Operator,
        None => Viewer::Anonymous,
    };
    let is_new = sent.is_none();
    let session = sent.unwrap_or_else(SessionId::random);
    PageContext { state, viewer, session, is_new, in_clear, from, query: request.query_string(), now }
}

/// The value of the cookie of this name.
fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let lines = request.headers().get_all("cookie").filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn see(context: &PageContext<'_>, page: Page) -> HttpResponse {
    let may = match &context.viewer {
        Viewer::Anonymous => page == Page::Login,
        viewer => viewer.is_operator() || !page.is_operators(),
    };
    if !may {
        return match (&context.viewer, page) {
            (Viewer::Anonymous, Page::UnblockOne(id)) => html::see_other(&format!("/login?next=/unblock/{id}"), None),
            (Viewer::Anonymous, Page::Unblock) => html::see_other("/login?next=/unblock", None),
            (Viewer::Anonymous, _) => html::see_other("/login", None),
            // The start of the pages is another for a user.
            (_, Page::Budget) => html::see_other("/unblock", None),
            _ => html::problem(
                context,
                403,
                "Not yours",
                "Your account sees and lifts its own bans; this page is for operators.",
            ),
        };
    }
    match page {
        Page::Throttles => throttles::page(context),
        Page::Blocked => blocked::page(context, None),
        Page::Ban(id) => blocked::one(context, &id, None),
        Page::Audit => audit::page(context),
        Page::Unblock => unblock::page(context),
        Page::UnblockOne(id) => unblock::one(context, &id, None),
        Page::Login => login::page(context, None),
        _ => budget::page(context),
    }
}

async fn post(
    mut context: PageContext<'_>,
    page: Page,
    attempt: &str,
    head: &origin::Head<'_>,
    payload: Payload,
) -> HttpResponse {
    let Some(form) = Form::read(payload).await else {
        context.refused(attempt, "the form is too long");
        return html::problem(&context, 413, "Too long", "This form is longer than any of ours.");
    };
    // Before anything else: a form of ours was sent from a page of ours, by the browser it was given to.
    let is_ours = head.origin.is_some() || head.fetch_site == Some("same-origin");
    let has_token = !context.is_new && context.state.pages.sessions.is_token(&context.session, form.get("csrf"));
    if !is_ours || !has_token {
        context.refused(attempt, if is_ours { "without the token of its form" } else { "from no page of ours" });
        let sentence = "This did not come from a page that Weir gave to this browser. Go back, reload the page and send it once more; \
                        cookies must be allowed.";
        return html::problem(&context, 403, "Refused", sentence);
    }
    let may = match &context.viewer {
        viewer if page.is_operators() => viewer.is_operator(),
        Viewer::Account(_) => true,
        _ => !matches!(page, Page::LiftOwn(_)),
    };
    if !may {
        context.refused(attempt, "not allowed to");
        let sentence = "Log in with an account that may do this. If you were logged in, your session has ended.";
        return html::problem(&context, 403, "Not allowed", sentence);
    }
    match page {
        Page::Login => login::log_in(&mut context, &form).await,
        Page::Logout => login::log_out(&context),
        Page::Switch => throttles::switch(&context, &form),
        Page::Add => blocked::add(&context, &form),
        Page::Lift(id) => blocked::lift(&context, &id, &form),
        Page::Allow(id) => blocked::allow(&context, &id, &form),
        Page::LiftOwn(id) => unblock::lift(&context, &id, &form),
        _ => html::problem(&context, 404, "Nothing here", "There is no such page."),
    }
}

fn asset(page: &Page, method: &Method) -> HttpResponse {
    let (media_type, bytes) = match page {
        Page::Script => ("text/javascript; charset=utf-8", include_str!("assets/proof_of_work.js")),
        Page::Icon => ("image/svg+xml", include_str!("assets/weir.svg")),
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
        assert_eq!(Page::find("/"), Some(Page::Budget));
        assert_eq!(Page::find("/blocked/3f2a"), Some(Page::Ban("3f2a".into())));
        assert_eq!(Page::find("/unblock/3f2a/lift"), Some(Page::LiftOwn("3f2a".into())));
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
            assert_eq!(Page::find(nowhere), None, "{nowhere}");
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
            assert!(Page::find(path).unwrap().attempt().is_some(), "{path}");
        }
        for path in
            ["/", "/throttles", "/blocked", "/blocked/1", "/audit", "/unblock", "/unblock/1", "/assets/weir.css"]
        {
            assert_eq!(Page::find(path).unwrap().attempt(), None, "{path}");
        }
    }
}
