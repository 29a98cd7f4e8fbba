//! `weir cache`: what a running weir has cached, and what is to be kept or removed.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::{
    ask::{Ask, Output, repository_and_reference, split_reference},
    export, import,
    output::{bytes, entries},
    say,
    table::table,
    warm,
};
use crate::config::Config;

/// What to do about the cache.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List cached images, with how much of each is here
    List {
        /// A pattern such as docker.io/library/*, or a part of a name
        pattern: Option<String>,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        output: Output,
    },
    /// List registries, or the repositories of one, with their images and bytes
    Repositories {
        /// As docker.io; hosted is what is hosted here
        registry: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show one image: its platforms and objects, and what it shares
    Show {
        /// As in an image name: busybox:1.36, ghcr.io/acme/app; latest when there is no tag
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Remove images from the cache, with the bytes that no other image needs
    Purge(Purge),
    /// Keep the images of a pattern from eviction
    Pin {
        /// Such as docker.io/library/*
        pattern: String,
        /// Why, for the audit
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let the images of a pattern be evicted again
    Unpin {
        /// The pattern as it was pinned
        pattern: String,
        /// Why, for the audit
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// Ask upstream what a tag names now, and fetch its manifests when it moved
    Refresh {
        /// An image: busybox:1.36, ghcr.io/acme/app; latest when there is no tag
        image: String,
        /// Why, for the audit
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        output: Output,
    },
    /// Fetch images before a client asks, with pulls that no client is expected to need
    Warm(warm::Warm),
    /// Show warms, or one with what became of each image; fails when that is not all here
    WarmStatus(warm::Status),
    /// End a warm; what came stays
    WarmCancel(warm::Cancel),
    /// Write cached images to an OCI image layout, for a site without a network
    Export(export::Arguments),
    /// Take images in from an OCI image layout, verified, under the names that it gives them
    Import(import::Arguments),
    /// List what is pinned
    Pins {
        #[command(flatten)]
        output: Output,
    },
    /// List what allow and deny of the upstreams refuse, with how many requests they refused
    Rules {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Only images of which something is missing
    #[arg(long)]
    incomplete: bool,
    /// Only tags of which upstream is asked before they are answered
    #[arg(long)]
    stale: bool,
    /// Only what eviction leaves alone
    #[arg(long)]
    pinned: bool,
    /// Only of this registry; hosted is what is hosted here
    #[arg(long)]
    registry: Option<String>,
    /// Only images of this platform, as linux/arm64 with all its variants
    #[arg(long)]
    platform: Option<String>,
    /// Only what a client pulled in this time, as 12h
    #[arg(long)]
    pulled_within: Option<String>,
    /// Only what no client pulled in this time, as 30d
    #[arg(long)]
    not_pulled_within: Option<String>,
    /// Only what came into the cache longer ago, as 90d
    #[arg(long)]
    not_arrived_within: Option<String>,
    /// By name, size, last_pull, or idle for what was not pulled for longest; all but name give the first 100
    #[arg(long)]
    sort: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    limit: Option<u16>,
}

impl Filter {
    fn pairs(&self) -> Vec<(&str, &str)> {
        let options = [
            ("registry", &self.registry),
            ("platform", &self.platform),
            ("pulled_within", &self.pulled_within),
            ("not_pulled_within", &self.not_pulled_within),
            ("not_arrived_within", &self.not_arrived_within),
            ("sort", &self.sort),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let flags = [
            (self.incomplete, ("complete", "false")),
            (self.stale, ("stale", "true")),
            (self.pinned, ("pinned", "true")),
        ];
        given.chain(flags.into_iter().filter_map(|(is_set, pair)| is_set.then_some(pair))).collect()
    }
}

#[derive(Debug, Args)]
struct Purge {
    /// A repository, an image, a digest, or a pattern with a star: busybox, ghcr.io/acme/app:1, docker.io/acme/*
    #[arg(required_unless_present_any = ["all", "registry", "older_than", "not_arrived_within"], conflicts_with = "all")]
    what: Option<String>,
    /// Only of this registry, as docker.io
    #[arg(long, conflicts_with = "all")]
    registry: Option<String>,
    /// Only what no client pulled for so long, as 30d; of a pattern, or of everything
    #[arg(long, conflicts_with = "all")]
    older_than: Option<String>,
    /// Only what came into the cache longer ago, as 90d, however often it is pulled
    #[arg(long, conflicts_with = "all")]
    not_arrived_within: Option<String>,
    /// Everything that is cached
    #[arg(long)]
    all: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    match &arguments.what {
        What::List { pattern, filter, output } => list(pattern.as_deref(), filter, output, config),
        What::Repositories { registry, output } => match registry {
            None => {
                output.print(&Ask::new(&output.admin, config)?.json("GET", "/api/v1/cache/registries")?, registries)
            }
            Some(registry) => repositories(registry, output, config),
        },
        What::Show { name, output } => {
            let path = format!("/api/v1/cache/image?{}", repository_and_reference(name));
            output.print(&Ask::new(&output.admin, config)?.json("GET", &path)?, shown)
        }
        What::Purge(purge) => {
            let answer = Ask::new(&purge.output.admin, config)?.json("DELETE", &purge.path())?;
            purge.output.print(&answer, |purged| removed(purged, purge.dry_run))
        }
        What::Pin { pattern, reason, output } => {
            let body = json!({"pattern": pattern, "reason": reason}).to_string();
            output.print(&Ask::new(&output.admin, config)?.send_json("POST", "/api/v1/cache/pins", body)?, pinned)
        }
        What::Unpin { pattern, reason, output } => {
            let path = format!("/api/v1/cache/pins?{}", query(&[("pattern", pattern), ("reason", reason)]));
            output.print(&Ask::new(&output.admin, config)?.json("DELETE", &path)?, pins)
        }
        What::Refresh { image, reason, output } => {
            let (repository, reference) = split_reference(image);
            let body = json!({"repository": repository, "reference": reference.unwrap_or("latest"), "reason": reason});
            let ask = Ask::new(&output.admin, config)?;
            output.print(&ask.send_json("POST", "/api/v1/cache/refresh", body.to_string())?, refreshed)
        }
        What::Warm(new) => new.run(config),
        What::WarmStatus(status) => status.run(config),
        What::WarmCancel(cancel) => cancel.run(config),
        What::Export(arguments) => export::run(arguments, config),
        What::Import(arguments) => import::run(arguments, config),
        What::Pins { output } => {
            output.print(&Ask::new(&output.admin, config)?.json("GET", "/api/v1/cache/pins")?, pins)
        }
        What::Rules { output } => {
            output.print(&Ask::new(&output.admin, config)?.json("GET", "/api/v1/cache/rules")?, rules)
        }
    }
}

impl Purge {
    fn path(&self) -> String {
        let what = self.what.as_deref().unwrap_or_default();
        let is_of_many = [&self.registry, &self.older_than, &self.not_arrived_within].iter().any(|it| it.is_some());
        let selection = match what {
            _ if self.all => query(&[("all", "true")]),
            "" => String::new(),
            what if what.contains('*') || is_of_many => query(&[("pattern", what)]),
            what if what.starts_with("sha256:") || what.starts_with("sha512:") => query(&[("digest", what)]),
            what => repository_and_reference(what),
        };
        let dry_run = if self.dry_run { "&dry_run=true" } else { "" };
        let many = [
            ("registry", &self.registry),
            ("older_than", &self.older_than),
            ("not_arrived_within", &self.not_arrived_within),
        ];
        let many = many.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let rest = query(&many.chain([("reason", &*self.reason)]).collect::<Vec<_>>());
        format!("/api/v1/cache?{selection}{dry_run}&{rest}")
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// As many images as the API gives in one answer.
const LARGEST_PAGE: usize = 1000;

/// Asks page by page, and prints each as it comes.
fn list(pattern: Option<&str>, filter: &Filter, output: &Output, config: &Config) -> Result<(), String> {
    let ask = Ask::new(&output.admin, config)?;
    let (mut last, mut left) = (String::new(), filter.limit.map(usize::from));
    loop {
        let mut pairs = vec![("pattern", pattern.unwrap_or_default()), ("last", &last)];
        pairs.extend(filter.pairs());
        let size = left.map(|left| left.min(LARGEST_PAGE).to_string());
        pairs.extend(size.as_deref().map(|size| ("n", size)));
        let page = ask.json("GET", &format!("/api/v1/cache?{}", query(&pairs)))?;
        let images = entries(&page, "images");
        match (images, last.is_empty()) {
            ([], true) if !output.json => say(match (page["counted"] == true, pattern) {
                (false, _) => "what is cached is still being counted; try again in a minute\n",
                (true, None) if filter.pairs().is_empty() => "nothing is cached\n",
                (true, _) => "nothing of it is cached\n",
            })?,
            _ if output.json => say(&images.iter().map(|image| format!("{image}\n")).collect::<String>())?,
            (images, first) => {
                let heading = ["IMAGE", "SIZE", "HERE", "PLATFORMS", "SINCE", "FRESH", "PINNED"].map(str::to_owned);
                let rows: Vec<_> = first.then_some(heading).into_iter().chain(images.iter().map(row)).collect();
                say(&table(&rows))?;
            }
        }
        left = left.map(|left| left.saturating_sub(images.len()));
        match page["next"].as_str() {
            Some(next) if left != Some(0) => last = next.to_owned(),
            _ => return Ok(()),
        }
    }
}

fn registries(answer: &Value) -> String {
    let row = |registry: &Value| {
        let number = |key: &str| registry[key].as_u64().unwrap_or_default().to_string();
        let name = registry["registry"].as_str().unwrap_or_default().to_owned();
        [name, number("repositories"), number("images"), bytes(&registry["bytes"])]
    };
    let heading = ["REGISTRY", "REPOSITORIES", "IMAGES", "HERE"].map(str::to_owned);
    let rows: Vec<_> = [heading].into_iter().chain(entries(answer, "registries").iter().map(row)).collect();
    if rows.len() == 1 { "nothing is cached\n".to_owned() } else { table(&rows) }
}

fn repositories(registry: &str, output: &Output, config: &Config) -> Result<(), String> {
    let ask = Ask::new(&output.admin, config)?;
    let (mut last, heading) = (String::new(), ["REPOSITORY", "IMAGES", "HERE"].map(str::to_owned));
    loop {
        let pairs = [("registry", registry), ("last", &last)];
        let page = ask.json("GET", &format!("/api/v1/cache/repositories?{}", query(&pairs)))?;
        let row = |it: &Value| {
            let name = it["name"].as_str().unwrap_or_default().to_owned();
            [name, it["images"].as_u64().unwrap_or_default().to_string(), bytes(&it["bytes"])]
        };
        let found = entries(&page, "repositories");
        say(&match (output.json, found.is_empty() && last.is_empty()) {
            (true, _) => found.iter().map(|it| format!("{it}\n")).collect(),
            (false, true) => "nothing of it is cached\n".to_owned(),
            (false, false) => {
                let heading = last.is_empty().then(|| heading.clone());
                table(&heading.into_iter().chain(found.iter().map(row)).collect::<Vec<_>>())
            }
        })?;
        match page["next"].as_str() {
            Some(next) => last = next.to_owned(),
            None => return Ok(()),
        }
    }
}

fn row(image: &Value) -> [String; 7] {
    let platforms = entries(image, "platforms");
    let complete = platforms.iter().filter(|platform| platform["complete"] == true).count();
    [
        image["name"].as_str().unwrap_or_default().to_owned(),
        bytes(&image["size"]),
        if image["complete"] == true { "all".to_owned() } else { bytes(&image["here"]) },
        if platforms.is_empty() { String::new() } else { format!("{complete} of {}", platforms.len()) },
        // The day suffices in a list.
        image["arrived"].as_str().and_then(|arrived| arrived.get(..10)).unwrap_or_default().to_owned(),
        if image["hosted"] == true { "hosted".to_owned() } else { fresh(image) },
        if image["pinned"] == true { "yes".to_owned() } else { String::new() },
    ]
}

fn fresh(image: &Value) -> String {
    if image["denied"] == true {
        return "denied".to_owned();
    }
    if image["imported"].is_object() {
        return "imported".to_owned();
    }
    let until = image["fresh_until"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    match until.map(|until| until > SystemTime::now()) {
        None => "always".to_owned(),
        Some(true) => "fresh".to_owned(),
        Some(false) => "stale".to_owned(),
    }
}

fn shown(image: &Value) -> String {
    let word = |key: &str| image[key].as_str().unwrap_or("-").to_owned();
    let mut text = format!("{}\n  digest {}\n", word("name"), word("digest"));
    text += &format!("  {} of {} are here", bytes(&image["here"]), bytes(&image["size"]));
    text += if image["complete"] == true { ": complete\n" } else { ": not complete\n" };
    text += &format!("  other images need {} of it too\n", bytes(&image["shared"]));
    text += &format!("  here since {}\n", word("arrived"));
    text += &match (image["hosted"] == true, image["imported"]["at"].as_str(), image["imported"]["by"].as_str()) {
        (true, ..) => "  hosted here\n".to_owned(),
        (false, Some(at), Some(by)) => format!("  imported {at} by {by}; upstream has not confirmed it since\n"),
        _ if image["denied"] == true => format!("  confirmed {}\n", word("checked_at")),
        _ => format!("  confirmed {}, {} until {}\n", word("checked_at"), fresh(image), word("fresh_until")),
    };
    if image["denied"] == true {
        text += "  denied: allow or deny of its upstream refuses it to clients\n";
    }
    text += &pulled(image);
    let platforms = entries(image, "platforms").iter().map(|platform| {
        let name = platform["platform"].as_str().unwrap_or("unknown").to_owned();
        let state =
            if platform["complete"] == true { "complete".to_owned() } else { bytes(&platform["here"]) + " here" };
        [format!("  {name}"), bytes(&platform["size"]), state]
    });
    let objects = entries(image, "objects").iter().map(|object| {
        let here = if object["here"] == true { "here" } else { "missing" };
        let shared = if object["shared"] == true { ", shared" } else { "" };
        let digest = object["digest"].as_str().unwrap_or_default();
        [format!("  {digest}"), bytes(&object["size"]), format!("{here}{shared}")]
    });
    text + &table(&platforms.chain(objects).collect::<Vec<_>>())
}

/// When and by whom it was pulled.
fn pulled(image: &Value) -> String {
    let Some(last) = image["last_pull"].as_str() else { return "  no pull of it is remembered\n".to_owned() };
    let times = match image["pulls"].as_u64() {
        Some(1) => "once".to_owned(),
        pulls => format!("{} times", pulls.unwrap_or_default()),
    };
    let clients: Vec<_> = entries(image, "pulled_by").iter().filter_map(|pull| pull["client"].as_str()).collect();
    format!("  pulled {times}, last {last}; lately by {}\n", clients.join(", "))
}

fn refreshed(answer: &Value) -> String {
    let word = |key: &str| answer[key].as_str().unwrap_or_default();
    let (name, digest) = (word("name"), word("digest"));
    match (answer["before"].as_str(), answer["platforms"].as_u64()) {
        (Some(before), _) if before == digest => format!("{name} is unchanged: {digest}\n"),
        (Some(before), Some(0)) => format!("{name} moved from {before} to {digest}\n"),
        (Some(before), platforms) => format!(
            "{name} moved from {before} to {digest}; fetched with {} of its platforms\n",
            platforms.unwrap_or_default()
        ),
        (None, _) => format!("{name} is new here: {digest}\n"),
    }
}

fn removed(purged: &Value, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let count = |key: &str| purged[key].as_u64().unwrap_or_default();
    if ["removed", "manifests", "blobs", "kept"].iter().all(|key| count(key) == 0) {
        return "nothing of it is cached\n".to_owned();
    }
    let counted =
        |key: &str, one: &str, many: &str| format!("{} {}", count(key), if count(key) == 1 { one } else { many });
    let mut text = format!(
        "{} {would}freed: {} and {}; {} {would}forgotten\n",
        bytes(&purged["freed"]),
        counted("manifests", "manifest", "manifests"),
        counted("blobs", "blob", "blobs"),
        counted("removed", "name", "names"),
    );
    let kept = |count: u64| format!("{count} {}", if count == 1 { "object stays" } else { "objects stay" });
    let (reading, held) = (count("reading"), count("kept").saturating_sub(count("reading")));
    if held > 0 {
        text += &format!("{}: hosted here, or the log says why\n", kept(held));
    }
    if reading > 0 {
        text += &format!("{} until the pulls end that read them\n", kept(reading));
    }
    text
}

fn pinned(answer: &Value) -> String {
    match answer["covered"].as_u64() {
        Some(0) => "nothing that is cached has this name or pattern yet\n".to_owned() + &pins(answer),
        _ => pins(answer),
    }
}

fn pins(answer: &Value) -> String {
    let rows: Vec<_> = entries(answer, "pins")
        .iter()
        .map(|pin| ["pattern", "by", "at", "reason"].map(|key| pin[key].as_str().unwrap_or_default().to_owned()))
        .collect();
    let share = format!("{} of {} are pinned\n", bytes(&answer["bytes"]), bytes(&answer["most_bytes"]));
    if rows.is_empty() { "nothing is pinned\n".to_owned() } else { table(&rows) + &share }
}

fn rules(answer: &Value) -> String {
    let patterns = |rule: &Value| {
        let patterns = rule["patterns"].as_array().map(Vec::as_slice).unwrap_or_default();
        patterns.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    let word = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    let row = |rule: &Value| {
        let refused = format!("{} refused", rule["refused"].as_u64().unwrap_or_default());
        [word(rule, "upstream"), word(rule, "rule"), patterns(rule), refused]
    };
    let rows: Vec<_> = entries(answer, "rules").iter().map(row).collect();
    if rows.is_empty() { "every repository is mirrored\n".to_owned() } else { table(&rows) }
}
