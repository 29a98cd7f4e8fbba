//! `weir image`: what rules say of a cached image, what was found, and how to mend it.
//!
//! Exits with 0 when no rule is broken, 1 when one is, and 2 when it could not look.

use clap::Args;
use serde_json::Value;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{
    Failure,
    ask::{Ask, Output},
    output::{entries, say},
    scanner::scan,
    table::table,
};
use crate::config::Config;

/// Which image, and how to print.
#[derive(Debug, Args)]
pub struct Arguments {
    /// As in an image name: busybox:1.36, ghcr.io/acme/app; latest when there is no tag
    name: String,
    /// Only the manifest for this platform, as linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// How long to wait for layers that were not looked at yet; at most 55s
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: String,
    /// Run the scanner of scanner.command over it first, and keep what that says
    #[arg(long)]
    scanner: bool,
    /// Print the rules that it breaks as SARIF, for the pages of code scanning
    #[arg(long, conflicts_with = "json")]
    sarif: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let unanswered = |reason| Failure { reason, status: 2 };
    let ask = Ask::new(&arguments.output.admin, config).map_err(unanswered)?;
    let name: String = byte_serialize(arguments.name.as_bytes()).collect();
    let mut query = Serializer::new(String::new());
    query.append_pair("wait", &arguments.wait);
    let mut platform = String::new();
    if let Some(wanted) = &arguments.platform {
        query.append_pair("platform", wanted);
        platform = format!("?{}", Serializer::new(String::new()).append_pair("platform", wanted).finish());
    }
    if arguments.sarif {
        query.append_pair("format", "sarif");
    }
    let path = format!("/api/v1/images/{name}?{}", query.finish());
    if arguments.scanner {
        let report = ask.json("GET", &format!("/api/v1/images/{name}{platform}")).map_err(unanswered)?;
        scan(&ask, &config.scanner, &report).map_err(unanswered)?;
    }
    let report = ask.json("GET", &path).map_err(unanswered)?;
    if arguments.sarif {
        say(&format!("{report:#}\n"))?;
        let broken = entries(&report["runs"][0], "results").len();
        return if broken == 0 { Ok(()) } else { Err(broken_rules(broken).into()) };
    }
    arguments.output.print(&report, text)?;
    let verdicts = entries(&report, "platforms").iter().flat_map(|platform| entries(platform, "verdicts"));
    match verdicts.filter(|verdict| verdict["outcome"] == "fail").count() {
        0 => Ok(()),
        count => Err(broken_rules(count).into()),
    }
}

fn broken_rules(count: usize) -> String {
    if count == 1 { "1 rule is broken".to_owned() } else { format!("{count} rules are broken") }
}

fn text(report: &Value) -> String {
    // A platform is the publisher's text, which may hold what moves a cursor.
    let word = |value: &Value| value.as_str().unwrap_or("-").replace(char::is_control, "?");
    let mut text = format!("{} {}\n", word(&report["name"]), word(&report["digest"]));
    if report["policy"].is_string() {
        text += &format!("thresholds of the policy {}\n", word(&report["policy"]));
    }
    for platform in entries(report, "platforms") {
        text += &format!("{} {}\n", word(&platform["platform"]), word(&platform["digest"]));
        let mut rows = Vec::new();
        for verdict in entries(platform, "verdicts") {
            let outcome = word(&verdict["outcome"]);
            rows.push([format!("  {outcome}"), word(&verdict["rule"]), word(&verdict["finding"])]);
            if outcome == "fail" {
                rows.push([String::new(), String::new(), format!("mend: {}", word(&verdict["mend"]))]);
            }
        }
        text += &table(&rows);
    }
    text
}
