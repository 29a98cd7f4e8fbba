//! `weir ban`: which clients are banned and why; bans, lifts, export and import, over the local socket.

use std::{io::Read as _, path::PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    ask::{Admin, Ask, Output},
    say,
    table::table,
};
use crate::config::Config;

/// What to do about bans.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List bans, newest first
    List {
        /// Only those caused by requests to this namespace, such as library/
        #[arg(long)]
        namespace: Option<String>,
        /// Only those that this client would meet
        #[arg(long)]
        client: Option<String>,
        /// Also those that ended
        #[arg(long)]
        ended: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show one ban with its evidence, as JSON
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Ban an address, a network or an account
    Add {
        /// An address, a CIDR, or the name of an account
        client: String,
        /// For how long, such as 1h; 30 days at most
        #[arg(long, default_value = "1h")]
        duration: String,
        /// The reason, which the audit keeps
        #[arg(long, default_value = "")]
        reason: String,
        /// Though it is wider than a /24 (or /48), contains this machine or your own address, or is an account that is not configured
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Lift a ban
    Lift {
        /// Its id
        id: String,
        /// The reason, which the audit keeps
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// Print all bans as JSON, for another weir
    Export {
        #[command(flatten)]
        admin: Admin,
    },
    /// Take over the bans of another weir
    Import {
        /// The file; standard input when it is -
        file: PathBuf,
        /// Though some are wide, or contain this machine or your own address
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    match &arguments.what {
        What::List { namespace, client, ended, output } => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            for (key, value) in [("namespace", namespace), ("client", client)] {
                if let Some(value) = value {
                    query.append_pair(key, value);
                }
            }
            if *ended {
                query.append_pair("ended", "true");
            }
            let bans = Ask::new(&output.admin, config)?.json("GET", &format!("/api/v1/bans?{}", query.finish()))?;
            output.print(&bans, list)
        }
        What::Show { id, admin } => {
            let ban = Ask::new(admin, config)?.json("GET", &format!("/api/v1/bans/{id}"))?;
            say(&format!("{ban:#}\n"))
        }
        What::Add { client, duration, reason, force, output } => {
            let body = json!({"client": client, "duration": duration, "reason": reason, "force": force});
            let ban = Ask::new(&output.admin, config)?.send_json("POST", "/api/v1/bans", body.to_string())?;
            output.print(&ban, added)
        }
        What::Lift { id, reason, output } => {
            let body = json!({"reason": reason}).to_string();
            let ban = Ask::new(&output.admin, config)?.send_json("POST", &format!("/api/v1/bans/{id}/lift"), body)?;
            output.print(&ban, |ban| format!("the ban of {} (id {id}) is lifted\n", word(ban, "client")))
        }
        What::Export { admin } => {
            let bans = Ask::new(admin, config)?.json("GET", "/api/v1/bans/export")?;
            say(&format!("{bans:#}\n"))
        }
        What::Import { file, force, output } => {
            let json = if file.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map(|_| text)
            } else {
                std::fs::read_to_string(file)
            };
            let json = json.map_err(|error| format!("{}: {error}", file.display()))?;
            let path = format!("/api/v1/bans/import?force={force}");
            let done = Ask::new(&output.admin, config)?.send_json("POST", &path, json)?;
            output.print(&done, |done| format!("{} bans taken over\n", done["imported"]))
        }
    }
}

fn added(ban: &Value) -> String {
    let [client, until, id] = ["client", "until", "id"].map(|key| word(ban, key));
    let replaced = ban["replaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let replaced = replaced.iter().map(|old| {
        format!("it replaces ban {}, which would have lasted until {}\n", word(old, "id"), word(old, "until"))
    });
    format!("{client} is banned until {until} (id {id})\n{}", replaced.collect::<String>())
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(bans: &Value) -> String {
    let bans = bans["bans"].as_array().map(Vec::as_slice).unwrap_or_default();
    if bans.is_empty() {
        return "no client is banned\n".to_owned();
    }
    let mut rows = vec![["id", "client", "until", "level", "rule", "reason"].map(str::to_owned)];
    for ban in bans {
        let dry = if ban["simulated"] == true { " (dry run)" } else { "" };
        let lifted = if ban["lifted"].is_object() { " (lifted)" } else { "" };
        let [id, client, until, rule, reason] = ["id", "client", "until", "rule", "reason"].map(|key| word(ban, key));
        let [id, client, until, rule] = [id, client, until, rule].map(str::to_owned);
        rows.push([id, client, until, ban["rung"].to_string(), rule, format!("{reason}{dry}{lifted}")]);
    }
    table(&rows)
}
