//! `weir throttle`: what the throttles have matched, and the way in for an operator that they shut out.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{Ask, Output};
use crate::{config::Config, limits::words};

/// What to do about throttles.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// Why.
#[derive(Debug, Args)]
struct Reason {
    /// The reason, which the audit keeps
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List throttles, and what each denied or would have denied
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Switch throttles off until the next start
    Off {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        reason: Reason,
        #[command(flatten)]
        output: Output,
    },
    /// Let throttles only count, until the next start
    DryRun {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        reason: Reason,
        #[command(flatten)]
        output: Output,
    },
    /// Let throttles act, until the next start
    Enforce {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        reason: Reason,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let (name, mode, reason, output) = match &arguments.what {
        What::List { output } => {
            let throttles = Ask::new(&output.admin, config)?.json("GET", "/api/v1/throttles")?;
            return output.print(&throttles, table);
        }
        What::Off { name, reason, output } => (name, "off", reason, output),
        What::DryRun { name, reason, output } => (name, "dry_run", reason, output),
        What::Enforce { name, reason, output } => (name, "enforce", reason, output),
    };
    let body = json!({"name": name, "mode": mode, "reason": reason.reason}).to_string();
    let throttles = Ask::new(&output.admin, config)?.send_json("POST", "/api/v1/throttles", body)?;
    output.print(&throttles, table)
}

fn table(throttles: &Value) -> String {
    let throttles = throttles["throttles"].as_array().map(Vec::as_slice).unwrap_or_default();
    if throttles.is_empty() {
        return "no throttle is configured\n".to_owned();
    }
    let mut text = String::new();
    for throttle in throttles {
        let word = |key: &str| throttle[key].as_str().unwrap_or_default();
        let number = |key: &str| throttle[key].as_u64().unwrap_or_default();
        let switched = if throttle["switched"] == true { ", switched by hand" } else { "" };
        text += &format!(
            "{} ({}{switched}): {} in {}\n",
            word("name"),
            word("mode").replace('_', " "),
            words::grouped(number("requests_per_period"), ','),
            words::span(number("period_in_seconds")),
        );
        text += &format!(
            "  denied {} requests, would have denied {} requests, of {} clients\n",
            throttle["denied"], throttle["would_have_denied"], throttle["clients"],
        );
    }
    text
}
