//! `weir throttle`: what the throttles have matched, and the way in for an operator that they shut out.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    ask::{Admin, Ask},
    say,
};
use crate::config::Config;

/// What to do about throttles.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List throttles, and what each denied or would have denied
    List {
        /// Print what the API answers, as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Switch throttles off until the next start
    Off {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Let throttles only count, until the next start
    DryRun {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Let throttles act, until the next start
    Enforce {
        /// A name, the beginning of names such as throttle_unauthenticated, or *
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let (name, mode, admin) = match &arguments.what {
        What::List { json, admin } => {
            let throttles = Ask::new(admin, config)?.json("GET", "/api/v1/throttles")?;
            return say(&if *json { format!("{throttles:#}\n") } else { table(&throttles) });
        }
        What::Off { name, admin } => (name, "off", admin),
        What::DryRun { name, admin } => (name, "dry_run", admin),
        What::Enforce { name, admin } => (name, "enforce", admin),
    };
    let body = json!({"name": name, "mode": mode}).to_string();
    let throttles = Ask::new(admin, config)?.send_json("POST", "/api/v1/throttles", body)?;
    say(&table(&throttles))
}

fn table(throttles: &Value) -> String {
    let throttles = throttles["throttles"].as_array().map(Vec::as_slice).unwrap_or_default();
    if throttles.is_empty() {
        return "no throttle is configured\n".to_owned();
    }
    let mut text = String::new();
    for throttle in throttles {
        let word = |key: &str| throttle[key].as_str().unwrap_or_default();
        let switched = if throttle["switched"] == true { ", switched by hand" } else { "" };
        text += &format!(
            "{} ({}{switched}): {} in {} s\n",
            word("name"),
            word("mode"),
            throttle["requests_per_period"],
            throttle["period_in_seconds"],
        );
        text += &format!(
            "  denied {} requests, would have denied {} requests, of {} clients\n",
            throttle["denied"], throttle["would_have_denied"], throttle["clients"],
        );
    }
    text
}
