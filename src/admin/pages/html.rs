//! What all pages have: the frame, the headers, and the small parts they are put together from.
//!
//! Everything that a client, an upstream or a file wrote goes through maud's escaping; nothing here is marked as markup but markup.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use actix_web::{HttpResponse, http::StatusCode};
use maud::{DOCTYPE, Markup, Render, html};
use url::form_urlencoded::Serializer;

use super::{
    context::{PageContext, Viewer},
    language::{self, Language},
    texts::text,
};
use crate::{
    admin::changes::LONGEST,
    limits::{throttle::Mode, words},
};

/// Where a page stands in the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Budget,
    Images,
    Findings,
    Warm,
    Clients,
    Throttles,
    Blocked,
    Audit,
    Log,
    Settings,
    Unblock,
    None,
}

fn operators() -> [(Tab, &'static str, &'static str); 12] {
    [
        (Tab::Overview, "/", text!("Overview")),
        (Tab::Budget, "/budget", text!("Budget")),
        (Tab::Images, "/images", text!("Images")),
        (Tab::Findings, "/policy", text!("Findings")),
        (Tab::Warm, "/warm", text!("Warm")),
        (Tab::Clients, "/clients", text!("Clients")),
        (Tab::Throttles, "/throttles", text!("Throttles")),
        (Tab::Blocked, "/blocked", text!("Blocked")),
        (Tab::Audit, "/audit", text!("Audit")),
        (Tab::Log, "/log", text!("Log")),
        (Tab::Settings, "/settings", text!("Settings")),
        (Tab::Unblock, "/unblock", text!("Unblock")),
    ]
}

/// A page whose script shows times in the zone of the viewer and asks nothing.
pub(super) fn page(context: &PageContext<'_>, status: u16, tab: Tab, title: impl Render, body: Markup) -> HttpResponse {
    respond(context, status, frame(context, tab, title, body), "")
}

/// A page that goes on by itself: its script asks this origin.
pub(super) fn live_page(context: &PageContext<'_>, tab: Tab, title: impl Render, body: Markup) -> HttpResponse {
    respond(context, 200, frame(context, tab, title, body), "connect-src 'self'; ")
}

/// The human test, whose script starts itself once more as a worker.
pub(super) fn page_with_script(
    context: &PageContext<'_>,
    status: u16,
    tab: Tab,
    title: impl Render,
    body: Markup,
) -> HttpResponse {
    respond(context, status, frame(context, tab, title, body), "worker-src 'self'; ")
}

/// A refusal or a mishap, in a sentence.
pub(super) fn problem(context: &PageContext<'_>, status: u16, title: &str, sentence: &str) -> HttpResponse {
    let body = html! {
        p class="bad" { (sentence) }
        p { a href="/" { (text!("To the start")) } }
    };
    page(context, status, Tab::None, title, body)
}

fn respond(context: &PageContext<'_>, status: u16, markup: Markup, script: &str) -> HttpResponse {
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; {script}form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    response
        .content_type("text/html; charset=utf-8")
        .insert_header(("Content-Security-Policy", policy))
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        // With no-referrer a browser would send `Origin: null` along with our own forms.
        .insert_header(("Referrer-Policy", "same-origin"));
    if let Some(cookie) = context.fresh_cookie() {
        response.insert_header(("Set-Cookie", cookie));
    }
    response.body(markup.into_string())
}

/// On to another page of ours, by GET.
pub(super) fn see_other(path: &str, cookie: Option<String>) -> HttpResponse {
    let mut response = HttpResponse::SeeOther();
    response.insert_header(("Location", path.to_owned())).insert_header(("Cache-Control", "no-store"));
    if let Some(cookie) = cookie {
        response.insert_header(("Set-Cookie", cookie));
    }
    response.finish()
}

fn frame(context: &PageContext<'_>, tab: Tab, title: impl Render, body: Markup) -> Markup {
    let mut tabs = match &context.viewer {
        Viewer::Anonymous => Vec::new(),
        viewer if viewer.sees_all() => operators().to_vec(),
        _ => operators().into_iter().filter(|(each, ..)| *each == Tab::Unblock).collect(),
    };
    if context.viewer.sees_all() && tab != Tab::Unblock && context.state.limits.count_bans(context.now).0 == 0 {
        tabs.retain(|(each, ..)| *each != Tab::Unblock);
    }
    let language = language::current();
    let is_viewer = context.viewer.sees_all() && !context.viewer.is_operator();
    html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Weir" }
                link rel="stylesheet" href="/assets/weir.css";
                link rel="icon" href="/assets/weir.svg" type="image/svg+xml";
            }
            // The stylesheet hides the forms that a viewer could not send.
            body class=[is_viewer.then_some("viewer")] {
                a class="skip" href="#main" { (text!("To the content")) }
                header {
                    a class="name" href="/" { img src="/assets/weir.svg" alt="" width="28" height="28"; "Weir" }
                    nav aria-label=(text!("Pages")) {
                        @for (each, path, name) in &tabs {
                            @if *each == tab { a href=(path) aria-current="page" { (name) } } @else { a href=(path) { (name) } }
                        }
                    }
                    (who(context))
                }
                main id="main" {
                    @if context.in_clear {
                        p class="bad" {
                            (text!("This page came over plain HTTP: a machine on the way can read what you type and act as you. Ask for it over https, or through an ssh tunnel as {}.", code("http://localhost:5001")))
                        }
                    }
                    h1 { (title) }
                    @if is_viewer { p { small { (text!("Your account has role viewer: it sees everything and changes nothing.")) } } }
                    (body)
                }
                footer { (other_languages(context, language)) }
                script src="/assets/times.js" {}
            }
        }
    }
}

/// Links to this page in the languages that it is not in, each named in itself.
fn other_languages(context: &PageContext<'_>, language: Language) -> Markup {
    let next = match context.query {
        "" => context.path.to_owned(),
        query => format!("{}?{query}", context.path),
    };
    let to = |tag: &str| Serializer::new(String::new()).append_pair("to", tag).append_pair("next", &next).finish();
    html! {
        @for other in Language::ALL.into_iter().filter(|other| *other != language) {
            a href={ "/language?" (to(other.tag())) } lang=(other.tag()) hreflang=(other.tag()) { (other.name()) }
        }
    }
}

fn who(context: &PageContext<'_>) -> Markup {
    match &context.viewer {
        Viewer::Account(account) => html! {
            form class="who" method="post" action="/logout" {
                (token(context))
                span { (account.name) }
                button { (text!("Log out")) }
            }
        },
        Viewer::Operator => {
            let has_accounts = context.state.limits.config().accounts.iter().any(|account| account.role.has_pages());
            html! {
                span class="who" title=(text!("No login is needed from loopback.")) {
                    (text!("operator"))
                    // For a name in the audit.
                    @if has_accounts { " · " a href="/login" { (text!("Log in")) } }
                }
            }
        }
        Viewer::Anonymous => html! { span class="who" { a href="/login" { (text!("Log in")) } } },
    }
}

/// The hidden field that every form carries.
pub(super) fn token(context: &PageContext<'_>) -> Markup {
    html! { input type="hidden" name="csrf" value=(context.token()); }
}

/// A label and what is typed or chosen beside it, which has this ID.
pub(super) fn field(id: &str, label: impl Render, control: Markup) -> Markup {
    html! { span class="field" { label for=(id) { (label) } (control) } }
}

/// A field for a part of a name, an address or a duration; it keeps what was typed.
pub(super) fn search_field(name: &str, label: impl Render, typed: &str, example: &str) -> Markup {
    let example = Some(example).filter(|example| !example.is_empty());
    field(
        name,
        label,
        html! { input id=(name) name=(name) value=(typed) placeholder=[example] spellcheck="false" autocapitalize="none"; },
    )
}

/// A field with a choice of values, each with its words.
pub(super) fn choice_field<'a>(
    name: &str,
    label: impl Render,
    choices: impl IntoIterator<Item = (&'a str, &'a str)>,
    chosen: &str,
) -> Markup {
    let select = html! {
        select id=(name) name=(name) {
            @for (value, words) in choices { option value=(value) selected[value == chosen] { (words) } }
        }
    };
    field(name, label, select)
}

/// The field for the reason of a change.
pub(super) fn reason_field(id: &str, name: &str, typed: &str) -> Markup {
    field(id, text!("Why"), html! { input id=(id) name=(name) required maxlength=(LONGEST) value=(typed); })
}

/// The form of a second step: it sends what was typed once more, to do it or to change it.
pub(super) fn confirmation(
    context: &PageContext<'_>,
    action: &str,
    fields: &[(&str, &str)],
    words: impl Render,
) -> Markup {
    html! {
        form class="line" method="post" action=(action) {
            (token(context))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button class="main" name="confirmed" value="yes" { (words) }
            button name="confirmed" value="no" { (text!("Change it")) }
        }
    }
}

/// A table. In a narrow window each row is a card whose cells say what they are; the roles are for browsers that take a table that is not laid
/// out as one for none. Where that does not suffice it scrolls in its own box, by keyboard, too.
pub(super) fn table(label: &str, heads: &[&str], rows: Vec<Vec<Markup>>) -> Markup {
    html! {
        div class="scroll" role="region" aria-label=(label) tabindex="0" {
            table role="table" {
                thead role="rowgroup" { tr role="row" { @for head in heads { th role="columnheader" scope="col" { (head) } } } }
                tbody role="rowgroup" {
                    @for row in rows {
                        tr role="row" { @for (head, cell) in heads.iter().zip(row) { td role="cell" data-label=(head) { div { (cell) } } } }
                    }
                }
            }
        }
    }
}

/// Names and what they are.
pub(super) fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } } }
}

/// Text as it is.
pub(super) fn text(text: impl AsRef<str>) -> Markup {
    html! { (text.as_ref()) }
}

/// A name of a setting, a file or a rule.
pub(super) fn code(text: impl Display) -> Markup {
    html! { code { (text) } }
}

/// What a sentence is about.
pub(super) fn bold(text: impl Display) -> Markup {
    html! { b { (text) } }
}

/// An image by tag or digest; of a digest enough to tell it from others, and all of it where a pointer rests.
pub(super) fn image(repository: &str, reference: &str) -> Markup {
    let short = reference.char_indices().nth(19).filter(|_| reference.contains(':')).map(|(end, _)| &reference[..end]);
    html! {
        @match short {
            Some(short) => code title={ (repository) "@" (reference) } { (repository) "@" (short) "…" },
            None if reference.is_empty() => code { (repository) },
            None => code { (repository) ":" (reference) },
        }
    }
}

/// A client, with a link to its page.
pub(super) fn client(name: &str) -> Markup {
    let query = Serializer::new(String::new()).append_pair("client", name).finish();
    html! { a href={ "/client?" (query) } { (name) } }
}

/// A large number, in groups of three digits.
pub(super) fn number(number: u64) -> String {
    let separator = match language::current() {
        Language::English => ',',
        Language::German => '.',
    };
    words::grouped(number, separator)
}

/// A limit of a throttle: "36,000 in 6 h".
pub(super) fn limit(requests: u64, seconds: u64) -> Markup {
    text!("{} in {}", number(requests), words::span(seconds))
}

/// What a throttle does.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => text!("enforced"),
        Mode::DryRun => text!("dry run"),
        Mode::Off => text!("off"),
    }
}

/// A number with what is counted: "1 pull", "2 pulls".
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The day of a moment in UTC, such as 2027-01-31.
pub(super) fn day(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect()
}

/// A moment, for people and for programs: in UTC, to the second.
pub(super) fn time(at: SystemTime) -> Markup {
    let exact = humantime::format_rfc3339_seconds(at).to_string();
    html! { time datetime=(exact) { (exact.replace('T', " ").replace('Z', " UTC")) } }
}

/// How long until then, in the two largest units: "in 1h 5m".
pub(super) fn until(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) if left.as_secs() > 0 => text!("in {}", about(left)).into_string(),
        _ => text!("now").to_owned(),
    }
}

/// The time, unless [`until`] would say "now" of it.
pub(super) fn later(at: Option<SystemTime>, now: SystemTime) -> Option<SystemTime> {
    at.filter(|at| at.duration_since(now).is_ok_and(|left| left.as_secs() > 0))
}

/// A span in its two largest units.
pub(super) fn about(span: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    whole.split(' ').take(2).map(unit).collect::<Vec<_>>().join(" ")
}

/// A short time, such as "0.4 ms" or "1200 ms".
pub(super) fn milliseconds(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1e3;
    let digits = usize::from(millis < 10.0);
    format!("{millis:.digits$} ms")
}

/// A number with its unit, as humantime writes it; hours, minutes and seconds have one letter in every language.
fn unit(part: &str) -> String {
    let (number, unit) = part.split_at(part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(part.len()));
    match unit {
        "year" | "years" => count_of(number, text!("year"), text!("years")),
        "month" | "months" => count_of(number, text!("month"), text!("months")),
        "day" | "days" => count_of(number, text!("day"), text!("days")),
        _ => part.to_owned(),
    }
}

fn count_of(number: &str, one: &str, many: &str) -> String {
    number.parse().map_or_else(|_| number.to_owned(), |number| count(number, one, many))
}

/// A size as people say it.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", units[unit])
}

/// An error's text as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    first + chars.as_str() + "."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text() {
        let rows = vec![vec![text("<img src=x onerror=\"alert('1')\">"), text("a&b")]];
        let html = table("\"><script>", &["<b>", "<i>"], rows).into_string();
        for bad in ["<img", "<script", "<b>", "<i>"] {
            assert!(!html.contains(bad), "{html}");
        }
        assert!(html.contains("a&amp;b"));
    }

    #[test]
    fn an_image_is_named_short() {
        let digest = format!("sha256:{}", "é".repeat(64));
        let html = image("a/b", &digest).into_string();
        assert!(html.contains(&digest) && html.contains(&format!(">a/b@sha256:{}…<", "é".repeat(12))), "{html}");
        assert_eq!(image("a/b", "1.36").into_string(), "<code>a/b:1.36</code>");
        assert_eq!(image("a/b", "").into_string(), "<code>a/b</code>");
    }

    #[test]
    fn spans_and_sizes_are_short() {
        assert_eq!(about(Duration::from_millis(3_905_500)), "1h 5m");
        assert_eq!(until(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH), "now");
        assert_eq!((bytes(0), bytes(1536), bytes(50 << 30)), ("0 B".into(), "1.5 KiB".into(), "50.0 GiB".into()));
        assert_eq!((count(1, "pull", "pulls"), count(0, "pull", "pulls")), ("1 pull".into(), "0 pulls".into()));
    }
}
