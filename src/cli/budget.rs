//! `weir budget`: what is left upstream, when more returns, who spent it on what, and what the cache saved.

use clap::Args;
use serde_json::Value;

use super::{
    ask::{Admin, Ask, repository_and_reference},
    say,
    table::table,
};
use crate::config::Config;

/// What to show.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only what was spent on this image, and why
    #[arg(long, value_name = "REPOSITORY[:REFERENCE]")]
    explain: Option<String>,
    /// How many of the latest spends to show, 1 to 10000
    #[arg(long, visible_alias = "limit", value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    spends: u16,
    /// Print what the API answers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let ask = Ask::new(&arguments.admin, config)?;
    let (budget, spends) = match &arguments.explain {
        Some(image) => (None, ask.json("GET", &format!("/api/v1/explain?{}", repository_and_reference(image)))?),
        None => {
            let budget = ask.json("GET", "/api/v1/budget")?;
            (Some(budget), ask.json("GET", &format!("/api/v1/spends?n={}", arguments.spends))?)
        }
    };
    if arguments.json {
        let mut whole = spends;
        if let (Some(Value::Object(budget)), Value::Object(whole)) = (budget, &mut whole) {
            whole.extend(budget);
        }
        return say(&format!("{whole:#}\n"));
    }
    let mut text = budget.as_ref().map(identities).unwrap_or_default();
    text += &self::spends(&spends, arguments.explain.as_deref());
    if let Some(saved) = budget.as_ref().and_then(|budget| budget["saved"].as_u64()) {
        let since = budget.as_ref().and_then(|budget| budget["saved_since"].as_str());
        let since = since.map_or_else(|| "so far".to_owned(), |since| format!("since {since}"));
        text += &format!("\nThe cache has saved {saved} {} {since}.\n", pulls(saved));
    }
    say(&text)
}

fn pulls(count: u64) -> &'static str {
    if count == 1 { "pull" } else { "pulls" }
}

/// One paragraph per identity, as a person would say it.
fn identities(budget: &Value) -> String {
    let identities = budget["identities"].as_array().map(Vec::as_slice).unwrap_or_default();
    if identities.is_empty() {
        return "Nothing was asked of any upstream yet, so no budget is known.\n".to_owned();
    }
    identities.iter().map(identity).collect()
}

fn identity(entry: &Value) -> String {
    let word = |key: &str| entry[key].as_str().unwrap_or("?").to_owned();
    let spent = entry["spent"].as_u64().unwrap_or_default();
    let mut text = format!("{} as {}: ", word("upstream"), word("identity"));
    match (entry["remaining"].as_i64(), entry["limit"].as_i64()) {
        (Some(remaining), Some(limit)) => {
            let window = entry["window_seconds"].as_u64().map(|seconds| format!(" per {}", span(seconds)));
            text += &format!(
                "{remaining} of {limit} pulls left{}\n  {}\n",
                window.unwrap_or_default(),
                bar(remaining, limit)
            );
        }
        _ => text += "no limit was ever named; unmetered\n",
    }
    text += &format!("  {spent} {} spent by this mirror", pulls(spent));
    let external = entry["external_spend"].as_u64().unwrap_or_default();
    if external > 0 {
        let others = match entry["identity"].as_str() {
            Some("anonymous") => "behind the same address: a client goes around the mirror",
            _ => "who use the same account",
        };
        text += &format!(", {external} by others {others}");
    }
    let unexplained = entry["unexplained"].as_i64().unwrap_or_default();
    if unexplained > 0 {
        text += &format!(", {unexplained} used upstream and unexplained");
    } else if unexplained < 0 {
        text += &format!(", {} of them no longer counted upstream", unexplained.unsigned_abs());
    }
    text += "\n";
    if let Some(at) = entry["next_at"].as_str() {
        text += &format!("  the next pull comes back at {at}\n");
    }
    text
}

/// Forty columns of what is left.
fn bar(remaining: i64, limit: i64) -> String {
    const WIDTH: i64 = 40;
    let full = if limit > 0 { (remaining.clamp(0, limit) * WIDTH / limit) as usize } else { 0 };
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH as usize - full))
}

fn span(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

/// The spends, newest first, in columns that are as wide as what stands in them.
fn spends(answer: &Value, explained: Option<&str>) -> String {
    let spends = answer["spends"].as_array().map(Vec::as_slice).unwrap_or_default();
    if spends.is_empty() {
        return match explained {
            Some(image) => format!("No pull was spent on {image}.\n"),
            None => "\nNo pull was spent yet.\n".to_owned(),
        };
    }
    let mut rows = vec![["WHEN", "WHO", "CLASS", "ON WHAT", "WHY", "SHARED BY", "LEFT"].map(str::to_owned)];
    for spend in spends {
        let word = |key: &str| match &spend[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let reference = spend["tag"].as_str().map_or_else(|| word("reference"), str::to_owned);
        let separator = if reference.contains(':') { '@' } else { ':' };
        // A digest is distinguished by far less than its 64 digits.
        let reference: String = reference.chars().take(if separator == '@' { 19 } else { 128 }).collect();
        let what = format!("{}/{}{separator}{reference}", word("upstream"), word("repository"));
        let shared = spend["waiters"].as_u64().map_or_else(|| "-".to_owned(), |waiters| (waiters + 1).to_string());
        rows.push([word("at"), word("client"), word("class"), what, word("reason"), shared, word("remaining")]);
    }
    let gap = if explained.is_some() { "" } else { "\n" };
    gap.to_owned() + &table(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_is_printed_in_sentences() {
        let printed = identities(&json!({"identities": [
            {"upstream": "docker.io", "identity": "anonymous", "limit": 100, "remaining": 75, "window_seconds": 21600,
             "spent": 20, "external_spend": 5, "floors": {}, "metered": true, "next_at": "2026-11-21T18:00:00Z"},
            {"upstream": "ghcr.io", "identity": "anonymous", "limit": null, "remaining": null, "window_seconds": null,
             "spent": 1, "external_spend": 0, "floors": {}, "metered": false},
            {"upstream": "docker.io", "identity": "ci", "limit": 100, "remaining": 75, "window_seconds": 21600,
             "spent": 20, "external_spend": 5, "floors": {}, "metered": true, "next_at": null},
        ]}));
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[0], "docker.io as anonymous: 75 of 100 pulls left per 6h");
        assert_eq!(lines[1], "  [##############################..........]");
        assert!(lines[2].starts_with("  20 pulls spent by this mirror, 5 by others behind the same address"));
        assert_eq!(lines[3], "  the next pull comes back at 2026-11-21T18:00:00Z");
        assert_eq!(lines[4], "ghcr.io as anonymous: no limit was ever named; unmetered");
        assert_eq!(lines[5], "  1 pull spent by this mirror");
        assert_eq!(lines[8], "  20 pulls spent by this mirror, 5 by others who use the same account");
    }

    #[test]
    fn a_negative_budget_is_an_empty_bar() {
        assert_eq!(bar(-3, 100), format!("[{}]", ".".repeat(40)));
        assert_eq!(bar(0, -1), format!("[{}]", ".".repeat(40)));
    }

    #[test]
    fn spends_stand_in_columns() {
        let printed = spends(
            &json!({"spends": [
                {"at": "2026-11-21T12:00:00Z", "upstream": "docker.io", "identity": "anonymous", "repository": "library/busybox",
                 "reference": "latest", "client": "10.0.0.7", "class": "standard", "reason": "cold", "waiters": 59, "remaining": 99},
            ]}),
            None,
        );
        assert!(printed.contains("docker.io/library/busybox:latest  cold  60         99"), "{printed}");
    }
}
