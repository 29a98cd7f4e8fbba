//! *Findings*: which rules are broken by what is cached, image by image, with filters and as CSV. And the verdicts of one image.

use std::time::SystemTime;

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    html::{self, Tab, sentence},
    images::href,
    texts::{heads, text},
};
use crate::{
    admin::{
        findings::{self, Finding, Findings, Wanted},
        json::parameter,
    },
    mirror::Image,
    policy::{Outcome, Rule},
};

/// Images of one page.
const SHOWN: usize = 50;
/// Images of one CSV.
const IN_CSV: usize = 500;

async fn find(context: &PageContext<'_>, most: usize) -> Result<Findings, String> {
    let wanted = Wanted::parse(context.state, context.query)?;
    wanted.find(context.state, most, parameter(context.query, "last")).await
}

pub(super) async fn page(context: &PageContext<'_>) -> HttpResponse {
    let found = find(context, SHOWN).await;
    let waiting = context.state.mirror.layers.waiting() as u64;
    let body = html! {
        @if waiting > 0 {
            p { (text!("{} to be looked at; findings may grow.", html::count(waiting, text!("layer waits"), text!("layers wait")))) }
        }
        @if let Err(wrong) = &found { p class="bad" role="alert" { (sentence(wrong)) } }
        (search(context))
        @if let Ok(found) = &found {
            @if found.rows.is_empty() {
                p { @if found.next.is_some() { (text!("Nothing on this page; there may be more on the next.")) } @else { (text!("No finding fits.")) } }
            } @else {
                (table(&found.rows))
            }
            @if let Some(next) = &found.next { p { a rel="next" href=(with(context.query, "/policy", next)) { (text!("Next page")) } } }
            p { a href=(format!("/policy/csv?{}", context.query)) { (text!("As CSV")) } }
        }
    };
    html::page(context, if found.is_ok() { 200 } else { 400 }, Tab::Findings, text!("Findings"), body)
}

/// What the page shows, and up to ten pages behind it, for a spreadsheet.
pub(super) async fn csv(context: &PageContext<'_>) -> HttpResponse {
    match find(context, IN_CSV).await {
        Ok(found) => findings::csv(&found, "/policy/csv", context.query),
        Err(wrong) => html::problem(context, 400, text!("No such list"), &sentence(&wrong)),
    }
}

fn with(query: &str, path: &str, last: &str) -> String {
    let kept =
        url::form_urlencoded::parse(query.as_bytes()).filter(|(name, value)| name != "last" && !value.is_empty());
    format!("{path}?{}", Serializer::new(String::new()).extend_pairs(kept).append_pair("last", last).finish())
}

fn search(context: &PageContext<'_>) -> Markup {
    let typed = |name: &str| parameter(context.query, name).unwrap_or_default();
    let mut rules = vec![("", text!("any"))];
    rules.extend(Rule::ALL.iter().map(|rule| (rule.as_str(), rule.as_str())));
    let outcomes = [("", text!("fail")), ("unknown", text!("unknown")), ("pass", text!("pass"))];
    html! {
        form class="line" method="get" action="/policy" {
            (html::choice_field("rule", text!("Rule"), rules, &typed("rule")))
            (html::choice_field("outcome", text!("Outcome"), outcomes, &typed("outcome")))
            (html::search_field("registry", text!("Registry"), &typed("registry"), ""))
            (html::search_field("pattern", text!("Part of a name, or a pattern with *"), &typed("pattern"), "docker.io/library/*"))
            (html::search_field("not_arrived_within", text!("Cached for longer than"), &typed("not_arrived_within"), "30d"))
            button { (text!("Show")) }
        }
    }
}

fn table(rows: &[Finding]) -> Markup {
    let row = |finding: &Finding| {
        let reference =
            finding.image.tag.as_ref().map_or_else(|| finding.image.digest.to_string(), ToString::to_string);
        vec![
            html! { a href=(href(&finding.image)) { (html::image(&finding.image.repository.full_name(), &reference)) } },
            html::text(&finding.platform),
            html! { code { (finding.verdict.rule.as_str()) } },
            html::text(sentence(&finding.verdict.finding)),
            html! { @if let Some(arrived) = finding.arrived { (html::time(arrived)) } },
            html::text(finding.policy.as_deref().unwrap_or_default()),
        ]
    };
    html::table(
        text!("Findings"),
        &heads!["Image", "Platform", "Rule", "Finding", "Cached since", "Policy"],
        rows.iter().map(row).collect(),
    )
}

/// What rules say of one image, platform by platform.
pub(super) async fn of_image(context: &PageContext<'_>, image: &Image) -> Markup {
    let platforms = match context.state.mirror.facts.of(image, None).await {
        Ok(platforms) => platforms,
        Err(error) => return html! { p class="bad" { (sentence(&error.to_string())) } },
    };
    let (policy, judged) = context.state.mirror.enforcement.report(image, platforms, SystemTime::now()).await;
    html! {
        h2 { (text!("Findings")) }
        @if let Some(policy) = &policy { p { (text!("Thresholds are those of the policy {}.", policy)) } }
        @for (platform, verdicts) in &judged {
            @match &platform.facts {
                // Of an index, most platforms were never pulled.
                Err(why) if !platform.platform.is_empty() => p { (text!("{}: it {}.", platform.platform, why.to_string())) },
                // What is not an index names its platform in the config alone.
                Err(why) => p { (text!("It {}.", why.to_string())) },
                Ok(_) => {
                    @let name = text!("Findings of {}", platform.platform).into_string();
                    @let rows = verdicts.iter().map(|verdict| vec![
                        outcome(verdict.outcome),
                        html! { code { (verdict.rule.as_str()) } },
                        html::text(sentence(&verdict.finding)),
                        html::text(verdict.mend),
                    ]);
                    (html::table(&name, &heads!["Outcome", "Rule", "Finding", "How to mend it"], rows.collect()))
                }
            }
        }
        @if judged.is_empty() { p { (text!("Its manifest is not here.")) } }
    }
}

fn outcome(outcome: Outcome) -> Markup {
    let class = if outcome == Outcome::Fail { "chip bad" } else { "chip" };
    html! { span class=(class) { (outcome.as_str()) } }
}
