//! `weir top`: how a running weir is at this moment, drawn anew on a terminal until `q`; printed once elsewhere.

mod screen;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use self::screen::Screen;
use super::{
    ask::{Admin, Ask},
    output::{bytes, entries, say},
    table::table,
};
use crate::config::{Config, Span};

/// Minutes of the small graphs.
const MINUTES: usize = 40;
/// Clients that are shown, at most.
const CLIENTS: usize = 100;

/// Where to ask, and how often.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to ask, from 1s to 25s
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = every)]
    every: Duration,
    /// Print what the API answers, once, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

fn every(text: &str) -> Result<Duration, String> {
    let Span(span) = text.parse::<Span>().map_err(|error| error.to_string())?;
    // What a terminal waits for a key at most, in tenths of a second, is a byte.
    match (1..=25).contains(&span.as_secs()) {
        true => Ok(span),
        false => Err("write 1s to 25s".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let ask = Ask::new(&arguments.admin, config)?;
    if arguments.json {
        return say(&format!("{:#}\n", read(&ask)?));
    }
    let screen = std::io::stdout().is_terminal().then(Screen::start).flatten();
    let Some(screen) = screen else {
        return say(&text(&read(&ask)?, None));
    };
    let mut before: Option<(Instant, Value)> = None;
    loop {
        let now = Instant::now();
        // It may be restarted: what is wrong is shown, and asked for again.
        match read(&ask) {
            Ok(answer) => {
                let earlier = before.as_ref().map(|(at, answer)| (now - *at, answer));
                screen.draw(&text(&answer, earlier))?;
                before = Some((now, answer));
            }
            Err(error) => {
                screen.draw(&format!("{error}\n"))?;
                before = None;
            }
        }
        if screen.is_left_within(arguments.every) {
            return Ok(());
        }
    }
}

/// What is shown, as one JSON object: `status`, `minutes` and `clients` of the API.
fn read(ask: &Ask) -> Result<Value, String> {
    let status = ask.json("GET", "/api/v1/status")?;
    let minutes = ask.json("GET", &format!("/api/v1/history?n={MINUTES}"))?["minutes"].take();
    let clients = ask.json("GET", &format!("/api/v1/clients?n={CLIENTS}"))?["clients"].take();
    Ok(json!({"status": status, "minutes": minutes, "clients": clients}))
}

/// All lines. Figures by the second are since `before`, an answer and its age, or of the newest minute.
fn text(answer: &Value, before: Option<(Duration, &Value)>) -> String {
    let status = &answer["status"];
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let uptime = Duration::from_secs(status["uptime_seconds"].as_u64().unwrap_or_default());
    let uptime = humantime::format_duration(uptime);
    let mut text = format!("weir {} is {}, up {uptime}\n", word(&status["version"]), word(&status["health"]));
    for reason in entries(status, "reasons") {
        text += &format!("  {}\n", word(reason));
    }
    text += "\n";
    let row = |name: &str, key: &str, show: &dyn Fn(f64) -> String| {
        let shown = rate(answer, before, key).map_or_else(|| "-".to_owned(), |rate| format!("{}/s", show(rate)));
        [name.to_owned(), shown, graph(entries(answer, "minutes"), key)]
    };
    let (count, volume) = (|rate: f64| format!("{rate:.1}"), |rate: f64| bytes(&json!(rate)));
    text += &table(&[
        row("requests", "requests", &count),
        row("denied", "denied", &count),
        row("failed", "failed", &count),
        row("sent", "sent_bytes", &volume),
        row("received", "received_bytes", &volume),
    ]);
    let ratio = status["hit_ratio"].as_f64().map_or("-".to_owned(), |ratio| format!("{:.1} %", 100.0 * ratio));
    let storage = &status["storage"];
    text += &format!(
        "\n{ratio} from the cache, {} blobs arriving, {} of {} on the disk, {} bans, {} pulls saved\n",
        status["fills"],
        bytes(&storage["used_bytes"]),
        bytes(&storage["capacity_bytes"]),
        status["bans"]["active"],
        status["saved"]
    );
    for left in entries(status, "budget") {
        let whose = format!("{} as {}", word(&left["upstream"]), word(&left["identity"]));
        text += &match (left["remaining"].as_i64(), left["limit"].as_i64()) {
            (Some(remaining), Some(limit)) => format!("{whose}: {remaining} of {limit} pulls left\n"),
            _ => format!("{whose}: no limit is known\n"),
        };
    }
    let clients = entries(answer, "clients");
    if !clients.is_empty() {
        let heading = ["CLIENT", "PULLS SPENT", "NEAREST THROTTLE", "BAN"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(heading).chain(clients.iter().map(client)).collect();
        text += &format!("\n{}", table(&rows));
    }
    text
}

/// What was counted in a second, lately.
fn rate(answer: &Value, before: Option<(Duration, &Value)>, key: &str) -> Option<f64> {
    if let Some((age, before)) = before {
        let [old, new] = [before, answer].map(|answer| answer["status"]["totals"][key].as_u64());
        // A Weir that was restarted counts from 0.
        return Some(new?.checked_sub(old?)? as f64 / age.as_secs_f64());
    }
    let minute = entries(answer, "minutes").last()?;
    Some(minute[key].as_f64()? / minute["seconds"].as_f64().filter(|seconds| *seconds > 0.0)?)
}

/// One character for each minute, oldest first, as high as the most of them.
fn graph(minutes: &[Value], key: &str) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = minutes.iter().map(|minute| minute[key].as_f64().unwrap_or_default()).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let height = |value: &f64| if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
    values.iter().map(|value| HEIGHTS[height(value).min(7)]).collect()
}

fn client(client: &Value) -> [String; 4] {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let part = |throttle: &&Value| {
        throttle["observed"].as_f64().unwrap_or_default() / throttle["limit"].as_f64().unwrap_or(f64::INFINITY)
    };
    let throttles = entries(client, "throttles").iter();
    let nearest = throttles.max_by(|one, other| part(one).total_cmp(&part(other)));
    let nearest = nearest.map_or_else(
        || "-".to_owned(),
        |throttle| format!("{} {} of {}", word(&throttle["name"]), throttle["observed"], throttle["limit"]),
    );
    [word(&client["client"]), client["upstream_spent"].to_string(), nearest, word(&client["ban"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(requests: u64) -> Value {
        json!({
            "status": {
                "health": "degraded", "reasons": ["upstream a: it is down\u{1b}[2J."], "version": "1", "uptime_seconds": 61,
                "totals": {"requests": requests}, "hit_ratio": 0.5, "fills": 2, "bans": {"active": 1}, "saved": 7,
                "storage": {"used_bytes": 1_500_000_000_u64, "capacity_bytes": 2_000_000_000_u64},
                "budget": [{"upstream": "docker.io", "identity": "anonymous", "remaining": 3, "limit": 100}],
            },
            "minutes": [{"requests": 0, "seconds": 60}, {"requests": 600, "seconds": 60}],
            "clients": [{
                "client": "10.0.0.7", "upstream_spent": 4, "ban": null, "throttles": [
                    {"name": "wide", "observed": 10, "limit": 1000}, {"name": "near", "observed": 9, "limit": 10},
                ],
            }],
        })
    }

    #[test]
    fn what_is_shown_is_what_the_api_says_with_rates_since_the_answer_before() {
        let once = text(&answer(600), None);
        assert!(once.starts_with("weir 1 is degraded, up 1m 1s\n  upstream a: it is down"), "{once}");
        assert!(once.contains("requests  10.0/s  ▁█\n"), "{once}");
        assert!(
            once.contains("50.0 % from the cache, 2 blobs arriving, 1.5 GB of 2.0 GB on the disk, 1 bans"),
            "{once}"
        );
        assert!(once.contains("docker.io as anonymous: 3 of 100 pulls left\n"), "{once}");
        assert!(once.contains("10.0.0.7  4            near 9 of 10      -\n"), "{once}");
        let earlier = answer(600);
        let again = text(&answer(606), Some((Duration::from_secs(2), &earlier)));
        assert!(again.contains("requests  3.0/s  ▁█\n"), "{again}");
        let restarted = text(&answer(1), Some((Duration::from_secs(2), &earlier)));
        assert!(restarted.contains("requests  -  "), "{restarted}");
    }

    #[test]
    fn the_pause_between_two_questions_is_bounded() {
        assert_eq!(every("5s"), Ok(Duration::from_secs(5)));
        for bad in ["0s", "26s", "1 fortnight"] {
            assert!(every(bad).is_err(), "{bad}");
        }
    }
}
