//! `[mirror]` and `[[mirror.tag]]`: how long an answer is fresh, what may be answered when upstream does not, and how much goes on
//! at once.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    oci::{Name, Tag, matches},
    setting::{ConfigError, Span, as_size, as_span},
    upstream::check_proxy,
};

/// How long answers are fresh, and how much is done at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long a tag is fresh (5 min); within it nothing touches the network.
    #[serde(with = "as_span")]
    pub tag_ttl: Duration,
    /// How long after that the cached answer goes out while it is revalidated (0).
    #[serde(with = "as_span")]
    pub stale_while_revalidate: Duration,
    /// How long after that the cached answer stands in for a failing upstream (7 days).
    #[serde(with = "as_span")]
    pub stale_if_error: Duration,
    /// How long a cached tag outlives upstream's 404 (0).
    #[serde(with = "as_span")]
    pub not_found_grace: Duration,
    /// How long a 404 of upstream is cached the first time (15 s); doubles to 5 min.
    #[serde(with = "as_span")]
    pub negative_ttl: Duration,
    /// How long a client waits for the HEAD of a cached tag before the stale answer goes out (10 s).
    #[serde(with = "as_span")]
    pub revalidate_timeout: Duration,
    /// How long tag lists and referrers are fresh (1 min).
    #[serde(with = "as_span")]
    pub listing_ttl: Duration,
    /// Blobs arriving at once (64).
    pub fills: usize,
    /// A fill that does not begin, or get a further 64 KiB, or end within this time is given up (2 min).
    #[serde(with = "as_span")]
    pub fill_timeout: Duration,
    /// A closed range of at most so many bytes, and at least so far ahead of the fill, is passed through (4 MiB) …
    #[serde(with = "as_size")]
    pub ahead_range: u64,
    /// … at most so many at once for one blob (4).
    pub ahead_ranges: usize,
    /// Entries of the negative cache (100,000, about 20 MiB).
    pub negative_entries: u64,
    /// Images that warms fetch at once (4).
    pub warm_images: usize,
    /// The share of the capacity of which one warm may displace what is cached (0.1).
    pub warm_displaces: f64,
    /// Whether the layers that are here are looked at, in the background (true).
    pub scan_layers: bool,
    /// The way out to upstreams that name none of their own; empty is as the environment says, `none` is directly.
    pub proxy: String,
    /// Exceptions to `tag_ttl`; the first match wins.
    pub tag: Vec<TagRule>,
}

/// The settings that are in force.
pub(super) type SharedSettings = Arc<ArcSwap<Settings>>;

/// One `[[mirror.tag]]`: tags that move seldom, or often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagRule {
    /// Over `registry/repository:tag`; `*` spans `/`, `[0-9]` is a class.
    pub pattern: String,
    /// How long such a tag is fresh.
    #[serde(with = "as_span")]
    pub ttl: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        let seconds = Duration::from_secs;
        Settings {
            tag_ttl: seconds(5 * 60),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: seconds(7 * 86_400),
            not_found_grace: Duration::ZERO,
            negative_ttl: seconds(15),
            revalidate_timeout: seconds(10),
            listing_ttl: seconds(60),
            fills: 64,
            fill_timeout: seconds(120),
            ahead_range: 4 << 20,
            ahead_ranges: 4,
            negative_entries: 100_000,
            warm_images: 4,
            warm_displaces: 0.1,
            scan_layers: true,
            proxy: String::new(),
            tag: Vec::new(),
        }
    }
}

impl Settings {
    /// What is in force after `fresh` was read while these are: the sizes of what was made at the start wait for a restart.
    pub fn reloaded(&self, fresh: &Settings) -> Settings {
        Settings {
            fills: self.fills,
            ahead_ranges: self.ahead_ranges,
            negative_entries: self.negative_entries,
            negative_ttl: self.negative_ttl,
            warm_images: self.warm_images,
            warm_displaces: self.warm_displaces,
            scan_layers: self.scan_layers,
            ..fresh.clone()
        }
    }

    /// Everything that is wrong with the table. The keys begin with `mirror`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if !(1..=256).contains(&self.fills) {
            let fix = "write 1 to 256: a fill may hold a thread that blocks on the disk, and there are 512 of those";
            errors.push(ConfigError::new("mirror.fills", self.fills, fix));
        }
        if self.fill_timeout < Duration::from_secs(30) {
            let fix = r#"write "30s" or more: upstream may take as long for a token and its first byte"#;
            errors.push(ConfigError::new("mirror.fill_timeout", Span(self.fill_timeout).to_string(), fix));
        }
        if self.revalidate_timeout.is_zero() || self.revalidate_timeout > Duration::from_secs(25) {
            let fix = r#"write "1s" to "25s": containerd gives up on a mirror that is silent for 30 s"#;
            errors.push(ConfigError::new("mirror.revalidate_timeout", Span(self.revalidate_timeout).to_string(), fix));
        }
        if !(1..=64).contains(&self.warm_images) {
            let fix = "write 1 to 64: each fetches one layer at a time, and clients need their share of mirror.fills";
            errors.push(ConfigError::new("mirror.warm_images", self.warm_images, fix));
        }
        if !(0.0..=1.0).contains(&self.warm_displaces) {
            let fix = "write a share of the capacity between 0 and 1, such as 0.1";
            errors.push(ConfigError::new("mirror.warm_displaces", self.warm_displaces, fix));
        }
        if let Err(fix) = check_proxy(&self.proxy) {
            errors.push(ConfigError::without_value("mirror.proxy", fix));
        }
        for (number, rule) in self.tag.iter().enumerate() {
            let tag = rule.pattern.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty());
            if !tag || rule.pattern.chars().any(char::is_whitespace) {
                let fix = r#"write registry/repository:tag, such as "docker.io/library/*:[0-9]*""#;
                errors.push(ConfigError::new(format!("mirror.tag[{number}].pattern"), &rule.pattern, fix));
            }
        }
        errors
    }

    /// How long a tag is fresh: as the first `[[mirror.tag]]` says that matches `upstream/repository:tag`, else `tag_ttl`.
    pub(super) fn ttl_of(&self, upstream: &str, name: &Name, tag: &Tag) -> Duration {
        if self.tag.is_empty() {
            return self.tag_ttl;
        }
        let subject = format!("{upstream}/{name}:{tag}");
        self.tag.iter().find(|rule| matches(&rule.pattern, &subject)).map_or(self.tag_ttl, |rule| rule.ttl)
    }
}
