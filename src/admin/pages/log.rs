//! *Log*: the last lines of the log, filtered, and those that come while the page is open. Without JavaScript it shows the last lines.

use std::{convert::Infallible, time::Duration};

use actix_web::{HttpResponse, web::Bytes};
use futures_util::stream;
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use url::form_urlencoded::Serializer;

use super::{
    context::{PageContext, Viewer},
    html, language,
    texts::{heads, text},
};
use crate::{
    admin::json::parameter,
    telemetry::{TailEvent, Watcher},
};

/// Lines on the page; the script keeps no more.
const SHOWN: usize = 200;
/// A stream says so often that it is there: a viewer that left is noticed by that.
const BEAT: Duration = Duration::from_secs(5);
/// After so many beats and lines a stream ends, and the browser asks again; whether it may is judged anew each time.
const STEPS: u32 = 2000;
/// The target of access lines.
const ACCESS: &str = "weir::access";

/// Which lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    part: String,
    kind: String,
}

impl Wanted {
    fn of(query: &str) -> Wanted {
        let [part, kind] = ["part", "kind"].map(|name| parameter(query, name).unwrap_or_default());
        Wanted { part: part.trim().to_owned(), kind }
    }

    fn wants(&self, line: &str) -> bool {
        let is_of_kind = match &*self.kind {
            "access" => line.contains(ACCESS),
            "events" => !line.contains(ACCESS),
            "problems" => line.contains("WARN") || line.contains("ERROR"),
            _ => true,
        };
        is_of_kind && line.contains(&self.part)
    }
}

/// A line, for a person.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    when: String,
    level: String,
    words: String,
}

impl Line {
    /// A line of JSON by its fields, any other as it stands without the colours of a terminal.
    fn read(line: &str) -> Line {
        let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
            return Line { when: String::new(), level: String::new(), words: without_colours(line) };
        };
        // An event may have a level of its own, such as that of a ban. The level of the line comes first.
        let level = line.split_once("\"level\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
        if fields.get("level").is_some_and(|known| known == level) {
            fields.remove("level");
        }
        let mut take = |name: &str| fields.remove(name).map(|value| word(&value)).unwrap_or_default();
        let (when, target, message) = (take("timestamp"), take("target"), take("message"));
        let words = match &*target {
            ACCESS => {
                let request = ["method", "path", "status"].map(take).join(" ");
                format!("{request}{}", rest(&fields))
            }
            _ => format!("{message}{}", rest(&fields)),
        };
        // Whole seconds are enough to find it in the log.
        let when = when.split('.').next().unwrap_or_default().replace('T', " ");
        Line { when, level: level.to_owned(), words }
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The fields that are left, ` name=value` each.
fn rest(fields: &Map<String, Value>) -> String {
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    fields.map(|(name, value)| format!(" {name}={}", word(value))).collect()
}

/// Without the sequences that set the colours of a terminal: ESC, `[`, and all up to a letter.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest)
    })
}

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let wanted = Wanted::of(context.query);
    let mut lines = context.state.log.newest(SHOWN, |line| wanted.wants(line));
    lines.reverse();
    let query =
        Serializer::new(String::new()).append_pair("part", &wanted.part).append_pair("kind", &wanted.kind).finish();
    let rows = lines.iter().map(|line| row(&Line::read(line))).collect();
    let kinds = [
        ("", text!("everything")),
        ("access", text!("requests")),
        ("events", text!("events")),
        ("problems", text!("warnings and errors")),
    ];
    let body = html! {
        form class="line" method="get" action="/log" {
            (html::search_field("part", text!("With these words"), &wanted.part, "10.1.0.7"))
            (html::choice_field("kind", text!("Of"), kinds, &wanted.kind))
            button { (text!("Show")) }
        }
        div id="live" class="buttons" data-stream={ "/log/stream?" (query) } data-most=(SHOWN)
            data-live=(text!("Live: new lines appear on top.")) data-paused=(text!("Paused. New lines wait.")) data-pause=(text!("Pause")) data-go-on=(text!("Go on"))
            data-full=(text!("Not live: too many people watch the log. Load the page again later.")) data-lost=(text!("The connection is lost; it is tried again.")) {
            p role="status" { (text!("The last lines, the newest first. Load the page again for newer ones.")) }
            button type="button" hidden { (text!("Pause")) }
        }
        (html::table(text!("Log"), &heads!["When", "Level", "Line"], rows))
        script src="/assets/log.js" {}
    };
    html::live_page(context, html::Tab::Log, text!("Log"), body)
}

/// The moment of a line for programs; nothing when the line has none.
fn utc(when: &str) -> Option<String> {
    (!when.is_empty()).then(|| format!("{}Z", when.replace(' ', "T")))
}

fn row(line: &Line) -> Vec<Markup> {
    vec![
        html! { time datetime=[utc(&line.when)] { (line.when) } },
        html::text(&line.level),
        html! { code { (line.words) } },
    ]
}

/// Lines as they come, as events of `text/event-stream` (HTML, section 9.2).
pub(super) fn stream(context: &PageContext<'_>) -> HttpResponse {
    let Some(watcher) = context.state.log.watch(&watched_by(context)) else {
        // A browser gives up after this answer, and the page says so.
        return HttpResponse::ServiceUnavailable().insert_header(("Cache-Control", "no-store")).finish();
    };
    // The lines are made later, when this request is answered.
    let language = language::current();
    let events =
        stream::unfold((watcher, Wanted::of(context.query), STEPS), move |(mut watcher, wanted, steps)| async move {
            let event = language.scope(next(&mut watcher, &wanted)).await?;
            Some((Ok::<_, Infallible>(event), (watcher, wanted, steps.checked_sub(1)?)))
        });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .streaming(events)
}

/// Whose share of the watchers this one is of.
fn watched_by(context: &PageContext<'_>) -> String {
    match &context.viewer {
        Viewer::Account(account) => account.name.to_string(),
        Viewer::Operator | Viewer::Anonymous => context.from.to_string(),
    }
}

/// The next event, or a comment when there was none for a while.
async fn next(watcher: &mut Watcher, wanted: &Wanted) -> Option<Bytes> {
    let find = async {
        loop {
            match watcher.next().await? {
                TailEvent::Line(line) if wanted.wants(&line) => {
                    let Line { when, level, words } = Line::read(&line);
                    return Some(data(&when, &level, &words));
                }
                TailEvent::Line(_) => {}
                // Without it the browser would come back, and another would have to give way.
                TailEvent::GaveWay => return Some("event: full\ndata: 1".to_owned()),
                TailEvent::Missed(missed) => {
                    let words = text!("{} lines came too fast for this page; the log has them", missed).into_string();
                    return Some(data("", "", &words));
                }
            }
        }
    };
    match timeout(BEAT, find).await {
        Ok(event) => Some(format!("{}\n\n", event?).into()),
        Err(_) => Some(Bytes::from_static(b":\n\n")),
    }
}

/// A line as an event. JSON has no line breaks, which would end it.
fn data(when: &str, level: &str, words: &str) -> String {
    format!("data: {}", json!({"when": when, "level": level, "words": words}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_by_its_fields_and_any_other_as_it_stands() {
        let access = r#"{"timestamp":"2026-11-29T20:00:01.5Z","level":"INFO","method":"GET","path":"/v2/a/manifests/1","status":200,"bytes":7,"ns":null,"client":"10.1.0.7","target":"weir::access"}"#;
        let line = Line::read(access);
        assert_eq!((&*line.when, &*line.level), ("2026-11-29 20:00:01", "INFO"));
        assert_eq!(line.words, "GET /v2/a/manifests/1 200 bytes=7 client=10.1.0.7");
        let event = Line::read(r#"{"level":"WARN","message":"it rains","reason":"a \"cloud\"","target":"weir"}"#);
        assert_eq!(event.words, "it rains reason=a \"cloud\"");
        let ban = Line::read(r#"{"level":"INFO","message":"banned","level":4,"target":"weir::ban"}"#);
        assert_eq!((&*ban.level, &*ban.words), ("INFO", "banned level=4"));
        let text = Line::read("\u{1b}[2m2026\u{1b}[0m \u{1b}[32mINFO\u{1b}[0m it rains");
        assert_eq!(text.words, "2026 INFO it rains");
        for (kind, part, is_wanted) in [
            ("", "", true),
            ("access", "", true),
            ("events", "", false),
            ("problems", "", false),
            ("", "10.1.0.8", false),
        ] {
            assert_eq!(Wanted { part: part.into(), kind: kind.into() }.wants(access), is_wanted, "{kind} {part}");
        }
    }
}
