//! `weir status`: whether a running weir is well, and why not. `weir healthcheck`: whether it answers, for a container's health check.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{
    Failure,
    ask::{Admin, Ask},
    output::{bytes, entries, say},
    table::table,
};
use crate::config::Config;

/// Where to ask, and how to print.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print what the API answers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

/// Where to ask.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Fail also while it drains and wants no further requests
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    admin: Admin,
}

/// Prints the status. The exit status is 0 when all is well, 1 when something is not, 2 when no weir answers.
pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let unanswered = |reason| Failure { reason, status: 2 };
    let ask = Ask::new(&arguments.admin, config).map_err(unanswered)?;
    let status = ask.json("GET", "/api/v1/status").map_err(unanswered)?;
    say(&if arguments.json { format!("{status:#}\n") } else { text(&status) })?;
    match status["health"].as_str() {
        Some("healthy") => Ok(()),
        word => Err(format!("it is {}", word.unwrap_or("in a state that this version does not know")).into()),
    }
}

/// Prints nothing when the listener answers.
pub(super) fn healthcheck(arguments: &HealthArguments, config: &Config) -> Result<(), String> {
    let path = if arguments.ready { "/readyz" } else { "/healthz" };
    Ask::new(&arguments.admin, config)?.json("GET", path).map(drop)
}

fn text(status: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let uptime = humantime::format_duration(Duration::from_secs(number(&status["uptime_seconds"])));
    let mut text = format!("{} (weir {}, up {uptime})\n", word(&status["health"]), word(&status["version"]));
    for reason in entries(status, "reasons") {
        text += &format!("  {}\n", word(reason));
    }
    let (totals, storage) = (&status["totals"], &status["storage"]);
    let percent = |value: &Value| value.as_f64().map_or("-".to_owned(), |ratio| format!("{:.1} %", 100.0 * ratio));
    let ratios = [percent(&status["hit_ratio"]), percent(&status["byte_hit_ratio"])];
    let budget = entries(status, "budget").iter().map(|left| {
        let whose = format!("{} as {}", word(&left["upstream"]), word(&left["identity"]));
        let left = match (left["remaining"].as_i64(), left["limit"].as_i64()) {
            (Some(remaining), Some(limit)) => format!("{remaining} of {limit} pulls left"),
            _ => "no limit is known".to_owned(),
        };
        [whose, left]
    });
    let used = format!("{} of {}", bytes(&storage["used_bytes"]), bytes(&storage["capacity_bytes"]));
    let rows = [
        [
            "requests".to_owned(),
            format!("{}, {} denied, {} failed", totals["requests"], totals["denied"], totals["failed"]),
        ],
        ["from the cache".to_owned(), format!("{} of answers, {} of bytes", ratios[0], ratios[1])],
        ["sent".to_owned(), bytes(&totals["sent_bytes"])],
        ["received".to_owned(), bytes(&totals["received_bytes"])],
        ["saved".to_owned(), format!("{} pulls since {}", status["saved"], word(&status["saved_since"]))],
        ["arriving".to_owned(), format!("{} blobs", status["fills"])],
        ["disk".to_owned(), used],
        ["bans".to_owned(), format!("{} in force", status["bans"]["active"])],
        [
            "last hour".to_owned(),
            format!("{} requests denied, {} bans", status["last_hour"]["denied"], status["last_hour"]["bans"]),
        ],
    ];
    let upstreams = entries(status, "upstreams").iter().map(|upstream| {
        let state = upstream["problem"].as_str().map_or("works".to_owned(), |why| format!("fails: {why}"));
        let latency = upstream["mean_seconds"].as_f64().map_or(String::new(), |mean| {
            format!(", {:.1} ms on average of {} requests", mean * 1e3, upstream["requests"])
        });
        [format!("upstream {}", word(&upstream["name"])), state + &latency]
    });
    text + &table(&rows.into_iter().chain(upstreams).chain(budget).collect::<Vec<_>>())
}
