//! *Overview*, the first page: whether all is well and why not, what is left, and the last 24 hours.

use std::time::Duration;

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{context::PageContext, html};
use crate::admin::{
    history::{MINUTES, Minute, Totals},
    status::{self, Health, Status},
};

/// Points of a graph; more are not told apart on a phone.
const POINTS: usize = 144;
/// How far back a forecast looks, in entries of the history.
const TREND: usize = 60;

/// Reads the disk's probe, at most once a second; no request is sent.
pub(super) async fn page(context: &PageContext<'_>) -> HttpResponse {
    let state = context.state;
    let status = status::status(state).await;
    let minutes = state.history.newest(MINUTES);
    let body = html! {
        (verdict(&status))
        h2 { "Budget" }
        (budget(context, &minutes))
        p { a href="/budget" { "Who spent it, and on what" } }
        h2 { "Since the start" }
        (figures(context, &status, &minutes))
        h2 { "The last 24 hours" }
        (graphs(&minutes))
        h2 { "Upstreams" }
        (upstreams(context))
        p { a href="/api/v1/openapi.json" { "API" } " · " a href="/metrics" { "Metrics" } }
    };
    html::page(context, 200, html::Tab::Overview, "Overview", body)
}

fn verdict(status: &Status) -> Markup {
    let sentence = match status.health {
        Health::Healthy => "Everything works.",
        Health::Degraded => "Cached images are served; something else does not work.",
        Health::Down => "Images that are not cached cannot be pulled.",
    };
    let class = if status.health == Health::Healthy { "good" } else { "bad" };
    html! {
        p class=(class) { b { (html::sentence(status.health.word())) } " " (sentence) }
        @if !status.reasons.is_empty() { ul { @for reason in &status.reasons { li { (reason) } } } }
        @if status.reload.as_ref().is_some_and(|reload| reload.waits_for_restart) {
            p { "The configuration was read again; some of what changed waits for a restart." }
        }
    }
}

fn budget(context: &PageContext<'_>, minutes: &[Minute]) -> Markup {
    let mut identities = context.state.mirror.budget();
    identities.sort_by_key(|left| (left.identity.upstream.clone(), left.identity.account.clone()));
    let rows: Vec<_> = identities.iter().filter_map(|left| Some((left, left.limit?, left.remaining?))).collect();
    if rows.is_empty() {
        return html! { p { "No upstream has named a limit." } };
    }
    html! {
        @for (left, limit, remaining) in rows {
            @let whose = left.identity.to_string();
            @let series: Vec<f64> = minutes.iter().filter_map(|minute| minute.remaining.get(&*whose)).map(|left| *left as f64).collect();
            section {
                h3 { (whose) }
                p { b class="large" { (remaining) } " of " (limit) " pulls left. " (forecast(&series, minutes, remaining)) }
                (graph("Pulls left", &series, |value| format!("{value:.0}")))
            }
        }
    }
}

/// How long the rest lasts when it goes on as in the last hour. A pull that comes back is part of that.
fn forecast(series: &[f64], minutes: &[Minute], remaining: i64) -> String {
    let recent = &series[series.len().saturating_sub(TREND)..];
    let seconds: f64 = minutes.iter().rev().take(recent.len()).map(|minute| minute.seconds).sum();
    match (recent.first(), recent.last()) {
        _ if remaining <= 0 => "Nothing is left; what is not cached waits or is refused.".to_owned(),
        (Some(first), Some(last)) if first > last && seconds > 0.0 => {
            let lasts =
                Duration::try_from_secs_f64(remaining as f64 * seconds / (first - last)).unwrap_or(Duration::MAX);
            format!(
                "As it went in the last hour, that lasts {}.",
                html::about(lasts.min(Duration::from_secs(86_400 * 365)))
            )
        }
        _ => "It has not shrunk in the last hour.".to_owned(),
    }
}

fn figures(context: &PageContext<'_>, status: &Status, minutes: &[Minute]) -> Markup {
    let state = context.state;
    let (usage, (saved, since)) = (state.mirror.usage(), state.mirror.saved());
    let used = usage.used();
    let last_hour = &minutes[minutes.len().saturating_sub(60)..];
    let denied: u64 = last_hour.iter().map(|minute| minute.counted.denied).sum();
    let (acting, _) = state.limits.count_bans(context.now);
    let Totals { requests, failed, sent_bytes, received_bytes, .. } = status.totals;
    let rate = minutes.last().map_or(0.0, |minute| minute.counted.requests as f64 / minute.seconds.max(1.0));
    let day = |at| humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect::<String>();
    html::facts(&[
        ("Hit ratio", html::text(percent(status.totals.hit_ratio()))),
        ("Requests", html::text(format!("{requests}, {rate:.1} a second in the last minute, {failed} failed"))),
        (
            "Bytes",
            html::text(format!(
                "{} sent to clients, {} received from upstreams",
                html::bytes(sent_bytes),
                html::bytes(received_bytes)
            )),
        ),
        ("Saved", html::text(format!("{} since {}", html::count(saved, "pull", "pulls"), day(since)))),
        ("Arriving", html::text(html::count(state.mirror.blobs.fills() as u64, "blob", "blobs"))),
        (
            "Refused",
            html! { (html::count(denied, "request", "requests")) " in the last hour; " a href="/blocked" { (html::count(acting as u64, "ban", "bans")) " in force" } },
        ),
        ("Disk", html::text(format!("{} of {}", html::bytes(used), html::bytes(usage.capacity)))),
        ("Weir", html::text(format!("{}, up {}", env!("CARGO_PKG_VERSION"), html::about(status.uptime)))),
        (
            "Configuration",
            match &status.reload {
                None => html::text("as at the start"),
                Some(reload) => {
                    html! { @if reload.problem.is_some() { "refused " } @else { "read again " } (html::time(reload.at)) }
                }
            },
        ),
    ])
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "nothing was answered yet".to_owned(), |ratio| format!("{:.1} %", 100.0 * ratio))
}

fn graphs(minutes: &[Minute]) -> Markup {
    let series = |of: fn(&Totals) -> f64| -> Vec<f64> { minutes.iter().map(|minute| of(&minute.counted)).collect() };
    let whole = |value: f64| format!("{value:.0}");
    html! {
        @if minutes.is_empty() { p { "The first minute is not over." } }
        @else {
            h3 { "Requests a minute" }
            (graph("Requests a minute", &series(|counted| counted.requests as f64), whole))
            h3 { "Bytes sent a minute" }
            (graph("Bytes sent a minute", &series(|counted| counted.sent_bytes as f64), |value| html::bytes(value as u64)))
            h3 { "Bytes received from upstreams a minute" }
            (graph("Bytes received a minute", &series(|counted| counted.received_bytes as f64), |value| html::bytes(value as u64)))
            h3 { "Requests refused a minute" }
            (graph("Requests refused a minute", &series(|counted| counted.denied as f64), whole))
        }
    }
}

/// A line from the oldest to the newest value, between zero and the greatest. What it shows is said in words, too.
fn graph(name: &str, values: &[f64], say: impl Fn(f64) -> String) -> Markup {
    let points = reduce(values);
    let most = points.iter().copied().fold(0.0, f64::max);
    let Some(last) = values.last().filter(|_| points.len() > 1) else { return html! {} };
    let step = 720.0 / (points.len() - 1) as f64;
    let at = |(index, value): (usize, &f64)| {
        format!("{:.1},{:.1}", index as f64 * step, 98.0 - 96.0 * value / most.max(f64::MIN_POSITIVE))
    };
    let line = points.iter().enumerate().map(at).collect::<Vec<_>>().join(" ");
    // A mean of several minutes hides their peak from the line, not from the words.
    let peak = values.iter().copied().fold(0.0, f64::max);
    let words = format!("at most {}, {} now", say(peak), say(*last));
    html! {
        figure {
            svg class="graph" viewBox="0 0 720 100" preserveAspectRatio="none" role="img" aria-label={ (name) ": " (words) } {
                polygon points={ "0,98 " (line) " 720,98" } {}
                polyline points=(line) {}
            }
            figcaption { (words) }
        }
    }
}

/// At most [`POINTS`] values, each the mean of as many.
fn reduce(values: &[f64]) -> Vec<f64> {
    let size = values.len().div_ceil(POINTS).max(1);
    values.chunks(size).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

fn upstreams(context: &PageContext<'_>) -> Markup {
    let mirror = &context.state.mirror;
    let (failing, credentials) = (mirror.breakers(), mirror.credentials());
    let rows = mirror.upstreams().into_iter().map(|name| {
        let state = match failing.iter().find(|(upstream, until, _)| *upstream == name && *until > context.now) {
            Some((_, until, why)) => html! { span class="chip bad" { "fails" } " " (why) "; asked again " (html::until(*until, context.now)) },
            None => html! { span class="chip" { "works" } },
        };
        let accounts = credentials.iter().filter(|(upstream, ..)| *upstream == name);
        let accounts: Vec<String> = accounts.map(|(_, account, state)| format!("{account}: {}", state.word())).collect();
        let accounts = if accounts.is_empty() { "anonymous".to_owned() } else { accounts.join(", ") };
        vec![html::text(&*name), state, html::text(accounts)]
    });
    html::table("Upstreams", &["Upstream", "State", "Accounts"], rows.collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::SystemTime};

    use super::*;

    fn minutes(count: usize) -> Vec<Minute> {
        let minute = Minute {
            at: SystemTime::UNIX_EPOCH,
            seconds: 60.0,
            counted: Totals::default(),
            remaining: BTreeMap::new(),
        };
        vec![minute; count]
    }

    #[test]
    fn the_forecast_follows_the_last_hour_alone() {
        let mut series = vec![500.0; 100];
        series.extend((0..60).map(|minute| 159.0 - f64::from(minute)));
        assert_eq!(forecast(&series, &minutes(160), 100), "As it went in the last hour, that lasts 1h 41m.");
        assert_eq!(forecast(&series[..100], &minutes(100), 500), "It has not shrunk in the last hour.");
        assert_eq!(forecast(&[], &[], 5), "It has not shrunk in the last hour.");
        assert!(forecast(&series, &minutes(160), 0).starts_with("Nothing is left"));
    }

    #[test]
    fn a_graph_has_few_points_and_says_what_it_shows() {
        let values: Vec<f64> = (0..MINUTES).map(|minute| minute as f64).collect();
        let html = graph("Requests", &values, |value| format!("{value:.0}")).into_string();
        assert!(html.contains("Requests: at most 1439, 1439 now"), "{html}");
        let line = html.split("polyline points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(line.split(' ').count(), POINTS);
        assert!(line.starts_with("0.0,") && line.ends_with("720.0,2.0"), "{line}");
        assert_eq!(graph("Requests", &[1.0], |_| String::new()).into_string(), "", "one point is no line");
        let flat = graph("Requests", &[0.0, 0.0], |value| format!("{value:.0}")).into_string();
        assert!(flat.contains("0.0,98.0 720.0,98.0"), "{flat}");
    }
}
