//! `[mirror]`: how long an answer is fresh, what may be answered when upstream does not, and how much goes on at once.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Size, Span};
use crate::mirror;

/// Freshness and bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// How long a tag is answered without asking upstream.
    pub tag_ttl: Span,
    /// How long after that the old answer is given while upstream is asked.
    pub stale_while_revalidate: Span,
    /// How long after that the old answer is given when upstream cannot be asked.
    pub stale_if_error: Span,
    /// How long a cached tag outlives upstream's 404.
    pub not_found_grace: Span,
    /// How long "no such thing" is remembered the first time; doubles to 5 min.
    pub negative_ttl: Span,
    /// How long a client waits for a HEAD upstream before it gets the stale answer.
    pub revalidate_timeout: Span,
    /// Freshness of tag lists and referrers.
    pub listing_ttl: Span,
    /// Cold blobs fetched at once.
    pub fills: usize,
    /// The longest closed range far ahead of a fill that is passed through.
    pub ahead_range: Size,
    /// How many of those at once per fill.
    pub ahead_ranges: usize,
    /// Entries of the negative cache.
    pub negative_entries: u64,
    /// Exceptions to `tag_ttl`.
    pub tag: Vec<TagRule>,
}

/// One `[[mirror.tag]]`: tags that move seldom, or often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagRule {
    /// Over `registry/repository:tag`; `*` spans `/`, `[0-9]` is a class.
    pub pattern: String,
    /// How long such a tag is fresh.
    pub ttl: Span,
}

impl Default for Mirror {
    fn default() -> Mirror {
        Mirror {
            tag_ttl: Span::seconds(5 * 60),
            stale_while_revalidate: Span::seconds(0),
            stale_if_error: Span::seconds(7 * 86_400),
            not_found_grace: Span::seconds(0),
            negative_ttl: Span::seconds(15),
            revalidate_timeout: Span::seconds(10),
            listing_ttl: Span::seconds(60),
            fills: 64,
            ahead_range: Size::mib(4),
            ahead_ranges: 4,
            negative_entries: 100_000,
            tag: Vec::new(),
        }
    }
}

impl Mirror {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if !(1..=256).contains(&self.fills) {
            errors.push(ConfigError::new(
                "mirror.fills",
                self.fills,
                "write 1 to 256: a fill may hold a thread that blocks on the disk, and there are 512 of those",
            ));
        }
        if self.revalidate_timeout.0.is_zero() || self.revalidate_timeout > Span::seconds(25) {
            errors.push(ConfigError::new(
                "mirror.revalidate_timeout",
                self.revalidate_timeout.to_string(),
                r#"write "1s" to "25s": containerd gives up on a mirror that is silent for 30 s"#,
            ));
        }
        for (number, rule) in self.tag.iter().enumerate() {
            let tag = rule.pattern.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty());
            if !tag || rule.pattern.chars().any(char::is_whitespace) {
                errors.push(ConfigError::new(
                    format!("mirror.tag[{number}].pattern"),
                    &rule.pattern,
                    r#"write registry/repository:tag, such as "docker.io/library/*:[0-9]*""#,
                ));
            }
        }
    }

    pub(super) fn settings(&self) -> mirror::Settings {
        mirror::Settings {
            tag_ttl: self.tag_ttl.0,
            stale_while_revalidate: self.stale_while_revalidate.0,
            stale_if_error: self.stale_if_error.0,
            not_found_grace: self.not_found_grace.0,
            negative_ttl: self.negative_ttl.0,
            revalidate_timeout: self.revalidate_timeout.0,
            tags: self.tag.iter().map(|rule| (rule.pattern.clone(), rule.ttl.0)).collect(),
            listing_ttl: self.listing_ttl.0,
            fills: self.fills,
            ahead_range: self.ahead_range.0,
            ahead_ranges: self.ahead_ranges,
            negative_entries: self.negative_entries,
        }
    }
}
