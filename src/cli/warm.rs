//! `weir cache warm`: fetching images before a client asks, and looking at how far that is.
//!
//! The work is a job of the running weir. The command that made it shows how it goes on, until it ends; when the command ends first, the job
//! does not.

use std::{
    io::{IsTerminal, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    ask::{Admin, Ask},
    output::bytes,
    say,
    table::table,
};
use crate::config::{self, Config};

/// How often it is looked how far a warm is: for people at once, for a log seldom.
const LOOK: Duration = Duration::from_millis(500);
/// The longest list of images that is read from a file.
const LONGEST_LIST: u64 = 2 << 20;
/// Cells of the progress bar.
const BAR: usize = 24;

/// A new warm.
#[derive(Debug, Args)]
pub(super) struct Warm {
    /// Images: busybox:1.36, ghcr.io/acme/app; latest when there is no tag
    #[arg(required_unless_present_any = ["file", "pinned", "pulled_within"])]
    images: Vec<String>,
    /// A file of images, one a line; what follows # is a comment; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Platforms, such as linux/amd64,linux/arm64; all that an image has when absent, and each costs a pull
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,
    /// The images that pins name, and those that are cached of what pins cover
    #[arg(long)]
    pinned: bool,
    /// What clients pulled in so long: 7d
    #[arg(long, value_name = "TIME")]
    pulled_within: Option<String>,
    /// Do not wait: print the number of the warm, which goes on by itself
    #[arg(long)]
    detach: bool,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    reason: String,
    /// Print what the API answers at the end, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

/// A look at warms.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The number of a warm; all that are known when absent
    id: Option<u64>,
    /// Wait until it ends
    #[arg(long, requires = "id")]
    follow: bool,
    /// Print what the API answers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

/// The end of a warm.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The number of the warm
    id: u64,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    reason: String,
    /// Print what the API answers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

impl Warm {
    pub(super) fn run(&self, config: &Config) -> Result<(), String> {
        let mut images = self.images.clone();
        if let Some(file) = &self.file {
            images.extend(read_list(file)?);
            if images.is_empty() && !self.pinned && self.pulled_within.is_none() {
                return Err(format!("{}: it names no image; write one a line", file.display()));
            }
        }
        let ask = Ask::new(&self.admin, config)?;
        let body = json!({
            "images": images,
            "platforms": self.platforms,
            "pinned": self.pinned,
            "pulled_within": self.pulled_within,
            "reason": self.reason,
        });
        let job = ask.send_json("POST", "/api/v1/cache/warm", body.to_string())?;
        match (self.detach, self.json) {
            (true, true) => say(&format!("{job:#}\n")),
            (true, false) => say(&format!("{}\n", job["id"])),
            (false, _) => follow(&ask, &job, self.json),
        }
    }
}

impl Status {
    pub(super) fn run(&self, config: &Config) -> Result<(), String> {
        let ask = Ask::new(&self.admin, config)?;
        let Some(id) = self.id else {
            let answer = ask.json("GET", "/api/v1/cache/warm")?;
            return say(&if self.json { format!("{answer:#}\n") } else { jobs(&answer) });
        };
        let job = ask.json("GET", &format!("/api/v1/cache/warm/{id}"))?;
        if self.follow {
            return follow(&ask, &job, self.json);
        }
        say(&if self.json { format!("{job:#}\n") } else { lines(&job).concat() + &summary(&job) })?;
        verdict(&job)
    }
}

impl Cancel {
    pub(super) fn run(&self, config: &Config) -> Result<(), String> {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("reason", &self.reason).finish();
        let path = format!("/api/v1/cache/warm/{}?{query}", self.id);
        let job = Ask::new(&self.admin, config)?.json("DELETE", &path)?;
        say(&if self.json { format!("{job:#}\n") } else { summary(&job) })
    }
}

/// The images of a file.
fn read_list(file: &Path) -> Result<Vec<String>, String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(LONGEST_LIST).read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|opened| opened.take(LONGEST_LIST).read_to_string(&mut text)),
    };
    read.map_err(|error| format!("{}: {error}; name a readable list of images", file.display()))?;
    if text.len() as u64 == LONGEST_LIST {
        return Err(format!("{}: it is longer than 2 MiB; write several lists", file.display()));
    }
    Ok(config::read_list(&text))
}

/// Shows how a job goes on until it ends: a bar on a terminal, else a line for each image that is settled or begins to wait.
fn follow(ask: &Ask, job: &Value, as_json: bool) -> Result<(), String> {
    let (id, is_terminal) = (&job["id"], std::io::stderr().is_terminal());
    let path = format!("/api/v1/cache/warm/{id}");
    if !as_json {
        say(&format!("warm {id}: {}; it goes on without this command: weir cache warm-status {id}\n", images(job)))?;
    }
    let (mut since, mut shown) = (0, Vec::new());
    loop {
        let job = ask.json("GET", &format!("{path}?since={since}"))?;
        since = job["version"].as_u64().unwrap_or_default();
        if !as_json {
            if is_terminal {
                // The line of the progress.
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
            for line in lines(&job).into_iter().filter(|line| !line.starts_with("pending")) {
                // A wait whose forecast moved is no news.
                let about = line.split(" until ").next().unwrap_or_default().to_owned();
                if !shown.contains(&about) {
                    say(&line)?;
                    shown.push(about);
                }
            }
        }
        if job["state"] != "open" {
            let whole = ask.json("GET", &path)?;
            say(&if as_json { format!("{whole:#}\n") } else { summary(&whole) })?;
            return verdict(&whole);
        }
        if is_terminal && !as_json {
            // A terminal that has gone shows nothing.
            let _ = write!(std::io::stderr(), "{}", bar(&job));
        }
        std::thread::sleep(LOOK);
    }
}

/// One line that is written over.
fn bar(job: &Value) -> String {
    let count = |key: &str| usize::try_from(job["counts"][key].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
    let all = usize::try_from(job["images"].as_u64().unwrap_or(1)).unwrap_or(usize::MAX).max(1);
    let settled =
        ["here", "fetched", "refused", "evicted"].map(count).into_iter().fold(0, usize::saturating_add).min(all);
    let full = settled.saturating_mul(BAR) / all;
    let mut text = format!("[{}{}] {settled} of {all} images, ", "#".repeat(full), "-".repeat(BAR - full));
    text += &bytes(&job["bytes"]);
    if let Some(until) = job["waits_until"].as_str() {
        text += &format!("; {} wait until {until}", count("waiting"));
    }
    text
}

/// A line for each image that the answer holds.
fn lines(job: &Value) -> Vec<String> {
    let results = job["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |result: &Value| {
        let word = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
        let (state, image, why) = (word("state"), word("image"), word("why"));
        let rest = match &*state {
            "here" => " was here already".to_owned(),
            "fetched" if result["manifests"] == 1 => {
                format!(": {} in 1 manifest and its layers", bytes(&result["bytes"]))
            }
            "fetched" => format!(": {} in {} manifests and their layers", bytes(&result["bytes"]), result["manifests"]),
            "waiting" if result["budget"] == true => format!(" waits for budget until {}: {why}", word("until")),
            "waiting" => format!(" is tried again, it waits until {}: {why}", word("until")),
            "refused" | "evicted" => format!(": {why}"),
            _ => String::new(),
        };
        format!("{state:8} {image}{rest}\n")
    };
    results.iter().map(line).collect()
}

fn images(job: &Value) -> String {
    format!("{} {}", job["images"], if job["images"] == 1 { "image" } else { "images" })
}

fn summary(job: &Value) -> String {
    let count = |key: &str| job["counts"][key].as_u64().unwrap_or_default();
    let counts = ["fetched", "here", "waiting", "pending", "refused", "evicted"].map(|key| (key, count(key)));
    let counts: Vec<String> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(key, count)| format!("{count} {key}")).collect();
    let state = job["state"].as_str().unwrap_or_default();
    format!("warm {} is {state}: of {} {}; {} came\n", job["id"], images(job), counts.join(", "), bytes(&job["bytes"]))
}

/// Success only when every image is here.
fn verdict(job: &Value) -> Result<(), String> {
    match (job["complete"] == true, job["state"] == "open") {
        (true, _) => Ok(()),
        (false, true) => Err("it is not done; weir cache warm-status --follow waits for it".to_owned()),
        (false, false) => Err("not every image is here".to_owned()),
    }
}

fn jobs(answer: &Value) -> String {
    let warms = answer["warms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |job: &Value| {
        let word = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
        let here = ["here", "fetched"].iter().filter_map(|key| job["counts"][*key].as_u64()).sum::<u64>();
        let waits = job["waits_until"].as_str().map(|until| format!("waits until {until}")).unwrap_or_default();
        [
            job["id"].to_string(),
            word("state"),
            format!("{here} of {}", job["images"]),
            bytes(&job["bytes"]),
            word("by"),
            word("made_at"),
            waits,
        ]
    };
    if warms.is_empty() {
        return "there is no warm\n".to_owned();
    }
    let heading = ["WARM", "STATE", "HERE", "CAME", "BY", "MADE", ""].map(str::to_owned);
    table(&std::iter::once(heading).chain(warms.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_what_is_settled_of_all_and_until_when_the_rest_waits() {
        let mut job = json!({
            "images": 8,
            "bytes": 3_200_000,
            "counts": {"fetched": 2, "here": 1, "refused": 1, "evicted": 0, "waiting": 3, "pending": 1},
        });
        let half = "#".repeat(BAR / 2) + &"-".repeat(BAR / 2);
        assert_eq!(bar(&job), format!("[{half}] 4 of 8 images, 3.2 MB"));
        job["waits_until"] = "2026-11-30T02:00:00Z".into();
        assert!(bar(&job).ends_with(" MB; 3 wait until 2026-11-30T02:00:00Z"), "{}", bar(&job));
        // An answer that makes no sense is no reason to end.
        for (images, counts) in [(0, json!({})), (1, json!({"here": u64::MAX, "fetched": 1})), (1, Value::Null)] {
            let line = bar(&json!({"images": images, "counts": counts}));
            let cells = line.chars().filter(|cell| "#-".contains(*cell)).count();
            assert_eq!(cells, BAR, "{line}");
        }
    }
}
