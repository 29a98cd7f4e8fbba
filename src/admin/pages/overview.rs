//! *Overview*, the first page: whether all is well and why not, what is left, and the last 24 hours.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, web::Bytes};
use maud::{Markup, html};
use serde_json::json;

use super::{
    context::PageContext,
    graph::graph,
    html, language,
    page::LIVE,
    texts::{heads, text},
};
use crate::admin::{
    history::{MINUTES, Minute, Totals},
    status::{self, ARRIVING, Health, LATELY, LastHour, Status, UpstreamStatus},
};
use crate::{mirror::UnderWay, upstream::CredentialState};

/// How far back a forecast looks, in entries of the history.
const TREND: usize = 60;

/// How long a page waits before it asks for its parts again.
const PAUSE: Duration = Duration::from_secs(5);
/// How old the parts may be that a page gets: however many ask, in as many windows, they are made once in that time and language.
const SHARED: Duration = Duration::from_secs(1);

/// Reads the disk's probe, at most once a second; no request is sent.
pub(super) async fn page(context: &PageContext<'_>) -> HttpResponse {
    let parts = parts(context).await;
    // The page asks for its parts at once, and must not get older ones than it shows.
    context.state.live.put(language::current().tag(), event(&parts)).await;
    let body = html! {
        div id="live" class="buttons" data-stream=(LIVE)
            data-live=(text!("Live: the figures are read again every {} seconds.", PAUSE.as_secs()))
            data-paused=(text!("Paused. The figures stay as they are.")) data-pause=(text!("Pause")) data-go-on=(text!("Go on"))
            data-ended=(text!("Not live any more. Load the page again.")) data-lost=(text!("The connection is lost; it is tried again.")) {
            p role="status" { (text!("Load the page again for newer figures.")) }
            button type="button" hidden { (text!("Pause")) }
        }
        @for (id, part) in &parts { div id=(id) { (part) } }
        p { a href="/api/v1/openapi.json" { (text!("API")) } " · " a href="/metrics" { (text!("Metrics")) } }
        script src="/assets/live.js" {}
    };
    html::live_page(context, html::Tab::Overview, text!("Overview"), body)
}

/// The parts as they are now, as one event of `text/event-stream` (HTML, section 9.2). The stream ends with it, and the browser asks again
/// after [`PAUSE`]: no connection is held for a window, and whether the viewer may is judged each time.
pub(super) async fn live(context: &PageContext<'_>) -> HttpResponse {
    let make = async { event(&parts(context).await) };
    let event = context.state.live.get(language::current().tag(), SHARED, make).await;
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(event)
}

/// It shows nothing of who asks.
fn event(parts: &[(&'static str, Markup)]) -> Bytes {
    let parts: BTreeMap<_, _> = parts.iter().map(|(id, part)| (id, &part.0)).collect();
    // JSON has no line breaks, which would end the event.
    format!("retry: {}\ndata: {}\n\n", PAUSE.as_millis(), json!(parts)).into()
}

/// What changes, each part by the `id` of its element: the script leaves those as they are in which the viewer is.
async fn parts(context: &PageContext<'_>) -> [(&'static str, Markup); 6] {
    let state = context.state;
    let status = status::status(state).await;
    let minutes = state.history.newest(MINUTES);
    [
        ("verdict", verdict(&status)),
        (
            "budget",
            html! {
                h2 { (text!("Budget")) }
                (budget(context, &minutes))
                p { a href="/budget" { (text!("Who spent it, and on what")) } }
            },
        ),
        (
            "figures",
            html! {
                h2 { (text!("Since the start")) }
                (figures(context, &status, &minutes))
            },
        ),
        ("arriving", arriving(context)),
        (
            "graphs",
            html! {
                h2 { (text!("The last 24 hours")) }
                (graphs(&minutes))
            },
        ),
        (
            "upstreams",
            html! {
                h2 { (text!("Upstreams")) }
                (upstreams(context, &status))
            },
        ),
    ]
}

fn verdict(status: &Status) -> Markup {
    let sentence = match status.health {
        Health::Healthy => text!("Everything works."),
        Health::Degraded => text!("Cached images are served; something else does not work."),
        Health::Down => text!("Images that are not cached cannot be pulled."),
    };
    let class = if status.health == Health::Healthy { "good" } else { "bad" };
    html! {
        p class=(class) { b { (health(status.health)) } " " (sentence) }
        @if !status.reasons.is_empty() { ul { @for reason in &status.reasons { li { (reason) } } } }
        @if status.reload.as_ref().is_some_and(|reload| reload.waits_for_restart) {
            p { (text!("The configuration was read again; some of what changed waits for a restart.")) }
        }
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => text!("Healthy."),
        Health::Degraded => text!("Degraded."),
        Health::Down => text!("Down."),
    }
}

fn budget(context: &PageContext<'_>, minutes: &[Minute]) -> Markup {
    let mut identities = context.state.mirror.budget();
    identities.sort_by_key(|left| (left.identity.upstream.clone(), left.identity.account.clone()));
    let rows: Vec<_> = identities.iter().filter_map(|left| Some((left, left.limit?, left.remaining?))).collect();
    if rows.is_empty() {
        return html! { p { (text!("No upstream has named a limit.")) } };
    }
    html! {
        @for (left, limit, remaining) in rows {
            @let whose = left.identity.to_string();
            @let series: Vec<f64> = minutes.iter().filter_map(|minute| minute.remaining.get(&*whose)).map(|left| *left as f64).collect();
            section {
                h3 { (whose) }
                p { (text!("{} of {} pulls left.", html! { b class="large" { (remaining) } }, limit)) " " (forecast(&series, minutes, remaining)) }
                (graph(text!("Pulls left"), &series, |value| format!("{value:.0}")))
            }
        }
    }
}

/// How long the rest lasts when it goes on as in the last hour. A pull that comes back is part of that.
fn forecast(series: &[f64], minutes: &[Minute], remaining: i64) -> Markup {
    let recent = &series[series.len().saturating_sub(TREND)..];
    let seconds: f64 = minutes.iter().rev().take(recent.len()).map(|minute| minute.seconds).sum();
    match (recent.first(), recent.last()) {
        _ if remaining <= 0 => html::text(text!("Nothing is left; what is not cached waits or is refused.")),
        (Some(first), Some(last)) if first > last && seconds > 0.0 => {
            let lasts =
                Duration::try_from_secs_f64(remaining as f64 * seconds / (first - last)).unwrap_or(Duration::MAX);
            let lasts = html::about(lasts.min(Duration::from_secs(86_400 * 365)));
            text!("As it went in the last hour, that lasts {}.", lasts)
        }
        _ => html::text(text!("It has not shrunk in the last hour.")),
    }
}

fn figures(context: &PageContext<'_>, status: &Status, minutes: &[Minute]) -> Markup {
    let state = context.state;
    let (usage, (saved, since)) = (state.mirror.usage(), state.mirror.saved());
    let used = usage.used();
    let LastHour { denied, bans } = status.last_hour;
    let (acting, _) = state.limits.count_bans(context.now);
    let Totals { requests, failed, sent_bytes, received_bytes, .. } = status.totals;
    let rate = minutes.last().map_or(0.0, |minute| minute.counted.requests as f64 / minute.seconds.max(1.0));
    html::facts(&[
        (text!("Hit ratio"), hit_ratio(&status.totals)),
        (
            text!("Requests"),
            text!("{}, {} a second in the last minute, {} failed", requests, format!("{rate:.1}"), failed),
        ),
        (
            text!("Bytes"),
            text!(
                "{} sent to clients, {} received from upstreams",
                html::bytes(sent_bytes),
                html::bytes(received_bytes)
            ),
        ),
        (text!("Saved"), text!("{} since {}", html::count(saved, text!("pull"), text!("pulls")), html::day(since))),
        (text!("Arriving"), html::text(html::count(state.mirror.blobs.fills() as u64, text!("blob"), text!("blobs")))),
        (
            text!("Refused"),
            html! {
                (text!("{} and {} in the last hour", html::count(denied, text!("request"), text!("requests")), html::count(bans as u64, text!("ban"), text!("bans")))) "; "
                a href="/blocked" { (text!("{} in force", html::count(acting as u64, text!("ban"), text!("bans")))) }
            },
        ),
        (text!("Disk"), text!("{} of {}", html::bytes(used), html::bytes(usage.capacity))),
        ("Weir", text!("{}, up {}", env!("CARGO_PKG_VERSION"), html::about(status.uptime))),
        (
            text!("Configuration"),
            match &status.reload {
                None => html::text(text!("as at the start")),
                Some(reload) => {
                    html! { @if reload.problem.is_some() { (text!("refused {}", html::time(reload.at))) } @else { (text!("read again {}", html::time(reload.at))) } }
                }
            },
        ),
    ])
}

/// The blobs for which most clients wait.
fn arriving(context: &PageContext<'_>) -> Markup {
    let blobs = &context.state.mirror.blobs;
    let fills = blobs.under_way(ARRIVING);
    let more = blobs.fills().saturating_sub(fills.len());
    let row = |fill: &UnderWay| {
        let digest = fill.digest.to_string();
        let Some(begun) = &fill.begun else {
            let empty = html::text("");
            return vec![html::code(&digest), html::text(text!("not yet")), empty.clone(), empty];
        };
        vec![
            html::image(&status::repository(&begun.source), &digest),
            text!("{} of {}", html::bytes(begun.bytes), html::bytes(begun.size)),
            html::text(begun.waiting.to_string()),
            html::text(status::source(begun)),
        ]
    };
    html! {
        @if !fills.is_empty() {
            h2 { (text!("Arriving")) }
            (html::table(text!("Arriving"), &heads!["Blob", "Here", "Clients that wait", "From"], fills.iter().map(row).collect()))
            @if more > 0 { p { (text!("and {}", html::count(more as u64, text!("other"), text!("others")))) } }
        }
    }
}

fn hit_ratio(totals: &Totals) -> Markup {
    let percent = |ratio: f64| format!("{:.1} %", 100.0 * ratio);
    match (totals.hit_ratio(), totals.byte_hit_ratio()) {
        (None, _) => html::text(text!("nothing was answered yet")),
        (Some(requests), None) => text!("{} by requests", percent(requests)),
        (Some(requests), Some(bytes)) => text!("{} by requests, {} by bytes", percent(requests), percent(bytes)),
    }
}

fn graphs(minutes: &[Minute]) -> Markup {
    let series = |of: fn(&Totals) -> f64| -> Vec<f64> { minutes.iter().map(|minute| of(&minute.counted)).collect() };
    let whole = |value: f64| format!("{value:.0}");
    html! {
        @if minutes.is_empty() { p { (text!("The first minute is not over.")) } }
        @else {
            h3 { (text!("Requests a minute")) }
            (graph(text!("Requests a minute"), &series(|counted| counted.requests as f64), whole))
            h3 { (text!("Bytes sent a minute")) }
            (graph(text!("Bytes sent a minute"), &series(|counted| counted.sent_bytes as f64), |value| html::bytes(value as u64)))
            h3 { (text!("Bytes received from upstreams a minute")) }
            (graph(text!("Bytes received from upstreams a minute"), &series(|counted| counted.received_bytes as f64), |value| html::bytes(value as u64)))
            h3 { (text!("Requests refused a minute")) }
            (graph(text!("Requests refused a minute"), &series(|counted| counted.denied as f64), whole))
        }
    }
}

fn credential(state: CredentialState) -> &'static str {
    match state {
        CredentialState::Unused => text!("unused"),
        CredentialState::Accepted => text!("accepted"),
        CredentialState::Refused => text!("refused"),
        CredentialState::Unreadable => text!("unreadable"),
    }
}

/// Nothing when nothing was asked.
fn latency(upstream: &UpstreamStatus) -> Markup {
    let Some(mean) = upstream.mean() else { return html! {} };
    let requests = html::count(upstream.asked.requests, text!("request"), text!("requests"));
    text!("{} on average, {} in {} minutes", html::milliseconds(mean), requests, LATELY)
}

fn upstreams(context: &PageContext<'_>, status: &Status) -> Markup {
    let credentials = context.state.mirror.credentials();
    let rows = status.upstreams.iter().map(|one| {
        let name = &one.name;
        let state = match one.failing.as_ref().map(|(until, why)| (html::later(*until, context.now), why)) {
            Some((Some(until), why)) => html! { span class="chip bad" { (text!("fails")) } " " (why) "; " (text!("asked again {}", html::until(until, context.now))) },
            Some((None, why)) => html! { span class="chip bad" { (text!("fails")) } " " (why) "; " (text!("asked again with the next request")) },
            None => html! { span class="chip" { (text!("works")) } },
        };
        let accounts = credentials.iter().filter(|(upstream, ..)| upstream == name);
        let accounts: Vec<String> = accounts.map(|(_, account, state)| format!("{account}: {}", credential(*state))).collect();
        let accounts = if accounts.is_empty() { text!("anonymous").to_owned() } else { accounts.join(", ") };
        vec![html::text(&**name), state, latency(one), html::text(accounts)]
    });
    html::table(text!("Upstreams"), &heads!["Upstream", "State", "Latency", "Accounts"], rows.collect())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn minutes(count: usize) -> Vec<Minute> {
        let minute = Minute {
            at: SystemTime::UNIX_EPOCH,
            seconds: 60.0,
            counted: Totals::default(),
            remaining: BTreeMap::new(),
            upstreams: BTreeMap::new(),
        };
        vec![minute; count]
    }

    #[test]
    fn the_forecast_follows_the_last_hour_alone() {
        let mut series = vec![500.0; 100];
        series.extend((0..60).map(|minute| 159.0 - f64::from(minute)));
        assert_eq!(
            forecast(&series, &minutes(160), 100).into_string(),
            "As it went in the last hour, that lasts 1h 41m."
        );
        assert_eq!(forecast(&series[..100], &minutes(100), 500).into_string(), "It has not shrunk in the last hour.");
        assert_eq!(forecast(&[], &[], 5).into_string(), "It has not shrunk in the last hour.");
        assert!(forecast(&series, &minutes(160), 0).into_string().starts_with("Nothing is left"));
    }
}
