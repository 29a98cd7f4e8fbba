//! *Budget*: a gauge for each identity, what comes back when, and who spent it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    graph, html,
    texts::{heads, text},
    what_if,
};
use crate::{
    admin::{
        history::{MINUTES, Minute},
        json::parameter,
    },
    client::Class,
    limits::budget::{Floors, SpendLog},
    upstream::{
        CredentialState, Identity,
        ledger::{Balance, Reason, Spend},
    },
};

/// Spends that are looked at for who spent and what comes back.
const LOOKED_AT: usize = 10_000;
/// Spends of one page.
const LISTED: usize = 50;
/// Clients that are listed for an identity.
const SPENDERS: usize = 15;
/// Spans by which the returns of a window are grouped.
const STEPS: u32 = 6;

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let mirror = &context.state.mirror;
    let mut identities = mirror.budget();
    identities.sort_by_key(|left| (left.identity.upstream.clone(), left.identity.account.clone()));
    let spends = mirror.spends(LOOKED_AT);
    let floors = context.state.limits.config().budget.floors;
    let minutes = context.state.history.newest(MINUTES);
    let body = html! {
        @for (upstream, until, why) in mirror.breakers() {
            p class="bad" {
                @match html::later(until, context.now) {
                    Some(until) => (text!("{} fails ({}). The next request to it is sent at {}, {}.", html::bold(upstream), why, html::time(until), html::until(until, context.now))),
                    None => (text!("{} fails ({}). The next request to it shows whether it still does.", html::bold(upstream), why)),
                }
            }
        }
        @for (upstream, account, state) in mirror.credentials() {
            @match state {
                CredentialState::Refused => p class="bad" { (text!("{} refused the credential of account {}.", html::bold(upstream), html::bold(account))) },
                CredentialState::Unreadable => p class="bad" { (text!("The credential of account {} of {} cannot be read; the log says why.", html::bold(account), html::bold(upstream))) },
                CredentialState::Unused | CredentialState::Accepted => {}
            }
        }
        @if identities.is_empty() { p { (text!("No upstream has been asked yet.")) } }
        @for left in &identities { (identity(context, left, &floors, &spends, &minutes)) }
        h2 { (text!("Cache")) }
        (cache(context))
        (what_if::part(context, &identities))
        h2 id="spends" { (text!("Newest spends")) }
        (listed(context, &spends))
        @if minutes.iter().any(|minute| !minute.remaining.is_empty()) { (graph::scripts()) }
    };
    html::page(context, 200, html::Tab::Budget, text!("Budget"), body)
}

/// The spends that a filter finds, one page of them.
fn listed(context: &PageContext<'_>, spends: &[Spend]) -> Markup {
    let [client, image, class, within] =
        ["client", "image", "class", "within"].map(|name| parameter(context.query, name).unwrap_or_default());
    let span = Some(within.trim()).filter(|it| !it.is_empty()).map(humantime::parse_duration);
    let is_wrong = matches!(span, Some(Err(_)));
    // A span that reaches back to before all times wants all of them.
    let since = span.and_then(Result::ok).and_then(|span| context.now.checked_sub(span));
    let first: usize = parameter(context.query, "first").and_then(|first| first.parse().ok()).unwrap_or(0);
    let is_found = |spend: &&Spend| {
        let on =
            format!("{}/{}:{}", spend.upstream, spend.repository, spend.tag.as_deref().unwrap_or(&spend.reference));
        spend.client.contains(client.trim())
            && on.contains(image.trim())
            && (class.is_empty() || spend.class.word() == class)
            && since.is_none_or(|since| spend.at >= since)
    };
    let found: Vec<&Spend> = spends.iter().filter(is_found).collect();
    let next = (found.len() > first.saturating_add(LISTED)).then(|| {
        let mut query = Serializer::new(String::new());
        query.append_pair("client", &client).append_pair("image", &image).append_pair("class", &class);
        query.append_pair("within", &within);
        format!("/budget?{}#spends", query.append_pair("first", &(first + LISTED).to_string()).finish())
    });
    let classes =
        [Class::Bulk, Class::Standard, Class::Critical, Class::Exempt].map(|class| (class.word(), class.word()));
    let classes = [("", text!("every class"))].into_iter().chain(classes);
    html! {
        form class="line" method="get" action="/budget#spends" {
            (html::search_field("client", text!("Client"), &client, "10.1."))
            (html::search_field("image", text!("Part of an image"), &image, "library/nginx:"))
            (html::choice_field("class", text!("Class"), classes, &class))
            (html::search_field("within", text!("Within the last"), &within, "2h"))
            button { (text!("Show")) }
        }
        @if is_wrong { p class="bad" role="alert" { (text!("Write a duration, such as 30m, 2h or 1d.")) } }
        @if found.is_empty() {
            p { @if spends.is_empty() { (text!("Nothing was spent yet.")) } @else { (text!("No spend fits.")) } }
        } @else {
            p { (text!("{} of the last {}.", html::count(found.len() as u64, text!("spend"), text!("spends")), spends.len())) }
            (html::table(text!("Newest spends"), &heads(), found.into_iter().skip(first).take(LISTED).map(row).collect()))
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { (text!("Next page")) } } }
    }
}

fn identity(
    context: &PageContext<'_>,
    left: &Balance,
    floors: &Floors,
    spends: &[Spend],
    minutes: &[Minute],
) -> Markup {
    let account = left.identity.name();
    let window = left.window.unwrap_or(SpendLog::WINDOW);
    let own = spends.iter().filter(|spend| spend.upstream == left.identity.upstream && &*spend.identity == account);
    let own: Vec<&Spend> = own.filter(|spend| spend.at + window > context.now).collect();
    let whose = left.identity.to_string();
    let waiting = context.state.limits.waiting(&left.identity);
    let past = minutes.iter().filter_map(|minute| Some((minute.at, *minute.remaining.get(&*whose)? as f64)));
    let past: Vec<_> = past.collect();
    html! {
        section {
            h2 { (whose) }
            @match (left.limit, left.remaining) {
                (Some(limit), Some(remaining)) => {
                    p { (text!("{} of {} pulls left", html! { b class="large" { (remaining) } }, limit))
                        @if let Some(window) = left.window { " " (text!("per {}", html::about(window))) }
                        @if let Some(next) = left.next_at { "; " (text!("the next one comes back {}", html::until(next, context.now))) }
                    }
                    (gauge(limit, remaining, left, floors))
                    @if past.len() > 1 {
                        h3 { (text!("The last 24 hours")) }
                        (graph::graph_with_axes(&format!("{}, {whose}", text!("Pulls left")), &past))
                    }
                    @if left.external > 0 {
                        p class="bad" {
                            (text!("{} spent by others within the window: {}", html::count(left.external, text!("pull was"), text!("pulls were")), others(&left.identity)))
                        }
                    }
                }
                _ => p { (text!("Upstream has named no limit; nothing is held back. {} spent by this mirror within the window.", html::count(left.spent, text!("pull"), text!("pulls")))) },
            }
            @if waiting > 0 { p { (text!("{} for a pull to come back.", html::count(waiting as u64, text!("request waits"), text!("requests wait")))) } }
            @if !own.is_empty() {
                div class="columns" {
                    div { h3 { (text!("Who spent it")) } (spenders(&whose, &own)) }
                    @if left.limit.is_some() { div { h3 { (text!("What comes back")) } (returns(&whose, &own, window, context.now)) } }
                }
            }
        }
    }
}

/// Who the others may be.
fn others(identity: &Identity) -> &'static str {
    match identity.account {
        Some(_) => text!("another program uses this account."),
        None => {
            text!(
                "a node behind the same address that goes around the mirror, or a neighbour. See “Pulls that go around the mirror” in the README."
            )
        }
    }
}

/// What is left, what this mirror and what others spent, on one bar; with the marks at which classes stop.
fn gauge(limit: i64, remaining: i64, left: &Balance, floors: &Floors) -> Markup {
    let part = |pulls: i64| 1000 * pulls.clamp(0, limit.max(1)) / limit.max(1);
    let (own, others) = (i64::try_from(left.spent).unwrap_or(limit), i64::try_from(left.external).unwrap_or(limit));
    let at = part(remaining);
    // What upstream counts and neither of us explains is left blank.
    let (own_wide, others_wide) = (part(own).min(1000 - at), part(others).min(1000 - at - part(own).min(1000 - at)));
    let marks = [("bulk", floors.bulk), ("standard", floors.standard), ("critical", floors.critical)];
    let marks = marks.into_iter().filter(|(_, floor)| *floor > 0.0);
    let marks: Vec<_> = marks.map(|(class, floor)| (class, floor, (floor * limit as f64).round() as i64)).collect();
    let label = text!("{} of {} left, {} spent by this mirror, {} by others", remaining, limit, own, others);
    html! {
        svg class="gauge" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect class="track" x="0" y="4" width="1000" height="32" {}
            rect class="left" x="0" y="4" width=(at) height="32" {}
            rect class="own" x=(at) y="4" width=(own_wide) height="32" {}
            rect class="others" x=(at + own_wide) y="4" width=(others_wide) height="32" {}
            @for (_, _, pulls) in &marks { rect class="mark" x=(part(*pulls).max(2) - 2) y="0" width="4" height="40" {} }
        }
        ul class="flow legend" {
            li class="left" { (text!("{} left", remaining.max(0))) }
            li class="own" { (text!("{} spent by this mirror", own)) }
            li class="others" { (text!("{} spent by others", others)) }
            @if left.unexplained > 0 { li { (text!("{} used upstream, unexplained", left.unexplained)) } }
            @if left.unexplained < 0 { li { (text!("{} of them no longer counted upstream", left.unexplained.unsigned_abs())) } }
            @for (class, _, pulls) in &marks { li class="mark" { (text!("{} stops at {} left", class, pulls)) } }
        }
    }
}

fn spenders(whose: &str, own: &[&Spend]) -> Markup {
    let mut by_client: HashMap<&str, (u64, u64)> = HashMap::new();
    for spend in own {
        let (pulls, shared) = by_client.entry(&spend.client).or_default();
        (*pulls, *shared) = (*pulls + 1, *shared + u64::from(spend.waiters));
    }
    let mut by_client: Vec<_> = by_client.into_iter().collect();
    by_client.sort_by_key(|(client, (pulls, _))| (std::cmp::Reverse(*pulls), *client));
    let more = by_client.len().saturating_sub(SPENDERS);
    let rows = by_client.into_iter().take(SPENDERS).map(|(client, (pulls, shared))| {
        vec![html::client(client), html::text(pulls.to_string()), html::text(shared.to_string())]
    });
    html! {
        (html::table(&format!("{}, {whose}", text!("Who spent it")), &heads!["Client", "Pulls", "Others spared"], rows.collect()))
        @if more > 0 { p { (text!("and {}", html::count(more as u64, text!("other"), text!("others")))) } }
    }
}

/// A pull comes back when it leaves the window.
fn returns(whose: &str, own: &[&Spend], window: Duration, now: SystemTime) -> Markup {
    let step = (window / STEPS).max(Duration::from_secs(1));
    let mut counts = [0_u64; STEPS as usize];
    for spend in own {
        let left = (spend.at + window).duration_since(now).unwrap_or_default();
        let index = (left.as_secs_f64() / step.as_secs_f64()) as usize;
        counts[index.min(counts.len() - 1)] += 1;
    }
    let rows = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(index, count)| {
        let end = now + step * (index as u32 + 1);
        vec![text!("by {}", html::time(end)), html::text(count.to_string())]
    });
    html::table(&format!("{}, {whose}", text!("What comes back")), &heads!["When", "Pulls"], rows.collect())
}

fn cache(context: &PageContext<'_>) -> Markup {
    let usage = context.state.mirror.usage();
    let (saved, since) = context.state.mirror.saved();
    let used = usage.used();
    let part = 1000 * used.min(usage.capacity) / usage.capacity.max(1);
    html! {
        p {
            (text!(
                "{} of {} and {} of {}; {} may be used. It has saved {} since {}.",
                html::count(usage.blobs, text!("blob"), text!("blobs")),
                html::bytes(usage.blob_bytes),
                html::count(usage.manifests, text!("manifest"), text!("manifests")),
                html::bytes(usage.manifest_bytes),
                html::bytes(usage.capacity),
                html::count(saved, text!("pull"), text!("pulls")),
                html::day(since)
            ))
        }
        svg class="gauge thin" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img"
            aria-label=(text!("{} of {} used", html::bytes(used), html::bytes(usage.capacity))) {
            rect class="track" x="0" y="4" width="1000" height="32" {}
            rect class="own" x="0" y="4" width=(part) height="32" {}
        }
    }
}

/// The heads of a table of spends.
pub(super) fn heads() -> [&'static str; 7] {
    heads!["When", "Who", "Class", "On what", "Why", "Shared by", "Left"]
}

/// A spend, as a row below [`heads`].
pub(super) fn row(spend: &Spend) -> Vec<Markup> {
    let why = match spend.reason {
        Reason::Cold => text!("was not here"),
        Reason::Changed => text!("had changed"),
        Reason::HeadRefused => text!("no HEAD upstream"),
        Reason::Referrers => text!("referrers"),
    };
    vec![
        html::time(spend.at),
        html::client(&spend.client),
        html::text(spend.class.word()),
        html::image(
            &format!("{}/{}", spend.upstream, spend.repository),
            spend.tag.as_deref().unwrap_or(&spend.reference),
        ),
        html::text(why),
        html::text((spend.waiters + 1).to_string()),
        html::text(spend.remaining.map(|remaining| remaining.to_string()).unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(remaining: i64, spent: u64, external: u64) -> Balance {
        Balance {
            identity: Identity { upstream: "docker.io".into(), account: None },
            version: 0,
            unexplained: 0,
            limit: Some(100),
            remaining: Some(remaining),
            window: Some(SpendLog::WINDOW),
            spent,
            external,
            next_at: None,
        }
    }

    #[test]
    fn others_who_spend_use_the_same_account_or_the_same_address() {
        let of = |account: Option<&str>| {
            others(&Identity { upstream: "docker.io".into(), account: account.map(Into::into) })
        };
        assert!(of(Some("ci")).contains("account") && !of(Some("ci")).contains("address"));
        assert!(of(None).contains("same address"));
    }

    #[test]
    fn the_tables_of_two_identities_have_two_names() {
        let label =
            |markup: Markup| markup.into_string().split('"').find(|text| text.contains(", ")).map(str::to_owned);
        let names = ["docker.io as anonymous", "docker.io as ci"];
        let [one, other] = names.map(|whose| label(spenders(whose, &[])));
        assert!(one.is_some() && one != other, "{one:?} {other:?}");
        let [one, other] = names.map(|whose| label(returns(whose, &[], SpendLog::WINDOW, SystemTime::UNIX_EPOCH)));
        assert!(one.is_some() && one != other, "{one:?} {other:?}");
    }

    #[test]
    fn a_gauge_stays_within_its_bar_whatever_upstream_says() {
        for (remaining, spent, external) in [(75, 20, 5), (0, 100, 0), (-7, 300, 900), (100, 0, 0), (900, 0, u64::MAX)]
        {
            let html = gauge(100, remaining, &left(remaining, spent, external), &Floors::default()).into_string();
            let widths = html.split(" width=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
            let widths: Vec<i64> = widths.map(|width| width.parse().unwrap()).collect();
            assert!(widths.iter().all(|width| (0..=1000).contains(width)), "{html}");
            assert!(widths[1] + widths[2] + widths[3] <= 1000, "{html}");
        }
        let html = gauge(100, 75, &left(75, 20, 5), &Floors::default()).into_string();
        assert!(html.contains("bulk stops at 40 left") && html.contains("standard stops at 10 left"), "{html}");
        assert!(html.contains("75 of 100 left, 20 spent by this mirror, 5 by others"), "{html}");
    }
}
