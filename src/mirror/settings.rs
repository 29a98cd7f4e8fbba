//! The mirror's share of deploy.toml, `[mirror]` and `[[mirror.tag]]`.

use std::time::Duration;

/// How long answers are believed, and how much is done at once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A tag is fresh for so long (5 min); within it nothing touches the network.
    pub tag_ttl: Duration,
    /// Beyond that the old answer may go out while it is revalidated (0).
    pub stale_while_revalidate: Duration,
    /// A cached answer may stand in for a failing upstream for so long (7 days).
    pub stale_if_error: Duration,
    /// A cached tag outlives upstream's 404 for so long (0).
    pub not_found_grace: Duration,
    /// What upstream said does not exist is believed for so long (15 s), doubling to 5 min.
    pub negative_ttl: Duration,
    /// A cached tag's client waits for so long for upstream before the stale answer goes out (10 s).
    pub revalidate_timeout: Duration,
    /// `[[mirror.tag]]`: pattern over `upstream/repository:tag`, and its ttl; the first match wins.
    pub tags: Vec<(String, Duration)>,
    /// Tag lists and referrers are fresh for so long (1 min).
    pub listing_ttl: Duration,
    /// Blobs arriving at once (64).
    pub fills: usize,
    /// A closed range of at most so many bytes, and at least so far ahead of the fill, is passed through (4 MiB) …
    pub ahead_range: u64,
    /// … at most so many at once for one blob (4).
    pub ahead_ranges: usize,
    /// What is known to be absent: so many entries at most (100,000, about 20 MiB).
    pub negative_entries: u64,
}
