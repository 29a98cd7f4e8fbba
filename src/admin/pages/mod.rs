//! Pages for people: Overview, Budget, Images, Findings, Warm, Clients, Throttles, Blocked, Audit, Log, Settings, and Unblock for owners of blocked clients.
//! Made here, whole, for each request; usable without JavaScript but for the human test and the live parts of Overview and log, and without a request to another host.
//!
//! # What it guarantees
//!
//! - Nothing at Weir changes by GET. A POST counts when it comes from a page of this origin, as `Origin` or `Sec-Fetch-Site` say, and carries the token
//!   of its cookie. What is refused of that is in the audit.
//! - Who asks from loopback, directly, is the operator and needs no login. A visitor who comes through a proxy or by a configured name logs in, even when
//!   the proxy stands on loopback: the message of each ban names that URL. An account with role admin is an operator; a viewer sees
//!   what operators see and changes nothing; a user sees and lifts the bans that are theirs; an account with role metrics has no page.
//! - Every page has a content security policy that allows scripts of this origin, none within the page, no frame and no other origin.
//! - Each text is in every language of `texts.rs`.
//! - Logins are throttled by address and by account; so are refusals, before they fill the audit.

mod audit;
mod blocked;
mod budget;
mod choose_language;
mod clients;
mod context;
mod findings;
mod form;
mod graph;
mod html;
mod image;
mod images;
mod language;
mod log;
mod login;
mod overview;
mod page;
mod settings;
mod texts;
mod throttles;
mod unblock;
mod warm;
mod what_if;

use std::time::SystemTime;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web::{self, Payload},
};

use self::{
    context::{PageContext, Viewer},
    form::Form,
    language::Language,
    page::{PAGES, Page},
    texts::text,
};
use super::{authorize, json::refuse, origin, state::State};

/// Every method and path of the table.
pub(super) fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.into_iter().flat_map(|(path, page)| {
        let methods = match page("1") {
            Page::Login => &["GET", "POST"][..],
            page if page.attempt().is_some() => &["POST"],
            _ => &["GET"],
        };
        methods.iter().map(move |method| (*method, path))
    })
}

/// Makes every path of the table known to the router.
pub(super) fn register(config: &mut web::ServiceConfig) {
    for (path, page) in PAGES {
        let handler = move |request: HttpRequest, payload: Payload, state: web::Data<State>| async move {
            let page = page(request.match_info().get("id").unwrap_or_default());
            let language = Language::of(&request);
            match page {
                Page::Language => choose_language::choose(&request),
                page => language.scope(answer(&state, &request, page, payload)).await,
            }
        };
        config.service(web::resource(path).to(handler));
    }
    config.default_service(web::to(not_found));
}

/// Any other address: a page for a browser, and the error of the API for a program.
async fn not_found(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let accepted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if request.path().starts_with("/api/") || !accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        return refuse(404, "NOT_FOUND", "there is no such endpoint");
    }
    let head = origin::Head::of(&request);
    let is_good = origin::judge(&state.settings.hosts, &head).is_ok();
    let context = PageContext::of(&state, &request, &head, is_good, SystemTime::now());
    let problem =
        async { html::problem(&context, 404, text!("No such page"), text!("There is no page at this address.")) };
    Language::of(&request).scope(problem).await
}

/// The page, what became of a form, or why not: host and origin → throttle → session.
async fn answer(state: &State, request: &HttpRequest, page: Page, payload: Payload) -> HttpResponse {
    if page.is_asset() {
        return asset(&page, request.method());
    }
    let head = origin::Head { takes_form: true, ..origin::Head::of(request) };
    let judged = origin::judge(&state.settings.hosts, &head);
    let context = PageContext::of(state, request, &head, judged.is_ok(), SystemTime::now());
    let authorized = match authorize::authorize_page(state, context.by(), matches!(context.viewer, Viewer::Account(_)))
    {
        Ok(authorized) => authorized,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = judged {
        if let (Some(attempt), &Method::POST) = (page.attempt(), request.method()) {
            context.refused(&attempt, &refusal.to_string());
        }
        return html::problem(&context, refusal.status(), text!("Refused"), &refusal.to_string());
    }
    let mut response = match (request.method(), page.attempt()) {
        (&Method::GET | &Method::HEAD, attempt) if attempt.is_none() || page == Page::Login => {
            see(&context, page).await
        }
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
            let mut response =
                html::problem(&context, 405, text!("Not this way"), text!("This address does not take this method."));
            let allow = header::HeaderValue::from_static(allow);
            response.headers_mut().insert(header::ALLOW, allow);
            response
        }
    };
    authorized.tell(response.headers_mut());
    response
}

async fn see(context: &PageContext<'_>, page: Page) -> HttpResponse {
    let may = match &context.viewer {
        Viewer::Anonymous => page == Page::Login,
        viewer => viewer.sees_all() || !page.is_operators(),
    };
    if !may {
        return match (&context.viewer, page) {
            (Viewer::Anonymous, Page::UnblockOne(id)) => html::see_other(&format!("/login?next=/unblock/{id}"), None),
            (Viewer::Anonymous, Page::Unblock) => html::see_other("/login?next=/unblock", None),
            (Viewer::Anonymous, _) => html::see_other("/login", None),
            // The start of the pages is another for a user.
            (_, Page::Overview) => html::see_other("/unblock", None),
            _ => html::problem(
                context,
                403,
                text!("Not yours"),
                text!("Your account sees and lifts its own bans; this page is for operators."),
            ),
        };
    }
    match page {
        Page::Throttles => throttles::page(context),
        Page::ConfirmOff => throttles::confirm(context),
        Page::Blocked => blocked::page(context, None),
        Page::Ban(id) => blocked::one(context, &id, None),
        Page::Audit => audit::page(context),
        Page::Log => log::page(context),
        Page::LogStream => log::stream(context),
        Page::Settings => settings::page(context),
        Page::Clients => clients::page(context),
        Page::Client => clients::one(context),
        Page::Warm => warm::page(context),
        Page::OneWarm(id) => warm::one(context, &id, None, ""),
        Page::Unblock => unblock::page(context),
        Page::UnblockOne(id) => unblock::one(context, &id, None),
        Page::Login => login::page(context, None),
        Page::Live => overview::live(context).await,
        Page::Budget => budget::page(context),
        Page::Images => images::page(context),
        Page::Image => image::page(context).await,
        Page::ConfirmPurge => image::confirm(context).await,
        Page::Findings => findings::page(context).await,
        Page::FindingsCsv => findings::csv(context).await,
        _ => overview::page(context).await,
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
        return html::problem(&context, 413, text!("Too long"), text!("This form is longer than any of ours."));
    };
    // Before anything else: a form of ours was sent from a page of ours, by the browser it was given to.
    let is_ours = head.origin.is_some() || head.fetch_site == Some("same-origin");
    let has_token = !context.is_new && context.state.sessions.is_token(&context.session, form.get("csrf"));
    if !is_ours || !has_token {
        context.refused(attempt, if is_ours { "without the token of its form" } else { "from no page of ours" });
        let sentence = text!(
            "This did not come from a page that Weir gave to this browser. Go back, reload the page and send it once more; cookies must be allowed."
        );
        return html::problem(&context, 403, text!("Refused"), sentence);
    }
    let may = match &context.viewer {
        viewer if page.is_operators() => viewer.is_operator(),
        Viewer::Account(account) => account.role.lifts_own() || !matches!(page, Page::LiftOwn(_)),
        _ => !matches!(page, Page::LiftOwn(_)),
    };
    if !may {
        context.refused(attempt, "not allowed to");
        let sentence = text!("Log in with an account that may do this. If you were logged in, your session has ended.");
        return html::problem(&context, 403, text!("Not allowed"), sentence);
    }
    match page {
        Page::Login => login::log_in(&mut context, &form).await,
        Page::Logout => login::log_out(&context),
        Page::Switch => throttles::switch(&context, &form),
        Page::Add => blocked::add(&context, &form),
        Page::Lift(id) => blocked::lift(&context, &id, &form),
        Page::MoveEnd(id) => blocked::move_end(&context, &id, &form),
        Page::Allow(id) => blocked::allow(&context, &id, &form),
        Page::LiftOwn(id) => unblock::lift(&context, &id, &form),
        Page::Pin => image::pin(&context, &form).await,
        Page::Unpin => image::unpin(&context, &form).await,
        Page::Refresh => image::refresh(&context, &form).await,
        Page::Purge => image::purge(&context, &form).await,
        Page::StartWarm => warm::start(&context, &form).await,
        Page::CancelWarm(id) => warm::cancel(&context, &id, &form).await,
        _ => html::problem(&context, 404, text!("Nothing here"), text!("There is no such page.")),
    }
}

/// uPlot with its licence, which asks to be in every copy.
const UPLOT: &str =
    concat!("/*\n", include_str!("assets/uplot/LICENSE"), "*/\n", include_str!("assets/uplot/uPlot.iife.min.js"));

fn asset(page: &Page, method: &Method) -> HttpResponse {
    let (media_type, bytes) = match page {
        Page::Script => ("text/javascript; charset=utf-8", include_str!("assets/proof_of_work.js")),
        Page::LogScript => ("text/javascript; charset=utf-8", include_str!("assets/log.js")),
        Page::LiveScript => ("text/javascript; charset=utf-8", include_str!("assets/live.js")),
        Page::TimesScript => ("text/javascript; charset=utf-8", include_str!("assets/times.js")),
        Page::PlotScript => ("text/javascript; charset=utf-8", include_str!("assets/plot.js")),
        Page::UplotScript => ("text/javascript; charset=utf-8", UPLOT),
        Page::UplotStylesheet => ("text/css; charset=utf-8", include_str!("assets/uplot/uPlot.min.css")),
        Page::Icon => ("image/svg+xml", include_str!("assets/weir.svg")),
        _ => ("text/css; charset=utf-8", include_str!("assets/weir.css")),
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed().insert_header(("Allow", "GET")).finish();
    }
    let lasts = match page {
        Page::UplotScript | Page::UplotStylesheet => "max-age=31536000, immutable",
        _ => "max-age=300",
    };
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header(("Cache-Control", lasts))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        .body(bytes)
}
